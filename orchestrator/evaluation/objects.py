"""Data sets to detect objects in, of COCO's JSON or YOLO's text files: splits, classes, and what of them is used."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import coco, image_folder, images, yolo
from infoaug.orchestrator.evaluation.annotated import Picture, Thing, mask
from infoaug.orchestrator.settings import one_line

_SLACK = 0.01  # share of an image's side that a box may reach beyond it, by rounding: it is cut off


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
            UsageError: the image cannot be read, or has another size than its annotations or a mask.
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
            try:
                masks = [mask(thing.shape, height, width, unit) for thing in picture.things]
            except ValueError as error:
                raise UsageError(one_line(f"evaluate.detection: of '{picture.path}', {error}: correct it")) from None
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
    root = image_folder.located(name)
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
    root = image_folder.located(name)
    if root.is_file():
        root = root.parent.parent if root.parent.name == "annotations" else root.parent
    return image_folder.fingerprint(root, (".txt", ".json")) if root.is_dir() else "0:0"


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
