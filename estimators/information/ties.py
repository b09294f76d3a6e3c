"""Ties, values that a trajectory takes more than once, and the noise that breaks them.

Nearest-neighbour estimators assume continuous variables. Ties give equal distances and bias them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

# Share of a trajectory's standard deviation: far below the error of any tracker, far above float32's rounding.
NOISE = 1e-5


def tied(samples: ArrayLike, visible: ArrayLike) -> Float:
    """Share of a trajectory's values, coordinate by coordinate, that occur more than once; 1 if it is constant.

    Args:
        samples: [N, T, d].
        visible: bool[N, T], which samples count.

    Returns:
        f64[N], from 0 to 1.
    """
    seen = np.asarray(visible, bool)
    ordered = np.sort(np.where(seen[..., None], np.asarray(samples, np.float64), np.nan), axis=1)  # NaN last
    again = np.zeros(ordered.shape, bool)
    equal = ordered[:, 1:] == ordered[:, :-1]
    again[:, 1:] |= equal
    again[:, :-1] |= equal
    return again.sum((1, 2)) / np.maximum(seen.sum(1) * ordered.shape[2], 1)


def is_constant(samples: ArrayLike, visible: ArrayLike) -> NDArray[np.bool_]:
    """Whether each trajectory never changes while it is visible.

    Args:
        samples: [N, T, d].
        visible: bool[N, T], which samples count.

    Returns:
        bool[N].
    """
    x, seen = np.asarray(samples, np.float64), np.asarray(visible, bool)[..., None]
    low, high = np.where(seen, x, np.inf).min(1), np.where(seen, x, -np.inf).max(1)
    return np.asarray((high <= low).all(-1))


def break_ties(samples: ArrayLike, visible: ArrayLike, seed: int = 0) -> Float:
    """Add uniform noise of ±`NOISE`/2 standard deviations to the trajectories that have ties.

    Without noise, ties inflate the estimates: independent paths in whole pixels gave 3 nats. NPEET adds noise too,
    but of a fixed size and from NumPy's global generator; here it is scaled to the trajectory and seeded.

    Args:
        samples: [N, T, d].
        visible: bool[N, T], which samples count.
        seed: of the noise.

    Returns:
        f64[N, T, d]; constant trajectories, and those without ties, are unchanged.
    """
    x, seen = np.array(samples, dtype=np.float64), np.asarray(visible, bool)
    chosen = np.flatnonzero(tied(x, seen) > 0)
    if len(chosen) == 0:
        return x
    among = np.ma.array(x[chosen], mask=np.broadcast_to(~seen[chosen, :, None], x[chosen].shape))
    scale = np.sqrt(among.var(axis=1).sum(-1).filled(0.0))
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, x[chosen].shape)
    x[chosen] += NOISE * scale[:, None, None] * noise
    return x
