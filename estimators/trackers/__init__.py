"""Trackers of points, one file each, all called through `infoaug.estimators.trackers.tracks.track`."""
