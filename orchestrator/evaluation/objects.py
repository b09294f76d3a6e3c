"""Images with objects, to detect them: boxes, classes and masks, as COCO's JSON or YOLO's text files give them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import image_folder, images
from infoaug.orchestrator.settings import one_line

Shape = dict[str, Any] | list[NDArray[np.float64]]  # run lengths as COCO has them, or polygons f64[2 n]: x, y, x, y …

_SLACK = 0.01  # share of an image's side that a box may reach beyond it, by rounding: it is cut off


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


@dataclass(frozen=True)
class Objects:
    """A data set to detect objects in.

    Attributes:
        name: of the folder, for messages.
        pictures: by split, `train` (none without an object) and `test`.
        classes: names by category; labels number them from 1 on.
        masks: whether all objects have one.
        notes: sentences on what is not used.
    """

    name: str
    pictures: dict[str, list[Picture]]
    classes: dict[int, str]
    masks: bool
    notes: list[str]

    def read(self, picture: Picture) -> tuple[Tensor, dict[str, Tensor]]:
        """An image u8[3, H, W] and its objects.

        Returns:
            `boxes` f32[n, 4] (x0, y0, x1, y1, pixels), `labels` int64[n] from 1 on, `iscrowd` int64[n], and if the data
            set has masks `masks` u8[n, H, W], of 0 and 1.

        Raises:
            UsageError: the image cannot be read, or has another size than its annotations.
        """
        try:
            pixels = images.original(picture.path)
        except (OSError, ValueError) as error:
            raise UsageError(one_line(f"image '{picture.path}' cannot be read: {error}")) from None
        height, width = pixels.shape[1:]
        if picture.size not in (None, (height, width)):
            raise UsageError(
                one_line(
                    f"image '{picture.path}' has {width}x{height} pixels, its annotations are for "
                    f"{picture.size[1]}x{picture.size[0]}: give the image that was annotated"
                )
            )
        unit = (1, 1) if picture.size else (width, height)
        labels = {category: number for number, category in enumerate(self.classes, start=1)}
        boxes = np.array([thing.box for thing in picture.things], np.float32).reshape(-1, 4) * (*unit, *unit)
        found = {
            "boxes": torch.from_numpy(boxes.astype(np.float32)),
            "labels": torch.tensor([labels[thing.category] for thing in picture.things], dtype=torch.int64),
            "iscrowd": torch.tensor([int(thing.crowd) for thing in picture.things], dtype=torch.int64),
        }
        if self.masks:
            masks = [mask(thing.shape, height, width, unit) for thing in picture.things]
            found["masks"] = torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width))
        return pixels, found


def load(name: str, limit: int | None = None) -> Objects:
    """Open a data set: COCO's JSON, or a folder in one of the layouts of `coco.read` and `yolo.read`.

    No image is opened.

    Args:
        name: of the folder or file.
        limit: take the first images of each split only, by name, that many.

    Raises:
        UsageError: it has neither layout, files are missing or cannot be read, a box lies outside of its image, or a
            split has no objects.
    """
    from infoaug.orchestrator.evaluation import coco, yolo  # both give what is defined here

    root = Path(name).expanduser()
    try:
        found = coco.read(root, limit) if coco.is_coco(root) else yolo.read(root, limit)
    except OSError as error:
        raise UsageError(one_line(f"evaluate.detection: '{error.filename}' cannot be read: {error.strerror}")) from None
    notes, pictures = [*found.notes], {}
    for split, of in found.pictures.items():
        kept = [_cut(picture) for picture in of]
        if empty := sum(len(old.things) - len(new.things) for old, new in zip(of, kept, strict=True)):
            notes.append(f"{split}: {empty} boxes without an area are left out")
        if split == "train":
            kept = [p for p in kept if any(not thing.crowd for thing in p.things)]
            if lacking := len(of) - len(kept):
                notes.append(f"{split}: {lacking} of {len(of)} images without objects are left out")
        if not any(not thing.crowd for picture in kept for thing in picture.things):
            raise UsageError(one_line(f"evaluate.detection: '{name:.300}' has no object in its {split} images"))
        pictures[split] = kept
    _check_apart(pictures)
    trained, tested = (
        {thing.category for picture in of for thing in picture.things if not thing.crowd} for of in pictures.values()
    )
    if unknown := tested - trained:
        notes.append(f"{len(unknown)} of {len(tested)} classes of the test images are in no training image")
    classes = {category: found.names.get(category, str(category)) for category in sorted(_categories(pictures))}
    shapeless = [p for of in pictures.values() for p in of if any(thing.shape is None for thing in p.things)]
    if 0 < len(shapeless) < sum(len(picture.things) > 0 for of in pictures.values() for picture in of):
        notes.append(
            f"no masks are found: {len(shapeless)} images have objects without one, '{shapeless[0].path}' for one"
        )
    return Objects(name, pictures, classes, not shapeless, [one_line(note) for note in notes])


def fingerprint(name: str) -> str:
    """Identifies the content of a data set: its images and annotations."""
    root = Path(name).expanduser()
    if root.is_file():
        root = root.parent.parent if root.parent.name == "annotations" else root.parent
    return image_folder.fingerprint(root, (".txt", ".json")) if root.is_dir() else "0:0"


def mask(shape: Shape | None, height: int, width: int, unit: tuple[int, int] = (1, 1)) -> NDArray[np.uint8]:
    """The mask of a shape, u8[H, W] of 0 and 1, by COCO's own rule; `unit` (x, y): of its polygons, pixels."""
    from faster_coco_eval.core import mask as coco_masks  # an extra

    if isinstance(shape, dict):
        packed = shape if isinstance(shape["counts"], str | bytes) else coco_masks.frPyObjects(shape, height, width)
    else:
        polygons = [(polygon.reshape(-1, 2) * unit).ravel().tolist() for polygon in shape or ()]
        packed = coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
    decoded: NDArray[np.uint8] = coco_masks.decode(packed)
    return decoded


def _cut(picture: Picture) -> Picture:
    """A picture whose boxes are cut at the image's border, without those that have no area.

    Raises UsageError for a box that is not in the image.
    """
    height, width = picture.size or (1, 1)
    things = []
    for number, thing in enumerate(picture.things, start=1):
        x0, y0, x1, y1 = thing.box
        slack_x, slack_y = (_SLACK * side + (side > 1) for side in (width, height))
        if not (x0 >= -slack_x and y0 >= -slack_y and x1 <= width + slack_x and y1 <= height + slack_y):
            what = ", ".join(f"{value:g}" for value in thing.box)
            of = f"{width}x{height} pixels" if picture.size else "shares of its width and height"
            raise UsageError(
                one_line(
                    f"evaluate.detection: the box ({what}) of object {number} reaches out of '{picture.path}' ({of}): "
                    "correct its annotation"
                )
            )
        box = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        if box[0] < box[2] and box[1] < box[3]:
            things.append(Thing(box, thing.category, thing.shape, thing.crowd))
    return Picture(picture.path, things, picture.size)


def _check_apart(pictures: dict[str, list[Picture]]) -> None:
    both = {p.path for p in pictures["train"]} & {p.path for p in pictures["test"]}
    if both:
        raise UsageError(one_line(f"evaluate.detection: '{min(both)}' is a training and a test image: leave out one"))


def _categories(pictures: dict[str, list[Picture]]) -> Iterable[int]:
    return {thing.category for of in pictures.values() for picture in of for thing in picture.things}
