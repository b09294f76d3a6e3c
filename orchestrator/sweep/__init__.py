"""A sweep: many experiments that differ in what is varied, side by side on Ray Tune."""
