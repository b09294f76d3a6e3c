"""Robust Lucas–Kanade: points are guided by dense flow, verified by tracking them back, and recovered when lost.

From frame to frame a point is moved by the dense flow, then refined to sub-pixels by pyramidal Lucas–Kanade (Bouguet
2000) on images of even local contrast, which do not change with the light. It is *followed* if tracking it back leads
to its start (Kalal, Mikolajczyk & Matas 2010), or if the flow took it to a patch that looks the same. Two references
prevent drift:

* The first frame. A patch that still looks as it did there is tracked from there directly, which removes the drift of
  the chain. A patch that suddenly looks different has been covered. A lost point is recovered where its patch is found
  again, near its expected position or near where it was last seen.
* The scene. Points of the background move together (`_Scene`). This gives the expected position of those that cannot be
  seen. A background point that leaves the others and no longer looks as it did has slid onto something that passes
  before it, and is not visible.
"""

from typing import Any

import cv2
import numpy as np
from scipy.spatial import KDTree

from infoaug.estimators.options import MATCHING_WINDOW
from infoaug.estimators.trackers.base import Appearance, Bytes, DenseFlow, Floats, Mask, Tracks, grey, inside, refine

# Side of the window of Lucas–Kanade, pixels, and of the wider one for blurred points.
_WINDOW, _WIDE = MATCHING_WINDOW, 31
# The forward–backward error may exceed its limit by this share of the step, because fast points are blurred.
_BLUR = 0.05
# Lucas–Kanade may correct the guess of the dense flow or the neighbours by this: pixels, and share of the step. Where
# the patch correlates this much with the frame before, it may correct it by more.
_GUESS, _FAR, _CERTAIN = (1.5, 0.1), (3.0, 0.3), 0.8
# Lucas–Kanade fails on what deforms. The flow is believed if the patch correlates this much with the previous one:
# where the flow back ends within this distance of the start (pixels, and share of the step), and elsewhere.
_CLOSES, _CLOSED, _CARRIED = (1.0, 0.1), 0.65, 0.85
# A match from frame 0 is valid if tracking it back ends within this distance of the start, pixels.
_FROM_START = 1.0
# A followed point moves to its match from frame 0 if that is within this distance, pixels, and correlates this much.
_DRIFT, _ALIKE = 4.0, 0.6
# A lost point is recovered within this distance of its expected position, pixels, at this correlation: for background
# points, whose position is known well, and for all others.
_BACK_SCENE, _BACK = (4.0, 0.65), (6.0, 0.85)
# Neighbours that predict the motion of a point; the fewest points from which the scene is estimated.
_NEIGHBOURS, _ENOUGH = 8, 12
# A point is background if it is this near to the scene's motion, pixels, in this share of the frames it is followed.
_SCENE_NEAR, _SCENE_SHARE = 4.0, 0.7
# A background point that deviates more, pixels and share of the step, must correlate this much with frame 0.
_ODD, _SURE = (5.0, 0.1), 0.7
# A point is covered if its correlation falls below the first value from above the second within this many frames.
# What turns or deforms does so too, but still correlates this much with the frame before.
_COVERED, _MEMORY, _TURNED = (0.3, 0.75), 4, 0.85


def track(frames: Bytes, queries: Floats, *, forward_backward: float = 1.5) -> Tracks:
    """Track points f32[N, 2] of the first frame through u8[T, H, W(, 3)]; see `trackers.tracks.track`."""
    count, length, shape = len(queries), len(frames), frames.shape[1:3]
    position = np.repeat(queries[:, None, :], length, axis=1)
    visible = np.zeros((count, length), dtype=bool)
    visible[:, 0] = True
    before = grey(frames[0])
    even_start = even_before = _even_contrast(before)
    flow, appearance, scene = DenseFlow(shape), Appearance(before, queries), _Scene(queries)
    last_seen = queries
    similarities = [np.ones(count, dtype=np.float32)] * _MEMORY
    for t in range(1, length):
        now = grey(frames[t])
        even = _even_contrast(now)
        at = position[:, t - 1]
        guess = at + flow.at(before, now, at)
        step = np.linalg.norm(guess - at, axis=1)
        limit = forward_backward + _BLUR * step
        estimate, followed = _follow(even_before, even, at, guess, step, limit, visible[:, t - 1])
        rest = np.flatnonzero(visible[:, t - 1] & ~followed & inside(estimate, shape))
        carried = Appearance(before, at[rest]).match(now, estimate[rest])
        followed[rest] = carried > _CARRIED
        rest = rest[(carried > _CLOSED) & (carried <= _CARRIED)]
        if len(rest):  # the flow back costs a third of a frame's time
            back = flow.at(now, before, estimate[rest])
            followed[rest] = _within(np.linalg.norm(estimate[rest] + back - at[rest], axis=1), _CLOSES, step[rest])

        expected, background = scene.expect(estimate, followed)
        estimate = np.where((background & ~followed)[:, None], expected, estimate)
        # An object that passes in front drags the flow along: a lost point is also searched for where it was last seen.
        last_seen = np.where(visible[:, t - 1, None], at, last_seen) + scene.step
        lost = np.flatnonzero(~followed & ~background)
        which = np.concatenate([np.arange(count), lost])
        place = np.concatenate([estimate, last_seen[lost]])
        matched, exact = _from_start(even_start, even, queries[which], place, followed[which])
        similarity = appearance.match_where(exact, now, matched, which)
        distance = np.linalg.norm(matched - place, axis=1)
        improves = similarity[count:] > similarity[lost]
        for best in (matched, similarity, distance):
            best[lost[improves]] = best[count:][improves]
        matched, similarity, distance = matched[:count], similarity[:count], distance[:count]

        radius, least_similarity = (np.where(background, *limits) for limits in zip(_BACK_SCENE, _BACK, strict=True))
        corrected = followed & (distance < _DRIFT) & (similarity > _ALIKE)
        returned = ~followed & (distance < radius) & (similarity > least_similarity)
        deviates = background & ~_within(np.linalg.norm(estimate - expected, axis=1), _ODD, step)
        estimate = np.where((corrected | returned)[:, None], matched, estimate)
        current_similarity = similarity.copy()
        kept = np.flatnonzero(~(corrected | returned))
        current_similarity[kept] = appearance.match(now, estimate[kept], kept)
        covered = followed & (current_similarity < _COVERED[0]) & (np.max(similarities, axis=0) > _COVERED[1])
        which = np.flatnonzero(covered)
        covered[which] = Appearance(before, at[which]).match(now, estimate[which]) < _TURNED
        slid = followed & (covered | (deviates & ~(corrected & (similarity > _SURE))))
        scene.learn(~slid)

        similarities = [*similarities[1:], np.where(slid, 0.0, current_similarity)]
        position[:, t] = np.where((slid & background)[:, None], expected, estimate)
        visible[:, t] = (followed | returned) & ~slid & inside(position[:, t], shape)
        before, even_before = now, even
    return Tracks(position, visible)


def _follow(
    before: Bytes, now: Bytes, at: Floats, guess: Floats, step: Floats, limit: Floats, seen: Mask
) -> tuple[Floats, Mask]:
    """Track points to the next frame: positions f32[N, 2], the guess where tracking fails, and followed bool[N].

    Points that fail are tried again with a wider window, from the motion of their neighbours: blur removes detail.
    """
    estimate, followed = guess.copy(), np.zeros(len(at), dtype=bool)
    pending = np.flatnonzero(seen & inside(guess, now.shape))
    for window in (_WINDOW, _WIDE):
        moved, miss = _lucas_kanade(before, now, at[pending], guess[pending], 1, window)
        good = miss < limit[pending]
        correction = np.linalg.norm(moved - guess[pending], axis=1)
        near = _within(correction, _GUESS, step[pending])
        far = np.flatnonzero(good & ~near & _within(correction, _FAR, step[pending]))
        near[far] = Appearance(before, at[pending[far]]).match(now, moved[far]) > _CERTAIN
        good &= near
        estimate[pending[good]], followed[pending[good]] = moved[good], True
        pending = pending[~good]
        known = np.flatnonzero(followed)
        if len(pending) == 0 or len(known) < _NEIGHBOURS:
            break
        _, nearest = KDTree(at[known]).query(at[pending], _NEIGHBOURS)
        guess = guess.copy()
        guess[pending] = at[pending] + np.median((estimate - at)[known][nearest], axis=1)
        pending = pending[inside(guess[pending], now.shape)]
    return estimate, followed


def _within(distance: Floats, limits: tuple[float, float], step: Floats) -> Mask:
    """Whether distances f32[N], pixels, are below a limit: pixels, and share of the step f32[N]."""
    below: Mask = distance < limits[0] + limits[1] * step
    return below


def _from_start(start: Bytes, now: Bytes, queries: Floats, estimate: Floats, followed: Mask) -> tuple[Floats, Mask]:
    """Track points directly from frame 0, starting at the estimate: positions f32[N, 2], and valid bool[N].

    Points that were not followed are searched for in a wider area, one pyramid level up.
    """
    matched, exact = estimate.copy(), np.zeros(len(estimate), dtype=bool)
    in_frame = inside(estimate, now.shape)
    for which, levels in ((followed & in_frame, 0), (~followed & in_frame, 1)):
        pending = np.flatnonzero(which)
        moved, miss = _lucas_kanade(start, now, queries[pending], estimate[pending], levels, _WINDOW)
        good = miss < _FROM_START
        matched[pending[good]], exact[pending[good]] = moved[good], True
    return matched, exact


def _lucas_kanade(
    before: Bytes, now: Bytes, at: Floats, guess: Floats, levels: int, window: int
) -> tuple[Floats, Floats]:
    """Refine a guess: positions f32[N, 2], and forward–backward errors f32[N], inf where a point left or failed."""
    if len(at) == 0:
        return guess, np.zeros(0, dtype=np.float32)
    moved, forward_ok = refine(before, now, at, guess, levels, window)
    back, back_ok = refine(now, before, moved, at, levels, window)
    valid = forward_ok & back_ok & inside(moved, now.shape)
    return moved, np.where(valid, np.linalg.norm(back - at, axis=1), np.inf)


def _even_contrast(image: Bytes, side: int = 31) -> Bytes:
    """Subtract the local mean and normalise the local contrast: u8[H, W], invariant to smooth changes of light."""
    mean = cv2.blur(image, (side, side))
    # The mean deviation is smooth, so a quarter of the resolution suffices.
    small = max(1, image.shape[1] // 4), max(1, image.shape[0] // 4)
    deviation = cv2.resize(cv2.absdiff(image, mean), small, interpolation=cv2.INTER_AREA)
    deviation = cv2.blur(deviation.astype(np.float32), (side // 4, side // 4))
    # 5 grey levels are added so that the noise of a flat area is not amplified into texture.
    gain = cv2.resize(36.0 / (deviation + 5.0), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    contrast = cv2.multiply(cv2.subtract(image, mean, dtype=cv2.CV_32F), gain)
    even: Any = cv2.addWeighted(contrast, 1.0, contrast, 0.0, 128.0, dtype=cv2.CV_8U)
    return even


class _Scene:
    """Estimates which points are background, and where the motion of the scene takes every point.

    The motion is a homography from frame 0, fitted by RANSAC to the followed points, plus the median residual of the
    nearest background points, because a scene has depth.
    """

    def __init__(self, queries: Floats) -> None:
        self._start = queries
        self._near = np.zeros(len(queries))
        self._times = np.zeros(len(queries))
        self._now = np.zeros((2, len(queries)), dtype=bool)  # followed in this frame; near the scene's motion
        self._expected: Floats | None = queries
        self.step = np.zeros_like(queries)  # motion of the scene at each point since the frame before

    def expect(self, place: Floats, followed: Mask) -> tuple[Floats, Mask]:
        """Return the expected positions of background points, f32[N, 2], and which are background; none if unknown."""
        nothing = np.zeros(len(place), dtype=bool)
        self.step = np.zeros_like(self._start)
        self._now = np.zeros_like(self._now)
        before, self._expected = self._expected, None
        if followed.sum() < _ENOUGH:
            return place, nothing
        homography, _ = cv2.findHomography(self._start[followed], place[followed], cv2.RANSAC, 3.0)
        if homography is None:
            return place, nothing
        carried = cv2.perspectiveTransform(self._start[:, None], homography)[:, 0]
        beyond = place - carried
        near = followed & (np.linalg.norm(beyond, axis=1) < _SCENE_NEAR)
        # Judged by earlier frames, because this one may be an error; at first there is only this one.
        background = np.where(self._times > 0, self._near > _SCENE_SHARE * self._times, near)
        self._now = np.stack([followed, near])
        seen = np.flatnonzero(background & followed)
        if len(seen) <= _NEIGHBOURS:
            return place, nothing
        _, nearest = KDTree(self._start[seen]).query(self._start, _NEIGHBOURS + 1)
        # A point is not its own neighbour.
        others = np.where((background & followed)[:, None], nearest[:, 1:], nearest[:, :-1])
        expected: Floats = carried + np.median(beyond[seen][others], axis=1)
        if before is not None:
            self.step = expected - before
        self._expected = expected
        return expected, background

    def learn(self, trusted: Mask) -> None:
        """Count this frame for the trusted points bool[N], not for those that slid onto something else."""
        followed, near = self._now & trusted
        self._times += followed
        self._near += near
