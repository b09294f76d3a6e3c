"""What the report shows of features: which patches and frames they are of, and where the arrays lie on the store.

Of a data set they lie beside its results; of patches and frames beside those of all data sets.
"""

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infoaug.estimators.video.clips import read_clip
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import davis, image_folder, images, look, probes, segmentation
from infoaug.orchestrator.runtime.store import StageFolder, Store, digest_of
from infoaug.orchestrator.stages import extract, remote_clips

WINDOWS, PATCHES = 15, 20  # the most windows, and patches of each, among which neighbours are searched
FRAMES, MASKED = 3, 4  # with components; with propagated masks

Image = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """Patches and frames to look at.

    Attributes:
        windows: clip, number and path of trajectories in the store of each.
        frames: name, file and number of each frame of a clip; the number is −1 for an image file.
    """

    windows: tuple[tuple[str, int, str], ...]
    frames: tuple[tuple[str, str, int], ...]

    def path(self, place: StageFolder) -> str:
        """Where the arrays lie in a stage's folder."""
        return place.path(f"look-{digest_of(astuple(self))}.npz")


def seen(config: ExperimentConfig, extracted: extract.Extracted) -> Seen:
    """Choose windows, evenly spread over the clips, and frames: of the first sequence of `evaluate.propagation`, or of
    the test images of `evaluate.segmentation`, or else of the clips.

    Raises:
        UsageError: the folder of frames cannot be read.
    """
    windows = tuple(
        (clip, window, extract.trajectory_path(extracted.stage, folder, window))
        for clip, folder, window in evenly(extracted.windows, WINDOWS)
    )
    settings = config.evaluate
    if settings.propagation:
        video = davis.videos(image_folder.located(settings.propagation[0]))[0]
        files = [(f"{video.name}/{path.name}", path) for path in evenly(video.frames, FRAMES)]
    elif settings.segmentation:
        files = [(path.name, path) for path in evenly(segmentation.test_images(settings.segmentation[0]), FRAMES)]
    else:
        return Seen(windows, tuple(_frame(extracted.clip(clip), n) for clip, _, n in evenly(extracted.windows, FRAMES)))
    return Seen(windows, tuple((name, str(path.absolute()), -1) for name, path in files))


def _frame(row: dict[str, Any], window: int) -> tuple[str, str, int]:
    """The first frame of a window of a clip."""
    first = row["first_frames"][row["windows"].index(window)]
    return f"{row['clip_id']}, frame {first}", row["path"], first


def arrays(chosen: Seen, store: Store, backbone: nn.Module, config: ExperimentConfig) -> look.Arrays:
    """What a backbone sees in these patches and frames. Without dense features there are no components.

    Raises:
        ValueError, OSError: a frame cannot be read, or crops cannot be decoded.
        StageError: a window is not on the store any more.
    """
    found = _patches(chosen, store, backbone, config.evaluate.batch_size)
    try:
        dense = segmentation.dense_features(backbone, probes.fastest())
    except UsageError:
        return found
    frames = {name: _read(path, number, config.extract.cache) for name, path, number in chosen.frames}
    return found | (look.of_frames(frames, dense) if frames else {})


def _patches(chosen: Seen, store: Store, backbone: nn.Module, batch_size: int) -> look.Arrays:
    clips = sorted({clip for clip, _, _ in chosen.windows})
    crops, groups, names = list[Image](), list[int](), list[str]()
    for number, (clip, window, path) in enumerate(chosen.windows):
        table = store.read_table(path, extract.CROPS)
        rows = np.sort(np.random.default_rng(0).permutation(len(table))[:PATCHES])
        pictures, at = extract.crops_of(table.take(rows))
        counts = (at >= 0).sum(axis=1)
        crops.append(pictures[np.cumsum(counts) - counts])  # of each patch the first
        groups += [clips.index(clip) if len(clips) > 1 else number] * len(rows)
        names += [f"{clip.rpartition('.')[0] or clip} {window}"] * len(rows)
    if len(set(groups)) < 2:
        return {}
    every = np.concatenate(crops)
    pixels = torch.from_numpy(every).permute(0, 3, 1, 2)
    features = probes.features(backbone, pixels, batch_size, probes.fastest())
    return look.of_patches(every, features, np.array(groups, np.int64), names)


def masks(video: davis.Video, propagated: Sequence[NDArray[np.uint8]]) -> look.Arrays:
    """Some frames of a sequence with the masks that were propagated through all of them."""
    frames = {number: davis.frame(video.frames[number]) for number in evenly(range(len(video.frames)), MASKED)}
    return look.of_masks(video.name, frames, propagated)


def beside(result: str) -> str:
    """Where the arrays of a data set lie, by the path of its result."""
    return f"{result.removesuffix('.json')}-look.npz"


def write(store: Store, path: str, found: look.Arrays) -> None:
    """Write arrays, whole or not at all."""
    content, named = io.BytesIO(), cast(Any, found)
    np.savez_compressed(content, **named)
    store.write_bytes(path, content.getvalue())


def read(store: Store, path: str) -> look.Arrays:
    """Read arrays; none if the file is missing or broken, because no number depends on them."""
    if not store.exists(path):
        return {}
    try:
        with np.load(io.BytesIO(store.read_bytes(path)), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # a damaged archive raises errors of many kinds
        return {}


def evenly(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of some values, evenly spaced, with the first and the last."""
    numbers = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[number] for number in numbers]


def _read(path: str, number: int, cache: float) -> Image:
    """A frame u8[H, W, 3]."""
    if number < 0:
        return images.original(Path(path)).permute(1, 2, 0).numpy()
    with remote_clips.local_copy(path, None, cache) as clip:
        return np.asarray(read_clip(clip, number, 1)[0], np.uint8)
