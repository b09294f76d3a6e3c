"""Mutual information: equal to NPEET, right where the truth is known, and unchanged by what must not matter."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from npeet_plus import mi as npeet_mi
from scipy.special import digamma

from estimators.entropy import entropy
from estimators.mutual_information import ESTIMATORS, mutual_information, pairwise_mutual_information

Pair = tuple[np.ndarray, np.ndarray]

cases = given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(8, 80),
    d=st.integers(1, 3),
    k=st.integers(1, 5),
    rho=st.floats(-0.99, 0.99),
)
quick = settings(deadline=None, derandomize=True, max_examples=80)
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
def test_ksg_and_three_kl_do_not_change_under_a_common_scale(seed: int, count: int, k: int, scale: float) -> None:
    x, y = gaussian(seed, count, 2, 0.7)
    for estimator in ("ksg", "3kl"):
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
    found = [mutual_information(*gaussian(seed, 400, d, rho), estimator=estimator) for seed in range(60)]
    assert np.mean(found) == pytest.approx(exact, abs=tolerance)


@estimators
def test_independent_variables_come_out_near_zero_on_average(estimator: str) -> None:
    found = [mutual_information(*gaussian(seed, 200, 2, 0.0), estimator=estimator) for seed in range(40)]
    assert abs(np.mean(found)) < 0.04
    assert min(found) < 0 < max(found)


def test_variables_may_have_different_dimensions_and_a_flat_list_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = np.column_stack([x + 0.1 * rng.normal(size=300), rng.normal(size=300)])
    assert mutual_information(x, y) == mutual_information(x[:, None], y)
    assert mutual_information(x, y) > 1


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

    monkeypatch.setattr("estimators.mutual_information.npeet.mi", fail)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    with pytest.raises(RuntimeError, match="broken"):
        mutual_information([1.0, 2, 3, 4], [1.0, 2, 3, 4], estimator="npeet")
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: mutual_information(x, x, estimator="kgs"), "unknown estimator 'kgs': choose one of 3kl, ksg, npeet"),
        (lambda x: mutual_information(x, x[1:]), "x has 10 samples and y has 9"),
        (lambda x: mutual_information(x, x, k=10), "10 samples are too few for k=10"),
        (lambda x: mutual_information(x, x, k=0), "k must be at least 1"),
        (lambda x: mutual_information(x, np.where(x > 0, x, np.nan)), "NaN or infinity"),
        (lambda x: pairwise_mutual_information(x), r"samples must be shaped \[N, T, d\], got \(10, 2\)"),
        (
            lambda x: pairwise_mutual_information(x[None], visible=np.ones((1, 9))),
            r"visible must be shaped \(1, 10\) like the samples, got \(1, 9\)",
        ),
        (lambda x: pairwise_mutual_information(x[None], k=0), "k must be at least 1"),
        (lambda x: pairwise_mutual_information(x[None], estimator="mi"), "unknown estimator 'mi'"),
        (lambda x: pairwise_mutual_information(np.full((2, 9, 1), np.nan)), "NaN or infinity where they are marked"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_reason(
    call: Callable[[np.ndarray], object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(np.random.default_rng(0).normal(size=(10, 2)))


# ---- all pairs of a window


@estimators
def test_pairwise_is_every_single_call_and_nan_on_the_diagonal(estimator: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 30, 2))
    x[3] += 4 * x[1]
    found = pairwise_mutual_information(x, estimator=estimator, k=4)
    assert found.shape == (5, 5)
    assert np.isnan(np.diag(found)).all()
    for i in range(5):
        for j in range(5):
            if i != j:
                assert found[i, j] == pytest.approx(mutual_information(x[i], x[j], estimator=estimator, k=4), abs=1e-9)
    assert np.array_equal(found, found.T, equal_nan=True)
    assert np.nanargmax(found[3]) == 1


@estimators
@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.integers(0, 20))
def test_a_pair_counts_only_what_both_show_and_needs_enough_of_it(
    estimator: str, seed: int, share: float, min_samples: int
) -> None:
    rng = np.random.default_rng(seed)
    x, visible = rng.normal(size=(4, 24, 2)), rng.random((4, 24)) < share
    hidden = np.where(visible[..., None], x, np.nan)
    assume(visible.any())
    found = pairwise_mutual_information(hidden, estimator=estimator, visible=visible, min_samples=min_samples)
    for i in range(4):
        for j in range(i):
            both = visible[i] & visible[j]
            if both.sum() >= max(min_samples, 4):
                expected = mutual_information(x[i, both], x[j, both], estimator=estimator)
                assert found[i, j] == pytest.approx(expected, abs=1e-9)
            else:
                assert np.isnan(found[i, j])


def test_a_hidden_sample_may_hold_anything_and_a_visible_one_may_not() -> None:
    x, visible = np.random.default_rng(1).normal(size=(3, 20, 2)), np.ones((3, 20), bool)
    visible[1, 4:7] = False
    expected = pairwise_mutual_information(x, visible=visible)
    x[1, 4], x[1, 5], x[1, 6] = np.nan, np.inf, 1e300
    assert np.array_equal(pairwise_mutual_information(x, visible=visible), expected, equal_nan=True)
    with pytest.raises(ValueError, match="where they are marked visible"):
        pairwise_mutual_information(x)


def test_a_window_without_pairs_gives_a_matrix_all_the_same() -> None:
    assert pairwise_mutual_information(np.zeros((0, 10, 2))).shape == (0, 0)
    assert np.isnan(pairwise_mutual_information(np.random.default_rng(0).normal(size=(1, 10, 2)))).all()
