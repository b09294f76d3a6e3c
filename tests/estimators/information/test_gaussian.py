"""Second moments of pairs over their common samples, against NumPy's own."""

import numpy as np
import pytest

from infoaug.estimators.information.gaussian import correlation, mutual_information, without


@pytest.fixture
def window() -> tuple[np.ndarray, np.ndarray]:
    """Samples f64[5, 60, 2] far from zero, with gaps: 1 follows 0, 2 opposes it, 4 does not change."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 60, 2)) @ np.array([[1.0, 0.4], [0.0, 0.5]]) + 1000
    x[1] = 0.5 * (x[0] - 1000) + 0.1 * rng.normal(size=(60, 2))
    x[2] = -x[0]
    x[4] = 7.0
    return x, rng.random((5, 60)) < 0.8


def test_correlation_is_that_of_vectors_over_common_samples(window: tuple[np.ndarray, np.ndarray]) -> None:
    x, seen = window
    found = correlation(x, seen)
    for i in range(4):
        for j in range(4):
            a, b = (y[seen[i] & seen[j]] - y[seen[i] & seen[j]].mean(0) for y in (x[i], x[j]))
            assert found[i, j] == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), abs=1e-9)
    assert found[0, 1] > 0.9 and found[0, 2] == pytest.approx(-1)
    assert np.allclose(found[4], 0), "a trajectory that does not change is like none"
    never = np.zeros_like(seen)
    assert not correlation(x, never).any()


def test_mutual_information_is_that_of_normal_variables_whatever_their_scales_and_axes() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40_000, 2))
    y = 0.8 * x + 0.6 * rng.normal(size=x.shape)
    turn = np.array([[30.0, 1.0], [-2.0, 0.1]])
    found = mutual_information(np.stack([x, y, -y @ turn + 5]), np.ones((3, len(x)), bool))
    truth = -np.log(1 - 0.8**2)  # two independent coordinates, each −½ ln(1 − ρ²)
    assert found[0, 1] == pytest.approx(truth, rel=0.02)
    assert found[0, 2] == pytest.approx(found[0, 1], rel=1e-3) and found[2, 0] == found[0, 2]


def test_mutual_information_of_few_independent_samples_has_mean_zero_and_of_nothing_is_zero() -> None:
    rng = np.random.default_rng(2)
    x, seen = rng.normal(size=(60, 40, 2)), np.ones((60, 40), bool)
    seen[30:, 25:] = False
    x[0] = 3.0
    seen[1] = False
    found = mutual_information(x, seen)
    assert np.isfinite(found).all() and not found[:2].any()
    for rows in (range(2, 30), range(30, 60)):
        assert np.mean([found[i, j] for i in rows for j in rows if i < j]) == pytest.approx(0, abs=0.02)
    line = x[2:] * [1, 0]  # a coordinate that does not change adds nothing
    among = ~np.eye(58, dtype=bool)
    change = mutual_information(line, seen[2:]) - mutual_information(x[2:, :, :1], seen[2:])
    assert np.ptp(change[:28, :28][among[:28, :28]]) < 1e-6


def test_what_a_regression_explains_is_taken_out() -> None:
    rng = np.random.default_rng(3)
    shared, own = rng.normal(size=(500, 2)), rng.normal(size=(2, 500, 2))
    x = own + shared @ np.array([[1.0, 0.5], [0.0, 2.0]])
    seen = rng.random((2, 500)) < 0.9
    assert mutual_information(x, seen)[0, 1] > 0.3
    left = without(x, seen, shared)
    assert mutual_information(left, seen)[0, 1] == pytest.approx(0, abs=0.03)
    assert not left[~seen].any()
