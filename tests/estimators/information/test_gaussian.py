"""Second moments of pairs over their common samples, against NumPy's own."""

import numpy as np
import pytest

from infoaug.estimators.information.gaussian import correlation


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
