"""Patches: one trackable point in each cell of a grid over the first frame, and the colour and image around it.

Positions are pixels `(x, y)` with the centre of the top-left pixel at (0, 0). Boxes are `(x0, y0, x1, y1)`, where
x1 and y1 are exclusive.
"""

from math import ceil, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.trackers.base import Bytes, Floats, grey, sample

# Scoring keeps up to eight matrices with a number for every pair of patches.
MOST_PATCHES = 10_000
_BYTES_A_PAIR = 64
# A point of less `point_texture` sticks to noise or slides; 1.4 grey levels per pixel, not far above rounding.
LEAST_TEXTURE = 2.0
# Side of the square in which texture is measured, pixels.
_TEXTURE_SIDE = 7
# What white noise of variance 1 adds to the eigenvalues of the structure tensor, by Sobel's derivatives. The noise of
# a window is that of the patches at this quantile.
_NOISE_IN_TENSOR, _QUIET = 12 / 64, 0.1


def patch_grid(height: int, width: int, spacing: int) -> NDArray[np.int32]:
    """Divide a frame into the square cells that get one patch each: boxes i32[N, 4], row-major.

    All cells are whole. The pixels left over are split evenly between opposite sides.

    Args:
        height: of the frame, pixels.
        width: of the frame, pixels.
        spacing: side of a cell, pixels.

    Raises:
        ValueError: no cell fits, or more than `MOST_PATCHES` do.
    """
    rows, columns = (height // spacing, width // spacing) if spacing > 0 else (0, 0)
    if rows < 1 or columns < 1:
        raise ValueError(
            f"no cell of {spacing} px fits into a frame of {width}x{height}; set extract.spacing from 1 to "
            f"{min(height, width)}"
        )
    if (count := rows * columns) > MOST_PATCHES:
        raise ValueError(
            f"a frame of {width}x{height} has {count} patches at a spacing of {spacing} px, more than {MOST_PATCHES}: "
            f"the {count}² pairs would take {count**2 * _BYTES_A_PAIR / 2**30:.1f} GiB; set extract.spacing to "
            f"{ceil(sqrt(height * width / MOST_PATCHES))} or more, or resize the clip"
        )
    top, left = (height - rows * spacing) // 2, (width - columns * spacing) // 2
    row, column = np.divmod(np.arange(rows * columns), columns)
    corner = np.stack([left + column * spacing, top + row * spacing], axis=1)
    return np.concatenate([corner, corner + spacing], axis=1).astype(np.int32)


def check_patch_size(height: int, width: int, patch_size: int) -> None:
    """Check that the crop of a patch fits into a frame.

    Raises:
        ValueError: it does not.
    """
    if not 0 < patch_size <= min(height, width):
        raise ValueError(
            f"no patch of {patch_size} px fits into a frame of {width}x{height}; set extract.patch_size from 1 to "
            f"{min(height, width)}"
        )


def crop_boxes(points: Floats, height: int, width: int, patch_size: int) -> NDArray[np.int32]:
    """The square crops of patches: boxes i32[N, 4], centred on their points to half a pixel.

    At the frame's border a crop is shifted inwards, so that it has its full size and all of it is in the frame.

    Args:
        points: f32[N, 2], (x, y) pixels.
        height: of the frame, pixels.
        width: of the frame, pixels.
        patch_size: side of a crop, pixels.

    Raises:
        ValueError: the frame is smaller than a crop.
    """
    check_patch_size(height, width, patch_size)
    # Of an even side, the two middle pixels are equally near to a whole pixel: it is the first of them.
    corner = np.floor(np.asarray(points, np.float64) - patch_size / 2 + 1).astype(np.int32)
    corner = np.clip(corner, 0, np.array([width - patch_size, height - patch_size], np.int32))
    return np.concatenate([corner, corner + patch_size], axis=1, dtype=np.int32)


def trackable_points(
    frame: Bytes, boxes: NDArray[np.integer], *, point: str = "eigenvalue", margin: int = 2, block_size: int = 7
) -> Floats:
    """Choose the point to track in each box: f32[N, 2], (x, y).

    Args:
        frame: u8[H, W, 3] RGB or u8[H, W].
        boxes: i[N, 4], of any sizes.
        point: `"eigenvalue"`, the pixel with the largest minimum eigenvalue of the gradient matrix (Shi & Tomasi 1994),
            or the centre if the box has no texture; or `"centre"`.
        margin: the pixel is at least this many pixels inside the box.
        block_size: side of the square over which the gradient matrix is summed, pixels.

    Raises:
        ValueError: `point` is unknown, or a box is not inside the frame.
    """
    if point not in ("eigenvalue", "centre"):
        raise ValueError(f"unknown point {point!r}; choose 'eigenvalue' or 'centre'")
    boxes = _checked_boxes(frame, boxes)
    centre = ((boxes[:, :2] + boxes[:, 2:] - 1) / 2).astype(np.float32)
    if point == "centre" or len(boxes) == 0:
        return centre
    strength = cv2.cornerMinEigenVal(grey(frame), block_size)
    inset = np.minimum(margin, (boxes[:, 2:] - boxes[:, :2] - 1) // 2)
    low, size = boxes[:, :2] + inset, boxes[:, 2:] - boxes[:, :2] - 2 * inset
    # All boxes are searched at the size of the largest; pixels outside a smaller box get the score −1.
    dx, dy = np.arange(size[:, 0].max()), np.arange(size[:, 1].max())
    x = np.minimum(low[:, :1] + dx, frame.shape[1] - 1)
    y = np.minimum(low[:, 1:] + dy, frame.shape[0] - 1)
    inside = (dy < size[:, 1:])[:, :, None] & (dx < size[:, :1])[:, None, :]
    score = np.where(inside, strength[y[:, :, None], x[:, None, :]], -1.0).reshape(len(boxes), -1)
    best = score.argmax(axis=1)
    row, column = np.divmod(best, len(dx))
    chosen = np.stack([low[:, 0] + column, low[:, 1] + row], axis=1).astype(np.float32)
    return np.where(score[np.arange(len(boxes)), best, None] > 0, chosen, centre)


def point_texture(frames: Bytes, position: Floats, visible: NDArray[np.bool_]) -> Floats:
    """How much there is to track at each point beyond noise: f32[N], (grey levels per pixel)².

    It is the smaller eigenvalue of the structure tensor around the point in frame 0, the mean squared slope in the
    direction of least texture, less what the noise alone would give. The variance of the noise is half of
    the mean squared difference between a patch and itself one frame later. Blur and deformation add to it, so that of
    the quietest patches is taken.

    Args:
        frames: u8[T, H, W, 3] RGB or u8[T, H, W].
        position: f32[N, T, 2], pixels (x, y).
        visible: bool[N, T].
    """
    start = grey(frames[0])
    dx, dy = (cv2.Sobel(start, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (1, 0))
    tensor = np.stack([cv2.blur(part, (_TEXTURE_SIDE, _TEXTURE_SIDE)) for part in (dx * dx, dx * dy, dy * dy)], axis=-1)
    xx, xy, yy = sample(tensor, position[:, 0]).T
    smaller: Floats = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    side = np.arange(_TEXTURE_SIDE, dtype=np.float32) - _TEXTURE_SIDE // 2
    around = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    both = visible[:, 1:] & visible[:, :-1]
    square = np.zeros(both.shape)
    before = np.zeros(0)
    for t, frame in enumerate(frames):
        now = sample(grey(frame).astype(np.float32), position[:, t, None] + around)
        now -= now.mean(axis=1, keepdims=True)
        if t:
            square[:, t - 1] = ((now - before) ** 2).mean(axis=1)
        before = now
    known = both.any(axis=1)
    patch = np.where(both, square, 0.0).sum(axis=1)[known] / both.sum(axis=1)[known]
    noise = np.quantile(patch, _QUIET) / 2 if known.any() else 0.0
    return smaller - np.float32(_NOISE_IN_TENSOR * noise)


def patch_colour(frames: Bytes, position: Floats, side: int) -> Floats:
    """Compute the mean colour of the square around each tracked point: f32[N, T, 3], RGB from 0 to 1.

    Args:
        frames: u8[T, H, W, 3] RGB.
        position: f32[N, T, 2], pixels (x, y); means are interpolated bilinearly between pixels.
        side: of the square, pixels; the frame is mirrored beyond its border.

    Raises:
        ValueError: the numbers of frames differ.
    """
    if frames.ndim != 4 or position.ndim != 3 or len(frames) != position.shape[1]:
        raise ValueError(
            f"frames u8[T, H, W, 3] and position f32[N, T, 2] must have the same T, not {list(frames.shape)} and "
            f"{list(position.shape)}"
        )
    colour = np.empty((*position.shape[:2], 3), dtype=np.float32)
    # OpenCV anchors an even box half a pixel to the right of its centre.
    at = position + np.float32(0.5 if side % 2 == 0 else 0.0)
    for t, frame in enumerate(frames):
        mean = cv2.boxFilter(frame, cv2.CV_32F, (side, side))
        sampled = cv2.remap(
            mean,
            np.ascontiguousarray(at[:, t, :1]),
            np.ascontiguousarray(at[:, t, 1:]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        colour[:, t] = sampled[:, 0] / 255.0
    return colour


def patch_images(frame: Bytes, boxes: NDArray[np.integer], image_size: int) -> Bytes:
    """Cut out boxes and resize them: u8[N, S, S, 3].

    Boxes are shrunk by area averaging and enlarged by cubic interpolation.

    Args:
        frame: u8[H, W, 3] RGB.
        boxes: i[N, 4].
        image_size: S, pixels.

    Raises:
        ValueError: a box is empty or not inside the frame.
    """
    images = np.empty((len(boxes), image_size, image_size, 3), dtype=np.uint8)
    for image, (x0, y0, x1, y1) in zip(images, _checked_boxes(frame, boxes), strict=True):
        shrinks = min(x1 - x0, y1 - y0) >= image_size
        mode = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        cv2.resize(frame[y0:y1, x0:x1], (image_size, image_size), dst=image, interpolation=mode)
    return images


def _checked_boxes(frame: Bytes, boxes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the boxes as integers; ValueError if one is empty or not inside the frame."""
    whole = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    limit = np.array([frame.shape[1], frame.shape[0]])
    if (whole[:, :2] < 0).any() or (whole[:, 2:] > limit).any() or (whole[:, 2:] <= whole[:, :2]).any():
        raise ValueError(
            f"every box (x0, y0, x1, y1) must lie inside the frame of {limit[0]}x{limit[1]} and contain a pixel"
        )
    return whole
