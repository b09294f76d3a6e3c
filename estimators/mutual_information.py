"""Mutual information of trajectories by nearest neighbours: 3KL, KSG and NPEET, one pair or all pairs of a window.

The readable forms are here; `kernels.py` has `ksg` for all pairs at once, with the same numbers.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
from npeet_plus import estimators as npeet
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.special import digamma

from estimators import kernels
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
BACKENDS = ("auto", "cpu", "reference")


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
    backend: str = "auto",
    dtype: str = "float64",
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
        backend: `"cpu"`, the compiled kernel, which knows `ksg` with k up to 10; `"reference"`, pair after pair; or
            `"auto"`, the kernel where it can.
        dtype: `"float64"`, or `"float32"`, in which the kernel is faster, and two distances that are closer than its
            precision may change places.

    Returns:
        f64[N, N] nats, symmetric, NaN on the diagonal and for pairs with too few common samples.

    Raises:
        ValueError: wrong shapes, unknown estimator, backend or dtype, a kernel asked for what it does not know, k < 1,
            or NaN in a visible sample.
    """
    x, seen = as_trajectories(samples, visible)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    estimate = _estimator(estimator)
    if by_kernel(estimator, k, backend):
        x = x.astype(as_dtype(dtype))
        return kernels.ksg_pairs(x, x, seen, seen, k, min_samples, symmetric=True)
    result = np.full((len(x), len(x)), np.nan)
    needed = max(min_samples, k + 1)
    for i, j in combinations(range(len(x)), 2):
        both = seen[i] & seen[j]
        if both.sum() >= needed:
            result[i, j] = result[j, i] = estimate(x[i, both], x[j, both], k)
    return result


def as_trajectories(samples: ArrayLike, visible: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Trajectories f64[N, T, d], 0 where not visible, and bool[N, T], which samples are.

    Raises:
        ValueError: wrong shapes, or NaN or infinity in a visible sample.
    """
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"samples must be shaped [N, T, d], got {x.shape}")
    seen = np.ones(x.shape[:2], bool) if visible is None else np.asarray(visible, bool)
    if seen.shape != x.shape[:2]:
        raise ValueError(f"visible must be shaped {x.shape[:2]} like the samples, got {seen.shape}")
    if not np.isfinite(x[seen]).all():
        raise ValueError("samples hold NaN or infinity where they are marked visible")
    return np.where(seen[..., None], x, 0.0), seen


def by_kernel(estimator: str, k: int, backend: str) -> bool:
    """Whether the compiled kernel does it.

    Raises:
        ValueError: unknown backend, or the kernel is asked for and cannot.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    can = estimator == "ksg" and k <= kernels.LARGEST_K
    if backend == "cpu" and not can:
        raise ValueError(
            f"the compiled kernel knows 'ksg' with k up to {kernels.LARGEST_K}, not '{estimator}' with k = {k}: "
            "take backend='reference'"
        )
    return can and backend != "reference"


def as_dtype(name: str) -> type[np.floating]:
    """The type of that name.

    Raises:
        ValueError: it is neither float32 nor float64.
    """
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got '{name}'")
    return np.float32 if name == "float32" else np.float64


def _estimator(name: str) -> Estimator:
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{name}': choose one of {', '.join(sorted(ESTIMATORS))}")
    return ESTIMATORS[name]
