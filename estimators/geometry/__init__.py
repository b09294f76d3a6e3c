"""Camera motion and depth: what moves a point in the image other than its own motion."""
