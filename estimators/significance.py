"""Is the dependence real? Surrogates that keep each trajectory's own autocorrelation, and p-values from them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators import kernels
from estimators.mutual_information import as_trajectories, by_kernel, mutual_information, pairwise_mutual_information

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

_AT_ONCE = 2000  # shifted trajectories


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

    A surrogate of a pair shifts one of its two trajectories circularly in time, by at least a tenth of its length: both
    keep their own autocorrelation, and what they shared in time is gone. All trajectories are shifted at once, each by
    an amount of its own, and every pair is estimated against them, as often as it takes to draw as many surrogates as
    asked for; without the kernel random pairs are. p = (1 + #{null ≥ I}) / (1 + surrogates). Pooling asks that the null
    be alike for all pairs, which whitened displacements nearly are. Positions are not: independent random walks then
    come out dependent (see docs/method.md).

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
    x, seen = as_trajectories(samples, visible)
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
    if by_kernel(estimator, k, "auto"):
        null = _all_shifted(x, seen, estimator, k, min_samples, surrogates, generator)
    else:
        null = _pairs_shifted(x, seen, pairs, estimator, k, surrogates, generator)
    null.sort()
    at_least = surrogates - np.searchsorted(null, mi, side="left")
    return np.where(np.isfinite(mi), (1 + at_least) / (1 + surrogates), np.nan)


def _all_shifted(
    x: Float, seen: Mask, estimator: str, k: int, min_samples: int, surrogates: int, generator: np.random.Generator
) -> Float:
    """Null of whole matrices: every trajectory against all others, shifted."""
    null: list[Float] = []
    count, drawn = len(x), 0
    # So many shifted copies of the window at once that a call of the kernel is worth it.
    copies = int(np.clip(surrogates // (count * (count - 1)), 1, max(1, _AT_ONCE // count)))
    others = np.tile(~np.eye(count, dtype=bool), (1, copies))
    while drawn < surrogates:
        moved = np.stack([_shifted(x[j], seen[j], copies, generator) for j in range(count)], axis=1)
        moved = moved.reshape(copies * count, *x.shape[1:])
        values = kernels.all_pairs(
            x, moved, seen, np.tile(seen, (copies, 1)), estimator=estimator, k=k, least=min_samples
        )[others]
        null.append(values[np.isfinite(values)])
        drawn += len(null[-1])
    return generator.choice(np.concatenate(null), surrogates, replace=False)


def _pairs_shifted(
    x: Float, seen: Mask, pairs: Any, estimator: str, k: int, surrogates: int, generator: np.random.Generator
) -> Float:
    """Null of random pairs, one after the other."""
    null = np.empty(surrogates)
    for s, (i, j) in enumerate(pairs[generator.integers(len(pairs), size=surrogates)]):
        both = seen[i] & seen[j]
        moved = _shifted(x[j], seen[j], 1, generator)[0]
        null[s] = mutual_information(x[i, both], moved[both], estimator=estimator, k=k)
    return null


def _shifted(path: Float, seen: Mask, copies: int, generator: np.random.Generator) -> Float:
    """Copies [copies, T, d] of a trajectory, each shifted circularly within its visible samples by a tenth or more."""
    shown = np.flatnonzero(seen)
    length = len(shown)
    shift = generator.integers(max(1, length // 10), max(2, length - length // 10), size=copies)
    moved = np.zeros((copies, *path.shape))
    if length:
        moved[:, shown] = path[shown[(np.arange(length) - shift[:, None]) % length]]
    return moved
