"""Small data sets with boxes and masks, for tests: bright rectangles of two classes on a dark ground."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
COLOURS = {0: (220, 60, 60), 3: (60, 220, 60)}


def rectangles(seed: int) -> list[tuple[int, int, int, int, int]]:
    """Two of an image, apart: category, x0, y0, x1, y1 in pixels."""
    random = np.random.default_rng(seed)
    found = []
    for number, category in enumerate(COLOURS):
        x, y = int(random.integers(0, 8)) + 30 * number, int(random.integers(0, 16))
        found.append((category, x, y, x + int(random.integers(12, 22)), y + int(random.integers(12, 24))))
    return found


def image(path: Path, things: list[tuple[int, int, int, int, int]]) -> None:
    """Draw an image with its rectangles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    for category, x0, y0, x1, y1 in things:
        pixels[y0:y1, x0:x1] = COLOURS[category]
    Image.fromarray(pixels).save(path)


def yolo(root: Path, count: int = 3, splits: tuple[str, ...] = ("train", "val"), polygons: bool = False) -> Path:
    """`images/SPLIT`, `labels/SPLIT`, and with `polygons` `segments/SPLIT`."""
    for number, split in enumerate(splits):
        for which in range(count):
            things, name = rectangles(10 * number + which), f"{split}{which}"
            image(root / "images" / split / f"{name}.png", things)
            for kind in ("labels", "segments") if polygons else ("labels",):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                (root / kind / split / f"{name}.txt").write_text(
                    "".join(f"{_line(kind, thing)}\n" for thing in things), encoding="utf-8"
                )
    return root


def _line(kind: str, thing: tuple[int, int, int, int, int]) -> str:
    category, x0, y0, x1, y1 = thing
    left, top, right, bottom = x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT
    if kind == "labels":
        return f"{category} {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}"
    return f"{category} {left} {top} {right} {top} {right} {bottom} {left} {bottom}"


def annotations(split: str, number: int, count: int = 3) -> dict[str, Any]:
    """COCO's annotations of the images of a split."""
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 0, "name": "red"}, {"id": 3, "name": "green"}, {"id": 9, "name": "blue"}],
    }
    for which in range(count):
        content["images"].append({"id": which, "file_name": f"{split}{which}.png", "height": HEIGHT, "width": WIDTH})
        for category, x0, y0, x1, y1 in rectangles(10 * number + which):
            content["annotations"].append({
                "id": len(content["annotations"]),
                "image_id": which,
                "category_id": category,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                "iscrowd": 0,
            })  # fmt: skip
    return content


def coco(root: Path, count: int = 3, images: str = "") -> Path:
    """`annotations/instances_SPLIT2017.json` with the images in `images`/SPLIT2017."""
    for number, split in enumerate(("train", "val")):
        for which in range(count):
            image(root / images / f"{split}2017" / f"{split}{which}.png", rectangles(10 * number + which))
        write(root / "annotations" / f"instances_{split}2017.json", annotations(split, number, count))
    return root


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
