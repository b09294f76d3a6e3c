"""A frame's own scale and shift leave the depth of points, whose own motion stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.geometry.depth import align_depth, depth_at, depth_maps

T = 48


def scene(seed: int, points: int = 150, movers: float = 0.3, noise: float = 0.01, gaps: bool = True):
    """Depth of points under a random scale and shift a frame: f64[N, T], visible, the true depth, and who moves."""
    rng = np.random.default_rng(seed)
    own = np.arange(points) < movers * points
    t = np.arange(T)
    true = rng.uniform(0.2, 1.0, (points, 1)) + own[:, None] * (0.3 * np.sin(t / 8 + 1) + 0.006 * t)
    seen = np.ones((points, T), bool)
    if gaps:
        first, last = rng.integers(0, 20, (points, 1)), rng.integers(28, T, (points, 1))
        seen = (rng.random((points, 1)) < 0.6) | ((t >= first) & (t <= last))
    shown = (true + rng.normal(0, noise, true.shape)) * np.exp(rng.normal(0, 0.5, T)) + rng.normal(0, 2, T)
    return shown, seen, true, own


def off_by(shown, seen, true, own, known=None):
    """What alignment leaves beside the truth, once the one unit and origin of the whole window are taken out."""
    aligned, still = align_depth(shown, seen, known), ~own
    unit, origin = np.polyfit(true[still][seen[still]], aligned[still][seen[still]], 1)
    return np.where(seen, (aligned - origin) / unit - true, np.nan)


def common(error):
    """Standard deviation over the frames of what a frame's points have in common."""
    return np.nanmean(error, axis=0).std()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("movers", [0.0, 0.3, 0.4])
def test_the_background_has_no_common_motion_left_and_movers_keep_theirs(seed, movers):
    shown, seen, true, own = scene(seed, movers=movers)
    error = off_by(shown, seen, true, own)
    assert common(error[~own]) < 0.003, "a tenth of the scale of the noise of one point is 0.001"
    assert np.nanstd(error[~own]) < 0.013, "noise alone is 0.01"
    if movers:
        steady = np.nanmean(error[own], axis=1, keepdims=True)
        assert np.nanstd(error[own] - steady) < 0.02, "they move by 0.2"


@pytest.mark.parametrize("seed", range(3))
def test_two_still_points_no_longer_move_together(seed):
    shown, seen, _, own = scene(seed, gaps=False)
    correlation = np.corrcoef(align_depth(shown, seen)[~own])
    before = np.corrcoef(shown[~own])
    assert np.median(before) > 0.9, "what would have been found"
    assert abs(np.median(correlation)) < 0.1


def test_movers_that_each_go_their_own_way_are_left_out_too():
    shown, seen, true, own = scene(5, movers=0.0)
    own = np.arange(len(shown)) < 60
    walk = np.cumsum(np.random.default_rng(6).normal(0, 0.05, (60, T)), axis=1)
    scale, _ = np.polyfit(true[:, 0], shown, 1)
    shown[own] += walk * scale
    true = true + np.zeros(T)
    true[own] += walk
    error = off_by(shown, seen, true, own)
    assert common(error[~own]) < 0.005


def test_noise_in_the_first_frame_alone_does_no_harm():
    shown, seen, true, own = scene(1, gaps=False)
    shown[:, 0] = np.random.default_rng(2).normal(size=len(shown))
    assert common(off_by(shown, seen, true, own)[~own, 1:]) < 0.003


def test_a_known_background_may_be_the_minority():
    shown, seen, true, own = scene(2, movers=0.7)
    error = off_by(shown, seen, true, own, known=~own)
    assert common(error[~own]) < 0.005
    assert np.nanstd(error[own] - np.nanmean(error[own], axis=1, keepdims=True)) < 0.02
    by_frame = np.repeat(~own[:, None], T, axis=1)
    np.testing.assert_array_equal(align_depth(shown, seen, by_frame), align_depth(shown, seen, ~own))


@settings(max_examples=15)
@given(
    scale=st.lists(st.floats(0.05, 20), min_size=T, max_size=T),
    shift=st.lists(st.floats(-10, 10), min_size=T, max_size=T),
)
def test_a_scale_and_a_shift_of_every_frame_change_nothing(scale, shift):
    shown, seen, _, _ = scene(3, points=60)
    plain = align_depth(shown, seen)
    np.testing.assert_allclose(align_depth(shown * np.array(scale) + np.array(shift), seen), plain, atol=1e-4)


def test_the_unit_is_the_range_of_the_scene_and_the_origin_its_middle():
    depth = np.linspace(3, 7, 101)[:, None] * np.ones(6)
    aligned = align_depth(depth, np.ones_like(depth, dtype=bool))
    np.testing.assert_allclose(aligned, np.linspace(-0.5, 0.5, 101)[:, None] / 0.9 * np.ones(6), atol=1e-5)
    assert aligned.dtype == np.float32


def test_order_of_points_does_not_matter_and_the_result_is_the_same_every_time():
    shown, seen, _, _ = scene(4, points=50)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(align_depth(shown, seen)[order], align_depth(shown[order], seen[order]), atol=1e-5)
    np.testing.assert_array_equal(align_depth(shown, seen), align_depth(shown, seen))


def test_a_wall_seen_from_the_front_stays_calm():
    rng = np.random.default_rng(0)
    wall = (5 + rng.normal(0, 0.01, (100, T))) * np.exp(rng.normal(0, 0.3, T))
    aligned = align_depth(wall, np.ones(wall.shape, bool))
    spread = aligned.std(axis=0)
    assert spread.max() < 1.5 * spread.min()
    assert aligned.mean(axis=0).std() < 0.2 * spread.mean()


@pytest.mark.parametrize("points", [1, 2, 3])
def test_a_frame_of_few_points_is_only_shifted(points):
    shown, seen, _, _ = scene(0, movers=0.0, gaps=False)
    true = shown[:, :1] * np.ones(T)
    seen[points:, 10] = False
    aligned = align_depth(true, seen)
    np.testing.assert_allclose(aligned[:points, 10], aligned[:points, 9], atol=1e-4)
    assert np.isnan(aligned[points:, 10]).all()


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (3, 1), (0, 6), (5, 0)])
def test_points_of_one_depth_lie_at_0(shape):
    np.testing.assert_array_equal(align_depth(np.full(shape, 3.0), np.ones(shape, bool)), np.zeros(shape))


def test_one_frame_is_only_brought_to_its_unit():
    depth = np.random.default_rng(0).random((20, 1))
    aligned = align_depth(depth, np.ones_like(depth, dtype=bool))
    assert np.corrcoef(aligned[:, 0], depth[:, 0])[0, 1] == pytest.approx(1)
    assert np.median(aligned) == pytest.approx(0, abs=1e-6)


def test_what_is_unknown_stays_unknown_and_touches_nothing_else():
    shown, seen, _, _ = scene(0, gaps=False)
    holes = np.random.default_rng(1).random(shown.shape) < 0.1
    by_value = align_depth(np.where(holes, np.nan, shown), seen)
    np.testing.assert_array_equal(np.isnan(by_value), holes)
    np.testing.assert_array_equal(by_value, align_depth(np.where(holes, 1e6, shown), seen & ~holes))
    assert np.isnan(align_depth(shown, np.zeros_like(seen))).all()


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"belong together, not \[3, 4\], \[3, 5\]"):
        align_depth(np.zeros((3, 4)), np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="belong together"):
        align_depth(np.zeros((3, 4)), np.ones((3, 4), bool), np.ones(4, bool))
    with pytest.raises(ValueError, match="belong together"):
        depth_at(np.zeros((3, 8, 8), np.float32), np.zeros((5, 2, 2)), np.ones((5, 2), bool), (8, 8))


def plane(height: int, width: int, size: tuple[int, int]):
    """A map of 3 + 2x − y, x and y in pixels of a frame of `size` (height, width)."""
    y = (np.arange(height) + 0.5) * size[0] / height - 0.5
    x = (np.arange(width) + 0.5) * size[1] / width - 0.5
    return (3 + 2 * x - y[:, None])[None].astype(np.float32)


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (93, 111)])
def test_a_plane_is_read_exactly_from_a_map_of_any_size(size):
    points = np.random.default_rng(0).uniform((8, 8), (51, 31), (30, 1, 2))
    read = depth_at(plane(*size, (40, 60)), points, np.ones((30, 1), bool), (40, 60))
    np.testing.assert_allclose(read[:, 0], 3 + 2 * points[:, 0, 0] - points[:, 0, 1], rtol=1e-5)
    assert read.dtype == np.float32


def test_at_an_edge_the_depth_is_that_of_one_side():
    step = np.where(np.arange(20) < 10, 1.0, 5.0) * np.ones((1, 20, 1))
    x = np.linspace(4, 15, 111)
    points = np.stack([x, np.full_like(x, 9.3)], axis=1)[:, None]
    read = depth_at(step.astype(np.float32), points, np.ones((111, 1), bool), (20, 20))[:, 0]
    assert set(np.round(read, 4)) == {1.0, 5.0}
    assert (np.diff(read) >= 0).all()


def test_small_holes_are_passed_over_and_large_ones_are_unknown():
    maps = np.full((1, 20, 20), 2.0, np.float32)
    maps[0, 5, 5] = np.nan
    maps[0, 10:16, 10:16] = np.nan
    points = np.array([[5, 5], [12.5, 12.5], [0, 0], [19, 19]], float)[:, None]
    read = depth_at(maps, points, np.ones((4, 1), bool), (20, 20))[:, 0]
    np.testing.assert_array_equal(read, [2, np.nan, 2, 2])


def test_each_frame_is_read_from_its_own_map_and_only_where_a_point_is_visible():
    maps = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((1, 6, 6), np.float32)
    seen = np.array([[True, True, True], [True, False, True]])
    position = np.full((2, 3, 2), 2.0)
    position[0, 2] = np.nan
    read = depth_at(maps, position, seen, (6, 6))
    np.testing.assert_array_equal(read, [[0, 1, np.nan], [0, np.nan, 2]])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_map_of_a_single_row_or_column_can_be_read(size):
    read = depth_at(np.full((1, *size), 4.0, np.float32), np.full((1, 1, 2), 3.0), np.ones((1, 1), bool), (20, 20))
    assert read == 4


@pytest.mark.parametrize("source", ["", "midas:", "nowhere", "network.pt", "imagenet:"])
def test_a_source_of_no_known_form_is_refused(source):
    with pytest.raises(ValueError, match=r"extract\.depth .* is not a source of depth; give midas:CHECKPOINT\.pt"):
        depth_maps(source, np.zeros((1, 8, 8, 3), np.uint8))
