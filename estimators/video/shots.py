"""Shots: one decoding pass finds the hard cuts of a clip and its repeated frames; windows are placed between cuts."""

from array import array
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice, pairwise
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
# Frames are compared at this size of the longer side, pixels: the mean of many pixels has little of a codec's noise.
_COMPARED = 160
# A repeat's difference is at most this share of those around it, which are at least so large, grey levels RMS: smaller
# ones may be a codec's noise. A longer run is a scene at rest; 60 frames a second made of 10 have runs of five.
_REPEAT_RATIO, _REPEAT_FLOOR, _LONGEST_REPEAT = 0.3, 0.3, 5
_LEAST_SHARE = 0.5  # of a window's frames that are not repeated


@dataclass(frozen=True)
class Scan:
    """The result of one decoding pass over a clip.

    Attributes:
        frames: number of frames that can be decoded, whatever the header says.
        fps: frames per second; 0.0 where unknown, as for a folder of frames.
        width: pixels.
        height: pixels.
        cuts: frames that start a new shot, ascending, without frame 0.
        repeats: frames that show the frame before them once more, ascending.
    """

    frames: int
    fps: float
    width: int
    height: int
    cuts: list[int]
    repeats: list[int]


def scan(path: str | Path, read_timeout: float = READ_TIMEOUT, most: int | None = None) -> Scan:
    """Decode a clip once, frame by frame: the true number of frames, their rate and size, cuts and repeated frames.

    Only hard cuts are found, no fades or dissolves. A shot of fewer than four frames counts as a flash.

    A repeated frame hardly differs from the one before, while the frames around it do: a conversion of the frame rate
    or a stuttering camera has shown one moment twice. Compression makes the two nearly, not exactly, equal. A scene at
    rest, of more than five equal frames, is not repeated.

    Args:
        path: a video file or a folder of frames.
        read_timeout: seconds to wait for a frame.
        most: number of frames after which to stop, as if the clip ended there; None: decode all.

    Raises:
        ClipError: no frame can be decoded, the frames change size, or a frame takes too long; or the images of a folder
            are masks or unrelated pictures.
    """
    looks: deque[Look] = deque(maxlen=2 * _SHORTEST_SHOT - 1)
    changes, differences = array("f"), array("f")
    small: NDArray[np.float32] | None = None
    frames = 0
    with Reader(path, read_timeout=read_timeout) as reader:
        folder = FolderLook() if reader.is_folder else None
        for frame in islice(reader.frames(), most):
            look = _look(frame)
            # The change from each earlier frame, nearest first; 2 (more than any change) before the clip starts.
            changes.extend(_change(look, before) for before in looks)
            changes.extend([2.0] * (2 * _SHORTEST_SHOT - 1 - len(looks)))
            looks.appendleft(look)
            before, small = small, _small(frame)
            differences.append(np.inf if before is None else float(np.sqrt(np.square(small - before).mean())))
            frames += 1
            if folder is not None:
                folder.add(frame)
        fps = reader.fps
    table = np.frombuffer(changes, dtype=np.float32).reshape(frames, -1)
    if folder is not None and (why := folder.why_no_clip(table[:, 0])):
        raise ClipError(f"{path} is no clip: {why}; leave it out, or make a video file of it")
    height, width = frame.shape[:2]
    cuts = _cuts(table)
    return Scan(frames, fps, width, height, cuts, _repeats(np.frombuffer(differences, np.float32), cuts))


def windows(
    frames: int, cuts: list[int], length: int, stride: int | None = None, repeats: Collection[int] = ()
) -> list[int]:
    """List the first frames of the windows that contain no cut.

    Args:
        frames: number of frames of the clip.
        cuts: frames that start a new shot.
        length: frames of a window.
        stride: frames from one window to the next, restarting at every cut; by default `length`, no overlap.
        repeats: repeated frames, which are in no window and do not count. A shot that is long enough only with them
            gives one shorter window if at least half of `length` is left.

    Raises:
        ValueError: `length` or `stride` is below 1.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride of windows must be at least 1 frame, not {length} and {stride}")
    repeated, found = frozenset(repeats), []
    for start, end in pairwise([0, *sorted({cut for cut in cuts if 0 < cut < frames}), frames]):
        shot = [frame for frame in range(start, end) if frame not in repeated]
        too_short = end - start >= length > len(shot) >= _LEAST_SHARE * length
        found += shot[:1] if too_short else shot[: max(0, len(shot) - length + 1) : stride]
    return found


def numbers(first: int, length: int, frames: int, cuts: list[int], repeats: Collection[int] = ()) -> list[int]:
    """List the frames of the window that starts with frame `first`, one of `windows`: `length`, or all of its shot."""
    end = min((cut for cut in cuts if first < cut < frames), default=frames)
    repeated = frozenset(repeats)
    return list(islice((frame for frame in range(first, end) if frame not in repeated), length))


def _look(frame: Frame) -> Look:
    """Describe a frame: cumulative histograms of its colours, and its layout without the mean brightness."""
    small = cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA)
    channels = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).reshape(-1, 3)
    shares = [np.bincount(channel // 4, minlength=64) / channel.size for channel in channels.T]
    layout = cv2.resize(small, (16, 9), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.cumsum(shares, axis=1), layout - layout.mean()


def _small(frame: Frame) -> NDArray[np.float32]:
    """A frame in grey levels with a longer side of at most `_COMPARED` pixels."""
    height, width = frame.shape[:2]
    scale = min(1.0, _COMPARED / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    reduced = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(reduced, cv2.COLOR_BGR2GRAY).astype(np.float32)


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


def _repeats(differences: NDArray[np.float32], cuts: list[int]) -> list[int]:
    """Find repeated frames in f32[T], the difference of each frame from the one before; infinite for frame 0.

    A run of repeats lies between two frames that do differ from those before them. At an end of a shot one of the two
    is not known: there, several equal frames are a scene at rest, and only a single one is a repeat.
    """
    frames = len(differences)
    # As a run's length is not known, every length is tried.
    ahead = np.concatenate([differences, np.full(_LONGEST_REPEAT + 1, np.inf, np.float32)])
    ahead[cuts] = np.inf
    before = np.concatenate([[np.inf], ahead[: frames - 1]])
    largest = np.zeros(frames, np.float32)  # difference within the run that starts at each frame
    repeated = np.zeros(frames, bool)
    for length in range(1, min(_LONGEST_REPEAT, frames) + 1):
        largest = np.maximum(largest, ahead[length - 1 : length - 1 + frames])
        after = ahead[length : length + frames]
        around = np.minimum(before, after)
        known = np.isfinite(around) & ((length == 1) | np.isfinite(np.maximum(before, after)))
        starts = known & (around >= _REPEAT_FLOOR) & (largest <= _REPEAT_RATIO * around)
        for offset in range(length):
            repeated[offset:] |= starts[: frames - offset]
    return np.flatnonzero(repeated).tolist()
