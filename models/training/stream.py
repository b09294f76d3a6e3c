"""Patches that are read in blocks of shards, for trainings whose images fit neither into memory nor on a local disk.

A shard is a file of whole windows, so that a patch and its twin are in one. An epoch goes through all shards in a
random order, some at a time: the rows of these are shuffled together, as an epoch in memory shuffles all of them. With
one block, a streamed training takes the same steps as one in memory, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from infoaug.models.training.encoded import Compressed, EncodedImages
from infoaug.models.training.pairs import Pairs
from infoaug.models.training.sampling import check_paired, generator
from infoaug.models.training.settings import TrainingSettings

_ORDER = 6  # which purpose a generator has, beside those of `sampling`


@dataclass(frozen=True)
class Stream:
    """All patches, in shards, and still images from no video.

    Attributes:
        counts: patches of each shard, at least 1.
        open_shard: gives the pairs of a shard, by its number, with images in a file; twins are rows of the shard.
        together: shards of a block.
        size: S, side of the images, pixels.
        stills: still images u8[n, 3, S, S]; None: there are none.
    """

    counts: Sequence[int]
    open_shard: Callable[[int], Pairs]
    together: int
    size: int
    still_images: Tensor | None = None

    @property
    def patches(self) -> int:
        """Number of patches."""
        return sum(self.counts)

    @property
    def stills(self) -> int:
        """Number of still images."""
        return 0 if self.still_images is None else len(self.still_images)

    @property
    def blocks(self) -> int:
        """Blocks of an epoch."""
        return -(-len(self.counts) // self.together)

    def steps(self, batch: int) -> int:
        """Steps of an epoch: as many as any order of the shards has, when no batch takes rows of two blocks."""
        return max(0, self.patches - (self.blocks - 1) * (batch - 1)) // batch

    def shards_of(self, epoch: int, seed: int) -> list[list[int]]:
        """The shards of each block of an epoch, in the order of the files within a block."""
        order = torch.randperm(len(self.counts), generator=generator(seed, epoch, 0, _ORDER)).tolist()
        starts = range(0, len(order), self.together)
        return [sorted(order[start : start + self.together]) for start in starts]

    def check_blocks(self, settings: TrainingSettings, paired: Sequence[int], stills: int = 0) -> None:
        """Check that blocks have batches, and that each has the patches that `twin_share` asks for.

        Args:
            settings: of the training.
            paired: number of patches with a twin in each shard.
            stills: rows of a batch that hold still images.

        Raises:
            ValueError: an epoch may have no step, or a block of some epoch lacks such patches.
        """
        batch = settings.batch_size
        if not self.steps(batch):
            raise ValueError(
                f"{self.patches} patches in {self.blocks} blocks may give no batch of {batch}, because none takes "
                "patches of two blocks: set shuffle higher or batch_size lower"
            )
        if settings.twin_share is None:
            return
        for epoch in range(settings.epochs):
            for shards in self.shards_of(epoch, settings.seed):
                with_twin, every = (sum(of[shard] for shard in shards) for of in (paired, self.counts))
                if every < batch:  # not trained on
                    continue
                try:
                    check_paired(settings, with_twin, every, stills)
                except ValueError as error:
                    raise ValueError(
                        f"{error}; that is a block of {every} patches, of {self.blocks} in epoch {epoch + 1}: set "
                        "shuffle higher, or to all"
                    ) from None

    def epoch(self, number: int, seed: int, first: int = 0) -> Iterator[tuple[int, Pairs]]:
        """The blocks of an epoch from the block `first` on, with their numbers: patches that are shuffled together.

        The next one is opened while one is trained on.
        """
        blocks = self.shards_of(number, seed)[first:]
        with ThreadPoolExecutor(1) as pool:
            upcoming = [pool.submit(self._open, shards) for shards in blocks[:1]]
            for i in range(len(blocks)):
                data = upcoming.pop().result()
                upcoming += [pool.submit(self._open, shards) for shards in blocks[i + 1 : i + 2]]
                yield first + i, data

    def _open(self, shards: Sequence[int]) -> Pairs:
        return joined([self.open_shard(shard) for shard in shards], self._ids(shards), self.still_images, self.size)

    def _ids(self, shards: Sequence[int]) -> Tensor:
        """The number among all patches of each patch of these shards, and those of the still images, which follow."""
        starts, total = self._starts, self.patches
        own = [torch.arange(starts[shard], starts[shard] + self.counts[shard]) for shard in shards]
        return torch.cat([*own, torch.arange(total, total + self.stills)])

    @cached_property
    def _starts(self) -> list[int]:
        """The number among all patches of each shard's first, and of all patches."""
        return [0, *accumulate(self.counts)]


def joined(shards: Sequence[Pairs], ids: Tensor, still_images: Tensor | None, size: int) -> Pairs:
    """The patches of several shards as one, and still images after them.

    Args:
        shards: with images in files, no still images, and as many partners of a patch each.
        ids: int64[N], see `Pairs.ids`.
        still_images: u8[n, 3, S, S].
        size: S, pixels.
    """
    count = 0 if still_images is None else len(still_images)
    most = max(1, *(shard.crop_frames.shape[1] for shard in shards))
    starts = [0, *accumulate(shard.patches for shard in shards)]
    images = [part for shard in shards for part in _parts(shard.images)]
    twins, others = (
        [_moved(rows, start) for rows, start in zip(of, starts, strict=False)]
        for of in ([shard.twin for shard in shards], [shard.partners[:, 1:] for shard in shards])
    )
    return Pairs(
        EncodedImages([*images, *([still_images] if still_images is not None else [])], size),
        _rows(twins, count, -1),
        on_device=False,
        stills=count,
        frames=_rows([_wide(shard.crop_frames, most) for shard in shards], count, -1, first=0),
        paired=_rows([shard.is_paired for shard in shards], count, 0),
        others=_rows(others, count, -1),
        strength=_rows([shard.strengths for shard in shards], count, 0) if others[0].shape[1] else None,
        ids=ids,
    )


def _parts(images: Tensor | EncodedImages) -> Sequence[Compressed | Tensor]:
    return images.parts if isinstance(images, EncodedImages) else [images]


def _moved(rows: Tensor, start: int) -> Tensor:
    """Rows of a shard as rows of the block in which it begins at `start`; −1 stays."""
    return torch.where(rows >= 0, rows + start, rows)


def _wide(frames: Tensor, most: int) -> Tensor:
    return torch.nn.functional.pad(frames, (0, most - frames.shape[1]), value=-1)


def _rows(parts: Sequence[Tensor], stills: int, value: int, first: int | None = None) -> Tensor:
    """The rows of all shards, and rows of `value` for the still images, whose first column is `first`."""
    of_stills = torch.full((stills, *parts[0].shape[1:]), value, dtype=parts[0].dtype)
    if first is not None:
        of_stills[:, 0] = first
    return torch.cat([*parts, of_stills])
