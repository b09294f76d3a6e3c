"""What of a trajectory is scored: what the camera and the light do not explain, as whitened displacements."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def residual(position: ArrayLike, camera: ArrayLike) -> Float:
    """Trajectory with the camera's motion taken out: where the point would be had the camera stood still.

    Args:
        position: [N, T, 2 or 3] pixels (a third coordinate, depth, passes through).
        camera: [N, T, 2] pixels, what the camera alone would have done to each point, from the same start.

    Returns:
        f64[N, T, 2 or 3]: the start plus the motion that the camera does not explain.
    """
    moved = np.array(position, dtype=np.float64)
    path = np.asarray(camera, dtype=np.float64)
    moved[..., :2] -= path - path[:, :1]
    return moved


def without_lighting(colour: ArrayLike, visible: ArrayLike) -> Float:
    """Colour of patches with the light's own changes taken out: as it would be had the light stayed the same.

    A change of light multiplies all colours by one gain a channel and frame: the median over the visible patches of
    their colour over their own median through time. Patches darker than 0.02 have no say in it.

    Args:
        colour: [N, T, 3], from 0 to 1.
        visible: bool[N, T].

    Returns:
        f64[N, T, 3].
    """
    values, seen = np.asarray(colour, np.float64), np.asarray(visible, bool)[..., None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # A patch never seen, or a frame without one that is lit.
        usual = np.nanmedian(np.where(seen, values, np.nan), axis=1, keepdims=True)
        gain = np.nanmedian(np.where(seen & (usual > 0.02), values, np.nan) / usual, axis=0)
    return values / np.where(gain > 0, gain, 1.0)


def displacement(trajectory: ArrayLike, visible: ArrayLike) -> tuple[Float, Mask]:
    """Frame-to-frame displacements, which are free of the slow drift that makes unrelated positions look dependent.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, T−1, d] and bool[N, T−1], True where both of a displacement's frames are visible; 0 elsewhere.
    """
    seen = np.asarray(visible, bool)
    both = seen[:, 1:] & seen[:, :-1]
    return np.where(both[..., None], np.diff(np.asarray(trajectory, np.float64), axis=1), 0.0), both


def spread(trajectory: ArrayLike, visible: ArrayLike) -> Float:
    """Root-mean-square distance of each trajectory from its own mean over its visible frames.

    Args:
        trajectory: [N, T, d], pixels.
        visible: bool[N, T].

    Returns:
        f64[N] pixels; 0 for a trajectory that is never visible.
    """
    x, seen = np.asarray(trajectory, np.float64), np.asarray(visible, bool)
    mean, count = _mean(x, seen)
    square = np.where(seen[..., None], (x - mean) ** 2, 0.0).sum((1, 2))
    return np.sqrt(square / count[:, 0])


def whiten(samples: ArrayLike, visible: ArrayLike, noise: float) -> Float:
    """Each trajectory's samples centred, decorrelated and brought to unit variance by its own principal axes.

    Mutual information does not change under an invertible map of either variable, but nearest-neighbour estimates do:
    unequal scales ruin them, and pixel coordinates exceed the range in which NPEET is exact. An axis whose variance is
    below the tracker's noise is not blown up: its variance counts as `noise`².

    Args:
        samples: [N, T, d].
        visible: bool[N, T], which samples count.
        noise: standard deviation of the tracker's error, in the samples' unit, > 0.

    Returns:
        f64[N, T, d], 0 where not visible.

    Raises:
        ValueError: noise ≤ 0.
    """
    if not noise > 0:
        raise ValueError(f"noise must be above 0, got {noise}")
    x, seen = np.asarray(samples, np.float64), np.asarray(visible, bool)
    mean, count = _mean(x, seen)
    centred = np.where(seen[..., None], x - mean, 0.0)
    covariance = np.einsum("nti,ntj->nij", centred, centred) / count[..., None]
    variance, axes = np.linalg.eigh(covariance)
    return np.einsum("nti,nij->ntj", centred, axes / np.sqrt(np.maximum(variance, noise**2))[:, None, :])


def _mean(x: Float, seen: Mask) -> tuple[Float, NDArray[np.int64]]:
    """Mean over the visible samples f64[N, 1, d], and their count int[N, 1], at least 1."""
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    return np.where(seen[..., None], x, 0.0).sum(1, keepdims=True) / count[..., None], count
