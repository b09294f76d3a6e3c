"""Which rows every step takes: patches, and still images beside them; the same whatever the number of ranks."""

import numpy as np
import torch
from torch import Tensor

from infoaug.models.training.settings import TrainingSettings


class Sampler:
    """Draws the rows of all steps of an epoch, from the seed and the epoch's number alone.

    An epoch has `patches // batch_size` steps, with still images and without: trainings on the same patches take the
    same number of steps, whatever share of their rows is still images. The patches of an epoch are all different.
    Still images are cycled: all of them are shown once in random order, then in another order, on from where the last
    epoch ended.

    Attributes:
        steps: of an epoch.
        is_still: bool[B], the rows of a batch that hold still images, spread evenly.
    """

    def __init__(self, settings: TrainingSettings, patches: int, stills: int = 0) -> None:
        """`patches`, `stills`: how many there are. Raises ValueError as `still_rows`."""
        batch = settings.batch_size
        self._seed, self._patches, self._stills = settings.seed, patches, stills
        self.steps = patches // batch
        count = still_rows(settings) if stills else 0
        self.is_still = (torch.arange(batch + 1) * count // batch).diff().bool()

    def epoch(self, number: int) -> Tensor:
        """The rows of every global batch, int64[steps, B]: patches are 0 to `patches` − 1, still images follow.

        Args:
            number: of the epoch, from 0.
        """
        steps, batch, stills = self.steps, len(self.is_still), int(self.is_still.sum())
        rows = torch.empty(steps, batch, dtype=torch.int64)
        shuffled = torch.randperm(self._patches, generator=generator(self._seed, number))
        rows[:, ~self.is_still] = shuffled[: steps * (batch - stills)].view(steps, batch - stills)
        if stills:
            cycled = self._cycled(number * steps * stills, steps * stills)
            rows[:, self.is_still] = self._patches + cycled.view(steps, stills)
        return rows

    def _cycled(self, start: int, count: int) -> Tensor:
        """Numbers `start` to `start + count` of an endless sequence of shuffles of all still images."""
        first, last = start // self._stills, (start + count - 1) // self._stills
        shuffles = [
            torch.randperm(self._stills, generator=generator(self._seed, cycle, 0, 1))
            for cycle in range(first, last + 1)
        ]
        return torch.cat(shuffles)[start - first * self._stills :][:count]


def still_rows(settings: TrainingSettings, ranks: int = 1, twins: bool = False) -> int:
    """Rows of a global batch that hold still images, where there are any: `image_share` of them, rounded.

    Args:
        settings: of the training.
        ranks: how many share a batch. Every rank gets as many still images as any other.
        twins: whether there is a twin branch, which needs patches on every rank.

    Raises:
        ValueError: none although the share is above 0, a number that the ranks cannot share, or too few patches.
    """
    share, batch = settings.image_share, settings.batch_size
    count = round(share * batch)
    what = f"image_share {share} of a batch of {batch} is {count} images"
    if share and not count:
        raise ValueError(f"{what}: set it or batch_size higher")
    if count % ranks:
        raise ValueError(f"{what}, which {ranks} workers cannot share: set it to a multiple of {ranks / batch:g}")
    if twins and count and (batch - count) // ranks < 2:
        raise ValueError(f"{what}, which leaves each worker fewer than 2 patches for the twin branch: set it lower")
    return count


def generator(*seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in one epoch, so that a resumed training draws what an uninterrupted one draws."""
    return torch.Generator(device=device).manual_seed(seed_of(*seed))


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, all ≥ 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
