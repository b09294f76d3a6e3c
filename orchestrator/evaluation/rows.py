"""Rows of a matrix of features, in blocks on a device, so that no copy of the matrix is made in main memory."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESIDENT = 0.5  # share of a GPU's free memory up to which features stay on it
# Numbers in a block: few enough for main memory, and so many that all threads, or all of a GPU, are busy.
BLOCK = {"cpu": 1 << 22, "cuda": 1 << 27}


class Rows:
    """The chosen rows of features, f32[N, D], N ≥ 1.

    On a GPU they are stored whole if they fit. On a CPU, and where they do not fit, a block is taken from main memory,
    or from the file that the features are mapped from, whenever it is asked for.

    Args:
        features: f32[M, D].
        device: where blocks are wanted.
        chosen: bool[M], the rows in use; None: all.

    Attributes:
        count: N.
        dimensions: D.
        device: that of the blocks.

    Raises:
        ValueError: there are no rows, or a feature is NaN or infinite.
    """

    def __init__(
        self, features: NDArray[np.float32], device: torch.device | str = "cpu", chosen: NDArray[np.bool_] | None = None
    ) -> None:
        self.device = torch.device(device)
        self._stored = torch.from_numpy(np.asarray(features, np.float32))
        self._chosen = None if chosen is None else torch.from_numpy(np.flatnonzero(chosen))
        self.count = len(self._stored if self._chosen is None else self._chosen)
        self.dimensions = features.shape[1]
        if not self.count:
            raise ValueError("there are no images to fit or test a classifier on")
        if self.device.type == "cuda" and 4 * self.count * self.dimensions < RESIDENT * _free(self.device):
            resident = torch.empty(self.count, self.dimensions, device=self.device)
            for begin, block in self.blocks():
                resident[begin : begin + len(block)] = block
            self._stored, self._chosen = resident, None
        broken = sum(int((~block.isfinite()).any(dim=1).sum()) for _, block in self.blocks())
        if broken:
            raise ValueError(
                f"the features of {broken} of {self.count} images are NaN or infinite: the training has diverged, "
                "lower its learning rate"
            )

    def blocks(self, size: int | None = None, results: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The rows f32[≤ size, D] on the device, in order, each block with the number of its first row.

        `size`: rows of a block; by default so many that it has `BLOCK` numbers, or as many `results`, if the caller
        computes more of them for a row.
        """
        size = size or max(1, BLOCK[self.device.type] // max(self.dimensions, results))
        for begin in range(0, self.count, size):
            rows = slice(begin, begin + size) if self._chosen is None else self._chosen[begin : begin + size]
            yield begin, self._stored[rows].to(self.device)


def _free(device: torch.device) -> int:
    """Bytes of a GPU that are free, or that PyTorch holds without using them."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
