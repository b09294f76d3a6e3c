"""Files of an object storage on this node's disk, for all processes and all runs on it, bounded in size."""

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
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

    def __init__(self, store: Store, most: int, folder: Path | None = None) -> None:
        """Keep what is needed.

        Args:
            store: whose files.
            most: bytes of all copies together, those of other stores included.
            folder: of all copies; None: one below TMPDIR.
        """
        self._store, self._most = store, most
        self._all = folder or Path(tempfile.gettempdir()) / f"infoaug-cache-{os.getuid()}"
        self._own = self._all / digest_of(store.uri)

    def fetch(self, path: str) -> Path:
        """The path of a file: of its local copy, which is made if it is missing, or of itself in a local folder.

        Raises:
            StageError: it cannot be read, or not be written to the disk.
        """
        if self._store.local:
            return self._store.local / path
        copy = self._own / path
        try:
            with self._locked(copy):
                if not copy.exists():
                    content = self._store.read_bytes(path)
                    self._make_room(len(content))
                    written = Path(scratch.part_of(str(copy)))
                    written.write_bytes(content)
                    written.replace(copy)
                os.utime(copy)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise StageError(
                f"'{self._all}' does not take a copy of '{path}' ({why}): free some space, set TMPDIR to a folder of a "
                "larger disk, or set pretrain.cache lower"
            ) from error
        return copy

    @contextlib.contextmanager
    def _locked(self, copy: Path) -> Iterator[None]:
        """Wait for other processes that copy the same file."""
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with copy.with_name(f"{copy.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        """Delete what was not used for the longest time, until a file of so many bytes fits."""
        used: list[tuple[float, int, Path]] = []
        for path in self._all.rglob("*"):
            with contextlib.suppress(OSError):  # another process has deleted it
                state = path.stat()
                if path.suffix == ".part":
                    if scratch.is_abandoned(path.name, state.st_mtime):
                        path.unlink()
                elif path.is_file() and path.suffix != ".lock":
                    used.append((state.st_mtime, state.st_size, path))
        total = size + sum(taken for _, taken, _ in used)
        for _, taken, path in sorted(used):
            if total <= self._most:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= taken
                _log.info("deleted %s to make room for other shards", path)
