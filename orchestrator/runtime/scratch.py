"""Temporary folders and files that do not outlive their process for long, however it ends: a later one deletes them.

A folder is locked while its process lives. The system releases the lock when the process ends, even if it is killed, so
a folder that can be locked has no owner. Unlike a process id, this holds across containers that share a folder.
"""

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from infoaug.models import memory
from infoaug.orchestrator.errors import StageError

PREFIX, LOCK, FILES = "infoaug-", "lock", "files"
DAY = 24 * 3600
IN_MEMORY = 0.2  # share of the memory that this process may use, above which an array is in a file

_log = logging.getLogger(__name__)


def path_of(name: str) -> Path:
    """Where TMPDIR says that the folder of a name lies."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{name}" / FILES


@contextmanager
def folder(name: str = "") -> Iterator[Path]:
    """An empty folder, deleted at the end. Those of processes that were killed are deleted first.

    `name`: a unique one, by which another process finds the folder; by default nobody else needs it.
    """
    sweep()
    path = path_of(name or uuid.uuid4().hex)
    home = path.parent
    home.mkdir(mode=0o700, parents=True)
    try:
        path.mkdir()
        with (home / f"{LOCK}-new").open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks, where no folder is swept
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (home / f"{LOCK}-new").replace(home / LOCK)  # under its name only once it is locked
            yield path
    finally:
        shutil.rmtree(home, ignore_errors=True)


def array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros, in main memory or, if it is large, mapped from a file in TMPDIR.

    The file has no name. The system deletes it with the array, or with the process, however it ends.

    Raises:
        StageError: the disk has too little room.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY * memory.limit():
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix=PREFIX) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise StageError(
            f"{size >> 20} MiB do not fit in '{tempfile.gettempdir()}' ({error.strerror}): free some space, set TMPDIR "
            "to a folder of a larger disk, or set evaluate.limit"
        ) from None


def _reserve(file: int, size: int) -> None:
    """Give a file its room on the disk: where that is missing, writing to a mapped page would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.truncate(file, size)


def sweep() -> None:
    """Delete the folders whose processes have ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _log.info("deleting %s, which a process that was killed has left", path)
            shutil.rmtree(path, ignore_errors=True)


def part_of(target: str) -> str:
    """A temporary name for a file that this process writes, from which others see whether the process still lives."""
    return f"{target}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


def is_abandoned(name: str, modified: float) -> bool:
    """Whether the process that wrote a file under a name of `part_of` has ended.

    `modified`: seconds since 1970. What a process of another machine writes is taken as abandoned after a day.
    """
    written_by = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part$", name)
    if not written_by or written_by[1] != _machine():
        return name.endswith(".part") and time.time() - modified > DAY
    try:
        os.kill(int(written_by[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


@cache
def _machine() -> str:
    """Tells machines apart, and containers whose process ids are their own."""
    namespace = Path("/proc/self/ns/pid")
    own = str(namespace.readlink()) if namespace.is_symlink() else ""
    return hashlib.sha256(f"{socket.gethostname()} {own}".encode()).hexdigest()[:8]
