"""Folders of videos with masks, as DAVIS lays them out: what is in them, and how a mask is read."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infoaug.estimators.video.frame_folders import in_order
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import index_masks
from infoaug.orchestrator.evaluation.images import SUFFIXES, check_size
from infoaug.orchestrator.settings import one_line

FRAMES, MASKS = "JPEGImages", "Annotations"
RESOLUTION = "480p"  # the folder between those and the sequences that DAVIS has, and copies of it often lack
VOID = 255  # in masks of several objects: pixels that do not count
MOST_OBJECTS = 50  # a mask of more values is a grey picture


@dataclass(frozen=True)
class Video:
    """A sequence of a folder: its frames in order, and the masks by the position of their frame."""

    name: str
    frames: tuple[Path, ...]
    masks: dict[int, Path]


@dataclass(frozen=True)
class Objects:
    """Which values of a sequence's masks are objects: `values` in order, object i + 1 has `values[i]`.

    `single`: the masks are 0 and 255, and values from 128 are the object.
    """

    values: tuple[int, ...]
    single: bool = False

    def read(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """A mask u8[H, W], 0 for the background and i for object i; and bool[H, W], the void pixels."""
        stored = mask_values(path)
        if self.single:
            return (stored > 127).astype(np.uint8), None
        mask = np.zeros_like(stored)
        for i, value in enumerate(self.values):
            mask[stored == value] = i + 1
        void = stored == VOID
        return mask, void if void.any() else None


def videos(folder: Path, names: Sequence[str] = ()) -> list[Video]:
    """The sequences of a folder, by name; only those of `names` if there are any.

    Raises:
        UsageError: the folder is not laid out as `JPEGImages/SEQ` and `Annotations/SEQ` (or `JPEGImages/480p/SEQ` and
            `Annotations/480p/SEQ`), there is no sequence of a name, or a sequence has no frames or no masks that can be
            compared: a mask of the first frame, and one of another frame before the last.
    """
    frames, masks = (below(folder, part) for part in (FRAMES, MASKS))
    found = [entry.name for entry in sorted(frames.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if not found:
        raise UsageError(one_line(f"'{frames}' has no folders of frames: put the frames of a sequence into one each"))
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=3, cutoff=0.0)
            raise UsageError(one_line(f"'{folder}' has no sequence '{name}'; the nearest names are {', '.join(near)}"))
    return [_video(name, frames / name, masks / name) for name in (names or found)]


def check(video: Video) -> None:
    """Check a sequence by its first mask and the sizes of all its files.

    Raises:
        UsageError: a file cannot be read, frames or masks have different sizes, or there is no object in the first
            mask.
    """
    one_size([*video.frames, *video.masks.values()])
    objects(video)


def objects(video: Video) -> Objects:
    """The objects in the first mask of a sequence; others do not count.

    Raises:
        UsageError: there are none, or so many values that it is no mask.
    """
    path = video.masks[0]
    try:
        values = tuple(int(value) for value in np.unique(mask_values(path)) if value)
    except StageError as error:
        raise UsageError(str(error)) from None
    if values == (VOID,):
        return Objects(values, single=True)
    values = tuple(value for value in values if value != VOID)
    if not values:
        raise UsageError(one_line(f"'{path}' has no object: the first mask must show what is to be followed"))
    if len(values) > MOST_OBJECTS:
        raise UsageError(
            one_line(
                f"'{path}' has {len(values)} values: a mask has 0 and 255 for one object, or the number of the object "
                f"in every pixel, for at most {MOST_OBJECTS}"
            )
        )
    return Objects(values)


def mask_values(path: Path) -> NDArray[np.uint8]:
    """The values u8[H, W] of a mask. Raises StageError if `index_masks.read` cannot read it."""
    try:
        return index_masks.read(path)
    except ValueError as error:
        raise StageError(str(error), retry=False) from None


def frame(path: Path) -> NDArray[np.uint8]:
    """A frame u8[H, W, 3] RGB. Raises StageError if it cannot be read."""
    try:
        # Masks are as they are stored, so frames are too, whatever their EXIF orientation.
        stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        stored = None
    if stored is None:
        raise StageError(one_line(f"the frame '{path}' cannot be read: copy it again"), retry=False)
    return np.ascontiguousarray(stored[..., ::-1], np.uint8)


def below(folder: Path, part: str) -> Path:
    """The folder in which the sequences have their folders. Raises UsageError if it is missing."""
    found = folder / part
    if not found.is_dir():
        raise UsageError(
            one_line(
                f"'{folder}' has no folder {part}: it must hold {FRAMES}/SEQ with the frames of every sequence and "
                f"{MASKS}/SEQ with their masks, or {FRAMES}/{RESOLUTION}/SEQ and {MASKS}/{RESOLUTION}/SEQ"
            )
        )
    return found / RESOLUTION if (found / RESOLUTION).is_dir() else found


def _video(name: str, frames: Path, masks: Path) -> Video:
    files = tuple(images_in(frames))
    if not masks.is_dir():
        raise UsageError(one_line(f"'{frames}' has no masks: put them into '{masks}', or remove the frames"))
    by_stem = {path.stem: path for path in images_in(masks)}
    found = {i: by_stem[path.stem] for i, path in enumerate(files) if path.stem in by_stem}
    if 0 not in found or not any(0 < i < len(files) - 1 for i in found):
        raise UsageError(
            one_line(
                f"the sequence '{name}' has {len(files)} frames and masks of {len(found)}: it needs masks named as the "
                "frames, of the first frame and of one between the first and the last"
            )
        )
    return Video(name, files, found)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in the order of the numbers in their names. Raises UsageError if two have one name."""
    found: dict[str, Path] = {}
    for path in in_order(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."):
        if other := found.get(path.stem):
            raise UsageError(one_line(f"'{path}' and '{other.name}' are the same frame: remove one"))
        found[path.stem] = path
    return [*found.values()]


def one_size(files: Sequence[Path]) -> tuple[int, int]:
    """Height and width, pixels, of the frames and masks of a sequence. Raises UsageError if they differ."""
    height, width = _size(files[0])
    for path in files[1:]:
        if (other := _size(path)) != (height, width):
            raise UsageError(
                one_line(
                    f"'{path}' has {other[1]}×{other[0]} pixels and '{files[0].name}' of its sequence "
                    f"{width}×{height}: all frames and masks of a sequence need one size"
                )
            )
    return height, width


def _size(path: Path) -> tuple[int, int]:
    """Height and width, pixels."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            check_size(height, width)
            return height, width
    except Exception as error:  # as in `index_masks.read`
        raise UsageError(one_line(f"'{path}' cannot be read ({error}): copy it again")) from None
