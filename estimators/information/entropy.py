"""Kozachenko–Leonenko entropy: how much a trajectory has to share."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.special import digamma


def as_samples(samples: ArrayLike, k: int) -> NDArray[np.float64]:
    """Check one variable's samples: f64[T, d] (a 1-D array is T samples of one dimension), finite, T > k ≥ 1.

    Raises:
        ValueError: wrong number of dimensions, NaN or infinity, or too few samples for `k`.
    """
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"samples must be shaped [T, d], got {array.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(array) <= k:
        raise ValueError(f"{len(array)} samples are too few for k={k} nearest neighbours: give more than k")
    if not np.isfinite(array).all():
        raise ValueError("samples hold NaN or infinity: drop those frames first")
    return array


def entropy(samples: ArrayLike, *, k: int = 3) -> float:
    """Differential entropy by the k-th nearest neighbour, L∞ norm (Kozachenko & Leonenko 1987).

    H = ψ(T) − ψ(k) + d·ln 2 + (d/T)·Σ ln ρ_k(i), with ρ_k(i) the distance of sample i to its k-th neighbour.

    Args:
        samples: f64[T, d], T samples of a d-dimensional variable.
        k: which neighbour, 1 ≤ k < T.

    Returns:
        Nats; −inf where samples coincide (more than k equal ones), since the density is then unbounded.

    Raises:
        ValueError: see `as_samples`.
    """
    x = as_samples(samples, k)
    count, dimensions = x.shape
    radius = KDTree(x).query(x, k + 1, p=np.inf)[0][:, -1]
    with np.errstate(divide="ignore"):
        mean_log_radius = np.log(radius).mean()
    return float(digamma(count) - digamma(k) + dimensions * (np.log(2) + mean_log_radius))
