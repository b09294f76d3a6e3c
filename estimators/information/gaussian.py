"""Correlation and Gaussian mutual information of all pairs of a window, from their second moments.

Both are a few products of [N, T] matrices, and scatter less in short windows than nearest-neighbour estimates do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


class Moments(NamedTuple):
    """Second moments of pairs (i, j) over the samples in which both are visible.

    Attributes:
        own: f64[N, N, d, d], the covariance of i.
        cross: f64[N, N, d, d], the covariance of i with j.
        count: f64[N, N], samples in which both are visible.
    """

    own: Float
    cross: Float
    count: Float


def moments(samples: ArrayLike, visible: ArrayLike) -> Moments:
    """The covariances of all pairs, each over its common samples; 0 for a pair without any.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].
    """
    seen = np.asarray(visible, bool)
    x, mask = np.where(seen[..., None], np.asarray(samples, np.float64), 0.0), seen.astype(np.float64)
    # Centred on each trajectory's own mean first, so that subtracting squares of means below loses no digits.
    x -= np.where(seen[..., None], x.sum(1, keepdims=True) / np.maximum(mask.sum(1), 1)[:, None, None], 0.0)
    count = mask @ mask.T
    usual, size = np.maximum(count, 1), x.shape[2]
    total = np.stack([x[..., a] @ mask.T for a in range(size)])  # of i, over the common samples
    own, cross = np.empty((2, *count.shape, size, size))
    for a in range(size):
        for b in range(size):
            own[..., a, b] = ((x[..., a] * x[..., b]) @ mask.T - total[a] * total[b] / usual) / usual
            cross[..., a, b] = (x[..., a] @ x[..., b].T - total[a] * total[b].T / usual) / usual
    return Moments(own, cross, count)


def correlation(samples: ArrayLike, visible: ArrayLike) -> Float:
    """How alike two trajectories' samples are as vectors: Σ x·y / √(Σ|x|² Σ|y|²) of the centred samples.

    It is 1 for equal motion and −1 for opposite motion, and knows directions, which mutual information does not.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, N], symmetric, from −1 to 1; 0 where one of the two does not change, or they have no common sample.
    """
    own, cross, _ = moments(samples, visible)
    power = np.maximum(np.trace(own, axis1=2, axis2=3), 0.0)
    product = power * power.T
    return np.divide(np.trace(cross, axis1=2, axis2=3), np.sqrt(product), out=0 * power, where=product > 0)
