"""Patches, their points and their tracks."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.tracks import patch_colour, patch_grid, patch_images, track, trackable_points


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """u8[H, W, 3] with detail at several scales."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 1.5)
    coarse = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 6)
    return np.clip(127 + 90 * fine / fine.std() * 0.4 + 90 * coarse / coarse.std() * 0.6, 0, 255).astype(np.uint8)


def panned(steps: np.ndarray, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Frames u8[T, H, W, 3] of a texture shifted by f[T, 2] pixels."""
    still = texture(size[0] + 80, size[1] + 80)
    maps = [np.array([[1, 0, dx - 40], [0, 1, dy - 40]], dtype=np.float64) for dx, dy in steps]
    return np.stack([cv2.warpAffine(still, m, size[::-1], flags=cv2.INTER_CUBIC) for m in maps])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_a_grid_holds_every_full_patch_once_and_is_centred(height, width, patch_size):
    if patch_size > min(height, width):
        with pytest.raises(ValueError, match="choose a size"):
            patch_grid(height, width, patch_size)
        return
    boxes = patch_grid(height, width, patch_size)
    assert boxes.dtype == np.int32
    assert len(boxes) == (height // patch_size) * (width // patch_size)
    assert (boxes[:, 2:] - boxes[:, :2] == patch_size).all()
    cover = np.zeros((height, width), dtype=int)
    for x0, y0, x1, y1 in boxes:
        cover[y0:y1, x0:x1] += 1
    assert cover.max() == 1 and cover.sum() == len(boxes) * patch_size**2
    left, top, right, bottom = boxes[0, 0], boxes[0, 1], width - boxes[-1, 2], height - boxes[-1, 3]
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1


def test_a_grid_is_row_major():
    assert patch_grid(20, 30, 10)[:4, :2].tolist() == [[0, 0], [10, 0], [20, 0], [0, 10]]


def test_the_chosen_point_is_the_corner_in_the_box():
    frame = np.zeros((64, 96, 3), dtype=np.uint8)
    frame[20:, 40:60] = 255
    boxes = patch_grid(64, 96, 32)
    points = trackable_points(frame, boxes)
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


def test_a_moving_texture_is_followed_to_a_tenth_of_a_pixel():
    t = np.arange(24)
    shift = np.stack([1.3 * t, 4 * np.sin(t / 4)], axis=1)
    frames = panned(shift)
    queries = trackable_points(frames[0], patch_grid(120, 160, 20))
    tracks = track(frames, queries)
    truth = queries[:, None] + shift
    error = np.linalg.norm(tracks.position - truth, axis=2)[tracks.visible]
    assert tracks.position.shape == (48, 24, 2) and tracks.position.dtype == np.float32
    assert np.median(error) < 0.1 and np.quantile(error, 0.95) < 0.3
    assert tracks.visible[:, -1].mean() > 0.6
    assert np.array_equal(tracks.position[:, 0], queries)


def test_a_point_that_leaves_the_frame_is_lost_for_good_and_holds_its_last_position():
    # Out and back again: who leaves is not found again.
    out = np.concatenate([np.arange(0, 40, 2), np.arange(40, 0, -2)])
    frames = panned(np.stack([out, 0 * out], axis=1))
    tracks = track(frames, np.array([[150.0, 60.0], [60.0, 60.0]]))
    assert not tracks.visible[0, -1] and tracks.visible[1].all()
    lost = int(np.argmin(tracks.visible[0]))
    assert not tracks.visible[0, lost:].any()
    assert (tracks.position[0, lost:] == tracks.position[0, lost - 1]).all()
    assert np.isnan(tracks.error[0, lost:]).all() and (tracks.error[0, 1:lost] < 1.5).all()


def test_a_covered_point_is_lost_and_the_others_are_not():
    frames = panned(np.zeros((6, 2)))
    rng = np.random.default_rng(1)
    frames[3:, 30:90, 30:90] = rng.integers(0, 256, (3, 60, 60, 3), dtype=np.uint8)
    tracks = track(frames, np.array([[60.0, 60.0], [130.0, 100.0]]))
    assert tracks.visible.sum(axis=1).tolist() == [3, 6]


def test_grey_frames_track_like_colour_frames():
    frames = panned(np.stack([np.arange(5), np.zeros(5)], axis=1))
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    queries = trackable_points(grey[0], patch_grid(120, 160, 40))
    assert np.array_equal(track(frames, queries).position, track(grey, queries, method="lucas-kanade").position)


def test_one_frame_and_no_points_are_tracked_trivially():
    frames = panned(np.zeros((1, 2)))
    assert track(frames, np.array([[5.0, 5.0]])).visible.tolist() == [[True]]
    assert track(panned(np.zeros((3, 2))), np.zeros((0, 2))).position.shape == (0, 3, 2)


def test_bad_input_to_the_tracker_is_named():
    frames = panned(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"'raft'.*auto, lucas-kanade"):
        track(frames, np.zeros((1, 2)), method="raft")
    with pytest.raises(ValueError, match="inside the first frame"):
        track(frames, np.array([[20.0, 150.0]]))
    with pytest.raises(ValueError, match="float64"):
        track(frames / 255.0, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="unknown point 'middle'"):
        trackable_points(frames[0], patch_grid(120, 160, 20), point="middle")
    with pytest.raises(ValueError, match="inside the frame of 160x120"):
        trackable_points(frames[0], np.array([[150, 0, 170, 20]]))


@pytest.mark.parametrize("patch_size", [7, 8])
def test_patch_colour_is_the_mean_around_the_subpixel_position(patch_size):
    # On a plane of brightness the mean of a patch is the value at its centre.
    y, x = np.mgrid[:60, :80]
    frames = np.repeat(np.stack([2 * x, 3 * y, x + y], axis=-1)[None].astype(np.uint8), 2, axis=0)
    position = np.array([[[30.0, 30.0], [30.25, 41.5]], [[50.5, 22.0], [12.0, 20.0]]], dtype=np.float32)
    colour = patch_colour(frames, position, patch_size)
    px, py = position[..., 0], position[..., 1]
    assert colour.dtype == np.float32
    assert np.allclose(colour * 255, np.stack([2 * px, 3 * py, px + py], axis=-1), atol=0.1)


def test_patch_colour_stays_in_range_at_the_border():
    frames = np.stack([texture(40, 50)] * 2)
    position = np.array([[[0, 0], [49, 39]]], dtype=np.float32)
    colour = patch_colour(frames, position, 16)
    assert (colour > 0).all() and (colour < 1).all()
    with pytest.raises(ValueError, match="same T"):
        patch_colour(frames, position[:, :1], 16)


def test_patch_images_are_the_boxes_at_the_size_asked_for():
    frame = texture(64, 96)
    boxes = patch_grid(64, 96, 16)
    same = patch_images(frame, boxes, 16)
    assert np.array_equal(same[7], frame[16:32, 16:32])
    half = patch_images(frame, boxes, 8).astype(float)
    means = frame[16:32, 16:32].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(half[7] - means).max() <= 0.51
    assert patch_images(frame, boxes, 24).shape == (24, 24, 24, 3)
