"""From video to numbers: clips, trajectories, camera motion, mutual information, twins. Plain NumPy, no Ray."""
