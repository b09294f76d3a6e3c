"""Which pictures a step shows: of every patch a crop for each view, and one of its twin.

The draws of an epoch are made at once for all ranks, so they are the same for any number of them.
"""

import torch
from torch import Tensor

from infoaug.models.training.pairs import Draws, Pairs
from infoaug.models.training.settings import TrainingSettings


def draw(data: Pairs, rows: Tensor, settings: TrainingSettings, random: torch.Generator) -> Draws:
    """Draw the pictures of these rows, int64[...].

    The same generator gives a patch the same views whatever its twin is, so that trainings with other twins see the
    same pictures.

    - First view: any of the patch's crops.
    - Second view: the same crop (`views="augmented"`), or any other of the patch.
    - A twin that is the patch itself: any crop but that of the first view.
    - Another twin, as `twin_time` says: any of its crops; the one nearest in time to the first view's; or the one of
      the same frame, without which there is no twin in this step. Frames are counted from the start of a window.
    - With `later_share`, so many of the twins are replaced by the patch itself, where it has another crop.
    """
    chance = torch.rand(4, *rows.shape, dtype=torch.float64, generator=random)
    count, partner = data.counts[rows], data.twin[rows]
    first = _floor(chance[0] * count)
    second = first if settings.views == "augmented" else _another(first, count, chance[1])
    itself = (partner == rows) | ((chance[3] < settings.later_share) & (partner >= 0) & (count > 1))
    shown = torch.where(itself, rows, partner)
    twin = torch.where(itself, _another(first, count, chance[2]), _of_partner(data, rows, first, settings, chance[2]))
    shown = torch.where(twin >= 0, shown, -1)
    start = data.starts[rows]
    return Draws(rows, start + first, start + second, torch.where(shown >= 0, data.starts[shown] + twin, -1), shown)


def _of_partner(data: Pairs, rows: Tensor, first: Tensor, settings: TrainingSettings, chance: Tensor) -> Tensor:
    """Which of its crops a patch's twin shows beside the patch's crop `first`: int64, −1 for none."""
    partner = data.twin[rows]
    if settings.twin_time == "own":
        crop = _floor(chance * data.counts[partner])
    else:
        theirs, own = data.crop_frames[partner], data.crop_frames[rows, first][..., None]
        apart = torch.where(theirs >= 0, (theirs - own).abs(), torch.iinfo(theirs.dtype).max)
        least, crop = apart.min(dim=-1)
        if settings.twin_time == "same":
            crop = torch.where(least == 0, crop, -1)
    return torch.where(partner >= 0, crop, -1)


def _another(crop: Tensor, count: Tensor, chance: Tensor) -> Tensor:
    """Any crop but this one, of `count` crops; this one where there is no other."""
    return (crop + (count > 1) + _floor(chance * (count - 1))) % count


def _floor(values: Tensor) -> Tensor:
    return values.to(torch.int64)
