"""Label propagation: the masks of a video's first frame carried to the others by frozen features, and their J&F.

The protocol is that of DINO's evaluation on DAVIS (Caron et al. 2021), which follows Jabri et al. 2020. Nothing is
trained: the features alone say which places of two frames belong together.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.resnet import ResNet
from torch import Tensor, nn

from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator.evaluation import davis, region_boundary
from infoaug.orchestrator.evaluation.correspondence import Labelled, carry, unit
from infoaug.orchestrator.evaluation.dense import dense_features
from infoaug.orchestrator.settings import one_line

_RESNET_LAYER = 3  # of 0–4


@dataclass(frozen=True)
class PropagationSettings:
    """The protocol. Sources: DINO's `eval_video_segmentation.py`; `neighbours` is 5 there and 10 in Jabri et al. 2020.

    Attributes:
        size: pixels, to which the shorter side of the frames is resized.
        stride: pixels, side of a cell of the features; see `DenseFeatures`.
        layer: of the features, as `DenseFeatures` counts; None for the third stage of a ResNet, as in Jabri et al.
            2020, and for the last layer of other backbones.
        neighbours: most similar cells whose labels are averaged.
        temperature: of their weights, exp(cosine / temperature).
        radius: cells; only cells at most so many rows and columns away are compared. 0: all cells.
        queue: last frames that labels are taken from, beside the first.
    """

    size: int = 480
    stride: int = 8
    layer: int | None = None
    neighbours: int = 7
    temperature: float = 0.1
    radius: int = 12
    queue: int = 7

    def __post_init__(self) -> None:
        """Raise ValueError for a value out of its range."""
        least = {"size": 16, "stride": 1, "neighbours": 1, "radius": 0, "queue": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")


def load(folder: Path, sequences: Sequence[str] = ()) -> tuple[list[davis.Video], list[str]]:
    """The sequences of a folder as DAVIS lays it out, checked by their first masks and the headers of all images.

    Args:
        folder: of the sequences.
        sequences: names of those that are wanted; empty for all.

    Returns:
        The sequences, and sentences on what is not measured.

    Raises:
        UsageError: as `davis.videos` and `davis.check`.
    """
    notes = []
    for video in (videos := davis.videos(folder, sequences)):
        davis.check(video)
        if unmasked := len(video.frames) - len(video.masks):
            notes.append(one_line(f"sequence '{video.name}': {unmasked} frames have no mask and are not measured"))
    return videos, notes


def measure(
    videos: Sequence[davis.Video],
    backbone: nn.Module,
    settings: PropagationSettings | None = None,
    device: torch.device | str = "cpu",
    *,
    done: Callable[[str, dict[str, Any]], None] | None = None,
    keep: Callable[[davis.Video, list[NDArray[np.uint8]]], None] | None = None,
) -> dict[str, Any]:
    """J&F (shares, 0–1) of a backbone on sequences.

    The first frame, whose mask is given, and the last are left out, as in DAVIS's own evaluation of this task. J and F
    are means over the other frames that have a mask, for every object of the first mask; `j` and `f` are means over the
    objects of all sequences, as there.

    Args:
        videos: of `load`.
        backbone: stays as it is, but for its device.
        done: called with the name and the values of every sequence when it is measured.
        keep: called with every sequence and its propagated masks, one u8[H, W] a frame, 0 or the number of the object.

    Returns:
        `j`, `f`, `jf` (their mean); `sequences`: by name `j`, `f`, `jf` (means over its objects), `objects` (`j` and
        `f` of each) and `frames` (how many were measured); `stride` (pixels) and `layer`, which were used.

    Raises:
        UsageError: the backbone has no dense features.
        StageError: an image cannot be read.
    """
    settings = settings or PropagationSettings()
    dense = features_of(backbone, settings, device)
    result: dict[str, Any] = {}
    for video in videos:
        kept: list[NDArray[np.uint8]] | None = [] if keep else None
        result[video.name] = _measured(video, dense, settings, kept)
        if keep and kept is not None:
            keep(video, kept)
        if done:
            done(video.name, result[video.name])
    objects = [each for sequence in result.values() for each in sequence["objects"]]
    return {**_means(objects), "sequences": result, "stride": dense.stride, "layer": dense.layer}


def features_of(
    backbone: nn.Module, settings: PropagationSettings, device: torch.device | str, asked: str = "evaluate.propagation"
) -> DenseFeatures:
    """The dense features that the settings ask for. Raises UsageError if the backbone has none."""
    layer = _RESNET_LAYER if settings.layer is None and isinstance(backbone, ResNet) else settings.layer
    return dense_features(backbone.to(device), asked, layer, settings.stride)


def propagated(video: davis.Video, dense: DenseFeatures, settings: PropagationSettings) -> Iterator[NDArray[np.uint8]]:
    """The masks u8[H, W] of all frames of a sequence: that of the first, as it is given, and those carried from it.

    A value is 0, or the number of an object from 1, in the order of `davis.Objects`.
    """
    objects = davis.objects(video)
    first, _ = objects.read(video.masks[0])
    yield first
    size = resized(first.shape, settings.size)
    for labels in carried(video.frames, _labels(first, len(objects.values), size, dense), size, dense, settings):
        yield _mask(labels, size, first.shape, dense.stride)


def carried(
    frames: Sequence[Path], first: Tensor, size: tuple[int, int], dense: DenseFeatures, settings: PropagationSettings
) -> Iterator[Tensor]:
    """Labels f32[h, w, C] of all frames but the first, carried from the labels of the first.

    Args:
        frames: files.
        first: f32[h, w, C] that sum to 1, on the device of the features.
        size: height and width, pixels, that the frames are resized to.
        dense: gives the features of h × w cells.
        settings: of the propagation.
    """
    sources = deque[Labelled](maxlen=settings.queue)
    origin = Labelled.of(_features(frames[0], size, dense), first)
    radius = settings.radius or max(first.shape[:2])
    for path in frames[1:]:
        features = _features(path, size, dense)
        labels = carry(
            features,
            [origin, *sources],
            neighbours=settings.neighbours,
            temperature=settings.temperature,
            radius=radius,
        )
        sources.append(Labelled.of(features, labels))
        yield labels


def _measured(
    video: davis.Video, dense: DenseFeatures, settings: PropagationSettings, keep: list[NDArray[np.uint8]] | None
) -> dict[str, Any]:
    objects = davis.objects(video)
    values: list[list[tuple[float, float]]] = [[] for _ in objects.values]
    for i, found in enumerate(propagated(video, dense, settings)):
        if keep is not None:
            keep.append(found)
        if 0 < i < len(video.frames) - 1 and i in video.masks:
            true, void = objects.read(video.masks[i])
            for number, of in enumerate(values, start=1):
                pair = found == number, true == number, void
                of.append((region_boundary.region(*pair), region_boundary.boundary(*pair)))
    each = [dict(zip("jf", np.mean(of, axis=0).tolist(), strict=True)) for of in values]
    return {**_means(each), "objects": each, "frames": len(values[0])}


def _means(objects: list[dict[str, float]]) -> dict[str, float]:
    j, f = (float(np.mean([each[name] for each in objects])) for name in "jf")
    return {"j": j, "f": f, "jf": (j + f) / 2}


def resized(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width of a frame whose shorter side is `size`."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _features(path: Path, size: tuple[int, int], dense: DenseFeatures) -> Tensor:
    frame = davis.frame(path)
    if frame.shape[:2] != size:
        smaller = size[0] < frame.shape[0]
        interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        frame = np.asarray(cv2.resize(frame, size[::-1], interpolation=interpolation), np.uint8)
    return unit(dense(torch.from_numpy(frame).permute(2, 0, 1)[None]))


def _labels(mask: NDArray[np.uint8], objects: int, size: tuple[int, int], dense: DenseFeatures) -> Tensor:
    """The shares f32[h, w, 1 + objects] of background and objects in every cell."""
    one_hot = F.one_hot(torch.from_numpy(mask).long(), 1 + objects).permute(2, 0, 1)[None].float()
    if mask.shape != size:
        one_hot = F.interpolate(one_hot, size, mode="area")
    lacking = (0, -size[1] % dense.stride, 0, -size[0] % dense.stride)
    shares = F.avg_pool2d(F.pad(one_hot, lacking, mode="replicate"), dense.stride)[0]
    return shares.permute(1, 2, 0).contiguous().to(dense.device)


def _mask(labels: Tensor, size: tuple[int, int], shape: tuple[int, ...], stride: int) -> NDArray[np.uint8]:
    """The mask u8[H, W] of labels f32[h, w, C], enlarged to pixels.

    Every label's map is first stretched to 0–1, as DINO does: an object whose labels many steps have spread out would
    vanish else.
    """
    maps = labels.permute(2, 0, 1)[None]
    maps = F.interpolate(maps, scale_factor=stride, mode="bilinear")[..., : size[0], : size[1]]
    if size != shape[:2]:
        maps = F.interpolate(maps, shape[:2], mode="bilinear")
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    stretched = torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-12), maps)
    best, mask = stretched[0, 0], torch.zeros(shape[:2], dtype=torch.uint8, device=maps.device)
    for number, of in enumerate(stretched[0, 1:], start=1):  # ten times as fast as argmax
        mask[of > best] = number
        best = torch.maximum(best, of)
    return mask.cpu().numpy()
