"""The camera's motion is found among movers, and a camera that stands still is exactly still."""

import cv2
import numpy as np
import pytest

from infoaug.estimators.geometry.camera import camera_motion, camera_trajectories

CENTRE = np.array([427.0, 240.0])


def scene(seed: int, frames: int = 48, points: int = 200, movers: float = 0.3, noise: float = 0.1, still: bool = False):
    """Tracks under pan, zoom and rotation: position f32[N, T, 2], visible, the camera's share, and who moves itself."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((0, 0), (853, 479), (points, 2))
    t = np.arange(frames)
    angle, zoom = 0.003 * t + 0.01 * np.sin(t / 5), 1 + 0.004 * t
    pan = np.stack([3 * t + 5 * np.sin(t / 4), -1.5 * t], axis=1)
    turn = zoom * np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    camera = np.einsum("ijt,nj->nti", turn, start - CENTRE) + CENTRE + pan
    if still:
        camera = np.repeat(start[:, None], frames, axis=1)
    own = np.arange(points) < movers * points
    walk = np.cumsum(rng.normal(0, 1, (points, frames, 2)) + 2 * rng.normal(size=(points, 1, 2)), axis=1)
    position = camera + own[:, None, None] * (walk - walk[:, :1])
    position[:, 1:] += rng.normal(0, noise, position[:, 1:].shape)
    inside = ((position >= 0) & (position <= (853, 479))).all(axis=2)
    return position.astype(np.float32), np.logical_and.accumulate(inside, axis=1), camera, own


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", ["affine", "similarity", "homography"])
def test_pan_zoom_and_rotation_are_found_among_movers(seed, model):
    position, visible, camera, own = scene(seed)
    motion = camera_motion(position, visible, model=model)
    assert motion.shape == (48, 3, 3) and motion.dtype == np.float32
    off = np.linalg.norm(camera_trajectories(motion, position[:, 0]) - camera, axis=2)
    assert off[visible & ~own[:, None]].max() < 0.3
    residual = np.linalg.norm(position - camera_trajectories(motion, position[:, 0]), axis=2)
    moved = visible[:, 24]
    assert np.median(residual[own & moved, 24]) > 10, "own motion is left in"


def test_more_than_half_of_the_points_may_move_on_their_own():
    position, visible, camera, own = scene(1, movers=0.6)
    off = np.linalg.norm(camera_trajectories(camera_motion(position, visible), position[:, 0]) - camera, axis=2)
    assert off[visible & ~own[:, None]].max() < 0.5


def test_movers_slower_than_the_threshold_per_frame_do_not_pull_the_camera():
    position, visible, camera, own = scene(2, movers=0.0)
    own = np.arange(200) < 60
    position[own] += 0.3 * np.arange(48, dtype=np.float32)[None, :, None]
    off = np.linalg.norm(camera_trajectories(camera_motion(position, visible), position[:, 0]) - camera, axis=2)
    assert off[visible & ~own[:, None]].max() < 0.3


def test_a_group_that_swings_does_not_swing_the_camera():
    position, visible, camera, _ = scene(3, movers=0.0)
    t = np.arange(48, dtype=np.float32)
    own = np.arange(200) < 60
    position[own] += 2 * np.stack([np.sin(t / 3), 1 - np.cos(t / 3)], axis=1)
    off = np.linalg.norm(camera_trajectories(camera_motion(position, visible), position[:, 0]) - camera, axis=2)
    assert off[visible & ~own[:, None]].max() < 0.3


def test_points_dragged_along_for_a_while_do_not_bend_a_still_camera():
    position, visible, _, _ = scene(3, still=True, movers=0.0, noise=0.03)
    position[:70, 30:, 0] += 3.0 * np.arange(1, 19, dtype=np.float32)
    motion = camera_motion(position, np.ones_like(visible), static=0.0)
    off = camera_trajectories(motion, position[:, 0]) - position[:, :1]
    assert np.linalg.norm(off, axis=2).max() < 0.3


def test_a_still_camera_is_exactly_still():
    position, visible, _, _ = scene(4, still=True)
    motion = camera_motion(position, visible)
    assert np.array_equal(motion, np.tile(np.eye(3, dtype=np.float32), (48, 1, 1)))
    assert np.array_equal(camera_trajectories(motion, position[:, 0]), np.repeat(position[:, :1], 48, axis=1))
    assert not np.array_equal(camera_motion(position, visible, static=0.0), motion)
    shaken = position + 2 * np.sin(np.arange(48, dtype=np.float32))[None, :, None]
    assert np.ptp(camera_motion(shaken, visible)[:, 0, 2]) > 2


def test_the_translation_model_follows_the_median():
    position, visible, _, _ = scene(5, still=True)
    pan = np.stack([2.0 * np.arange(48), -1.0 * np.arange(48)], axis=1)
    motion = camera_motion((position + pan).astype(np.float32), np.ones_like(visible), model="translation")
    assert np.abs(motion[:, :2, 2] - pan).max() < 0.3
    assert np.array_equal(motion[:, :2, :2], np.tile(np.eye(2, dtype=np.float32), (48, 1, 1)))


def test_the_result_depends_on_nothing_but_the_tracks():
    position, visible, _, _ = scene(6)
    once = camera_motion(position, visible)
    cv2.setRNGSeed(12345)
    cv2.randu(np.zeros(100, dtype=np.uint8), 0, 255)
    assert np.array_equal(camera_motion(position, visible), once)
    order = np.random.default_rng(0).permutation(len(position))
    moved = camera_trajectories(camera_motion(position[order], visible[order]), position[:, 0])
    assert np.abs(moved - camera_trajectories(once, position[:, 0]))[visible].max() < 0.3


def test_few_points_give_their_median_shift_and_none_hold_the_last_motion():
    t = np.arange(6, dtype=np.float32)
    start = np.array([[10, 10], [50, 20], [30, 90], [70, 70], [20, 60]], dtype=np.float32)
    position = start[:, None] + np.stack([3 * t, 2 * t], axis=1)
    position[0, :, 0] += 7 * t
    visible = np.ones((5, 6), dtype=bool)
    visible[:, 4:] = False
    motion = camera_motion(position, visible)
    expected = np.minimum(t, 3)[:, None] * np.array([3, 2])
    assert np.allclose(motion[:, :2, 2], expected, atol=1e-4)
    assert np.allclose(motion[:, :2, :2], np.eye(2)) and np.allclose(motion[:, 2], [0, 0, 1])


@pytest.mark.parametrize("model", ["translation", "similarity", "affine", "homography"])
def test_nothing_to_see_and_points_in_a_line_do_no_harm(model):
    nothing = camera_motion(np.zeros((0, 4, 2), np.float32), np.zeros((0, 4), bool), model=model)
    assert np.array_equal(nothing[3], np.eye(3, dtype=np.float32))
    x = np.linspace(0, 100, 20)
    line = np.stack([x, x], axis=1)[:, None] + 2.0 * np.arange(5)[None, :, None]
    motion = camera_motion(line.astype(np.float32), np.ones((20, 5), bool), model=model)
    assert np.abs(camera_trajectories(motion, line[:, 0]) - line).max() < 0.1


def test_a_point_that_meets_the_horizon_stays_where_it_was_last():
    # From frame 1 to 2 the map sends x = 100 to infinity, and what is beyond to the other side.
    maps = np.tile(np.eye(3, dtype=np.float32), (4, 1, 1))
    maps[1, 0, 2] = 5
    maps[2:, 2, 0] = -0.01
    paths = camera_trajectories(maps, np.array([[50.0, 20.0], [100.0, 20.0], [150.0, 20.0]]))
    assert np.allclose(paths[0, 2:], [100, 40]) and np.isfinite(paths).all()
    assert paths[1:, 2:].tolist() == [[[105, 20]] * 2, [[155, 20]] * 2]


def test_bad_input_is_named():
    position, visible, _, _ = scene(7, frames=3)
    with pytest.raises(ValueError, match=r"'rigid'.*affine"):
        camera_motion(position, visible, model="rigid")
    with pytest.raises(ValueError, match="visible bool"):
        camera_motion(position, visible[:, :2])
    with pytest.raises(ValueError, match="use camera_motion"):
        camera_trajectories(np.eye(3)[None, :1], position[:, 0])
