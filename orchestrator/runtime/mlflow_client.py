"""Connecting to MLflow: tracking URI, client, experiments, and a quick error if the server does not answer."""

import errno
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils import get_results_from_paginated_fn
from sqlalchemy.engine import make_url

from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import is_masked, without_secrets
from infoaug.orchestrator.runtime import locks, scratch

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URI = "sqlite:///mlflow.db"
REPLACED = "infoaug.replaced_by"  # a tag: id of the run with the epochs of changed data or code
SECONDS_TO_ANSWER = 5  # for a server, before work starts
PATIENCE = 300.0  # seconds to wait for another command that creates the tables of a database


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
    with scratch.folder() as folder:
        return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


def upload(client: MlflowClient, run: str, contents: Mapping[str, bytes], folder: str | None) -> None:
    """Log files as artifacts of a run, by name, in a folder of it or at the top."""
    with scratch.folder() as local:
        for name, content in contents.items():
            (local / name).write_bytes(content)
        client.log_artifacts(run, str(local), folder)


def runs_called(client: MlflowClient, run: str, condition: str = "") -> list[Any]:
    """Runs with an id or a name, in any MLflow experiment, that match a filter, newest first.

    A name is that of at most five runs. Those that another run has replaced only have an id.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quote = '"' if "'" in run else "'"
    keys = ["run_id"] if re.fullmatch("[0-9a-f]{32}", run) else []
    for key in (*keys, "run_name"):  # a name may look like an id
        wanted = " and ".join(filter(None, (f"attributes.{key} = {quote}{run}{quote}", condition)))
        found = client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=100)
        if current := [one for one in found if key == "run_id" or REPLACED not in one.data.tags]:
            return current[:5]
    return []


def uri_of(settings: TrackingConfig) -> str:
    """The tracking URI: from the config, else MLFLOW_TRACKING_URI, else a database in the working directory.

    Raises:
        UsageError: it is no URI, or that of a database whose path SQLAlchemy misreads.
    """
    uri = _absolute(settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    if is_masked(uri):
        raise UsageError(f"the secrets of tracking.uri '{uri}' are masked: give it with them")
    scheme, separator, rest = uri.partition("://")
    if not separator and not uri.startswith(("databricks", "uc:")):
        raise UsageError(
            f"'{uri}' is no tracking URI of MLflow: write http://{uri} for a server, or sqlite:///{uri} for a database "
            "in a file"
        )
    if scheme == "file":
        raise UsageError(
            f"MLflow keeps no runs in folders any more, as '{uri}' is: give a database, sqlite:///mlflow.db"
        )
    if scheme == "sqlite":
        path, _, query = rest.partition("?")
        if not path.startswith("/") or path == "/":
            raise UsageError(f"'{uri}' names no database: write sqlite:/// and the path of its file, in tracking.uri")
        if query and ("/" in query or "=" not in query):
            raise UsageError(
                f"the path of an MLflow database cannot hold a question mark, as '{path[1:]}?{query}' does: give "
                "another in tracking.uri"
            )
    return uri


def connect(uri: str) -> MlflowClient:
    """Connect to MLflow. Raises UsageError if no server answers, or the database cannot be opened or is in use."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs a traceback for errors that are reported here as a UsageError.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if without_secrets(uri) != uri:  # MLflow prints the URL of a run that ends
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with alone(uri):  # two commands that fill an empty database at the same time break each other's tables
        _answers(uri)
        try:
            return MlflowClient(tracking_uri=uri)
        except Exception as error:  # SQLAlchemy and Alembic raise their own, e.g. for a newer MLflow's database
            raise unusable(uri, error) from None


def alone(uri: str) -> AbstractContextManager[None]:
    """Keep other commands from creating tables, experiments and runs in a database of SQLite; servers do so themselves.

    Raises:
        UsageError: another command takes minutes for it.
    """
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    path = database(uri)
    return locks.hold(path.with_name(f"{path.name}.lock"), f"the MLflow database '{path}'", PATIENCE)


def connect_to_look(uri: str, nothing: str) -> MlflowClient:
    """Connect for reading. If the database does not exist, raise UsageError(`nothing`) instead of creating it."""
    if uri.startswith("sqlite:///") and not database(uri).is_file():
        raise UsageError(nothing)
    return connect(uri)


def _absolute(uri: str) -> str:
    """Make a relative SQLite path absolute: workers and later commands may have another working directory."""
    scheme, _, path = uri.partition(":///")
    if scheme in ("sqlite", "sqlite+pysqlite") and path:  # one scheme for the same database, so that its lock is one
        # `Path.expanduser` would fail for a user who does not exist.
        return f"sqlite:///{Path(os.path.expanduser(path)).absolute()}"  # noqa: PTH111
    return uri


def _answers(uri: str) -> None:
    """Check that a server or database can be reached; MLflow's client would retry for minutes."""
    if uri.startswith(("http://", "https://")):
        try:
            with _impatient():  # MLflow's own client: it knows of users, tokens and certificates
                MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        except Exception as error:  # what is no MLflow server may answer anything
            status = error.get_http_status_code() if isinstance(error, MlflowException) else 0
            if status == 403:  # it knows the user, who may not see all experiments
                return
            raise UsageError(_no_answer(uri, status, first_line(error))) from None
    elif host := _database_host(uri):
        try:
            socket.create_connection(host, SECONDS_TO_ANSWER).close()
        except OSError as error:
            raise UsageError(
                f"no database answers at '{uri}' ({first_line(error)}): start one, or give another in tracking.uri"
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


def _database_host(uri: str) -> tuple[str, int] | None:
    """Host and port of a database's server; None for what is no such server, or is reached in another way."""
    ports = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    try:
        parts = urlsplit(uri)
        port = parts.port or ports.get(parts.scheme.partition("+")[0])
    except ValueError:  # several hosts
        return None
    known = parts.scheme.partition("+")[0] in ports
    return (parts.hostname, port) if known and parts.hostname and port else None


@contextmanager
def _impatient() -> Iterator[None]:
    """One try of a few seconds for MLflow's client, which reads both from the environment with every request."""
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS_TO_ANSWER), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _no_answer(uri: str, status: int, why: str) -> str:
    """Why a server cannot be used, and what to do."""
    # A gateway's JSON gets past MLflow's client with its text only.
    if status == 401 or re.search(r"unauthori[sz]ed|(not |un)authenticated", why, re.IGNORECASE):
        return (
            f"the MLflow server at '{uri}' wants to know who asks: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what it accepts"
        )
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return (
            f"the certificate of the MLflow server at '{uri}' is not trusted: give its authority's in "
            "MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE, or set MLFLOW_TRACKING_INSECURE_TLS=true"
        )
    # Of a connection that failed, MLflow quotes what each of its layers says.
    cause = re.search(r"\[Errno -?\d+\] [^\"')]+|read timed out", why, re.IGNORECASE)
    return (
        f"no MLflow server answers at '{uri}' ({cause[0] if cause else why}): start one, or unset MLFLOW_TRACKING_URI "
        "and tracking.uri to use a local database"
    )


def database(uri: str) -> Path:
    """The file of an SQLite URI."""
    return Path(make_url(uri).database or "")  # as MLflow reads it: %20 is a space


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """Id of an MLflow experiment, created if missing; with a database, artifacts are stored in `mlruns` beside it.

    Raises:
        UsageError: the experiment is deleted.
    """
    found = client.get_experiment_by_name(name)
    if not found:
        sqlite = uri.startswith("sqlite:")
        beside = database(uri).parent.joinpath("mlruns", *filter(None, name.split("/"))).as_uri() if sqlite else None
        try:
            return str(client.create_experiment(name, artifact_location=beside))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another command has created it since
            if not found:
                raise
    if found.lifecycle_stage == LifecycleStage.DELETED:
        raise UsageError(
            f"the MLflow experiment '{name}' is deleted: restore it by `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or give another name in tracking.experiment"
        )
    return str(found.experiment_id)


def unusable(uri: str, error: Exception) -> UsageError:
    """The error for an MLflow that cannot be used."""
    return UsageError(f"MLflow at '{uri}' cannot be used: {reason(error)}")


def as_stage_error(method: Callable[P, T]) -> Callable[P, T]:
    """Turn MLflow's exceptions into a StageError."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (MlflowException, OSError) as error:
            raise StageError(
                f"cannot write to MLflow ({reason(error)}): computed results are kept; run the same command again "
                "when MLflow is available"
            ) from None

    return call


def reason(error: Exception) -> str:
    """Why MLflow failed, in one line."""
    why = first_line(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"a disk is full, {why}" if full or re.search("disk is full|no space left", why, re.IGNORECASE) else why


def first_line(error: Exception) -> str:
    """First line of an error's message, without SQLAlchemy's about when it was raised."""
    lines = str(error).strip().splitlines()
    return next((line for line in lines if not line.startswith("(raised as a result of")), "")
