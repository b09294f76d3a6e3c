"""Differential entropy of a trajectory by nearest neighbours (Kozachenko & Leonenko 1987)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.special import digamma


def as_samples(samples: ArrayLike, k: int) -> NDArray[np.float64]:
    """Samples of one variable as f64[T, d], checked; a 1-D array is T samples of one dimension.

    Raises:
        ValueError: wrong number of dimensions, NaN or infinity, k < 1, or T ≤ k.
    """
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"samples must be shaped [T, d], got {array.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(array) <= k:
        raise ValueError(f"{len(array)} samples are too few for k={k}: give at least {k + 1}")
    if not np.isfinite(array).all():
        raise ValueError("samples contain NaN or infinity: drop those frames first")
    return array


def entropy(samples: ArrayLike, *, k: int = 5) -> float:
    """Differential entropy by the k-th nearest neighbour in the L∞ norm (Kozachenko & Leonenko 1987).

    H = ψ(T) − ψ(k) + d·ln 2 + (d/T)·Σ ln ρ_k(i), where ρ_k(i) is the distance of sample i to its k-th neighbour.

    Args:
        samples: f64[T, d], T samples of a d-dimensional variable.
        k: number of the nearest neighbour that sets the radius, 1 ≤ k < T.

    Returns:
        Nats; −inf if more than k samples are equal, as the estimated density is then infinite.

    Raises:
        ValueError: see `as_samples`.
    """
    x = as_samples(samples, k)
    count, dimensions = x.shape
    radius = KDTree(x).query(x, k + 1, p=np.inf)[0][:, -1]
    with np.errstate(divide="ignore"):
        mean_log_radius = np.log(radius).mean()
    return float(digamma(count) - digamma(k) + dimensions * (np.log(2) + mean_log_radius))
