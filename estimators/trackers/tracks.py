"""Track points through a window with any of the trackers.

Positions are pixels `(x, y)` with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.options import LEARNED_TRACKERS, TRACKERS
from infoaug.estimators.trackers import own
from infoaug.estimators.trackers.base import Bytes, Tracks, inside

__all__ = ["Tracks", "track"]


def track(
    frames: Bytes,
    queries: NDArray[np.floating],
    *,
    method: str | own.Tracker = "auto",
    forward_backward: float = 1.5,
    weights: str | Path | None = None,
) -> Tracks:
    """Track points of the first frame through all frames.

    Args:
        frames: u8[T, H, W, 3] RGB or u8[T, H, W].
        queries: f32[N, 2], (x, y) in frame 0.
        method: one of

            - `"lucas-kanade"`, robust Lucas–Kanade guided by dense flow; `"auto"` means this one, because it keeps more
              correct tracks than the other classical one (`benchmarks/tracking.py`);
            - `"dense-flow"`, chained DIS optical flow;
            - `"cotracker"`, CoTracker3 (Karaev et al. 2024), which needs its code and weights;
            - `"tapir"`, BootsTAPIR (Doersch et al. 2024) or TAPNext++, depending on the weights; needs its code too;
            - a function of your own, called with copies of the frames and of the queries f32[N, 2], that returns
              `Tracks`; `trackers.own.track` says what is checked.
        forward_backward: a classical tracker loses a point that ends this many pixels or more from its start when it is
            tracked forward and back.
        weights: file of a learned tracker's weights; nothing is downloaded.

    Raises:
        ValueError: the method is unknown, the frames have another shape or dtype, a query is outside the frame, a
            learned tracker lacks its code or weights, or a function of your own fails or returns something else.
    """
    if not callable(method) and method not in TRACKERS:
        raise ValueError(
            f"unknown tracking method {method!r}; choose one of {', '.join(sorted(TRACKERS))}, or give a function"
        )
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"frames must be an array u8[T, H, W] or u8[T, H, W, 3], not a {type(frames).__name__}")
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or len(frames) == 0 or frames.shape[3:] not in ((), (3,)):
        raise ValueError(f"frames must be u8[T, H, W] or u8[T, H, W, 3], not {frames.dtype}{list(frames.shape)}")
    points = np.ascontiguousarray(queries, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or not inside(points, frames.shape[1:3]).all():
        raise ValueError("queries must be f[N, 2] as (x, y) inside the first frame; check their order and scale")
    if method in LEARNED_TRACKERS:
        return _module(method).track(frames, points, weights=weights)
    if len(points) == 0:  # OpenCV does not accept empty arrays
        return Tracks(np.empty((0, len(frames), 2), np.float32), np.empty((0, len(frames)), bool))
    if callable(method):
        return own.track(method, frames, points, forward_backward=forward_backward, weights=weights)
    classical = _module("lucas-kanade" if method == "auto" else method)
    return classical.track(frames, points, forward_backward=forward_backward)


def _module(method: str) -> Any:
    """The module of a tracker, imported when it is first used."""
    return import_module(f"infoaug.estimators.trackers.{method.replace('-', '_')}")
