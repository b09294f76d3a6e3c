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
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.models import memory
from infoaug.models.training.encoded import EncodedImages

MEMORY_SHARE = 0.25  # of the memory, which images may take
ROWS = ("twin", "frames", "paired", "others", "strength")  # what a mapped folder holds of every row, beside the images


class Window(NamedTuple):
    """The N patches of one window.

    Attributes:
        images: u8[P, 3, S, S], the crops of all patches one after the other.
        twin: int[N], each patch's twin, a row among the patches of all windows one after another, −1 where it has none.
        frames: int[N, K], the frames of each patch's crops, counted from the start of the window; −1 after the last.
        paired: bool[N], see `Pairs`; None: the patches with a twin.
        others: int[N, k − 1], each patch's further partners, rows like `twin`; None: no patch has any.
        strength: f[N, k], see `Pairs`; None: all alike.
    """

    images: NDArray[np.uint8]
    twin: NDArray[np.integer]
    frames: NDArray[np.integer]
    paired: NDArray[np.bool_] | None = None
    others: NDArray[np.integer] | None = None
    strength: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Draws:
    """The pictures of some rows: tensors in the host's memory, int64[…], with P partners of each row int64[…, P].

    Attributes:
        rows: of the patches, among all of them.
        first: the picture of the first view, a row of `Pairs.images`.
        second: that of the second view.
        twin: […, P], those of the partners that are shown, −1 for none. P is 1 unless all are shown together.
        shown: […, P], the patches that these pictures show: partners, or the patch itself; −1 for none.
        weight: float32[…, P], the weights of the partners; they sum to 1 if there is any.
    """

    rows: Tensor
    first: Tensor
    second: Tensor
    twin: Tensor
    shown: Tensor
    weight: Tensor

    def __getitem__(self, index: object) -> "Draws":
        """The same part of each tensor."""
        return Draws(**{part.name: getattr(self, part.name)[index] for part in fields(self)})


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: B rows, with pictures of M twins, up to P of a row.

    Attributes:
        images: u8[B, 3, S, S], for the first views.
        second: u8[B, 3, S, S], for the second views; `images` itself where they are of the same crops.
        twins: u8[M, 3, S, S], images of the twins.
        twin_rows: int64[M], the places of the twins among the B · P partners, those of a row one after the other.
        image: int64[B], each image's row among all patches.
        twin_image: int64[B, k], its partners' rows among all patches, −1 for none.
        shown: int64[B, P], the patches that the images among `twins` show: partners, or the patch itself; −1 for none.
        alone: bool[B], whether both views are of one crop.
        weight: float32[B, P], the weights of the partners; None: a row has one.
    """

    images: Tensor
    second: Tensor
    twins: Tensor
    twin_rows: Tensor
    image: Tensor
    twin_image: Tensor
    shown: Tensor
    alone: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Pairs:
    """All patches, their pictures, which patch is whose twin, and still images from no video.

    Attributes:
        images: u8[P, 3, S, S], in memory, in a mapped file, or compressed in files: the crops of all patches one after
            the other, then still images.
        twin: int64[N] in the host's memory, the row of each patch's twin, −1 where it has none, as for still images. A
            patch that is its own twin is shown at another time.
        on_device: whether `images` belong in the memory of the device that trains, rather than in files.
        stills: number of still images, the last rows.
        frames: int32[N, K] in the host's memory, the frames of each row's crops, −1 after the last; None: one each.
        paired: bool[N] in the host's memory, the patches of which `twin_share` sets the share of a batch. In trainings
            that are compared they are the same, also in the one without twins. None: the patches with a twin.
        others: int64[N, k − 1] in the host's memory, the rows of each patch's further partners, best first, −1 for
            none; None: no patch has any.
        strength: float32[N, k] in the host's memory, how strong the dependence on the twin and on each of the others
            is, at least 0, in any unit; None: all alike.
        ids: int64[N] in the host's memory, the number of each row among all patches and still images, where these are
            only some of them; None: the rows themselves.
    """

    images: Tensor | EncodedImages
    twin: Tensor
    on_device: bool = True
    stills: int = 0
    frames: Tensor | None = None
    paired: Tensor | None = None
    others: Tensor | None = None
    strength: Tensor | None = None
    ids: Tensor | None = None

    blocks: ClassVar[int] = 1  # of an epoch, see `Stream`

    @property
    def patches(self) -> int:
        """Number of patches."""
        return len(self.twin) - self.stills

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.images.shape[-1]

    def steps(self, batch: int) -> int:
        """Steps of an epoch with batches of so many rows."""
        return self.patches // batch

    def epoch(self, number: int, seed: int, first: int = 0) -> Iterator[tuple[int, "Pairs"]]:
        """The blocks of an epoch from the block `first` on, as of a `Stream`: one, of all patches."""
        if not first:
            yield 0, self

    @property
    def is_paired(self) -> Tensor:
        """`paired` of the patches, without still images: bool[patches]."""
        return (self.twin >= 0 if self.paired is None else self.paired)[: self.patches]

    @cached_property
    def partners(self) -> Tensor:
        """The twin of each row, then the others: int64[N, k], −1 for none."""
        twin = self.twin[:, None]
        return twin if self.others is None else torch.cat([twin, self.others], dim=1)

    @cached_property
    def strengths(self) -> Tensor:
        """`strength`, ones for None: float32[N, k]."""
        return torch.ones(self.partners.shape) if self.strength is None else self.strength

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
        strength: NDArray[np.floating] | Tensor | None = None,
    ) -> "Pairs":
        """Check images and twins that are in memory.

        Args:
            images: the patches, a NumPy array u8[N, S, S, 3] or a tensor u8[N, 3, S, S]; with K crops of every patch,
                u8[N, K, S, S, 3] or u8[N, K, 3, S, S].
            twins: int[N], the row of each patch's twin, −1 where it has none. A patch that is its own twin is shown at
                another time. Or int[N, k], the twin and further partners, best first, −1 after the last.
            stills: images from no video, as `images` but any number of them, and one crop each; they are trained on
                without a twin.
            frames: int[N, K], the frames of the crops, those of a patch all different, in any order; −1, after the
                last, for crops that are not there. None: 0 to K − 1.
            paired: bool[N], the patches of which `twin_share` sets the share of a batch; None: those with a twin.
            strength: float[N, k], how strong the dependence on each partner is, at least 0; None: all alike.

        Raises:
            ValueError: a wrong shape or dtype, a twin that is not a row of `images`, a strength below 0, or a patch has
                a frame twice.
        """
        images = _channels_first(images)
        partners = _partners(twins, len(images))
        what = f"strength must be float{list(partners.shape)}, finite and at least 0, also where there is no partner"
        strengths = torch.ones(partners.shape) if strength is None else _tensor(strength, what)
        if strengths.shape != partners.shape or strengths.is_complex():
            raise ValueError(f"{what}, not {strengths.dtype} {list(strengths.shape)}")
        strengths = strengths.float()
        if not (strengths >= 0).all() or strengths.isinf().any():
            raise ValueError(what)
        what = f"frames must be int{list(images.shape[:2])}"
        at = torch.arange(images.shape[1]).expand(images.shape[:2]) if frames is None else _tensor(frames, what)
        there = at >= 0
        if at.shape != images.shape[:2] or at.is_floating_point() or (there[:, 1:] > there[:, :-1]).any():
            raise ValueError(f"{what}, -1 only after the last, not {at.dtype} {list(at.shape)}")
        if at.numel() and int(at.max()) > torch.iinfo(torch.int32).max:
            raise ValueError(f"frames are numbers of frames, below 2³¹, not {int(at.max())}: count them from 0")
        ordered = at.sort(dim=1).values
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("the frames of a patch must differ: two crops of one frame are not two times")
        if len(at) and not there[:, 0].all():
            raise ValueError("every patch needs a crop: the first of its frames must not be -1")
        if paired is not None:
            what = f"paired must be bool[{len(images)}]"
            paired = _tensor(paired, what)
            if paired.shape != (len(images),) or paired.dtype != torch.bool:
                raise ValueError(f"{what}, not {paired.dtype} {list(paired.shape)}")
        crops = images[there.to(images.device)]
        others = crops[:0] if stills is None else _channels_first(stills).flatten(0, 1)
        if others.shape[1:] != crops.shape[1:]:
            raise ValueError(f"still images must have the patches' {crops.shape[-1]} pixels, not {others.shape[-1]}")
        window = Window(
            images[:0].cpu().numpy(),
            partners[:, 0].numpy(),
            at.numpy(),
            None if paired is None else paired.numpy(),
            partners[:, 1:].numpy(),
            strengths.numpy(),
        )
        joined = torch.cat([crops, others.to(crops.device)])
        return cls(joined, stills=len(others), **_of_rows([window], len(others)))

    @classmethod
    def from_windows(cls, windows: Iterable[Window], stills: Iterable[NDArray[np.uint8]] = ()) -> "Pairs":
        """Concatenate windows in memory, and blocks of still images u8[n, 3, S, S]."""
        read, blocks = [*windows], [*stills]
        count = sum(map(len, blocks))
        joined = torch.from_numpy(np.concatenate([*(window.images for window in read), *blocks]))
        return cls(joined, stills=count, **_of_rows(read, count))

    @classmethod
    def mapped(cls, folder: Path) -> "Pairs":
        """Map the files that `write_mapped` wrote.

        The files may be deleted afterwards: the system keeps their content while a process maps it.
        """
        shape = tuple(np.load(folder / "shape.npy").tolist())
        # Copy on write, although nothing is written: torch takes no read-only memory.
        images = np.memmap(folder / "images", np.uint8, "c", shape=shape)
        rows: dict[str, Any] = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ROWS}
        stills = int(np.load(folder / "stills.npy"))
        return cls(torch.from_numpy(images), on_device=False, stills=stills, **rows)

    def with_partners(self, count: int) -> "Pairs":
        """The same with at most so many partners of a patch, the twin among them."""
        if self.others is None:
            return self
        strength = None if self.strength is None else self.strength[:, :count]
        return replace(self, others=self.others[:, : count - 1], strength=strength)

    def to(self, device: torch.device) -> "Pairs":
        """Copy the images into a device's memory; those in files stay there."""
        if isinstance(self.images, EncodedImages) or not self.on_device:
            return self
        return replace(self, images=self.images.to(device))

    def batch(self, drawn: Draws, device: torch.device, twins: bool = True) -> Batch:
        """Collect the pictures that are drawn for B rows on a device.

        Args:
            drawn: of rows int64[B].
            device: where the batch is needed.
            twins: False leaves the twins' images out (M = 0).
        """
        # Computed on the host: on an accelerator, the number of twins would be known only after waiting for it.
        drawn_twins = drawn.twin.flatten()
        twin_rows = (drawn_twins >= 0).nonzero()[:, 0] if twins else drawn.rows[:0]
        alone = drawn.first == drawn.second
        pictures = [drawn.first, drawn_twins[twin_rows], *([] if alone.all() else [drawn.second])]
        if self.on_device:
            images, twin_images, *second = (self.images[_send(part, device)] for part in pictures)
        else:
            images, twin_images, *second = (_send(self.images[part], device) for part in pictures)
        of_all = (self._ids_of(rows) for rows in (drawn.rows, self.partners[drawn.rows], drawn.shown))
        twin_at, same, image, known, shown = (_send(part, device) for part in (twin_rows, alone, *of_all))
        weight = _send(drawn.weight, device) if drawn.weight.shape[1] > 1 else None
        others = second[0] if second else images
        return Batch(images, others, twin_images, twin_at, image, known, shown, same, weight)

    def _ids_of(self, rows: Tensor) -> Tensor:
        """The numbers of rows among all patches; −1 stays."""
        return rows if self.ids is None else torch.where(rows >= 0, self.ids[rows], rows)


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
    read: list[Window] = []
    count, stills_count = 0, 0
    shape: tuple[int, ...] = ()
    with (folder / "images").open("wb") as file:
        for window in windows:
            file.write(window.images.tobytes())
            count, shape = count + len(window.images), window.images.shape[1:]
            read.append(window._replace(images=window.images[:0].copy()))  # the others would fill the memory
        for block in stills:
            file.write(block.tobytes())
            stills_count += len(block)
    for name, values in _of_rows(read, stills_count).items():
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


def _partners(twins: NDArray[np.integer] | Tensor, count: int) -> Tensor:
    """Twins, or twins and further partners, of so many patches as int64[N, k]; ValueError as `Pairs.from_arrays`."""
    given = _tensor(twins, f"twins must be int[{count}] or int[{count}, k]")
    wrong = given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    if wrong or given.ndim not in (1, 2) or len(given) != count or 0 in given.shape[1:]:
        raise ValueError(f"twins must be int[{count}] or int[{count}, k], not {given.dtype} {list(given.shape)}")
    partners = given.to(torch.int64).view(count, -1 if count else 1)
    if count and not (int(partners.min()) >= -1 and int(partners.max()) < count):
        raise ValueError(f"twins must be rows of images, 0 to {count - 1}, or -1 for none")
    if ((partners[:, 1:] >= 0) & (partners[:, :-1] < 0)).any():
        raise ValueError("twins must be -1 only after the last of a patch")
    ordered = partners.sort(dim=1).values
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("the partners of a patch must differ")
    return partners


def _tensor(values: Any, what: str) -> Tensor:
    """Values in the host's memory; `what` begins the ValueError for what is no array of numbers."""
    try:
        return torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what}, not {getattr(values, 'dtype', type(values).__name__)}") from None


def _of_rows(windows: Sequence[Window], stills: int) -> dict[str, Any]:
    """What `ROWS` names, tensors of the patches of all windows, and after them of so many still images."""
    twins = [window.twin for window in windows]
    paired = [window.twin >= 0 if window.paired is None else window.paired for window in windows]
    others = [np.empty((len(window.twin), 0), int) if window.others is None else window.others for window in windows]
    count = 1 + (others[0].shape[1] if others else 0)
    known = [np.ones((len(w.twin), count)) if w.strength is None else w.strength for w in windows]
    return {
        "twin": _joined(twins, np.full(stills, -1), np.int64),
        "frames": _padded([window.frames for window in windows], stills),
        "paired": _joined(paired, np.zeros(stills), np.bool_),
        "others": _joined(others, np.full((stills, count - 1), -1), np.int64),
        "strength": _joined(known, np.zeros((stills, count)), np.float32),
    }


def _joined(parts: Sequence[NDArray[Any]], stills: NDArray[Any], dtype: type[np.generic]) -> Tensor:
    """Rows of all windows, and those of still images after them."""
    return torch.from_numpy(np.concatenate([*parts, stills]).astype(dtype))


def _padded(frames: Sequence[NDArray[np.integer] | Tensor], stills: int) -> Tensor:
    """The frames of the crops of all windows, int32[N, K], −1 after the last; a still image after them has one crop."""
    found = [*map(np.asarray, frames), np.zeros((stills, 1))]
    most = max(at.shape[1] for at in found)
    wide = [np.pad(at, ((0, 0), (0, most - at.shape[1])), constant_values=-1) for at in found]
    return torch.from_numpy(np.concatenate(wide).astype(np.int32))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host's memory to a device without waiting for the copy."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
