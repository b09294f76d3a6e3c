"""Ties: values that a trajectory takes more than once, which rank no neighbours, and noise that breaks them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

NOISE = 1e-5  # of a trajectory's standard deviation: far below any tracker's error, far above float32's rounding


def tied(samples: ArrayLike, visible: ArrayLike) -> Float:
    """Share of a trajectory's values, coordinate by coordinate, that occur more than once: 1 if it stands still.

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
    """bool[N], which trajectories [N, T, d] never change while they are visible, bool[N, T]."""
    x, seen = np.asarray(samples, np.float64), np.asarray(visible, bool)[..., None]
    low, high = np.where(seen, x, np.inf).min(1), np.where(seen, x, -np.inf).max(1)
    return np.asarray((high <= low).all(-1))


def break_ties(samples: ArrayLike, visible: ArrayLike, seed: int = 0) -> Float:
    """Trajectories with ties, and only these, with uniform noise of ±`NOISE`/2 of their own standard deviation added.

    Without it, the estimates count equal distances as they come: 3 nats were measured for independent paths in whole
    pixels. NPEET adds noise too, but of a fixed size, from a generator that nobody seeds.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].
        seed: of the noise.

    Returns:
        f64[N, T, d]; a trajectory without ties, or that stands still, is as it was.
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
