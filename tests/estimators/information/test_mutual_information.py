"""Mutual information: equal to NPEET, right where the truth is known, and unchanged by what must not matter."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from npeet_plus import mi as npeet_mi
from scipy.special import digamma

from infoaug.estimators.information.entropy import entropy
from infoaug.estimators.information.mutual_information import (
    ESTIMATORS,
    mutual_information,
    pairwise_mutual_information,
)

Pair = tuple[np.ndarray, np.ndarray]

cases = given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(8, 80),
    d=st.integers(1, 3),
    k=st.integers(1, 5),
    rho=st.floats(-0.99, 0.99),
)
quick = settings(derandomize=True, max_examples=80)
estimators = pytest.mark.parametrize("estimator", sorted(ESTIMATORS))


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def gaussian(seed: int, count: int, d: int, rho: float) -> Pair:
    """Two variables f64[count, d], each dimension of one correlated by rho with the same dimension of the other."""
    a, b = np.random.default_rng(seed).normal(size=(2, count, d))
    return standardised(a), standardised(rho * a + np.sqrt(1 - rho**2) * b)


# ---- one pair


@quick
@cases
def test_ksg_equals_npeet(seed: int, count: int, d: int, k: int, rho: float) -> None:
    x, y = gaussian(seed, count, d, rho)
    assert mutual_information(x, y, k=k) == pytest.approx(npeet_mi(x, y, k=k, base=np.e), abs=1e-9)
    assert mutual_information(x, y, k=k, estimator="npeet") == pytest.approx(mutual_information(x, y, k=k), abs=1e-9)


@quick
@cases
def test_ksg_is_the_formula_evaluated_distance_by_distance(seed: int, count: int, d: int, k: int, rho: float) -> None:
    x, y = gaussian(seed, min(count, 30), d, rho)
    in_x, in_y = (np.abs(v[:, None] - v[None]).max(-1) for v in (x, y))
    joint = np.maximum(in_x, in_y)
    radius = np.sort(joint, axis=1)[:, k]
    n_x, n_y = ((v < radius[:, None]).sum(1) - 1 for v in (in_x, in_y))
    expected = digamma(k) + digamma(len(x)) - np.mean(digamma(n_x + 1) + digamma(n_y + 1))
    assert mutual_information(x, y, k=k) == pytest.approx(expected, abs=1e-12)


@quick
@cases
def test_ksg2_is_the_formula_evaluated_distance_by_distance(seed: int, count: int, d: int, k: int, rho: float) -> None:
    x, y = gaussian(seed, min(count, 30), d, rho)
    length, total = len(x), 0.0
    for t in range(length):
        others = [u for u in range(length) if u != t]
        in_x, in_y = ({u: np.abs(v[t] - v[u]).max() for u in others} for v in (x, y))
        nearest = sorted(others, key=lambda u: max(in_x[u], in_y[u]))[:k]
        for distance in (in_x, in_y):
            farthest = max(distance[u] for u in nearest)
            total += digamma(sum(distance[u] <= farthest for u in others))
    expected = digamma(k) - 1 / k + digamma(length) - total / length
    assert mutual_information(x, y, k=k, estimator="ksg2") == pytest.approx(expected, abs=1e-12)


@quick
@cases
def test_conditional_ksg_equals_npeet(seed: int, count: int, d: int, k: int, rho: float) -> None:
    (x, y), (z, _) = gaussian(seed, count, d, rho), gaussian(seed + 1, count, 2, 0.0)
    x = x + z[:, :1]
    found = mutual_information(x, y, k=k, condition_on=z)
    assert found == pytest.approx(mutual_information(x, y, k=k, condition_on=z, estimator="npeet"), abs=1e-9)


def test_conditioning_takes_out_what_a_third_variable_explains() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2))
    x, y = (standardised(z + 0.5 * rng.normal(size=z.shape)) for _ in range(2))
    assert mutual_information(x, y, k=3) > 0.7
    assert abs(mutual_information(x, y, k=3, condition_on=z)) < 0.15
    assert mutual_information(x, standardised(y + 2 * x), k=3, condition_on=z) > 0.5


def test_a_theiler_window_leaves_out_what_is_near_in_time() -> None:
    x, y = gaussian(3, 24, 2, 0.6)
    k, window, total = 3, 2, 0.0
    for t in range(24):
        others = [u for u in range(24) if abs(u - t) > window]
        in_x, in_y = ([np.abs(v[t] - v[u]).max() for u in others] for v in (x, y))
        radius = sorted(map(max, in_x, in_y))[k - 1]
        n_x, n_y = (sum(d < radius for d in v) for v in (in_x, in_y))
        total += digamma(len(others) + 1) - digamma(n_x + 1) - digamma(n_y + 1)
    assert mutual_information(x, y, k=k, theiler=window) == pytest.approx(digamma(k) + total / 24, abs=1e-12)


def test_a_theiler_window_takes_out_the_mean_inflation_of_smooth_paths() -> None:
    paths = [standardised(np.random.default_rng(s).normal(size=(128, 2)).cumsum(0)) for s in range(40)]
    pairs = list(zip(paths[::2], paths[1::2], strict=True))
    without, within = (np.mean([mutual_information(x, y, k=3, theiler=w) for x, y in pairs]) for w in (0, 32))
    assert without > 1.0
    assert within < 0.4


# ---- the edges


def integers(seed: int, length: int = 64) -> np.ndarray:
    """Independent displacements in whole pixels: f64[2, length, 2]."""
    return np.round(np.random.default_rng(seed).normal(scale=0.6, size=(2, length, 2)))


@pytest.mark.parametrize("estimator", ["ksg", "ksg2", "npeet"])
def test_displacements_in_whole_pixels_are_not_dependent_because_of_their_ties(estimator: str) -> None:
    found = [mutual_information(*integers(seed), k=3, estimator=estimator) for seed in range(20)]
    assert abs(np.mean(found)) < 0.05
    assert found[0] == mutual_information(*integers(0), k=3, estimator=estimator), (
        "the noise that breaks ties is seeded"
    )


def test_three_kl_gives_no_number_for_displacements_in_whole_pixels() -> None:
    assert np.isnan(mutual_information(*integers(0), estimator="3kl"))
    x = np.concatenate([integers(0), np.random.default_rng(1).normal(size=(2, 64, 2))])
    found = pairwise_mutual_information(x, estimator="3kl")
    assert np.isfinite(found[2, 3]) and np.isnan(np.delete(found[0], 0)).all()


@estimators
def test_what_stands_still_shares_nothing(estimator: str) -> None:
    x, y = gaussian(0, 40, 2, 0.5)
    assert mutual_information(np.full_like(x, 7.0), y, estimator=estimator) == 0.0
    assert mutual_information(x, np.zeros((40, 1)), estimator=estimator) == 0.0
    found = pairwise_mutual_information(np.stack([x, np.full_like(x, 3.0), y]), estimator=estimator)
    assert found[1, 0] == found[1, 2] == 0.0 and found[0, 2] > 0 and np.isnan(found[1, 1])


def test_a_coordinate_that_stands_still_does_not_matter() -> None:
    x, y = gaussian(2, 60, 1, 0.8)
    flat = np.column_stack([x, np.full(60, 3.0)])
    assert mutual_information(flat, y) == pytest.approx(mutual_information(x, y), abs=1e-3)


def test_frames_shown_twice_feign_dependence_and_a_theiler_window_of_one_cures_it() -> None:
    pairs = [np.random.default_rng(s).normal(size=(2, 48, 2)).repeat(2, axis=1) for s in range(20)]
    assert np.mean([mutual_information(x, y, k=3) for x, y in pairs]) > 0.15
    assert abs(np.mean([mutual_information(x, y, k=3, theiler=1) for x, y in pairs])) < 0.08


def test_a_copy_among_trajectories_reaches_the_bound() -> None:
    x = np.random.default_rng(0).normal(size=(1, 50, 2)).repeat(2, axis=0)
    for estimator in ("ksg", "3kl"):
        found = pairwise_mutual_information(x, k=3, estimator=estimator)[0, 1]
        assert found == pytest.approx(digamma(50) - digamma(3), abs=1e-9)


def test_pairs_whose_samples_have_too_few_others_to_be_compared_with_have_no_number() -> None:
    x = np.random.default_rng(0).normal(size=(3, 12, 2))
    for backend in ("cpu", "reference"):
        assert np.isfinite(pairwise_mutual_information(x, k=3, theiler=3, backend=backend)[0, 1])
        assert np.isnan(pairwise_mutual_information(x, k=3, theiler=4, backend=backend)).all()
        assert np.isnan(pairwise_mutual_information(x[:, :4], k=3, backend=backend)).all()


@quick
@cases
def test_three_kl_is_the_sum_of_three_entropies(seed: int, count: int, d: int, k: int, rho: float) -> None:
    x, y = gaussian(seed, count, d, rho)
    expected = entropy(x, k=k) + entropy(y, k=k) - entropy(np.hstack([x, y]), k=k)
    assert mutual_information(x, y, k=k, estimator="3kl") == pytest.approx(expected, abs=1e-12)


@estimators
@quick
@cases
def test_order_of_the_variables_order_of_the_samples_and_a_shift_change_nothing(
    estimator: str, seed: int, count: int, d: int, k: int, rho: float
) -> None:
    x, y = gaussian(seed, count, d, rho)
    rng = np.random.default_rng(seed)
    order, shift = rng.permutation(count), rng.uniform(-2, 2, (2, d))
    found = mutual_information(x, y, estimator=estimator, k=k)
    for a, b in ((y, x), (x[order], y[order]), (x + shift[0], y + shift[1])):
        assert mutual_information(a, b, estimator=estimator, k=k) == pytest.approx(found, abs=1e-9)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(8, 80), st.integers(1, 5), st.floats(1e-6, 1e6))
def test_our_estimators_do_not_change_under_a_common_scale(seed: int, count: int, k: int, scale: float) -> None:
    x, y = gaussian(seed, count, 2, 0.7)
    for estimator in ("ksg", "ksg2", "3kl"):
        found = mutual_information(scale * x, scale * y, estimator=estimator, k=k)
        assert found == pytest.approx(mutual_information(x, y, estimator=estimator, k=k), abs=1e-9)


@quick
@cases
def test_ksg_never_exceeds_the_bound_that_the_docstring_gives_and_a_copy_reaches_it(
    seed: int, count: int, d: int, k: int, rho: float
) -> None:
    x, y = gaussian(seed, count, d, rho)
    bound = digamma(count) - digamma(k)
    assert mutual_information(x, y, k=k) <= bound + 1e-9
    assert mutual_information(x, x, k=k) == pytest.approx(bound, abs=1e-9)


@estimators
@pytest.mark.parametrize(("d", "rho", "tolerance"), [(1, 0.5, 0.04), (1, 0.9, 0.04), (2, 0.6, 0.04), (2, -0.8, 0.08)])
def test_correlated_gaussians_come_out_near_the_closed_form(
    estimator: str, d: int, rho: float, tolerance: float
) -> None:
    exact = -0.5 * d * np.log(1 - rho**2)
    found = [mutual_information(*gaussian(seed, 400, d, rho), k=3, estimator=estimator) for seed in range(60)]
    assert np.mean(found) == pytest.approx(exact, abs=tolerance)


@estimators
def test_independent_variables_come_out_near_zero_on_average(estimator: str) -> None:
    found = [mutual_information(*gaussian(seed, 200, 2, 0.0), k=3, estimator=estimator) for seed in range(40)]
    assert abs(np.mean(found)) < 0.04
    assert min(found) < 0 < max(found)


def test_variables_may_have_different_dimensions_and_a_flat_list_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = np.column_stack([x + 0.1 * rng.normal(size=300), rng.normal(size=300)])
    assert mutual_information(x, y, k=3) == mutual_information(x[:, None], y, k=3)
    assert mutual_information(x, y, k=3) > 1


def test_npeet_is_repeatable_and_leaves_numpys_generator_as_it_was() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(12, 2)), 2, axis=0)  # ties, which NPEET breaks by noise
    y = x[::-1]
    np.random.seed(123)
    expected = np.random.random(4)
    np.random.seed(123)
    first = mutual_information(x, y, estimator="npeet")
    assert np.array_equal(np.random.random(4), expected)
    assert mutual_information(x, y, estimator="npeet") == first


def test_numpys_generator_is_put_back_even_if_npeet_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> float:
        np.random.random()
        raise RuntimeError("broken")

    monkeypatch.setattr("npeet_plus.estimators.mi", fail)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    with pytest.raises(RuntimeError, match="broken"):
        mutual_information([1.0, 2, 3, 4, 5], [1.0, 2, 3, 5, 4], k=3, estimator="npeet")
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda x: mutual_information(x, x, estimator="kgs"),
            "unknown estimator 'kgs': choose one of ksg, ksg2, 3kl, npeet",
        ),
        (lambda x: mutual_information(x, x[1:]), "the variables have 10 and 9 samples"),
        (lambda x: mutual_information(x, x, k=10), "10 samples are too few for k=10"),
        (lambda x: mutual_information(x, x, k=9), "10 samples are too few for k = 9 .*: give 11 or more"),
        (lambda x: mutual_information(x, x, k=3, theiler=3), "a Theiler window of 3: give 11 or more"),
        (lambda x: mutual_information(x, x, theiler=-1), "theiler must be at least 0"),
        (lambda x: mutual_information(x, x, theiler=1, estimator="npeet"), "NPEET.*ksg"),
        (lambda x: mutual_information(x, x, condition_on=x, estimator="3kl"), "'3kl' cannot be conditioned"),
        (lambda x: mutual_information(x, x, condition_on=x[:9]), "have 10 and 10 and 9 samples"),
        (lambda x: pairwise_mutual_information(x[None], condition_on=x[:9]), r"shaped \[10, c\]"),
        (lambda x: pairwise_mutual_information(x[None], condition_on=x * np.nan), "condition_on.*NaN"),
        (lambda x: mutual_information(x, x, k=0), "k must be at least 1"),
        (lambda x: mutual_information(x, np.where(x > 0, x, np.nan)), "NaN or infinity"),
        (lambda x: pairwise_mutual_information(x), r"samples must be shaped \[N, T, d\], d at least 1, got \(10, 2\)"),
        (
            lambda x: pairwise_mutual_information(x[None], visible=np.ones((1, 9))),
            r"visible must be shaped \(1, 10\) like the samples, got \(1, 9\)",
        ),
        (lambda x: pairwise_mutual_information(x[None], k=0), "k must be at least 1"),
        (lambda x: pairwise_mutual_information(x[None], estimator="mi"), "unknown estimator 'mi'"),
        (lambda x: pairwise_mutual_information(np.full((2, 9, 1), np.nan)), "NaN or infinity"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_reason(
    call: Callable[[np.ndarray], object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(np.random.default_rng(0).normal(size=(10, 2)))


@pytest.mark.parametrize("estimator", ["ksg", "3kl"])
def test_long_series_are_estimated_without_all_their_distances(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(1, 300, 2, 0.7)
    z = x[:, :1] - y[:, :1] if estimator == "ksg" else None
    readable = mutual_information(x, y, estimator=estimator, theiler=2, condition_on=z)
    monkeypatch.setattr("infoaug.estimators.information.mutual_information.READABLE_UP_TO", 100)
    monkeypatch.setattr("infoaug.estimators.information.mutual_information.Margin", None)
    found = mutual_information(x, y, estimator=estimator, theiler=2, condition_on=z)
    assert found == pytest.approx(readable, abs=1e-9)


# ---- all pairs of a window


@estimators
def test_pairwise_is_every_single_call_and_nan_on_the_diagonal(estimator: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 30, 2))
    x[3] += 4 * x[1]
    found = pairwise_mutual_information(x, estimator=estimator, k=3)
    assert found.shape == (5, 5)
    assert np.isnan(np.diag(found)).all()
    for i in range(5):
        for j in range(5):
            if i != j:
                assert found[i, j] == pytest.approx(mutual_information(x[i], x[j], estimator=estimator, k=3), abs=1e-9)
    assert np.array_equal(found, found.T, equal_nan=True)
    assert np.nanargmax(found[3]) == 1


@estimators
@settings(derandomize=True, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.integers(0, 20))
def test_a_pair_counts_only_what_both_show_and_needs_enough_of_it(
    estimator: str, seed: int, share: float, min_samples: int
) -> None:
    rng = np.random.default_rng(seed)
    x, visible = rng.normal(size=(4, 24, 2)), rng.random((4, 24)) < share
    hidden = np.where(visible[..., None], x, np.nan)
    assume(visible.any())
    found = pairwise_mutual_information(hidden, estimator=estimator, k=3, visible=visible, min_samples=min_samples)
    for i in range(4):
        for j in range(i):
            both = visible[i] & visible[j]
            if both.sum() >= max(min_samples, 5):
                expected = mutual_information(x[i, both], x[j, both], estimator=estimator, k=3)
                assert found[i, j] == pytest.approx(expected, abs=1e-9)
            else:
                assert np.isnan(found[i, j])


def test_a_hidden_sample_may_hold_anything_and_a_visible_one_may_not() -> None:
    x, visible = np.random.default_rng(1).normal(size=(3, 20, 2)), np.ones((3, 20), bool)
    visible[1, 4:7] = False
    expected = pairwise_mutual_information(x, visible=visible)
    x[1, 4], x[1, 5], x[1, 6] = np.nan, np.inf, 1e300
    assert np.array_equal(pairwise_mutual_information(x, visible=visible), expected, equal_nan=True)
    with pytest.raises(ValueError, match="visible"):
        pairwise_mutual_information(x)


def test_a_window_without_pairs_gives_a_matrix_all_the_same() -> None:
    assert pairwise_mutual_information(np.zeros((0, 10, 2))).shape == (0, 0)
    assert np.isnan(pairwise_mutual_information(np.random.default_rng(0).normal(size=(1, 10, 2)))).all()
