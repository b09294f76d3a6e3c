"""Submit: a config and this code as a job of a Ray cluster, whose driver outlives the terminal it was sent from."""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from rich.markup import escape

import infoaug
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import console, mlflow_runs
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig

CONFIG = "config.yaml"
LABEL = "infoaug"  # of a job's metadata: the digest of its config
OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
PATIENCE_S = 60  # for a cluster that has just started
ATTEMPTS = 5  # to follow a log again after the connection broke


@dataclass(frozen=True)
class Job:
    """A job of a cluster.

    Attributes:
        id: what Ray calls it.
        address: of the cluster's job server.
        found: it was there already, of an earlier command with the same config.
    """

    id: str
    address: str
    found: bool

    def remedy(self) -> str:
        """How to come back to it and how to end it."""
        return (
            f"the same command follows it again, as does `ray job logs --address {self.address} --follow {self.id}`; "
            f"`ray job stop --address {self.address} {self.id}` ends it"
        )


def submit(config: Path, overrides: Iterable[str], address: str) -> Job:
    """Send a config, of a sweep or of one experiment, and the code that is installed here, and have it run there.

    The config is checked here; where it leaves the store or MLflow open, the cluster's own are taken. Paths in it are
    the cluster's. A job with the same config that still runs is not started a second time.

    Raises:
        UsageError: the config is no good, or no job server answers at the address.
        StageError: the cluster did not take the job.
    """
    named = settings.read_values(config, overrides)
    command = "sweep" if "sweep" in named else "run"
    made = settings.checked(SweepConfig if command == "sweep" else ExperimentConfig, named, str(config))
    same = trials.identity(made) if isinstance(made, SweepConfig) else mlflow_runs.identity(made)
    same = digest_of([same, named.get("store"), made.tracking.uri])
    client = connect(address)
    earlier = [job for job in client.list_jobs() if job.metadata and job.metadata.get(LABEL) == same]
    for job in earlier:
        if job.status not in OVER and job.submission_id:
            return Job(job.submission_id, address, found=True)
    name = f"{made.name}-{same}-{len(earlier) + 1}"
    with tempfile.TemporaryDirectory() as folder:
        pack(made, Path(folder), without=() if "store" in named else ("store",))
        _send(client, f"python -m infoaug {command} {CONFIG}", name, folder, {LABEL: same})
    return Job(name, address, found=False)


def connect(address: str) -> JobSubmissionClient:
    """A client of a cluster's job server. Raises UsageError if none answers."""
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    # Ray would take the variable's word over the argument's.
    said = os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"no Ray job server answers at '{address}' ({why}): open its port, as `ray dashboard cluster.yaml` does, "
            "or give --address"
        ) from None
    finally:
        if said is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = said


def pack(config: ExperimentConfig, folder: Path, without: Iterable[str] = ()) -> None:
    """What a job is sent: the packages, and what the config sets, less `without`; neither data nor an environment."""
    # Links to the top-level folders of a clone are followed, so the job gets the package as a wheel would install it.
    shutil.copytree(Path(infoaug.__file__).parent, folder / "infoaug", ignore=shutil.ignore_patterns("__pycache__"))
    values = config.model_dump(mode="json", exclude_unset=True, exclude=set(without))
    values.get("ray", {}).pop("address", None)  # the job is told where its cluster is
    (folder / CONFIG).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _send(client: JobSubmissionClient, command: str, name: str, folder: str, metadata: dict[str, str]) -> None:
    """Submit a job. A cluster that has just started may not take one for some seconds, and is waited for."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.submit_job(
                entrypoint=command, submission_id=name, runtime_env={"working_dir": folder}, metadata=metadata
            )
            return
        except (RuntimeError, ConnectionError, ValueError) as error:
            if "No available agent" in str(error) and time.monotonic() < end:
                time.sleep(1)
                continue
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise StageError(f"the cluster at {client.get_address()} did not take the job: {why}") from None


def follow(job: Job, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write a job's log as it comes, until the job is over; a connection that breaks is made again.

    Raises:
        StageError: the job failed or was stopped, or the cluster is out of reach.
    """
    client, written, broken = connect(job.address), 0, 0

    async def tail() -> None:
        nonlocal written  # kept where the connection breaks: the log comes from its beginning each time
        seen = 0
        async for text in client.tail_job_logs(job.id):
            write(text[max(0, written - seen) :])
            seen += len(text)
            written = max(written, seen)

    while True:
        try:
            asyncio.run(tail())
            found = client.get_job_info(job.id)
            if found.status in OVER:
                return _end(job, found)
            broken = 0
        except (OSError, RuntimeError) as error:
            broken += 1
            if broken > ATTEMPTS:
                why = str(error).strip().partition("\n")[0]
                raise StageError(
                    f"the cluster at {job.address} is out of reach ({why}), job {job.id} may go on: {job.remedy()}"
                ) from None
            console.say(f"[yellow]the connection to {escape(job.address)} broke, trying again[/]")
        time.sleep(1)


def _end(job: Job, found: JobDetails) -> None:
    if found.status == JobStatus.STOPPED:
        raise StageError(f"job {job.id} was stopped; the same command goes on from what is complete")
    if found.status == JobStatus.FAILED:
        why = (found.message or "no reason given").strip().splitlines()[0].partition(", last available logs")[0]
        raise StageError(f"job {job.id} failed: {why}")
