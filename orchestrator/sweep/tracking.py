"""A sweep in MLflow: a run for the sweep, and a child run for each trial, written by the process that runs the sweep.

A thread writes in order, so trials never wait for MLflow. While the server is unreachable it tries again, so no metric
is lost. A write that fails for another reason is skipped and reported at the end. Workers need no MLflow. What the
machine is busy with is that of this process's machine too.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from queue import Queue
from typing import Any

from infoaug.orchestrator import experiment
from infoaug.orchestrator.comparison.arms import TrialResult
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import masked
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.compared import FOLDER, RESULT
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

PAUSE = 2.0  # seconds between tries

_log = logging.getLogger(__name__)


class Tracked:
    """The MLflow runs of a sweep. If the same sweep ran before, its runs are continued.

    Raises:
        UsageError: as `mlflow_runs.Run`.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        tags = {"infoaug.kind": "sweep", "infoaug.created": str(time.time())}
        self.parent = mlflow_runs.Run(config, key=trials.identity(config), tags=tags)
        self._children: dict[str, mlflow_runs.Run] = {}
        self._watched: dict[str, ExitStack] = {}  # trials for which the machine is watched, and how to end that
        self._models: dict[str, tuple[str, bool]] = {}
        self._todo: Queue[Callable[[], Any] | None] = Queue()
        self._failed: Exception | None = None  # the error of the write that is being tried again
        self._lost: Exception | None = None  # the error of the first write that was skipped
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def describe(self) -> None:
        """Log the config and the data."""
        self.parent.files({"config.yaml": self.config.to_yaml().encode()})
        self.parent.sources(experiment.sources(self.config))

    def expect(self, trial: Trial, model: str, anew: bool) -> None:
        """The trial is, or will be, of this model; see `mlflow_runs.Run.of_model`. Said before all else of a trial."""
        self._models.setdefault(trial.name, (model, anew))

    def begin(self, trial: Trial) -> None:
        """The trial has started. Until it ends, what the machine is busy with is logged to its run."""

        def write() -> None:
            run = self._child(trial)
            if trial.name not in self._watched:
                self._watched[trial.name] = watched = ExitStack()
                watched.enter_context(run.system_metrics())

        self._todo.put(write)

    def epochs(self, trial: Trial, history: Sequence[Mapping[str, float]]) -> None:
        """The trial has trained these epochs; those that are logged already are skipped."""
        self._todo.put(lambda: self._child(trial).epochs(history))

    def end(self, trial: Trial, status: str, outcome: TrialResult | None = None, why: str = "") -> None:
        """The trial has ended: FINISHED with its result, or stopped early and why; or FAILED and why."""

        def write() -> None:
            self._watched.pop(trial.name, ExitStack()).close()
            run = self._child(trial)
            if outcome:
                run.results([{"dataset": name, **result} for name, result in outcome.results.items()])
                run.metrics({"pretrain/seconds": outcome.seconds, "pretrain/passes": outcome.passes})
                run.files({RESULT: json.dumps(asdict(outcome)).encode()})
            run.finish(status, why)
            del self._children[trial.name]

        self._todo.put(write)

    def finish(self, status: str, files: Mapping[str, bytes], patience: float) -> None:
        """Close the sweep's run and all open runs of trials.

        Args:
            status: of the sweep's run.
            files: the comparison.
            patience: seconds to wait for an unreachable server.

        Raises:
            StageError: MLflow was unreachable for longer, and running the same sweep again writes the rest; or a write
                was skipped.
        """

        def write() -> None:
            while self._watched:
                self._watched.popitem()[1].close()
            self.parent.files(files, FOLDER)
            for run in self._children.values():
                run.finish("KILLED")
            self.parent.close()
            self.parent.finish(status)

        self._todo.put(write)
        self._todo.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            why = self._failed if self._failed else "MLflow is slow"
            again = "" if isinstance(why, StageError) else "; run the same command again to have the rest written"
            raise StageError(f"{why}{again}")
        if self._lost:
            raise StageError(f"MLflow does not have all of the sweep: {type(self._lost).__name__}, {self._lost}")

    def _child(self, trial: Trial) -> mlflow_runs.Run:
        if trial.name not in self._children:
            tags = {
                "infoaug.kind": "trial",
                "negatives": trial.negatives,
                "infoaug.point": json.dumps(masked(trial.point)),
            }
            run = mlflow_runs.Run(trial.config, name=trial.name, tags=tags, parent=self.parent)
            if trial.name in self._models:
                model, anew = self._models[trial.name]
                run.of_model(model, anew)
                self._models[trial.name] = model, False
            run.sources(experiment.sources(trial.config))
            self._children[trial.name] = run
        return self._children[trial.name]

    def _write(self) -> None:
        while (work := self._todo.get()) is not None:
            while True:
                try:
                    work()
                except (StageError, UsageError, OSError) as error:
                    if not self._failed:  # once, not with every try
                        _log.warning("MLflow cannot be written to, trying again every %g s: %s", PAUSE, error)
                    self._failed = error
                    time.sleep(PAUSE)
                    continue
                except Exception as error:
                    _log.exception("a write to MLflow is skipped")
                    self._lost = self._lost or error
                self._failed = None
                break
