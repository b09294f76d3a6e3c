"""A Ray of this command's own on this machine: it listens on the loopback address, and ends with the command."""

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray._private.parameter as parameter
import ray._private.ray_constants as constants

# isort: split
import psutil  # Ray brings it along, and makes it importable when it is imported itself

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import interruption

ATTEMPTS = 2
# Seconds that Ray's processes and workers have to end by themselves: `docker stop` gives a command ten in all.
PATIENCE = 3.0
# Bytes of the path of a folder: those of the sockets in it must have at most 107, on macOS 103. In the folder of its
# sessions Ray has some; where TMPDIR says, Python has some in Ray's dashboard.
LONGEST = 103 - len("/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
LONGEST_TMPDIR = 103 - len("/pymp-00000000/listener-00000000")

_log = logging.getLogger(__name__)
_processes: list[psutil.Process] = []


def start(cpus: int | None = None, object_store_mb: int | None = None, **options: Any) -> None:
    """Start Ray, and connect to it. A machine that is busy gets a second attempt.

    Args:
        cpus: that Ray may use; None: all.
        object_store_mb: MiB of Ray's object store; None: as Ray chooses.
        options: further ones of `ray.init`.

    Raises:
        StageError: Ray does not start.
    """
    options |= folders()
    _set_environment(cpus or os.cpu_count() or 1)
    if object_store_mb:
        options["object_store_memory"] = object_store_mb * 2**20
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _start(num_cpus=cpus, **options)
        except Exception as error:  # Ray raises errors of many classes here, a bare Exception among them
            _log.warning("Ray did not start, attempt %d of %d", attempt, ATTEMPTS, exc_info=error)
            if attempt == ATTEMPTS or _is_lasting(error):
                raise StageError(_sentence(error)) from error


def _start(**options: Any) -> None:
    port, before = free_port(), psutil.Process().children()
    # Ray Train asks the dashboard which trainings are alive, and frees the resources of the others. If another Ray
    # runs on this machine, it would ask that one's: the workers inherit the right address.
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    options |= {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    started = False
    try:
        with interruption.kept(), _loopback():
            ray.init(address="local", **options)
        started = True
    finally:
        _processes.extend(child for child in psutil.Process().children() if child not in before)
        if not started:  # Ray leaves the processes that it had started
            with interruption.held():
                end()


def end() -> None:
    """Shut Ray down, and end what it leaves of its processes and workers."""
    # Workers are below Ray's processes: they must be found before those end.
    running = [*_processes]
    for process in _processes:
        with suppress(psutil.Error):
            running += process.children(recursive=True)
    _processes.clear()
    ray.shutdown()
    _, left = psutil.wait_procs(running, timeout=PATIENCE)
    for process in left:
        _log.warning("process %d of Ray is still there, and is killed", process.pid)
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE)


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folders() -> dict[str, str]:
    """Where Ray keeps its sessions and what it spills, if the path of TMPDIR is too long for sockets of sessions.

    Raises:
        StageError: it is too long for any socket.
    """
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) > LONGEST_TMPDIR:
        raise StageError(
            f"Ray does not start with the path of TMPDIR, {temporary}, which is too long for a socket: set it to a "
            f"folder with a path of at most {LONGEST_TMPDIR} bytes"
        )
    usual = Path(os.environ.get("RAY_TMPDIR") or temporary) / "ray"
    if len(os.fsencode(usual)) <= LONGEST:
        return {}
    usual.mkdir(parents=True, exist_ok=True)
    return {"_temp_dir": f"/tmp/ray-{os.getuid()}", "object_spilling_directory": str(usual)}


def _set_environment(cpus: int) -> None:
    """Set what the processes of Ray inherit."""
    # Saves two processes and some seconds per training: this machine is not preempted, and nobody scrapes metrics.
    for name in ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_METRICS_ENABLED"):
        os.environ.setdefault(name, "0")
    # Idle workers stay for a minute: the next training or evaluation need not import everything again.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(cpus + 6))
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Ranks meet on the loopback address too.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    # Ray's parts ask each other by HTTP, and would send that to a proxy.
    for name in ("no_proxy", "NO_PROXY"):
        if "127.0.0.1" not in os.environ.get(name, ""):
            os.environ[name] = f"{os.environ.get(name, '')},127.0.0.1,localhost".lstrip(",")
    try:
        (Path.home() / ".ray").mkdir(parents=True, exist_ok=True)
        writable = os.access(Path.home() / ".ray", os.W_OK)
    except (OSError, RuntimeError):
        writable = False
    if not writable:  # Ray writes the token there with which its processes trust each other
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _is_lasting(error: Exception) -> bool:
    """Whether Ray would fail in the same way at once: a path or a setting is wrong, rather than the machine busy."""
    return isinstance(error, OSError | ValueError) and not isinstance(error, ConnectionError | TimeoutError)


def _sentence(error: Exception) -> str:
    why = str(error).strip().partition("\n")[0].rstrip(".:")[:300] or type(error).__name__
    if isinstance(error, OSError) and _is_lasting(error):
        remedy = "set TMPDIR to a folder that can be written to and has a short path"
    elif _is_lasting(error):
        remedy = "set ray.cpus and ray.object_store_mb to what this machine has"
    else:
        remedy = "run the same command again when the machine is less busy, or set ray.cpus lower"
    return f"Ray did not start on this machine ({why}): {remedy}"


@contextmanager
def _loopback() -> Iterator[None]:
    """Make Ray take the loopback address: on Linux it takes an outside one even if it is given the loopback address.

    Its processes and jobs inherit that. Its agent gets a free port: the default port may be another Ray's on this
    machine, which would run this one's jobs. Ray's handler of fatal signals, which takes SIGTERM for one, is left out.
    """
    kept = constants.ENABLE_RAY_CLUSTER, constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, parameter.RayParams
    inherited = os.environ.get(constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    constants.ENABLE_RAY_CLUSTER, constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = False, True
    parameter.RayParams = partial(parameter.RayParams, dashboard_agent_listen_port=0)
    os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER, constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, parameter.RayParams = kept
        del os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        if inherited is not None:
            os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = inherited
