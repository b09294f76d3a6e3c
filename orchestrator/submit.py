"""Submit a config, with this code, as a job of a Ray cluster. The job keeps running when the terminal is closed."""

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from rich.markup import escape

import infoaug
from infoaug.models import own_code
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.identity import identity as identity_of
from infoaug.orchestrator.runtime import console, scratch
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig

CONFIG = "config.yaml"
LABEL = "infoaug"  # the key of a job's metadata with the digest of its config
OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
PATIENCE_S = 60  # seconds to wait for a cluster that has just started
ATTEMPTS = 5  # to reconnect to a job's log

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A job of a cluster.

    Attributes:
        id: Ray's.
        address: of the cluster's job server.
        found: an earlier command with the same config submitted it.
    """

    id: str
    address: str
    found: bool

    def remedy(self) -> str:
        """How to follow the job and how to stop it."""
        return (
            f"the same command follows it again, as does `ray job logs --address {self.address} --follow {self.id}`; "
            f"`ray job stop --address {self.address} {self.id}` ends it"
        )


def submit(config: Path, overrides: Iterable[str], address: str) -> Job:
    """Send the config of a sweep or an experiment to a cluster, with the code that is installed here, and run it there.

    The config is checked here. Its paths are the cluster's, and if it sets no store or MLflow server, the cluster's
    environment does. If a job with the same config is still running, no second one is started.

    Raises:
        UsageError: the config is invalid, or no job server answers at the address.
        StageError: the cluster did not accept the job.
    """
    named = settings.read_values(config, overrides)
    command = "sweep" if "sweep" in named else "run"
    checked = settings.checked(SweepConfig if command == "sweep" else ExperimentConfig, named, str(config))
    identity = trials.identity(checked) if isinstance(checked, SweepConfig) else identity_of(checked)
    identity = digest_of([identity, named.get("store"), checked.tracking.uri])
    client = connect(address)
    earlier = [job for job in client.list_jobs() if job.metadata and job.metadata.get(LABEL) == identity]
    for job in earlier:
        if job.status not in OVER and job.submission_id:
            return Job(job.submission_id, address, found=True)
    name = f"{checked.name}-{identity}-{len(earlier) + 1}"
    with scratch.folder() as folder:
        pack(checked, folder, without=() if "store" in named else ("store",))
        _send(client, f"python -m infoaug {command} {CONFIG}", name, str(folder), {LABEL: identity})
    return Job(name, address, found=False)


def connect(address: str) -> JobSubmissionClient:
    """A client of a cluster's job server. Raises UsageError if none answers."""
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    # For Ray, this variable goes before the argument.
    variable = os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"no Ray job server answers at '{address}' ({why}): open its port, as `ray dashboard cluster.yaml` does, "
            "or give --address"
        ) from error
    finally:
        if variable is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = variable


def pack(config: ExperimentConfig, folder: Path, without: Iterable[str] = ()) -> None:
    """Write a job's working folder: the package infoaug, its settings except `without`, and the user's own code.

    Raises:
        UsageError: such code cannot be imported.
    """
    # Links to the top-level folders of a clone are followed, so the job gets the package as a wheel would install it.
    shutil.copytree(Path(infoaug.__file__).parent, folder / "infoaug", ignore=shutil.ignore_patterns("__pycache__"))
    named = {
        "extract.tracker": config.extract.tracker,
        "pretrain.backbone": config.pretrain.backbone,
        "pretrain.framework": config.pretrain.framework,
    }
    for setting, name in named.items():
        try:
            code = own_code.source(name) if own_code.is_own(name) else None
        except ValueError as error:
            raise UsageError(settings.one_line(f"{setting}: {error}").rstrip(".")) from None
        if code and code.is_dir():
            shutil.copytree(code, folder / code.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        elif code:
            shutil.copy(code, folder)
    values = config.model_dump(mode="json", exclude_unset=True, exclude=set(without))
    values.get("ray", {}).pop("address", None)  # Ray gives a job its cluster's address
    (folder / CONFIG).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _send(client: JobSubmissionClient, command: str, name: str, folder: str, metadata: dict[str, str]) -> None:
    """Submit a job; wait for a cluster that has just started and does not accept jobs yet."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.submit_job(
                entrypoint=command, submission_id=name, runtime_env={"working_dir": folder}, metadata=metadata
            )
            return
        except (RuntimeError, ConnectionError, ValueError) as error:
            if "No available agent" in str(error) and time.monotonic() < end:
                _log.debug("the cluster accepts no jobs yet: %s", error)
                time.sleep(1)
                continue
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise StageError(f"the cluster at {client.get_address()} did not accept the job: {why}") from error


def follow(job: Job, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write a job's log as it comes until the job has ended. A broken connection is made again.

    Raises:
        StageError: the job failed or was stopped, or the cluster is unreachable.
    """
    client, written, broken = connect(job.address), 0, 0

    async def tail() -> None:
        nonlocal written  # after a reconnection the log starts from its beginning: what was written is skipped
        seen = 0
        async for text in client.tail_job_logs(job.id):
            write(text[max(0, written - seen) :])
            seen += len(text)
            written = max(written, seen)

    while True:
        try:
            asyncio.run(tail())
            details = client.get_job_info(job.id)
            if details.status in OVER:
                return _end(job, details)
            broken = 0
        except (OSError, RuntimeError) as error:
            broken += 1
            if broken > ATTEMPTS:
                why = str(error).strip().partition("\n")[0]
                raise StageError(
                    f"the cluster at {job.address} is out of reach ({why}), job {job.id} may still run: {job.remedy()}"
                ) from error
            _log.warning("the connection to %s broke, attempt %d", job.address, broken, exc_info=error)
            console.say(f"[yellow]the connection to {escape(job.address)} broke, trying again[/]")
        time.sleep(1)


def _end(job: Job, details: JobDetails) -> None:
    """Raise StageError for a job that did not succeed."""
    if details.status == JobStatus.STOPPED:
        raise StageError(f"job {job.id} was stopped; the same command continues from what is complete")
    if details.status == JobStatus.FAILED:
        why = (details.message or "no reason given").strip().splitlines()[0].partition(", last available logs")[0]
        raise StageError(f"job {job.id} failed: {why}")
