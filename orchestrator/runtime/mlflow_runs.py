"""MLflow: one run an experiment, found again by what the experiment is; for a sweep, a run with one a trial below it.

Nothing else talks to MLflow.
"""

import getpass
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, TrackingConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.mlflow_client import (
    all_runs,
    connect,
    connect_to_look,
    experiment_of,
    file_of,
    first_line,
    runs_called,
    upload,
    uri_of,
)
from infoaug.orchestrator.runtime.store import digest_of

P = ParamSpec("P")
T = TypeVar("T")

COMMIT = "mlflow.source.git.commit"  # a tag
ENDED = "infoaug.ended"  # a tag: why a run ended as it did
NOT_LOGGED = ("epoch", "seconds")  # of an epoch: the step of its metrics, and what images_per_second says


def identity(config: ExperimentConfig) -> str:
    """Digest of all that an experiment is; the same config started again is the same run."""
    return digest_of(config.model_dump(mode="json", exclude=RUNTIME))


def _told(method: Callable[P, T]) -> Callable[P, T]:
    """Turn what MLflow raises in the middle of a run into a sentence."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except MlflowException as error:
            raise StageError(
                f"MLflow cannot be written to ({first_line(error)}): what is computed is kept, "
                "run the same command again when it can"
            ) from None

    return call


@dataclass(frozen=True)
class Source:
    """Data that a run read: its name, a digest of what it is, where it is, and what for, `training` or `evaluation`."""

    name: str
    digest: str
    place: str
    purpose: str


class Run:
    """The MLflow run of an experiment: begun, or gone on with where the same experiment was run before.

    Args:
        config: the experiment, or a sweep.
        key: what it is found again by, if not by what the experiment is.
        name: in MLflow, if not the experiment's.
        tags: further ones.
        parent: the run that this one is a part of.

    Raises:
        UsageError: no tracking server answers, or the database cannot be opened.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        key: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        parent: "Run | None" = None,
    ) -> None:
        self.uri: str = parent.uri if parent else uri_of(config.tracking)
        self._client: MlflowClient = parent._client if parent else connect(self.uri)
        below = {"mlflow.parentRunId": parent.id} if parent else {}
        own = [key or identity(config), *below.values()]
        tags = {"infoaug.identity": digest_of(own) if below else own[0], **_tags(config), **(tags or {}), **below}
        try:
            name_of_all = config.tracking.experiment
            self._experiment: str = parent._experiment if parent else experiment_of(self._client, name_of_all, self.uri)
            self.id: str = self._find_or_create(name or config.name, tags, config.flat())
        except (MlflowException, OSError) as error:
            raise UsageError(f"MLflow at '{self.uri}' cannot be used: {first_line(error)}") from None
        self._times: dict[int, int] = {}
        self._logged = {metric.step for metric in self.history("loss")}

    def epochs(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log epochs' metrics together, `train/…` at step epoch; those that are logged already are passed over."""
        new = {int(epoch["epoch"]): epoch for epoch in history if int(epoch["epoch"]) not in self._logged}
        # Of the first try: the same metric at the same time is one to MLflow, where an answer was lost on its way.
        times = {step: self._times.setdefault(step, int(time.time() * 1000)) for step in new}
        self._log(
            Metric(f"train/{name}", float(value), times[step], step)
            for step, epoch in new.items()
            for name, value in epoch.items()
            if name not in NOT_LOGGED
        )
        self._logged |= new.keys()

    @_told
    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics that have no step; those that have this value already are passed over."""
        now, there = int(time.time() * 1000), self._client.get_run(self.id).data.metrics
        self._log(Metric(name, float(value), now, 0) for name, value in values.items() if there.get(name) != value)

    @_told
    def sources(self, sources: Iterable[Source]) -> None:
        """Log the data that the run reads, as its inputs."""
        self._client.log_inputs(
            self.id,
            [
                DatasetInput(
                    Dataset(s.name[:500], s.digest, "infoaug", json.dumps({"path": s.place})),
                    [InputTag("mlflow.data.context", s.purpose)],
                )
                for s in sources
            ],
        )

    @_told
    def history(self, name: str) -> list[Metric]:
        """What was logged of a training metric, by step."""
        return sorted(self._client.get_metric_history(self.id, f"train/{name}"), key=lambda metric: metric.step)

    def results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Log accuracies and RankMe as `DATASET/knn`, `DATASET/floor_knn` and so on, cells as `DATASET/A to B/knn`."""
        for result in results:
            name = _metric_name(Path(result["dataset"]).name) or "dataset"
            values = {f"{name}/{metric}": value for metric, value in result.items() if isinstance(value, float)}
            for metric in (key for key in result if key.endswith("_matrix")):
                for row, cells in zip(result["domains"], result[metric], strict=True):
                    for column, value in zip(result["domains"], cells, strict=True):
                        pair = f"{_metric_name(row)} to {_metric_name(column)}"
                        values[f"{name}/{pair}/{metric.removesuffix('_matrix')}"] = value
            self.metrics(values)

    @_told
    def files(self, contents: Mapping[str, bytes], folder: str | None = None) -> None:
        """Log artifacts by their file names."""
        upload(self._client, self.id, contents, folder)

    @_told
    def finish(self, status: str, why: str = "") -> None:
        """Close the run: FINISHED, FAILED or KILLED, and why."""
        if why:
            self._client.set_tag(self.id, ENDED, why[:500])
        self._client.set_terminated(self.id, status)

    @_told
    def close(self, but: Sequence[str] = ()) -> None:
        """End the runs below this one that are called running and are not, for their process was killed."""
        for run in self.below():
            if run.info.status == "RUNNING" and run.info.run_id not in but:
                self._client.set_terminated(run.info.run_id, "KILLED")

    @_told
    def below(self) -> list[Any]:
        """MLflow's runs of the trials."""
        return all_runs(self._client, self._experiment, f"tags.`mlflow.parentRunId` = '{self.id}'")

    @_told
    def _log(self, metrics: Iterable[Metric]) -> None:
        listed = list(metrics)
        for start in range(0, len(listed), 1000):  # MLflow's limit to a request
            self._client.log_batch(self.id, metrics=listed[start : start + 1000])

    def _find_or_create(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        tag = f"tags.`infoaug.identity` = '{tags['infoaug.identity']}'"
        found = self._client.search_runs([self._experiment], tag, max_results=1)
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
            if ENDED in run.data.tags:
                self._client.delete_tag(run.info.run_id, ENDED)
        else:
            run = self._client.create_run(self._experiment, run_name=name, tags=dict(tags))
        # A run that was begun as the server went away has them in part; those it has can not be changed.
        listed = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
        for start in range(0, len(listed), 100):  # MLflow's limit to a request
            self._client.log_batch(run.info.run_id, params=listed[start : start + 100])
        return str(run.info.run_id)


def _tags(config: ExperimentConfig) -> dict[str, str]:
    """What a run is looked for by: the arm, and the code that it ran."""
    return {
        "framework": config.pretrain.framework,
        "policy": config.score.policy,
        "twin_weight": "0" if config.score.policy == "none" else f"{config.pretrain.twin_weight:g}",
        "seed": str(config.seed),
        "backbone": config.pretrain.backbone,
        "infoaug.config": identity(config),
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "infoaug",
        **({COMMIT: found} if (found := commit()) else {}),
    }


@cache
def commit() -> str:
    """The Git commit of this code, `-dirty` where files differ from it; empty where it is no Git checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # or it is another's checkout that it is installed in
        return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def backbone(run: str, settings: TrackingConfig) -> tuple[str, dict[str, bytes]]:
    """Name and backbone files of a run, which is given by its id or its name; nothing is written.

    Raises:
        UsageError: there is no such run, more than one of this name, or it has no backbone; or as `Run` raises it.
    """
    uri = uri_of(settings)
    nowhere = f"MLflow at '{uri}' has no run of this id or name"
    client = connect_to_look(uri, nowhere)
    try:
        found = runs_called(client, run)
        if not found:
            raise UsageError(nowhere)
        if len(found) > 1:
            ids = ", ".join(one.info.run_id for one in found)
            raise UsageError(f"MLflow at '{uri}' has several runs of this name: give the id of one, of {ids}")
        (one,) = found
        kept = {Path(artifact.path).name for artifact in client.list_artifacts(one.info.run_id, "backbone")}
        if not {WEIGHTS_FILE, RECIPE_FILE} <= kept:
            raise UsageError(
                f"the MLflow run {one.info.run_id} has no backbone: run `infoaug pretrain` with its config"
            )
        with tempfile.TemporaryDirectory() as place:
            paths = [
                client.download_artifacts(one.info.run_id, f"backbone/{n}", place) for n in (WEIGHTS_FILE, RECIPE_FILE)
            ]
            return str(one.info.run_name), {Path(path).name: Path(path).read_bytes() for path in paths}
    except (MlflowException, OSError) as error:
        raise UsageError(f"MLflow at '{uri}' cannot be used: {first_line(error)}") from None


@dataclass(frozen=True)
class TrialRun:
    """A trial's run: its id and name, its status, why it ended if that was told, and a file of it, if it has that."""

    id: str
    name: str
    status: str
    why: str
    file: bytes | None


@dataclass(frozen=True)
class SweepRun:
    """A sweep's run with those of its trials; the commit it was begun with, empty where that is not known."""

    id: str
    config_yaml: bytes
    commit: str
    trials: list[TrialRun]
    client: MlflowClient

    @_told
    def keep(self, contents: Mapping[str, bytes], folder: str) -> None:
        """Log files with the sweep."""
        upload(self.client, self.id, contents, folder)


def sweep(name: str, settings: TrackingConfig, file: str) -> SweepRun:
    """A sweep's run, with `file` of each of its trials, the oldest first.

    Args:
        name: an MLflow experiment, of which the newest sweep is taken, or a sweep's run by its name or id.
        settings: where MLflow is.
        file: an artifact's name.

    Raises:
        UsageError: there is none, or as `Run` raises it.
    """
    uri = uri_of(settings)
    nowhere = f"MLflow at '{uri}' has no sweep '{name}': give an MLflow experiment with one, or a sweep's run"
    client = connect_to_look(uri, nowhere)
    try:
        kind = "tags.`infoaug.kind` = 'sweep'"
        whole = client.get_experiment_by_name(name)
        found = all_runs(client, whole.experiment_id, kind) if whole else []
        found = found or runs_called(client, name, kind)
        if not found:
            raise UsageError(nowhere)
        run, experiment = found[0], found[0].info.experiment_id
        below = all_runs(client, experiment, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        trials = []
        for child in reversed(below):
            why = child.data.tags.get(ENDED, "")
            told = file_of(client, child, file)
            trials.append(TrialRun(child.info.run_id, child.info.run_name, child.info.status, why, told))
        config_yaml, begun_with = file_of(client, run, "config.yaml") or b"", run.data.tags.get(COMMIT, "")
        return SweepRun(run.info.run_id, config_yaml, begun_with, trials, client)
    except (MlflowException, OSError) as error:
        raise UsageError(f"MLflow at '{uri}' cannot be used: {first_line(error)}") from None


def _metric_name(text: str) -> str:
    """A text without what MLflow refuses: other characters, and names that are a folder's `.` or `..`."""
    return re.sub(r"[^\w.: -]", "_", text).strip(".")
