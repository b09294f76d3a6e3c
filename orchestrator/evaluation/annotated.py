"""Annotated images as their files give them: objects with boxes, categories and shapes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAR = 4  # sides of an image, beyond which no polygon of it reaches
Shape = dict[str, Any] | list[NDArray[np.float64]]  # run lengths as COCO has them, or polygons f64[2 n]: x, y, x, y …


@dataclass(frozen=True)
class Thing:
    """An object in an image.

    Attributes:
        box: x0, y0, x1, y1, in the image's unit.
        category: as the file has it.
        shape: its mask, polygons in the image's unit; None if it has none.
        crowd: whether it stands for several objects that are neither trained on nor counted, as in COCO.
    """

    box: tuple[float, float, float, float]
    category: int
    shape: Shape | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Picture:
    """An image file and its objects.

    Attributes:
        path: of the file.
        things: in it.
        size: height and width that the annotations are for, pixels, which are their unit; None if the unit is the
            height and the width of the image.
    """

    path: Path
    things: list[Thing]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """What a reader of a layout found.

    Attributes:
        pictures: by split, `train` and `test`.
        names: of the classes by category, where they have names.
        notes: sentences on what is not used.
    """

    pictures: dict[str, list[Picture]]
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def mask(shape: Shape | None, height: int, width: int, unit: tuple[int, int] = (1, 1)) -> NDArray[np.uint8]:
    """The mask of a shape, u8[H, W] of 0 and 1, by COCO's own rule; `unit` (x, y): of its polygons, pixels.

    Raises ValueError for run lengths that cannot be read or are of another size, and for polygons that reach so far
    out of the image that they are of another one.
    """
    from faster_coco_eval.core import mask as coco_masks  # an extra

    if isinstance(shape, dict):
        try:
            packed = shape if isinstance(shape["counts"], str | bytes) else coco_masks.frPyObjects(shape, height, width)
            decoded: NDArray[np.uint8] = coco_masks.decode(packed)
        except (RuntimeError, ValueError, TypeError) as error:  # a RuntimeError names types of C++
            raise ValueError("a mask has run lengths that cannot be read") from error
    else:
        corners = [polygon.reshape(-1, 2) * unit for polygon in shape or ()]
        # Every pixel of an outline takes memory, also of one that is out of the image.
        if any((np.abs(own) > _FAR * np.array([width, height])).any() for own in corners):
            raise ValueError(f"a polygon reaches far out of the image of {width}x{height} pixels")
        packed = coco_masks.merge(coco_masks.frPyObjects([own.ravel().tolist() for own in corners], height, width))
        decoded = coco_masks.decode(packed)
    if decoded.shape != (height, width):
        raise ValueError(
            f"a mask in run lengths has {decoded.shape[1]}x{decoded.shape[0]} pixels, not {width}x{height}"
        )
    return decoded
