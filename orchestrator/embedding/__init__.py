"""Features of images and clips by the backbone of a run."""
