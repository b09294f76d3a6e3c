"""Camera motion from tracks, and what it alone would have done to every point.

One map a frame, from pixels of frame 0 to pixels of frame t, found in two passes:

1. *Which points are background?* A map is fitted from frame 0 straight to every frame t, by RANSAC, and again by least
   median of squares on RANSAC's inliers. A point whose residual is within the spread of its frame has that frame's
   vote, and with the votes of at least half of the frames it is seen in, it is background wherever it has the vote.
   Over the long way even slow movers leave the map, which they do not from one frame to the next; what swings comes
   back to the map, but not in half of the frames.
2. *How did the camera move?* Consecutive frames are fitted by least squares over the background, and the steps chained.
   Parallax, lens distortion and the loss of points change a step little, whereas they bend or shake a fit over the
   long way. As nearly the same points serve in all steps, the errors of the steps cancel instead of adding up.

Without the first pass a common step follows movers; without the second, the jitter of one fit against the next enters
the residuals of all points at once, where mutual information would find it.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]
Maps = NDArray[np.float32]

# Fewer points than this say nothing reliable about scale, rotation and shear.
_ENOUGH = 8
# A vote needs a residual below this multiple of the frame's median residual, but never less than this many pixels.
_SPREAD, _TRACKING_NOISE = 2.5, 0.2
# Nearer to a homography's horizon than this share of a point's own depth there is no telling where the point went.
_HORIZON = 0.05
# A camera that moves the background by less than this, pixels, stood still.
_STATIC = 0.5


def camera_motion(
    position: Points,
    visible: NDArray[np.bool_],
    *,
    model: str = "homography",
    threshold: float = 3.0,
    static: float = _STATIC,
) -> Maps:
    """Estimate the global motion: maps from frame 0 to every frame, f32[T, 3, 3], pixels to pixels, homogeneous.

    Args:
        position: f32[N, T, 2], pixels, as `tracks.Tracks.position`.
        visible: bool[N, T].
        model: `"translation"`, `"similarity"`, `"affine"` or `"homography"`.
        threshold: a point farther than this from the fitted map, pixels, is not background in that frame.
        static: if the median background point stays within this many pixels of its start in every frame, the camera
            stood still and all maps are the identity: the jitter of a fit must not become a motion that all patches
            seem to share. 0 turns this off.

    With fewer than 8 background points in a step their median shift is used; with none, the last map is held. The
    result is deterministic. Raises ValueError for an unknown model or arrays that do not belong together.
    """
    if model not in _MODELS:
        raise ValueError(f"unknown camera model {model!r}; choose one of {', '.join(_MODELS)}")
    if position.ndim != 3 or position.shape[2] != 2 or visible.shape != position.shape[:2]:
        raise ValueError(
            f"position must be f32[N, T, 2] and visible bool[N, T], not {list(position.shape)} and "
            f"{list(visible.shape)}"
        )
    paths = np.asarray(position, dtype=np.float64)
    background = _background(paths, visible, model, threshold)
    maps = np.tile(np.eye(3), (paths.shape[1], 1, 1))
    for t in range(1, len(maps)):
        seen = background[:, t] & visible[:, t - 1]
        maps[t] = _step(paths[seen, t - 1], paths[seen, t], model) @ maps[t - 1]
    maps /= maps[:, 2:, 2:]
    if _largest_median_shift(paths, background) < static:
        maps[:] = np.eye(3)
    return maps.astype(np.float32)


def camera_trajectories(motion: NDArray[np.floating], queries: Points) -> NDArray[np.float32]:
    """Say where the camera alone would have moved points of frame 0: f32[N, T, 2], pixels.

    `motion` is the result of `camera_motion`, `queries` f32[N, 2] as (x, y) in frame 0. Raises ValueError for maps of
    another shape.
    """
    if motion.ndim != 3 or motion.shape[1:] != (3, 3):
        raise ValueError(f"motion must be f32[T, 3, 3], not {list(motion.shape)}; use camera_motion")
    maps, points = np.asarray(motion, dtype=np.float64), np.asarray(queries, dtype=np.float64)
    # A map's horizon is where the third coordinate is 0; no camera takes a point of the picture beyond it.
    ahead = np.einsum("tj,nj->nt", maps[:, 2], np.column_stack([points, np.ones(len(points))])) > _HORIZON
    last = np.maximum.accumulate(np.where(ahead, np.arange(len(maps)), 0), axis=1)
    return np.take_along_axis(_apply(maps, points), last[..., None], axis=1).astype(np.float32)


def _background(paths: Points, visible: NDArray[np.bool_], model: str, threshold: float) -> NDArray[np.bool_]:
    """Vote which points follow the camera in which frame: bool[N, T].

    A point of the background that something drags along is left out of those frames. Frames in which too few points are
    seen hold no vote and keep all of the background; with no vote at all, every visible point is background.
    """
    votes = np.zeros(visible.shape, dtype=bool)
    held = np.zeros(visible.shape, dtype=bool)
    for t in range(1, paths.shape[1]):
        seen = np.flatnonzero(visible[:, t] & visible[:, 0])
        if len(seen) < _ENOUGH:
            continue
        residual, close = _robust_residual(paths[seen, 0], paths[seen, t], model, threshold)
        limit = np.clip(_SPREAD * np.median(residual[close]), _TRACKING_NOISE, threshold) if close.any() else 0.0
        votes[seen, t] = residual < limit
        held[seen, t] = True
    if not votes.any():
        return visible
    chosen = held.any(axis=1) & (2 * votes.sum(axis=1) >= held.sum(axis=1))
    return chosen[:, None] & visible & (votes | ~held)


def _largest_median_shift(paths: Points, background: NDArray[np.bool_]) -> float:
    """Return how far the median background point gets from its start, pixels, over the frames that show enough."""
    counts = background[:, 1:].sum(axis=0)
    frames = 1 + np.flatnonzero((counts > 0) & (counts >= min(_ENOUGH, counts.max(initial=0))))
    distance = np.linalg.norm(paths - paths[:, :1], axis=2)
    return max((float(np.median(distance[background[:, t], t])) for t in frames), default=0.0)


def _robust_residual(a: Points, b: Points, model: str, threshold: float) -> tuple[Points, NDArray[np.bool_]]:
    """Return each point's distance from the robust map a → b, pixels, and which points RANSAC took for inliers."""
    if model == "translation":
        residual = np.linalg.norm(b - a - np.median(b - a, axis=0), axis=1)
        return residual, residual < threshold
    fit = _ROBUST[model]
    first, mask = fit(a, b, cv2.RANSAC, threshold)
    if first is None:
        return np.full(len(a), np.inf), np.zeros(len(a), dtype=bool)
    close = mask.ravel() > 0
    finer = fit(a[close], b[close], cv2.LMEDS, threshold)[0] if close.sum() >= _ENOUGH else None
    found = first if finer is None else finer
    return np.linalg.norm(_apply(found[None], a)[:, 0] - b, axis=1), close


def _step(a: Points, b: Points, model: str) -> Points:
    """Least-squares map a → b as f64[3, 3]; the median shift of fewer than 8 points, the identity of none."""
    step = np.eye(3)
    if len(a) == 0:
        return step
    if len(a) < _ENOUGH:
        step[:2, 2] = np.median(b - a, axis=0)
    else:
        fitted = _MODELS[model](a, b)
        step[: len(fitted)] = fitted
    return step


def _translation(a: Points, b: Points) -> Points:
    """Mean shift, f64[2, 3]."""
    return np.column_stack([np.eye(2), (b - a).mean(axis=0)])


def _similarity(a: Points, b: Points) -> Points:
    """Rotation, scale and shift, f64[2, 3]: linear in one complex factor and one complex shift."""
    z = np.column_stack([a @ [1, 1j], np.ones(len(a))])
    (turn, shift), *_ = np.linalg.lstsq(z, b @ [1, 1j], rcond=None)
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _affine(a: Points, b: Points) -> Points:
    """Affine map, f64[2, 3]."""
    return np.linalg.lstsq(np.column_stack([a, np.ones(len(a))]), b, rcond=None)[0].T


def _homography(a: Points, b: Points) -> Points:
    """Plane-to-plane map, f64[3, 3]; the affine one where the points do not determine more."""
    affine = np.vstack([_affine(a, b), [0, 0, 1]])
    found: Any = cv2.findHomography(a, b, 0)[0]
    if found is None:
        return affine
    # Affine maps are homographies too: a homography that fits worse is the outcome of a degenerate system.
    misses = np.linalg.norm(_apply(np.stack([found, affine]), a) - b[:, None], axis=2).mean(axis=0)
    return found if misses[0] <= misses[1] else affine


_MODELS: dict[str, Callable[[Points, Points], Points]] = {
    "translation": _translation,
    "similarity": _similarity,
    "affine": _affine,
    "homography": _homography,
}
# OpenCV's RANSAC and LMedS start from a fixed seed of their own at every call.
_ROBUST: dict[str, Callable[[Points, Points, int, float], tuple[Any, Any]]] = {
    "similarity": lambda a, b, method, limit: cv2.estimateAffinePartial2D(
        a, b, method=method, ransacReprojThreshold=limit
    ),
    "affine": lambda a, b, method, limit: cv2.estimateAffine2D(a, b, method=method, ransacReprojThreshold=limit),
    "homography": lambda a, b, method, limit: cv2.findHomography(a, b, method, limit),
}


def _apply(maps: Points, points: Points) -> Points:
    """Move points f64[N, 2] by maps f64[T, 2..3, 3]: f64[N, T, 2]."""
    moved = np.einsum("tij,nj->nti", maps, np.column_stack([points, np.ones(len(points))]))
    if maps.shape[1] == 2:
        return moved
    with np.errstate(divide="ignore", invalid="ignore"):  # A point on the horizon of a homography has no image.
        return moved[..., :2] / moved[..., 2:]
