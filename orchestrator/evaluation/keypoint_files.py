"""Folders of videos with keypoints, as BADJA's files of joints beside DAVIS's frames: what is in them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import davis, index_masks
from infoaug.orchestrator.settings import one_line

FOLDER = "Keypoints"
# Where the joints of BADJA lie whose frames are DAVIS's, and how large these are: rows and columns.
FULL_RESOLUTION, FULL_SIZE = "Full-Resolution", (1080, 1920)
_FORM = 'a list of {"image_path": …, "joints": [[row, column], …], "visibility": [true, …]}, one a frame, as BADJA'


@dataclass(frozen=True)
class Joints:
    """A sequence with annotated frames.

    Attributes:
        name: of the sequence.
        frames: in order, from the first annotated one to the last.
        shape: height and width of the frames, pixels.
        points: float64[K, 2] by the position of the frame: row and column in pixels, from the frame's corner; NaN for
            joints that are not visible.
        lengths: pixels, that distances are compared with, by the positions of the frames to measure: the square root
            of the area of the frame's mask, or in a sequence without masks the longer side of the box around the
            frame's visible joints.
    """

    name: str
    frames: tuple[Path, ...]
    shape: tuple[int, int]
    points: dict[int, NDArray[np.float64]]
    lengths: dict[int, float]


def load(folder: Path) -> tuple[list[Joints], list[str]]:
    """The sequences of a folder that have keypoints, by name, and sentences on what is not measured.

    Raises:
        UsageError: the folder is not laid out as `JPEGImages/SEQ`, `Annotations/SEQ` and `Keypoints/SEQ.json`; a file
            of joints cannot be read, or joints lie outside their frames; frames or masks have different sizes; or a
            sequence has no frame to compare with its first annotated one.
    """
    files = _files(folder)
    if not files:
        raise UsageError(
            one_line(
                f"'{folder}' has no {FOLDER}/SEQ.json: it must hold {davis.FRAMES}/SEQ with the frames of every "
                f"sequence, {FOLDER}/SEQ.json with their joints, and {davis.MASKS}/SEQ with masks of the annotated ones"
            )
        )
    frames = davis.below(folder, davis.FRAMES)
    masks = davis.below(folder, davis.MASKS) if (folder / davis.MASKS).is_dir() else None
    found, notes = list[Joints](), list[str]()
    for file in files:
        name = file.stem
        images = davis.images_in(frames / name) if (frames / name).is_dir() else []
        own = {path.stem: path for path in davis.images_in(masks / name)} if masks and (masks / name).is_dir() else None
        if images:
            joints, said = _sequence(name, images, own, file)
            found.append(joints)
        else:
            said = ["it has no frames and is not measured"]
        notes += [one_line(f"sequence '{name}': {note}") for note in said]
    if not found:
        folders = one_line(f"'{frames}' has no frames of '{files[0]}': put them into '{frames / files[0].stem}'")
        raise UsageError(folders)
    return found, notes


def fingerprint(folder: Path) -> str:
    """Identifies the content of the files of joints of a folder."""
    whole = hashlib.sha256()
    for file in _files(folder):
        whole.update(json.dumps([file.name, hashlib.sha256(file.read_bytes()).hexdigest()]).encode())
    return whole.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted((folder / FOLDER).glob("*.json")) if not file.name.startswith(".")]


def _sequence(name: str, images: list[Path], masks: dict[str, Path] | None, file: Path) -> tuple[Joints, list[str]]:
    """A sequence of frames, masks by the names of their frames (None: it has none) and joints."""
    shape = davis.one_size(images)
    at, notes = {image.stem: i for i, image in enumerate(images)}, list[str]()
    stored = _read(file, shape)
    points = {at[stem]: own for stem, own in stored.items() if stem in at}
    if absent := len(stored) - len(points):
        notes.append(f"{absent} annotated frames are not among its frames")
    first = min(points, default=0)
    later = sorted(points.keys() - {first})
    if masks is None:
        notes.append("it has no masks, so distances are shares of the longer side of the box around a frame's joints")
        lengths = {i: _box(points[i]) for i in later}
    else:
        of = {i: masks[images[i].stem] for i in later if images[i].stem in masks}
        davis.one_size([images[0], *of.values()])
        lengths = {i: _root_of_area(of[i]) if i in of else 0.0 for i in later}
    usable = [i for i in later if lengths[i] > 0]
    if lacking := len(later) - len(usable):
        notes.append(f"{lacking} annotated frames have no {'box' if masks is None else 'mask'} and are not measured")
    if not any((np.isfinite(points[first]) & np.isfinite(points[i])).any() for i in usable):
        raise UsageError(
            one_line(
                f"sequence '{name}' has no joint to follow: '{file}' needs one that is visible in its first annotated "
                "frame and in a later one, which has a mask"
            )
        )
    own = {i - first: points[i] for i in (first, *usable)}
    frames = tuple(images[first : usable[-1] + 1])
    return Joints(name, frames, shape, own, {i - first: lengths[i] for i in usable}), notes


def _box(points: NDArray[np.float64]) -> float:
    """The longer side of the box around the visible joints, pixels; 0 without any."""
    visible = points[np.isfinite(points[:, 0])]
    return float(np.ptp(visible, axis=0).max()) if len(visible) else 0.0


def _root_of_area(mask: Path) -> float:
    """The square root of the area of all objects in a mask, pixels."""
    try:
        values = index_masks.read(mask)
    except ValueError as error:
        raise UsageError(str(error)) from None
    single = not ((values > 0) & (values < davis.VOID)).any()  # so 255 is the object, and not void
    return float(np.sqrt(np.count_nonzero(values if single else values % davis.VOID)))


def _read(file: Path, shape: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    """The joints of a file by the name of their frame without its suffix, in pixels of frames of this shape."""
    try:
        stored: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(one_line(f"'{file}' cannot be read ({error}): it must hold {_FORM}")) from None
    size, entries = None, stored
    if isinstance(stored, dict):
        size, entries = stored.get("size"), stored.get("frames")
    if not isinstance(entries, list) or not entries:
        raise UsageError(one_line(f"'{file}' must hold {_FORM}"))
    found: dict[str, NDArray[np.float64]] = {}
    for number, entry in enumerate(entries):
        try:
            path, own = _entry(entry)
            rows, columns = size or (FULL_SIZE if FULL_RESOLUTION in path else shape)
            whole = np.array([rows, columns], np.float64)
            if not (whole > 0).all():
                raise ValueError(f"its size is {rows} rows and {columns} columns")
        except (TypeError, ValueError, KeyError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(one_line(f"'{file}', frame {number}: {why}; it must hold {_FORM}")) from None
        if (stem := Path(path).stem) in found:
            raise UsageError(one_line(f"'{file}' has the frame '{stem}' twice ('{path}'): list each frame once"))
        if found and len(own) != len(next(iter(found.values()))):
            raise UsageError(one_line(f"'{file}', '{path}': {len(own)} joints, the frames before have other numbers"))
        outside = np.flatnonzero(((own < 0) | (own > whole)).any(axis=1))  # some lie on the border itself
        if len(outside):
            at = ", ".join(f"{value:g}" for value in own[outside[0]])
            raise UsageError(
                one_line(
                    f"'{file}', '{path}': joint {outside[0]} at (row, column) {at} lies outside the image of "
                    f"{whole[1]:g}×{whole[0]:g} pixels: if its pixels are of another size, write "
                    '{"size": [rows, columns], "frames": the list} into the file'
                )
            )
        found[stem] = (own + 0.5) * (shape / whole)
    return found


def _entry(entry: Any) -> tuple[str, NDArray[np.float64]]:
    """Path of the image and joints float64[K, 2] of a frame, NaN where they are not visible."""
    path, joints, visible = entry["image_path"], entry["joints"], entry["visibility"]
    if not isinstance(path, str) or len(joints) != len(visible):
        raise ValueError(f"it has {len(joints)} joints and {len(visible)} values of visibility")
    if wrong := [value for value in visible if not isinstance(value, int) or value not in (0, 1)]:
        raise ValueError(f"a visibility is {json.dumps(wrong[0]):.100}, not true or false")
    found = np.full((len(joints), 2), np.nan)
    for i, point in enumerate(joints):
        if visible[i]:
            row, column = point
            found[i] = float(row), float(column)
            if not np.isfinite(found[i]).all():
                raise ValueError(f"joint {i} is no finite number")
    return path, found
