"""Procedural textures: the sprites and backgrounds of the rendered scenes, and a labelled data set made of them.

A sprite's class is its texture family; colours, phase, scale and orientation vary within a class. All random numbers
come from the generator that is passed in, so the same state gives the same pixels.
"""

import colorsys
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FAMILIES", "at_least", "background", "class_labels", "labelled_images", "opaque", "paste", "sprite"]

Array = NDArray[Any]


# ---- families


def _fold(u: Array) -> Array:
    """Distance to the middle of the period, 0–0.5 periods."""
    return np.abs(u - np.floor(u) - 0.5)


def _bands(u: Array) -> Array:
    """Signed distance to the edges of bands, each half a period wide."""
    return _fold(u) - 0.25


def _checker(u: Array, v: Array, rng: np.random.Generator) -> Array:
    a, b = _bands(u), _bands(v)
    return np.maximum(np.minimum(a, -b), np.minimum(-a, b))


def _bricks(u: Array, v: Array, rng: np.random.Generator) -> Array:
    row = np.floor(1.2 * v)
    return np.minimum(0.42 - _fold(1.2 * v), 2 * (0.45 - _fold(0.6 * u + 0.5 * row)))


def _crosses(u: Array, v: Array, rng: np.random.Generator) -> Array:
    a, b = _fold(u), _fold(v)
    return np.maximum(np.minimum(0.13 - a, 0.4 - b), np.minimum(0.4 - a, 0.13 - b))


def _rays(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return np.hypot(u, v) * _bands(np.arctan2(v, u) * 7 / (2 * math.pi))


def _blobs(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return 0.3 * _noise(rng, len(u), len(u), cell=max(3.0, len(u) / 6))


# Each maps coordinates, in periods, to a signed distance, in periods, from the edge between the sprite's two colours.
_FIELDS: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "stripes": lambda u, v, rng: _bands(u),
    "waves": lambda u, v, rng: _bands(u + 0.3 * np.sin(math.pi * v)),
    "zigzag": lambda u, v, rng: _bands(u + 2 * _fold(0.6 * v)),
    "checker": _checker,
    "bricks": _bricks,
    "dots": lambda u, v, rng: 0.32 - np.hypot(_fold(u), _fold(v)),
    "crosses": _crosses,
    "rings": lambda u, v, rng: _bands(np.hypot(u, v)),
    "rays": _rays,
    "blobs": _blobs,
}
FAMILIES: tuple[str, ...] = tuple(_FIELDS)
"""Names of the procedural texture families of the sprites."""


# ---- painting


def sprite(rng: np.random.Generator, family: int, side: int) -> Array:
    """A sprite with random colours, phase, scale and orientation.

    Args:
        rng: what everything random is drawn from.
        family: an index into `FAMILIES`.
        side: pixels.

    Returns:
        Opaque RGBA f32[side, side, 4], colours 0–255.
    """
    period = side / rng.uniform(3.0, 4.2)
    angle = rng.uniform(0, 2 * math.pi)
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / period
    x, y = np.meshgrid(axis, axis)
    u = math.cos(angle) * x + math.sin(angle) * y + rng.uniform(-0.5, 0.5)
    v = math.cos(angle) * y - math.sin(angle) * x + rng.uniform(-0.5, 0.5)
    # A slight warp and a grain: without them a tracker could slide along a stripe or jump by a period.
    u, v = (w + 0.08 * _noise(rng, side, side, cell=side / 3) for w in (u, v))
    mix = np.clip(0.5 + period * _FIELDS[FAMILIES[family]](u, v, rng), 0, 1)[..., None]
    hue, contrast = rng.random(), rng.uniform(0.25, 0.75)
    colours = [
        colorsys.hsv_to_rgb(hue, rng.uniform(0.7, 1), rng.uniform(0.2, 0.4)),
        colorsys.hsv_to_rgb(hue + contrast, rng.uniform(0.2, 0.6), rng.uniform(0.8, 0.95)),
    ]
    first, second = 255 * np.array(colours if rng.random() < 0.5 else colours[::-1], np.float32)
    shade = 1 + 0.08 * _noise(rng, side, side, cell=side / 4) + 0.08 * _noise(rng, side, side, cell=3)
    return opaque(np.clip((first + mix * (second - first)) * shade[..., None], 0, 255))


def background(rng: np.random.Generator, height: int, width: int, hue: bool = False) -> NDArray[np.uint8]:
    """A muted texture without repetition, with structure and corners at many scales, u8[H, W, 3]; `hue` tints it."""
    image = np.full((height, width, 3), 115, np.float32)
    if hue:
        image += 60 * (np.array(colorsys.hsv_to_rgb(rng.random(), 1, 1), np.float32) - 0.5)
    for cell, weight in ((64, 14), (24, 10)):
        image += weight * np.stack([_noise(rng, height, width, cell) for _ in range(3)], axis=-1) * 0.5
        image += weight * _noise(rng, height, width, cell)[..., None]
    shards = np.zeros((height, width), np.float32)
    for _ in range(height * width // 120):  # overlapping polygons, so that there are corners to track everywhere
        angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 6)))
        corners = rng.uniform(3, 14) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        corners += rng.uniform(0, 1, 2) * (width, height)
        cv2.fillPoly(shards, [np.rint(corners).astype(np.int32)], rng.uniform(-60, 60))
    image += cv2.GaussianBlur(shards, (0, 0), 0.6)[..., None]
    for cell, weight in ((8, 8), (3, 7)):
        image += weight * _noise(rng, height, width, cell)[..., None]
    return np.clip(image, 20, 215).astype(np.uint8)


def opaque(image: Array) -> Array:
    """An image u8 or f32[H, W, 3] as an opaque layer, RGBA f32[H, W, 4], colours 0–255 and alpha 1."""
    return np.dstack([image.astype(np.float32), np.ones(image.shape[:2], np.float32)])


def paste(image: Array, layer: Array, affine: Array) -> None:
    """Draw a layer into an image, in place and with sub-pixel accuracy; what falls outside is cut off.

    Args:
        image: u8[H, W, 3].
        layer: RGBA f32[h, w, 4].
        affine: f64[2, 3], maps pixel centres of the layer to those of the image.
    """
    height, width = layer.shape[:2]
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]]) @ affine[:, :2].T + affine[:, 2]
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, image.shape[1::-1])
    if left >= right or top >= bottom:
        return
    # Outside the layer colour and alpha are 0, so interpolation anti-aliases its edge and premultiplies the colours.
    moved = affine - [[0, 0, left], [0, 0, top]]
    drawn = cv2.warpAffine(layer, moved, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    region = image[top:bottom, left:right]
    region[:] = np.rint(region * (1 - drawn[..., 3:]) + drawn[..., :3])


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Array:
    """Smooth noise f32[H, W] of mean 0 and standard deviation about 1, with a correlation length of `cell` pixels."""
    columns, rows = math.ceil(width / cell) + 3, math.ceil(height / cell) + 3
    # A standard deviation of 1.4 compensates for the variance that interpolation removes.
    grid = rng.uniform(-2.4, 2.4, (rows, columns)).astype(np.float32)
    left, top = rng.random(2) + 0.5
    affine = np.array([[1 / cell, 0, left], [0, 1 / cell, top]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grid, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


# ---- data set


def labelled_images(seed: int, count: int, image_size: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of single sprites over a background, labelled with their texture family: the built-in evaluation data set.

    Colours, phase, scale, orientation, the sprite's position and the background are random. Classes are shuffled and
    balanced: their counts differ by at most one.

    Args:
        seed: ≥ 0.
        count: number of images, ≥ 1.
        image_size: side S of an image, pixels, ≥ 16.

    Returns:
        u8[count, S, S, 3] RGB, and int64[count], an index into `FAMILIES`.

    Raises:
        ValueError: an argument is out of range.
    """
    at_least("seed", seed, 0)
    at_least("count", count, 1)
    at_least("image_size", image_size, 16)
    rng, labels = _shuffled(seed, count)
    ground = background(rng, 16 * image_size, 16 * image_size)
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        x, y = rng.integers(15 * image_size, size=2)
        image[:] = ground[y : y + image_size, x : x + image_size]
        side = int(rng.integers(round(0.7 * image_size), image_size + 1))
        left, top = rng.uniform(-0.1, 0.1, 2) * image_size + (image_size - side) / 2
        paste(image, sprite(rng, label, side), np.array([[1, 0, left], [0, 1, top]]))
    return images, labels


def class_labels(seed: int, count: int) -> NDArray[np.int64]:
    """The labels int64[count] of `labelled_images`, without drawing the images."""
    return _shuffled(seed, count)[1]


def _shuffled(seed: int, count: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return rng, rng.permutation(np.arange(count) % len(FAMILIES))


def at_least(name: str, value: int, least: int) -> None:
    """Raise a ValueError that names the argument if its value is not a whole number of at least `least`."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
