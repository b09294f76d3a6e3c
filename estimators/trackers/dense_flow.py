"""Chained dense optical flow: every point is moved by the flow of the pixel it is on.

The flow is smooth, so it also moves points without texture. Its errors accumulate, because only neighbouring frames are
compared. A point is visible while its forward and backward flow agree (Sundaram, Brox & Keutzer 2010, eq. 5); once that
has failed, its patch must also look as it did in the first frame.
"""

import numpy as np

from infoaug.estimators.trackers.base import Appearance, Bytes, DenseFlow, Floats, Tracks, grey, inside

# Forward and backward flow may differ by this share of their size: the square root of 0.01, the paper's factor.
_SHARE = 0.1
# A lost point is recovered where its patch has this correlation with that of the first frame.
_ALIKE = 0.85


def track(frames: Bytes, queries: Floats, *, forward_backward: float = 1.5) -> Tracks:
    """Track points f32[N, 2] of the first frame through u8[T, H, W(, 3)]; see `trackers.tracks.track`."""
    shape = frames.shape[1:3]
    position = np.repeat(queries[:, None, :], len(frames), axis=1)
    visible = np.ones(position.shape[:2], dtype=bool)
    before = grey(frames[0])
    flow, appearance = DenseFlow(shape, refined=True), Appearance(before, queries)
    for t in range(1, len(frames)):
        now, at = grey(frames[t]), position[:, t - 1]
        forward = flow.at(before, now, at)
        moved = at + forward
        backward = flow.at(now, before, moved)
        size = np.hypot(*forward.T) + np.hypot(*backward.T)
        agrees = np.hypot(*(forward + backward).T) < forward_backward / 2 + _SHARE * size / 2
        same = visible[:, t - 1] | (appearance.match(now, moved) > _ALIKE)
        position[:, t], visible[:, t] = moved, agrees & same & inside(moved, shape)
        before = now
    return Tracks(position, visible)
