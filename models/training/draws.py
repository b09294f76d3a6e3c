"""Which pictures a step shows: of every patch a crop for each view, and one of its twin or of several partners.

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
    - Of several partners that can be shown so, one is drawn or all are shown, see `TrainingSettings.twin_choice`.
    """
    chance = torch.rand(4, *rows.shape, dtype=torch.float64, generator=random)
    count, start = data.counts[rows], data.starts[rows]
    first = _floor(chance[0] * count)
    second = first if settings.views == "augmented" else _another(first, count, chance[1])
    partner, crop, weight = _partners(data, rows, first, settings, chance[2], random)
    later = ((chance[3] < settings.later_share) & (data.twin[rows] >= 0) & (count > 1))[..., None]
    alone = torch.arange(partner.shape[-1]) == 0  # the patch itself takes the place of all partners
    partner = torch.where(later, torch.where(alone, rows[..., None], -1), partner)
    crop = torch.where(later, _another(first, count, chance[2])[..., None], crop)
    weight = torch.where(later, alone.to(weight.dtype), weight)
    shown = torch.where(weight > 0, partner, -1)
    twin = torch.where(shown >= 0, data.starts[shown] + crop, -1)
    return Draws(rows, start + first, start + second, twin, shown, weight.float())


def _partners(
    data: Pairs, rows: Tensor, first: Tensor, settings: TrainingSettings, chance: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The partners that patches are shown with, beside their crops `first`, if none is the patch itself instead.

    Returns:
        int64[…, P], −1 for none; which of their crops, int64[…, P]; and their weights, float64[…, P], 0 for those that
        cannot be shown.
    """
    partner, strength = (part[rows][..., : settings.twins] for part in (data.partners, data.strengths))
    several, times = partner.shape[-1] > 1, chance[..., None]
    if several:  # drawn after all else, which is thus the same whatever the number of partners
        more = torch.rand(partner.shape, dtype=torch.float64, generator=random)
        times = torch.cat([times, more[..., 1:]], dim=-1)
    crop = _of_partner(data, partner, data.crop_frames[rows, first], settings, times)
    other = _another(first[..., None], data.counts[rows][..., None], times)
    crop = torch.where(partner == rows[..., None], other, crop)
    weight = _weights(strength, crop >= 0, settings)
    if several and settings.twin_choice != "all":
        chosen = (weight.cumsum(dim=-1) <= more[..., :1]).sum(dim=-1, keepdim=True).clamp(max=partner.shape[-1] - 1)
        partner, crop, weight = (part.gather(-1, chosen) for part in (partner, crop, weight))
        weight = (weight > 0).to(weight.dtype)
    return partner, crop, weight


def _weights(strength: Tensor, there: Tensor, settings: TrainingSettings) -> Tensor:
    """The shares of the partners that are there, by their strengths […, k]: float64, which sum to 1 if any is there."""
    alike = there.double()
    weight = alike if settings.twin_choice == "uniform" else strength * alike
    weight = torch.where(weight.sum(dim=-1, keepdim=True) > 0, weight, alike)
    return weight / weight.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def _of_partner(data: Pairs, partner: Tensor, frame: Tensor, settings: TrainingSettings, chance: Tensor) -> Tensor:
    """Which of their crops partners int64[…, k] show beside the patch's crop of this frame: int64, −1 for none."""
    if settings.twin_time == "own":
        crop = _floor(chance * data.counts[partner])
    else:
        theirs, own = data.crop_frames[partner], frame[..., None, None]
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
