"""Patches and their twins as training reads them: in the device's memory, or in a file that all workers of a node map.

Training draws its rows from all patches at once, and each with its twin's. A stream of blocks would mix rows of nearby
windows only, and tear twins apart. From a mapped file any row is read in any order, so a run whose images do not fit
into memory sees the same batches, and ends with the same weights, as one whose images do; and the workers of a node
share one copy, of which the system keeps in memory what there is room for.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infoaug.orchestrator.runtime.store import Store, arrays
from infoaug.orchestrator.stages import extract, score

READERS = 8  # threads
SHARE = 0.25  # of the memory there is, that resident images may take


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch; B rows, M of them with a twin.

    Attributes:
        images: u8[B, 3, S, S].
        twins: u8[M, 3, S, S], images of the twins.
        twin_rows: int64[M], which rows of `images` they are the twins of.
        image, twin_image: int64[B], rows of all patches: the images', and their twins', −1 where there is none.
    """

    images: Tensor
    twins: Tensor
    twin_rows: Tensor
    image: Tensor
    twin_image: Tensor


@dataclass(frozen=True)
class Pairs:
    """All patches of the windows.

    Attributes:
        images: u8[N, 3, S, S], in memory or in a mapped file.
        twin: int64[N] in the host's memory, the row of each patch's twin, −1 where it has none.
        resident: whether `images` are in the memory of the device that trains.
    """

    images: Tensor
    twin: Tensor
    resident: bool = True

    def to(self, device: torch.device) -> "Pairs":
        """The same with the images in a device's memory."""
        return Pairs(self.images.to(device), self.twin)

    def batch(self, rows: Tensor, device: torch.device, twins: bool = True) -> Batch:
        """Give these rows, int64[B] in the host's memory, on a device; without `twins`, M is 0."""
        partner = self.twin[rows]
        # On the host, whatever the device: how many twins there are must be known without waiting for it.
        twin_rows = (partner >= 0).nonzero()[:, 0] if twins else rows[:0]
        indices = [_sent(part, device) for part in (rows, partner, partner[twin_rows], twin_rows)]
        if self.resident:
            images, twin_images = self.images[indices[0]], self.images[indices[2]]
        else:
            images, twin_images = (_sent(self.images[part], device) for part in (rows, partner[twin_rows]))
        return Batch(images, twin_images, indices[3], indices[0], indices[1])


class Batches:
    """A pass over batches that knows how long it was waited for; where images are not resident, one is read ahead.

    Attributes:
        waited: seconds that the host has waited for batches so far.
    """

    def __init__(self, pairs: Pairs, rows: list[Tensor], device: torch.device, twins: bool = True) -> None:
        """`rows`: int64[B] for every batch."""
        self.pairs, self.rows, self.device, self.twins = pairs, rows, device, twins
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        source = map(self._read, self.rows) if self.pairs.resident else self._read_ahead()
        while True:
            started = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _read(self, rows: Tensor) -> Batch:
        return self.pairs.batch(rows, self.device, self.twins)

    def _read_ahead(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as pool:
            coming = None
            for rows in self.rows:
                now, coming = coming, pool.submit(self._read, rows)
                if now:
                    yield now.result()
            if coming:
                yield coming.result()


def fits(images: int, size: int, device: torch.device, workers: int) -> bool:
    """Whether so many images of `size` pixels take at most a quarter of the memory that they would lie in.

    On an accelerator, of its free memory, which is one worker's own; else of this node's, for all its `workers`.
    """
    needed = images * 3 * size * size
    if device.type == "cuda":
        return needed <= SHARE * torch.cuda.mem_get_info(device)[0]
    return needed * workers <= SHARE * _memory()


def load(scored: score.Scored, store: Store) -> Pairs:
    """Every patch of the scored windows, and the row of its twin, in the order clip, window, patch; in memory."""
    images, twins = zip(*_windows(scored, store), strict=True)
    return Pairs(torch.from_numpy(np.concatenate(images)), _rows_of_twins(twins))


def write(scored: score.Scored, store: Store, folder: Path) -> None:
    """The same into files of a local folder, window by window, for `mapped`."""
    folder.mkdir(parents=True, exist_ok=True)
    twins = []
    shape: tuple[int, ...] = ()
    with (folder / "images").open("wb") as file:
        for images, twin in _windows(scored, store):
            file.write(images.tobytes())
            twins.append(twin)
            shape = images.shape[1:]
    rows = _rows_of_twins(twins)
    np.save(folder / "twin.npy", rows.numpy())
    np.save(folder / "shape.npy", np.array([len(rows), *shape]))


def mapped(folder: Path) -> Pairs:
    """What `write` has left. The files may be deleted once they are mapped: they last as long as someone reads them."""
    shape = tuple(np.load(folder / "shape.npy").tolist())
    # Copy on write, though nobody writes: torch takes no read-only memory.
    images = np.memmap(folder / "images", np.uint8, "c", shape=shape)
    return Pairs(torch.from_numpy(images), torch.from_numpy(np.load(folder / "twin.npy")), resident=False)


def _windows(scored: score.Scored, store: Store) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images u8[N, 3, S, S] and twins int32[N] of one window after another, a few read ahead."""

    def read(unit: tuple[str, str, int]) -> tuple[np.ndarray, np.ndarray]:
        _, folder, number = unit
        trajectories = store.read_table(extract.trajectory_path(scored.extracted.stage, folder, number), ["image"])
        images = np.ascontiguousarray(arrays(trajectories, "image").transpose(0, 3, 1, 2))
        return images, score.twins_of(scored, folder, number)

    windows, ahead = scored.extracted.windows, 4 * READERS
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(windows), ahead):
            yield from pool.map(read, windows[start : start + ahead])


def _rows_of_twins(twins: Sequence[np.ndarray]) -> Tensor:
    """From numbers within a window to rows of all patches."""
    starts = np.cumsum([0, *map(len, twins)])
    rows = [np.where(twin >= 0, twin + start, -1) for twin, start in zip(twins, starts, strict=False)]
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's memory on a device, without waiting for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _memory() -> float:
    """Bytes of main memory that this node has, or its container may use."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)
