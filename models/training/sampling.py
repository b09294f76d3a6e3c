"""Which rows every step takes: patches with and without a twin, and still images; the same for any number of ranks."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from infoaug.models.training.settings import TrainingSettings

_STILLS, _PAIRED, _OTHERS = 1, 3, 4  # which cycle a generator shuffles


class Part(NamedTuple):
    """A block of an epoch of a streamed training.

    Attributes:
        block: its number within the training, from 0.
        before: steps that the training has taken before it.
    """

    block: int
    before: int

    @property
    def word(self) -> int:
        """What its random numbers are seeded with, beside what an epoch's are: not 0, which would change nothing."""
        return 1 + self.block


class Sampler:
    """Draws the rows of all steps of an epoch, from the seed and the epoch's number alone.

    An epoch has `patches // batch_size` steps, with still images and without: trainings on the same patches take the
    same number of steps, whatever share of their rows is still images. The patches of an epoch are all different.
    Still images are cycled: all of them are shown once in random order, then in another order, on from where the last
    epoch ended.

    With `twin_share`, patches with a twin and those without are cycled too, each among themselves, in whole batches:
    what is left of a cycle and too little for a batch is left out of it, so that no batch holds a patch twice.

    A streamed training has a sampler for each block of an epoch. Patches are drawn among those of the block; still
    images go on from where the block before has ended.

    Attributes:
        steps: of an epoch.
        is_still: bool[B], the rows of a batch that hold still images, spread evenly.
        is_paired: bool[B], the rows that hold patches with a twin, spread evenly over the others; None without
            `twin_share`, when any row but those of still images may hold one.
    """

    def __init__(self, settings: TrainingSettings, paired: Tensor, stills: int = 0) -> None:
        """Keep what is drawn from.

        Args:
            settings: of the training.
            paired: bool[patches], which patches have a twin.
            stills: number of still images.

        Raises:
            ValueError: as `still_rows` and `paired_rows`, or there are fewer patches than a batch is to hold.
        """
        batch = settings.batch_size
        self._seed, self._patches, self._stills = settings.seed, len(paired), stills
        self.steps = len(paired) // batch
        count = still_rows(settings) if stills else 0
        self.is_still = spread(count, batch)
        self.is_paired: Tensor | None = None
        if settings.twin_share is not None:
            wanted = paired_rows(settings, stills=count)
            self._paired, self._others = paired.nonzero()[:, 0], (~paired).nonzero()[:, 0]
            check_paired(settings, len(self._paired), len(paired), stills=count)
            self.is_paired = torch.zeros(batch, dtype=torch.bool)
            self.is_paired[~self.is_still] = spread(wanted, batch - count)

    def epoch(self, number: int, part: Part | None = None) -> Tensor:
        """The rows of every global batch, int64[steps, B]: patches are 0 to `patches` − 1, still images follow.

        Args:
            number: of the epoch, from 0.
            part: what the rows are of the training, if they are one of several blocks of the epoch.
        """
        steps, batch, stills = self.steps, len(self.is_still), int(self.is_still.sum())
        rows = torch.empty(steps, batch, dtype=torch.int64)
        words = () if part is None else (part.word,)
        if self.is_paired is None:
            seed = (self._seed, number, *((0, 0, *words) if words else ()))
            shuffled = torch.randperm(self._patches, generator=generator(*seed))
            rows[:, ~self.is_still] = shuffled[: steps * (batch - stills)].view(steps, batch - stills)
        else:
            rest = ~(self.is_still | self.is_paired)
            before = 0 if part else number * steps
            for kind, which, pool in ((_PAIRED, self.is_paired, self._paired), (_OTHERS, rest, self._others)):
                rows[:, which] = pool[self._cycled((kind, *words), before, which, len(pool), whole=True)]
        before = number * steps if part is None else part.before
        rows[:, self.is_still] = self._patches + self._cycled((_STILLS,), before, self.is_still, self._stills)
        return rows

    def _cycled(self, kind: tuple[int, ...], before: int, where: Tensor, among: int, whole: bool = False) -> Tensor:
        """A part of an endless sequence of shuffles of the numbers below `among`.

        Args:
            kind: of the rows; each has shuffles of its own.
            before: steps that the sequence has served before these.
            where: bool[B], the n rows of a batch that are drawn.
            among: how many there are to draw from; at least n if `whole`.
            whole: every shuffle gives whole batches, and leaves out a rest.

        Returns:
            int64[steps, n].
        """
        each = int(where.sum())
        count = self.steps * each
        if not count:
            return torch.empty(self.steps, each, dtype=torch.int64)
        length = among // each * each if whole else among
        start = before * each
        first, last = start // length, (start + count - 1) // length
        shuffles = [
            torch.randperm(among, generator=generator(self._seed, cycle, 0, *kind))[:length]
            for cycle in range(first, last + 1)
        ]
        return torch.cat(shuffles)[start - first * length :][:count].view(self.steps, each)


def still_rows(settings: TrainingSettings, ranks: int = 1, twins: bool = False) -> int:
    """Rows of a global batch that hold still images, where there are any: `image_share` of them, rounded.

    Args:
        settings: of the training.
        ranks: how many share a batch. Every rank gets as many still images as any other.
        twins: whether there is a twin branch, which needs patches on every rank.

    Raises:
        ValueError: none although the share is above 0, a number that the ranks cannot share, or too few patches.
    """
    count, what = _rows("image_share", settings.image_share, settings.batch_size, ranks, "images")
    if twins and count and (settings.batch_size - count) // ranks < 2:
        raise ValueError(
            f"{what}, which leaves each worker fewer than 2 patches for the twin branch: set it lower, or "
            "twin_weight to 0"
        )
    return count


def paired_rows(settings: TrainingSettings, ranks: int = 1, stills: int = 0) -> int:
    """Rows of a global batch that hold patches with a twin: `twin_share` of them, rounded; 0 without `twin_share`.

    Args:
        settings: of the training.
        ranks: how many share a batch. Every rank gets as many of these patches as any other.
        stills: rows of the batch that hold still images.

    Raises:
        ValueError: none although there is a share, a number that the ranks cannot share, or more than still images
            leave.
    """
    if settings.twin_share is None:
        return 0
    batch = settings.batch_size
    count, what = _rows("twin_share", settings.twin_share, batch, ranks, "patches with a twin")
    if count > batch - stills:
        raise ValueError(f"{what}, and image_share leaves {batch - stills} rows for patches: set one of them lower")
    return count


def check_paired(settings: TrainingSettings, paired: int, patches: int, stills: int = 0) -> None:
    """Check that there are enough patches for `twin_share`: none is shown twice in a batch for want of others.

    Args:
        settings: of the training.
        paired: number of patches with a twin.
        patches: number of all patches.
        stills: rows of a batch that hold still images.

    Raises:
        ValueError: fewer patches with a twin, or without one, than rows of a batch for them.
    """
    wanted = paired_rows(settings, stills=stills)
    rest = settings.batch_size - stills - wanted if wanted else 0
    for have, need, kind, remedy in (
        (paired, wanted, "with a twin", f"{'lower' if paired else 'null'}, or give clips with more motion"),
        (patches - paired, rest, "without a twin", "higher"),
    ):
        if have < need:
            raise ValueError(
                f"twin_share {settings.twin_share:g} of a batch of {settings.batch_size} takes {need} patches {kind}, "
                f"and there are {have}: set it {remedy}"
            )


def _rows(name: str, share: float, batch: int, ranks: int, of: str) -> tuple[int, str]:
    """A share of a batch in rows, with the start of a sentence about it. Raises ValueError as `still_rows`."""
    count = round(share * batch)
    what = f"{name} {share:g} of a batch of {batch} is {count} {of}"
    if share and not count:
        raise ValueError(f"{what}: set it or batch_size higher")
    if count % ranks:
        raise ValueError(f"{what}, which {ranks} workers cannot share: set it to a multiple of {ranks / batch:g}")
    return count, what


def spread(count: int, among: int) -> Tensor:
    """Mark `count` of so many places, spread evenly: bool[among]."""
    return (torch.arange(among + 1) * count // max(1, among)).diff().bool()


def generator(*seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in one epoch, so that a resumed training draws what an uninterrupted one draws."""
    return torch.Generator(device=device).manual_seed(seed_of(*seed))


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, all ≥ 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
