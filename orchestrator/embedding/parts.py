"""Features on the disk: Parquet files of a fixed number of images, each complete or absent, and arrays made of them."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infoaug.orchestrator.embedding.sources import Position
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import scratch
from infoaug.orchestrator.runtime.store import BrokenFileError, Store, arrays, move_into_place

FOLDER = "features"  # only Parquet files, so that every library reads it as one table
_STATE = b"infoaug"


@dataclass
class Part:
    """Rows of features, and what of the data they cover.

    Attributes:
        start, after: where reading began and where it goes on.
        names, frames: N, of each row.
        columns: `features` f32[N, D], and with patches `patches` f32[N, h, w, D].
        unreadable: name, frame and reason of what was left out.
        share: of the data, up to the end of this part, 0–1.
        rows: N.
    """

    start: Position
    after: Position
    names: list[str] = field(default_factory=list)
    frames: list[int | None] = field(default_factory=list)
    columns: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    unreadable: list[tuple[str, int | None, str]] = field(default_factory=list)
    share: float = 0.0
    rows: int = 0

    @property
    def attempts(self) -> int:
        """Number of images and frames, read or not."""
        return len(self.names) + len(self.unreadable)


class Parts:
    """The parts of one embedding, in a folder or an object storage.

    A part of another embedding, whose digest differs, and a damaged one count as absent.
    """

    def __init__(self, store: Store, digest: str, shapes: dict[str, tuple[int, ...]]) -> None:
        """`shapes`: of a row of each column; `digest`: identifies run, data and settings."""
        self.store, self._digest, self._shapes = store, digest, shapes

    def state(self, number: int) -> Part | None:
        """What a part covers, without its rows; None if it is not there."""
        path = self._path(number)
        if not self.store.exists(path):
            return None
        try:
            said = json.loads((self.store.table_schema(path).metadata or {}).get(_STATE, b"{}"))
        except (BrokenFileError, ValueError):
            return None
        if said.pop("digest", None) != self._digest:
            return None
        unreadable = [tuple(one) for one in said.pop("unreadable")]
        start, after = (tuple(said.pop(name)) for name in ("start", "after"))
        return Part(start, after, unreadable=unreadable, **said)

    def write(self, number: int, part: Part) -> None:
        """Write a part, whole or not at all."""
        table = {"path": pa.array(part.names, pa.string()), "frame": pa.array(part.frames, pa.int64())}
        for name, shape in self._shapes.items():
            values = np.concatenate(part.columns[name]) if part.names else np.empty((0, *shape), np.float32)
            table[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), int(np.prod(shape)))
            if len(shape) > 1:
                grids = np.tile(np.array(shape, np.int32), len(values))
                table[f"{name}_shape"] = pa.FixedSizeListArray.from_arrays(pa.array(grids), len(shape))
        state: dict[str, Any] = {"digest": self._digest, "start": part.start, "after": part.after}
        state |= {"unreadable": part.unreadable, "share": part.share, "rows": len(part.names)}
        self.store.write_table(
            self._path(number), pa.table(table).replace_schema_metadata({_STATE: json.dumps(state).encode()})
        )

    def read(self, number: int, name: str) -> tuple[pa.Table, NDArray[np.float32]]:
        """The rows of a part, `path` and `frame`, and one of its columns as an array."""
        table = self.store.read_table(self._path(number), ["path", "frame", name])
        return table, arrays(table, name).reshape(len(table), *self._shapes[name])

    def delete_from(self, number: int) -> None:
        """Delete what lies behind the last part."""
        while self.store.exists(self._path(number)):
            self.store.delete(self._path(number))
            number += 1

    @staticmethod
    def _path(number: int) -> str:
        return f"{FOLDER}/part-{number:05d}.parquet"


def write_arrays(parts: Parts, count: int, rows: int, shapes: dict[str, tuple[int, ...]], folder: Path) -> list[Path]:
    """Write each column as NAME.npy, f32[rows, …], and `names.csv`, the path and frame of each row; give their paths.

    Nothing is held in memory but a part.

    Raises:
        StageError: the folder cannot be written to.
    """
    files = [folder / f"{name}.npy" for name in shapes] + [folder / "names.csv"]
    try:
        for (name, shape), file in zip(shapes.items(), files, strict=False):
            with _whole(file) as temporary, temporary.open("wb") as opened:
                header: Any = {"descr": "<f4", "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(opened, header)
                for number in range(count):
                    opened.write(np.ascontiguousarray(parts.read(number, name)[1], "<f4").data)
        with _whole(files[-1]) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(("path", "frame"))
            for number in range(count):
                table, _ = parts.read(number, "features")
                writer.writerows(zip(table["path"].to_pylist(), table["frame"].to_pylist(), strict=True))
    except OSError as error:
        raise StageError(f"cannot write arrays to '{folder}': {error.strerror or error}") from None
    return files


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Where to write a file that gets its name when it is complete."""
    temporary = Path(scratch.part_of(str(file)))
    try:
        yield temporary
        move_into_place(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def table_of(rows: Sequence[tuple[Any, ...]], head: Sequence[str]) -> bytes:
    """Rows as a CSV file."""
    text = io.StringIO()
    csv.writer(text).writerows([head, *rows])
    return text.getvalue().encode()
