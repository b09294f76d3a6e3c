"""Lucas–Kanade made robust: points are led by dense flow, checked against where they came from, and found again.

From frame to frame a point is moved by the dense flow, and then to the sub-pixel by pyramidal Lucas–Kanade (Bouguet
2000) on images of even local contrast, which a change of light leaves alone. It is *followed* where tracking it back
leads to its start (Kalal, Mikolajczyk & Matas 2010), or else where the flow took it to a patch that looks the same. Two
things keep that chain honest:

* the first frame: a patch that still looks as it did there is tracked from there directly, which takes the drift out of
  the chain; one that all at once looks like something else has been covered; a point that was not followed
  comes back where its patch is found again, near where it is supposed to be or where it was seen last;
* the scene: points of the background move together (`_Scene`). That says where those are that cannot be seen, so that
  they are found again; and a background point that leaves the others without looking as it did has slid onto something
  that passes before it, and is not visible.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np
from scipy.spatial import KDTree

from infoaug.estimators.trackers.base import Appearance, Bytes, DenseFlow, Floats, Mask, Tracks, grey, inside

# Side of the window whose motion is solved for, and of the wider one that blurred points are tried with, pixels.
_WINDOW, _WIDE = 21, 31
# The forward–backward error may exceed its limit by this share of the step: what moves fast is blurred.
_BLUR = 0.05
# Lucas–Kanade may correct the guess, of the dense flow or of the neighbours, by so much: pixels, and share of the step.
_GUESS = 1.5, 0.1
# What bends fails Lucas–Kanade; the dense flow still carries it if it looks like this from one frame to the next.
_CARRIED = 0.85
# Tracked back to frame 0, a point must arrive within this of its start, pixels.
_FROM_START = 1.0
# A followed point is put where the first frame has it, if that is no farther than this, pixels, and looks alike.
_DRIFT, _ALIKE = 4.0, 0.6
# A point comes back within this of where it is supposed to be, pixels, if it looks like this: for the background, whose
# place is known well, and for all else.
_BACK_SCENE, _BACK = (4.0, 0.65), (6.0, 0.85)
# So many neighbours tell how a point moves; fewer points than this tell nothing of a scene.
_NEIGHBOURS, _ENOUGH = 8, 12
# A point within so many pixels of the scene's motion, in this share of the frames it was followed in, is background.
_SCENE_NEAR, _SCENE_SHARE = 4.0, 0.7
# A background point farther off than this, pixels and share of the step, must look this much like itself.
_ODD, _SURE = (5.0, 0.1), 0.7
# A point that looks less like itself than this, and did more than that within so many frames before, has been covered.
_COVERED, _MEMORY = (0.3, 0.75), 4


def track(frames: Bytes, queries: Floats, *, forward_backward: float = 1.5) -> Tracks:
    """Track points f32[N, 2] of the first of frames u8[T, H, W(, 3)] (see `trackers.tracks.track`)."""
    count, length, shape = len(queries), len(frames), frames.shape[1:3]
    position = np.repeat(queries[:, None, :], length, axis=1)
    visible = np.zeros((count, length), dtype=bool)
    visible[:, 0] = True
    before = grey(frames[0])
    even_start = even_before = _even_contrast(before)
    flow, appearance, scene = DenseFlow(shape), Appearance(before, queries), _Scene(queries)
    waiting = queries
    looks = [np.ones(count, dtype=np.float32)] * _MEMORY
    for t in range(1, length):
        now = grey(frames[t])
        even = _even_contrast(now)
        at = position[:, t - 1]
        guess = at + flow.at(before, now, at)
        step = np.linalg.norm(guess - at, axis=1)
        limit = forward_backward + _BLUR * step
        place, followed = _follow(even_before, even, at, guess, step, limit, visible[:, t - 1])
        rest = np.flatnonzero(visible[:, t - 1] & ~followed & inside(place, shape))
        followed[rest] = Appearance(before, at[rest]).match(now, place[rest]) > _CARRIED

        expected, background = scene.expect(place, followed)
        place = np.where((background & ~followed)[:, None], expected, place)
        found, exact = _from_start(even_start, even, queries, place, followed)
        alike = np.where(exact, appearance.match(now, found), -1.0)
        off = np.linalg.norm(found - place, axis=1)
        # What passes before a point takes the flow along: the point is also looked for where it was last seen.
        waiting = np.where(visible[:, t - 1, None], at, waiting) + scene.step
        hidden = np.flatnonzero(~followed & ~background)
        there, exact = _from_start(even_start, even, queries[hidden], waiting[hidden], followed[hidden])
        again = np.where(exact, appearance.match(now, there, hidden), -1.0)
        better = again > alike[hidden]
        which = hidden[better]
        found[which], alike[which] = there[better], again[better]
        off[which] = np.linalg.norm(found - waiting, axis=1)[which]

        near, like = (np.where(background, *limits) for limits in zip(_BACK_SCENE, _BACK, strict=True))
        corrected = followed & (off < _DRIFT) & (alike > _ALIKE)
        returned = ~followed & (off < near) & (alike > like)
        astray = background & (np.linalg.norm(place - expected, axis=1) > _ODD[0] + _ODD[1] * step)
        place = np.where((corrected | returned)[:, None], found, place)
        look = appearance.match(now, place)
        covered = (look < _COVERED[0]) & (np.max(looks, axis=0) > _COVERED[1])
        slid = followed & (covered | (astray & ~(corrected & (alike > _SURE))))
        scene.learn(~slid)

        looks = [*looks[1:], np.where(slid, 0.0, look)]
        position[:, t] = np.where((slid & background)[:, None], expected, place)
        visible[:, t] = (followed | returned) & ~slid & inside(position[:, t], shape)
        before, even_before = now, even
    return Tracks(position, visible)


def _follow(
    before: Bytes, now: Bytes, at: Floats, guess: Floats, step: Floats, limit: Floats, seen: Mask
) -> tuple[Floats, Mask]:
    """Take points from one frame to the next: their places f32[N, 2], by the guess if need be, and who was followed.

    Those that fail are tried again with a wider window from where their neighbours went: what is blurred lacks detail.
    """
    place, followed = guess.copy(), np.zeros(len(at), dtype=bool)
    tried = np.flatnonzero(seen & inside(guess, now.shape))
    for window in (_WINDOW, _WIDE):
        there, miss = _lucas_kanade(before, now, at[tried], guess[tried], 1, window)
        good = miss < limit[tried]
        good &= np.linalg.norm(there - guess[tried], axis=1) < _GUESS[0] + _GUESS[1] * step[tried]
        place[tried[good]], followed[tried[good]] = there[good], True
        tried = tried[~good]
        known = np.flatnonzero(followed)
        if len(tried) == 0 or len(known) < _NEIGHBOURS:
            break
        _, nearest = KDTree(at[known]).query(at[tried], _NEIGHBOURS)
        guess = guess.copy()
        guess[tried] = at[tried] + np.median((place - at)[known][nearest], axis=1)
        tried = tried[inside(guess[tried], now.shape)]
    return place, followed


def _from_start(start: Bytes, now: Bytes, queries: Floats, place: Floats, followed: Mask) -> tuple[Floats, Mask]:
    """Track points straight from frame 0, from where they are thought to be: their places f32[N, 2], and which hold.

    Those that were not followed are looked for in a wider circle, one pyramid level up.
    """
    found, exact = place.copy(), np.zeros(len(place), dtype=bool)
    there = inside(place, now.shape)
    for which, levels in ((followed & there, 0), (~followed & there, 1)):
        tried = np.flatnonzero(which)
        at, miss = _lucas_kanade(start, now, queries[tried], place[tried], levels, _WINDOW)
        good = miss < _FROM_START
        found[tried[good]], exact[tried[good]] = at[good], True
    return found, exact


def _lucas_kanade(
    before: Bytes, now: Bytes, at: Floats, guess: Floats, levels: int, window: int
) -> tuple[Floats, Floats]:
    """Where points went from a guess, f32[N, 2], and the forward–backward error f32[N], inf for what left or failed."""
    if len(at) == 0:
        return guess, np.zeros(0, dtype=np.float32)
    options: dict[str, Any] = {
        "winSize": (window, window),
        "maxLevel": levels,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
    }
    flow: Any = partial(cv2.calcOpticalFlowPyrLK, **options)
    # OpenCV writes into the guess that it is given.
    there, went, _ = flow(before, now, at, guess.copy())
    back, came, _ = flow(now, before, there, at.copy())
    valid = (went.ravel() == 1) & (came.ravel() == 1) & inside(there, now.shape)
    return there, np.where(valid, np.linalg.norm(back - at, axis=1), np.inf)


def _even_contrast(image: Bytes, side: int = 31) -> Bytes:
    """Local mean taken out and local contrast evened: u8[H, W], the same under any smooth change of light."""
    mean = cv2.blur(image, (side, side))
    # The mean deviation is smooth: a quarter of the resolution is enough for it.
    small = max(1, image.shape[1] // 4), max(1, image.shape[0] // 4)
    deviation = cv2.resize(cv2.absdiff(image, mean), small, interpolation=cv2.INTER_AREA)
    deviation = cv2.blur(deviation.astype(np.float32), (side // 4, side // 4))
    # So many grey levels are added that the noise of a flat area does not become its texture.
    gain = cv2.resize(36.0 / (deviation + 5.0), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    contrast = cv2.multiply(cv2.subtract(image, mean, dtype=cv2.CV_32F), gain)
    even: Any = cv2.addWeighted(contrast, 1.0, contrast, 0.0, 128.0, dtype=cv2.CV_8U)
    return even


class _Scene:
    """Which points are background, and where the scene's motion has carried every point.

    One homography from frame 0, by RANSAC over the points that were followed; and on top of it what the nearest
    background points show beyond it, since a scene has depth.
    """

    def __init__(self, queries: Floats) -> None:
        self._start = queries
        self._near = np.zeros(len(queries))
        self._times = np.zeros(len(queries))
        self._now = np.zeros((2, len(queries)), dtype=bool)  # Who was followed in this frame, and who near the scene.
        self._expected: Floats | None = queries
        self.step = np.zeros_like(queries)  # How far the scene has carried each point since the frame before.

    def expect(self, place: Floats, followed: Mask) -> tuple[Floats, Mask]:
        """Where points should be if they are background, f32[N, 2], and which are, bool[N]; none if that is unknown."""
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
        # A point is judged by the frames before, since what it does in this one may be a slip; at first, by this one.
        background = np.where(self._times > 0, self._near > _SCENE_SHARE * self._times, near)
        self._now = np.stack([followed, near])
        seen = np.flatnonzero(background & followed)
        if len(seen) <= _NEIGHBOURS:
            return place, nothing
        _, nearest = KDTree(self._start[seen]).query(self._start, _NEIGHBOURS + 1)
        # A point is no neighbour of itself.
        others = np.where((background & followed)[:, None], nearest[:, 1:], nearest[:, :-1])
        expected: Floats = carried + np.median(beyond[seen][others], axis=1)
        if before is not None:
            self.step = expected - before
        self._expected = expected
        return expected, background

    def learn(self, trusted: Mask) -> None:
        """Count this frame, but not for points bool[N] that were seen on something else."""
        followed, near = self._now & trusted
        self._times += followed
        self._near += near
