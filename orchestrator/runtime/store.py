"""The store: where the outputs of stages lie, in a local folder or an object storage.

The outputs of a stage lie in `<store>/<stage>/<hash>`. The hash is of everything that the numbers depend on, so work
with the same hash is done once. Writes are atomic: in a folder, a file is written under a temporary name, synced to the
disk and moved into place; an object storage shows an object only when it is whole. So a file that exists is complete,
even if a process was killed or the machine lost its power.
"""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.masking import is_masked
from infoaug.orchestrator.runtime import locks, scratch


def digest_of(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON-like value, the same for the same content in any key order."""
    return hashlib.sha256(_json(value).encode()).hexdigest()[:length]


def digest_of_list(values: Iterable[Any]) -> str:
    """`digest_of` the list of these values, without the list and its text in memory."""
    rest, mark, between = iter(values), hashlib.sha256(b"["), ""
    while part := [*islice(rest, 10_000)]:
        mark.update((between + _json(part)[1:-1]).encode())
        between = ", "
    mark.update(b"]")
    return mark.hexdigest()[:12]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def file_name(text: str, *more: str) -> str:
    """A readable file name without separators, unique for the text and `more`, of which only the text is readable."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[-60:].lstrip("._")
    return f"{readable or 'clip'}-{digest_of([text, *more], 10)}"


# As pyarrow names them. Their objects appear whole, and they have no folders to create.
OBJECT_STORAGES = ("s3", "gcs", "abfs")
LISTERS = 32  # folders listed at the same time
LISTED_AT_ONCE = 64  # on a disk, by one of them: handing a folder to a thread costs more than reading it


class BrokenFileError(StageError):
    """A file of the store is damaged. Deleting it makes the next run compute it again."""


class Store:
    """Atomic reads and writes of small files in a folder, or in a URL that pyarrow can open.

    Paths are relative to the store, with `/`. A store can be sent to Ray workers.

    Raises:
        UsageError: pyarrow cannot open the location, or its secrets are masked.
    """

    called = "the store"  # in sentences

    def __init__(self, location: str) -> None:
        if is_masked(location):
            raise UsageError(f"the secrets of {self.called} '{location}' are masked: give it with them")
        try:
            self.uri = location if "://" in location else Path(location).expanduser().absolute().as_uri()
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError, RuntimeError) as error:  # RuntimeError: ~ of a user who does not exist
            raise UsageError(f"{self.called} '{location}' cannot be opened: {error}") from error

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return type(self), (self.uri,)

    @property
    def local(self) -> Path | None:
        """The store's local folder; None for an object storage."""
        return Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def url(self, path: str) -> str:
        """A path of the store as a local path or a URL, for other libraries. The URL's query stays at its end."""
        if self.local:
            return f"{self._root}/{path}"
        base, mark, query = self.uri.partition("?")
        return f"{base.rstrip('/')}/{path}{mark}{query}"

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists.

        Raises:
            StageError: the store cannot be reached.
        """
        with self._as_stage_error("look for", path):
            return self._fs.get_file_info(self._at(path)).type != fs.FileType.NotFound

    def files(self, folder: str, below: Iterable[str] | None = None) -> set[str]:
        """All complete files under a folder, at any depth, relative to it; none if the folder does not exist.

        Args:
            folder: where to look.
            below: list only these folders in it, several at the same time.

        Raises:
            StageError: a folder cannot be listed.
        """
        names = [f"{name}/" for name in below] if below is not None else [""]
        at_once = LISTED_AT_ONCE if self.local else 1
        parts = [names[start : start + at_once] for start in range(0, len(names), at_once)]
        with ThreadPoolExecutor(LISTERS) as pool:
            found = {file for part in pool.map(lambda part: self._files(folder, part), parts) for file in part}
        unfinished = {file for file in found if file.endswith(".part")}
        self._sweep(f"{self._at(folder)}/{file}" for file in unfinished)
        return found - unfinished if unfinished else found

    def _files(self, folder: str, below: Iterable[str]) -> list[str]:
        """All files below these folders of a folder, relative to it. Their names end in `/`; none is the folder."""
        found, base = list[str](), f"{self._at(folder)}/"
        for name in below:
            with self._as_stage_error("list", f"{folder}/{name}"):
                if isinstance(self._fs, fs.LocalFileSystem):
                    found += _files_below(base + name, name)
                    continue
                selector = fs.FileSelector((base + name).rstrip("/"), allow_not_found=True, recursive=True)
                found += (info.path[len(base) :] for info in self._fs.get_file_info(selector) if info.is_file)
        return found

    def sweep(self, folder: str) -> None:
        """Delete what killed writers have left in a folder; `files` does so too."""
        if self.local:
            with contextlib.suppress(OSError):
                self._sweep(map(str, (self.local / folder).glob("*.part")))

    def _sweep(self, unfinished: Iterable[str]) -> None:
        for path in map(Path, unfinished if self.local else ()):
            with contextlib.suppress(OSError):  # another process was faster, or may not delete it
                if scratch.is_abandoned(path.name, path.stat().st_mtime):
                    path.unlink()

    def read_bytes(self, path: str) -> bytes:
        """Read a file.

        Raises:
            StageError: the file is missing or cannot be read.
        """
        with self._as_stage_error("read", path), self._fs.open_input_stream(self._at(path)) as stream:
            return stream.read()

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a file, whole or not at all, and create its folders.

        Raises:
            StageError: no space, no permission, or no connection.
        """
        target = self._at(path)
        with self._as_stage_error("write", path):
            if self._fs.type_name in OBJECT_STORAGES:
                with self._fs.open_output_stream(target) as stream:
                    stream.write(content)
                return
            temporary = scratch.part_of(target)
            try:
                self._fs.create_dir(target.rpartition("/")[0], recursive=True)
                if self.local:
                    Path(temporary).write_bytes(content)
                    move_into_place(Path(temporary), Path(target))
                    return
                with self._fs.open_output_stream(temporary) as stream:
                    stream.write(content)
                self._fs.move(temporary, target)
            except OSError:
                if self.local:
                    with contextlib.suppress(OSError):  # the error above matters, not this one
                        Path(temporary).unlink()
                raise

    def read_json(self, path: str, fits: Callable[[Any], bool] = lambda value: True) -> Any:
        """Read a JSON file.

        Args:
            path: of the file.
            fits: whether a value is what the caller reads; it is not of a file that someone changed.

        Raises:
            BrokenFileError: the file is not JSON, or does not fit.
            StageError: the file is missing.
        """
        try:
            value = json.loads(self.read_bytes(path))
        except ValueError as error:
            raise self._broken(path, error) from error
        if not fits(value):
            raise self._broken(path, ValueError("values are missing, or of another kind"))
        return value

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or some of its columns.

        Raises:
            BrokenFileError: the file is not Parquet with these columns.
            StageError: the file is missing.
        """
        content = io.BytesIO(self.read_bytes(path))
        try:
            return pq.read_table(content, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path, error) from error

    def table_schema(self, path: str) -> pa.Schema:
        """The columns and metadata of a Parquet file, without reading its rows.

        Raises:
            BrokenFileError: the file is not Parquet.
            StageError: the file is missing.
        """
        with self._as_stage_error("read", path):
            file = self._fs.open_input_file(self._at(path))
        with file:
            try:
                return pq.read_schema(file)
            except (pa.ArrowException, OSError) as error:
                raise self._broken(path, error) from error

    def write_table(self, path: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(path, sink.getvalue().to_pybytes())

    def delete(self, path: str) -> None:
        """Delete a file, or a folder and everything in it, if it exists.

        Raises:
            StageError: it cannot be deleted.
        """
        with self._as_stage_error("delete", path):
            kind = self._fs.get_file_info(self._at(path)).type
            if kind == fs.FileType.Directory:
                self._fs.delete_dir(self._at(path))
            elif kind != fs.FileType.NotFound:
                self._fs.delete_file(self._at(path))

    def hold(self, folder: str, what: str) -> contextlib.AbstractContextManager[None]:
        """Hold a folder against other commands, for as long as the context lasts. An object storage has no locks.

        Raises:
            UsageError: another command holds it; `what` says in the sentence what that is.
        """
        return locks.hold(self.local / folder / "lock", what) if self.local else contextlib.nullcontext()

    @contextlib.contextmanager
    def _as_stage_error(self, what: str, path: str) -> Iterator[None]:
        """Turn errors of the file system into sentences."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StageError(f"cannot {what} '{path}' of the store {self.uri}: {reason}") from error

    def _broken(self, path: str, error: Exception) -> BrokenFileError:
        why = str(error).partition("\n")[0]
        return BrokenFileError(f"'{path}' of the store {self.uri} is broken, delete it to compute it again: {why}")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


def _files_below(folder: str, name: str) -> list[str]:
    """All files in a local folder, at any depth, with `name` before theirs; none if it does not exist.

    pyarrow takes ten times as long, since it asks for the size of each.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    found.append(name + entry.name)
                elif entry.is_dir():
                    found += _files_below(entry.path, f"{name}{entry.name}/")
    except (FileNotFoundError, NotADirectoryError):
        if Path(folder).exists():  # a file
            raise
    return found


def move_into_place(written: Path, target: Path) -> None:
    """Give a written file its name so that it is complete under it even after a loss of power.

    A file system may otherwise keep the new name and lose the content. It takes about half a millisecond on an SSD.
    """
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(target)
    with contextlib.suppress(OSError):  # some network file systems cannot do this to a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StageFolder:
    """The folder of one stage's outputs, named by a hash of everything that its numbers depend on.

    Attributes:
        name: extract, score, pretrain, floor or evaluate.
        hash: of `key`.
        folder: the folder's path on the store.
    """

    def __init__(self, store: Store, name: str, key: Mapping[str, Any]) -> None:
        self.store, self.name, self.key = store, name, dict(key)
        self.hash = digest_of({"stage": name, **self.key})
        self.folder = f"{name}/{self.hash}"

    def path(self, *parts: str) -> str:
        """A path inside the stage's folder, relative to the store."""
        return "/".join((self.folder, *parts))

    def record(self, config_yaml: str) -> None:
        """Write the resolved config, and the key that the hash is of, beside the outputs."""
        self.store.sweep(self.folder)
        if not self.store.exists(self.path("key.json")):
            self.store.write_bytes(self.path("config.yaml"), config_yaml.encode())
            self.store.write_json(self.path("key.json"), self.key)


def tensors(array: np.ndarray) -> pa.Array:
    """An array [N, ...] as an Arrow column of N fixed-shape tensors; booleans as fixed-size lists [N, T].

    Raises:
        ValueError: the array is empty or has fewer than two dimensions, or booleans have more than two.
    """
    if array.ndim < 2 or not array.size or (array.dtype == bool and array.ndim > 2):
        raise ValueError(f"a column takes an array [N, ...] of N ≥ 1 tensors, booleans [N, T], got {array.shape}")
    if array.dtype == bool:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def arrays(table: pa.Table, column: str) -> np.ndarray:
    """A column written by `tensors`, as one array [N, ...]."""
    values = table.column(column).combine_chunks()
    if isinstance(values.type, pa.FixedShapeTensorType):
        return values.to_numpy_ndarray()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
