"""Points are tracked through whatever happens to them, and lost where nothing shows them.

In most scenes a still texture moves as a whole by a known shift, so that the truth is known to the sub-pixel.
"""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.options import TRACKERS
from infoaug.estimators.trackers import lucas_kanade
from infoaug.estimators.trackers.base import Appearance
from infoaug.estimators.trackers.tracks import Tracks, track
from infoaug.estimators.video.patches import patch_grid, trackable_points

CLASSICAL = ("lucas-kanade", "dense-flow")
BOTH = pytest.mark.parametrize("method", CLASSICAL)
SIZE = (120, 160)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """u8[H, W, 3] with detail at several scales."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 1.5)
    coarse = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 6)
    return np.clip(127 + 36 * fine / fine.std() + 54 * coarse / coarse.std(), 0, 255).astype(np.uint8)


def panned(shift: np.ndarray, size: tuple[int, int] = SIZE, seed: int = 0, shutter: float = 0.0) -> np.ndarray:
    """Frames u8[T, H, W, 3] of a texture shifted by f[T, 2] pixels, each exposed during a share of its step."""
    margin = int(np.abs(shift).max()) + 20
    still = texture(size[0] + 2 * margin, size[1] + 2 * margin, seed)
    speed = np.gradient(shift, axis=0) if shutter else np.zeros_like(shift)
    frames = np.empty((len(shift), *size, 3), dtype=np.uint8)
    for frame, at, step in zip(frames, shift, speed, strict=True):
        moments = at + np.linspace(-shutter / 2, shutter / 2, 9 if shutter else 1)[:, None] * step
        exposed = [
            cv2.warpAffine(still, np.array([[1, 0, x], [0, 1, y]]), size[::-1], flags=cv2.INTER_CUBIC)
            for x, y in moments - margin
        ]
        frame[:] = np.mean(exposed, axis=0).round()
    return frames


def drifting(count: int, x: float, y: float) -> np.ndarray:
    """A steady shift by (x, y) pixels a frame, f[T, 2]."""
    return np.arange(count)[:, None] * np.array([x, y], dtype=float)


def queries_of(frames: np.ndarray, inset: int = 0) -> np.ndarray:
    """A point for every patch of 20 pixels that lies so far inside the frame."""
    height, width = frames.shape[1:3]
    boxes = patch_grid(height, width, 20)
    boxes = boxes[((boxes[:, :2] >= inset) & (boxes[:, 2:] <= (width - inset, height - inset))).all(axis=1)]
    return trackable_points(frames[0], boxes)


def errors(tracks: Tracks, queries: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Distance from the truth, f[N, T] pixels."""
    return np.linalg.norm(tracks.position - (queries[:, None] + shift), axis=2)


def in_frame(queries: np.ndarray, shift: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Where points truly lie on the frame, bool[N, T]."""
    truth = queries[:, None] + shift
    return ((truth >= 0) & (truth <= (size[1] - 1, size[0] - 1))).all(axis=2)


def plain_lucas_kanade(frames: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Pyramidal Lucas–Kanade from frame to frame and nothing else: f32[N, T, 2]."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    place = [queries[:, None].astype(np.float32)]
    for before, now in pairwise(grey):
        place.append(cv2.calcOpticalFlowPyrLK(before, now, place[-1], None, winSize=(21, 21), maxLevel=3)[0])
    return np.concatenate(place, axis=1)


# ---- accuracy


@BOTH
def test_a_moving_texture_is_followed_below_a_pixel(method):
    t = np.arange(24)
    shift = np.stack([1.3 * t, 4 * np.sin(t / 4)], axis=1)
    frames = panned(shift)
    queries = queries_of(frames)
    tracks = track(frames, queries, method=method)
    assert tracks.position.shape == (48, 24, 2) and tracks.position.dtype == np.float32
    assert tracks.visible.shape == (48, 24) and tracks.visible.dtype == bool
    error, within = errors(tracks, queries, shift), in_frame(queries, shift)
    middle, most = {"lucas-kanade": (0.07, 0.5), "dense-flow": (0.45, 1.0)}[method]
    assert np.median(error[tracks.visible]) < middle
    assert np.quantile(error[tracks.visible], 0.95) < most
    assert tracks.visible[within].mean() > 0.97 and tracks.visible[~within].mean() < 0.03
    assert np.array_equal(tracks.position[:, 0], queries) and tracks.visible[:, 0].all()


@BOTH
def test_large_frames_are_tracked_in_their_own_pixels(method):
    # Beyond 960 pixels dense flow is found on a smaller picture.
    shift = np.stack([drifting(4, 9, 4), drifting(4, -9, 2)])
    frames = panned(shift[0], (64, 1400))
    frames[:, :, 700:] = panned(shift[1], (64, 700), seed=1)
    queries = queries_of(frames, 16)
    side = (queries[:, 0] > 700).astype(int)
    error = np.linalg.norm(track(frames, queries, method=method).position - queries[:, None] - shift[side], axis=2)
    assert np.median(error) < 0.3 and np.quantile(error, 0.9) < 1.5


def test_over_many_frames_of_noise_the_error_does_not_grow_as_that_of_a_chain_does(monkeypatch):
    t = np.arange(72)
    shift = np.stack([8 * np.sin(t / 11), 6 * np.sin(t / 7)], axis=1)
    noise = np.random.default_rng(2).normal(0, 12, (72, *SIZE, 3))
    frames = np.clip(127 + 0.4 * (panned(shift) - 127.0) + noise, 0, 255).round().astype(np.uint8)
    queries = queries_of(frames, 20)

    def early_and_late() -> tuple[float, float]:
        error = errors(track(frames, queries), queries, shift)
        return float(np.median(error[:, 3:15])), float(np.median(error[:, -24:]))

    early, late = early_and_late()
    assert late < 0.25 and late < 1.3 * early
    monkeypatch.setattr(lucas_kanade, "_ALIKE", 1.1)  # nothing is that alike, so nothing is corrected
    assert early_and_late()[1] > 2 * late


@pytest.mark.parametrize("light", ["brightness", "contrast", "gradient"])
def test_a_gradual_change_of_light_costs_no_accuracy(light):
    shift = drifting(24, 0.8, 0.5)
    frames = panned(shift)
    t, x = np.arange(24)[:, None, None, None], np.arange(SIZE[1])[:, None]
    gain = 1 + 0.5 * np.sin(t / 23 * 2 * np.pi)
    offset = 30 * np.sin(t / 23 * 4 * np.pi + 1)
    lit = {
        "brightness": frames * 0.6 * gain + 30 + offset,
        "contrast": 127 + (frames - 127.0) * gain + offset,
        "gradient": frames * 0.65 * (1 + 0.45 * np.sin((x - 6 * t) / SIZE[1] * 2 * np.pi)),
    }[light]
    seen = np.clip(lit, 0, 255).round().astype(np.uint8)
    queries = queries_of(frames)
    tracks = track(seen, queries)
    within = in_frame(queries, shift)
    error = np.median(errors(tracks, queries, shift)[tracks.visible])
    assert error < (0.15 if light == "gradient" else 0.08)
    assert tracks.visible[within].mean() > 0.97
    plain = np.linalg.norm(plain_lucas_kanade(seen, queries) - (queries[:, None] + shift), axis=2)
    assert np.median(plain[within]) > 0.4, "the light would have done no harm"
    dense = track(seen, queries, method="dense-flow")
    assert np.median(errors(dense, queries, shift)[dense.visible]) < 0.9


@pytest.mark.parametrize("seed", range(2))
def test_a_fast_blurred_swing_of_the_camera_is_survived(seed):
    swing = 100 * (1 - np.cos(2 * np.pi * np.arange(21) / 20))
    shift = np.stack([swing, 0 * swing], axis=1)
    assert np.abs(np.diff(swing)).max() > 30
    size = (160, 240)
    frames = panned(shift, size, seed, shutter=0.5)
    queries = queries_of(frames)
    within = in_frame(queries, shift, size)
    for method, (middle, most, seen) in {"lucas-kanade": (0.4, 4, 0.9), "dense-flow": (0.2, 2, 0.5)}.items():
        tracks = track(frames, queries, method=method)
        error = errors(tracks, queries, shift)
        assert np.median(error[tracks.visible]) < middle and np.quantile(error[tracks.visible], 0.95) < most
        assert tracks.visible[within].mean() > seen
        if method == "lucas-kanade":
            assert tracks.visible[:, -1].mean() > 0.9 and np.median(error[:, -1]) < 0.1


# ---- leaving and coming back


@BOTH
def test_a_point_that_leaves_the_frame_is_found_again_when_it_returns(method):
    out = np.concatenate([np.arange(0, 40, 2), np.arange(40, -1, -2)])
    shift = np.stack([out, 0 * out], axis=1)
    frames = panned(shift)
    queries = queries_of(frames)
    tracks = track(frames, queries, method=method)
    within = in_frame(queries, shift)
    left = ~within.all(axis=1)
    assert left.sum() >= 12
    assert not tracks.visible[~within].any()
    assert tracks.visible[left, -1].all() and tracks.visible[~left].mean() > 0.95
    assert errors(tracks, queries, shift)[:, -1].max() < {"lucas-kanade": 0.1, "dense-flow": 1}[method]
    assert errors(tracks, queries, shift)[left].max() < 2, "it is supposed to be where it is, also while out of sight"


@pytest.mark.parametrize("cover", ["noise", "grey"])
@BOTH
def test_a_covered_point_is_invisible_while_covered_and_back_afterwards(method, cover):
    shift = drifting(30, 0.7, 0.4)
    frames = panned(shift, (160, 220))
    queries = queries_of(frames)
    truth = queries[:, None] + shift
    t = slice(10, 18)
    hidden = np.zeros(truth.shape[:2], dtype=bool)
    # What lies nearer to the edge of the cover still shows in the window around a point.
    hidden[:, t] = ((truth[:, t] >= (75, 55)) & (truth[:, t] <= (125, 105))).all(axis=2)
    rng = np.random.default_rng(1)
    frames[t, 40:120, 60:140] = 127 if cover == "grey" else rng.integers(0, 256, (8, 80, 80, 3), dtype=np.uint8)
    tracks = track(frames, queries, method=method)
    error, was = errors(tracks, queries, shift), hidden.any(axis=1)
    assert was.sum() >= 3 and np.isfinite(tracks.position).all()
    assert tracks.visible[was, :10].all()
    if cover == "noise":
        assert tracks.visible[hidden].mean() < 0.05
    if method == "lucas-kanade":
        assert np.median(error[hidden]) < 1
        assert tracks.visible[was, -1].all() and np.quantile(error[was, -1], 0.8) < 0.1
    else:
        assert tracks.visible[was, -1].any() and np.median(error[was, -1]) < 3


@pytest.mark.parametrize("speed", [3.0, 7.6])
def test_a_point_of_the_background_does_not_go_along_with_what_passes_before_it(speed):
    hidden_seen, ridden, uncovered = [], [], []
    for seed in range(4):
        shift = drifting(40, 0.5, 0.17)
        frames = panned(shift, (160, 220), seed)
        queries = queries_of(frames)
        truth = queries[:, None] + shift
        passing, hidden = texture(90, 90, seed + 20), np.zeros(truth.shape[:2], dtype=bool)
        for t, frame in enumerate(frames):
            left = round(speed * t) - 90
            shown = slice(max(left, 0), min(left + 90, 220))
            frame[35:125, shown] = passing[:, shown.start - left : max(shown.stop - left, 0)]
            hidden[:, t] = ((truth[:, t] >= (left + 11, 46)) & (truth[:, t] <= (left + 78, 113))).all(axis=1)
        tracks = track(frames, queries)
        hidden_seen.append(tracks.visible[hidden].mean())
        ridden.append((errors(tracks, queries, shift) > 5)[tracks.visible].mean())
        uncovered.append(tracks.visible[~hidden].mean())
    assert np.mean(hidden_seen) < 0.04
    assert np.mean(ridden) < 0.012
    assert np.mean(uncovered) > 0.8


def test_what_moves_on_its_own_is_followed_on_its_way():
    shift = drifting(30, 0.5, 0.2)
    frames = panned(shift, (160, 220))
    thing = texture(60, 60, 9)
    own = drifting(30, 3, 1)
    for frame, (x, y) in zip(frames, own, strict=True):
        frame[30 + int(y) : 90 + int(y), 20 + int(x) : 80 + int(x)] = thing
    queries = queries_of(frames)
    on_it = ((queries >= (32, 42)) & (queries <= (68, 78))).all(axis=1)
    tracks = track(frames, queries)
    assert on_it.sum() >= 3
    assert tracks.visible[on_it].mean() > 0.95
    error = errors(tracks, queries, own)[on_it]
    assert np.median(error) < 0.1 and error.max() < 1


def test_what_starts_to_move_after_a_rest_is_followed_too():
    shift = drifting(30, 0.5, 0.2)
    frames = panned(shift, (160, 220))
    thing = texture(60, 60, 9)
    own = shift + np.maximum(np.arange(30) - 12, 0)[:, None] * (6, 1)
    for frame, (x, y) in zip(frames, own, strict=True):
        place = np.array([[1, 0, 20 + x], [0, 1, 30 + y]])
        cover = cv2.warpAffine(np.ones((60, 60), np.uint8), place, (220, 160), flags=cv2.INTER_NEAREST) > 0
        frame[cover] = cv2.warpAffine(thing, place, (220, 160), borderMode=cv2.BORDER_REPLICATE)[cover]
    queries = queries_of(frames)
    on_it = ((queries >= (32, 42)) & (queries <= (68, 78))).all(axis=1)
    tracks = track(frames, queries)
    assert on_it.sum() >= 3
    assert tracks.visible[on_it].mean() > 0.9
    assert np.median(errors(tracks, queries, own)[on_it, -1]) < 0.2


# ---- the same whatever the form of the input


@BOTH
def test_grey_colour_and_read_only_frames_give_the_same_tracks_every_time(method):
    frames = panned(drifting(6, 1.3, -0.6))
    queries = queries_of(frames)
    first = track(frames, queries, method=method)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    fixed, at = frames.copy(), queries.astype(np.float64)
    fixed.setflags(write=False)
    at.setflags(write=False)
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1]
    for same in (frames, grey, fixed, mirrored):
        again = track(same, at, method=method)
        assert np.array_equal(again.position, first.position) and np.array_equal(again.visible, first.visible)
    assert not np.shares_memory(first.position, queries)


def test_the_default_is_lucas_kanade():
    frames = panned(drifting(4, 1.3, -0.6))
    by_name = track(frames, queries_of(frames), method="lucas-kanade")
    assert np.array_equal(track(frames, queries_of(frames)).position, by_name.position)


@BOTH
@settings(max_examples=10)
@given(order=st.permutations(range(48)))
def test_the_order_of_the_points_does_not_matter(method, order):
    frames = panned(drifting(6, 2.3, -0.6))
    frames[3:, 40:80, 60:110] = 127
    queries = queries_of(frames)
    plain, shuffled = track(frames, queries, method=method), track(frames, queries[order], method=method)
    if method == "dense-flow":
        assert np.array_equal(plain.position[order], shuffled.position)
        assert np.array_equal(plain.visible[order], shuffled.visible)
    else:
        # The points of which RANSAC draws its samples are others in another order.
        assert (plain.visible[order] == shuffled.visible).mean() > 0.98
        assert np.quantile(np.abs(plain.position[order] - shuffled.position), 0.98) < 0.05


@BOTH
def test_a_wider_limit_on_the_way_back_keeps_more_of_what_cannot_be_followed(method):
    unrelated = np.stack([texture(*SIZE, seed) for seed in range(3)])
    queries = queries_of(unrelated)
    kept = [track(unrelated, queries, method=method, forward_backward=by).visible[:, 1:].sum() for by in (0, 1.5, 100)]
    assert kept[0] < 0.1 * len(queries) and kept[1] < 0.3 * len(queries)
    assert kept[0] < kept[1] < kept[2]


# ---- little to go by


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (16, 16), (31, 200), (200, 31), (32, 32), (3, 500)])
@BOTH
def test_frames_of_any_size_are_tracked(method, size):
    frames = panned(drifting(4, 1, 0), size)
    corner = np.array([size[1] - 1, size[0] - 1])
    queries = np.array([[0, 0], corner, corner / 2])
    tracks = track(frames, queries, method=method)
    assert np.isfinite(tracks.position).all() and tracks.visible[:, 0].all()
    if method == "lucas-kanade" and min(size) > 8:
        assert tracks.visible[2].all()
        np.testing.assert_allclose(tracks.position[2, -1] - queries[2], (3, 0), atol=0.5)


@BOTH
@pytest.mark.parametrize("points", [0, 1, 12])
def test_one_frame_no_points_and_few_points_are_tracked(method, points):
    frames = panned(drifting(3, 1, 0))
    queries = queries_of(frames, 20)[:points]
    tracks = track(frames, queries, method=method)
    assert tracks.position.shape == (points, 3, 2) and tracks.visible.all()
    single = track(frames[:1], queries, method=method)
    assert np.array_equal(single.position[:, 0], queries.astype(np.float32)) and single.visible.all()
    assert single.visible.shape == (points, 1)


def test_in_black_frames_nothing_can_be_followed():
    black = np.zeros((5, *SIZE, 3), dtype=np.uint8)
    queries = np.array([[20.0, 20.0], [40.5, 41.25]])
    tracks = track(black, queries)
    assert tracks.visible.sum(axis=1).tolist() == [1, 1]
    assert np.array_equal(tracks.position, np.repeat(queries[:, None], 5, axis=1))
    # Dense flow sees no motion there, in both directions.
    assert np.array_equal(track(black, queries, method="dense-flow").position, tracks.position)


def test_points_outlive_some_black_frames():
    shift = drifting(12, 0.6, 0.3)
    frames = panned(shift)
    frames[5:7] = 0
    queries = queries_of(frames, 20)
    tracks = track(frames, queries)
    assert not tracks.visible[:, 5:7].any()
    assert tracks.visible[:, -1].mean() > 0.9
    assert np.median(errors(tracks, queries, shift)[:, -1]) < 0.1


def test_the_noise_of_a_flat_patch_is_no_likeness():
    noise = np.random.default_rng(0).integers(126, 129, SIZE, dtype=np.uint8)
    textured = cv2.cvtColor(texture(*SIZE), cv2.COLOR_RGB2GRAY)
    at = np.array([[60, 60], [90.5, 40.25]], dtype=np.float32)
    assert Appearance(noise, at).match(noise, at).max() < 0.5
    np.testing.assert_allclose(Appearance(textured, at).match(textured // 2 + 40, at), 1, atol=0.01)


# ---- bad input


def test_bad_input_to_the_tracker_is_named():
    frames = panned(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"'raft'.*auto, cotracker, dense-flow, lucas-kanade, tapir"):
        track(frames, np.zeros((1, 2)), method="raft")
    for bad in (frames / 255.0, frames[0, 0], frames[..., :2], frames[:0], frames[None]):
        with pytest.raises(ValueError, match=rf"u8\[T, H, W, 3\], not {bad.dtype}"):
            track(bad, np.zeros((1, 2)))
    for point in ((20, 150), (-0.5, 3), (159.5, 3), (np.nan, 3)):
        with pytest.raises(ValueError, match="inside the first frame"):
            track(frames, np.array([point]))
    for queries in (np.zeros(2), np.zeros((1, 3))):
        with pytest.raises(ValueError, match=r"queries must be f\[N, 2\]"):
            track(frames, queries)


@pytest.mark.parametrize("method", sorted({*TRACKERS} - {*CLASSICAL, "auto"}))
def test_a_learned_tracker_is_given_the_file_of_its_weights(method, tmp_path):
    with pytest.raises(ValueError, match=r"no file .*absent\.pt with the weights"):
        track(panned(np.zeros((2, 2))), np.zeros((1, 2)), method=method, weights=tmp_path / "absent.pt")
