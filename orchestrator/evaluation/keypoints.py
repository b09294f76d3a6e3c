"""Keypoint propagation: joints of a video's first annotated frame carried to the others by frozen features; their PCK.

Labels are carried as masks are (`propagation`). A joint's label is a peak of heat in the first frame, and its place in
a later one the weighted mean of the cells with most heat, as Jabri et al. 2020 have it for JHMDB.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator.evaluation import propagation
from infoaug.orchestrator.evaluation.keypoint_files import Joints
from infoaug.orchestrator.evaluation.propagation import PropagationSettings

THRESHOLDS = {"pck_10": 0.1, "pck_20": 0.2}  # largest distance of a correct joint, as a share of `Joints.lengths`
SIGMA = 0.5  # cells: width of a joint's first heat
PEAK = 3  # cells with most heat, whose mean is a joint's place


def measure(
    sequences: Sequence[Joints],
    backbone: nn.Module,
    settings: PropagationSettings | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """PCK (shares, 0–1) of a backbone: of the joints that are visible in the first annotated frame and in a later one.

    A joint is correct if its distance from the true place is at most α times the frame's length (`Joints.lengths`),
    α = 0.1 and 0.2 (Biggs et al. 2018, section 5: 0.2, the square root of the mask's area).

    Args:
        sequences: of `keypoint_files.load`.
        backbone: stays as it is, but for its device.
        settings: of the propagation.
        device: of features and labels.

    Returns:
        `pck_10`, `pck_20`: means over the sequences; `sequences`: by name `pck_10` and `pck_20` of all its joints in
        all its frames, `joints` (how many they are) and `frames` (in which); `stride` (pixels) and `layer`, which were
        used.

    Raises:
        UsageError: the backbone has no dense features.
        StageError: a frame cannot be read.
    """
    settings = settings or PropagationSettings()
    dense = propagation.features_of(backbone, settings, device, "evaluate.keypoints")
    result = {sequence.name: _measured(sequence, dense, settings) for sequence in sequences}
    means = {name: float(np.mean([each[name] for each in result.values()])) for name in THRESHOLDS}
    return {**means, "sequences": result, "stride": dense.stride, "layer": dense.layer}


def propagated(sequence: Joints, dense: DenseFeatures, settings: PropagationSettings) -> Iterator[NDArray[np.float64]]:
    """The joints float64[K, 2] of all frames of a sequence, row and column in pixels of the frame.

    Those of the first are as they are given; NaN for those that are not visible in it, or whose heat is lost.
    """
    first = sequence.points[0]
    yield first
    seen = np.isfinite(first[:, 0])
    size = propagation.resized(sequence.shape, settings.size)
    pixels = np.array(sequence.shape) / size * dense.stride  # of a cell, in the frame
    cells = [-(-side // dense.stride) for side in size]
    heat = heat_maps(torch.from_numpy(first[seen] / pixels).float(), (cells[0], cells[1]))
    for labels in propagation.carried(sequence.frames, _shares(heat).to(dense.device), size, dense, settings):
        found = np.full(first.shape, np.nan)
        found[seen] = peaks(labels[..., :-1]).cpu().numpy() * pixels
        yield found


def heat_maps(points: Tensor, shape: tuple[int, int]) -> Tensor:
    """Heat f32[h, w, K] of points f32[K, 2], rows and columns in cells; row 0.5 is the middle of the first row.

    It is a Gaussian, cut off at three standard deviations.
    """
    rows, columns = (torch.arange(side) + 0.5 for side in shape)
    distance = (rows[:, None, None] - points[:, 0]) ** 2 + (columns[None, :, None] - points[:, 1]) ** 2
    return torch.exp(-distance / (2 * SIGMA**2)).masked_fill(distance > (3 * SIGMA) ** 2, 0)


def peaks(heat: Tensor) -> Tensor:
    """Places f32[K, 2] of heat f32[h, w, K], rows and columns in cells: means of the `PEAK` cells with most, weighted.

    NaN where there is no heat.
    """
    flat = heat.flatten(0, 1)
    most, cell = flat.topk(min(PEAK, len(flat)), dim=0)
    weights = most / most.sum(dim=0)
    places = torch.stack([cell // heat.shape[1], cell % heat.shape[1]], dim=-1) + 0.5
    return (weights[..., None] * places).sum(dim=0)


def correct(found: NDArray[np.float64], true: NDArray[np.float64], length: float) -> dict[str, NDArray[np.bool_]]:
    """Whether places float64[K, 2] are within each of `THRESHOLDS` of the true ones; one that is NaN is not."""
    distance = np.linalg.norm(found - true, axis=1)
    return {name: distance <= share * length for name, share in THRESHOLDS.items()}


def _measured(sequence: Joints, dense: DenseFeatures, settings: PropagationSettings) -> dict[str, Any]:
    asked = np.isfinite(sequence.points[0][:, 0])
    counts: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in THRESHOLDS}
    for i, found in enumerate(propagated(sequence, dense, settings)):
        if i in sequence.lengths:
            true = sequence.points[i]
            chosen = asked & np.isfinite(true[:, 0])
            for name, of in correct(found[chosen], true[chosen], sequence.lengths[i]).items():
                counts[name].append(of)
    every = {name: np.concatenate(of) for name, of in counts.items()}
    shares = {name: float(of.mean()) for name, of in every.items()}
    return {**shares, "joints": len(every["pck_20"]), "frames": len(sequence.lengths)}


def _shares(heat: Tensor) -> Tensor:
    """Labels f32[h, w, K + 1] that sum to 1, as they are carried: of every joint's heat one K-th, and the rest.

    So joints do not compete for a cell: each is carried as if it was alone.
    """
    shares = heat / heat.shape[2]
    return torch.cat([shares, 1 - shares.sum(dim=2, keepdim=True)], dim=2).clamp(min=0)
