"""Both layouts of data to detect objects in give the same objects, and what cannot be used is said or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import objects
from infoaug.orchestrator.evaluation.objects import Objects
from tests.orchestrator.evaluation.boxes import HEIGHT, WIDTH, annotations, coco, image, rectangles, write, yolo


def contents(data: Objects) -> list[tuple[Any, ...]]:
    """Boxes, labels and masks of every image, in order."""
    read = [data.read(picture)[1] for split in ("train", "test") for picture in data.pictures[split]]
    return [
        (
            of["boxes"].round(decimals=3).tolist(),
            of["labels"].tolist(),
            of["masks"].sum((1, 2)).tolist() if data.masks else [],
        )
        for of in read
    ]


@pytest.fixture
def expected() -> list[tuple[Any, ...]]:
    every = []
    for number in range(2):
        for which in range(3):
            things = rectangles(10 * number + which)
            areas = [(x1 - x0) * (y1 - y0) for _, x0, y0, x1, y1 in things]
            every.append(([[*map(float, box)] for _, *box in things], [1, 2], areas))
    return every


# ---- layouts


@pytest.mark.parametrize("images", ["", "images"])
def test_coco_in_both_of_its_usual_folders(tmp_path: Path, images: str, expected: list[Any]) -> None:
    data = objects.load(str(coco(tmp_path, images=images)))
    assert contents(data) == expected
    assert (data.classes, data.masks, data.notes) == ({0: "red", 3: "green"}, True, [])


def test_polygons_beside_yolo_labels(tmp_path: Path, expected: list[Any]) -> None:
    data = objects.load(str(yolo(tmp_path, polygons=True)))
    assert contents(data) == expected
    assert (data.classes, data.masks) == ({0: "0", 3: "3"}, True)
    assert data.notes == [
        "objects are those of segments, with the extents of the polygons as boxes: labels are not read"
    ]


def test_yolo_labels_are_boxes_and_may_be_polygons(tmp_path: Path, expected: list[Any]) -> None:
    data = objects.load(str(yolo(tmp_path / "a")))
    assert contents(data) == [(*rest, []) for *rest, _ in expected]
    assert (data.masks, data.notes) == (False, [])
    folder = yolo(tmp_path / "b", polygons=True)
    (folder / "labels").rename(folder / "boxes")
    (folder / "segments").rename(folder / "labels")
    data = objects.load(str(folder))
    assert contents(data) == expected and data.notes == []


def test_splits_may_hold_images_and_labels(tmp_path: Path, expected: list[Any]) -> None:
    folder = yolo(tmp_path)
    for split, name in (("train", "train"), ("val", "valid")):
        (folder / name).mkdir()
        for kind in ("images", "labels"):
            (folder / kind / split).rename(folder / name / kind)
    (folder / "images").rmdir()
    assert [each[:2] for each in contents(objects.load(str(folder)))] == [each[:2] for each in expected]


def test_annotations_beside_the_images_of_a_split(tmp_path: Path, expected: list[Any]) -> None:
    for number, (split, folder) in enumerate((("train", "train"), ("val", "valid"))):
        for which in range(3):
            image(tmp_path / folder / f"{split}{which}.png", rectangles(10 * number + which))
        write(tmp_path / folder / "_annotations.coco.json", annotations(split, number))
    assert contents(objects.load(str(tmp_path))) == expected


def test_of_one_file_every_fifth_image_is_for_testing(tmp_path: Path) -> None:
    for which in range(6):
        image(tmp_path / "images" / f"train{which}.png", rectangles(which))
    data = objects.load(str(write(tmp_path / "result.json", annotations("train", 0, 6))))
    assert [p.path.stem for p in data.pictures["test"]] == ["train0", "train5"]
    assert [p.path.stem for p in data.pictures["train"]] == ["train1", "train2", "train3", "train4"]
    assert data.notes == ["every fifth image is for testing: 2"]
    limited = objects.load(str(tmp_path / "result.json"), limit=1)
    assert [len(of) for of in limited.pictures.values()] == [1, 1]
    assert limited.notes == ["every fifth image is for testing: 1"]

    image(tmp_path / "train2017" / "train0.png", rectangles(0))
    named = write(tmp_path / "annotations" / "instances_train2017.json", annotations("train", 0, 1))
    with pytest.raises(UsageError, match="or name one file, of whose images every fifth is then for testing; it has"):
        objects.load(str(tmp_path))
    with pytest.raises(UsageError, match="has no object in its train images"):
        objects.load(str(named))


def test_only_annotations_of_instances_count_where_they_are_named(tmp_path: Path) -> None:
    coco(tmp_path)
    write(tmp_path / "annotations" / "captions_train2017.json", {"annotations": []})
    assert len(objects.load(str(tmp_path)).pictures["train"]) == 3


def test_the_limit_is_of_each_split(tmp_path: Path) -> None:
    for make in (coco, yolo):
        data = objects.load(str(make(tmp_path / make.__name__)), limit=2)
        assert [len(data.pictures[split]) for split in ("train", "test")] == [2, 2]


# ---- what is not used


def test_masks_of_some_images_only_are_not_used(tmp_path: Path) -> None:
    folder = yolo(tmp_path, polygons=True)
    (folder / "segments" / "val" / "val2.txt").unlink()
    data = objects.load(str(folder))
    assert not data.masks and len(data.pictures["test"]) == 3
    assert data.notes == ["no masks are found: 1 of 6 images are not in segments, 'val2.png' for one"]
    assert objects.load(str(folder), limit=2).masks

    content = annotations("val", 1)
    del content["annotations"][0]["segmentation"]
    write(coco(tmp_path / "coco") / "annotations" / "instances_val2017.json", content)
    data = objects.load(str(tmp_path / "coco"))
    assert not data.masks and "1 images have objects without one" in data.notes[0]


def test_images_without_objects_are_for_testing_only(tmp_path: Path) -> None:
    folder = yolo(tmp_path)
    (folder / "labels" / "train" / "train1.txt").write_text("\n", encoding="utf-8")
    (folder / "labels" / "val" / "val1.txt").unlink()
    data = objects.load(str(folder))
    assert [len(data.pictures[split]) for split in ("train", "test")] == [2, 3]
    assert data.notes == [
        "test: 1 of 3 images have no file in labels, so no objects",
        "train: 1 of 3 images without objects are left out",
    ]
    boxes = data.read(data.pictures["test"][1])[1]["boxes"]
    assert boxes.shape == (0, 4)


def test_crowds_are_kept_apart(tmp_path: Path) -> None:
    content = annotations("val", 1)
    counts = [0, HEIGHT * 10, HEIGHT * (WIDTH - 10)]  # the first ten columns
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]}}
    write(coco(tmp_path) / "annotations" / "instances_val2017.json", content)
    data = objects.load(str(tmp_path))
    found = data.read(data.pictures["test"][0])[1]
    assert found["iscrowd"].tolist() == [1, 0]
    assert found["masks"][0, :, :10].all() and not found["masks"][0, :, 10:].any()


def test_boxes_are_cut_at_the_border_and_those_without_area_left_out(tmp_path: Path) -> None:
    content = annotations("train", 0)
    content["annotations"][0]["bbox"] = [-0.5, 0, WIDTH + 1, HEIGHT + 0.4]
    content["annotations"][1]["bbox"] = [4, 4, 0, 12]
    write(coco(tmp_path) / "annotations" / "instances_train2017.json", content)
    data = objects.load(str(tmp_path))
    assert data.read(data.pictures["train"][0])[1]["boxes"].tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert data.notes == ["train: 1 boxes without an area are left out"]


def test_classes_that_are_only_tested_are_noted(tmp_path: Path) -> None:
    content = annotations("val", 1)
    content["annotations"][0]["category_id"] = 9
    write(coco(tmp_path) / "annotations" / "instances_val2017.json", content)
    data = objects.load(str(tmp_path))
    assert data.notes == ["1 of 3 classes of the test images are in no training image"]
    assert data.classes == {0: "red", 3: "green", 9: "blue"}


def test_the_fingerprint_changes_with_labels(tmp_path: Path) -> None:
    for make, name in ((yolo, "labels/train/train0.txt"), (coco, "annotations/instances_train2017.json")):
        folder = make(tmp_path / make.__name__)
        before = objects.fingerprint(str(folder))
        assert before == objects.fingerprint(str(folder))
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("3", "4", 1), encoding="utf-8")
        assert objects.fingerprint(str(folder)) != before
    file = str(tmp_path / "coco" / "annotations" / "instances_val2017.json")
    assert objects.fingerprint(file) == objects.fingerprint(str(tmp_path / "coco"))


# ---- what is refused


def line(text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "labels" / "train" / "train1.txt").write_text(text, encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (line("0 .5 .5 .2"), r"train1\.txt', line 1: it has 3 numbers behind its class"),
        (line("0 .5 .5 .2 .2\n1.5 .5 .5 .2 .2"), r"line 2: the class '1\.5' is no whole number"),
        (line("-1 .5 .5 .2 .2"), r"the class '-1' is no whole number"),
        (line("cat .5 .5 .2 .2"), "something that is no number"),
        (line("0 .5 .5 .2 nan"), "its numbers must be finite"),
        (line("0 25 20 12 12"), r"the box \(19, 14, 31, 26\) of object 1 reaches out of '.*train1\.png'"),
        (lambda root: (root / "images" / "val").rename(root / "images" / "other"), "with images/train, images/val"),
        (lambda root: [file.unlink() for file in (root / "images" / "train").iterdir()], "has no images: put them"),
        (lambda root: [file.write_text("") for file in (root / "labels" / "val").iterdir()], "no object in its test"),
        (
            lambda root: (root / "images" / "train" / "train1.png").rename(root / "images" / "train" / "train0.jpg"),
            r"train0\.png' and 'train0\.jpg' have one label",
        ),
    ],
)
def test_a_folder_of_labels_that_cannot_be_used_is_refused(
    tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    change(yolo(tmp_path))
    with pytest.raises(UsageError, match=said):
        objects.load(str(tmp_path))


def entry(key: str, value: Any, of: str = "annotations") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "annotations" / "instances_train2017.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content[of][1][key] = value
        write(file, content)

    return change


def category(name: str | None = None) -> Callable[[Path], None]:
    """List the first category once more, with another name or with its own."""

    def change(root: Path) -> None:
        file = root / "annotations" / "instances_train2017.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        first = content["categories"][0]
        content["categories"].append(first | ({"name": name} if name else {}))
        write(file, content)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (entry("bbox", [50, 4, 30, 12]), r"the box \(50, 4, 80, 16\) of object 2 reaches out of .* \(60x40 pixels\)"),
        (entry("category_id", 77), "annotation 1 is of category 77, which is not there"),
        (entry("image_id", 77), "annotation 1 is of image 77, which is not there"),
        (entry("bbox", [50, 4]), "is no annotation of objects"),
        (entry("segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "a polygon has no pairs"),
        (entry("segmentation", [[0, 0, float("nan"), 0, 9, 9]]), "a polygon has coordinates that are not finite"),
        (entry("id", 0, "images"), "2 images have the id 0, so list each once"),
        (entry("file_name", "train0.png", "images"), "2 images have the file_name train0.png, so list each once"),
        (entry("file_name", "absent.png", "images"), "'absent.png' of .* is in none of"),
        (entry("name", "other", "categories"), "category 3 is 'other' in one split"),
        (category("other"), "category 0 is 'red' and 'other', so give each its own id"),
        (lambda root: (root / "train2017" / "train1.png").unlink(), "'.*train1.png' of .* is not there: add it"),
        (
            lambda root: (root / "annotations" / "instances_val2017.json").unlink(),
            "needs annotations of a training and",
        ),
        (lambda root: write(root / "annotations" / "instances_val2017.json", {}), "it needs lists of images"),
        (lambda root: write(root / "annotations" / "instances_val2014.json", {}), "are both of one split"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(tmp_path: Path, change: Callable[[Path], Any], said: str) -> None:
    change(coco(tmp_path))
    with pytest.raises(UsageError, match=said):
        objects.load(str(tmp_path))


def test_a_category_that_is_listed_twice_with_one_name_is_one(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    before = objects.load(str(folder)).classes
    category()(folder)
    assert objects.load(str(folder)).classes == before


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path: Path) -> None:
    entry("width", WIDTH + 8, "images")(coco(tmp_path))
    data = objects.load(str(tmp_path))
    with pytest.raises(UsageError, match=r"train1\.png' has 60x40 pixels, its annotations are for 68x40"):
        data.read(data.pictures["train"][1])


def test_run_lengths_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    entry("segmentation", {"counts": [100, 500], "size": [20, 30]})(coco(tmp_path))
    data = objects.load(str(tmp_path))
    with pytest.raises(UsageError, match=r"train0\.png', a mask in run lengths has 30x20 pixels, not 60x40"):
        data.read(data.pictures["train"][0])


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"counts": [1.5, "a"], "size": [HEIGHT, WIDTH]}, "run lengths that cannot be read"),
        ({"counts": "zz", "size": [HEIGHT, WIDTH]}, "run lengths that cannot be read"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], f"far out of the image of {WIDTH}x{HEIGHT} pixels"),
    ],
)
def test_masks_that_cannot_be_drawn_are_refused(tmp_path: Path, segmentation: Any, said: str) -> None:
    entry("segmentation", segmentation)(coco(tmp_path))
    data = objects.load(str(tmp_path))
    with pytest.raises(UsageError, match=said):
        data.read(data.pictures["train"][0])


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("absent", "absent.json"):
        with pytest.raises(UsageError, match="is neither COCO's JSON, nor a folder"):
            objects.load(str(tmp_path / name))


def test_half_of_coco128_has_masks(test_data: Callable[[str], Path]) -> None:
    folder = str(test_data("coco128"))
    whole, part = objects.load(folder), objects.load(folder, limit=100)
    assert (whole.masks, part.masks) == (False, True)
    assert "no masks are found" in whole.notes[0]
    masks = np.concatenate([part.read(p)[1]["masks"].flatten(1).sum(1) for p in part.pictures["test"][:5]])
    assert (masks > 0).all()
