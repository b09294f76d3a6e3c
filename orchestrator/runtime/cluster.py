"""The Ray cluster that a command runs on: an existing one, or a Ray of its own on this machine.

Ray is imported by the functions that use it: the stages import this file, and a dry run imports the stages.
"""

import json
import logging
import os
import socket
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from infoaug.models import own_code
from infoaug.orchestrator.config import RayConfig
from infoaug.orchestrator.errors import StageError, UsageError, remedy, worth_retrying
from infoaug.orchestrator.runtime import console, interruption
from infoaug.orchestrator.runtime.store import Store

T = TypeVar("T")

# The task of a dead worker is tried again this often, and after all others so is each of its rows by itself.
RETRIES = 2
DEATHS_OF_A_ROW = 2 * (RETRIES + 1)
TASKS_PER_CPU = 4  # at least: with few rows, tasks are made smaller, so that no CPU waits long for the last task
CHUNK = 20_000  # rows that Ray holds at once: its memory does not grow with the number of clips
CONNECT_S = 10.0  # that the port of a cluster has to answer
DIED = f"its worker died {DEATHS_OF_A_ROW} times, of a crash or out of memory: leave it out, or cut it down"

_log = logging.getLogger(__name__)
_data_log = logging.getLogger("ray.data")


def connect(config: RayConfig) -> None:
    """Connect to the cluster of `config.address` or RAY_ADDRESS, or start Ray on this machine. Once per process.

    Raises:
        UsageError: no cluster answers at the address.
        StageError: Ray does not start on this machine.
    """
    import ray.data

    from infoaug.orchestrator.runtime import local_ray

    if ray.is_initialized():
        return
    address = address_of(config)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    _log.info("connecting to Ray at '%s'", address)
    if address == "local":
        console.say("starting Ray on this machine")
        local_ray.start(config.cpus, config.object_store_mb, **quiet)
    else:
        # Workers of this machine look for modules where this process does; those of others get the user's own code.
        own = [str(path) for path in own_code.sources()]
        _join(address, **quiet, **({"runtime_env": {"py_modules": own}} if own else {}))
    _log.info("Ray %s with %s", ray.__version__, _summary(ray.cluster_resources()))
    # Ray Data prints its plans, and a traceback for each dead worker: the ledger has a sentence for each instead.
    _data_log.setLevel(logging.ERROR)
    _data_log.handlers, _data_log.propagate = [], False
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # an input that kills its worker costs a block, not the whole job
    context.execution_no_progress_timeout_s = 600


def _join(address: str, **options: Any) -> None:
    """Connect to a cluster. Its port is tried first: Ray waits for a quarter of an hour where nothing listens.

    Raises:
        UsageError: no cluster answers.
    """
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    try:
        # As Ray resolves it: `auto` is the cluster that was last started on this machine.
        named = address.partition("://")[2] if "://" in address else canonicalize_bootstrap_address(address)
        if named is None:
            raise ConnectionError("none was started on this machine")
        host, _, port = named.rpartition(":")
        socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=CONNECT_S).close()
        with interruption.kept():
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises errors of many classes here, a bare Exception among them
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise UsageError(f"no Ray cluster answers at '{address}': start one, or unset it ({why})") from error


def address_of(config: RayConfig) -> str:
    """The cluster's address: the config's, else RAY_ADDRESS, else `local`, which starts a Ray for this command."""
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def session(config: RayConfig) -> Iterator[None]:
    """Shut Ray down at the end, unless it ran before."""
    import ray

    from infoaug.orchestrator.runtime import local_ray

    ran_before = ray.is_initialized()
    try:
        yield
    finally:
        if not ran_before and ray.is_initialized():
            with interruption.held():
                local_ray.end()


def check_shared(store: Store) -> None:
    """Check that every node sees what this process writes to the store, which may be a folder of this machine only.

    Raises:
        UsageError: a node does not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or store.local is None:
        return
    mark = f"seen-{uuid.uuid4().hex[:8]}"
    store.write_bytes(f"{mark}/here", b"")
    try:
        look = ray.remote(num_cpus=0)(_sees)
        on_each = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        seen = ray.get([look.options(scheduling_strategy=on_one).remote(store, f"{mark}/here") for on_one in on_each])
    finally:
        store.delete(mark)
    for node, sees in zip(nodes, seen, strict=True):
        if not sees:
            raise UsageError(
                f"node '{node['NodeManagerHostname']}' does not see the files of the store {store.uri}: give a store "
                "that all nodes share, such as a network disk or s3://bucket/path"
            )


def _sees(store: Store, path: str) -> bool:
    return store.exists(path)


def _summary(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))


def cpus() -> int:
    """CPUs of the connected cluster, at least 1."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> int:
    """GPUs of the connected cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def most_cpus(gpu: bool) -> int:
    """The most CPUs that a task may ask for: those of the largest node; with a GPU, the fewest per GPU of any node.

    A task that asks for more than any node has would wait forever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    per_gpu = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    most = min(per_gpu) if gpu and per_gpu else max((node.get("CPU", 0) for node in nodes), default=1)
    return max(1, int(most))


def per_worker(workers: int, cpus_per_worker: int | None, gpu: bool | None) -> tuple[int, bool]:
    """The CPUs of each training worker, and whether each gets a GPU; both as set, or as the cluster allows.

    By default a worker gets a GPU if there is one for each, together with the CPUs that its node has per GPU. Without
    GPUs the workers share all CPUs, but none gets more than one node has.
    """
    gpu = gpus() >= workers if gpu is None else gpu
    default = most_cpus(gpu) if gpu else min(most_cpus(gpu), max(1, cpus() // workers))
    return cpus_per_worker or default, gpu


def in_background(work: Callable[[], T]) -> Future[T]:
    """Run work in a thread: in the main thread, Ray Train and Ray Tune would handle Ctrl-C themselves."""
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
    """Run `work` over rows with Ray Data, and yield each row with its status as tasks finish, in any order.

    A task takes one CPU and `gpus` GPUs. Rows and statuses travel as JSON: large data goes through the store. Without
    rows, Ray is not needed. A task whose worker dies is tried again `RETRIES` times, and after all tasks each of
    its rows alone, as often: what killed it may have been the machine's lack of memory. A row that fails even then is
    not yielded.

    Args:
        rows: what to work on.
        work: yields a small status for each of its rows, in their order. Its statuses of failed rows, made by
            `failure`, have a `traceback`, which goes to the log and is taken off.
        block: the most neighbouring rows of a task.
        gpus: of a task, may be a fraction.

    Raises:
        StageError: the pipeline failed as a whole, or `work` raised it because the store failed.
    """
    alone: list[dict[str, Any]] = []
    logged: set[str] = set()
    for begin in range(0, len(rows), CHUNK):
        chunk = rows[begin : begin + CHUNK]
        size = max(1, min(block, len(chunk) // (TASKS_PER_CPU * cpus())))
        left = dict(enumerate(chunk))
        for number, status in _mapped(chunk, work, size, gpus):
            row = left.pop(number)
            _log_failure(row, status, logged)
            yield row, status
        if left:
            _log.warning("%d rows have no status: the workers of their tasks died %d times", len(left), RETRIES + 1)
        alone += left.values()
    for number, status in _mapped(alone, work, 1, gpus):
        _log_failure(alone[number], status, logged)
        yield alone[number], status


def _mapped(
    rows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    size: int,
    gpus: float,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `map_rows` with `size` rows to a task: a row's number and status, without rows of tasks that were given up."""
    if not rows:
        return
    import ray.data

    def call(batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        numbers, given = zip(*map(json.loads, batch["item"]), strict=True)
        try:
            for number, status in zip(numbers, work(list(given)), strict=True):
                yield {"status": [json.dumps([number, status])]}
        except StageError as error:
            yield {"status": [json.dumps([None, {"error": str(error), "traceback": traceback.format_exc()}])]}

    items = [json.dumps([number, row]) for number, row in enumerate(rows)]
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // size))
    with warnings.catch_warnings():
        # Without it, Data retries a dead worker's block forever. It is deprecated, and there is no other way yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = data.map_batches(
            call, batch_size=None, batch_format="numpy", num_cpus=1, num_gpus=gpus or None, max_retries=RETRIES
        )
    try:
        with _errors_of_tasks() as errors:
            for row in results.iter_rows():
                number, status = json.loads(row["status"])
                if number is None:
                    _log.error("a task stopped:\n%s", status["traceback"])
                    raise StageError(status["error"])
                yield number, status
    except ray.exceptions.RayError as error:
        raise _gave_up(error) from error
    # What a row can do to its worker. Any other error of a task is no row's fault.
    gone = ray.exceptions
    deaths = gone.WorkerCrashedError, gone.OutOfMemoryError, gone.NodeDiedError, gone.ObjectLostError
    if others := [error for error in errors if not isinstance(error, deaths)]:
        raise _gave_up(others[0]) from others[0]


def _gave_up(error: BaseException) -> StageError:
    why = str(error).strip().splitlines()[-1]
    return StageError(f"Ray Data gave up: {why}; {remedy(error)}", retry=worth_retrying(error))


@contextmanager
def _errors_of_tasks() -> Iterator[list[BaseException]]:
    """Collect the errors of tasks that were given up: Ray Data goes on, and has them in its log alone."""
    errors: list[BaseException] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                errors.append(record.exc_info[1])
                _log.warning("a task was given up", exc_info=record.exc_info)

    collector = Collector(logging.ERROR)
    _data_log.addHandler(collector)
    try:
        yield errors
    finally:
        _data_log.removeHandler(collector)


def _log_failure(row: dict[str, Any], status: dict[str, Any], logged: set[str]) -> None:
    """Log why a row failed. A traceback is written once: it may be the same for thousands of clips."""
    trace = status.pop("traceback", "")
    if not status.get("reason"):
        return
    name = row.get("folder") or row.get("clip_id")
    _log.warning("%s, window %s: %s", name, row.get("window", "–"), status["reason"])
    frames = "\n".join(line for line in trace.splitlines() if line.startswith("  "))
    if trace and frames not in logged:
        logged.add(frames)
        _log.warning("its traceback, on the worker:\n%s", trace)


def map_windows(
    windows: Sequence[dict[str, Any]],
    work: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]],
    block: int,
    what: str,
    gpus: float = 0,
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[tuple[str, int], str]]:
    """`map_rows` over windows, with progress.

    Args:
        windows: rows with `folder` and `window`.
        work: yields statuses with a `reason`, which is empty for a window that succeeded.
        block: the most neighbouring windows of a task.
        what: the label of the progress bar.
        gpus: of a task.

    Returns:
        The statuses of the windows that succeeded and the reasons of those that failed, by (folder, window). A window
        without a status failed because its worker died.
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


def failure(error: Exception) -> dict[str, Any]:
    """The status of a row that failed, from within the `except`: `reason` for the ledger, `traceback` for the log."""
    return {"reason": reason(error), "traceback": traceback.format_exc()}


def reason(error: Exception) -> str:
    """An error as one line for a ledger. ValueErrors and StageErrors are sentences; others need their class's name."""
    line = " ".join(str(error).split())[:300]
    return line if isinstance(error, ValueError | StageError) else f"{type(error).__name__}: {line}"
