"""Main memory: how much a process may use, and the most that it has used."""

import contextlib
import os
import resource
import sys
from pathlib import Path

ROOT = Path("/")
# The files of a memory limit below a mount point of control groups: those of version 2, and of version 1.
_LIMITS = {"sys/fs/cgroup": "memory.max", "sys/fs/cgroup/memory": "memory.limit_in_bytes"}


def limit(root: Path = ROOT) -> int:
    """Bytes of main memory that this process may use: the machine's, or less if a container or a job has a limit.

    Control groups of both versions are asked, the process's own and all above it. A container often sees its own group
    as the topmost one, whatever /proc/self/cgroup says.

    Args:
        root: where /proc and /sys are.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = {Path()}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                own = Path(path.lstrip("/"))
                groups |= {own, *own.parents}
    for mount, name in _LIMITS.items():
        for group in groups:
            with contextlib.suppress(OSError, ValueError):  # no such group, or no limit
                limits.append(int((root / mount / group / name).read_text(encoding="utf-8")))
    return min(limits)


def reset_peak() -> None:
    """Let `peak` count from now on, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The most bytes of main memory that this process has held at once, since it started or since `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` also counts the process that started this one
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
