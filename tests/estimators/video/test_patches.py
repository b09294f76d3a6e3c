"""Patches: a grid over the frame, one trackable point each, and how they look."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoaug.estimators.video.patches import (
    LEAST_TEXTURE,
    MOST_PATCHES,
    crop_boxes,
    patch_colour,
    patch_grid,
    patch_images,
    point_texture,
    trackable_points,
)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """u8[H, W, 3] with detail of a few pixels, read-only like the frames of a clip."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(height, width, 3)), (0, 0), 2)
    frame = np.clip(127 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
    frame.setflags(write=False)
    return frame


@given(st.integers(1, 90), st.integers(1, 90), st.integers(-1, 40))
def test_a_grid_holds_every_full_cell_once_and_is_centred(height, width, spacing):
    if not 0 < spacing <= min(height, width):
        with pytest.raises(ValueError, match=f"set extract.spacing from 1 to {min(height, width)}"):
            patch_grid(height, width, spacing)
        return
    boxes = patch_grid(height, width, spacing)
    assert boxes.dtype == np.int32
    assert len(boxes) == (height // spacing) * (width // spacing)
    assert (boxes[:, 2:] - boxes[:, :2] == spacing).all()
    cover = np.zeros((height, width), dtype=int)
    for x0, y0, x1, y1 in boxes:
        cover[y0:y1, x0:x1] += 1
    assert cover.max() == 1 and cover.sum() == len(boxes) * spacing**2
    left, top, right, bottom = boxes[0, 0], boxes[0, 1], width - boxes[-1, 2], height - boxes[-1, 3]
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1


def test_a_grid_is_row_major():
    assert patch_grid(20, 30, 10)[:4, :2].tolist() == [[0, 0], [10, 0], [20, 0], [0, 10]]


# ---- crops


@pytest.mark.parametrize(
    ("point", "corner"),
    [
        ((50, 40), (42, 32)),  # of an odd side, the point is the middle pixel
        ((8, 40), (0, 32)),  # the first that needs no shift
        ((7, 40), (0, 32)),
        ((0, 0), (0, 0)),
        ((99, 0), (83, 0)),
        ((0, 79), (0, 63)),
        ((99, 79), (83, 63)),
        ((91, 71), (83, 63)),  # the last that needs no shift
        ((90, 70), (82, 62)),
    ],
)
def test_a_crop_is_centred_on_its_point_and_shifted_inwards_at_the_border(point, corner):
    (box,) = crop_boxes(np.array([point], np.float32), 80, 100, 17)
    assert box.tolist() == [*corner, corner[0] + 17, corner[1] + 17]


@given(st.integers(1, 40), st.lists(st.tuples(st.floats(0, 63), st.floats(0, 47)), max_size=20))
def test_crops_are_whole_and_hold_their_points_in_their_middle_or_at_the_border(side, points):
    at = np.array(points, np.float32).reshape(-1, 2)
    boxes = crop_boxes(at, 48, 64, side)
    assert boxes.shape == (len(at), 4) and boxes.dtype == np.int32
    assert (boxes[:, 2:] - boxes[:, :2] == side).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (64, 48)).all()
    off = np.abs((boxes[:, :2] + boxes[:, 2:] - 1) / 2 - at)
    assert ((off <= 0.5) | (boxes[:, :2] == 0) | (boxes[:, 2:] == (64, 48))).all()


@pytest.mark.parametrize("side", [7, 8])
def test_the_crop_of_a_cell_s_centre_is_the_cell(side):
    cells = patch_grid(40, 50, side)
    centres = trackable_points(texture(40, 50), cells, point="centre")
    assert np.array_equal(crop_boxes(centres, 40, 50, side), cells)


@pytest.mark.parametrize("side", [0, 49])
def test_a_crop_that_does_not_fit_is_refused(side):
    with pytest.raises(ValueError, match=rf"no patch of {side} px fits .* 64x48; set extract\.patch_size from 1 to 48"):
        crop_boxes(np.zeros((1, 2), np.float32), 48, 64, side)


def test_the_middle_of_an_image_is_the_pixel_of_the_point():
    frame = texture(48, 64)
    points = np.array([[30, 20], [8, 8], [55, 39]], np.float32)
    images = patch_images(frame, crop_boxes(points, 48, 64, 17), 17)
    for image, (x, y) in zip(images, points.astype(int), strict=True):
        assert np.array_equal(image[8, 8], frame[y, x])


# ---- points


@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_chosen_point_is_the_corner_in_the_box(channels):
    frame = np.zeros((64, 96, *channels), dtype=np.uint8)
    frame[20:, 40:60] = 255
    boxes = patch_grid(64, 96, 32)
    points = trackable_points(frame, boxes)
    assert points.dtype == np.float32
    assert np.abs(points[1] - (40, 20)).max() <= 2
    assert points[0].tolist() == [15.5, 15.5], "a flat box has only its centre"
    assert trackable_points(frame, boxes, point="centre")[5].tolist() == [79.5, 47.5]


def test_points_lie_inside_boxes_of_any_size_and_equal_the_slow_search():
    frame = texture(70, 90)
    rng = np.random.default_rng(3)
    low = rng.integers(0, 50, (40, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 20, (40, 2))], axis=1)
    points = trackable_points(frame, boxes, margin=2, block_size=3)
    strength = cv2.cornerMinEigenVal(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 3)
    for (x0, y0, x1, y1), point in zip(boxes, points, strict=True):
        dx, dy = min(2, (x1 - x0 - 1) // 2), min(2, (y1 - y0 - 1) // 2)
        part = strength[y0 + dy : y1 - dy, x0 + dx : x1 - dx]
        y, x = np.unravel_index(part.argmax(), part.shape)
        assert point.tolist() == [x0 + dx + x, y0 + dy + y]


@pytest.mark.parametrize("point", ["eigenvalue", "centre"])
def test_no_boxes_have_no_points(point):
    assert trackable_points(texture(20, 20), np.zeros((0, 4), np.int32), point=point).shape == (0, 2)


def test_points_of_an_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="unknown point 'middle'"):
        trackable_points(texture(40, 60), patch_grid(40, 60, 20), point="middle")


@pytest.mark.parametrize("box", [(50, 0, 61, 20), (0, 30, 20, 41), (-1, 0, 9, 9), (0, -1, 9, 9), (9, 0, 9, 9)])
def test_boxes_that_are_empty_or_not_inside_the_frame_are_refused(box):
    for use in (trackable_points, lambda frame, boxes: patch_images(frame, boxes, 8)):
        with pytest.raises(ValueError, match="inside the frame of 60x40"):
            use(texture(40, 60), np.array([(0, 0, 5, 5), box]))


@pytest.mark.parametrize("side", [7, 8])
def test_patch_colour_is_the_mean_around_the_subpixel_position(side):
    # On a plane of brightness the mean of a patch is the value at its centre.
    y, x = np.mgrid[:60, :80]
    frames = np.stack([np.stack([2 * x, 3 * y, x + y], axis=-1), np.stack([y, x, 0 * x], axis=-1)]).astype(np.uint8)
    frames.setflags(write=False)
    position = np.array([[[30.0, 30.0], [30.25, 41.5]], [[50.5, 22.0], [12.0, 20.0]]], dtype=np.float32)
    colour = patch_colour(frames, position, side)
    px, py = position[..., 0], position[..., 1]
    assert colour.dtype == np.float32
    assert np.allclose(colour[:, 0] * 255, np.stack([2 * px, 3 * py, px + py], axis=-1)[:, 0], atol=0.1)
    assert np.allclose(colour[:, 1] * 255, np.stack([py, px, 0 * px], axis=-1)[:, 1], atol=0.1)


def test_patch_colour_is_that_of_the_frame_also_at_its_border_and_beyond():
    position = np.array([[[0, 0], [49, 39]], [[-3, -4], [60, 45]]], dtype=np.float32)
    flat = np.full((2, 40, 50, 3), (51, 102, 204), dtype=np.uint8)
    np.testing.assert_allclose(patch_colour(flat, position, 16), np.tile([0.2, 0.4, 0.8], (2, 2, 1)), atol=1e-4)
    with pytest.raises(ValueError, match="same T"):
        patch_colour(flat, position[:, :1], 16)


def test_texture_is_the_mean_squared_slope_in_the_direction_of_least_slope():
    x, y = np.meshgrid(np.arange(80.0), np.arange(80.0))
    waves = np.rint(127 + 60 * np.cos((x - 40) / 3) + 30 * np.sin(y / 3)).astype(np.uint8)
    edge = np.rint(127 + 60 * np.sin(x / 3)).astype(np.uint8)
    at = np.full((1, 4, 2), 40, np.float32)
    still = [point_texture(np.stack([frame] * 4), at, np.ones((1, 4), bool)) for frame in (waves, edge)]
    assert still[0].shape == (1,) and still[0].dtype == np.float32
    assert still[0][0] == pytest.approx(((30 / 3 * np.cos(np.arange(37, 44) / 3)) ** 2).mean(), rel=0.1)
    assert still[1][0] == pytest.approx(0, abs=0.01), "a point on an edge slides along it"


@pytest.mark.parametrize("noise", [1.0, 2.5])
def test_the_texture_of_noise_alone_is_too_little(noise):
    rng = np.random.default_rng(0)
    frames = np.clip(120 + rng.normal(0, noise, (12, 120, 120)), 0, 255)
    frames[:, 60:] += 3 * texture(60, 120)[..., 0] / 4 - 90.0
    frames = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    points = trackable_points(frames[0], patch_grid(120, 120, 20))
    found = point_texture(frames, np.repeat(points[:, None], 12, axis=1), np.ones((36, 12), bool))
    assert (found[:12] < LEAST_TEXTURE).all() and (found[24:] > LEAST_TEXTURE).all()


def test_patch_images_are_the_boxes_at_the_size_asked_for():
    frame = texture(64, 96)
    boxes = patch_grid(64, 96, 16)
    same = patch_images(frame, boxes, 16)
    assert np.array_equal(same[7], frame[16:32, 16:32])
    half = patch_images(frame, boxes, 8).astype(float)
    means = frame[16:32, 16:32].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(half[7] - means).max() <= 0.51
    larger = patch_images(frame, boxes, 32)
    assert larger.shape == (24, 32, 32, 3)
    again = larger.reshape(24, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(again - same).mean() < 2


def test_more_patches_than_can_be_scored_are_refused_with_the_size_that_would_do() -> None:
    with pytest.raises(
        ValueError, match=r"has 1000000 patches at a spacing of 2 px.*59604\.6 GiB; set extract\.spacing to 20 or"
    ):
        patch_grid(2000, 2000, 2)
    assert len(patch_grid(2000, 2000, 20)) == MOST_PATCHES
