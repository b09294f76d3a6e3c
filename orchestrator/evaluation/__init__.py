"""Labelled images and the probes that measure frozen features on them."""
