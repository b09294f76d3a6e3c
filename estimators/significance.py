"""Is the dependence real? Surrogates that keep each trajectory's own autocorrelation, and p-values from them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.mutual_information import mutual_information, pairwise_mutual_information


def p_values(
    samples: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 3,
    surrogates: int = 2000,
    visible: ArrayLike | None = None,
    min_samples: int = 0,
    mutual_information_matrix: ArrayLike | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """p-value of every pair of a window against a null of circular shifts, pooled over the window's pairs.

    A surrogate takes a random pair and shifts one of the two trajectories circularly in time, by at least a tenth of
    its length: both keep their own autocorrelation, and what they shared in time is gone. p = (1 + #{null ≥ I}) /
    (1 + surrogates). Pooling asks that the null be alike for all pairs, which whitened displacements nearly are.
    Positions are not: independent random walks then come out dependent (see docs/method.md).

    Args:
        samples: f64[N, T, d], near-stationary and whitened.
        estimator: see `pairwise_mutual_information`.
        k: which neighbour.
        surrogates: size of the null, ≥ 1; the smallest p-value possible is 1 / (1 + surrogates).
        visible: bool[N, T]; a trajectory is shifted within its own visible samples.
        min_samples: least number of common samples of a pair.
        mutual_information_matrix: f64[N, N], if it was estimated already, with the same settings.
        seed: of the surrogates drawn.

    Returns:
        f64[N, N], symmetric, NaN where the mutual information is NaN.

    Raises:
        ValueError: surrogates < 1, a matrix of the wrong shape, or samples refused by `pairwise_mutual_information`.
    """
    if surrogates < 1:
        raise ValueError(f"surrogates must be at least 1, got {surrogates}")
    x = np.asarray(samples, np.float64)
    seen = np.ones(x.shape[:2], bool) if visible is None else np.asarray(visible, bool)
    mi = (
        pairwise_mutual_information(x, estimator=estimator, k=k, visible=seen, min_samples=min_samples)
        if mutual_information_matrix is None
        else np.asarray(mutual_information_matrix, np.float64)
    )
    if mi.shape != (len(x), len(x)):
        raise ValueError(f"mutual_information_matrix must be shaped {(len(x), len(x))}, got {mi.shape}")
    pairs = np.argwhere(np.isfinite(np.triu(mi, 1)) & ~np.tri(len(mi), dtype=bool))
    if len(pairs) == 0:
        return np.full_like(mi, np.nan)
    generator = np.random.default_rng(seed)
    null = np.empty(surrogates)
    for s, (i, j) in enumerate(pairs[generator.integers(len(pairs), size=surrogates)]):
        length = int(seen[j].sum())
        shift = int(generator.integers(max(1, length // 10), max(2, length - length // 10)))
        shifted = np.zeros_like(x[j])
        shifted[seen[j]] = np.roll(x[j, seen[j]], shift, axis=0)
        both = seen[i] & seen[j]
        null[s] = mutual_information(x[i, both], shifted[both], estimator=estimator, k=k)
    null.sort()
    at_least = surrogates - np.searchsorted(null, mi, side="left")
    return np.where(np.isfinite(mi), (1 + at_least) / (1 + surrogates), np.nan)
