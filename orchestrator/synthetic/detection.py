"""Rendered scenes as a data set to detect objects in: images, boxes and polygons, laid out as YOLO's.

The objects are the sprites of a scene, which may cover each other, and their classes the families of textures. Sizes,
numbers and places differ from image to image. The scenes are synthetic: they say whether a detector learns, and not
what it is worth on photographs.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.synthetic import scenes
from infoaug.orchestrator.synthetic.scenes import SPACING, Scene

__all__ = ["write"]

LEAST_VISIBLE = 0.1  # share of a sprite; of less, the rest is no object
_FINER = 4  # contours run through the centres of cells so many times as fine as pixels


def write(
    folder: str | os.PathLike[str],
    train: int = 500,
    test: int = 200,
    *,
    seed: int = 0,
    height: int = 120,
    width: int = 160,
    sizes: tuple[int, int] = (20, 56),
    sprites: tuple[int, int] = (2, 6),
) -> Path:
    """Write `images/SPLIT/*.png`, `labels/SPLIT/*.txt` and `segments/SPLIT/*.txt` of the splits train and test.

    A label is `class cx cy w h`, a segment `class x y x y …`, in shares of the image, of what is visible of a sprite.
    The same arguments give the same files. The folder is moved into place when it is complete.

    Args:
        folder: new.
        train: images to train on.
        test: images to test on.
        seed: ≥ 0.
        height: of an image, pixels.
        width: of an image, pixels.
        sizes: smallest and largest side of the sprites of an image, pixels.
        sprites: smallest and largest number of sprites in an image; fewer, where large ones would not fit apart.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists, or a size is out of range.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{str(folder)!r} exists: name a new folder.")
    if SPACING * sizes[1] > min(height, width) or not 1 <= sprites[0] <= sprites[1] or not 8 <= sizes[0] <= sizes[1]:
        raise ValueError(
            f"sizes={sizes} and sprites={sprites} do not fit {width}x{height} pixels: give the smaller number first, "
            f"sizes from 8 to {int(min(height, width) / SPACING)}, and at least one sprite."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    for split, count in (("train", train), ("test", test)):
        for kind in ("images", "labels", "segments"):
            (temporary / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            random = np.random.default_rng([seed, split == "test", number])
            scene = _scene(random, height, width, sizes, sprites)
            found = [*_objects(scene)]
            name = f"{number:05d}"
            cv2.imwrite(str(temporary / "images" / split / f"{name}.png"), scene.frames[-1][..., ::-1])
            for kind, lines in zip(
                ("labels", "segments"), zip(*found, strict=True) if found else ((), ()), strict=True
            ):
                text = "".join(f"{line}\n" for line in lines)
                (temporary / kind / split / f"{name}.txt").write_text(text, encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(folder)
    return folder


def _scene(
    random: np.random.Generator, height: int, width: int, sizes: tuple[int, int], sprites: tuple[int, int]
) -> Scene:
    """A scene whose last frame is the image: in the first, sprites start apart."""
    size = int(random.integers(sizes[0], sizes[1] + 1))
    most = math.floor(width / (SPACING * size)) * math.floor(height / (SPACING * size))
    count = min(most, int(random.integers(sprites[0], sprites[1] + 1)))
    return scenes.render(
        int(random.integers(2**31)), 2, count, height=height, width=width, size=size, coupled=0, static=0, step=size / 3
    )


def _objects(scene: Scene) -> Iterator[tuple[str, str]]:
    """The label and the segment of each sprite that is visible in the last frame, of its largest visible part."""
    height, width = scene.frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    owner = scene.owner(np.stack([x.ravel(), y.ravel()], axis=1), len(scene.frames) - 1).reshape(height, width)
    for sprite, label in enumerate(scene.label):
        visible = (owner == sprite).astype(np.uint8)
        if visible.sum() < LEAST_VISIBLE * scene.size**2:
            continue
        outline, box = _largest(visible)
        left, top, right, bottom = box / np.array([width, height, width, height])
        corners = " ".join(f"{value:.6g}" for value in (outline / np.array([width, height])).ravel())
        centre = f"{(left + right) / 2:.6g} {(top + bottom) / 2:.6g} {right - left:.6g} {bottom - top:.6g}"
        yield f"{label} {centre}", f"{label} {corners}"


def _largest(mask: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The outline f64[n, 2] (x, y) of the largest part of a mask, and its box f64[4] (x0, y0, x1, y1), pixels."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask)
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    x, y, wide, high = statistics[largest, :4]
    fine = np.repeat(np.repeat((parts == largest).astype(np.uint8), _FINER, axis=0), _FINER, axis=1)
    outlines, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return (outlines[0][:, 0] + 0.5) / _FINER, np.array([x, y, x + wide, y + high], np.float64)
