"""The result of every tracker, and what the classical ones share: grey frames, dense flow and appearance."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.options import MATCHING_WINDOW

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Frames are reduced to this size for dense flow, pixels; a larger one costs more than it improves. For unrefined flow
# it is half of this.
_FLOW_SIZE = 960
# No side of a frame is halved to less, pixels: the flow needs some coarser images below it.
_SMALLEST_HALF = 64
# Pixels from a patch of the flow to the next. The cost falls with its square; at 5, fast blurred swings are lost.
_PATCH_STRIDE = 4
# The last step of unrefined flow is Lucas–Kanade with this window; it corrects by less than this, pixels.
_LAST_WINDOW, _LAST_STEP = 11, 4.0
# Lucas–Kanade stops after these iterations, and at a step of this size, pixels. Smaller steps change no match.
_STOPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
# OpenCV's DIS reads out of bounds where its 8 px patches do not fit: smaller frames get zero flow.
_SMALLEST_FLOW = 32


@dataclass(frozen=True)
class Tracks:
    """Trajectories of N points over T frames.

    Attributes:
        position: f32[N, T, 2], pixels (x, y), finite. For a point that is not visible, the expected position,
            which may be outside the frame.
        visible: bool[N, T]. A point may disappear and come back; all are visible in frame 0.
    """

    position: Floats
    visible: Mask


def grey(frame: Bytes) -> Bytes:
    """Return a frame u8[H, W, 3] RGB or u8[H, W] as a contiguous u8[H, W]."""
    if frame.ndim == 2:
        return np.ascontiguousarray(frame)
    single: Any = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return single


def inside(points: Floats, shape: tuple[int, ...]) -> Mask:
    """Return which points f[N, 2] lie inside a frame of shape (H, W): bool[N]; NaN does not."""
    return np.asarray(((points >= 0) & (points <= np.array([shape[1] - 1, shape[0] - 1]))).all(axis=1))


def sample(image: NDArray[Any], points: NDArray[np.floating]) -> NDArray[Any]:
    """Interpolate an image [H, W] or [H, W, C] bilinearly at points f32[..., 2]; the edge is repeated beyond it."""
    if points.size == 0:
        return np.zeros((*points.shape[:-1], *image.shape[2:]), image.dtype)
    x, y = (np.ascontiguousarray(points[..., axis], dtype=np.float32) for axis in (0, 1))
    flat = x.ndim == 1
    if flat:
        x, y = x[:, None], y[:, None]
    values = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values[:, 0] if flat else values


def refine(before: Bytes, after: Bytes, points: Floats, guess: Floats, levels: int, window: int) -> tuple[Floats, Mask]:
    """Refine where points f32[N, 2] went, by pyramidal Lucas–Kanade (Bouguet 2000) of OpenCV.

    Args:
        before: u8[H, W].
        after: u8[H, W].
        points: f32[N, 2] in `before`, N ≥ 1.
        guess: f32[N, 2] in `after`, where the search starts.
        levels: of the pyramid above the full resolution.
        window: its side, pixels.

    Returns:
        f32[N, 2]; and bool[N], whether OpenCV found the point.
    """
    options: dict[str, Any] = {"winSize": (window, window), "maxLevel": levels, "criteria": _STOPS}
    # OpenCV overwrites the guess.
    result: Any = cv2.calcOpticalFlowPyrLK(
        before, after, points, guess.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **options
    )
    found, ok, _ = result
    return found, ok.ravel() == 1


class DenseFlow:
    """Optical flow from one frame to the next: DIS (Kroeger et al. 2016) of OpenCV, to half of its images' resolution.

    Flow is wanted at some hundred points. It is therefore computed on frames of half the size, and the last step, to
    their full resolution, is made at the points alone, by Lucas–Kanade: less than half the cost of dense flow there.

    Args:
        shape: (height, width, …) of the frames.
        refined: use frames of full size, denser patches and variational refinement, and no Lucas–Kanade: more exact
            where there is no texture, at about eight times the cost.
    """

    def __init__(self, shape: tuple[int, ...], *, refined: bool = False) -> None:
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if refined else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
        self._flow: Any = cv2.DISOpticalFlow.create(preset)
        self._flow.setFinestScale(1)
        shrink = min(1.0, _FLOW_SIZE / max(shape[:2]))
        if not refined:
            self._flow.setPatchStride(_PATCH_STRIDE)
            if min(shape[:2]) * shrink >= 2 * _SMALLEST_HALF:
                shrink /= 2
        self._refined = refined
        self._size = round(shape[1] * shrink), round(shape[0] * shrink)
        self._scale = np.divide(self._size, shape[1::-1])

    def at(self, before: Bytes, after: Bytes, points: Floats) -> Floats:
        """Return the motion of points f32[N, 2] from `before` to `after`, both u8[H, W]: f32[N, 2], pixels."""
        if min(self._size) < _SMALLEST_FLOW or len(points) == 0:
            return np.zeros_like(points)
        first, second = (self._reduced(image) for image in (before, after))
        places = np.subtract((points + 0.5) * self._scale, 0.5, dtype=np.float32)
        moved: Floats = sample(self._flow.calc(first, second, None), places)
        if not self._refined:
            moved = self._last(first, second, places, moved)
        return np.divide(moved, self._scale, dtype=np.float32)

    def _reduced(self, image: Bytes) -> Bytes:
        if self._size == image.shape[::-1]:
            return image
        small: Any = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        return small

    def _last(self, first: Bytes, second: Bytes, places: Floats, moved: Floats) -> Floats:
        """The last step: motion f32[N, 2] at places f32[N, 2], both in pixels of the reduced images."""
        guess = places + moved
        found, ok = refine(first, second, places, guess, 0, _LAST_WINDOW)
        within = inside(guess, first.shape) & inside(found, first.shape)
        good = ok & within & (np.linalg.norm(found - guess, axis=1) < _LAST_STEP)
        return np.where(good[:, None], found - places, moved)


class Appearance:
    """The patch around each point in a first frame, compared with others by normalised cross-correlation.

    The correlation does not depend on a patch's brightness and contrast.
    """

    def __init__(self, frame: Bytes, points: Floats, side: int = MATCHING_WINDOW) -> None:
        offset = np.arange(side, dtype=np.float32) - (side - 1) / 2
        self._grid = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
        self._first = self._patches(frame, points)

    def match(self, frame: Bytes, points: Floats, which: Any = slice(None)) -> Floats:
        """Correlate patches of a frame with the first ones.

        Args:
            frame: u8[H, W].
            points: f32[N, 2], the centres of the patches.
            which: indices of the N first patches; by default all.

        Returns:
            f32[N], from −1 to 1; about 0 for a patch without contrast.
        """
        likeness: Floats = np.einsum("np,np->n", self._patches(frame, points), self._first[which])
        return likeness

    def match_where(self, chosen: Mask, frame: Bytes, points: Floats, which: Any = slice(None)) -> Floats:
        """`match` of the chosen of the points, bool[N]; −1 of the others: f32[N]."""
        likeness = np.full(len(points), -1.0, dtype=np.float32)
        of = np.arange(len(self._first))[which]
        likeness[chosen] = self.match(frame, points[chosen], of[chosen])
        return likeness

    def _patches(self, frame: Bytes, points: Floats) -> Floats:
        """Return patches with mean 0 and norm 1, f32[N, side²]; flat ones are nearly 0."""
        patches = sample(frame, points[:, None] + self._grid).astype(np.float32)
        patches -= patches.mean(axis=1, keepdims=True)
        # A patch whose contrast is below two grey levels is noise.
        least = 2.0 * np.sqrt(patches.shape[1])
        length = np.sqrt(np.einsum("np,np->n", patches, patches))
        unit: Floats = patches / np.maximum(length, least)[:, None]
        return unit
