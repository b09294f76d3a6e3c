"""Crops of tracks: pictures of a patch at several times of its window, and how the store holds them.

All crops of a track are one PNG, one below the other. PNG loses nothing, so training sees the pixels of the clip;
docs/store.md compares it with other formats.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.trackers.base import Bytes, Floats
from infoaug.estimators.video import patches

_LEVEL = [cv2.IMWRITE_PNG_COMPRESSION, 3]  # higher levels take up to twice the time and save 3 %


def crop_frames(visible: ArrayLike, count: int) -> NDArray[np.int32]:
    """Choose the frames in which tracks are cropped: int32[N, count], ascending, then −1 where there are fewer.

    The first is the window's first frame. The others are frames in which the point is visible, spread evenly from the
    first frame to the last visible one. A track that is seen in fewer than `count` frames has a crop in each of them.

    Args:
        visible: bool[N, T].
        count: most crops of a track, at least 1.
    """
    seen = np.array(visible, bool)
    seen[:, 0] = True
    chosen = np.full((len(seen), count), -1, np.int32)
    for row, own in zip(chosen, seen, strict=True):
        frames = np.flatnonzero(own)
        fewer = min(count, len(frames))
        row[:fewer] = frames[np.rint(np.linspace(0, len(frames) - 1, fewer)).astype(int)]
    return chosen


def cut(frames: Bytes, position: Floats, at: NDArray[np.integer], patch_size: int, image_size: int) -> Bytes:
    """Cut out and resize the crops of tracks: u8[N, K, S, S, 3], 0 where a track has no crop.

    Args:
        frames: u8[T, H, W, 3] RGB.
        position: f32[N, T, 2], pixels (x, y), the points that crops are centred on (`patches.crop_boxes`).
        at: int[N, K], the frames of the crops, −1 for none.
        patch_size: side of a crop in the frame, pixels.
        image_size: S, pixels.

    Raises:
        ValueError: the frame is smaller than a crop.
    """
    height, width = frames.shape[1:3]
    images = np.zeros((*at.shape, image_size, image_size, 3), np.uint8)
    for frame in np.unique(at[at >= 0]):
        track, crop = np.nonzero(at == frame)
        boxes = patches.crop_boxes(position[track, frame], height, width, patch_size)
        images[track, crop] = patches.patch_images(frames[frame], boxes, image_size)
    return images


def encode(images: Bytes, at: NDArray[np.integer]) -> list[bytes]:
    """Compress the crops of N tracks: one PNG a track.

    Args:
        images: u8[N, K, S, S, 3] RGB.
        at: int[N, K], −1 where a track has no crop; these come last.
    """
    counts = (at >= 0).sum(axis=1)
    size = images.shape[2]
    strips = (own[:count].reshape(count * size, size, 3) for own, count in zip(images, counts, strict=True))
    return [cv2.imencode(".png", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), _LEVEL)[1].tobytes() for strip in strips]


def decode(encoded: Sequence[bytes]) -> Bytes:
    """Decompress the crops of tracks, those of all of them one after the other: u8[P, S, S, 3] RGB.

    Raises:
        ValueError: what is given is not crops of one size.
    """
    strips = []
    for content in encoded:
        strip = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        if strip is None or len(strip) % strip.shape[1]:
            raise ValueError("no crops can be decoded")
        strips.append(cv2.cvtColor(strip, cv2.COLOR_BGR2RGB))
    joined: Bytes = np.concatenate(strips)
    return joined.reshape(-1, joined.shape[1], joined.shape[1], 3)
