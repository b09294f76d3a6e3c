"""The Ray cluster a command runs on: the one it is pointed to, or this machine."""

import json
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import ray.data

from orchestrator import progress
from orchestrator.config import RayConfig
from orchestrator.errors import StageError, UsageError

T = TypeVar("T")

# A dead worker's block is tried again this often; then it is given up, and its windows go to the ledger.
RETRIES = 2
DIED = f"the worker died on it {RETRIES + 1} times"


def connect(config: RayConfig) -> None:
    """Connect to the cluster of `config.address` or RAY_ADDRESS, or start Ray on this machine. Once per process.

    Raises:
        UsageError: no cluster answers at the address.
    """
    if ray.is_initialized():
        return
    address = address_of(config)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # Two processes and some seconds less for every training: here nothing is preempted, and nobody scrapes metrics.
        for name in ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_METRICS_ENABLED"):
            os.environ.setdefault(name, "0")
        # A process that is done waits a minute for the next training or evaluation, which need not import again.
        os.environ.setdefault("RAY_num_workers_soft_limit", str((config.cpus or os.cpu_count() or 1) + 6))
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
        # Ray Train asks the dashboard which trainings are alive, to free the places of the others. Beside another Ray
        # it would not know whom to ask: all processes of this one inherit the address.
        port = _free_port()
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        options |= {"num_cpus": config.cpus, "include_dashboard": True}
        options |= {"dashboard_host": "127.0.0.1", "dashboard_port": port}
        if config.object_store_mb:
            options["object_store_memory"] = config.object_store_mb * 2**20
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        if address == "local":
            raise StageError(f"Ray did not start on this machine: {reason}") from None
        raise UsageError(f"no Ray cluster answers at '{address}': start one, or unset it ({reason})") from None
    # Ray Data would tell of each plan and print a traceback for each dead worker; the ledgers say it in a sentence.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # an input that kills its worker costs its block, not the job
    context.execution_no_progress_timeout_s = 600


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def address_of(config: RayConfig) -> str:
    """Where the cluster is: the config's address, else RAY_ADDRESS, else `local`, a Ray of this command's own."""
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def session(config: RayConfig) -> Iterator[None]:
    """Ray for the length of a command, left running if it ran before."""
    mine = not ray.is_initialized()
    try:
        yield
    finally:
        if mine and ray.is_initialized():
            ray.shutdown()


def cpus() -> int:
    """CPUs of the connected cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> int:
    """GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def share(workers: int, cpus_per_worker: int | None, gpu: bool | None) -> tuple[int, bool]:
    """CPUs of each of a training's workers, and whether each gets a GPU, where the config leaves that open.

    A worker gets a GPU if there is one for each, and with it as many of its node's CPUs; without GPUs the workers share
    all CPUs, but no worker gets more than a node has.
    """
    gpu = gpus() >= workers if gpu is None else gpu
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    with_gpu = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
    usual = min(with_gpu) if gpu and with_gpu else min(largest, cpus() // workers)
    return cpus_per_worker or max(1, usual), gpu


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do work in a thread of its own; in the main thread Ray Train and Ray Tune would take Ctrl-C for themselves."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def map_rows(
    rows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    block: int,
    gpus: float = 0,
) -> Iterator[dict[str, Any]]:
    """Run `work` over rows with Ray Data, `block` neighbouring rows to a task, and yield its small status rows.

    A task takes one CPU and `gpus` GPUs.

    Rows travel as JSON: what is large goes through the store. No rows, no Ray.
    Status rows come as blocks finish, in any order. A block whose worker dies is tried again `RETRIES` times, then left
    out: the caller compares what came back with what it sent.

    Raises:
        StageError: the pipeline itself failed.
    """

    if not rows:
        return

    def call(batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for status in work([json.loads(row) for row in batch["item"]]):
            yield {"status": [json.dumps(status)]}

    data = ray.data.from_items([json.dumps(row) for row in rows], override_num_blocks=-(-len(rows) // block))
    with warnings.catch_warnings():
        # Data would retry a dead worker's block for ever; this is still the only way to say how often.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = data.map_batches(
            call, batch_size=None, batch_format="numpy", num_cpus=1, num_gpus=gpus or None, max_retries=RETRIES
        )
    try:
        yield from (json.loads(row["status"]) for row in results.iter_rows())
    except ray.exceptions.RayError as error:
        raise StageError(f"Ray Data gave up: {str(error).strip().splitlines()[-1]}") from error


def map_windows(
    windows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    block: int,
    what: str,
    gpus: float = 0,
) -> dict[tuple[str, int], str]:
    """`map_rows` over windows, with progress: why each that failed did so, by (folder, window).

    `work` yields a row with `folder`, `window` and `reason` for each, the reason empty if it went well; what does not
    come back died with its worker.
    """
    failed = {(row["folder"], row["window"]): DIED for row in windows}
    for status in progress.track(map_rows(windows, work, block, gpus), len(windows), what):
        key = (status["folder"], status["window"])
        if status["reason"]:
            failed[key] = status["reason"]
        else:
            del failed[key]
    return failed


def reason(error: Exception) -> str:
    """An error as one line for a ledger; the type's name is added where the error is not one of ours to the user."""
    line = " ".join(str(error).split())[:300]
    return line if isinstance(error, ValueError | StageError) else f"{type(error).__name__}: {line}"
