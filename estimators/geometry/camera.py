"""Camera motion from tracks, and the trajectories that it alone would give every point.

The motion is one map per frame, from pixels of frame 0 to pixels of frame t, estimated in two passes:

1. *Find the background.* A map is fitted from frame 0 to every frame t by RANSAC, and refined on the inliers by least
   median of squares. A point gets the frame's vote if its residual is within the spread of that frame. It is background
   there if it has the vote of at least half of the frames it is visible in. Over this long distance even slow
   movers deviate from the map, which they do not from one frame to the next; oscillating points return to the map, but
   not in half of the frames.
2. *Fit the motion.* Consecutive frames are fitted by least squares over the background, and the steps are chained.
   Parallax, lens distortion and lost points change a step little, but distort a fit over a long distance. Because
   nearly the same points are used in all steps, the errors of the steps cancel instead of accumulating.

Without the first pass a step follows moving objects. Without the second the jitter between independent fits enters the
residuals of all points at once, and mutual information detects it.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]
Maps = NDArray[np.float32]

# Fewer points than this do not determine scale, rotation and shear reliably.
_ENOUGH = 8
# A vote needs a residual below this multiple of the frame's median residual, or below this many pixels.
_SPREAD, _TRACKING_NOISE = 2.5, 0.2
# Within this distance of a homography's horizon, as a share of the point's depth, the image of a point is unreliable.
_HORIZON = 0.05
# A camera that moves the background by less than this, pixels, is static.
_STATIC = 0.5


def camera_motion(
    position: Points,
    visible: NDArray[np.bool_],
    *,
    model: str = "homography",
    threshold: float = 3.0,
    static: float = _STATIC,
) -> Maps:
    """Estimate the camera motion: homogeneous maps from frame 0 to every frame, f32[T, 3, 3], pixels to pixels.

    Args:
        position: f32[N, T, 2], pixels, as `tracks.Tracks.position`.
        visible: bool[N, T].
        model: `"translation"`, `"similarity"`, `"affine"` or `"homography"`.
        threshold: a point farther than this from the fitted map, pixels, is not background in that frame.
        static: if the median background point stays within this many pixels of its start in every frame, the camera is
            static and all maps are the identity. Otherwise the jitter of the fit would look like a motion that all
            patches share. 0 turns this off.

    With fewer than 8 background points a step is their median shift; with none, the identity. The result is
    deterministic.

    Raises:
        ValueError: the model is unknown, or the shapes of the arrays do not match.
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
    """Compute the trajectories that the camera motion alone gives to points: f32[N, T, 2], pixels.

    Args:
        motion: f32[T, 3, 3], the result of `camera_motion`.
        queries: f32[N, 2], (x, y) in frame 0.

    Raises:
        ValueError: the maps have another shape.
    """
    if motion.ndim != 3 or motion.shape[1:] != (3, 3):
        raise ValueError(f"motion must be f32[T, 3, 3], not {list(motion.shape)}; use camera_motion")
    maps, points = np.asarray(motion, dtype=np.float64), np.asarray(queries, dtype=np.float64)
    # The third coordinate is 0 on a map's horizon, which no visible point crosses: it keeps its last valid position.
    ahead = np.einsum("tj,nj->nt", maps[:, 2], np.column_stack([points, np.ones(len(points))])) > _HORIZON
    last = np.maximum.accumulate(np.where(ahead, np.arange(len(maps)), 0), axis=1)
    return np.take_along_axis(_apply(maps, points), last[..., None], axis=1).astype(np.float32)


def _background(paths: Points, visible: NDArray[np.bool_], model: str, threshold: float) -> NDArray[np.bool_]:
    """Find which points follow the camera in which frames, by votes of the frames: bool[N, T].

    A background point is left out of frames in which it does not follow the camera. A frame with too few visible points
    does not vote and keeps all background points; if no frame votes, every visible point is background.
    """
    votes = np.zeros(visible.shape, dtype=bool)
    voting = np.zeros(visible.shape, dtype=bool)
    for t in range(1, paths.shape[1]):
        seen = np.flatnonzero(visible[:, t] & visible[:, 0])
        if len(seen) < _ENOUGH:
            continue
        residual, close = _robust_residual(paths[seen, 0], paths[seen, t], model, threshold)
        limit = np.clip(_SPREAD * np.median(residual[close]), _TRACKING_NOISE, threshold) if close.any() else 0.0
        votes[seen, t] = residual < limit
        voting[seen, t] = True
    if not votes.any():
        return visible
    chosen = voting.any(axis=1) & (2 * votes.sum(axis=1) >= voting.sum(axis=1))
    return chosen[:, None] & visible & (votes | ~voting)


def _largest_median_shift(paths: Points, background: NDArray[np.bool_]) -> float:
    """Return the largest median distance of background points from their start, pixels, over frames with enough."""
    counts = background[:, 1:].sum(axis=0)
    frames = 1 + np.flatnonzero((counts > 0) & (counts >= min(_ENOUGH, counts.max(initial=0))))
    distance = np.linalg.norm(paths - paths[:, :1], axis=2)
    return max((float(np.median(distance[background[:, t], t])) for t in frames), default=0.0)


def _robust_residual(a: Points, b: Points, model: str, threshold: float) -> tuple[Points, NDArray[np.bool_]]:
    """Return each point's residual under the robust map a → b, pixels, and the inliers of RANSAC, bool[N]."""
    if model == "translation":
        residual = np.linalg.norm(b - a - np.median(b - a, axis=0), axis=1)
        return residual, residual < threshold
    fit = _ROBUST[model]
    first, mask = fit(a, b, cv2.RANSAC, threshold)
    if first is None:
        return np.full(len(a), np.inf), np.zeros(len(a), dtype=bool)
    close = mask.ravel() > 0
    refined = fit(a[close], b[close], cv2.LMEDS, threshold)[0] if close.sum() >= _ENOUGH else None
    final = first if refined is None else refined
    return np.linalg.norm(_apply(final[None], a)[:, 0] - b, axis=1), close


def _step(a: Points, b: Points, model: str) -> Points:
    """Fit the map a → b by least squares, f64[3, 3]; the median shift for few points, the identity for none."""
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
    """Rotation, scale and shift, f64[2, 3]; linear in one complex factor and one complex shift."""
    z = np.column_stack([a @ [1, 1j], np.ones(len(a))])
    (turn, shift), *_ = np.linalg.lstsq(z, b @ [1, 1j], rcond=None)
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _affine(a: Points, b: Points) -> Points:
    """Affine map, f64[2, 3]."""
    return np.linalg.lstsq(np.column_stack([a, np.ones(len(a))]), b, rcond=None)[0].T


def _homography(a: Points, b: Points) -> Points:
    """Homography, f64[3, 3]; an affine map where the points do not determine more."""
    affine = np.vstack([_affine(a, b), [0, 0, 1]])
    homography: Any = cv2.findHomography(a, b, 0)[0]
    if homography is None:
        return affine
    # An affine map is a homography too, so one that fits worse comes from a degenerate system.
    errors = np.linalg.norm(_apply(np.stack([homography, affine]), a) - b[:, None], axis=2).mean(axis=0)
    return homography if errors[0] <= errors[1] else affine


_MODELS: dict[str, Callable[[Points, Points], Points]] = {
    "translation": _translation,
    "similarity": _similarity,
    "affine": _affine,
    "homography": _homography,
}
# Deterministic: OpenCV's RANSAC and LMedS use a fixed seed in every call.
_ROBUST: dict[str, Callable[[Points, Points, int, float], tuple[Any, Any]]] = {
    "similarity": lambda a, b, method, limit: cv2.estimateAffinePartial2D(
        a, b, method=method, ransacReprojThreshold=limit
    ),
    "affine": lambda a, b, method, limit: cv2.estimateAffine2D(a, b, method=method, ransacReprojThreshold=limit),
    "homography": lambda a, b, method, limit: cv2.findHomography(a, b, method, limit),
}


def _apply(maps: Points, points: Points) -> Points:
    """Apply maps f64[T, 2..3, 3] to points f64[N, 2]: f64[N, T, 2]."""
    moved = np.einsum("tij,nj->nti", maps, np.column_stack([points, np.ones(len(points))]))
    if maps.shape[1] == 2:
        return moved
    with np.errstate(divide="ignore", invalid="ignore"):  # a point on the horizon of a homography
        return moved[..., :2] / moved[..., 2:]
