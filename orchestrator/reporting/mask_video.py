"""Masks over the frames of a video, one colour an object, as a GIF or an MP4 file."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.evaluation import davis
from infoaug.orchestrator.reporting import animation

COLOURS = (255 * np.vstack([[0, 0, 0], matplotlib.colormaps["tab10"](np.arange(10))[:, :3]])).astype(np.uint8)
SHARE = 0.5  # of the colour in the pixels of an object


def save(video: davis.Video, masks: Iterable[NDArray[np.uint8]], path: Path) -> Path:
    """Write a sequence with its masks u8[H, W], one a frame, at 15 frames per second.

    Raises:
        UsageError: the suffix of the path is neither `.gif` nor `.mp4`.
        StageError: a frame cannot be read, or the file cannot be written.
    """
    longest = animation.LONGER_SIDE[animation.checked(path).suffix.lower()]
    return animation.write(_pictures(video, masks, longest), path)


def draw(frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame u8[H, W, 3] with the objects of a mask u8[H, W] tinted and their contours drawn."""
    colour = COLOURS[np.where(mask > 0, (mask.astype(int) - 1) % (len(COLOURS) - 1) + 1, 0)]
    picture = np.where(mask[..., None] > 0, (1 - SHARE) * frame + SHARE * colour, frame).astype(np.uint8)
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8))
    edge = (mask > 0) & (inner != mask)
    picture[edge] = colour[edge]
    return picture


def _pictures(video: davis.Video, masks: Iterable[NDArray[np.uint8]], longest: int) -> Iterator[NDArray[np.uint8]]:
    for path, mask in zip(video.frames, masks, strict=True):
        frame = davis.frame(path)
        scale = longest / max(frame.shape[:2])
        height, width = (max(2, 2 * round(side * scale / 2)) for side in frame.shape[:2])
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        yield draw(
            np.asarray(small, np.uint8),
            np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8),
        )
