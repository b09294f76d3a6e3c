"""Dense optical flow, chained: every point is carried by the flow of the pixel it stands on.

The flow is smooth, so it also carries points that have no texture of their own; its small errors add up, as only
neighbouring frames are compared. A point is visible while its forward and backward flow agree (Sundaram, Brox & Keutzer
2010, eq. 5) and, once that failed, where its patch also looks as it did at first.
"""

import numpy as np

from infoaug.estimators.trackers.base import Appearance, Bytes, DenseFlow, Floats, Tracks, grey, inside

# Forward and backward flow may differ by this share of their size; it is the square root of the paper's 0.01.
_SHARE = 0.1
# A point that was lost is back where its patch correlates with its first look by so much.
_ALIKE = 0.85


def track(frames: Bytes, queries: Floats, *, forward_backward: float = 1.5) -> Tracks:
    """Track points f32[N, 2] of the first of frames u8[T, H, W(, 3)] (see `trackers.tracks.track`)."""
    shape = frames.shape[1:3]
    position = np.repeat(queries[:, None, :], len(frames), axis=1)
    visible = np.ones(position.shape[:2], dtype=bool)
    before = grey(frames[0])
    flow, appearance = DenseFlow(shape, refined=True), Appearance(before, queries)
    for t in range(1, len(frames)):
        now, at = grey(frames[t]), position[:, t - 1]
        forward = flow.at(before, now, at)
        there = at + forward
        backward = flow.at(now, before, there)
        size = np.hypot(*forward.T) + np.hypot(*backward.T)
        agrees = np.hypot(*(forward + backward).T) < forward_backward / 2 + _SHARE * size / 2
        same = visible[:, t - 1] | (appearance.match(now, there) > _ALIKE)
        position[:, t], visible[:, t] = there, agrees & same & inside(there, shape)
        before = now
    return Tracks(position, visible)
