"""COCO's annotations of objects: one JSON file a split, with `images`, `annotations` and `categories`."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import image_folder
from infoaug.orchestrator.evaluation.annotated import Found, Picture, Shape, Thing
from infoaug.orchestrator.settings import one_line

_BESIDE_IMAGES = "_annotations.coco.json"  # as some tools name it
_ATTRIBUTES = ("images", "annotations", "categories")


def is_coco(root: Path) -> bool:
    """Whether a path is a JSON file, or a folder with those of splits."""
    if root.suffix == ".json" and root.is_file():
        return True
    return bool(_by_role(_written(root)) or (_written(root) and not (root / "labels").is_dir()))


def read(root: Path, limit: int | None = None) -> Found:
    """Read the annotations of two splits.

    Args:
        root: a folder with `annotations/*.json`, whose names have that of a split (`instances_train2017.json`), or with
            SPLIT/_annotations.coco.json. Images lie in a folder SPLIT or images/SPLIT, or where `file_name` says from
            the folder on. Or a JSON file, of whose images every fifth is for testing.
        limit: the first images of each split, by name, that many.

    Raises:
        UsageError: there is no training or no held-out split, a file is no annotation of objects, or an image is
            missing.
    """
    if root.is_file():
        pictures, names = _split(root, root.parent, None)
        held = slice(None, None, image_folder.HELD_OUT)
        test = pictures[held][:limit]
        del pictures[held]
        notes = [f"every fifth image is for testing: {len(test)}"]
        return Found({"train": pictures[:limit], "test": test}, names, notes)
    files = _by_role(_written(root))
    held_out = next((role for role in ("test", "val") if role in files), None)
    if "train" not in files or held_out is None:
        names_found = ", ".join(file.name for file in _written(root))
        raise UsageError(
            one_line(
                f"evaluate.detection: '{root}' needs annotations of a training and of a test or validation split, such "
                "as annotations/instances_train2017.json and instances_val2017.json, or name one file, of whose images "
                f"every fifth is then for testing; it has {names_found}"
            )
        )
    found, names, notes = {}, dict[int, str](), []
    for split, role in (("train", "train"), ("test", held_out)):
        if len(files[role]) > 1:
            raise UsageError(
                one_line(
                    f"evaluate.detection: '{files[role][0]}' and '{files[role][1]}' are both of one split: name one of "
                    "them, or remove one"
                )
            )
        found[split], of_split = _split(files[role][0], root, limit)
        if wrong := [c for c in names.keys() & of_split.keys() if names[c] != of_split[c]]:
            raise UsageError(
                one_line(
                    f"evaluate.detection: category {wrong[0]} is '{names[wrong[0]]}' in one split of '{root}' and "
                    f"'{of_split[wrong[0]]}' in the other: number them alike"
                )
            )
        names |= of_split
    if held_out == "test" and "val" in files:
        notes.append(f"the annotations '{files['val'][0].name}' are not used")
    return Found(found, names, notes)


def _written(root: Path) -> list[Path]:
    """The JSON files in a folder that may be annotations: those of instances, where any are named so."""
    every = [*sorted(root.glob("annotations/*.json")), *sorted(root.glob(f"*/{_BESIDE_IMAGES}"))]
    return [file for file in every if file.name.startswith("instances")] or every


def _by_role(files: list[Path]) -> dict[str, list[Path]]:
    """Files whose name has that of a split, by role."""
    found: dict[str, list[Path]] = {}
    for file in files:
        words = [file.parent.name] if file.name == _BESIDE_IMAGES else re.split(r"[_.-]", file.stem)
        if role := next(filter(None, map(image_folder.split_role, words)), ""):
            found.setdefault(role, []).append(file)
    return found


def _split(file: Path, root: Path, limit: int | None) -> tuple[list[Picture], dict[int, str]]:
    """The pictures of one file, by name, and the names of its categories."""
    try:
        content: Any = json.loads(file.read_bytes())
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _ATTRIBUTES):
            raise ValueError(f"it needs lists of {', '.join(_ATTRIBUTES)}")
        names = _names(content["categories"])
        rows = sorted(content["images"], key=lambda row: str(row["file_name"]))[:limit]
        for key in ("id", "file_name"):
            values = Counter(str(row[key]) for row in content["images"])
            if (most := values.most_common(1)) and most[0][1] > 1:
                raise ValueError(f"{most[0][1]} images have the {key} {most[0][0]:.100}, so list each once")
        things: dict[Any, list[Thing]] = {row["id"]: [] for row in rows}
        known = {row["id"] for row in content["images"]}
        for number, row in enumerate(content["annotations"]):
            if row["image_id"] not in known:
                raise ValueError(
                    f"annotation {row.get('id', number)} is of image {row['image_id']}, which is not there"
                )
            if int(row["category_id"]) not in names:
                raise ValueError(
                    f"annotation {row.get('id', number)} is of category {row['category_id']}, which is not there"
                )
            if row["image_id"] in things:
                things[row["image_id"]].append(_thing(row))
        sizes = {row["id"]: (int(row["height"]), int(row["width"])) for row in rows}
    except KeyError as error:
        raise UsageError(one_line(f"evaluate.detection: '{file}' lacks {error} in an entry: write it again")) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(one_line(f"evaluate.detection: '{file}' is no annotation of objects: {error}")) from None
    paths = _paths(file, root, [str(row["file_name"]) for row in rows])
    return [Picture(path, things[row["id"]], sizes[row["id"]]) for path, row in zip(paths, rows, strict=True)], names


def _names(categories: list[Any]) -> dict[int, str]:
    """The names of categories by id. Raises ValueError if an id has two names; a repeated entry counts once."""
    names: dict[int, str] = {}
    for each in categories:
        number, name = int(each["id"]), str(each["name"])
        if names.setdefault(number, name) != name:
            raise ValueError(f"category {number} is '{names[number]:.100}' and '{name:.100}', so give each its own id")
    return names


def _thing(row: dict[str, Any]) -> Thing:
    x, y, width, height = (float(value) for value in row["bbox"])
    return Thing(
        (x, y, x + width, y + height),
        int(row["category_id"]),
        _shape(row.get("segmentation")),
        bool(row.get("iscrowd")),
    )


def _shape(segmentation: Any) -> Shape | None:
    """Polygons of at least three corners, or run lengths; None if there are none."""
    if isinstance(segmentation, dict):
        return segmentation if {"counts", "size"} <= segmentation.keys() else None
    polygons = [np.array(polygon, np.float64) for polygon in segmentation or () if len(polygon) >= 6]
    if any(polygon.ndim != 1 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has no pairs of coordinates")
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise ValueError("a polygon has coordinates that are not finite")
    return polygons or None


def _paths(file: Path, root: Path, names: list[str]) -> list[Path]:
    """The images, in the first of the usual folders that has the first one. UsageError if one is missing."""
    words = [*re.split(r"[_.-]", file.stem), file.parent.name]
    splits = [word for word in words if image_folder.split_role(word)]
    roots = [root, *([root.parent] if root.name == "annotations" else [])]
    below = [*(Path(above, split) for split in splits for above in ("", "images")), Path("images"), Path()]
    folders = [file.parent, *(each / inner for each in roots for inner in below)]
    if not names:
        raise UsageError(one_line(f"evaluate.detection: '{file}' names no image"))
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), None)
    if folder is None:
        looked = ", ".join(f"'{each}'" for each in dict.fromkeys(folders))
        raise UsageError(
            one_line(f"evaluate.detection: the image '{names[0]}' of '{file}' is in none of {looked}: put it there")
        )
    missing = [*_missing(folder, names)]
    if missing:
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(
            one_line(f"evaluate.detection: the image '{folder / missing[0]}' of '{file}' is not there{more}: add it")
        )
    return [folder / name for name in names]


def _missing(folder: Path, names: list[str]) -> Iterator[str]:
    return (name for name in names if not (folder / name).is_file())
