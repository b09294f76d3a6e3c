"""What every tracker returns, and what the classical ones share: grey frames, dense flow and appearance."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Dense flow is found on frames no larger than this, pixels: beyond it costs more than it tells.
_FLOW_SIZE = 960
# OpenCV's DIS reads out of bounds where its 8 px patches do not fit: frames this small are taken to have no flow.
_SMALLEST_FLOW = 32


@dataclass(frozen=True)
class Tracks:
    """Trajectories of N points over T frames.

    Attributes:
        position: f32[N, T, 2], pixels (x, y), finite. Where a point is not visible, where it is supposed to be; that
            may be outside the frame.
        visible: bool[N, T]. A point may disappear and come back; in frame 0 all are visible.
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
    """Say which points f[N, 2] lie on a frame of shape (H, W); NaN does not."""
    return np.asarray(((points >= 0) & (points <= np.array([shape[1] - 1, shape[0] - 1]))).all(axis=1))


def sample(image: NDArray[Any], points: NDArray[np.floating]) -> NDArray[Any]:
    """Bilinear values of an image [H, W] or [H, W, C] at points f32[..., 2]; beyond its edge, those of the edge."""
    if points.size == 0:
        return np.zeros((*points.shape[:-1], *image.shape[2:]), image.dtype)
    x, y = (np.ascontiguousarray(points[..., axis], dtype=np.float32) for axis in (0, 1))
    flat = x.ndim == 1
    if flat:
        x, y = x[:, None], y[:, None]
    values = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values[:, 0] if flat else values


class DenseFlow:
    """Motion of every pixel from one frame to the next: DIS optical flow (Kroeger et al. 2016) of OpenCV.

    `refined` adds denser patches and variational refinement: about three times the work, and more exact.
    """

    def __init__(self, shape: tuple[int, ...], *, refined: bool = False) -> None:
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if refined else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
        self._flow: Any = cv2.DISOpticalFlow.create(preset)
        # Half of the resolution where the preset takes a quarter: on small things that is worth more than refinement.
        self._flow.setFinestScale(1)
        shrink = min(1.0, _FLOW_SIZE / max(shape[:2]))
        self._size = round(shape[1] * shrink), round(shape[0] * shrink)
        self._scale = np.divide(self._size, shape[1::-1])

    def at(self, before: Bytes, after: Bytes, points: Floats) -> Floats:
        """How far points f32[N, 2] of `before` have moved in `after`, both u8[H, W]: f32[N, 2] pixels."""
        if min(self._size) < _SMALLEST_FLOW:
            return np.zeros_like(points)
        if self._size == before.shape[::-1]:
            moved: Floats = sample(self._flow.calc(before, after, None), points)
            return moved
        small = [cv2.resize(image, self._size, interpolation=cv2.INTER_AREA) for image in (before, after)]
        moved = sample(self._flow.calc(*small, None), (points + 0.5) * self._scale - 0.5)
        return np.divide(moved, self._scale, dtype=np.float32)


class Appearance:
    """What the patch around each point looked like at first; compared by normalised cross-correlation.

    Brightness and contrast of the whole patch do not count.
    """

    def __init__(self, frame: Bytes, points: Floats, side: int = 21) -> None:
        offset = np.arange(side, dtype=np.float32) - (side - 1) / 2
        self._grid = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
        self._first = self._patches(frame, points)

    def match(self, frame: Bytes, points: Floats, which: Any = slice(None)) -> Floats:
        """Correlation of the patches of u8[H, W] at f32[N, 2] with the first ones: f32[N], −1 to 1; 0 of flat ones.

        `which` says whose first ones, if not everybody's.
        """
        likeness: Floats = np.einsum("np,np->n", self._patches(frame, points), self._first[which])
        return likeness

    def _patches(self, frame: Bytes, points: Floats) -> Floats:
        """Patches without their mean, of unit length, f32[N, side²]; those that are flat are nearly 0."""
        patches = sample(frame, points[:, None] + self._grid).astype(np.float32)
        patches -= patches.mean(axis=1, keepdims=True)
        # A patch whose contrast is below two grey levels is noise.
        least = 2.0 * np.sqrt(patches.shape[1])
        length = np.sqrt(np.einsum("np,np->n", patches, patches))
        unit: Floats = patches / np.maximum(length, least)[:, None]
        return unit
