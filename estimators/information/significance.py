"""Is the dependence real? Surrogates that keep each trajectory's own autocorrelation, and p-values from them."""

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

METHODS = ("auto", "circular-shift")
_AT_ONCE = 2000  # shifted trajectories

_AT_ONCE = 2000  # shifted trajectories


def p_values(
    samples: ArrayLike,
    *,
    estimator: str = "ksg",
    k: int = 3,
    surrogates: int = 2000,
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
    runs it backwards from anywhere: both keep their own autocorrelation, and what they shared in time is gone. All
    trajectories are shifted at once, each by an amount of its own, and every pair is estimated against them, as often
    as it takes to draw as many surrogates as asked for; without the kernel random pairs are. A window has only so many
    different surrogates, and no more than that are drawn. p = (1 + #{null ≥ I}) / (1 + surrogates drawn). Pooling asks
    that the null be alike for all pairs, and a circular shift that a trajectory's end be no nearer to its middle than
    to its beginning. Innovations meet both, displacements of smooth motion nearly, and positions do not: independent
    random walks then come out dependent (benchmarks/calibration.py measures all of them).

    Args:
        samples: f64[N, T, d].
        estimator: see `pairwise_mutual_information`.
        k: which neighbour.
        surrogates: size of the null, ≥ 1; the smallest p-value possible is 1 / (1 + surrogates drawn).
        method: `"auto"` tests the whitened innovations of the samples (`motion.innovations`), whatever these are:
            positions, displacements, smooth or not. The mutual information tested is then that of the innovations.
            `"circular-shift"` tests the samples as they are: near-stationary and whitened, as `motion.samples` gives.
        theiler: see `pairwise_mutual_information`.
        condition_on: f64[T, c], see there. A surrogate shares nothing with it, which a tested pair may: p-values of
            conditional mutual information are approximate.
        visible: bool[N, T]; a trajectory is shifted within its own visible samples.
        min_samples: least number of common samples of a pair.
        mutual_information_matrix: f64[N, N], if it was estimated already, of the same samples with the same settings;
            for `"circular-shift"` only.
        backend: see `pairwise_mutual_information`.
        seed: of the surrogates drawn.

    Returns:
        f64[N, N], symmetric, NaN where the mutual information is NaN.

    Raises:
        ValueError: surrogates < 1, an unknown method, a matrix of the wrong shape, of other samples or for the method
            `"auto"`, or samples refused by `pairwise_mutual_information`.
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
                "method 'auto' tests the innovations of the samples, of which mutual_information_matrix knows nothing: "
                "leave it out, or take method='circular-shift'"
            )
        x, seen = motion.innovations(x, seen)
        # An axis without innovations of its own is nothing but rounding.
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
    """Null of whole matrices: every trajectory against all others, shifted, of the pairs that are tested."""
    null: list[Float] = []
    count, drawn = len(x), 0
    # So many shifted copies of the window at once that a call of the kernel is worth it.
    copies = int(np.clip(-(-surrogates // int(tested.sum())), 1, max(1, _AT_ONCE // count)))
    while drawn < surrogates:
        moved = np.stack([_shifted(x[j], seen[j], copies, generator) for j in range(count)], axis=1)
        moved = moved.reshape(copies * count, *x.shape[1:])
        values = all_pairs(x, moved, seen, np.tile(seen, (copies, 1)), least=0, condition=z, **options)
        values = values[np.tile(tested, (1, copies))]
        null.append(values[np.isfinite(values)])
        drawn += len(null[-1])
        if not len(null[-1]):
            raise ValueError(
                "mutual_information_matrix has pairs that the samples have not: give that of these samples"
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
    """Null of random pairs, one after the other."""
    null = np.empty(surrogates)
    for s, (i, j) in enumerate(pairs[generator.integers(len(pairs), size=surrogates)]):
        both = seen[i] & seen[j]
        moved = _shifted(x[j], seen[j], 1, generator)[0]
        null[s] = mutual_information(x[i, both], moved[both], condition_on=None if z is None else z[both], **options)
    return null


def _shifted(path: Float, seen: Mask, copies: int, generator: np.random.Generator) -> Float:
    """Copies [copies, T, d] of a trajectory, its visible samples shifted or reversed, no two alike if possible."""
    shown = np.flatnonzero(seen)
    moved = np.zeros((copies, *path.shape))
    if length := len(shown):
        nearest, farthest = _shifts(length)
        ways = int(farthest - nearest)
        way = np.resize(generator.permutation(ways + length), copies)[:, None]
        steps = np.arange(length)
        order = np.where(way < ways, steps - nearest - way, way - steps) % length
        moved[:, shown] = path[shown[order]]
    return moved


def _shifts(length: Any) -> tuple[Any, Any]:
    """Least shift of so many samples, and the first that is too large: a tenth or more, either way."""
    return np.maximum(1, length // 10), np.maximum(2, length - length // 10)
