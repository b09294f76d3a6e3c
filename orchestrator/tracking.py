"""MLflow: one run an experiment, found again by what the experiment is. Nothing else talks to MLflow."""

import getpass
import http.client
import logging
import os
import re
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from models.backbones import RECIPE_FILE, WEIGHTS_FILE
from orchestrator.config import RUNTIME, ExperimentConfig, TrackingConfig
from orchestrator.errors import StageError, UsageError
from orchestrator.store import digest_of

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URI = "sqlite:///mlflow.db"
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
                f"MLflow cannot be written to ({_first_line(error)}): what is computed is kept, "
                "run the same command again when it can"
            ) from None

    return call


class Run:
    """The MLflow run of an experiment: begun, or gone on with where the same experiment was run before.

    Raises:
        UsageError: no tracking server answers, or the database cannot be opened.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.uri = _uri(config.tracking)
        self._client = _connect(self.uri)
        try:
            experiment = _experiment(self._client, config.tracking.experiment, self.uri)
            self.id = self._find_or_create(experiment, config)
        except (MlflowException, OSError) as error:
            raise UsageError(f"MLflow at '{self.uri}' cannot be used: {_first_line(error)}") from None
        self._logged = {metric.step for metric in self.history("loss")}

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics, `train/…` at step epoch; one that is logged already is passed over."""
        step = int(metrics["epoch"])
        if step not in self._logged:
            self.metrics({f"train/{name}": v for name, v in metrics.items() if name not in NOT_LOGGED}, step)
            self._logged.add(step)

    @_told
    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics in one request."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

    @_told
    def history(self, name: str) -> list[Metric]:
        """What was logged of a training metric, by step."""
        return sorted(self._client.get_metric_history(self.id, f"train/{name}"), key=lambda metric: metric.step)

    def results(self, results: list[dict[str, Any]]) -> None:
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
        with tempfile.TemporaryDirectory() as place:
            for name, content in contents.items():
                (Path(place) / name).write_bytes(content)
                self._client.log_artifact(self.id, str(Path(place) / name), folder)

    @_told
    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status)

    def _find_or_create(self, experiment: str, config: ExperimentConfig) -> str:
        tag = identity(config)
        found = self._client.search_runs([experiment], f"tags.`infoaug.identity` = '{tag}'", max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        tags = {
            "infoaug.identity": tag,
            "framework": config.pretrain.framework,
            "policy": config.score.policy,
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "infoaug",
        }
        run = self._client.create_run(experiment, run_name=config.name, tags=tags)
        params = [Param(key, str(value)) for key, value in config.flat().items()]
        for start in range(0, len(params), 100):  # MLflow's limit to a request
            self._client.log_batch(run.info.run_id, params=params[start : start + 100])
        return str(run.info.run_id)


def backbone(run: str, settings: TrackingConfig) -> tuple[str, dict[str, bytes]]:
    """Name and backbone files of a run, which is given by its id or its name; nothing is written.

    Raises:
        UsageError: there is no such run, more than one of this name, or it has no backbone; or as `Run` raises it.
    """
    uri = _uri(settings)
    nowhere = f"MLflow at '{uri}' has no run of this id or name"
    if uri.startswith("sqlite:///") and not _database(uri).is_file():  # connecting would make one
        raise UsageError(nowhere)
    client = _connect(uri)
    try:
        found = _runs(client, run)
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
        raise UsageError(f"MLflow at '{uri}' cannot be used: {_first_line(error)}") from None


def _runs(client: MlflowClient, run: str) -> list[Any]:
    """The run of an id, or the newest runs of a name in any MLflow experiment."""
    if re.fullmatch("[0-9a-f]{32}", run):
        try:
            return [client.get_run(run)]
        except MlflowException:
            pass  # a name may look like this too
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quote = '"' if "'" in run else "'"
    name = f"attributes.run_name = {quote}{run}{quote}"
    return list(client.search_runs(experiments, name, order_by=["attributes.start_time DESC"], max_results=5))


def _uri(settings: TrackingConfig) -> str:
    return _absolute(settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def _connect(uri: str) -> MlflowClient:
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _answers(uri)
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:  # those of SQLAlchemy and Alembic come through too, from a newer MLflow's database
        raise UsageError(f"MLflow at '{uri}' cannot be used: {_first_line(error)}") from None


def _absolute(uri: str) -> str:
    """A relative sqlite path made absolute: workers and a later command may stand elsewhere."""
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith("/"):
        return f"sqlite:///{Path(path).absolute()}"
    return uri


def _answers(uri: str) -> None:
    """Ask a tracking server or database whether it is there, before MLflow's client spends minutes on finding out."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UsageError(
                f"no MLflow server answers at '{uri}' ({_first_line(error)}): start one, or unset MLFLOW_TRACKING_URI "
                "and tracking.uri to use a local database"
            ) from None
    elif uri.startswith("sqlite:///"):
        path = _database(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"the MLflow database '{path}' cannot be opened ({error}): give another in tracking.uri"
            ) from None


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the MLflow experiment; a database's artifacts lie beside it, under an absolute path."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    beside = Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / name if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=beside.as_uri() if beside else None))


def _metric_name(text: str) -> str:
    """A text without what MLflow refuses: other characters, and names that are a folder's `.` or `..`."""
    return re.sub(r"[^\w.: -]", "_", text).strip(".")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
