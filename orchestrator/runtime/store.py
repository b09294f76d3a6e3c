"""Where stage outputs live, and which of them are complete.

A stage's folder is `<store>/<stage>/<hash>`, the hash being that of everything its numbers depend on: the same hash is
the same work, done once. In folders files are written under a temporary name and moved into place; an object storage
shows an object when all of it is there. So a file that exists is complete, and killing a process at any moment leaves
nothing half-written that would be read.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from infoaug.orchestrator.errors import StageError, UsageError


def digest_of(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON-like value, the same for the same content in any key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:length]


def file_name(text: str, *more: str) -> str:
    """A readable, unique file name without separators for any text; `more` takes part in its uniqueness only."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[-60:].lstrip("._")
    return f"{readable or 'clip'}-{digest_of([text, *more], 10)}"


# By pyarrow's names. What is put there appears whole, and folders need no making.
OBJECT_STORAGES = ("s3", "gcs", "abfs")
LISTERS = 32  # folders that are listed at once


class Store:
    """A folder or URL that pyarrow can open, seen through atomic reads and writes of small files.

    Paths are relative to the store, with `/`. Safe to send to Ray workers.

    Raises:
        UsageError: the location is of no known kind.
    """

    def __init__(self, location: str) -> None:
        self.uri = location if "://" in location else Path(location).expanduser().absolute().as_uri()
        try:
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise UsageError(f"the store '{location}' cannot be opened: {error}") from None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.uri,)

    @property
    def local(self) -> Path | None:
        """The store as a local folder, or None if it is none."""
        return Path(self._root) if isinstance(self._fs, fs.LocalFileSystem) else None

    def url(self, path: str) -> str:
        """A path of the store for libraries that take a local path or a URL; what the URL asks for stays at its end."""
        if self.local:
            return f"{self._root}/{path}"
        base, mark, asked = self.uri.partition("?")
        return f"{base.rstrip('/')}/{path}{mark}{asked}"

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there.

        Raises:
            StageError: that cannot be found out.
        """
        with self._told("look for", path):
            return self._fs.get_file_info(self._at(path)).type != fs.FileType.NotFound

    def files(self, folder: str, below: Iterable[str] | None = None) -> set[str]:
        """All complete files under a folder, at any depth, relative to that folder; empty if there is no folder.

        Where only folders `below` it are asked for, they are listed some at a time.

        Raises:
            StageError: a folder cannot be listed.
        """
        if below is not None:
            with ThreadPoolExecutor(LISTERS) as pool:
                listed = pool.map(lambda name: (name, self.files(f"{folder}/{name}")), below)
                return {f"{name}/{file}" for name, files in listed for file in files}
        base = self._at(folder)
        with self._told("list", folder):
            listed = self._fs.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        names = (info.path[len(base) :].lstrip("/") for info in listed if info.is_file)
        return {name for name in names if not name.endswith(".part")}

    def read_bytes(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            StageError: the file is not there or cannot be read.
        """
        with self._told("read", path), self._fs.open_input_stream(self._at(path)) as stream:
            return stream.read()

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all; the folders on the way are made.

        Raises:
            StageError: no space, no permission, or no connection.
        """
        target = self._at(path)
        with self._told("write", path):
            if self._fs.type_name in OBJECT_STORAGES:
                with self._fs.open_output_stream(target) as stream:
                    stream.write(content)
                return
            temporary = f"{target}.{uuid.uuid4().hex[:8]}.part"
            try:
                self._fs.create_dir(target.rpartition("/")[0], recursive=True)
                with self._fs.open_output_stream(temporary) as stream:
                    stream.write(content)
                self._fs.move(temporary, target)
            except OSError:
                if self.local:
                    with contextlib.suppress(OSError):  # where nothing could be written, nothing can be removed
                        Path(temporary).unlink()
                raise

    def read_json(self, path: str) -> Any:
        """A JSON file's value.

        Raises:
            StageError: the file is not there, or is no JSON.
        """
        try:
            return json.loads(self.read_bytes(path))
        except ValueError as error:
            raise self._broken(path, error) from None

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns.

        Raises:
            StageError: the file is not there, or is no Parquet file with these columns.
        """
        content = io.BytesIO(self.read_bytes(path))
        try:
            return pq.read_table(content, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(path, error) from None

    def write_table(self, path: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(path, sink.getvalue().to_pybytes())

    def delete(self, path: str) -> None:
        """Remove a folder and all that is in it, if it is there.

        Raises:
            StageError: it cannot be removed.
        """
        if self.exists(path):
            with self._told("delete", path):
                self._fs.delete_dir(self._at(path))

    @contextlib.contextmanager
    def _told(self, what: str, path: str) -> Iterator[None]:
        """The file system's errors as sentences."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StageError(f"cannot {what} '{path}' of the store {self.uri}: {reason}") from None

    def _broken(self, path: str, error: Exception) -> StageError:
        why = str(error).partition("\n")[0]
        return StageError(f"'{path}' of the store {self.uri} is broken, delete it to have it made again: {why}")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


class Stage:
    """The folder of one stage's outputs, named by what its numbers depend on.

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
        """Leave beside the outputs the resolved config that made them, and what their hash is of."""
        if not self.store.exists(self.path("key.json")):
            self.store.write_bytes(self.path("config.yaml"), config_yaml.encode())
            self.store.write_json(self.path("key.json"), self.key)


def tensors(array: np.ndarray) -> pa.Array:
    """An array [N, ...] as an Arrow column of N fixed-shape tensors; booleans as fixed-size lists [N, T].

    Raises:
        ValueError: no rows, fewer than two dimensions, or booleans of more than two.
    """
    if array.ndim < 2 or not array.size or (array.dtype == bool and array.ndim > 2):
        raise ValueError(f"a column takes an array [N, ...] of N ≥ 1 tensors, booleans [N, T], got {array.shape}")
    if array.dtype == bool:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def arrays(table: pa.Table, column: str) -> np.ndarray:
    """A column written with `tensors`, as one array [N, ...]."""
    values = table.column(column).combine_chunks()
    if isinstance(values.type, pa.FixedShapeTensorType):
        return values.to_numpy_ndarray()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
