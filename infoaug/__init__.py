"""Visual features from video, with positive pairs chosen by the mutual information of trajectories."""
