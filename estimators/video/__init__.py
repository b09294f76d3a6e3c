"""Clips: which files are one, how frames are decoded, where shots begin, and the patches of a frame."""
