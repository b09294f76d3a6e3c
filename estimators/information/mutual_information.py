"""Mutual information of trajectories by nearest neighbours: 3KL, KSG, conditional KSG and NPEET, a pair or all pairs.

The estimators stand here beside their equations, on distances |x_t − x_u| (L∞ norm) that are infinite where samples
must not be compared: a sample with itself, and within a Theiler window. n is how many samples each is compared with,
T − 1 without such a window. `kernels.py` gives the same numbers for all pairs at once, `gpu.py` on an accelerator.
"""

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

TIED_FOR_3KL = 0.1
READABLE_UP_TO = 2000  # samples


class Margin(NamedTuple):
    """One variable: distances f64[T, T] between its samples, and how many dimensions it has."""

    distance: Float
    dimensions: int


def three_kl(x: Margin, y: Margin, k: int) -> float:
    """I = H(X) + H(Y) − H(X, Y), three Kozachenko–Leonenko entropies, each with its own radius (`3kl`).

    H = ⟨ψ(n + 1)⟩ − ψ(k) + d·ln 2 + d·⟨ln ρ⟩, ρ the distance to the k-th neighbour; of the constants, one set remains.
    """
    joint = np.maximum(x.distance, y.distance)
    with np.errstate(divide="ignore"):
        log_x, log_y, log_joint = (np.log(_kth(d, k)).mean() for d in (x.distance, y.distance, joint))
    both = x.dimensions + y.dimensions
    return _candidates(joint) - digamma(k) + x.dimensions * log_x + y.dimensions * log_y - both * log_joint


def ksg(x: Margin, y: Margin, k: int) -> float:
    """I = ψ(k) + ⟨ψ(n + 1)⟩ − ⟨ψ(n_x + 1) + ψ(n_y + 1)⟩ (Kraskov, Stögbauer & Grassberger 2004, eq. 8).

    n_x counts the samples *strictly* nearer than the k-th joint neighbour, whatever the scale of the data.
    """
    joint = np.maximum(x.distance, y.distance)
    radius = _kth(joint, k)[:, None]
    n_x, n_y = ((d < radius).sum(1) for d in (x.distance, y.distance))
    return digamma(k) + _candidates(joint) - np.mean(digamma(n_x + 1) + digamma(n_y + 1))


def ksg2(x: Margin, y: Margin, k: int) -> float:
    """I = ψ(k) − 1/k + ⟨ψ(n + 1)⟩ − ⟨ψ(n_x) + ψ(n_y)⟩ (Kraskov, Stögbauer & Grassberger 2004, eq. 9).

    n_x counts the samples that are no farther than the farthest, in x, of the k nearest joint neighbours.
    """
    joint = np.maximum(x.distance, y.distance)
    near = joint <= _kth(joint, k)[:, None]
    n_x, n_y = ((d <= np.where(near, d, 0).max(1)[:, None]).sum(1) for d in (x.distance, y.distance))
    return digamma(k) - 1 / k + _candidates(joint) - np.mean(digamma(n_x) + digamma(n_y))


def conditional_ksg(x: Margin, y: Margin, z: Margin, k: int) -> float:
    """I(X; Y | Z) = ψ(k) − ⟨ψ(n_xz + 1) + ψ(n_yz + 1) − ψ(n_z + 1)⟩ (Frenzel & Pompe 2007, eq. 8)."""
    xz, yz = np.maximum(x.distance, z.distance), np.maximum(y.distance, z.distance)
    radius = _kth(np.maximum(xz, yz), k)[:, None]
    n_xz, n_yz, n_z = ((d < radius).sum(1) for d in (xz, yz, z.distance))
    return digamma(k) - np.mean(digamma(n_xz + 1) + digamma(n_yz + 1) - digamma(n_z + 1))


def npeet_mi(x: Float, y: Float, z: Float | None, k: int) -> float:
    """NPEET's own `mi` (KSG 1), or its `cmi` given z (Frenzel & Pompe), in nats.

    NPEET breaks ties with noise of 1e-10 from NumPy's *global* generator; it is seeded here and the generator's state
    put back, so that the same trajectories always give the same number.
    """
    from npeet_plus import estimators as npeet  # brings scikit-learn, which every process would wait for

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
    k: int = 3,
    theiler: int = 0,
    condition_on: ArrayLike | None = None,
) -> float:
    """Mutual information of two variables observed together.

    By the readable form, whose memory grows with T²; above 2,000 samples by the compiled kernel, whose does with T.

    Args:
        x: f64[T, d_x].
        y: f64[T, d_y], observed at the same T times.
        estimator: one of `ESTIMATORS`: `ksg`, `ksg2`, `3kl`, `npeet`.
        k: which neighbour, 1 ≤ k ≤ T − 2 − 2·theiler.
        theiler: samples at most so many time steps apart are not compared; not with `npeet`.
        condition_on: f64[T, d_z], a variable whose share is taken out: I(X; Y | Z); with `ksg` and `npeet`.

    Returns:
        Nats. Estimates of independent variables scatter around 0 and may be negative; the largest value that `ksg`
        and `npeet` can give is ψ(T) − ψ(k). What never changes shares nothing: 0. `3kl` of a
        variable more than a tenth of whose values are ties is NaN, its entropy has no bound; for the others ties are
        broken by `break_ties`.

    Raises:
        ValueError: unknown estimator, one that cannot do what is asked for, unequal lengths, or samples refused by
            `as_samples`.
    """
    _check(estimator, k, theiler, condition_on is not None)
    parts = [as_samples(v, k) for v in (x, y, *(() if condition_on is None else (condition_on,)))]
    length = len(parts[0])
    if any(len(part) != length for part in parts):
        lengths = " and ".join(str(len(part)) for part in parts)
        raise ValueError(f"the variables have {lengths} samples: they must be observed at the same times")
    if length < (least := k + 2 + 2 * theiler):
        raise ValueError(
            f"{length} samples are too few for k = {k} and a Theiler window of {theiler}: give {least} or more"
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
    k: int = 3,
    theiler: int = 0,
    condition_on: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    min_samples: int = 0,
    backend: str = "auto",
    dtype: str = "float64",
    seed: int = 0,
) -> Float:
    """Mutual information of every pair of trajectories of a window.

    A pair is estimated on the samples in which both trajectories are visible; samples in which either is not may hold
    anything, NaN included.

    Args:
        samples: f64[N, T, d]. Bring each trajectory to unit variance before (`motion.whiten`).
        estimator: one of `ESTIMATORS`.
        k: which neighbour.
        theiler: samples at most so many frames apart are not compared; not with `npeet`.
        condition_on: f64[T, c], what all trajectories are conditioned on, such as the camera's motion; with `ksg` and
            `npeet`.
        visible: bool[N, T], True where a sample counts; all of them if not given.
        min_samples: a pair with fewer common samples than this gets NaN; one in which a sample has no more than k
            others to be compared with always does.
        backend: `"cpu"`, the compiled kernel, which knows all estimators but `npeet` and k up to 10; `"cuda"`, the same
            on an NVIDIA GPU; `"reference"`, pair after pair; or `"auto"`: the kernel on the CPU where it can, so that
            numbers do not depend on the machine.
        dtype: `"float64"`, or `"float32"`, in which the kernels are faster, and two distances that are closer than its
            precision may change places.
        seed: of the noise that breaks ties (`break_ties`).

    Returns:
        f64[N, N] nats, symmetric; NaN on the diagonal and where a pair cannot be estimated. A trajectory that stands
        still shares 0 with all others. See `mutual_information` for the range.

    Raises:
        ValueError: wrong shapes, unknown estimator, backend or dtype, something asked for that they do not know, k < 1,
            or NaN or infinity in a visible sample.
    """
    x, seen = as_trajectories(samples, visible)
    z = as_condition(condition_on, x.shape[1])
    precision = as_dtype(dtype)
    _check(estimator, k, theiler, z is not None)
    still = is_constant(x, seen)
    x[still] = np.arange(x.shape[1])[:, None]  # Anything that gives a number: it becomes 0.
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
    """Trajectories f64[N, T, d], 0 where not visible, and bool[N, T], which samples are.

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
        raise ValueError("samples hold NaN or infinity where they are marked visible: hide those samples")
    return np.where(seen[..., None], x, 0.0), seen


def as_condition(condition_on: ArrayLike | None, length: int) -> Float | None:
    """What to condition on as f64[T, c], or None.

    Raises:
        ValueError: a wrong shape, or NaN or infinity.
    """
    if condition_on is None:
        return None
    z = np.asarray(condition_on, np.float64)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or len(z) != length:
        raise ValueError(f"condition_on must be shaped [{length}, c], one row a time, got {z.shape}")
    if not np.isfinite(z).all():
        raise ValueError("condition_on holds NaN or infinity")
    return z


def by_kernel(estimator: str, k: int, backend: str) -> bool:
    """Whether a compiled kernel does it.

    Raises:
        ValueError: unknown backend, or a kernel is asked for and cannot.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    can = estimator in KERNELS and k <= LARGEST_K
    if backend in ("cpu", "cuda") and not can:
        raise ValueError(
            f"the compiled kernels know {', '.join(KERNELS)} with k up to {LARGEST_K}, "
            f"not '{estimator}' with k = {k}: take backend='reference'"
        )
    return can and backend != "reference"


def compiled(backend: str) -> Callable[..., Float]:
    """The kernel of a backend; see `kernels.all_pairs`."""
    if backend == "cuda":
        from infoaug.estimators.information import gpu  # imports PyTorch, which workers on a CPU need not load

        return gpu.all_pairs
    return kernels.all_pairs


def as_dtype(name: str) -> type[np.floating]:
    """The type of that name.

    Raises:
        ValueError: it is neither float32 nor float64.
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
        raise ValueError("NPEET knows no Theiler window: take estimator='ksg', whose numbers are the same")
    if conditional and estimator not in CONDITIONAL:
        raise ValueError(f"'{estimator}' cannot be conditioned: take one of {', '.join(CONDITIONAL)}")


def _estimate(
    x: Float, y: Float, z: Float | None, times: NDArray[np.int64], estimator: str, k: int, theiler: int
) -> float:
    """One pair, [T, d] each, seen at these times; NaN if a sample has no more than k others to be compared with."""
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


def _candidates(distance: Float) -> float:
    """⟨ψ(n + 1)⟩, n the samples that each is compared with."""
    return float(np.mean(digamma(np.isfinite(distance).sum(1) + 1)))
