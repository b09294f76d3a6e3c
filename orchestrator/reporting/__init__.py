"""Reports, figures and pictures of an experiment."""
