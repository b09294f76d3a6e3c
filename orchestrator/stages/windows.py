"""The windows of a ledger as columns: a million tuples would take a quarter of a gigabyte, and seconds, at each use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infoaug.orchestrator.runtime.store import digest_of_list

Window = tuple[str, str, int]
_AT_ONCE = 10_000  # rows that become Python objects


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Window]):
    """(clip_id, folder, window) of W windows of C clips, in order.

    Attributes:
        clips: a row for each clip, with `clip_id` and `folder`.
        clip: int32[W], the row of each window's clip.
        number: int32[W], its number among those of the clip.
    """

    clips: pa.Table
    clip: NDArray[np.int32]
    number: NDArray[np.int32]

    @classmethod
    def of(cls, ledger: pa.Table) -> "Windows":
        """Those in some rows of the ledger of the extract stage."""
        clips = ledger.select(["clip_id", "folder"]).combine_chunks()
        lists = ledger["windows"].combine_chunks()
        of_each = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        clip = np.repeat(np.arange(len(clips), dtype=np.int32), of_each)
        return cls(clips, clip, lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32))

    def __len__(self) -> int:
        return len(self.number)

    def __iter__(self) -> Iterator[Window]:
        for start in range(0, len(self), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            names = self.clips.take(self.clip[part])
            yield from zip(*(column.to_pylist() for column in names.columns), self.number[part].tolist(), strict=True)

    @overload
    def __getitem__(self, index: int) -> Window: ...

    @overload
    def __getitem__(self, index: slice | NDArray[np.integer | np.bool_]) -> "Windows": ...

    def __getitem__(self, index: int | slice | NDArray[np.integer | np.bool_]) -> "Window | Windows":
        if isinstance(index, slice | np.ndarray):
            return Windows(self.clips, self.clip[index], self.number[index])
        row = int(self.clip[index])
        return self.clips["clip_id"][row].as_py(), self.clips["folder"][row].as_py(), int(self.number[index])

    @cached_property
    def digest(self) -> str:
        """The digest of (folder, window) of each, which names what is made of these windows."""
        return digest_of_list((folder, window) for _, folder, window in self)

    def rows_of(self, table: pa.Table) -> NDArray[np.int64]:
        """The row of each window in a table with `folder` and `window`: int64[W], −1 where it has none."""
        clip = pc.index_in(table["folder"], self.clips["folder"].combine_chunks()).to_numpy()
        given, own = (
            np.nan_to_num(of, nan=-1).astype(np.int64) << 32 | number
            for of, number in ((clip, table["window"].to_numpy()), (self.clip, self.number))
        )
        order = np.argsort(given, kind="stable")
        place = np.searchsorted(given, own, sorter=order)
        rows = np.append(order, -1)[place]
        return np.where(np.append(given, -1)[rows] == own, rows, -1)
