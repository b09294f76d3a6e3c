"""Images that are compressed one by one (`models.pixels`), and decompressed when a step needs them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.models.pixels import decompress

MOST_THREADS = 8
_AT_LEAST = 64  # images that are worth a thread


@dataclass(frozen=True)
class Compressed:
    """The compressed images of one file.

    Attributes:
        content: u8[…], all of them, usually mapped from the file.
        offsets: int[n + 1], where each begins, and the last ends.
    """

    content: NDArray[np.uint8]
    offsets: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.offsets) - 1


class EncodedImages:
    """P images of S×S pixels that are read as rows of a tensor u8[P, 3, S, S] are.

    Attributes:
        parts: compressed images, and images that are not compressed, u8[n, 3, S, S]; their rows follow one another.
        size: S.
    """

    def __init__(self, parts: Sequence[Compressed | Tensor], size: int) -> None:
        self.parts, self.size = [*parts], size
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[P, 3, S, S]."""
        return len(self), 3, self.size, self.size

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The images u8[B, 3, S, S] of rows int64[B].

        Raises:
            ValueError: an image is damaged.
        """
        images = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        part = np.searchsorted(self._ends, rows.numpy(), side="right")
        compressed: list[tuple[int, Compressed, int]] = []
        for number in np.unique(part):
            source, at = self.parts[number], np.flatnonzero(part == number)
            own = rows.numpy()[at] - (self._ends[number] - len(source))
            if isinstance(source, Tensor):
                images[torch.from_numpy(at)] = source[torch.from_numpy(own)]
            else:
                compressed += [(int(i), source, int(row)) for i, row in zip(at, own, strict=True)]
        self._decompress(compressed, images.numpy())
        return images

    def _decompress(self, wanted: Sequence[tuple[int, Compressed, int]], into: NDArray[np.uint8]) -> None:
        each = max(_AT_LEAST, -(-len(wanted) // self._threads))
        parts = [wanted[begin : begin + each] for begin in range(0, len(wanted), each)]
        if len(parts) < 2:
            for part in parts:
                self._decompress_some(part, into)
        else:
            for _ in self._pool.map(self._decompress_some, parts, [into] * len(parts)):
                pass  # errors are raised here

    def _decompress_some(self, wanted: Sequence[tuple[int, Compressed, int]], into: NDArray[np.uint8]) -> None:
        flat = into.reshape(len(into), 3 * self.size**2)
        for i, source, row in wanted:
            flat[i] = decompress(source.content[source.offsets[row] : source.offsets[row + 1]], flat.shape[1])

    @property
    def _threads(self) -> int:
        return max(1, min(MOST_THREADS, torch.get_num_threads()))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads)
