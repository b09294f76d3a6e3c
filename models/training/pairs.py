"""Images and their twins as training reads them: in the device's memory, or in a file that all ranks of a node map.

A patch has one picture or several, crops of its track at several times; `draws.py` says which of them a step shows.

Every step draws its rows at random from all patches, and with each row its twin. Reading a stream of blocks would mix
only rows of neighbouring windows, and would separate twins. A mapped file gives random access to any row, so a training
whose images do not fit into memory sees the same batches, and ends with the same weights, as one whose images do. The
ranks of a node share one copy of the file in the system's page cache.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.models import memory

MEMORY_SHARE = 0.25  # of the memory, which images may take
ROWS = ("twin", "frames", "paired")  # what a mapped folder holds of every row, beside the images


class Window(NamedTuple):
    """The N patches of one window.

    Attributes:
        images: u8[P, 3, S, S], the crops of all patches one after the other.
        twin: int[N], each patch's twin, a row among the patches of all windows one after another, −1 where it has none.
        frames: int[N, K], the frames of each patch's crops, counted from the start of the window; −1 after the last.
        paired: bool[N], see `Pairs`; None: the patches with a twin.
    """

    images: NDArray[np.uint8]
    twin: NDArray[np.integer]
    frames: NDArray[np.integer]
    paired: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Draws:
    """The pictures of some rows: int64 tensors of one shape, in the host's memory.

    Attributes:
        rows: of the patches, among all of them.
        first: the picture of the first view, a row of `Pairs.images`.
        second: that of the second view.
        twin: that of the twin, −1 without a twin.
        shown: the patch that the twin's picture shows, which is the twin or the patch itself; −1 without a twin.
    """

    rows: Tensor
    first: Tensor
    second: Tensor
    twin: Tensor
    shown: Tensor

    def __getitem__(self, index: object) -> "Draws":
        """The same part of each tensor."""
        return Draws(**{part.name: getattr(self, part.name)[index] for part in fields(self)})


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: B rows, M of which have a twin.

    Attributes:
        images: u8[B, 3, S, S], for the first views.
        second: u8[B, 3, S, S], for the second views; `images` itself where they are of the same crops.
        twins: u8[M, 3, S, S], images of the twins.
        twin_rows: int64[M], the rows of `images` that the twins belong to.
        image: int64[B], each image's row among all patches.
        twin_image: int64[B], its twin's row among all patches, −1 where it has none.
        shown: int64[B], the patch that the image among `twins` shows: the twin, or the patch itself; −1 for none.
        alone: bool[B], whether both views are of one crop.
    """

    images: Tensor
    second: Tensor
    twins: Tensor
    twin_rows: Tensor
    image: Tensor
    twin_image: Tensor
    shown: Tensor
    alone: Tensor


@dataclass(frozen=True)
class Pairs:
    """All patches, their pictures, which patch is whose twin, and still images from no video.

    Attributes:
        images: u8[P, 3, S, S], in memory or in a mapped file: the crops of all patches one after the other, then still
            images.
        twin: int64[N] in the host's memory, the row of each patch's twin, −1 where it has none, as for still images. A
            patch that is its own twin is shown at another time.
        on_device: whether `images` belong in the memory of the device that trains, rather than in a mapped file.
        stills: number of still images, the last rows.
        frames: int32[N, K] in the host's memory, the frames of each row's crops, −1 after the last; None: one each.
        paired: bool[N] in the host's memory, the patches of which `twin_share` sets the share of a batch. In trainings
            that are compared they are the same, also in the one without twins. None: the patches with a twin.
    """

    images: Tensor
    twin: Tensor
    on_device: bool = True
    stills: int = 0
    frames: Tensor | None = None
    paired: Tensor | None = None

    @property
    def patches(self) -> int:
        """Number of patches."""
        return len(self.twin) - self.stills

    @property
    def is_paired(self) -> Tensor:
        """`paired` of the patches, without still images: bool[patches]."""
        return (self.twin >= 0 if self.paired is None else self.paired)[: self.patches]

    @cached_property
    def crop_frames(self) -> Tensor:
        """`frames`, zeros int32[N, 1] for None."""
        return torch.zeros(len(self.twin), 1, dtype=torch.int32) if self.frames is None else self.frames

    @cached_property
    def counts(self) -> Tensor:
        """The number of each row's crops, int64[N]."""
        return (self.crop_frames >= 0).sum(dim=1)

    @cached_property
    def starts(self) -> Tensor:
        """The first crop of each row, a row of `images`: int64[N]."""
        return self.counts.cumsum(0) - self.counts

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[np.uint8] | Tensor,
        twins: NDArray[np.integer] | Tensor,
        stills: NDArray[np.uint8] | Tensor | None = None,
        frames: NDArray[np.integer] | Tensor | None = None,
        paired: NDArray[np.bool_] | Tensor | None = None,
    ) -> "Pairs":
        """Check images and twins that are in memory.

        Args:
            images: the patches, a NumPy array u8[N, S, S, 3] or a tensor u8[N, 3, S, S]; with K crops of every patch,
                u8[N, K, S, S, 3] or u8[N, K, 3, S, S].
            twins: int[N], the row of each patch's twin, −1 where it has none. A patch that is its own twin is shown at
                another time.
            stills: images from no video, as `images` but any number of them, and one crop each; they are trained on
                without a twin.
            frames: int[N, K], the frames of the crops, those of a patch all different, in any order; −1, after the
                last, for crops that are not there. None: 0 to K − 1.
            paired: bool[N], the patches of which `twin_share` sets the share of a batch; None: those with a twin.

        Raises:
            ValueError: a wrong shape or dtype, a twin that is not a row of `images`, or a frame twice for one patch.
        """
        images = _channels_first(images)
        twin = torch.as_tensor(twins).cpu()
        if twin.shape != (len(images),) or twin.is_floating_point() or twin.is_complex() or twin.dtype == torch.bool:
            raise ValueError(f"twins must be int[{len(images)}], not {twin.dtype} {list(twin.shape)}")
        if len(twin) and not (int(twin.min()) >= -1 and int(twin.max()) < len(images)):
            raise ValueError(f"twins must be rows of images, 0 to {len(images) - 1}, or -1 for none")
        at = torch.arange(images.shape[1]).expand(images.shape[:2]) if frames is None else torch.as_tensor(frames).cpu()
        there = at >= 0
        if at.shape != images.shape[:2] or at.is_floating_point() or (there[:, 1:] > there[:, :-1]).any():
            shape = list(images.shape[:2])
            raise ValueError(f"frames must be int{shape}, -1 only after the last, not {at.dtype} {list(at.shape)}")
        ordered = at.sort(dim=1).values
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("the frames of a patch must differ: two crops of one frame are not two times")
        if len(at) and not there[:, 0].all():
            raise ValueError("every patch needs a crop: the first of its frames must not be -1")
        if paired is not None:
            paired = torch.as_tensor(paired).cpu()
            if paired.shape != (len(images),) or paired.dtype != torch.bool:
                raise ValueError(f"paired must be bool[{len(images)}], not {paired.dtype} {list(paired.shape)}")
        crops = images[there.to(images.device)]
        others = crops[:0] if stills is None else _channels_first(stills).flatten(0, 1)
        if others.shape[1:] != crops.shape[1:]:
            raise ValueError(f"still images must have the patches' {crops.shape[-1]} pixels, not {others.shape[-1]}")
        twin = torch.cat([twin.to(torch.int64), torch.full((len(others),), -1)])
        if paired is not None:
            paired = torch.cat([paired, torch.zeros(len(others), dtype=torch.bool)])
        joined, at = torch.cat([crops, others.to(crops.device)]), _padded([at], len(others))
        return cls(joined, twin, stills=len(others), frames=at, paired=paired)

    @classmethod
    def from_windows(cls, windows: Iterable[Window], stills: Iterable[NDArray[np.uint8]] = ()) -> "Pairs":
        """Concatenate windows in memory, and blocks of still images u8[n, 3, S, S]."""
        images, twins, frames, paired = zip(*windows, strict=True)
        blocks = [*stills]
        count = sum(map(len, blocks))
        joined = torch.from_numpy(np.concatenate([*images, *blocks]))
        padded = _padded(frames, count)
        return cls(joined, _joined(twins, count), stills=count, frames=padded, paired=_flags(paired, twins, count))

    @classmethod
    def mapped(cls, folder: Path) -> "Pairs":
        """Map the files that `write_mapped` wrote.

        The files may be deleted afterwards: the system keeps their content while a process maps it.
        """
        shape = tuple(np.load(folder / "shape.npy").tolist())
        # Copy on write, although nothing is written: torch takes no read-only memory.
        images = np.memmap(folder / "images", np.uint8, "c", shape=shape)
        twin, frames, paired = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ROWS)
        stills = int(np.load(folder / "stills.npy"))
        return cls(torch.from_numpy(images), twin, on_device=False, stills=stills, frames=frames, paired=paired)

    def to(self, device: torch.device) -> "Pairs":
        """Copy the images into a device's memory."""
        return replace(self, images=self.images.to(device))

    def batch(self, drawn: Draws, device: torch.device, twins: bool = True) -> Batch:
        """Collect the pictures that are drawn for B rows on a device.

        Args:
            drawn: tensors int64[B].
            device: where the batch is needed.
            twins: False leaves the twins' images out (M = 0).
        """
        # Computed on the host: on an accelerator, the number of twins would be known only after waiting for it.
        twin_rows = (drawn.twin >= 0).nonzero()[:, 0] if twins else drawn.rows[:0]
        alone = drawn.first == drawn.second
        pictures = [drawn.first, drawn.twin[twin_rows], *([] if alone.all() else [drawn.second])]
        if self.on_device:
            images, twin_images, *second = (self.images[_send(part, device)] for part in pictures)
        else:
            images, twin_images, *second = (_send(self.images[part], device) for part in pictures)
        identities = (
            _send(part, device) for part in (twin_rows, drawn.rows, self.twin[drawn.rows], drawn.shown, alone)
        )
        return Batch(images, second[0] if second else images, twin_images, *identities)


class Batches:
    """The batches of an epoch; from a mapped file, the next batch is read while the current one is trained on.

    Attributes:
        waited: seconds that the host has waited for batches so far.
    """

    def __init__(self, pairs: Pairs, drawn: Sequence[Draws], device: torch.device, twins: bool = True) -> None:
        """`drawn`, for every batch, and `twins`: see `Pairs.batch`."""
        self.pairs, self.drawn, self.device, self.twins = pairs, drawn, device, twins
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        source = map(self._read, self.drawn) if self.pairs.on_device else self._read_ahead()
        while True:
            started = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _read(self, drawn: Draws) -> Batch:
        return self.pairs.batch(drawn, self.device, self.twins)

    def _read_ahead(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as pool:
            upcoming = None
            for drawn in self.drawn:
                current, upcoming = upcoming, pool.submit(self._read, drawn)
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
    twins, frames, paired = [], [], []
    count, stills_count = 0, 0
    shape: tuple[int, ...] = ()
    with (folder / "images").open("wb") as file:
        for images, twin, at, flags in windows:
            file.write(images.tobytes())
            twins.append(twin)
            frames.append(at)
            paired.append(flags)
            count, shape = count + len(images), images.shape[1:]
        for block in stills:
            file.write(block.tobytes())
            stills_count += len(block)
    rows = _joined(twins, stills_count), _padded(frames, stills_count), _flags(paired, twins, stills_count)
    for name, values in zip(ROWS, rows, strict=True):
        np.save(folder / f"{name}.npy", values.numpy())
    np.save(folder / "shape.npy", np.array([count + stills_count, *shape]))
    np.save(folder / "stills.npy", stills_count)


def _channels_first(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images in memory as u8[N, K, 3, S, S]; ValueError for a wrong shape or dtype."""
    if isinstance(images, np.ndarray):
        if images.ndim not in (4, 5) or images.shape[-1] != 3:
            raise ValueError(
                f"a NumPy array of images must be [N, S, S, 3] or [N, K, S, S, 3], not {list(images.shape)}"
            )
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3)))
    if images.ndim not in (4, 5) or images.shape[-3] != 3 or images.shape[-2] != images.shape[-1]:
        raise ValueError(f"a tensor of images must be [N, 3, S, S] or [N, K, 3, S, S], not {list(images.shape)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, not {images.dtype}")
    return images[:, None] if images.ndim == 4 else images


def _joined(twins: Sequence[NDArray[np.integer]], stills: int) -> Tensor:
    """The twins of all windows, int64[N], and −1 for still images after them."""
    return torch.from_numpy(np.concatenate([*twins, np.full(stills, -1)]).astype(np.int64))


def _flags(paired: Sequence[NDArray[np.bool_] | None], twins: Sequence[NDArray[np.integer]], stills: int) -> Tensor:
    """The patches of all windows that have a twin in some training that is compared, bool[N]; False for stills."""
    known = [twin >= 0 if flags is None else flags for flags, twin in zip(paired, twins, strict=True)]
    return torch.from_numpy(np.concatenate([*known, np.zeros(stills, bool)]))


def _padded(frames: Sequence[NDArray[np.integer] | Tensor], stills: int) -> Tensor:
    """The frames of the crops of all windows, int32[N, K], −1 after the last; a still image after them has one crop."""
    found = [*map(np.asarray, frames), np.zeros((stills, 1))]
    most = max(at.shape[1] for at in found)
    wide = [np.pad(at, ((0, 0), (0, most - at.shape[1])), constant_values=-1) for at in found]
    return torch.from_numpy(np.concatenate(wide).astype(np.int32))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host's memory to a device without waiting for the copy."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
