"""The pipeline: its stages on Ray, its results in MLflow, and the command `infoaug`."""

import getpass
import os
import tempfile
from pathlib import Path

# These are set before Ray and MLflow are imported, and workers inherit them. No telemetry:
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Stages show their own progress, and relative paths are relative to the user's working directory.
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Seconds until an epoch is reported and its checkpoint is registered (Ray's default is 2).
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# A training and its controllers are more processes than the machine has CPUs. Ray need not warn of it.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*PYTHON worker processes have been started on node")
# How often Ray restarts a task that ran out of memory, with growing delays; by default without end.
os.environ.setdefault("RAY_task_oom_retries", "3")
# After Ray was shut down, a leftover thread of a sweep must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# A busy machine gets more time to start Ray: its dashboard (Ray's default is 60 s) and a worker's raylet (10 s).
os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "120")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "60")
# A container may run as a user without a name and without a home: Ray, MLflow and PyTorch ask for both.
try:
    getpass.getuser()
except (KeyError, OSError, ImportError):  # which of them depends on Python's version
    os.environ["USER"] = f"uid-{os.getuid()}"
try:
    Path.home()
except RuntimeError:
    os.environ["HOME"] = tempfile.gettempdir()
