"""J and F of a mask: region similarity and accuracy of the contour (Perazzi et al. 2016, section 5)."""

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TOLERANCE = 0.008  # of a frame's diagonal, by which contours may be apart


def region(found: Mask, true: Mask, void: Mask | None = None) -> float:
    """J: pixels in both masks over pixels in either, 0–1; two empty masks agree (1).

    Args:
        found, true: bool[H, W].
        void: bool[H, W], pixels that do not count.
    """
    if void is not None:
        found, true = found & ~void, true & ~void
    either = np.count_nonzero(found | true)
    return np.count_nonzero(found & true) / either if either else 1.0


def boundary(found: Mask, true: Mask, void: Mask | None = None, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of the pixels of the contours, 0–1.

    A pixel of one contour is matched if a pixel of the other lies within ⌈`tolerance` · diagonal⌉ pixels of it. This
    stands for the bipartite matching of Martin et al. 2004, as in DAVIS's own evaluation. Without contours in both
    masks F is 1, without one in either of them 0.

    Args:
        found, true, void: as of `region`.
        tolerance: share of the frame's diagonal.
    """
    if void is not None:
        found, true = found & ~void, true & ~void
    contours = contour(found), contour(true)
    lengths = [np.count_nonzero(each) for each in contours]
    if not all(lengths):
        return float(not any(lengths))
    disk = _disk(math.ceil(tolerance * math.hypot(*found.shape)))
    near = [cv2.dilate(each.view(np.uint8), disk).view(bool) for each in contours]
    precision = np.count_nonzero(contours[0] & near[1]) / lengths[0]
    recall = np.count_nonzero(contours[1] & near[0]) / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """The pixels bool[H, W] that differ from their neighbour at the right, below, or right below within the frame.

    Where the mask meets the border of the frame there is no contour.
    """
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return found


@cache
def _disk(radius: int) -> NDArray[np.uint8]:
    """All pixels within `radius` of the middle one."""
    away = np.arange(-radius, radius + 1) ** 2
    return (away[:, None] + away <= radius**2).astype(np.uint8)
