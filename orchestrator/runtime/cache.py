"""Files of an object storage on this node's disk, for all processes and all runs on it, bounded in size."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import scratch
from infoaug.orchestrator.runtime.store import Store, digest_of

_log = logging.getLogger(__name__)


class Cache:
    """Local copies of a store's files. The least recently used ones are deleted when they take too much room.

    A file that a process has opened or mapped can be deleted: the system keeps it until the last process closes it.
    Files of a store in a local folder are not copied.
    """

    def __init__(
        self, store: Store, most: int, folder: Path | None = None, *, name: str = "cache", setting: str = "pretrain"
    ) -> None:
        """Keep what is needed.

        Args:
            store: whose files.
            most: bytes of all copies together, those of other stores included. What is held or being copied may exceed
                them.
            folder: of all copies; None: one below TMPDIR.
            name: of that folder. Caches with other bounds have other folders.
            setting: the section with the setting `cache`, which bounds it.
        """
        self._store, self._most, self._setting = store, most, setting
        self._all = folder or Path(tempfile.gettempdir()) / f"infoaug-{name}-{os.getuid()}"
        self._own = self._all / digest_of(store.uri)

    def fetch(self, path: str) -> Path:
        """The path of a file: of its local copy, which is made if it is missing, or of itself in a local folder.

        Raises:
            StageError: it cannot be read, or not be written to the disk.
        """
        if self._store.local:
            return self._store.local / path
        copy = self._own / path
        with self._told(path), self._locked(copy, fcntl.LOCK_EX):
            if not copy.exists():
                content = self._store.read_bytes(path)
                self._fill(copy, len(content), lambda to: to.write_bytes(content))
            os.utime(copy)
        return copy

    @contextlib.contextmanager
    def held(self, name: str, fetch: Callable[[], tuple[int, Callable[[Path], None]]]) -> Iterator[Path]:
        """The path of a copy, a file or a folder, that is not deleted while the context lasts.

        Args:
            name: of the copy, the same for the same content.
            fetch: called if it is missing; the bytes that it takes, and a function that makes it under a path.

        Raises:
            StageError: the disk does not take it; or what `fetch` and its function raise.
        """
        copy = self._own / name
        while True:
            with contextlib.ExitStack() as lock:
                with self._told(name):
                    lock.enter_context(self._locked(copy, fcntl.LOCK_SH))
                    found = copy.exists()
                    if found:
                        os.utime(copy)
                if found:
                    yield copy
                    return
            with self._told(name), self._locked(copy, fcntl.LOCK_EX):
                if not copy.exists():
                    self._fill(copy, *fetch())

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn errors of the disk into sentences."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise StageError(
                f"'{self._all}' does not take a copy of '{name}' ({why}): free some space, set TMPDIR to a folder of a "
                f"larger disk, or set {self._setting}.cache lower"
            ) from error

    @contextlib.contextmanager
    def _locked(self, copy: Path, how: int) -> Iterator[None]:
        """Wait for other processes that make, hold or delete the same copy."""
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = _lock_of(copy)
        while True:
            with path.open("w") as lock:
                fcntl.flock(lock, how)
                if _is_at(path, lock.fileno()):  # not deleted with its copy while this process waited
                    yield
                    return

    def _fill(self, copy: Path, size: int, write: Callable[[Path], object]) -> None:
        """Make a copy, whole or not at all."""
        self._make_room(size)
        written = Path(scratch.part_of(str(copy)))
        try:
            write(written)
            written.replace(copy)
        except BaseException:
            _delete(written)
            raise

    def _make_room(self, size: int) -> None:
        """Delete what was not used for the longest time, until a copy of so many bytes fits."""
        used = sorted(self._copies())
        total = size + sum(taken for _, taken, _ in used)
        for _, taken, copy in used:
            if total <= self._most:
                return
            with contextlib.suppress(OSError), self._locked(copy, fcntl.LOCK_EX | fcntl.LOCK_NB):  # nobody holds it
                _delete(copy)
                _lock_of(copy).unlink()
                total -= taken
                _log.info("deleted %s to make room for others", copy)

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """When each copy was last used, its bytes and its path. What killed processes have left is deleted."""
        for folder, folders, files in os.walk(self._all):
            copies = {name.removesuffix(".lock") for name in files if name.endswith(".lock")}
            for name in (*folders, *files):
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # another process has deleted it
                    if name.endswith(".part") and scratch.is_abandoned(name, path.stat().st_mtime):
                        _delete(path)
                    elif name in copies:
                        yield path.stat().st_mtime, _size(path), path
            folders[:] = [name for name in folders if name not in copies and not name.endswith(".part")]


def _lock_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.lock")


def _is_at(path: Path, opened: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def _size(copy: Path) -> int:
    if not copy.is_dir():
        return copy.stat().st_size
    return sum(file.stat().st_size for file in copy.rglob("*"))


def _delete(copy: Path) -> None:
    if copy.is_dir():
        shutil.rmtree(copy, ignore_errors=True)
    else:
        copy.unlink(missing_ok=True)
