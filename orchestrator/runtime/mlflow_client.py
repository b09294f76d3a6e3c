"""Connecting to MLflow: tracking URI, client, experiments, and a quick error if the server does not answer."""

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
from mlflow.utils import get_results_from_paginated_fn

from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import UsageError

DEFAULT_URI = "sqlite:///mlflow.db"


def all_runs(client: MlflowClient, experiment: str, condition: str) -> list[Any]:
    """All runs of an MLflow experiment that match a filter, newest first."""

    # As in mlflow.search_runs, which would need the process-wide tracking URI to be set.
    def page(count: int, token: str | None) -> Any:
        return client.search_runs([experiment], condition, page_token=token, max_results=count)

    return list(get_results_from_paginated_fn(page, 1000))


def file_of(client: MlflowClient, run: Any, name: str) -> bytes | None:
    """Content of an artifact of a run, None if there is no such artifact."""
    if name not in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes()


def upload(client: MlflowClient, run: str, contents: Mapping[str, bytes], folder: str | None) -> None:
    """Log files as artifacts of a run, by name, in a folder of it or at the top."""
    with tempfile.TemporaryDirectory() as local:
        for name, content in contents.items():
            (Path(local) / name).write_bytes(content)
        client.log_artifacts(run, local, folder)


def runs_called(client: MlflowClient, run: str, condition: str = "") -> list[Any]:
    """Runs with an id or a name, in any MLflow experiment, that match a filter; at most five, newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quote = '"' if "'" in run else "'"
    keys = ["run_id"] if re.fullmatch("[0-9a-f]{32}", run) else []
    for key in (*keys, "run_name"):  # a name may look like an id
        wanted = " and ".join(filter(None, (f"attributes.{key} = {quote}{run}{quote}", condition)))
        if found := client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=5):
            return list(found)
    return []


def uri_of(settings: TrackingConfig) -> str:
    """The tracking URI: from the config, else MLFLOW_TRACKING_URI, else a database in the working directory."""
    return _absolute(settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def connect(uri: str) -> MlflowClient:
    """Connect to MLflow. Raises UsageError if no server answers, or the database cannot be opened."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs a traceback for errors that are reported here as a UsageError.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    _answers(uri)
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:  # SQLAlchemy and Alembic raise their own, e.g. for a newer MLflow's database
        raise UsageError(f"MLflow at '{uri}' cannot be used: {first_line(error)}") from None


def connect_to_look(uri: str, nothing: str) -> MlflowClient:
    """Connect for reading. If the database does not exist, raise UsageError(`nothing`) instead of creating it."""
    if uri.startswith("sqlite:///") and not database(uri).is_file():
        raise UsageError(nothing)
    return connect(uri)


def _absolute(uri: str) -> str:
    """Make a relative SQLite path absolute: workers and later commands may have another working directory."""
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith("/"):
        return f"sqlite:///{Path(path).absolute()}"
    return uri


def _answers(uri: str) -> None:
    """Check that a server or database can be reached; MLflow's client would retry for minutes."""
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
    """The file of an SQLite URI."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """Id of an MLflow experiment, created if missing; with a database, artifacts are stored in `mlruns` beside it."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    beside = Path(uri.removeprefix("sqlite:///")).parent / "mlruns" / name if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=beside.as_uri() if beside else None))


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return str(error).strip().partition("\n")[0]
