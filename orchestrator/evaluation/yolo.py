"""YOLO's annotations of objects: beside every image a text file, a line an object, in shares of the image's sides."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import image_folder
from infoaug.orchestrator.evaluation.annotated import Found, Picture, Thing
from infoaug.orchestrator.settings import one_line

_LONGEST_FILE = 16 << 20  # bytes


def read(root: Path, limit: int | None = None) -> Found:
    """Read a folder with `images/SPLIT` and `labels/SPLIT` (or `SPLIT/images` and `SPLIT/labels`).

    A line is `class cx cy w h`, a box by its centre and sides, or `class x y x y x y …`, a polygon, whose box is its
    extent. If there is a folder `segments/SPLIT` with polygons of all images of both splits, it takes the place of
    `labels/SPLIT`. An image without a file has no objects.

    Args:
        root: the folder.
        limit: the first images of each split, by name, that many.

    Raises:
        UsageError: there is no training or no held-out split with labels, or a line cannot be read.
    """
    splits = _splits(root)
    held = next((role for role in ("test", "val") if role in splits and _beside(splits[role], "labels").is_dir()), None)
    if "train" not in splits or held is None:
        raise UsageError(
            one_line(
                f"evaluate.detection: '{root}' is neither COCO's JSON, nor a folder with annotations/*.json, nor one "
                "with images/train, images/val (or test), and labels of the same images in labels/train, labels/val"
            )
        )
    folders = {"train": splits["train"], "test": splits[held]}
    named = {split: image_folder.by_stem(folder, "evaluate.detection", "label") for split, folder in folders.items()}
    files = {split: [*of.values()][:limit] for split, of in named.items()}
    notes = ["the split 'val' is not used"] if held == "test" and "val" in splits else []
    kind = "labels"
    if all(_beside(folder, "segments").is_dir() for folder in folders.values()):
        lacking = [file for split in files for file in _lacking(folders[split], files[split])]
        kind = "labels" if lacking else "segments"
        if lacking:
            whole = sum(map(len, files.values()))
            notes.append(
                f"no masks are found: {len(lacking)} of {whole} images are not in segments, '{lacking[0].name}' for one"
            )
        else:
            notes.append(
                "objects are those of segments, with the extents of the polygons as boxes: labels are not read"
            )
    pictures = {}
    for split, folder in folders.items():
        beside = _beside(folder, kind)
        written = [beside / f"{file.stem}.txt" for file in files[split]]
        if without := sum(not file.is_file() for file in written):
            notes.append(f"{split}: {without} of {len(written)} images have no file in {kind}, so no objects")
        pictures[split] = [
            Picture(image, [*_things(file)] if file.is_file() else [])
            for image, file in zip(files[split], written, strict=True)
        ]
    return Found(pictures, {}, notes)


def _splits(root: Path) -> dict[str, Path]:
    """The folders of images by role."""
    if (root / "images").is_dir():
        return image_folder.split_folders(root / "images")
    inner = {role: folder / "images" for role, folder in image_folder.split_folders(root).items()}
    return {role: folder for role, folder in inner.items() if folder.is_dir()}


def _beside(folder: Path, kind: str) -> Path:
    """The folder of labels or segments of a folder of images."""
    if folder.name == "images":
        return folder.with_name(kind)
    return folder.parent.with_name(kind) / folder.name


def _lacking(folder: Path, files: list[Path]) -> Iterator[Path]:
    """Images that have labels and no polygons."""
    labels, segments = _beside(folder, "labels"), _beside(folder, "segments")
    for file in files:
        name = f"{file.stem}.txt"
        if (labels / name).is_file() and not (segments / name).is_file():
            yield file


def _things(file: Path) -> Iterator[Thing]:
    """The objects of a file. Raises UsageError for a line that is no box and no polygon."""
    if file.stat().st_size > _LONGEST_FILE:
        raise UsageError(one_line(f"evaluate.detection: '{file}' has more than {_LONGEST_FILE >> 20} MiB"))
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if line.strip():
            try:
                yield _thing(line.split())
            except ValueError as error:
                raise UsageError(one_line(f"evaluate.detection: '{file}', line {number}: {error}")) from None


def _thing(words: list[str]) -> Thing:
    try:
        category, *numbers = map(float, words)
    except ValueError:
        raise ValueError("it has something that is no number: give `class cx cy w h` or `class x y x y x y`") from None
    if not category.is_integer() or category < 0:
        raise ValueError(f"the class '{words[0]:.20}' is no whole number from 0 on")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("its numbers must be finite")
    if len(numbers) == 4:
        x, y, width, height = numbers
        return Thing((x - width / 2, y - height / 2, x + width / 2, y + height / 2), int(category))
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"it has {len(numbers)} numbers behind its class: a box has 4, a polygon an even number from 6"
        )
    across, down = numbers[::2], numbers[1::2]
    return Thing((min(across), min(down), max(across), max(down)), int(category), [np.array(numbers)])
