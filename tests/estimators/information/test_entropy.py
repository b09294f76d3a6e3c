"""Entropy by nearest neighbours against what is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma

from infoaug.estimators.information.entropy import as_samples, entropy


def literal(x: np.ndarray, k: int) -> float:
    """The docstring's formula, distance by distance."""
    count, d = x.shape
    total = 0.0
    for i in range(count):
        total += np.log(sorted(max(abs(x[i] - x[j])) for j in range(count) if j != i)[k - 1])
    return float(digamma(count) - digamma(k) + d * np.log(2) + d / count * total)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 5])
def test_entropy_is_the_formula_evaluated_distance_by_distance(d: int, k: int) -> None:
    x = np.random.default_rng(d).normal(size=(25, d))
    assert entropy(x, k=k) == pytest.approx(literal(x, k), abs=1e-12)


@pytest.mark.parametrize(("d", "tolerance"), [(1, 0.03), (2, 0.04), (3, 0.08)])
def test_entropy_of_a_gaussian_is_near_its_closed_form(d: int, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(d, d)) + 2 * np.eye(d)
    exact = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * mixing @ mixing.T))
    found = [entropy(rng.normal(size=(2000, d)) @ mixing.T, k=3) for _ in range(4)]
    assert np.mean(found) == pytest.approx(exact, abs=tolerance)


def test_entropy_of_a_uniform_variable_is_the_logarithm_of_its_volume() -> None:
    rng = np.random.default_rng(1)
    assert entropy(rng.uniform(0, 5, 4000), k=3) == pytest.approx(np.log(5), abs=0.05)
    assert entropy(rng.uniform(0, 1, (4000, 2)) * (0.5, 3), k=3) == pytest.approx(np.log(1.5), abs=0.08)


@settings(derandomize=True, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.integers(1, 3), st.integers(1, 5), st.floats(-50, 50))
def test_a_shift_or_another_order_of_the_samples_changes_nothing(
    seed: int, count: int, d: int, k: int, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, d))
    assert entropy(rng.permutation(x + shift), k=k) == pytest.approx(entropy(x, k=k), abs=1e-9)


@settings(derandomize=True, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.integers(1, 3), st.floats(1e-3, 1e3))
def test_a_scale_adds_its_logarithm_once_for_each_dimension(seed: int, count: int, d: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(count, d))
    assert entropy(scale * x, k=3) == pytest.approx(entropy(x, k=3) + d * np.log(scale), abs=1e-9)


def test_a_flat_list_is_one_dimension() -> None:
    values = [0.3, 1.9, 2.2, 4.0, 4.7]
    assert entropy(values, k=3) == entropy(np.array(values)[:, None], k=3)


def test_more_than_k_equal_samples_have_no_density_and_k_equal_ones_have() -> None:
    x = np.random.default_rng(2).normal(size=(20, 2))
    x[:3] = x[0]
    assert np.isfinite(entropy(x, k=3))
    x[:4] = x[0]
    assert entropy(x, k=3) == -np.inf


@pytest.mark.parametrize(
    ("samples", "k", "sentence"),
    [
        (np.zeros((5, 2, 2)), 3, r"samples must be shaped \[T, d\], got \(5, 2, 2\)"),
        (np.zeros((5, 2)), 0, "k must be at least 1, got 0"),
        (np.zeros((3, 2)), 3, "3 samples are too few for k=3"),
        ([], 1, "0 samples are too few"),
        ([0.0, 1.0, np.nan, 2.0, 3.0], 3, "NaN or infinity"),
        ([0.0, 1.0, np.inf, 2.0, 3.0], 3, "NaN or infinity"),
    ],
)
def test_samples_that_cannot_be_estimated_are_refused_with_the_reason(
    samples: np.ndarray, k: int, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        entropy(samples, k=k)


def test_samples_come_out_as_columns_of_float64_and_the_least_number_of_them_is_enough() -> None:
    checked = as_samples([1, 2, 4], k=2)
    assert checked.shape == (3, 1)
    assert checked.dtype == np.float64
    assert np.isfinite(entropy([1, 2, 4], k=2))
