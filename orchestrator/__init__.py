"""What runs where, and in which order: stages on Ray, results in MLflow, one command `infoaug`."""

import os

# Before Ray and MLflow are imported, and inherited by the workers. Nobody is told that you use this.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Stages draw their own progress; relative paths stay relative to where the user stands.
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# An epoch is seen, and its checkpoint safe, within this many seconds (Ray's own default is 2).
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# A training and its watchers are more processes than this machine has CPUs: that is as it should be.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*PYTHON worker processes have been started on node")
# A worker that runs out of memory is started again so often, ever later; Ray would do so for ever.
os.environ.setdefault("RAY_task_oom_retries", "3")
# What is left of a sweep when Ray is shut down must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
