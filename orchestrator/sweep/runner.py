"""Running a sweep: its trials on Ray Tune, each a training on Ray Train, tracked and compared.

What a trial is does not depend on Tune: it is an experiment whose stages lie on the store. So a sweep that is started
again looks there for what is done, and hands Tune the rest; a training that was interrupted goes on from its last
checkpoint. Nothing of Tune's own state is needed for that, and none is read.
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
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import cluster, mlflow_runs
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score
from infoaug.orchestrator.sweep import search, trials, worker
from infoaug.orchestrator.sweep.compared import Compared, compare, folder, outcome_of
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.progress import SweepProgress
from infoaug.orchestrator.sweep.tracking import Tracked
from infoaug.orchestrator.sweep.trials import Trial

# A trial waits for its workers where the sweep was started: a node that comes and goes would take it along.
DRIVER = {"node:__internal_head__": 0.001}
STATE = "state.json"
PATIENCE, HASTE = 180.0, 20.0  # seconds that a server may be away when the sweep ends, and when it ends badly


@dataclass
class State:
    """What the store does not say of a sweep's trials: which were begun, and which a scheduler has stopped.

    Attributes:
        begun: points, in order.
        stopped: by the trial's name, after which epoch.
    """

    begun: list[trials.Point] = field(default_factory=list)
    stopped: dict[str, int] = field(default_factory=dict)


def run(config: SweepConfig, resume: bool = True) -> Compared:
    """Run all trials of a sweep that are not there yet, and compare them.

    Args:
        config: the sweep.
        resume: False trains anew what is there.

    Raises:
        UsageError: the config cannot be carried out; nothing was started.
        StageError: a stage or some trials failed, or MLflow was away; what is complete stays, and the same command
            goes on from there.
    """
    planned = trials.planned(config)
    check(config, planned)
    tracked = Tracked(config)
    status: str = "FAILED"
    files: Mapping[str, bytes] = {}
    try:
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
        # What went wrong first is what the user must hear of.
        with nullcontext() if files else suppress(StageError):
            tracked.finish(status, files, PATIENCE if files else HASTE)
    if sweep_runner.progress.failed:
        failed, planned_count = sweep_runner.progress.failed, sweep_runner.progress.planned
        name, why = next(iter(failed.items()))
        raise StageError(
            f"{len(failed)} of {planned_count} trials failed, first {name}: {why}; the others are kept "
            f"and compared in {sweep_runner.store.url(sweep_runner.folder)}, run the same command again for the rest"
        )
    return compared


def check(config: SweepConfig, planned: Sequence[Trial], data: bool = True) -> None:
    """Find out before anything is started whether all trials can be built, and all data is there.

    Args:
        config: the sweep.
        planned: its trials.
        data: False if it does not matter whether the data is there.

    Raises:
        UsageError: of the first trial that cannot.
    """
    seen = set()
    for trial in planned or [search.example(config)]:
        inputs = trial.config.model_dump_json(include={"clips", "scenes"})
        if data and inputs not in seen:
            extract.count(trial.config)
        wanted = trial.config.evaluate.model_dump_json()
        if data and wanted not in seen:
            evaluate.check(trial.config)
        if trial.model not in seen:
            pretrain.check(trial.config)
        seen |= {inputs, wanted, trial.model}


class SweepRunner:
    """A sweep while it runs.

    Attributes:
        outcomes: of the trials that have come to their end, by name.
        folder: of what is told of the sweep, relative to the store.
    """

    def __init__(self, config: SweepConfig, tracked: Tracked) -> None:
        self.config, self.tracked, self.store = config, tracked, Store(config.store)
        self.folder = folder(config)
        self.outcomes: dict[str, TrialResult] = {}
        self.state = State()
        if self.store.exists(f"{self.folder}/{STATE}"):
            self.state = State(**self.store.read_json(f"{self.folder}/{STATE}"))
        self.progress = SweepProgress(config.name)
        self._scored: dict[str, score.Scored] = {}
        self._todo: list[Trial] = []

    def prepare(self, planned: Sequence[Trial], resume: bool) -> None:
        """Extract and score what the trials train on, once for all that share it, and find out which are done."""
        for trial in planned or [search.example(self.config)]:
            self._score(trial)
        wanted = [self._budgeted(trial) for trial in planned or [self._made(p) for p in self.state.begun]]
        if not resume:
            self.state = State()
        for trial in wanted:
            if not resume:
                self._forget(trial)
            found = outcome_of(trial, self.store)
            self.progress.add(trial)
            if found:
                self._finished(trial, found)
            elif trial.name in self.state.stopped:
                self._stopped(trial, self.state.stopped[trial.name])
            else:
                self._todo.append(trial)
        self.progress.planned = max(self.progress.planned, self.config.sweep.samples if not planned else 0)

    def run(self) -> None:
        """Run the trials that are not done; those that fail are told of, and do not stop the others."""
        left = len(self._todo) if self.config.sweep.search != "optuna" else self.progress.planned - self.progress.ended
        if not left:
            return
        tell = _Tell(Queue())
        tuner = self._tuner(tell, left)
        outcome = cluster.in_background(tuner.fit)
        try:
            with self.progress:
                for kind, point, told in _until(outcome, tell.events):
                    self._seen(kind, self._budgeted(self._made(json.loads(point))), told)
        finally:
            tell.over = True
        outcome.result()

    def compared(self) -> Compared:
        """Compare what has come to its end, and keep that on the store."""
        stopped = {name: f"stopped early, after epoch {epoch}" for name, epoch in self.state.stopped.items()}
        place = Store(self.store.url(self.folder))
        told = [*self.outcomes.values()], self.progress.failed, stopped, self.progress.planned
        return compare(self.config, *told, place, mlflow_runs.commit())

    def _tuner(self, tell: tune.Callback, left: int) -> tune.Tuner:
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # an epoch without validation has no accuracy
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the board tells what there is to tell
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
                # The next trial takes over the process of the last, unless that may have been stopped on its way.
                reuse_actors=settings.scheduler == "none",
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=self.store.url(self.folder), callbacks=[tell], verbose=0
            ),
        )

    def _seen(self, kind: str, trial: Trial, told: dict[str, Any]) -> None:
        if kind == "begun":
            self.state.begun += [trial.point] if trial.point not in self.state.begun else []
            self._write_state()
            self.progress.begin(trial)
            self.tracked.begin(trial)
        elif kind == "result" and "metrics" in told:
            self.progress.epoch(trial, told["metrics"])
            self.tracked.epochs(trial, [told["metrics"]])
        elif kind == "failed":
            self.progress.fail(trial, told["why"])
            self.tracked.end(trial, "FAILED", why=told["why"])
        elif kind == "ended":
            found = outcome_of(trial, self.store)
            if found:
                self._finished(trial, found)
            else:
                self.state.stopped[trial.name] = int(told.get("epoch", 0))
                self._write_state()
                self._stopped(trial, self.state.stopped[trial.name])

    def _finished(self, trial: Trial, found: TrialResult) -> None:
        self.outcomes[trial.name] = found
        self.progress.finish(trial, found)
        self.tracked.epochs(trial, pretrain.load(trial.config, self.store).history)
        self.tracked.end(trial, "FINISHED", found)

    def _stopped(self, trial: Trial, epoch: int) -> None:
        self.progress.stop(trial, epoch)
        self.tracked.end(trial, "FINISHED", why=f"stopped early, after epoch {epoch}")

    def _known(self) -> dict[str, float | None]:
        """What an adaptive search has to go by: accuracies by the trials' points as JSON, None of those stopped."""
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
        """The scored patches that a trial trains on, computed where they are not there."""
        inputs, but = {"clips", "scenes", "extract", "score"}, {"score": {"policy"}}
        key = trial.config.model_dump_json(include=inputs, exclude=but)  # the policies share one scoring
        if key not in self._scored:
            self._scored[key] = score.run(trial.config, extract.run(trial.config, self.store))
        return self._scored[key]

    def _forget(self, trial: Trial) -> None:
        place = pretrain.stage(trial.config, score.load(trial.config, self.store))
        for stage in (evaluate.stage(trial.config, place), place):
            self.store.delete(stage.folder)

    def _write_state(self) -> None:
        self.store.write_json(f"{self.folder}/{STATE}", {"begun": self.state.begun, "stopped": self.state.stopped})


class _Tell(tune.Callback):
    """Puts what happens to trials into a queue: what is done about it must not keep Tune waiting.

    Attributes:
        events: what happened, of the trial with which point as JSON, and what was told of it.
        over: set to True, it ends Tune, trials and all: nobody listens any more.
    """

    def __init__(self, events: Queue[tuple[str, str, dict[str, Any]]]) -> None:
        self.events, self.over = events, False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps its callbacks with its own state, which is not read."""
        return {}

    def __deepcopy__(self, memo: Any) -> "_Tell":
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
        why = (trial.last_result or {}).get("why")
        self._put("failed", trial, why=why or f"its process died ({_last_line(trial.error_file)})")

    def _put(self, kind: str, trial: Any, **told: Any) -> None:
        point = trial.config["point"]
        self.events.put((kind, point if isinstance(point, str) else json.dumps(point), told))


def _last_line(path: str | None) -> str:
    """What Tune wrote last of a trial's end."""
    lines = Path(path).read_text(errors="replace").split("\n") if path and Path(path).exists() else []
    return next((line.strip().partition(". ")[0] for line in reversed(lines) if line.strip()), "nothing is known")


def _until(outcome: Future[Any], events: Queue[Any]) -> Iterator[Any]:
    """Events as they come, until Tune has ended and none is left."""
    while True:
        ended = outcome.done()
        try:
            yield events.get(timeout=0.5)
        except Empty:
            if ended:
                return


def _room(config: SweepConfig) -> int:
    """How many trials the cluster has room for at once."""
    settings = config.pretrain
    each, gpu = cluster.share(settings.workers, settings.cpus_per_worker, settings.gpu)
    room = cluster.cpus() // (each * settings.workers)
    return max(1, min(room, cluster.gpus() // settings.workers) if gpu else room)
