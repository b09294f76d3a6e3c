"""p-values: right for independent trajectories, autocorrelated or not, and small where there is a dependence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from infoaug.estimators.information import kernels, significance
from infoaug.estimators.information.motion import displacement, innovations, samples, whiten
from infoaug.estimators.information.mutual_information import mutual_information, pairwise_mutual_information
from infoaug.estimators.information.significance import p_values

PATCHES, FRAMES, SURROGATES = 8, 48, 200
PAIRS = np.triu_indices(PATCHES, 1)


def autoregressive(seed: int, phi: float, count: int = PATCHES, frames: int = FRAMES) -> np.ndarray:
    """Independent stationary displacements x(t) = φ·x(t−1) + noise, whitened: f64[count, frames, 2]."""
    noise = np.random.default_rng(seed).normal(size=(count, frames + 60, 2))
    x = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    return whiten(x[:, 60:], np.ones((count, frames), bool), noise=1e-3)


def coupled(seed: int) -> np.ndarray:
    """Independent white displacements, but for patches 2 and 5, which share most of theirs."""
    x = autoregressive(seed, 0.0)
    x[5] = 0.95 * x[2] + np.sqrt(1 - 0.95**2) * x[5]
    return x


def path(kind: str, seed: int, count: int = PATCHES, frames: int = FRAMES) -> np.ndarray:
    """Positions f64[count, frames, 2] of independent paths, pixels."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(count, frames, 2))
    if kind == "i.i.d.":
        return steps
    if kind == "random walk":
        return steps.cumsum(1)
    if kind == "smooth":
        return autoregressive(seed, 0.9, count, frames).cumsum(1) + 0.1 * steps
    angle = 2 * np.pi * (np.arange(frames)[:, None] / rng.uniform(8, 24, (count, 1, 2)) + rng.random((count, 1, 2)))
    return 5 * np.sin(angle) + 0.5 * steps.cumsum(1)


def share_taken(draw: Callable[[int], np.ndarray], windows: int = 30, level: float = 0.05, **options: Any) -> float:
    """Share of the pairs of independent windows with p ≤ level."""
    found = []
    for number in range(windows):
        p = p_values(draw(number), surrogates=1000, seed=number, **options)
        found.append(p[np.triu_indices(len(p), 1)])
    return float(np.mean(np.concatenate(found) <= level))


# ---- is it calibrated?


def test_independent_samples_have_uniform_p_values() -> None:
    p = np.concatenate([p_values(autoregressive(w, 0.0), surrogates=SURROGATES, seed=w)[PAIRS] for w in range(20)])
    # 560 pairs; three standard deviations of a binomial share, and half as much again for pairs that share a patch.
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=4.5 * np.sqrt(level * (1 - level) / len(p)))


# 30 windows of 120 pairs: a rate of 0.05 has a standard deviation of about 0.004.
@pytest.mark.parametrize("kind", ["i.i.d.", "random walk", "smooth", "oscillation"])
@pytest.mark.parametrize("frames", [24, 64])
def test_independent_positions_of_any_kind_are_not_taken_for_dependent(kind: str, frames: int) -> None:
    assert 0.035 < share_taken(lambda seed: path(kind, seed, 16, frames)) < 0.064


def test_innovations_of_displacements_are_not_taken_for_dependent_and_displacements_are() -> None:
    shown = np.ones((16, FRAMES), bool)
    smooth = [path("smooth", seed, 16) for seed in range(30)]

    def new(seed: int) -> np.ndarray:
        return whiten(displacement(smooth[seed], shown)[0], shown[:, 1:], noise=0.1)

    def seen_through(seed: int) -> np.ndarray:
        return samples(smooth[seed], shown, noise=0.1)[0][:, 4:]  # all are known from here on

    assert share_taken(new, method="circular-shift") > 0.066
    assert share_taken(seen_through, method="circular-shift") < 0.061


@pytest.mark.parametrize("count", [2, 4])
def test_few_patches_are_tested_as_honestly_as_many(count: int) -> None:
    # 120 pairs or more: a rate of 0.05 has a standard deviation of 0.02 at most.
    windows = 120 if count == 2 else 40
    assert share_taken(lambda seed: path("smooth", seed, count), windows) < 0.105


def test_gaps_do_not_make_independent_paths_dependent() -> None:
    visible = np.ones((16, 64), bool)
    for i, begin in enumerate(np.random.default_rng(0).integers(0, 60, 16)):
        visible[i, begin : begin + (16 if i % 2 else 5)] = False
    assert share_taken(lambda seed: path("smooth", seed, 16, 64), visible=visible) < 0.064


def test_a_null_without_autocorrelation_would_have_failed_the_tests_above() -> None:
    taken = []
    for w in range(10):
        x, rng = autoregressive(w, 0.9), np.random.default_rng(w)
        mi = pairwise_mutual_information(x)[PAIRS]
        draws = zip(*(index[rng.integers(len(mi), size=100)] for index in PAIRS), strict=True)
        null = np.sort([mutual_information(x[i], rng.permutation(x[j])) for i, j in draws])
        taken.append(mi >= null[94])
    assert np.mean(taken) > 0.2


# ---- does it find what is there?


@pytest.mark.parametrize("estimator", ["ksg", "npeet", "3kl"])
def test_the_coupled_pair_has_the_smallest_p_and_it_is_the_smallest_possible(estimator: str) -> None:
    p = p_values(coupled(0), estimator=estimator, surrogates=SURROGATES)
    assert p[2, 5] == p[5, 2] == pytest.approx(1 / (1 + SURROGATES))
    assert (np.delete(p[PAIRS], np.flatnonzero((PAIRS[0] == 2) & (PAIRS[1] == 5))) > p[2, 5]).mean() > 0.9


@pytest.mark.parametrize("frames", [48, 96])
def test_smooth_paths_that_share_their_innovations_are_found_by_their_positions(frames: int) -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        step = rng.normal(size=(PATCHES, frames + 60, 2))
        step[1::2] = 0.9 * step[::2] + np.sqrt(1 - 0.9**2) * step[1::2]
        speed = np.zeros_like(step)
        for t in range(1, frames + 60):
            speed[:, t] = 0.9 * speed[:, t - 1] + step[:, t]
        p = p_values(speed[:, 60:].cumsum(1) + 0.1 * rng.normal(size=(PATCHES, frames, 2)), surrogates=1000)
        found += [p[i, i + 1] for i in range(0, PATCHES, 2)]
    assert np.mean(np.array(found) <= 0.01) > 0.9


def test_a_lone_pair_of_a_small_short_window_survives_the_correction() -> None:
    for count in (2, 4, 8):
        x = autoregressive(0, 0.0, count, 24)
        x[1] = x[0]
        p = p_values(x, method="circular-shift", surrogates=100_000)
        above = np.triu_indices(count, 1)
        assert (false_discovery_control(p[above]) <= 0.05).tolist()[0]


def test_a_pair_without_its_coupling_is_not_found() -> None:
    x = coupled(0)
    x[5] = np.random.default_rng(9).permutation(x[5])
    assert p_values(x, surrogates=SURROGATES)[2, 5] > 0.1


# ---- what the numbers are


def test_p_counts_the_null_at_or_above_the_pair_s_own_value(monkeypatch: pytest.MonkeyPatch) -> None:
    null = iter([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(significance, "mutual_information", lambda *_, **__: next(null))
    mi = np.full((3, 3), np.nan)
    mi[0, 1] = mi[1, 0] = 0.3
    mi[0, 2] = mi[2, 0] = 0.5
    mi[1, 2] = mi[2, 1] = -1.0
    p = p_values(
        np.zeros((3, 10, 2)), estimator="npeet", surrogates=4, method="circular-shift", mutual_information_matrix=mi
    )
    assert p[0, 1] == pytest.approx(3 / 5)
    assert p[0, 2] == pytest.approx(1 / 5)
    assert p[1, 2] == pytest.approx(5 / 5)
    assert np.array_equal(p, p.T, equal_nan=True)
    assert np.isnan(np.diag(p)).all()


def shift_of(path: np.ndarray, moved: np.ndarray) -> tuple[bool, int]:
    """Whether a surrogate runs backwards, and by how much it is shifted."""
    ways = [(back, s) for back in (False, True) for s in range(len(path))]
    (way,) = [w for w in ways if np.array_equal(np.roll(path[:: -1 if w[0] else 1], w[1], axis=0), moved)]
    return way


def test_a_surrogate_is_a_pair_of_the_window_one_shifted_by_a_tenth_of_its_length_or_more_or_reversed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, drawn = autoregressive(1, 0.5, count=4, frames=50), []

    def record(a: np.ndarray, b: np.ndarray, **_: object) -> float:
        drawn.append((a, b))
        return 0.0

    monkeypatch.setattr(significance, "mutual_information", record)
    options = {"estimator": "npeet", "method": "circular-shift", "mutual_information_matrix": np.zeros((4, 4))}
    p_values(x, surrogates=150, **options)
    shifts = []
    for a, b in drawn:
        (i,) = np.flatnonzero((x == a).all((1, 2)))
        (j,) = [j for j in range(4) if np.array_equal(np.sort(x[j], axis=0), np.sort(b, axis=0))]
        assert i != j
        shifts.append(shift_of(x[j], b))
    forwards = {shift for back, shift in shifts if not back}
    assert min(forwards) >= 5 and max(forwards) <= 45 and len(forwards) > 20
    assert 50 < sum(back for back, _ in shifts) < 115  # of 150, 50 ways in 90


def test_the_kernel_s_surrogates_are_all_trajectories_each_moved_in_ways_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, drawn = autoregressive(1, 0.5, count=4, frames=50), []

    def record(a: np.ndarray, b: np.ndarray, *_: object, **__: object) -> np.ndarray:
        assert np.array_equal(a, x)
        drawn.append(b.reshape(-1, 4, 50, 2))
        return np.zeros((4, len(b)))

    monkeypatch.setattr(kernels, "all_pairs", record)
    p_values(x, surrogates=150, method="circular-shift", mutual_information_matrix=np.zeros((4, 4)))
    ways = [[shift_of(x[j], moved[j]) for copies in drawn for moved in copies] for j in range(4)]
    assert len(ways[0]) * 12 >= 150
    assert all(len(set(way)) == len(way) for way in ways)  # none twice
    assert len({tuple(way) for way in ways}) == 4
    assert all(back or 5 <= shift <= 45 for way in ways for back, shift in way)


@pytest.mark.parametrize(("count", "frames"), [(2, 24), (4, 24), (3, 50)])
def test_a_small_window_claims_no_smaller_p_than_it_has_different_surrogates(count: int, frames: int) -> None:
    x = autoregressive(0, 0.0, count, frames)
    x[1] = x[0]
    p = p_values(x, method="circular-shift", surrogates=100_000)
    ways = (frames - 2 * (frames // 10)) + frames
    assert p[0, 1] == pytest.approx(1 / (1 + ways * count * (count - 1) // 2))


def test_a_null_with_repeats_is_calibrated_where_it_is_as_large_as_a_window_allows() -> None:
    """Three paths of 24 frames have some 132 different surrogates, and a quarter of as many draws repeat others."""
    values: list[np.ndarray] = []
    for number in range(60):
        x = autoregressive(10_000 + number, 0.0, count=3, frames=24)
        values.append(p_values(x, surrogates=100_000, method="circular-shift", seed=number)[np.triu_indices(3, 1)])
    p = np.concatenate(values)
    for level in (0.05, 0.2, 0.5):  # 180 pairs, and half as much again for pairs that share a patch
        assert np.mean(p <= level) == pytest.approx(level, abs=4.5 * np.sqrt(level * (1 - level) / len(p)))
    assert p.min() > 1 / 140


def test_a_null_of_whole_matrices_is_that_of_single_pairs() -> None:
    x = autoregressive(5, 0.4, count=8, frames=60)
    p, q = (p_values(x, estimator=e, surrogates=1500) for e in ("ksg", "npeet"))
    above = np.triu_indices(8, 1)
    assert np.abs(p[above] - q[above]).max() < 0.06


def test_the_same_seed_gives_the_same_p_values_and_another_seed_others() -> None:
    x = autoregressive(2, 0.3)
    first = p_values(x, surrogates=50, seed=3)
    assert np.array_equal(first, p_values(x, surrogates=50, seed=3), equal_nan=True)
    assert not np.array_equal(first, p_values(x, surrogates=50, seed=4), equal_nan=True)


def test_a_matrix_that_was_estimated_before_gives_the_same_p_values() -> None:
    x = autoregressive(3, 0.3)
    options: dict[str, Any] = {"surrogates": 50, "method": "circular-shift"}
    given = p_values(x, **options, mutual_information_matrix=pairwise_mutual_information(x))
    assert np.array_equal(given, p_values(x, **options), equal_nan=True)


def test_the_default_tests_the_whitened_innovations() -> None:
    x = path("smooth", 3)
    new, known = innovations(x, np.ones((PATCHES, FRAMES), bool))
    white = whiten(new, known, noise=1e-6)
    expected = p_values(white, visible=known, surrogates=100, method="circular-shift", seed=4)
    assert np.array_equal(p_values(x, surrogates=100, seed=4), expected, equal_nan=True)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_and_the_origin_of_positions_do_not_matter(scale: float) -> None:
    x = path("random walk", 5)
    assert np.array_equal(p_values(scale * x + 7 * scale, surrogates=100), p_values(x, surrogates=100), equal_nan=True)


# ---- gaps


def test_a_pair_with_too_few_common_samples_has_no_p_and_hidden_samples_may_hold_anything() -> None:
    x, visible = coupled(1), np.ones((PATCHES, FRAMES), bool)
    visible[0, 10:], visible[2, :4], visible[5, -4:] = False, False, False
    x[~visible] = np.nan
    p = p_values(x, surrogates=SURROGATES, visible=visible, min_samples=20, seed=1)
    assert np.isnan(p[0]).all()
    assert np.isnan(p[:, 0]).all()
    assert np.isfinite(p[1:, 1:][~np.eye(PATCHES - 1, dtype=bool)]).all()
    assert p[2, 5] == pytest.approx(1 / (1 + SURROGATES))


def test_a_window_without_a_pair_has_no_p_values() -> None:
    assert np.isnan(p_values(autoregressive(0, 0.0, count=1), surrogates=10)).all()
    assert p_values(np.zeros((0, 20, 2)), surrogates=10).shape == (0, 0)
    hidden = np.zeros((3, 20), bool)
    assert np.isnan(p_values(np.zeros((3, 20, 2)), surrogates=10, visible=hidden)).all()


def test_the_shortest_trajectories_that_can_be_estimated_have_p_values() -> None:
    p = p_values(autoregressive(4, 0.0, count=3, frames=5), k=3, surrogates=20)
    assert np.isfinite(p[np.triu_indices(3, 1)]).all()


def test_what_cannot_be_tested_is_refused_with_the_reason() -> None:
    x = autoregressive(0, 0.0)
    with pytest.raises(ValueError, match="surrogates"):
        p_values(x, surrogates=0)
    with pytest.raises(ValueError, match=r"mutual_information_matrix must be shaped \(8, 8\), got \(3, 3\)"):
        p_values(x, surrogates=5, method="circular-shift", mutual_information_matrix=np.full((3, 3), 0.1))
    with pytest.raises(ValueError, match=r"mutual_information_matrix.*circular-shift"):
        p_values(x, surrogates=5, mutual_information_matrix=np.full((8, 8), 0.1))
    with pytest.raises(ValueError, match=r"shuffle.*circular-shift"):
        p_values(x, surrogates=5, method="shuffle")
    hidden = np.zeros(x.shape[:2], bool)
    hidden[:, :3] = True
    with pytest.raises(ValueError, match="mutual_information_matrix"):
        given = np.full((8, 8), 0.1)
        p_values(x, surrogates=5, method="circular-shift", visible=hidden, mutual_information_matrix=given)
    with pytest.raises(ValueError, match="unknown estimator 'mine'"):
        p_values(x, estimator="mine", surrogates=5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        p_values(np.full((2, 20, 2), np.nan), surrogates=5)
    with pytest.raises(ValueError, match=r"samples must be shaped \[N, T, d\]"):
        p_values(x[0], surrogates=5)
    with pytest.raises(ValueError, match="visible must be shaped"):
        p_values(x, surrogates=5, visible=np.ones((PATCHES, FRAMES + 1), bool))
