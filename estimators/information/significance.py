"""Significance of mutual information: p-values from surrogates that keep each trajectory's autocorrelation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.information import motion
from infoaug.estimators.information.mutual_information import (
    as_condition,
    as_trajectories,
    by_kernel,
    compiled,
    mutual_information,
    pairwise_mutual_information,
)
from infoaug.estimators.information.ties import break_ties

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

_log = logging.getLogger(__name__)

METHODS = ("auto", "circular-shift")
_SHIFTED_AT_ONCE = 2000  # trajectories in one call of the kernel: bounds its memory


def p_values(
    samples: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 5,
    surrogates: int = 100_000,
    method: str = "auto",
    theiler: int = 0,
    condition_on: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    min_samples: int = 0,
    mutual_information_matrix: ArrayLike | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> NDArray[np.float64]:
    """p-value of every pair of a window against a null of circular shifts, pooled over the window's pairs.

    A surrogate of a pair shifts one of its two trajectories circularly in time, by at least a tenth of its length, or
    reverses it in time from a random start. Both trajectories keep their autocorrelation; their coupling is destroyed.
    p = (1 + #{null ≥ I}) / (1 + surrogates drawn). The null may hold the same surrogate twice: a shift of j against i
    is one of i against j. p is valid with such repeats (Phipson & Smyth 2010).

    The test assumes that the null distribution is the same for all pairs (it is pooled), and that trajectories are
    stationary (the shift is circular). Innovations satisfy both. Displacements of smooth motion satisfy them
    approximately. Positions violate them: independent random walks then appear dependent. benchmarks/calibration.py
    measures the false-positive rate of each.

    With a compiled kernel, all trajectories are shifted at once, each by its own amount, and every pair is estimated
    against them until enough surrogates are drawn. Without a kernel, pairs are drawn at random.

    Args:
        samples: f64[N, T, d].
        estimator: see `pairwise_mutual_information`.
        k: number of the nearest neighbour that sets the radius.
        surrogates: largest size of the null, ≥ 1. A window has a finite number of different surrogates, and no more
            draws are made than that. The smallest possible p-value is 1 / (1 + surrogates drawn).
        method: `"auto"` tests the whitened innovations of the samples (`motion.innovations`), so the samples may be
            positions or displacements. The mutual information tested is that of the innovations.
            `"circular-shift"` tests the samples as given, which must be near-stationary and whitened, as
            `motion.samples` returns them.
        theiler: see `pairwise_mutual_information`.
        condition_on: f64[T, c], see `pairwise_mutual_information`. A shifted trajectory is independent of it, while
            that of a tested pair may depend on it, so p-values of conditional mutual information are approximate.
        visible: bool[N, T]; a trajectory is shifted within its own visible samples.
        min_samples: smallest number of common samples of a pair; a pair with fewer gets NaN.
        mutual_information_matrix: f64[N, N] nats of the same samples with the same settings, if already estimated;
            for `"circular-shift"` only.
        backend: see `pairwise_mutual_information`.
        seed: of the surrogates.

    Returns:
        f64[N, N], symmetric, NaN where the mutual information is NaN.

    Raises:
        ValueError: surrogates < 1, an unknown method, a matrix that has the wrong shape, is of other samples or is
            given with the method `"auto"`, or samples that `pairwise_mutual_information` refuses.
    """
    if surrogates < 1:
        raise ValueError(f"surrogates must be at least 1, got {surrogates}")
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
    x, seen = as_trajectories(samples, visible)
    few = seen.astype(int) @ seen.T.astype(int) < min_samples
    if method == "auto":
        if mutual_information_matrix is not None:
            raise ValueError(
                "method 'auto' tests the innovations of the samples, and mutual_information_matrix is not of these: "
                "leave it out, or use method='circular-shift'"
            )
        x, seen = motion.innovations(x, seen)
        # Noise at the scale of rounding errors, so that whitening does not amplify an axis without innovations.
        x, min_samples = motion.whiten(x, seen, noise=1e-9 * float(np.abs(x).max(initial=0)) or 1.0), 0
    x, z = break_ties(x, seen, seed), as_condition(condition_on, x.shape[1])
    options: dict[str, Any] = {"estimator": estimator, "k": k, "theiler": theiler}
    mi = (
        pairwise_mutual_information(
            x, visible=seen, min_samples=min_samples, condition_on=z, backend=backend, **options
        )
        if mutual_information_matrix is None
        else np.asarray(mutual_information_matrix, np.float64)
    )
    if mi.shape != (len(x), len(x)):
        raise ValueError(f"mutual_information_matrix must be shaped {(len(x), len(x))}, got {mi.shape}")
    mi = np.where(few | np.eye(len(x), dtype=bool), np.nan, mi)
    pairs = np.argwhere(np.isfinite(np.triu(mi, 1)) & ~np.tri(len(mi), dtype=bool))
    if len(pairs) == 0:
        return np.full_like(mi, np.nan)
    generator = np.random.default_rng(seed)
    common = (seen[pairs[:, 0]] & seen[pairs[:, 1]]).sum(1)
    nearest, farthest = _shifts(common)
    drawn = int(min(surrogates, (farthest - nearest + common).sum()))
    _log.debug("a null of %d surrogates for %d pairs of %d trajectories", drawn, len(pairs), len(x))
    if by_kernel(estimator, k, backend):
        null = _all_shifted(x, seen, z, np.isfinite(mi), options, drawn, generator, compiled(backend))
    else:
        null = _pairs_shifted(x, seen, z, pairs, options, drawn, generator)
    null.sort()
    at_least = drawn - np.searchsorted(null, mi, side="left")
    return np.where(np.isfinite(mi), (1 + at_least) / (1 + drawn), np.nan)


def _all_shifted(
    x: Float,
    seen: Mask,
    z: Float | None,
    tested: Mask,
    options: dict[str, Any],
    surrogates: int,
    generator: np.random.Generator,
    all_pairs: Callable[..., Float],
) -> Float:
    """Null from whole matrices, f64[surrogates]: every trajectory against all others, shifted; tested pairs only."""
    null: list[Float] = []
    count, drawn = len(x), 0
    # Several shifted copies of the window in one call, as a call of the kernel has a fixed cost.
    copies = int(np.clip(-(-surrogates // int(tested.sum())), 1, max(1, _SHIFTED_AT_ONCE // count)))
    while drawn < surrogates:
        moved = np.stack([_shifted(x[j], seen[j], copies, generator) for j in range(count)], axis=1)
        moved = moved.reshape(copies * count, *x.shape[1:])
        values = all_pairs(x, moved, seen, np.tile(seen, (copies, 1)), least=0, condition=z, **options)
        values = values[np.tile(tested, (1, copies))]
        null.append(values[np.isfinite(values)])
        drawn += len(null[-1])
        if not len(null[-1]):
            raise ValueError(
                "mutual_information_matrix has finite values for pairs without enough samples: "
                "pass the matrix of these samples"
            )
    return generator.choice(np.concatenate(null), surrogates, replace=False)


def _pairs_shifted(
    x: Float,
    seen: Mask,
    z: Float | None,
    pairs: Any,
    options: dict[str, Any],
    surrogates: int,
    generator: np.random.Generator,
) -> Float:
    """Null from pairs drawn at random, one after the other, f64[surrogates]."""
    null = np.empty(surrogates)
    for s, (i, j) in enumerate(pairs[generator.integers(len(pairs), size=surrogates)]):
        both = seen[i] & seen[j]
        moved = _shifted(x[j], seen[j], 1, generator)[0]
        null[s] = mutual_information(x[i, both], moved[both], condition_on=None if z is None else z[both], **options)
    return null


def _shifted(path: Float, seen: Mask, copies: int, generator: np.random.Generator) -> Float:
    """Copies f64[copies, T, d] of a trajectory, visible samples shifted or reversed; all different if possible.

    Only copies of one trajectory are kept apart, see `p_values` on repeats.
    """
    times = np.flatnonzero(seen)
    moved = np.zeros((copies, *path.shape))
    if length := len(times):
        nearest, farthest = _shifts(length)
        shifts = int(farthest - nearest)
        # Numbers below `shifts` are shifts; the `length` numbers from there on are reversals, one from each start.
        number = np.resize(generator.permutation(shifts + length), copies)[:, None]
        steps = np.arange(length)
        order = np.where(number < shifts, steps - nearest - number, number - steps) % length
        moved[:, times] = path[times[order]]
    return moved


def _shifts(length: Any) -> tuple[Any, Any]:
    """Range of shifts of `length` samples: the smallest, and the first that is too large (a tenth, either way)."""
    return np.maximum(1, length // 10), np.maximum(2, length - length // 10)
