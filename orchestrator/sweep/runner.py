"""Run a sweep: its trials on Ray Tune, each with a training on workers of its own, tracked and compared.

A trial is an experiment whose outputs lie in the store, so resuming needs nothing of Tune's own state. A sweep that is
started again finds the complete trials in the store and gives Tune the others. An interrupted training resumes from its
last checkpoint.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from ray import tune

from infoaug.orchestrator.comparison.arms import TrialResult
from infoaug.orchestrator.errors import StageError, worth_retrying
from infoaug.orchestrator.runtime import cluster, interruption, listings, mlflow_client, mlflow_runs, tensorboard
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score
from infoaug.orchestrator.sweep import search, trials, worker
from infoaug.orchestrator.sweep.checks import check
from infoaug.orchestrator.sweep.compared import Compared, compare, folder, outcome_of
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.progress import SweepProgress
from infoaug.orchestrator.sweep.tracking import Tracked
from infoaug.orchestrator.sweep.trials import Trial

# A trial only waits for its training. It waits on the head node, since any other node may be preempted.
DRIVER = {"node:__internal_head__": 0.001}
STATE = "state.json"
# Seconds to wait for an unreachable MLflow server at the end of the sweep, and after a failure.
PATIENCE, HASTE = 180.0, 20.0

_log = logging.getLogger(__name__)


@dataclass
class State:
    """What the outputs of a sweep's trials do not show.

    Attributes:
        begun: the points of the trials that were started, in order.
        stopped: after which epoch the scheduler stopped a trial, by its name.
    """

    begun: list[trials.Point] = field(default_factory=list)
    stopped: dict[str, int] = field(default_factory=dict)


def run(config: SweepConfig, resume: bool = True) -> Compared:
    """Run all trials of a sweep that are not complete, and compare the trials.

    Args:
        config: the sweep.
        resume: False trains every trial from scratch.

    Raises:
        UsageError: the config cannot be carried out, or another command works on it; nothing was started.
        StageError: a stage or some trials failed, or MLflow was unreachable. What is complete stays in the store, and
            the same command continues from there.
    """
    with listings.kept():
        planned = trials.planned(config)
        check(config, planned)
        store = Store(config.store)
        mlflow_client.connect(mlflow_client.uri_of(config.tracking))  # which is refused before anything is written
        tensorboard.check(config.tracking.tensorboard)
        with store.hold(folder(config), f"the sweep '{config.name}' in the store {store.uri}"):
            return _run(config, planned, resume)


def _run(config: SweepConfig, planned: Sequence[Trial], resume: bool) -> Compared:
    """`run`, once it is checked and no other command works on the same sweep."""
    tracked: Tracked | None = None
    status: str = "FAILED"
    files: Mapping[str, bytes] = {}
    try:
        with interruption.held():  # or a run that was just created would stay RUNNING
            tracked = Tracked(config)
        _log.info("%s: %d planned trials, MLflow run %s", folder(config), len(planned), tracked.parent.id)
        _log.debug("the config:\n%s", config.to_yaml())
        tracked.describe()
        with cluster.session(config.ray):
            cluster.connect(config.ray)
            sweep_runner = SweepRunner(config, tracked)
            sweep_runner.prepare(planned, resume)
            sweep_runner.run()
        compared = sweep_runner.compared()
        status, files = "FAILED" if sweep_runner.progress.failed else "FINISHED", compared.files
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # After a failure, an error of MLflow must not hide the error that came first.
        with interruption.held(), nullcontext() if files else suppress(StageError):
            if tracked:
                tracked.finish(status, files, PATIENCE if files else HASTE)
        _log.info("%s: %s", folder(config), status)
    if sweep_runner.progress.failed:
        raise sweep_runner.failure()
    return compared


class SweepRunner:
    """Runs a sweep.

    Attributes:
        outcomes: results of the complete trials, by name.
        folder: of the sweep's state and comparison, relative to the store.
        progress: what the user sees.
    """

    def __init__(self, config: SweepConfig, tracked: Tracked) -> None:
        self.config, self.tracked, self.store = config, tracked, Store(config.store)
        self.folder = folder(config)
        self.outcomes: dict[str, TrialResult] = {}
        self.state = State()
        if self.store.exists(f"{self.folder}/{STATE}"):
            self.state = State(**self.store.read_json(f"{self.folder}/{STATE}"))
        self.progress = SweepProgress(config.name)
        self._extracted: dict[str, extract.Extracted] = {}
        self._scored: dict[str, score.Scored] = {}
        self._todo: list[Trial] = []
        self._retry = False  # whether a failed trial may succeed when the sweep is started again

    def prepare(self, planned: Sequence[Trial], resume: bool) -> None:
        """Extract and score the clips, once for all trials that share them, and find the complete trials."""
        for trial in planned or [trials.example(self.config)]:
            self._score(trial)
        # An adaptive search plans nothing ahead: its trials are those that an earlier command started.
        wanted = [self._budgeted(trial) for trial in planned or [self._made(p) for p in self.state.begun]]
        if not resume:
            self.state = State()
        for trial in wanted:
            if not resume:
                self._forget(trial)
            self._expect(trial)
            result = outcome_of(trial, self._score(trial))
            self.progress.add(trial)
            if result:
                self._finished(trial, result)
            elif trial.name in self.state.stopped:
                self._stopped(trial, self.state.stopped[trial.name])
            else:
                self._todo.append(trial)
        self.progress.planned = max(self.progress.planned, self.config.sweep.samples if not planned else 0)

    def run(self) -> None:
        """Run the trials that are not complete. A trial that fails does not stop the others."""
        left = len(self._todo) if self.config.sweep.search != "optuna" else self.progress.planned - self.progress.ended
        _log.info("%d trials to run, %d complete or stopped", left, self.progress.ended)
        if not left:
            return
        events = _TrialEvents(Queue())
        tuner = self._tuner(events, left)
        outcome = cluster.in_background(tuner.fit)
        try:
            with self.progress:
                for kind, point, details in _until(outcome, events.queue):
                    self._on_event(kind, self._budgeted(self._made(json.loads(point))), details)
        finally:
            events.over = True
        outcome.result()

    def compared(self) -> Compared:
        """Compare the complete trials, and write the comparison to the store."""
        stopped = {name: f"stopped early, after epoch {epoch}" for name, epoch in self.state.stopped.items()}
        target = Store(self.store.url(self.folder))
        outcomes, progress = [*self.outcomes.values()], self.progress
        commit = mlflow_runs.commit()
        return compare(self.config, outcomes, progress.failed, stopped, progress.planned, target, commit)

    def failure(self) -> StageError:
        """The error of a sweep in which trials failed."""
        failed, where = self.progress.failed, self.store.url(self.folder)
        name, why = next(iter(failed.items()))
        advice = (
            "run the same command again for the rest" if self._retry else "running the same command again will not help"
        )
        return StageError(
            f"{len(failed)} of {self.progress.planned} trials failed, first {name}: {why}; the others are kept "
            f"and compared in {where}, {advice}",
            retry=self._retry,
        )

    def _tuner(self, events: tune.Callback, left: int) -> tune.Tuner:
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # an epoch without validation has no accuracy
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # `progress` shows the trials instead
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        settings = self.config.sweep
        self.store.delete(f"{self.folder}/tune")
        return tune.Tuner(
            tune.with_resources(tune.with_parameters(worker.work, config=self.config), DRIVER),
            param_space=search.space(self.config, self._todo),
            tune_config=tune.TuneConfig(
                search_alg=search.searcher(self.config, self._todo, self._known()),
                scheduler=search.scheduler(self.config),
                num_samples=left if settings.search == "optuna" else 1,
                max_concurrent_trials=settings.concurrent or _room(self.config),
                # The next trial reuses the process of the last one, unless a scheduler may have stopped that midway.
                reuse_actors=settings.scheduler == "none",
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=self.store.url(self.folder), callbacks=[events], verbose=0
            ),
        )

    def _on_event(self, kind: str, trial: Trial, details: dict[str, Any]) -> None:
        if kind == "begun":
            _log.info("trial %s: started", trial.name)
            self.state.begun += [trial.point] if trial.point not in self.state.begun else []
            self._write_state()
            self.progress.begin(trial)
            self._expect(trial)  # one that an adaptive search has chosen
            self.tracked.begin(trial)
        elif kind == "result" and "metrics" in details:
            self.progress.epoch(trial, details["metrics"])
            self.tracked.epochs(trial, [details["metrics"]])
        elif kind == "failed":
            _log.error("trial %s failed: %s\n%s", trial.name, details["why"], details["traceback"])
            self._retry |= details["retry"]
            self.progress.fail(trial, details["why"])
            self.tracked.end(trial, "FAILED", why=details["why"])
        elif kind == "ended":
            result = outcome_of(trial, self._score(trial))
            if result:
                _log.info("trial %s: complete", trial.name)
                self._finished(trial, result)
            else:
                self.state.stopped[trial.name] = int(details.get("epoch", 0))
                self._write_state()
                self._stopped(trial, self.state.stopped[trial.name])

    def _finished(self, trial: Trial, result: TrialResult) -> None:
        self.outcomes[trial.name] = result
        self.progress.finish(trial, result)
        self.tracked.epochs(trial, pretrain.load(trial.config, self._score(trial)).history)
        self.tracked.end(trial, "FINISHED", result)

    def _stopped(self, trial: Trial, epoch: int) -> None:
        _log.info("trial %s: stopped early, after epoch %d", trial.name, epoch)
        self.progress.stop(trial, epoch)
        self.tracked.end(trial, "FINISHED", why=f"stopped early, after epoch {epoch}")

    def _known(self) -> dict[str, float | None]:
        """What an adaptive search knows from earlier commands: accuracies by points as JSON, None if stopped early."""
        known: dict[str, float | None] = {}
        for point in self.state.begun:
            name = self._budgeted(self._made(point)).name
            if name in self.outcomes:
                known[json.dumps(point)] = next(iter(self.outcomes[name].results.values()))[self.config.sweep.metric]
            elif name in self.state.stopped:
                known[json.dumps(point)] = None
        return known

    def _made(self, point: trials.Point) -> Trial:
        return trials.make(self.config, point)

    def _budgeted(self, trial: Trial) -> Trial:
        return trials.budgeted(trial, self.config, self._score(trial).share_with_twin)

    def _score(self, trial: Trial) -> score.Scored:
        """The scored patches that a trial trains on. They are computed once for all trials that share them."""
        of, key = trial.extraction, trial.scoring
        if key not in self._scored:
            if of not in self._extracted:
                self._extracted[of] = extract.run(trial.config, self.store)
            self._scored[key] = score.run(trial.config, self._extracted[of])
        return self._scored[key].for_training(trial.config)

    def _expect(self, trial: Trial) -> None:
        """Say which model the trial is of, so that epochs of earlier data or code are not taken for its own."""
        model = pretrain.stage(trial.config, self._score(trial))
        self.tracked.expect(trial, model.hash, anew=not pretrain.begun(model))

    def _forget(self, trial: Trial) -> None:
        """Delete a trial's model and accuracies."""
        model = pretrain.stage(trial.config, self._score(trial))
        evaluate.delete(trial.config, model)
        self.store.delete(model.folder)

    def _write_state(self) -> None:
        self.store.write_json(f"{self.folder}/{STATE}", {"begun": self.state.begun, "stopped": self.state.stopped})


class _TrialEvents(tune.Callback):
    """Puts the events of trials into a queue, so that handling them does not delay Tune.

    Attributes:
        queue: (kind, the trial's point as JSON, details) of each event.
        over: set to True to end Tune and all its trials.
    """

    def __init__(self, queue: Queue[tuple[str, str, dict[str, Any]]]) -> None:
        self.queue, self.over = queue, False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its callbacks with its own state, which is never read."""
        return {}

    def __deepcopy__(self, memo: Any) -> "_TrialEvents":
        return self

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.over:
            raise tune.TuneError("the sweep is over")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._put("begun", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._put("result", trial, **result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._put("ended", trial, **(trial.last_result or {}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        details = {name: last[name] for name in ("why", "retry", "traceback") if name in last}
        self._put("failed", trial, **(details or _death(trial.error_file)))

    def _put(self, kind: str, trial: Any, **details: Any) -> None:
        point = trial.config["point"]
        self.queue.put((kind, point if isinstance(point, str) else json.dumps(point), details))


def _death(error_file: str | None) -> dict[str, Any]:
    """Why a trial failed that could not report it, by the file in which Tune keeps its error."""
    path = Path(error_file) if error_file else None
    trace = path.read_text(errors="replace") if path and path.exists() else ""
    last = next((line.strip() for line in reversed(trace.splitlines()) if line.strip()), "its cause is unknown")
    why = f"its process died ({last.partition('. ')[0]})"
    return {"why": why, "retry": worth_retrying(last), "traceback": trace}


def _until(outcome: Future[Any], events: Queue[Any]) -> Iterator[Any]:
    """Events as they come, until Tune has ended and the queue is empty."""
    while True:
        ended = outcome.done()
        try:
            yield events.get(timeout=0.5)
        except Empty:
            if ended:
                return


def _room(config: SweepConfig) -> int:
    """How many trials the cluster has room for at the same time."""
    settings = config.pretrain
    each, gpu = cluster.per_worker(settings.workers, settings.cpus_per_worker, settings.gpu)
    room = cluster.cpus() // (each * settings.workers)
    return max(1, min(room, cluster.gpus() // settings.workers) if gpu else room)
