"""Files at URLs that stages read: what their storage says of them, and their bytes."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyarrow import fs

from infoaug.estimators.video.clip_files import ClipError
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import without_secrets
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.settings import one_line

T = TypeVar("T")

AT_ONCE = 16 << 20  # bytes of a request

# A query is what pyarrow is told, `?name=value`: names of files may hold question marks, and so do globs.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://[^/?]*)/*(.*?)/*(\?[\w.-]+=[^/]*)?")
# The storage does not answer, as its libraries say it. Any other error is one of the file.
_AWAY = re.compile(
    r"network|connect|resolve|name or service|timed? ?out|unavailable|unreachable|slow_?down|throttl|internal.?error|"
    r"offline",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"access.?denied|permission|forbidden|unauthori[sz]ed|unauthenticated|credential|\b40[13]\b", re.I
)
_TRY_AGAIN = "check the network and the URL, and run the same command again"
# By what fsspec's file systems tell the versions of a file, the best first.
_VERSIONS = ("blob_id", "ETag", "etag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
_WAITS = (1, 5)  # seconds, of a task that gets no answer


class File(NamedTuple):
    """A file as its storage lists it.

    Attributes:
        path: below the storage's bucket.
        size: bytes.
        version: changes when the file is written again: the second in which it was, or a name of its content.
    """

    path: str
    size: int
    version: str


class Remote(Store):
    """A bucket, a container or a repository to read from, opened as the store is. Paths are relative to it.

    Its methods raise ClipError for one file that is missing or may not be read, and StageError if the storage does not
    answer: what is computed must not depend on that.
    """

    called = "the storage"

    def __init__(self, location: str) -> None:
        patience = ""
        if location.startswith(("gs:", "gcs:")) and "retry_limit_seconds" not in location:
            patience = ("&" if "?" in location else "?") + "retry_limit_seconds=60"  # by default a quarter of an hour
        super().__init__(location + patience)
        self.uri, self._root = location, self._root.strip("/")
        self._base = location.partition("?")[0].rstrip("/")

    def file(self, path: str) -> File | None:
        """What the storage says of a file; None for a folder.

        Raises:
            ClipError: there is neither.
        """
        with self._as_stage_error("read", path):
            if self._fsspec:
                said = self._fsspec.info(self._at(path))
                return None if said["type"] == "directory" else self._said(said)
            info = self._fs.get_file_info(self._at(path))
            if info.type == fs.FileType.NotFound:
                raise FileNotFoundError
            return self._file(info) if info.is_file else None

    def listed(self, folder: str, recursive: bool = True) -> list[File]:
        """All files below a folder, or directly in it."""
        with self._as_stage_error("list", folder):
            if self._fsspec:
                if recursive:
                    self._fsspec.invalidate_cache()  # of an earlier list
                found = self._fsspec.find(self._at(folder), maxdepth=None if recursive else 1, detail=True)
                return [self._said(said) for said in found.values()]
            infos = self._fs.get_file_info(fs.FileSelector(self._at(folder), recursive=recursive))
            return [self._file(info) for info in infos if info.is_file]

    def copy(self, path: str, to: Path) -> None:
        """Write the bytes of a file to a local one; OSError if the disk does not take them."""
        with self._as_stage_error("read", path):
            stream = self._fs.open_input_stream(self._at(path))
        with stream, to.open("wb") as file:
            while True:
                with self._as_stage_error("read", path):
                    part = stream.read(AT_ONCE)
                if not part:
                    return
                file.write(part)

    def shown(self, path: str) -> str:
        """The URL of a path without the query that opens the storage: for sentences."""
        return f"{self._base}/{path}"

    @property
    def _fsspec(self) -> Any:
        """The file system of fsspec behind pyarrow's, which says more of a file; None for pyarrow's own."""
        handler = getattr(self._fs, "handler", None)
        return handler.fs if isinstance(handler, fs.FSSpecHandler) else None

    def _file(self, info: fs.FileInfo) -> File:
        # In seconds: some servers say more of them when they list files than when they are asked for one.
        return File(self._below(info.path), info.size or 0, str((info.mtime_ns or 0) // 10**9))

    def _said(self, said: Mapping[str, Any]) -> File:
        version = next((said[name] for name in _VERSIONS if said.get(name)), "")
        if isinstance(version, datetime):
            version = version.timestamp()
        text = f"{version:.3f}" if isinstance(version, float) else str(version)
        return File(self._below(said["name"]), said["size"] or 0, text)

    def _below(self, path: str) -> str:
        return path.strip("/")[len(self._root) :].lstrip("/")

    @contextmanager
    def _as_stage_error(self, what: str, path: str) -> Iterator[None]:
        url = self.shown(path)
        try:
            yield
        except FileNotFoundError:
            raise ClipError(f"{url} does not exist; check the URL, or the manifest that names it") from None
        except Exception as error:  # libraries behind fsspec raise errors of their own
            why = one_line(str(error) or type(error).__name__)[:500].rstrip(".")
            if _says(_REFUSED, why):
                raise ClipError(
                    f"cannot {what} {url} ({why}); set credentials that may read it in the environment of all nodes"
                ) from None
            if _says(_AWAY, why):
                raise StageError(f"cannot {what} {url}, its storage does not answer ({why}): {_TRY_AGAIN}") from error
            raise ClipError(f"cannot {what} {url} ({why}); check the URL, or leave it out") from None


def _says(kind: re.Pattern[str], why: str) -> bool:
    return kind.search(re.sub(r"'[^']*'", "", why)) is not None  # not the names of files, which are quoted


def patiently(ask: Callable[[], T]) -> T:
    """Ask a storage again, a little later, if it does not answer: among many requests, some fail."""
    for seconds in _WAITS:
        try:
            return ask()
        except StageError:
            time.sleep(seconds)
    return ask()


def opened(url: str) -> tuple[Remote, str]:
    """The storage of a URL, and the path in it. A path is written as it is, without %20 for a space.

    Raises:
        ClipError: it holds secrets, which would be written into ledgers.
        StageError: the storage does not answer.
        UsageError: pyarrow knows no such storage.
    """
    found = _URL.fullmatch(url)
    assert found
    place, path, query = found[1], found[2], found[3] or ""
    public = place.replace("//anonymous@", "//") + query
    if without_secrets(public) != public:
        raise ClipError(
            f"{without_secrets(url)} holds a password or a key; leave it out of the URL, and set it in the environment "
            "of all nodes, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or what the storage's own tools read"
        )
    return _remote(place + query), path


@cache
def _remote(location: str) -> Remote:
    try:
        return Remote(location)
    except UsageError as error:
        if _says(_AWAY, str(error)):  # pyarrow asks where a bucket is
            raise StageError(f"{error}: {_TRY_AGAIN}") from None
        raise
