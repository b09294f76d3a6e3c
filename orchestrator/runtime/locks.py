"""Locks between commands, of one machine or of several that share a file system.

The operating system releases a lock when its process ends, in whatever way: a lock file that is left behind blocks
nobody. A file system without locks has none, and work goes on.
"""

import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from infoaug.orchestrator.errors import UsageError

PAUSE = 0.1  # seconds between tries

_log = logging.getLogger(__name__)


@contextmanager
def hold(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock for as long as the context lasts.

    Args:
        path: the lock's file, which is created, and stays.
        what: what it protects, to begin the error's sentence with.
        patience: seconds to wait for the command that holds it.

    Raises:
        UsageError: another command still holds it. The sentence says which.
    """
    file = _opened(path)
    try:
        if file:
            _take(file, what, patience)
        yield
    finally:
        if file:
            with suppress(OSError):  # to the end of a full disk, or of a network drive
                file.close()  # which releases the lock


def _opened(path: Path) -> IO[str] | None:
    """The lock's file; None where no file can be written: what is to be protected says so itself."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        _log.debug("there is no lock %s: %s", path, error)
        return None


def _take(file: IO[str], what: str, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # another command has it
            if time.monotonic() > end:
                raise UsageError(f"{what} is in use by {_holder(file)}: wait until it has ended, or end it") from None
            time.sleep(PAUSE)
            continue
        except OSError as error:  # a file system without locks
            _log.debug("there is no lock %s: %s", file.name, error)
            return
        began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        with suppress(OSError):  # of a full disk: the lock holds all the same
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": began}))
            file.flush()
        return


def _holder(file: IO[str]) -> str:
    """Who holds a lock, by what its file says."""
    try:
        file.seek(0)
        held = json.loads(file.read())
        return f"another command (process {held['pid']} on {held['host']}, since {held['since']})"
    except (OSError, ValueError, LookupError, TypeError):  # it has just begun, or its disk is full
        return "another command"
