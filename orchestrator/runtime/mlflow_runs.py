"""MLflow runs: one for each experiment, found again by its identity; for a sweep, one with a child for each trial.

Only this file, `mlflow_lookup.py` and `mlflow_client.py` use MLflow.
"""

import getpass
import json
import re
import subprocess
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.dataset_names import titles
from infoaug.orchestrator.identity import identity
from infoaug.orchestrator.masking import masked, without_secrets
from infoaug.orchestrator.runtime import scratch, tensorboard
from infoaug.orchestrator.runtime.mlflow_client import (
    REPLACED,
    all_runs,
    alone,
    as_stage_error,
    connect,
    experiment_of,
    unusable,
    upload,
    uri_of,
)
from infoaug.orchestrator.runtime.store import digest_of

IDENTITY = "infoaug.identity"  # a tag
COMMIT = "mlflow.source.git.commit"  # a tag
ENDED = "infoaug.ended"  # a tag: why a run failed or was stopped
MODEL = "infoaug.model"  # a tag: the hash of the stage `pretrain` that a run's epochs are of
PATIENCE = 5.0  # seconds to wait for the last metrics of the machine
NOT_LOGGED = ("epoch", "seconds")  # the step of the metrics, and the inverse of images_per_second


@dataclass(frozen=True)
class Source:
    """Data that a run reads.

    Attributes:
        name: the data set's name.
        digest: digest of its content or description.
        path: where it is.
        purpose: `training` or `evaluation`.
    """

    name: str
    digest: str
    path: str
    purpose: str


class Run:
    """The MLflow run of an experiment: a new one, or the existing one if the same experiment was run before.

    Args:
        config: the experiment, or a sweep.
        key: identity to find the run by; by default that of the experiment.
        name: name in MLflow; by default the experiment's.
        tags: additional tags.
        parent: the sweep's run, for a trial.

    Attributes:
        uri: MLflow's tracking URI.
        id: MLflow run id.
        new: there was no such run.

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
        parent_tag = {"mlflow.parentRunId": parent.id} if parent else {}
        key = key or identity(config)
        # The same trial in another sweep is another run.
        key = digest_of([key, parent.id]) if parent else key
        self._name, self._settings = name or config.name, config.flat()
        self._tags = {IDENTITY: key, **_tags(config), **(tags or {}), **parent_tag}
        try:
            with alone(self.uri):
                wanted = config.tracking.experiment
                self._experiment: str = parent._experiment if parent else experiment_of(self._client, wanted, self.uri)
                found = self._found()
                self.new = found is None
                self.id: str = self._continued(found) if found else self._created()
        except (MlflowException, OSError) as error:
            raise unusable(self.uri, error) from None
        self._tracking, self._scalars = config.tracking, dict[str, tensorboard.Scalars]()  # by run id
        self._times: dict[int, int] = {}
        self._logged = {metric.step for metric in self.history("loss")}
        self._trained = ""  # the hash of the stage `pretrain`
        self._model: str | None = None  # the id of the model that accuracies are of

    @as_stage_error
    def of_model(self, model: str, anew: bool = False) -> None:
        """Make this the run of a model. A new run takes its place if it has the epochs of another model.

        The data or the code have changed since: new accuracies must not stand beside old epochs.

        Args:
            model: the hash of its stage `pretrain`.
            anew: the model will be trained from the first epoch on.
        """
        before = self._client.get_run(self.id).data.tags.get(MODEL, model)
        if before != model or (anew and self._logged):
            old, (status, ended, why) = self.id, self._before
            self._client.set_terminated(old, "KILLED" if status == "RUNNING" else status, ended)
            if why:
                self._client.set_tag(old, ENDED, why)
            self.id = self._created()
            self._client.set_tag(old, REPLACED, self.id)
            self._times, self._logged = {}, set()
        self._client.set_tag(self.id, MODEL, model)
        self._trained = model

    def epochs(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the metrics of epochs as `train/…`, with the epoch as step; skip those logged before."""
        new = {int(epoch["epoch"]): epoch for epoch in history if int(epoch["epoch"]) not in self._logged}
        # A retry reuses the time of the first try: MLflow stores a metric with equal step, time and value only once, so
        # an epoch whose acknowledgement was lost is not duplicated.
        times = {step: self._times.setdefault(step, int(time.time() * 1000)) for step in new}

        def metrics(epoch: Mapping[str, float]) -> dict[str, float]:
            return {f"train/{name}": float(value) for name, value in epoch.items() if name not in NOT_LOGGED}

        values = {step: metrics(epoch) for step, epoch in new.items()}
        self._log(Metric(name, value, times[step], step) for step, of in values.items() for name, value in of.items())
        self._logged |= new.keys()
        if self._tracking.tensorboard:
            folder = tensorboard.located(self._tracking.tensorboard) / f"{self._name}-{self.id[:8]}"
            if not any(folder.glob("events.*")):  # MLflow may have epochs of before TensorBoard was asked for
                values = self._logged_epochs() | {int(epoch["epoch"]): metrics(epoch) for epoch in history}
            if values and self.id not in self._scalars:
                self._scalars = {self.id: tensorboard.Scalars(folder)}
            for step, of in sorted(values.items()):
                self._scalars[self.id].write(step, of)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Log what this machine is busy with as MLflow's `system/…`, unless the config says no."""
        if not self._tracking.system_metrics:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            # It waits for a request that is under way, and a server that is away would make it wait for minutes.
            ending = threading.Thread(target=monitor.finish, daemon=True)
            ending.start()
            ending.join(PATIENCE)

    @as_stage_error
    def metrics(self, values: Mapping[str, float], of_model: bool = False) -> None:
        """Log metrics without a step; those with an unchanged value are skipped.

        Args:
            values: the metrics, by name.
            of_model: they are also those of the model that was logged.
        """
        now, logged = int(time.time() * 1000), self._client.get_run(self.id).data.metrics
        model = self._model if of_model else None
        self._log(
            Metric(name, float(value), now, 0, model_id=model)
            for name, value in values.items()
            if logged.get(name) != value
        )

    @as_stage_error
    def model(self, files: Mapping[str, bytes], image_size: int, register: str | None = None) -> None:
        """Log the trained backbone as a model that `mlflow.pyfunc` and `mlflow.pytorch` load, once.

        Args:
            files: weights and recipe of the backbone, by name. They hold no code, so it must be one of timm's.
            image_size: S, pixels.
            register: the name of a registered model that it becomes a version of, once; it may have been logged before.
        """
        logged = self._logged_model(files, image_size)
        self._model = logged.model_id
        if register:
            self._register(logged, register)

    def _logged_model(self, files: Mapping[str, bytes], image_size: int) -> LoggedModel:
        """The model of this run; it is logged if it is not yet."""
        wanted = f"source_run_id = '{self.id}' AND tags.`{MODEL}` = '{self._trained}'"
        found = self._client.search_logged_models([self._experiment], wanted)
        if ready := [one for one in found if one.status == "READY"]:  # an interrupted one is not
            return ready[0]
        # MLflow looks for artifacts of a run in its models, too, by the name of their folder: it must be another one.
        created = self._client.create_logged_model(
            self._experiment, "features", self.id, tags={MODEL: self._trained}, model_type="infoaug-backbone"
        )
        with scratch.folder() as folder:
            _save(folder / "model", files, image_size, created.model_id)
            self._client.log_model_artifacts(created.model_id, str(folder / "model"))
        return self._client.finalize_logged_model(created.model_id, "READY")

    def _register(self, model: LoggedModel, name: str) -> None:
        """Make a model a version of a registered one, unless it is."""
        versions = self._client.search_model_versions(f"run_id = '{self.id}'")
        if any(version.name == name and version.source == model.artifact_location for version in versions):
            return
        with suppress(MlflowException):  # there is one of this name
            self._client.create_registered_model(name)
        self._client.create_model_version(name, model.artifact_location, self.id, model_id=model.model_id)

    @as_stage_error
    def sources(self, sources: Iterable[Source]) -> None:
        """Log the data sets that the run reads as its inputs."""
        self._client.log_inputs(
            self.id,
            [
                DatasetInput(
                    Dataset(without_secrets(s.name)[:500], s.digest, "infoaug", json.dumps(masked({"path": s.path}))),
                    [InputTag("mlflow.data.context", s.purpose)],
                )
                for s in sources
            ],
        )

    @as_stage_error
    def history(self, name: str) -> list[Metric]:
        """The logged values of a training metric, by step."""
        return sorted(self._client.get_metric_history(self.id, f"train/{name}"), key=lambda metric: metric.step)

    @as_stage_error
    def _logged_epochs(self) -> dict[int, dict[str, float]]:
        """The logged training metrics, by epoch."""
        found: dict[int, dict[str, float]] = {}
        for name in self._client.get_run(self.id).data.metrics:
            if name.startswith("train/"):
                for metric in self.history(name.removeprefix("train/")):
                    found.setdefault(metric.step, {})[name] = metric.value
        return found

    def results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Log evaluations as `DATASET/knn`, `DATASET/floor_knn` and so on, cross-domain as `DATASET/A to B/knn`."""
        names = titles((result["dataset"] for result in results), lambda text: _metric_name(text) or "dataset")
        for result in results:
            name = names[result["dataset"]]
            values = {f"{name}/{metric}": value for metric, value in result.items() if isinstance(value, float)}
            for metric in (key for key in result if key.endswith("_matrix")):
                for row, cells in zip(result["domains"], result[metric], strict=True):
                    for column, value in zip(result["domains"], cells, strict=True):
                        pair = f"{_metric_name(row)} to {_metric_name(column)}"
                        values[f"{name}/{pair}/{metric.removesuffix('_matrix')}"] = value
            self.metrics(values, of_model=True)

    @as_stage_error
    def files(self, contents: Mapping[str, bytes], folder: str | None = None) -> None:
        """Log files as artifacts, by name."""
        upload(self._client, self.id, contents, folder)

    @as_stage_error
    def finish(self, status: str, why: str = "") -> None:
        """End the run with the status FINISHED, FAILED or KILLED, and a reason."""
        if why:
            self._client.set_tag(self.id, ENDED, without_secrets(why)[:500])
        self._client.set_terminated(self.id, status)

    @as_stage_error
    def close(self, but: Sequence[str] = ()) -> None:
        """Set child runs to KILLED that are still marked as running, because their process was killed."""
        for run in self.below():
            if run.info.status == "RUNNING" and run.info.run_id not in but:
                self._client.set_terminated(run.info.run_id, "KILLED")

    @as_stage_error
    def below(self) -> list[Any]:
        """The child runs, one for each trial."""
        return all_runs(self._client, self._experiment, f"tags.`mlflow.parentRunId` = '{self.id}'")

    @as_stage_error
    def _log(self, metrics: Iterable[Metric]) -> None:
        listed = list(metrics)
        for start in range(0, len(listed), 1000):  # MLflow's limit per request
            self._client.log_batch(self.id, metrics=listed[start : start + 1000])

    def _found(self) -> Any | None:
        """The newest run with this identity."""
        tag, newest = f"tags.`{IDENTITY}` = '{self._tags[IDENTITY]}'", ["attributes.start_time DESC"]
        found = self._client.search_runs([self._experiment], tag, order_by=newest, max_results=1)
        return found[0] if found else None

    def _continued(self, run: Any) -> str:
        """Continue a run; its id."""
        self._before = run.info.status, run.info.end_time, run.data.tags.get(ENDED, "")
        self._client.update_run(run.info.run_id, status="RUNNING")
        for tag in {ENDED, REPLACED} & run.data.tags.keys():
            self._client.delete_tag(run.info.run_id, tag)
        return self._with_settings(run)

    def _created(self) -> str:
        """Create the run; its id."""
        self._before = "RUNNING", None, ""
        return self._with_settings(self._client.create_run(self._experiment, run_name=self._name, tags=self._tags))

    def _with_settings(self, run: Any) -> str:
        # A run whose creation was interrupted has some parameters already, and MLflow does not let them be changed.
        listed = [Param(key, str(value)) for key, value in self._settings.items() if key not in run.data.params]
        for start in range(0, len(listed), 100):  # MLflow's limit per request
            self._client.log_batch(run.info.run_id, params=listed[start : start + 100])
        return str(run.info.run_id)


def _save(folder: Path, files: Mapping[str, bytes], size: int, model: str) -> None:
    """Write a backbone into a folder as a model of MLflow. Nothing is pickled."""
    import mlflow.pyfunc  # takes seconds, and only a trained model needs it
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from infoaug.models import pyfunc
    from infoaug.models.backbones import load_backbone

    data = folder.with_name("data")
    data.mkdir()
    for name, content in files.items():
        (data / name).write_bytes(content)
    model_of = Model(model_id=model)
    exported = folder.with_name("exported")
    exported.mkdir()
    if pyfunc.save_exported(load_backbone(data), size, exported / "model.pt2"):
        model_of.add_flavor("pytorch", model_data=exported.name, pytorch_version=str(torch.__version__), code=None)
    images, features = TensorSpec(np.dtype("uint8"), (-1, size, size, 3)), TensorSpec(np.dtype("float32"), (-1, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses an example, which the signature makes needless
        mlflow.pyfunc.save_model(
            folder,
            loader_module="infoaug.models.pyfunc",
            data_path=str(data),
            mlflow_model=model_of,
            signature=ModelSignature(Schema([images]), Schema([features])),
            pip_requirements=[f"{name}=={version(name)}" for name in ("infoaug", "torch", "timm")],
        )
    if "pytorch" in model_of.flavors:
        exported.rename(folder / exported.name)


def _tags(config: ExperimentConfig) -> dict[str, str]:
    """Tags to search runs by: the arm, and the code version."""
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
    """The Git commit of this code, with `-dirty` if files differ from it; empty outside a Git checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # fails if installed inside another checkout
        return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _metric_name(text: str) -> str:
    """Replace characters that MLflow refuses in metric names, and strip dots: `.` and `..` are refused too."""
    return re.sub(r"[^\w.: -]", "_", text).strip(".")
