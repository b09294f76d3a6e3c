"""Mutual information of trajectories by nearest neighbours: 3KL, KSG and NPEET, one pair or all pairs of a window."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from npeet_plus import estimators as npeet
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.special import digamma

from estimators.entropy import as_samples, entropy

Estimator = Callable[[NDArray[np.float64], NDArray[np.float64], int], float]


def three_kl(x: NDArray[np.float64], y: NDArray[np.float64], k: int) -> float:
    """I = H(X) + H(Y) − H(X, Y), three Kozachenko–Leonenko entropies, each with its own radius (`3kl`)."""
    return entropy(x, k=k) + entropy(y, k=k) - entropy(np.hstack([x, y]), k=k)


def ksg(x: NDArray[np.float64], y: NDArray[np.float64], k: int) -> float:
    """I = ψ(k) + ψ(T) − ⟨ψ(n_x + 1) + ψ(n_y + 1)⟩ (Kraskov, Stögbauer & Grassberger 2004, eq. 8).

    n_x counts the samples *strictly* nearer than the k-th joint neighbour, whatever the scale of the data.
    """
    joint = np.hstack([x, y])
    radius = KDTree(joint).query(joint, k + 1, p=np.inf)[0][:, -1]
    inside = np.nextafter(radius, 0)
    n_x, n_y = (KDTree(v).query_ball_point(v, inside, p=np.inf, return_length=True) for v in (x, y))  # self included
    return float(digamma(k) + digamma(len(x)) - np.mean(digamma(n_x) + digamma(n_y)))


def npeet_mi(x: NDArray[np.float64], y: NDArray[np.float64], k: int) -> float:
    """NPEET's own `mi` (KSG 1) in nats.

    NPEET breaks ties with noise of 1e-10 from NumPy's *global* generator; it is seeded here and the generator's state
    put back, so that the same trajectories always give the same number.
    """
    state = np.random.get_state()
    np.random.seed(0)
    try:
        return float(npeet.mi(x, y, k=k, base=np.e))
    finally:
        np.random.set_state(state)


ESTIMATORS: dict[str, Estimator] = {"3kl": three_kl, "ksg": ksg, "npeet": npeet_mi}


def mutual_information(x: ArrayLike, y: ArrayLike, *, estimator: str = "ksg", k: int = 3) -> float:
    """Mutual information of two variables observed together.

    Args:
        x: f64[T, d_x].
        y: f64[T, d_y], observed at the same T times.
        estimator: one of `ESTIMATORS`: `3kl`, `ksg`, `npeet`.
        k: which neighbour, 1 ≤ k < T.

    Returns:
        Nats. Estimates of independent variables scatter around 0 and may be negative; the largest value that `ksg`
        and `npeet` can give is ψ(T) − ψ(k).

    Raises:
        ValueError: unknown estimator, unequal lengths, or samples refused by `as_samples`.
    """
    a, b = as_samples(x, k), as_samples(y, k)
    if len(a) != len(b):
        raise ValueError(f"x has {len(a)} samples and y has {len(b)}: they must be observed at the same times")
    return _estimator(estimator)(a, b, k)


def pairwise_mutual_information(
    samples: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 3,
    visible: ArrayLike | None = None,
    min_samples: int = 0,
) -> NDArray[np.float64]:
    """Mutual information of every pair of trajectories of a window.

    A pair is estimated on the samples in which both trajectories are visible; samples in which either is not may hold
    anything, NaN included.

    Args:
        samples: f64[N, T, d].
        estimator: one of `ESTIMATORS`.
        k: which neighbour.
        visible: bool[N, T], True where a sample counts; all of them if not given.
        min_samples: a pair with fewer common samples than this (or than k + 1) gets NaN.

    Returns:
        f64[N, N] nats, symmetric, NaN on the diagonal and for pairs with too few common samples.

    Raises:
        ValueError: wrong shapes, unknown estimator, k < 1, or NaN in a visible sample.
    """
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"samples must be shaped [N, T, d], got {x.shape}")
    seen = np.ones(x.shape[:2], bool) if visible is None else np.asarray(visible, bool)
    if seen.shape != x.shape[:2]:
        raise ValueError(f"visible must be shaped {x.shape[:2]} like the samples, got {seen.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not np.isfinite(x[seen]).all():
        raise ValueError("samples hold NaN or infinity where they are marked visible")
    estimate = _estimator(estimator)
    result = np.full((len(x), len(x)), np.nan)
    needed = max(min_samples, k + 1)
    for i, j in combinations(range(len(x)), 2):
        both = seen[i] & seen[j]
        if both.sum() >= needed:
            result[i, j] = result[j, i] = estimate(x[i, both], x[j, both], k)
    return result


def _estimator(name: str) -> Estimator:
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{name}': choose one of {', '.join(sorted(ESTIMATORS))}")
    return ESTIMATORS[name]
