"""Which points move only as a still scene with depth does under a moving camera: plane and parallax.

After a homography, the residual path of a still point is its depth times a path that all points share (Irani & Anandan
1998). Perspective, lens distortion and rolling shutter add a few more shared paths. A point belongs to the still scene
if the shared paths of *other regions* predict its own path in *frames that its loadings were not fitted to*. What moves
by itself is not predicted, however large its motion: nothing is subtracted from it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.information.motion import spread

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The most shared paths, rounds of the robust fit, and the points that it takes: fewest and most.
_RANKS, _ROUNDS, _FEWEST, _MOST = 3, 10, 12, 200
# A frame is divided into so many blocks a side. Points of a block, or as near to it, in blocks, do not predict it.
_BLOCKS, _APART = 3, 0.5
# Nor does a path that differs from one of the block's by less than this share of its motion: it may be of one subject.
_LIKE = 0.5
# Loadings are fitted without one of so many parts of the frames, and predict it.
_PARTS = 4
# The largest error of a prediction, as a share of the motion; and what counts as motion at all, pixels.
_ERROR, _FLOOR = 0.5, 0.1


def still_scene(trajectory: ArrayLike, visible: ArrayLike, usable: ArrayLike, static: float) -> Mask:
    """Which points the parallax of the scene moves, and nothing else: bool[N].

    The number of shared paths, from 0 to 3, is the one that predicts the window's median point best, so a subject that
    is the minority of the points cannot add a path of its own.

    Args:
        trajectory: f[N, T, 2] pixels, without the camera's homography.
        visible: bool[N, T].
        usable: bool[N], points with trustworthy tracks; all others are False.
        static: spread below which a trajectory is static, pixels: the largest that a predicted path may leave over.
    """
    path, seen = np.asarray(trajectory, np.float64), np.asarray(visible, bool)
    chosen = np.flatnonzero(usable)
    found = np.zeros(len(path), bool)
    if len(chosen) < _FEWEST:
        return found
    own, shown = path[chosen], seen[chosen]
    y, known = _flat(own - own[:, :1], shown)
    motion = _rms(y, known)
    error, predicted = _predictions(y, known, own[:, 0], _alike(y, known) & (motion >= static)[:, None])
    median = [float(np.median(motion)), *np.median(error, axis=1)]
    rank = int(np.argmin(median))
    if rank:
        left = spread(own - predicted[rank - 1].reshape(own.shape), shown)
        found[chosen] = (error[rank - 1] < _ERROR * motion) & (left < static)
    return found


def _alike(y: Float, known: Float) -> Mask:
    """Which paths differ from which by less than half of its motion, over the frames that both know: bool[N, N]."""
    square = (y**2) @ known.T
    return square + square.T - 2 * y @ y.T < _LIKE**2 * square


def _predictions(y: Float, known: Float, start: Float, alike: Mask) -> tuple[Float, Float]:
    """How well other regions predict each path, by rank: errors f64[R, N] pixels, and the paths f64[R, N, 2T].

    A path that cannot be predicted, because too few points are far from it, has the error of predicting no motion.
    """
    error, predicted = np.tile(_rms(y, known), (_RANKS, 1)), np.zeros((_RANKS, *y.shape))
    low, high = start.min(axis=0), start.max(axis=0)
    at = (start - low) / np.maximum(high - low, 1e-9) * _BLOCKS
    block = np.minimum(at.astype(int), _BLOCKS - 1)
    part = np.repeat(np.arange(y.shape[1] // 2) * _PARTS // (y.shape[1] // 2), 2)
    for corner in np.unique(block, axis=0):
        own = (block == corner).all(axis=1)
        away = np.maximum(corner - at, at - corner - 1).max(axis=1)
        far = np.flatnonzero((away > _APART) & ~alike[own].any(axis=0))
        if len(far) < _FEWEST:
            continue
        far = far[:: -(-len(far) // _MOST)]
        for rank in range(1, _RANKS + 1):
            shared = _shared_paths(y[far], known[far], rank)
            square = np.zeros_like(y[own])
            for held_out in (part == n for n in range(_PARTS)):
                loading = _loadings(y[own], known[own] * ~held_out, shared)
                square += known[own] * held_out * (y[own] - loading @ shared) ** 2
            error[rank - 1, own] = _rms(np.sqrt(square), known[own])
            predicted[rank - 1, own] = _loadings(y[own], known[own], shared) @ shared
    return error, predicted


def _shared_paths(y: Float, known: Float, rank: int) -> Float:
    """The paths f64[rank, 2T], orthonormal, of which most rows of y f64[N, 2T] are combinations.

    Alternating least squares with Geman and McClure's weights. Every row counts alike, however far it moves.
    """
    y = y / np.hypot(_rms(y, known), _FLOOR)[:, None]
    whole = known.mean(axis=1) > 0.8
    shared: Float = np.linalg.svd(y[whole] if whole.sum() >= rank else y, full_matrices=False)[2][:rank]
    for _ in range(_ROUNDS):
        loading = _loadings(y, known, shared)
        off = _rms(y - loading @ shared, known)
        weight = 1 / (1 + (off / max(1.5 * float(np.median(off)), 1e-9)) ** 2) ** 2
        normal = ((weight[:, None] * _products(loading)).T @ known).T.reshape(-1, rank, rank)
        target = ((weight[:, None] * loading).T @ (known * y)).T[..., None]
        shared = np.linalg.qr(np.linalg.solve(normal + 1e-6 * np.eye(rank), target)[..., 0])[0].T
    return shared


def _loadings(y: Float, known: Float, shared: Float) -> Float:
    """How much of each shared path is in each row, by least squares over its known entries: f64[N, rank]."""
    rank = len(shared)
    normal = (known @ _products(shared.T)).reshape(-1, rank, rank) + 1e-9 * np.eye(rank)
    return np.asarray(np.linalg.solve(normal, ((known * y) @ shared.T)[..., None])[..., 0], np.float64)


def _products(columns: Float) -> Float:
    """The outer product of each row with itself, flat: f64[M, rank²]."""
    return (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), -1)


def _flat(path: Float, seen: Mask) -> tuple[Float, Float]:
    """Paths [N, T, 2] as rows f64[N, 2T], 0 where not visible, and 1 where visible, 0 elsewhere."""
    return np.where(seen[..., None], path, 0.0).reshape(len(path), -1), np.repeat(seen, 2, axis=1).astype(np.float64)


def _rms(y: Float, known: Float) -> Float:
    """Root-mean-square distance from 0 of each row of points (x, y), pixels: f64[N]."""
    return np.sqrt((known * y**2).sum(axis=1) / np.maximum(known.sum(axis=1) / 2, 1))
