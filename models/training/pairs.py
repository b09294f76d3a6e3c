"""Images and their twins as training reads them: in the device's memory, or in a file that all ranks of a node map.

Every step draws its rows at random from all patches, and with each row its twin. Reading a stream of blocks would mix
only rows of neighbouring windows, and would separate twins. A mapped file gives random access to any row, so a training
whose images do not fit into memory sees the same batches, and ends with the same weights, as one whose images do. The
ranks of a node share one copy of the file in the system's page cache.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.models import memory

MEMORY_SHARE = 0.25  # of the memory, which images may take

# Of one window: images u8[N, 3, S, S], and each patch's twin int[N], a row among the patches of all windows one after
# another, −1 where it has none.
Window = tuple[NDArray[np.uint8], NDArray[np.integer]]


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: B rows, M of which have a twin.

    Attributes:
        images: u8[B, 3, S, S].
        twins: u8[M, 3, S, S], images of the twins.
        twin_rows: int64[M], the rows of `images` that the twins belong to.
        image: int64[B], each image's row among all patches.
        twin_image: int64[B], its twin's row among all patches, −1 where it has none.
    """

    images: Tensor
    twins: Tensor
    twin_rows: Tensor
    image: Tensor
    twin_image: Tensor


@dataclass(frozen=True)
class Pairs:
    """All patches, which patch is whose twin, and still images from no video.

    Attributes:
        images: u8[N, 3, S, S], in memory or in a mapped file: patches, then still images.
        twin: int64[N] in the host's memory, the row of each patch's twin, −1 where it has none, as for still images.
        on_device: whether `images` belong in the memory of the device that trains, rather than in a mapped file.
        stills: number of still images, the last rows.
    """

    images: Tensor
    twin: Tensor
    on_device: bool = True
    stills: int = 0

    @property
    def patches(self) -> int:
        """Number of patches."""
        return len(self.twin) - self.stills

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[np.uint8] | Tensor,
        twins: NDArray[np.integer] | Tensor,
        stills: NDArray[np.uint8] | Tensor | None = None,
    ) -> "Pairs":
        """Check images and twins that are in memory.

        Args:
            images: the patches, a NumPy array u8[N, S, S, 3] or a tensor u8[N, 3, S, S].
            twins: int[N], the row of each patch's twin, −1 where it has none.
            stills: images from no video, as `images` but any number of them; they are trained on without a twin.

        Raises:
            ValueError: a wrong shape or dtype, or a twin that is not a row of `images`.
        """
        images = _channels_first(images)
        twin = torch.as_tensor(twins).cpu()
        if twin.shape != (len(images),) or twin.is_floating_point() or twin.is_complex() or twin.dtype == torch.bool:
            raise ValueError(f"twins must be int[{len(images)}], not {twin.dtype} {list(twin.shape)}")
        if len(twin) and not (int(twin.min()) >= -1 and int(twin.max()) < len(images)):
            raise ValueError(f"twins must be rows of images, 0 to {len(images) - 1}, or -1 for none")
        if stills is None:
            return cls(images, twin.to(torch.int64))
        stills = _channels_first(stills)
        if stills.shape[1:] != images.shape[1:]:
            raise ValueError(f"still images must have the patches' {images.shape[-1]} pixels, not {stills.shape[-1]}")
        twin = torch.cat([twin.to(torch.int64), torch.full((len(stills),), -1)])
        return cls(torch.cat([images, stills.to(images.device)]), twin, stills=len(stills))

    @classmethod
    def from_windows(cls, windows: Iterable[Window], stills: Iterable[NDArray[np.uint8]] = ()) -> "Pairs":
        """Concatenate windows in memory, and blocks of still images u8[n, 3, S, S]."""
        images, twins = zip(*windows, strict=True)
        blocks = [*stills]
        count = sum(map(len, blocks))
        return cls(torch.from_numpy(np.concatenate([*images, *blocks])), _joined(twins, count), stills=count)

    @classmethod
    def mapped(cls, folder: Path) -> "Pairs":
        """Map the files that `write_mapped` wrote.

        The files may be deleted afterwards: the system keeps their content while a process maps it.
        """
        shape = tuple(np.load(folder / "shape.npy").tolist())
        # Copy on write, although nothing is written: torch takes no read-only memory.
        images = np.memmap(folder / "images", np.uint8, "c", shape=shape)
        twin, stills = torch.from_numpy(np.load(folder / "twin.npy")), int(np.load(folder / "stills.npy"))
        return cls(torch.from_numpy(images), twin, on_device=False, stills=stills)

    def to(self, device: torch.device) -> "Pairs":
        """Copy the images into a device's memory."""
        return replace(self, images=self.images.to(device))

    def batch(self, rows: Tensor, device: torch.device, twins: bool = True) -> Batch:
        """Collect these rows on a device.

        Args:
            rows: int64[B] in the host's memory.
            device: where the batch is needed.
            twins: False leaves the twins' images out (M = 0).
        """
        partner = self.twin[rows]
        # Computed on the host: on an accelerator, the number of twins would be known only after waiting for it.
        twin_rows = (partner >= 0).nonzero()[:, 0] if twins else rows[:0]
        indices = [_send(part, device) for part in (rows, partner, partner[twin_rows], twin_rows)]
        if self.on_device:
            images, twin_images = self.images[indices[0]], self.images[indices[2]]
        else:
            images, twin_images = (_send(self.images[part], device) for part in (rows, partner[twin_rows]))
        return Batch(images, twin_images, indices[3], indices[0], indices[1])


class Batches:
    """The batches of an epoch; from a mapped file, the next batch is read while the current one is trained on.

    Attributes:
        waited: seconds that the host has waited for batches so far.
    """

    def __init__(self, pairs: Pairs, rows: list[Tensor], device: torch.device, twins: bool = True) -> None:
        """`rows`: int64[B] for every batch; `twins`: see `Pairs.batch`."""
        self.pairs, self.rows, self.device, self.twins = pairs, rows, device, twins
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        source = map(self._read, self.rows) if self.pairs.on_device else self._read_ahead()
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
            upcoming = None
            for rows in self.rows:
                current, upcoming = upcoming, pool.submit(self._read, rows)
                if current:
                    yield current.result()
            if upcoming:
                yield upcoming.result()


def fits(images: int, size: int, device: torch.device, workers: int) -> bool:
    """Whether the images take at most a quarter of the memory that they would be kept in.

    Args:
        images: how many.
        size: their side, pixels.
        device: an accelerator's free memory serves one worker; the host's memory serves all of a node.
        workers: how many of them the node has, each with its own copy.
    """
    needed = images * 3 * size * size
    if device.type == "cuda":
        return needed <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return needed * workers <= MEMORY_SHARE * memory.limit()


def write_mapped(folder: Path, windows: Iterable[Window], stills: Iterable[NDArray[np.uint8]] = ()) -> None:
    """Write windows, one after the other, into files of a local folder that `Pairs.mapped` maps.

    Blocks of still images u8[n, 3, S, S] follow them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    twins = []
    shape: tuple[int, ...] = ()
    count = 0
    with (folder / "images").open("wb") as file:
        for images, twin in windows:
            file.write(images.tobytes())
            twins.append(twin)
            shape = images.shape[1:]
        for block in stills:
            file.write(block.tobytes())
            count += len(block)
    rows = _joined(twins, count)
    np.save(folder / "twin.npy", rows.numpy())
    np.save(folder / "shape.npy", np.array([len(rows), *shape]))
    np.save(folder / "stills.npy", count)


def _channels_first(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images in memory as u8[N, 3, S, S]; ValueError for a wrong shape or dtype."""
    if isinstance(images, np.ndarray):
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"a NumPy array of images must be [N, S, S, 3], not {list(images.shape)}")
        images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"a tensor of images must be [N, 3, S, S], not {list(images.shape)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, not {images.dtype}")
    return images


def _joined(twins: Sequence[NDArray[np.integer]], stills: int) -> Tensor:
    """The twins of all windows, int64[N], and −1 for still images after them."""
    return torch.from_numpy(np.concatenate([*twins, np.full(stills, -1)]).astype(np.int64))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host's memory to a device without waiting for the copy."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
