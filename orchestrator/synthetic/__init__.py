"""Rendered scenes with known coupling, and labelled images of their textures."""
