"""How MLflow is reached: its address, its client, its experiments, and quick answers where it is away."""

import http.client
import logging
import os
import re
import sqlite3
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import UsageError

DEFAULT_URI = "sqlite:///mlflow.db"


def all_runs(client: MlflowClient, experiment: str, condition: str) -> list[Any]:
    """All runs of an MLflow experiment that meet a condition, newest first."""
    found: list[Any] = []
    token = None
    while token != "":
        page = client.search_runs([experiment], condition, page_token=token, max_results=1000)
        found, token = [*found, *page], page.token or ""
    return found


def file_of(client: MlflowClient, run: Any, name: str) -> bytes | None:
    """An artifact of a run, None if it has none of this name."""
    if name not in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}:
        return None
    with tempfile.TemporaryDirectory() as place:
        return Path(client.download_artifacts(run.info.run_id, name, place)).read_bytes()


def upload(client: MlflowClient, run: str, contents: Mapping[str, bytes], folder: str | None) -> None:
    """Files as artifacts of a run, by their names."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in contents.items():
            (Path(place) / name).write_bytes(content)
        client.log_artifacts(run, place, folder)


def runs_called(client: MlflowClient, run: str, condition: str = "") -> list[Any]:
    """The run of an id, or the newest runs of a name in any MLflow experiment, of those that meet a condition."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quote = '"' if "'" in run else "'"
    keys = ["run_id"] if re.fullmatch("[0-9a-f]{32}", run) else []
    for key in (*keys, "run_name"):  # a name may look like an id too
        wanted = " and ".join(filter(None, (f"attributes.{key} = {quote}{run}{quote}", condition)))
        if found := client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=5):
            return list(found)
    return []


def uri_of(settings: TrackingConfig) -> str:
    """Where MLflow is: the config's, else MLFLOW_TRACKING_URI, else a database where the user stands."""
    return _absolute(settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def connect(uri: str) -> MlflowClient:
    """A client. Raises UsageError where no server answers, or the database cannot be opened."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # a traceback for what comes as an error of ours
    _answers(uri)
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:  # those of SQLAlchemy and Alembic come through too, from a newer MLflow's database
        raise UsageError(f"MLflow at '{uri}' cannot be used: {first_line(error)}") from None


def connect_to_look(uri: str, nothing: str) -> MlflowClient:
    """A client that makes no database by looking into it. Raises UsageError: `nothing` where there is none."""
    if uri.startswith("sqlite:///") and not database(uri).is_file():
        raise UsageError(nothing)
    return connect(uri)


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
                f"no MLflow server answers at '{uri}' ({first_line(error)}): start one, or unset MLFLOW_TRACKING_URI "
                "and tracking.uri to use a local database"
            ) from None
    elif uri.startswith("sqlite:///"):
        path = database(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path)) as opened:
                opened.execute("PRAGMA schema_version")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"the MLflow database '{path}' cannot be opened ({error}): give another in tracking.uri"
            ) from None


def database(uri: str) -> Path:
    """The file of an sqlite address."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """Id of the MLflow experiment; a database's artifacts lie beside it, under an absolute path."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    beside = Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / name if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=beside.as_uri() if beside else None))


def first_line(error: Exception) -> str:
    """What an error says, without its traceback."""
    return str(error).strip().partition("\n")[0]
