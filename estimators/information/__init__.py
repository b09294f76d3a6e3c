"""Mutual information of trajectories: samples, estimators, significance and twins."""
