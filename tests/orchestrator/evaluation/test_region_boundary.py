"""J and F against masks worked out by hand, and against a slow implementation from the definitions."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from infoaug.orchestrator.evaluation.region_boundary import boundary, contour, region

Mask = NDArray[np.bool_]


def _square(shape: tuple[int, int], top: int, left: int, side: int) -> Mask:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def _slow_contour(mask: Mask) -> list[tuple[int, int]]:
    height, width = mask.shape
    found = []
    for y, x in product(range(height), range(width)):
        neighbours = [(y + 1, x), (y, x + 1), (y + 1, x + 1)]
        if any(v < height and u < width and mask[v, u] != mask[y, x] for v, u in neighbours):
            found.append((y, x))
    return found


def _slow_boundary(found: Mask, true: Mask, tolerance: float) -> float:
    """From the distances of all pairs of pixels."""
    a, b = (np.array(_slow_contour(mask), float).reshape(-1, 2) for mask in (found, true))
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    reach = math.ceil(tolerance * math.sqrt(found.shape[0] ** 2 + found.shape[1] ** 2))
    distance = np.sqrt(((a[:, None] - b) ** 2).sum(axis=2))
    precision = (distance.min(axis=1) <= reach).mean()
    recall = (distance.min(axis=0) <= reach).mean()
    return 0.0 if precision + recall == 0 else 2 / (1 / precision + 1 / recall) if precision and recall else 0.0


def test_j_of_a_square_and_a_shifted_one():
    mask = _square((40, 60), 10, 10, 10)
    assert region(mask, mask) == 1
    assert region(mask, _square((40, 60), 10, 15, 10)) == pytest.approx(50 / 150)
    assert region(mask, _square((40, 60), 20, 10, 10)) == 0


def test_empty_masks_agree_and_an_empty_one_has_nothing_in_common_with_another():
    mask, empty = _square((40, 60), 10, 10, 10), np.zeros((40, 60), bool)
    assert (region(empty, empty), boundary(empty, empty)) == (1, 1)
    assert (region(mask, empty), boundary(mask, empty)) == (0, 0)
    assert (region(empty, mask), boundary(empty, mask)) == (0, 0)


def test_f_of_squares_at_the_tolerance_and_a_pixel_beyond_it():
    """A frame of 300×400 has a diagonal of 500: the tolerance is ⌈0.008 · 500⌉ = 4 pixels."""
    shape = (300, 400)
    mask = _square(shape, 100, 100, 40)
    assert boundary(mask, _square(shape, 100, 104, 40)) == 1
    # Shifted by 5, the upper and lower sides still match, and the left and right ones only near the corners.
    other = _square(shape, 100, 105, 40)
    assert boundary(mask, other) == pytest.approx(_slow_boundary(mask, other, 0.008))
    assert 0.5 < boundary(mask, other) < 0.65
    assert boundary(mask, _square(shape, 105, 105, 30)) == 0  # inside the first, and 5 pixels from every side


def test_precision_and_recall_have_the_same_weight():
    """Two equal squares, of which one is found: precision 1, recall 1/2, so F is 2/3; and the other way round."""
    shape = (300, 400)
    one, other = _square(shape, 50, 50, 40), _square(shape, 200, 200, 40)
    assert boundary(one, one | other) == pytest.approx(2 / 3)
    assert boundary(one | other, one) == pytest.approx(2 / 3)


def test_the_contour_of_a_square_by_hand():
    found = contour(_square((5, 5), 1, 1, 2))
    expected = [
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert found.astype(int).tolist() == expected


def test_there_is_no_contour_along_the_frames_border():
    corner = _square((6, 6), 3, 3, 3)
    assert sorted(_slow_contour(corner)) == sorted(map(tuple, np.argwhere(contour(corner)).tolist()))
    assert not contour(np.ones((6, 6), bool)).any()
    assert contour(corner)[5, 2] and not contour(corner)[5, 3:].any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tolerance", [0.008, 0.05, 0.2])
def test_f_and_contours_are_those_of_the_slow_implementation(seed, tolerance):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(6, 24, 2))
    found, true = random.random((2, *shape)) < random.random() * 0.5
    assert sorted(_slow_contour(found)) == sorted(map(tuple, np.argwhere(contour(found)).tolist()))
    assert boundary(found, true, tolerance=tolerance) == pytest.approx(_slow_boundary(found, true, tolerance))
    both = {(y, x) for y, x in np.argwhere(found).tolist()} & {(y, x) for y, x in np.argwhere(true).tolist()}
    assert region(found, true) == pytest.approx(len(both) / (found.sum() + true.sum() - len(both)))


def test_void_pixels_do_not_count():
    mask, void = _square((40, 60), 10, 10, 10), np.zeros((40, 60), bool)
    found = _square((40, 60), 10, 15, 10)
    void[:, 20:] = True
    assert region(found, mask, void) == pytest.approx(50 / 100)
    assert region(void, np.zeros_like(void), void) == 1
    assert boundary(mask | void, mask, void) == 1
