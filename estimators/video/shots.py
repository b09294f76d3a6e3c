"""Shots: one decoding pass finds the hard cuts of a clip; windows are placed between them."""

from array import array
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.options import READ_TIMEOUT
from infoaug.estimators.video.clips import ClipError, Frame, Reader
from infoaug.estimators.video.frame_folders import FolderLook

Look = tuple[NDArray[np.floating], NDArray[np.floating]]

# A shot has at least this many frames; a shorter one is taken for a flash.
_SHORTEST_SHOT = 4
# At a cut the change of look is at least the floor, and this many times the 75th percentile of the frames around it.
_CUT_FLOOR, _CUT_RATIO, _CUT_NEIGHBOURS = 0.4, 2.5, 12


@dataclass(frozen=True)
class Scan:
    """The result of one decoding pass over a clip.

    Attributes:
        frames: number of frames that can be decoded, whatever the header says.
        fps: frames per second; 0.0 where unknown, as for a folder of frames.
        width: pixels.
        height: pixels.
        cuts: frames that start a new shot, ascending, without frame 0.
    """

    frames: int
    fps: float
    width: int
    height: int
    cuts: list[int]


def scan(path: str | Path, read_timeout: float = READ_TIMEOUT) -> Scan:
    """Decode a clip once, frame by frame: the true number of frames, their rate and size, and the shot cuts.

    Only hard cuts are found, no fades or dissolves. A shot of fewer than four frames counts as a flash.

    Args:
        path: a video file or a folder of frames.
        read_timeout: seconds to wait for a frame.

    Raises:
        ClipError: no frame can be decoded, the frames change size, or a frame takes too long; or the images of a folder
            are masks or unrelated pictures.
    """
    looks: deque[Look] = deque(maxlen=2 * _SHORTEST_SHOT - 1)
    changes = array("f")
    count = 0
    with Reader(path, read_timeout=read_timeout) as reader:
        folder = FolderLook() if reader.is_folder else None
        for frame in reader.frames():
            look = _look(frame)
            # The change from each earlier frame, nearest first; 2 (more than any change) before the clip starts.
            changes.extend(_change(look, before) for before in looks)
            changes.extend([2.0] * (2 * _SHORTEST_SHOT - 1 - len(looks)))
            looks.appendleft(look)
            count += 1
            if folder is not None:
                folder.add(frame)
        fps = reader.fps
    table = np.frombuffer(changes, dtype=np.float32).reshape(count, -1)
    if folder is not None and (why := folder.why_no_clip(table[:, 0])):
        raise ClipError(f"{path} is no clip: {why}; leave it out, or make a video file of it")
    return Scan(count, fps, frame.shape[1], frame.shape[0], _cuts(table))


def windows(frames: int, cuts: list[int], length: int, stride: int | None = None) -> list[int]:
    """List the first frames of the windows that contain no cut.

    Args:
        frames: number of frames of the clip.
        cuts: frames that start a new shot.
        length: frames of a window.
        stride: frames from one window to the next, restarting at every cut; by default `length`, no overlap.

    Raises:
        ValueError: `length` or `stride` is below 1.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride of windows must be at least 1 frame, not {length} and {stride}")
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < frames}), frames]
    return [first for start, end in pairwise(edges) for first in range(start, end - length + 1, stride)]


def _look(frame: Frame) -> Look:
    """Describe a frame: cumulative histograms of its colours, and its layout without the mean brightness."""
    small = cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA)
    channels = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).reshape(-1, 3)
    shares = [np.bincount(channel // 4, minlength=64) / channel.size for channel in channels.T]
    layout = cv2.resize(small, (16, 9), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.cumsum(shares, axis=1), layout - layout.mean()


def _change(a: Look, b: Look) -> float:
    """Compare two looks: from 0 for equal to 1 for nothing in common."""
    # Earth mover's distances between the histograms of lightness and of the two (narrower) colour axes, in grey levels.
    # Unlike a comparison bin by bin they grow steadily while a flat picture fades.
    moved = 4 * np.abs(a[0] - b[0]).sum(axis=1) @ [1, 2, 2]
    contrast = 0.5 * (np.abs(a[1]).mean() + np.abs(b[1]).mean())
    # 16 grey levels of contrast are added so that the noise of a flat picture is not a change of layout.
    layout = np.abs(a[1] - b[1]).mean() / (contrast + 16)
    return float(min(moved / 48, 1.0) + min(layout, 1.0)) / 2


def _cuts(changes: NDArray[np.float32]) -> list[int]:
    """Find cuts in f32[T, 2R − 1], where [t, k] is the change of look from frame t − 1 − k to frame t.

    At a cut each of the R frames before differs from each of the R frames after. After a flash the old look returns,
    and in fast motion the neighbouring frames change nearly as much; neither is a cut.
    """
    frames, reach = len(changes), _SHORTEST_SHOT
    lasting = np.full(frames, np.inf, dtype=np.float32)
    for after in range(reach):
        for before in range(reach):
            ahead = changes[after:, after + before]
            lasting[: len(ahead)] = np.minimum(lasting[: len(ahead)], ahead)
    cuts = []
    for t in np.flatnonzero(lasting >= _CUT_FLOOR):
        around = np.concatenate([lasting[max(t - _CUT_NEIGHBOURS, 1) : t], lasting[t + 1 : t + 1 + _CUT_NEIGHBOURS]])
        usual = np.percentile(around, 75) if around.size else 0.0
        if t > 0 and lasting[t] >= _CUT_RATIO * usual:
            cuts.append(int(t))
    return cuts
