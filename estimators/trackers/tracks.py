"""Tracks of points through a window: one call, whatever the tracker.

Positions are pixels `(x, y)` with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.options import LEARNED_TRACKERS, TRACKERS
from infoaug.estimators.trackers.base import Bytes, Tracks, inside

__all__ = ["Tracks", "track"]


def track(
    frames: Bytes,
    queries: NDArray[np.floating],
    *,
    method: str = "auto",
    forward_backward: float = 1.5,
    weights: str | Path | None = None,
) -> Tracks:
    """Track points of the first frame through all frames.

    Args:
        frames: u8[T, H, W, 3] RGB or u8[T, H, W].
        queries: f32[N, 2], (x, y) in frame 0.
        method: `"lucas-kanade"`, robust Lucas–Kanade led by dense flow, which `"auto"` stands for as it keeps more true
            tracks than the other one (`benchmarks/tracking.py`); `"dense-flow"`, chained DIS optical flow; or, where
            their code and weights are on this machine, `"cotracker"` (Karaev et al. 2024, CoTracker3) and `"tapir"`
            (Doersch et al. 2024, BootsTAPIR, or TAPNext++, as the weights are).
        forward_backward: a classical tracker has lost a point that misses its start by this many pixels or more when it
            is tracked on and back.
        weights: file of a learned tracker's weights; nothing is ever downloaded.

    Raises ValueError for an unknown method, frames of another shape or dtype, queries outside the frame, or where a
    learned tracker lacks its code or weights.
    """
    if method not in TRACKERS:
        raise ValueError(f"unknown tracking method {method!r}; choose one of {', '.join(sorted(TRACKERS))}")
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or len(frames) == 0 or frames.shape[3:] not in ((), (3,)):
        raise ValueError(f"frames must be u8[T, H, W] or u8[T, H, W, 3], not {frames.dtype}{list(frames.shape)}")
    points = np.ascontiguousarray(queries, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or not inside(points, frames.shape[1:3]).all():
        raise ValueError("queries must be f[N, 2] as (x, y) inside the first frame; check their order and scale")
    if method in LEARNED_TRACKERS:
        return _module(method).track(frames, points, weights=weights)
    if len(points) == 0:  # OpenCV takes no empty arrays.
        return Tracks(np.empty((0, len(frames), 2), np.float32), np.empty((0, len(frames)), bool))
    classical = _module("lucas-kanade" if method == "auto" else method)
    return classical.track(frames, points, forward_backward=forward_backward)


def _module(method: str) -> Any:
    """The module of a tracker, imported when it is first used."""
    return import_module(f"infoaug.estimators.trackers.{method.replace('-', '_')}")
