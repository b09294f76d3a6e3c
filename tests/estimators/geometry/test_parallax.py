"""The parallax of a still scene is told from what moves by itself."""

import numpy as np
import pytest

from infoaug.estimators.geometry.camera import camera_motion, camera_trajectories
from infoaug.estimators.geometry.parallax import still_scene
from infoaug.estimators.information.motion import residual, spread

POINTS, FRAMES, SIZE = 240, 48, (640.0, 384.0)


def filmed(seed: int, depth: float = 0.6, noise: float = 0.1):
    """A still scene with depth under a camera that moves sideways and shakes; a subject, all at one depth."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((0, 0), SIZE, (POINTS, 2))
    subject = (np.abs(start - np.array([320, 190])) < (130, 110)).all(axis=1)
    t = np.arange(FRAMES) / FRAMES
    walk = np.cumsum(rng.normal(0, 0.5, (FRAMES, 2)), axis=0)
    pan = np.stack([50 * np.sin(2.2 * t), 20 * np.sin(3 * t)], axis=1) + walk - walk[:1]
    near = np.where(subject, depth / 2, rng.uniform(0, depth, POINTS))
    position = start[:, None] + pan * (1 + near[:, None, None])
    position[:, 1:] += rng.normal(0, noise, (POINTS, FRAMES - 1, 2))
    return position, subject, rng


def without_camera(position: np.ndarray) -> np.ndarray:
    shown = np.ones(position.shape[:2], bool)
    return residual(position, camera_trajectories(camera_motion(position, shown), position[:, 0]))


ALL = np.ones(POINTS, bool)
SHOWN = np.ones((POINTS, FRAMES), bool)


@pytest.mark.parametrize("seed", range(3))
def test_points_that_only_parallax_moves_are_still(seed):
    path = without_camera(filmed(seed)[0])
    moved = spread(path, SHOWN) > 1
    assert moved.sum() > 40, "parallax is more than noise"
    still = still_scene(path, SHOWN, ALL, 1.0)
    assert still[moved].mean() > 0.5


@pytest.mark.parametrize("kind", ["walk", "straight", "swing"])
@pytest.mark.parametrize("seed", range(3))
def test_a_subject_that_moves_by_itself_is_not_taken_for_parallax(seed, kind):
    """It is rigid, at the middle, and as wide and high as half of the frame."""
    position, subject, rng = filmed(seed)
    t = np.arange(FRAMES)[:, None]
    own = {
        "walk": np.cumsum(rng.normal(0, 1.5, (FRAMES, 2)), axis=0),
        "straight": t * np.array([-0.9, 0.4]),
        "swing": 12 * np.sin(t / np.array([4.0, 5.0])),
    }[kind]
    position[subject] += own - own[:1]
    path = without_camera(position)
    still = still_scene(path, SHOWN, ALL, 1.0)
    assert 20 < subject.sum() < 0.35 * POINTS
    assert still[subject & (spread(path, SHOWN) > 2)].mean() < 0.03


def test_independent_movers_are_not_predicted_by_each_other():
    position, _, rng = filmed(0, depth=0.1)
    position += np.cumsum(rng.normal(0, 1, position.shape), axis=1)
    assert still_scene(without_camera(position), SHOWN, ALL, 1.0).sum() <= 2


def test_points_without_a_trustworthy_track_are_never_still_and_too_few_say_nothing():
    path = without_camera(filmed(0)[0])
    usable = np.arange(POINTS) % 2 == 0
    assert not still_scene(path, SHOWN, usable, 1.0)[~usable].any()
    assert not still_scene(path, SHOWN, np.arange(POINTS) < 11, 1.0).any()
    assert not still_scene(path[:0], SHOWN[:0], ALL[:0], 1.0).any()


def test_frames_in_which_a_point_is_not_visible_do_not_count():
    position = filmed(1)[0]
    path = without_camera(position)
    shown = SHOWN.copy()
    shown[::3, 30:] = False
    wild = path.copy()
    wild[~shown] += 1000
    assert np.array_equal(still_scene(path, shown, ALL, 1.0), still_scene(wild, shown, ALL, 1.0))
    assert still_scene(path, shown, ALL, 1.0)[::3].sum() > 10
