"""The Ray cluster a command runs on: the one it is pointed to, or this machine."""

import json
import logging
import os
import socket
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infoaug.orchestrator.config import RayConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.runtime.store import Store

T = TypeVar("T")

# A dead worker's task is tried again this often, then each of its rows; then it is given up, and goes to the ledger.
RETRIES = 2
TASKS_PER_CPU = 4  # at least, so that no worker waits long for the last: with little to do, tasks are smaller
CHUNK = 20_000  # rows that Ray holds at once: what it needs does not grow with the number of clips
DIED = f"its worker died {RETRIES + 1} times, of a crash or out of memory: leave it out, or cut it down"


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
        port = free_port()
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


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
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


def check_shared(store: Store) -> None:
    """Find out whether every node sees what this process writes to the store, which may be a folder of this machine.

    Raises:
        UsageError: a node does not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or store.local is None:
        return
    mark = f"seen-{uuid.uuid4().hex[:8]}"
    store.write_bytes(f"{mark}/here", b"")
    try:
        look = ray.remote(num_cpus=0)(_sees)
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        seen = ray.get([look.options(scheduling_strategy=place).remote(store, f"{mark}/here") for place in places])
    finally:
        store.delete(mark)
    for node, sees in zip(nodes, seen, strict=True):
        if not sees:
            raise UsageError(
                f"the store {store.uri} is another folder on node '{node['NodeManagerHostname']}' than here: give one "
                "that all nodes share, as a network disk or s3://bucket/path"
            )


def _sees(store: Store, path: str) -> bool:
    return store.exists(path)


def cpus() -> int:
    """CPUs of the connected cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> int:
    """GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def largest(gpu: bool) -> int:
    """CPUs that a task may ask for at most: a node's, or with a GPU those that every node has for each of its own.

    A task that asks for more than any node has waits for ever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for_each = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    found = min(for_each) if gpu and for_each else max((node.get("CPU", 0) for node in nodes), default=1)
    return max(1, int(found))


def share(workers: int, cpus_per_worker: int | None, gpu: bool | None) -> tuple[int, bool]:
    """CPUs of each of a training's workers, and whether each gets a GPU, where the config leaves that open.

    A worker gets a GPU if there is one for each, and with it as many of its node's CPUs; without GPUs the workers share
    all CPUs, but no worker gets more than a node has.
    """
    gpu = gpus() >= workers if gpu is None else gpu
    usual = largest(gpu) if gpu else min(largest(gpu), max(1, cpus() // workers))
    return cpus_per_worker or usual, gpu


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
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Run `work` over rows with Ray Data, up to `block` neighbouring rows to a task: each row, and what came of it.

    A task takes one CPU and `gpus` GPUs; `work` yields one small status for each of its rows, in their order.

    Rows travel as JSON: what is large goes through the store. No rows, no Ray.
    What comes back comes as tasks finish, in any order. A task whose worker dies is tried again `RETRIES` times, then
    each of its rows alone, as often; what still does not come back is left out.

    Raises:
        StageError: the pipeline itself failed, or `work` raised it: the store's fault, and no row's.
    """
    alone: list[dict[str, Any]] = []
    for begin in range(0, len(rows), CHUNK):
        chunk = rows[begin : begin + CHUNK]
        size = max(1, min(block, len(chunk) // (TASKS_PER_CPU * cpus())))
        left = dict(enumerate(chunk))
        for place, status in _mapped(chunk, work, size, gpus):
            yield left.pop(place), status
        alone += left.values() if size > 1 else ()
    for place, status in _mapped(alone, work, 1, gpus):
        yield alone[place], status


def _mapped(
    rows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    size: int,
    gpus: float,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `map_rows`, `size` rows to a task, but for the rows of tasks that were given up: a row's number and status."""
    if not rows:
        return

    def call(batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        places, given = zip(*map(json.loads, batch["item"]), strict=True)
        try:
            for place, status in zip(places, work(list(given)), strict=True):
                yield {"status": [json.dumps([place, status])]}
        except StageError as error:
            yield {"status": [json.dumps([None, str(error)])]}

    items = [json.dumps([place, row]) for place, row in enumerate(rows)]
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // size))
    with warnings.catch_warnings():
        # Data would retry a dead worker's block for ever; this is still the only way to say how often.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = data.map_batches(
            call, batch_size=None, batch_format="numpy", num_cpus=1, num_gpus=gpus or None, max_retries=RETRIES
        )
    try:
        for row in results.iter_rows():
            place, status = json.loads(row["status"])
            if place is None:
                raise StageError(status)
            yield place, status
    except ray.exceptions.RayError as error:
        raise StageError(f"Ray Data gave up: {str(error).strip().splitlines()[-1]}") from error


def map_windows(
    windows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    block: int,
    what: str,
    gpus: float = 0,
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[tuple[str, int], str]]:
    """`map_rows` over windows, with progress: what came of each, and why each that failed did so, by (folder, window).

    `work` yields statuses with a `reason`, empty if it went well; what does not come back died with its worker.
    """
    done: dict[tuple[str, int], dict[str, Any]] = {}
    failed = {(row["folder"], row["window"]): DIED for row in windows}
    for row, status in console.track(map_rows(windows, work, block, gpus), len(windows), what):
        key = (row["folder"], row["window"])
        if status["reason"]:
            failed[key] = status["reason"]
        else:
            del failed[key]
            done[key] = status
    return done, failed


def reason(error: Exception) -> str:
    """An error as one line for a ledger; the type's name is added where the error is not one of ours to the user."""
    line = " ".join(str(error).split())[:300]
    return line if isinstance(error, ValueError | StageError) else f"{type(error).__name__}: {line}"
