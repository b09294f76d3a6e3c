"""Correlation and Gaussian mutual information of all pairs of a window, from their second moments.

Both are a few products of [N, T] matrices, and scatter less in short windows than nearest-neighbour estimates do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

_RIDGE = 1e-9  # share of a trajectory's mean variance


class Moments(NamedTuple):
    """Second moments of pairs (i, j) over the samples in which both are visible.

    Attributes:
        own: f64[N, N, d, d], the covariance of i.
        cross: f64[N, N, d, d], the covariance of i with j.
        common: f64[N, N], samples in which both are visible.
    """

    own: Float
    cross: Float
    common: Float


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


def mutual_information(samples: ArrayLike, visible: ArrayLike) -> Float:
    """Mutual information of all pairs as if they were jointly normal, from their covariances over the common samples.

    I = ½ ln(|Σx| |Σy| / |Σxy|) (Cover & Thomas 2006, section 8.5), less the mean of its estimate for independent
    normal samples, d² / 2n to first order, so that pairs with few common samples are not favoured.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, N] nats, symmetric, may be negative for independent trajectories; 0 where one of the two does not change
        or they have no common sample.
    """
    own, cross, count = moments(samples, visible)
    size = own.shape[2]
    power = np.maximum(np.trace(own, axis1=2, axis2=3), 0.0) / size
    still = (power <= 0) | (power.T <= 0)
    # The ridge makes the determinants exist where a coordinate does not change; it is far below any real variance.
    own = own + np.where(still, 1.0, _RIDGE * power)[..., None, None] * np.eye(size)
    other = np.swapaxes(own, 0, 1)
    rest = other - np.swapaxes(cross, 2, 3) @ np.linalg.solve(own, cross)  # of j, given i
    value = 0.5 * (np.linalg.slogdet(other)[1] - np.linalg.slogdet(rest)[1])
    value = (value + value.T) / 2 - size**2 / 2 / np.maximum(count - 2, 1)
    return np.where(still, 0.0, value)


def without(samples: ArrayLike, visible: ArrayLike, condition: ArrayLike) -> Float:
    """Samples without what a linear regression on a condition explains, each trajectory by its own.

    The Gaussian mutual information of what is left is that given the condition.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].
        condition: [T, c].

    Returns:
        f64[N, T, d], 0 where not visible.
    """
    x, seen = np.asarray(samples, np.float64), np.asarray(visible, bool)
    known = np.column_stack([np.ones(x.shape[1]), np.asarray(condition, np.float64)])
    left = np.zeros_like(x)
    for i, now in enumerate(seen):
        left[i, now] = x[i, now] - known[now] @ np.linalg.lstsq(known[now], x[i, now], rcond=None)[0]
    return left
