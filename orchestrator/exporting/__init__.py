"""Trained backbones in formats that load without infoaug."""
