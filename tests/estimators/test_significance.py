"""p-values: right for independent trajectories, autocorrelated or not, and small where there is a dependence."""

import numpy as np
import pytest

from estimators import kernels, significance
from estimators.motion import whiten
from estimators.mutual_information import mutual_information, pairwise_mutual_information
from estimators.significance import p_values

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


def false_positives(phi: float, windows: int = 20) -> float:
    """Share of the pairs of independent windows with p ≤ 0.05."""
    found = [p_values(autoregressive(w, phi), surrogates=SURROGATES, seed=w)[PAIRS] for w in range(windows)]
    return float(np.mean(np.concatenate(found) <= 0.05))


# ---- is it calibrated?


def test_independent_samples_have_uniform_p_values() -> None:
    p = np.concatenate([p_values(autoregressive(w, 0.0), surrogates=SURROGATES, seed=w)[PAIRS] for w in range(20)])
    # 560 pairs; three standard deviations of a binomial share, and half as much again for pairs that share a patch.
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=4.5 * np.sqrt(level * (1 - level) / len(p)))


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_autocorrelated_but_independent_displacements_are_not_taken_for_dependent(phi: float) -> None:
    assert false_positives(phi) < 0.12


def test_a_null_without_autocorrelation_would_have_failed_the_test_above() -> None:
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
    p = p_values(np.zeros((3, 10, 2)), estimator="3kl", surrogates=4, mutual_information_matrix=mi)
    assert p[0, 1] == pytest.approx(3 / 5)
    assert p[0, 2] == pytest.approx(1 / 5)
    assert p[1, 2] == pytest.approx(5 / 5)
    assert np.array_equal(p, p.T, equal_nan=True)
    assert np.isnan(np.diag(p)).all()


def test_a_surrogate_is_a_pair_of_the_window_one_shifted_by_a_tenth_of_its_length_or_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, drawn = autoregressive(1, 0.5, count=4, frames=50), []

    def record(a: np.ndarray, b: np.ndarray, **_: object) -> float:
        drawn.append((a, b))
        return 0.0

    monkeypatch.setattr(significance, "mutual_information", record)
    p_values(x, estimator="npeet", surrogates=150, mutual_information_matrix=np.zeros((4, 4)))
    shifts = set()
    for a, b in drawn:
        (i,) = np.flatnonzero((x == a).all((1, 2)))
        ((j, shift),) = [(j, s) for j in range(4) for s in range(50) if np.array_equal(np.roll(x[j], s, axis=0), b)]
        assert i != j
        shifts.add(shift)
    assert min(shifts) >= 5
    assert max(shifts) <= 45
    assert len(shifts) > 30


def test_the_kernel_s_surrogates_are_all_trajectories_each_shifted_by_an_amount_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, drawn = autoregressive(1, 0.5, count=4, frames=50), []

    def record(a: np.ndarray, b: np.ndarray, *_: object, **__: object) -> np.ndarray:
        assert np.array_equal(a, x)
        drawn.append(b.reshape(-1, 4, 50, 2))
        return np.zeros((4, len(b)))

    monkeypatch.setattr(kernels, "all_pairs", record)
    p_values(x, surrogates=150, mutual_information_matrix=np.zeros((4, 4)))
    shifts = [
        next(s for s in range(50) if np.array_equal(np.roll(x[j], s, axis=0), moved[j]))
        for copies in drawn
        for moved in copies
        for j in range(4)
    ]
    assert sum(map(len, drawn)) * 12 >= 150
    assert min(shifts) >= 5 and max(shifts) <= 45 and len(set(shifts)) > 20


def test_a_null_of_whole_matrices_is_that_of_single_pairs() -> None:
    x = autoregressive(5, 0.4, count=8, frames=60)
    p, q = (p_values(x, estimator=e, k=4, surrogates=2000) for e in ("ksg", "npeet"))
    above = np.triu_indices(8, 1)
    assert np.abs(p[above] - q[above]).max() < 0.06


def test_the_same_seed_gives_the_same_p_values_and_another_seed_others() -> None:
    x = autoregressive(2, 0.3)
    first = p_values(x, surrogates=50, seed=3)
    assert np.array_equal(first, p_values(x, surrogates=50, seed=3), equal_nan=True)
    assert not np.array_equal(first, p_values(x, surrogates=50, seed=4), equal_nan=True)


def test_a_matrix_that_was_estimated_before_gives_the_same_p_values() -> None:
    x = autoregressive(3, 0.3)
    given = p_values(x, k=4, surrogates=50, mutual_information_matrix=pairwise_mutual_information(x, k=4))
    assert np.array_equal(given, p_values(x, k=4, surrogates=50), equal_nan=True)


# ---- gaps


def test_a_pair_with_too_few_common_samples_has_no_p_and_hidden_samples_may_hold_anything() -> None:
    x, visible = coupled(1), np.ones((PATCHES, FRAMES), bool)
    visible[0, 10:], visible[2, :4], visible[5, -4:] = False, False, False
    x[~visible] = np.nan
    p = p_values(x, surrogates=SURROGATES, visible=visible, min_samples=20)
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
    p = p_values(autoregressive(4, 0.0, count=3, frames=4), k=3, surrogates=20)
    assert np.isfinite(p[np.triu_indices(3, 1)]).all()


def test_what_cannot_be_tested_is_refused_with_the_reason() -> None:
    x = autoregressive(0, 0.0)
    with pytest.raises(ValueError, match="surrogates must be at least 1, got 0"):
        p_values(x, surrogates=0)
    with pytest.raises(ValueError, match=r"mutual_information_matrix must be shaped \(8, 8\), got \(3, 3\)"):
        p_values(x, surrogates=5, mutual_information_matrix=np.full((3, 3), 0.1))
    with pytest.raises(ValueError, match="unknown estimator 'mine'"):
        p_values(x, estimator="mine", surrogates=5)
    with pytest.raises(ValueError, match="NaN or infinity where they are marked visible"):
        p_values(np.full((2, 20, 2), np.nan), surrogates=5)
    with pytest.raises(ValueError, match=r"samples must be shaped \[N, T, d\]"):
        p_values(x[0], surrogates=5)
    with pytest.raises(ValueError, match="visible must be shaped"):
        p_values(x, surrogates=5, visible=np.ones((PATCHES, FRAMES + 1), bool))
