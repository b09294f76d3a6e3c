"""What of a trajectory is scored: residuals, displacements, their spread, and whitening."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.information.motion import (
    block_means,
    block_size,
    displacement,
    evenly_paced,
    innovations,
    kept_on_screen,
    pace,
    residual,
    samples,
    spread,
    whiten,
    without_gain,
)

quick = settings(derandomize=True, max_examples=50)


def walks(seed: int, count: int = 4, frames: int = 30, d: int = 2) -> np.ndarray:
    """Random walks f64[count, frames, d]."""
    return 50 + np.random.default_rng(seed).normal(size=(count, frames, d)).cumsum(1)


# ---- residual


def test_a_point_that_only_the_camera_moves_stays_where_it_started() -> None:
    path = walks(0)
    assert residual(path, path) == pytest.approx(np.repeat(path[:, :1], 30, axis=1))


@quick
@given(st.integers(0, 2**32 - 1))
def test_own_motion_on_top_of_the_camera_s_is_what_is_left(seed: int) -> None:
    own, camera = walks(seed), walks(seed + 1)
    seen = own + camera - camera[:, :1]
    assert residual(seen, camera) == pytest.approx(own)


def test_depth_passes_through_and_the_input_is_not_changed() -> None:
    position, camera = walks(1, d=3), walks(2)
    before = position.copy()
    found = residual(position, camera)
    assert np.array_equal(found[..., 2], position[..., 2])
    assert not np.array_equal(found[..., :2], position[..., :2])
    assert np.array_equal(position, before)


def test_positions_in_float32_come_out_in_float64() -> None:
    assert residual(walks(0).astype(np.float32), walks(0).astype(np.float32)).dtype == np.float64


# ---- on the screen


def test_what_keeps_a_row_or_a_column_of_the_screen_is_found_and_what_moves_is_not() -> None:
    rng, shown = np.random.default_rng(0), np.ones((4, 40), bool)
    pan = np.stack([2.0 * np.arange(40), 4.0 * np.sin(np.arange(40) / 6)], axis=1)
    start = rng.uniform(0, 300, (4, 1, 2))
    camera = start + pan
    position = camera + 0.1 * rng.normal(size=(4, 40, 2))
    position[0] = start[0] + 0.1 * rng.normal(size=(40, 2))  # a logo
    position[1, :, 1] = start[1, 0, 1]  # a point that slides along a black bar
    position[2] += np.stack([-1.7 * np.arange(40), 2.0 * np.cos(np.arange(40) / 3)], axis=1)  # a subject, followed
    assert kept_on_screen(position, camera, shown, static=1.0).tolist() == [True, True, False, False]
    still = np.repeat(start, 40, axis=1)
    assert not kept_on_screen(position, still, shown, static=1.0).any(), "under a camera that does not move"


# ---- displacement


def test_displacements_are_differences_and_lead_back_to_the_trajectory() -> None:
    path = walks(3, d=3)
    steps, seen = displacement(path, np.ones((4, 30), bool))
    assert steps.shape == (4, 29, 3)
    assert seen.shape == (4, 29)
    assert seen.all()
    assert path[:, :1] + steps.cumsum(1) == pytest.approx(path[:, 1:])


def test_a_hidden_frame_takes_both_of_its_displacements_with_it() -> None:
    path, visible = walks(4), np.ones((4, 30), bool)
    visible[2, 10] = False
    path[2, 10] = np.nan
    steps, seen = displacement(path, visible)
    assert np.flatnonzero(~seen[2]).tolist() == [9, 10]
    assert (steps[2, 9:11] == 0).all()
    assert np.isfinite(steps).all()
    assert seen[[0, 1, 3]].all()


# ---- blocks


def smooth(seed: int, speed: float, jitter: float, count: int = 12, frames: int = 128) -> np.ndarray:
    """Paths of a velocity that keeps 0.9 of itself from frame to frame, as a tracker with that jitter sees them."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=(count, frames + 40, 2))
    for t in range(1, frames + 40):
        step[:, t] = 0.9 * step[:, t - 1] + np.sqrt(1 - 0.9**2) * step[:, t]
    return speed * step[:, 40:].cumsum(1) + jitter * rng.normal(size=(count, frames, 2))


def test_block_means_are_means_of_whole_blocks_and_a_hidden_frame_hides_its_block() -> None:
    path, visible = walks(4), np.ones((4, 30), bool)
    visible[2, 10] = False
    path[2, 10] = np.nan
    means, seen = block_means(path, visible, 4)
    assert means.shape == (4, 7, 2)
    assert means[0, 1] == pytest.approx(path[0, 4:8].mean(0))
    assert np.argwhere(~seen).tolist() == [[2, 2]]
    assert (means[2, 2] == 0).all()
    same, all_seen = block_means(path, visible, 1)
    assert np.array_equal(same[visible], path[visible])
    assert np.array_equal(all_seen, visible)


def test_a_block_has_a_frame_at_least() -> None:
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        block_means(walks(0), np.ones((4, 30), bool), 0)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_are_as_large_as_jitter_asks_for(seed: int) -> None:
    shown = np.ones((12, 128), bool)
    assert block_size(smooth(seed, 1.0, 0.1), shown) == 1
    assert block_size(smooth(seed, 0.3, 0.3), shown) in (2, 4)
    assert block_size(walks(seed, 12, 128), shown) == 1


def test_without_motion_to_be_seen_or_samples_to_spare_there_are_no_blocks() -> None:
    shown = np.ones((12, 128), bool)
    assert block_size(np.random.default_rng(0).normal(size=(12, 128, 2)), shown) == 1
    assert block_size(smooth(0, 0.3, 0.3, frames=48), shown[:, :48]) == 1
    assert block_size(walks(0, 12, 128), ~shown) == 1
    assert block_size(np.zeros((12, 128, 2)), shown) == 1
    assert block_size(np.zeros((0, 128, 2)), shown[:0]) == 1


# ---- innovations


def lag_one(x: np.ndarray) -> float:
    """Mean autocorrelation of paths f64[N, T, d] from one sample to the next."""
    x = x - x.mean(1, keepdims=True)
    return float(((x[:, 1:] * x[:, :-1]).sum(1) / (x**2).sum(1)).mean())


def test_innovations_of_smooth_paths_are_free_of_their_past() -> None:
    path, shown = smooth(1, 1.0, 0.05, count=40), np.ones((40, 128), bool)
    steps, seen = displacement(path, shown)
    new, known = innovations(steps, seen)
    assert lag_one(steps) > 0.8
    assert abs(lag_one(new[:, 4:])) < 0.05
    assert known[:, 4:].all()


@pytest.mark.parametrize("seed", range(3))
def test_innovations_of_a_random_walk_are_its_steps(seed: int) -> None:
    path = walks(seed, 8, 200)
    new, known = innovations(path, np.ones((8, 200), bool))
    assert np.corrcoef(new[:, 5:].ravel(), np.diff(path, axis=1)[:, 4:].ravel())[0, 1] > 0.97
    assert not known[:, 0].any()


def test_an_autoregression_of_order_two_is_undone() -> None:
    rng = np.random.default_rng(2)
    new, x = rng.normal(size=(4, 400, 2)), np.zeros((4, 400, 2))
    for t in range(400):
        x[:, t] = (1.2 * x[:, t - 1] - 0.6 * x[:, t - 2] if t > 1 else 0) + new[:, t]
    found, known = innovations(x, np.ones((4, 400), bool))
    assert np.corrcoef(found[known].ravel(), new[known].ravel())[0, 1] > 0.98


@quick
@given(st.integers(0, 2**32 - 1), st.floats(-100, 100), st.floats(0.01, 100), st.floats(0, np.pi))
def test_innovations_turn_and_grow_with_the_samples_and_not_with_their_origin(
    seed: int, shift: float, scale: float, angle: float
) -> None:
    path, visible = smooth(seed, 1.0, 0.1, 3, 40), np.random.default_rng(seed).random((3, 40)) < 0.95
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    new, known = innovations(path, visible)
    other, also = innovations(scale * path @ turn.T + shift, visible)
    assert np.array_equal(known, also)
    assert other == pytest.approx(scale * new @ turn.T, rel=1e-3, abs=1e-3 * scale)


def test_a_gap_hides_what_needs_it_and_what_it_holds_has_no_say() -> None:
    path, visible = smooth(5, 1.0, 0.05, 6), np.ones((6, 128), bool)
    visible[2, 60:64] = False
    path[2, 60:64] = np.nan
    new, known = innovations(*displacement(path, visible))
    order = np.flatnonzero(known[2])[0]
    assert 1 <= order <= 4
    assert np.flatnonzero(~known[2, order:]).tolist() == list(range(59 - order, 64))
    assert (new[~known] == 0).all()
    path[2, 60:64] = 1e6
    assert np.array_equal(innovations(*displacement(path, visible))[0], new)


def test_what_has_no_innovations_has_none_and_few_samples_are_only_centred() -> None:
    still, _ = innovations(np.full((2, 40, 2), 3.0), np.ones((2, 40), bool))
    assert (still == 0).all()
    straight, known = innovations(np.arange(80.0).reshape(1, 40, 2), np.ones((1, 40), bool))
    assert straight[known] == pytest.approx(0, abs=1e-3)
    few = walks(0, 2, 9)
    new, known = innovations(few, np.ones((2, 9), bool))
    assert known.all()
    assert new == pytest.approx(few - few.mean(1, keepdims=True), abs=1e-6)
    assert innovations(np.zeros((0, 9, 2)), np.ones((0, 9), bool))[0].shape == (0, 9, 2)
    assert (innovations(few, np.zeros((2, 9), bool))[0] == 0).all()


# ---- samples


def test_what_is_compared_are_whitened_innovations_of_displacements_between_blocks() -> None:
    path, shown = smooth(0, 0.3, 0.3), np.ones((12, 128), bool)
    size = block_size(path, shown)
    white, known = samples(path, shown, noise=0.1)
    assert size > 1
    assert white.shape == (12, 128 // size - 1, 2)
    new, also = innovations(*displacement(*block_means(path, shown, size)))
    assert np.array_equal(known, also)
    assert np.array_equal(white, whiten(without_gain(new, known), known, 0.1))


# ---- dropped frames and the gain of a frame


def gliding(seed: int, count: int = 30, frames: int = 54) -> np.ndarray:
    """Independent smooth paths f64[count, frames, 2] of about 2 pixels a frame, with a tracker's jitter."""
    rng = np.random.default_rng(seed)
    steps = np.zeros((count, frames, 2))
    steps[:, 0] = rng.normal(size=(count, 2))
    for t in range(1, frames):
        steps[:, t] = 0.95 * steps[:, t - 1] + 0.3 * rng.normal(size=(count, 2))
    return 2 * steps.cumsum(1) + 0.1 * rng.normal(size=steps.shape)


def test_steps_over_dropped_frames_are_found_and_shortened() -> None:
    shown = np.delete(np.arange(54), [10, 11, 25, 40])
    path = gliding(0)
    seen = np.ones(path.shape[:2], bool)
    assert (pace(path, visible=seen) == 1).all()
    path, seen = path[:, shown], seen[:, shown]
    found = pace(path, visible=seen)
    assert np.flatnonzero(found > 1).tolist() == [9, 22, 36]
    assert found[[9, 22, 36]] == pytest.approx([3, 2, 2], abs=0.4)
    before, after = (displacement(x, seen)[0] for x in (path, evenly_paced(path, seen, found)))
    assert after == pytest.approx(before / found[:, None])


def test_a_camera_that_moves_tells_of_dropped_frames_when_no_patch_does() -> None:
    shown = np.delete(np.arange(54), [20])
    camera = np.arange(54)[:, None] * (2.0, 1.0) + 0.2 * np.random.default_rng(0).normal(size=(54, 2))
    camera, still = camera[shown], 0.1 * np.random.default_rng(1).normal(size=(30, 53, 2))
    seen = np.ones((30, 53), bool)
    assert (pace(still, visible=seen) == 1).all()
    assert np.flatnonzero(pace(still, still + camera, visible=seen) > 1).tolist() == [19]


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_a_random_walk_and_few_patches_have_no_longer_steps(count: int) -> None:
    path = walks(3, count, 48)
    path[:, 20:] += 3 * (path[:, 20] - path[:, 19])[:, None]
    seen = np.ones(path.shape[:2], bool)
    assert (pace(path, visible=seen) == 1).all()


def test_hidden_frames_have_no_say_in_the_pace() -> None:
    shown = np.delete(np.arange(54), [20])
    path = gliding(0)[:, shown]
    seen = np.random.default_rng(1).random(path.shape[:2]) > 0.2
    found = pace(path, visible=seen)
    assert np.flatnonzero(found > 1).tolist() == [19]
    path[~seen] = np.nan
    np.testing.assert_array_equal(pace(path, visible=seen), found)
    assert np.isfinite(evenly_paced(path, seen, found)).all()


def test_what_moves_all_patches_at_once_is_taken_out_and_what_one_does_stays() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(30, 47, 2))
    seen = np.ones((30, 47), bool)
    gain = np.where(np.arange(47) % 9 == 4, 4.0, 1.0)
    level = without_gain(usual * gain[:, None], seen)
    size = np.linalg.norm(level, axis=-1).mean(0)
    assert size[gain > 1].mean() == pytest.approx(size[gain == 1].mean(), rel=0.25)
    assert without_gain(usual, seen) == pytest.approx(usual, rel=0.15)
    alone = usual.copy()
    alone[0] *= gain[:, None]
    assert without_gain(alone, seen)[0] == pytest.approx(alone[0], rel=0.2)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_gain_of_few_patches_is_hardly_known_and_stays(count: int) -> None:
    usual = np.random.default_rng(0).normal(size=(count, 47, 2))
    assert without_gain(usual, np.ones((count, 47), bool)) == pytest.approx(usual, rel=0.25)


# ---- spread


def test_spread_is_the_rms_distance_from_the_mean() -> None:
    square = np.array([[[0, 0], [2, 0], [2, 2], [0, 2]]], float)
    assert spread(square, np.ones((1, 4), bool)) == pytest.approx([np.sqrt(2)])


@quick
@given(st.integers(0, 2**32 - 1), st.floats(-1000, 1000), st.floats(0.01, 100))
def test_spread_does_not_change_under_a_shift_and_grows_with_a_scale(seed: int, shift: float, scale: float) -> None:
    path, visible = walks(seed), np.random.default_rng(seed).random((4, 30)) < 0.8
    found = spread(path, visible)
    assert spread(scale * path + shift, visible) == pytest.approx(scale * found, rel=1e-6, abs=1e-8)


def test_only_visible_frames_count_and_a_never_visible_trajectory_has_none() -> None:
    path, visible = walks(5), np.ones((4, 30), bool)
    visible[0, 20:], visible[1] = False, False
    path[0, 20:], path[1] = np.nan, np.nan
    found = spread(path, visible)
    assert found[0] == pytest.approx(spread(path[:1, :20], visible[:1, :20])[0])
    assert found[1] == 0


# ---- whiten


@quick
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 50), st.floats(0, np.pi), st.integers(2, 3))
def test_whitened_samples_are_centred_and_have_unit_covariance(seed: int, stretch: float, angle: float, d: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 40, d))
    x[..., 0] *= stretch
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x[..., :2] = x[..., :2] @ turn.T + 7
    white = whiten(x, np.ones((3, 40), bool), noise=1e-3)
    assert white.mean(1) == pytest.approx(np.zeros((3, d)), abs=1e-9)
    covariance = np.einsum("nti,ntj->nij", white, white) / 40
    assert covariance == pytest.approx(np.repeat(np.eye(d)[None], 3, axis=0), abs=1e-8)


def test_an_axis_below_the_noise_is_measured_in_noise_and_not_blown_up() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(1, 200, 2)) * (3.0, 0.01)
    white = whiten(x, np.ones((1, 200), bool), noise=0.1)
    assert sorted(white.std(1)[0]) == pytest.approx([0.1, 1.0], rel=0.15)
    assert (whiten(np.full((1, 20, 2), 4.0), np.ones((1, 20), bool), noise=0.1) == 0).all()


def test_hidden_samples_are_zero_and_have_no_part_in_the_axes() -> None:
    x, visible = walks(7), np.ones((4, 30), bool)
    visible[1, ::3] = visible[2] = False
    x[~visible] = np.nan
    white = whiten(x, visible, noise=0.1)
    assert (white[~visible] == 0).all()
    alone = whiten(x[1:2, visible[1]], np.ones((1, 20), bool), noise=0.1)
    assert white[1, visible[1]] == pytest.approx(alone[0], abs=1e-9)


def test_a_window_of_no_trajectories_stays_one() -> None:
    nothing, unseen = np.zeros((0, 10, 2)), np.zeros((0, 10), bool)
    assert whiten(nothing, unseen, noise=0.1).shape == (0, 10, 2)
    assert spread(nothing, unseen).shape == (0,)
    assert displacement(nothing, unseen)[0].shape == (0, 9, 2)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_must_be_above_zero(noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be above 0"):
        whiten(walks(8), np.ones((4, 30), bool), noise=noise)
