"""What the stages run on: the Ray cluster, the store, MLflow and the console."""
