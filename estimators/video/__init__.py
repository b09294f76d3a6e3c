"""Clips: finding them, decoding frames, detecting shots, and cutting frames into patches."""
