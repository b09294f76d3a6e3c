"""Trackers of points, one file each, all called through `estimators.tracks.track`."""
