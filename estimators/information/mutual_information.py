"""Nearest-neighbour mutual information of trajectories: 3KL, KSG 1 and 2, conditional KSG and NPEET.

Each estimator stands beside its equation. It takes the distances |x_t − x_u| (L∞ norm), which are infinite where two
samples must not be compared: a sample with itself, and samples within a Theiler window. n is the number of samples
that a sample is compared with, T − 1 without a Theiler window. `kernels.py` computes the same numbers for all pairs
at once, and `gpu.py` does on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from infoaug.estimators.information import kernels
from infoaug.estimators.information.entropy import as_samples
from infoaug.estimators.information.ties import break_ties, is_constant, tied
from infoaug.estimators.options import BACKENDS, CONDITIONAL, ESTIMATORS, KERNELS, LARGEST_K

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

TIED_FOR_3KL = 0.1  # largest share of ties with which 3KL gives a number
READABLE_UP_TO = 2000  # samples; beyond, T² distances take too much memory


class Margin(NamedTuple):
    """One variable: distances f64[T, T] between its samples, and its number of dimensions."""

    distance: Float
    dimensions: int


def three_kl(x: Margin, y: Margin, k: int) -> float:
    """I = H(X) + H(Y) − H(X, Y), three Kozachenko–Leonenko entropies, each with its own radius (`3kl`).

    H = ⟨ψ(n + 1)⟩ − ψ(k) + d·ln 2 + d·⟨ln ρ⟩, where ρ is the distance to the k-th neighbour. The terms d·ln 2 cancel.
    """
    joint = np.maximum(x.distance, y.distance)
    with np.errstate(divide="ignore"):
        log_x, log_y, log_joint = (np.log(_kth(d, k)).mean() for d in (x.distance, y.distance, joint))
    both = x.dimensions + y.dimensions
    return _mean_psi(joint) - digamma(k) + x.dimensions * log_x + y.dimensions * log_y - both * log_joint


def ksg(x: Margin, y: Margin, k: int) -> float:
    """I = ψ(k) + ⟨ψ(n + 1)⟩ − ⟨ψ(n_x + 1) + ψ(n_y + 1)⟩ (Kraskov, Stögbauer & Grassberger 2004, eq. 8).

    n_x counts the samples *strictly* nearer than the k-th joint neighbour.
    """
    joint = np.maximum(x.distance, y.distance)
    radius = _kth(joint, k)[:, None]
    n_x, n_y = ((d < radius).sum(1) for d in (x.distance, y.distance))
    return digamma(k) + _mean_psi(joint) - np.mean(digamma(n_x + 1) + digamma(n_y + 1))


def ksg2(x: Margin, y: Margin, k: int) -> float:
    """I = ψ(k) − 1/k + ⟨ψ(n + 1)⟩ − ⟨ψ(n_x) + ψ(n_y)⟩ (Kraskov, Stögbauer & Grassberger 2004, eq. 9).

    n_x counts the samples at most as far, in x, as the farthest of the k nearest joint neighbours.
    """
    joint = np.maximum(x.distance, y.distance)
    near = joint <= _kth(joint, k)[:, None]
    n_x, n_y = ((d <= np.where(near, d, 0).max(1)[:, None]).sum(1) for d in (x.distance, y.distance))
    return digamma(k) - 1 / k + _mean_psi(joint) - np.mean(digamma(n_x) + digamma(n_y))


def conditional_ksg(x: Margin, y: Margin, z: Margin, k: int) -> float:
    """I(X; Y | Z) = ψ(k) − ⟨ψ(n_xz + 1) + ψ(n_yz + 1) − ψ(n_z + 1)⟩ (Frenzel & Pompe 2007, eq. 8)."""
    xz, yz = np.maximum(x.distance, z.distance), np.maximum(y.distance, z.distance)
    radius = _kth(np.maximum(xz, yz), k)[:, None]
    n_xz, n_yz, n_z = ((d < radius).sum(1) for d in (xz, yz, z.distance))
    return digamma(k) - np.mean(digamma(n_xz + 1) + digamma(n_yz + 1) - digamma(n_z + 1))


def npeet_mi(x: Float, y: Float, z: Float | None, k: int) -> float:
    """NPEET's `mi` (KSG 1), or its `cmi` given z (Frenzel & Pompe 2007), in nats.

    NPEET breaks ties with noise of 1e-10 from NumPy's *global* generator. The generator is seeded for the call and
    its state restored, so that the same trajectories always give the same number.
    """
    from npeet_plus import estimators as npeet  # imports scikit-learn, which is slow

    state = np.random.get_state()
    np.random.seed(0)
    try:
        return float(npeet.mi(x, y, k=k, base=np.e) if z is None else npeet.cmi(x, y, z, k=k, base=np.e))
    finally:
        np.random.set_state(state)


_READABLE: dict[str, Callable[[Margin, Margin, int], float]] = {"ksg": ksg, "ksg2": ksg2, "3kl": three_kl}


def mutual_information(
    x: ArrayLike,
    y: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 5,
    theiler: int = 0,
    condition_on: ArrayLike | None = None,
) -> float:
    """Mutual information of two variables observed at the same times.

    Up to 2,000 samples the readable form is used, whose memory grows with T²; above, the compiled kernel, whose memory
    grows with T.

    Args:
        x: f64[T, d_x].
        y: f64[T, d_y], observed at the same T times.
        estimator: one of `ESTIMATORS`: `ksg`, `ksg2`, `3kl`, `npeet`.
        k: number of the nearest neighbour that sets the radius, 1 ≤ k ≤ T − 2 − 2·theiler.
        theiler: samples at most this many time steps apart are not compared; not with `npeet`.
        condition_on: f64[T, d_z], the variable Z of I(X; Y | Z); with `ksg` and `npeet` only.

    Returns:
        Nats. Estimates for independent variables scatter around 0 and may be negative. The largest possible value of
        `ksg` and `npeet` is ψ(T) − ψ(k). A constant variable gives 0. Ties are broken by noise (`ties.break_ties`),
        except for `3kl`: it gives NaN if more than a tenth of a variable's values are ties.

    Raises:
        ValueError: an unknown estimator, an option that the estimator does not have, unequal lengths, or samples that
            are NaN, infinite, of a wrong shape or too few.
    """
    _check(estimator, k, theiler, condition_on is not None)
    parts = [as_samples(v, k) for v in (x, y, *(() if condition_on is None else (condition_on,)))]
    length = len(parts[0])
    if any(len(part) != length for part in parts):
        lengths = " and ".join(str(len(part)) for part in parts)
        raise ValueError(f"the variables have {lengths} samples: they need the same number, observed at the same times")
    if length < (needed := k + 2 + 2 * theiler):
        raise ValueError(
            f"{length} samples are too few for k = {k} and a Theiler window of {theiler}: give {needed} or more"
        )
    seen = np.ones((1, length), bool)
    values = [part[None] for part in parts]
    if any(is_constant(v, seen)[0] for v in values[:2]):
        return 0.0
    if estimator == "3kl":
        if max(tied(v, seen)[0] for v in values) > TIED_FOR_3KL:
            return float("nan")
    else:
        values = [break_ties(v, seen, seed) for seed, v in enumerate(values)]
    given = values[2][0] if len(values) > 2 else None
    if length > READABLE_UP_TO and by_kernel(estimator, k, "auto"):
        options: dict[str, Any] = {"estimator": estimator, "k": k, "least": 0, "theiler": theiler, "condition": given}
        return float(kernels.all_pairs(values[0], values[1], seen, seen, **options)[0, 0])
    return _estimate(values[0][0], values[1][0], given, np.arange(length), estimator, k, theiler)


def pairwise_mutual_information(
    samples: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 5,
    theiler: int = 0,
    condition_on: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    min_samples: int = 0,
    backend: str = "auto",
    dtype: str = "float64",
    seed: int = 0,
) -> Float:
    """Mutual information of every pair of trajectories of a window.

    A pair is estimated on the samples in which both trajectories are visible. The values of other samples are ignored
    and may be NaN.

    Args:
        samples: f64[N, T, d], each trajectory of unit variance (`motion.whiten` does this).
        estimator: one of `ESTIMATORS`: `ksg`, `ksg2`, `3kl`, `npeet`.
        k: number of the nearest neighbour that sets the radius.
        theiler: samples at most this many frames apart are not compared; not with `npeet`.
        condition_on: f64[T, c], a variable that all pairs are conditioned on, such as the camera's motion; with `ksg`
            and `npeet` only.
        visible: bool[N, T], which samples count; None: all.
        min_samples: a pair with fewer common samples gets NaN, and so does a pair in which a sample has no more than
            k others to be compared with.
        backend: `"cpu"`, the compiled kernel, for all estimators but `npeet` and k up to 10; `"cuda"`, the same on an
            NVIDIA GPU; `"reference"`, the readable form, one pair after the other; `"auto"`, the CPU's kernel where it
            can, otherwise the readable form. A GPU is never chosen automatically, so that results do not depend on
            the machine.
        dtype: `"float64"`, or `"float32"`, which is faster and may swap neighbours whose distances differ by less than
            its precision.
        seed: of the noise that breaks ties (`ties.break_ties`).

    Returns:
        f64[N, N] nats, symmetric; NaN on the diagonal and for pairs that cannot be estimated, 0 for pairs with a
        constant trajectory. See `mutual_information` for the range.

    Raises:
        ValueError: wrong shapes, an unknown estimator, backend or dtype, an option that they do not have, k < 1, or
            NaN or infinity in a visible sample.
    """
    x, seen = as_trajectories(samples, visible)
    z = as_condition(condition_on, x.shape[1])
    precision = as_dtype(dtype)
    _check(estimator, k, theiler, z is not None)
    still = is_constant(x, seen)
    x[still] = np.arange(x.shape[1])[:, None]  # any values that give a finite estimate, which is set to 0 below
    excluded = tied(x, seen) > TIED_FOR_3KL if estimator == "3kl" else np.zeros(len(x), bool)
    if estimator != "3kl":
        x = break_ties(x, seen, seed)
    if by_kernel(estimator, k, backend):
        cast = x.astype(precision)
        result = compiled(backend)(
            cast, cast, seen, seen, estimator=estimator, k=k, least=min_samples,
            theiler=theiler, condition=None if z is None else z.astype(precision), symmetric=True,
        )  # fmt: skip
    else:
        result = np.full((len(x), len(x)), np.nan)
        for i, j in combinations(range(len(x)), 2):
            times = np.flatnonzero(seen[i] & seen[j])
            if len(times) >= max(min_samples, k + 2):
                given = None if z is None else z[times]
                result[i, j] = _estimate(x[i, times], x[j, times], given, times, estimator, k, theiler)
                result[j, i] = result[i, j]
    result[np.isfinite(result) & (still[:, None] | still[None])] = 0.0
    result[~np.isfinite(result) | excluded[:, None] | excluded[None]] = np.nan
    return result


def as_trajectories(samples: ArrayLike, visible: ArrayLike | None) -> tuple[Float, Mask]:
    """Trajectories f64[N, T, d], 0 where not visible, and bool[N, T], which samples are visible.

    Raises:
        ValueError: wrong shapes, or NaN or infinity in a visible sample.
    """
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] == 0:
        raise ValueError(f"samples must be shaped [N, T, d], d at least 1, got {x.shape}")
    seen = np.ones(x.shape[:2], bool) if visible is None else np.asarray(visible, bool)
    if seen.shape != x.shape[:2]:
        raise ValueError(f"visible must be shaped {x.shape[:2]} like the samples, got {seen.shape}")
    if not np.isfinite(x[seen]).all():
        raise ValueError("samples contain NaN or infinity where they are marked visible: mark those as not visible")
    return np.where(seen[..., None], x, 0.0), seen


def as_condition(condition_on: ArrayLike | None, length: int) -> Float | None:
    """The variable to condition on as f64[T, c], or None.

    Raises:
        ValueError: a wrong shape, or NaN or infinity.
    """
    if condition_on is None:
        return None
    z = np.asarray(condition_on, np.float64)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or len(z) != length:
        raise ValueError(f"condition_on must be shaped [{length}, c], one row per sample, got {z.shape}")
    if not np.isfinite(z).all():
        raise ValueError("condition_on contains NaN or infinity")
    return z


def by_kernel(estimator: str, k: int, backend: str) -> bool:
    """Whether a compiled kernel is used.

    Raises:
        ValueError: unknown backend, or a kernel is asked for that does not have this estimator or k.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    can = estimator in KERNELS and k <= LARGEST_K
    if backend in ("cpu", "cuda") and not can:
        raise ValueError(
            f"the compiled kernels have {', '.join(KERNELS)} with k up to {LARGEST_K}, "
            f"not '{estimator}' with k = {k}: use backend='reference'"
        )
    return can and backend != "reference"


def compiled(backend: str) -> Callable[..., Float]:
    """The kernel of a backend; see `kernels.all_pairs`."""
    if backend == "cuda":
        from infoaug.estimators.information import gpu  # imports PyTorch, which workers on a CPU need not load

        return gpu.all_pairs
    return kernels.all_pairs


def as_dtype(name: str) -> type[np.floating]:
    """The NumPy type of this name.

    Raises:
        ValueError: the name is neither float32 nor float64.
    """
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got '{name}'")
    return np.float32 if name == "float32" else np.float64


def _check(estimator: str, k: int, theiler: int, conditional: bool) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{estimator}': choose one of {', '.join(ESTIMATORS)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if theiler < 0:
        raise ValueError(f"theiler must be at least 0 frames, got {theiler}")
    if theiler and estimator == "npeet":
        raise ValueError("NPEET has no Theiler window: use estimator='ksg', which gives the same numbers")
    if conditional and estimator not in CONDITIONAL:
        raise ValueError(f"'{estimator}' cannot be conditioned: use one of {', '.join(CONDITIONAL)}")


def _estimate(
    x: Float, y: Float, z: Float | None, times: NDArray[np.int64], estimator: str, k: int, theiler: int
) -> float:
    """One pair by the readable form, [T, d] each; NaN if a sample has no more than k others to be compared with."""
    if estimator == "npeet":
        return npeet_mi(x, y, z, k)
    apart = np.abs(times[:, None] - times) > theiler
    if apart.sum(1).min() <= k:
        return float("nan")
    in_x, in_y = _margin(x, apart), _margin(y, apart)
    return float(
        _READABLE[estimator](in_x, in_y, k) if z is None else conditional_ksg(in_x, in_y, _margin(z, apart), k)
    )


def _margin(x: Float, apart: Mask) -> Margin:
    """Distances between the samples f64[T, d] that may be compared."""
    return Margin(np.where(apart, np.abs(x[:, None] - x).max(-1), np.inf), x.shape[1])


def _kth(distance: Float, k: int) -> Float:
    """Distance of every sample to its k-th neighbour, f64[T]."""
    return np.partition(distance, k - 1, axis=1)[:, k - 1]


def _mean_psi(distance: Float) -> float:
    """⟨ψ(n + 1)⟩, where n is the number of samples that each is compared with."""
    return float(np.mean(digamma(np.isfinite(distance).sum(1) + 1)))
