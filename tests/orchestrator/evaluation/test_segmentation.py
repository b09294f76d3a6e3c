"""Linear segmentation: what can be told by colour is segmented, void does not count, and bad folders are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import segmentation

HEIGHT, WIDTH, VOID = 40, 52, 7
COLOURS = np.array([[20, 20, 30], [200, 40, 40], [40, 60, 220]], np.uint8)


def folder(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 4) -> Path:
    """Images of three regions in their own colours, with a border that is void in the masks."""
    random = np.random.default_rng(0)
    for split in splits:
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[:, random.integers(12, 24) :] = 1
            mask[random.integers(14, 26) :, 20:] = 2
            noisy = COLOURS[mask].astype(int) + random.integers(-10, 11, (HEIGHT, WIDTH, 3))
            mask[0], mask[:, -1] = VOID, VOID
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"{number}.jpg")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    return root


def config(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig(void=[VOID], **settings)


def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet18", 32, layers=[1, 1, 1, 1], channels=[8, 16, 16, 32])


def test_regions_of_one_colour_are_segmented(tmp_path: Path) -> None:
    scenes = segmentation.load(str(folder(tmp_path)), config())
    assert (scenes.classes, len(scenes.images["train"]), scenes.notes) == (3, 4, [])
    found = segmentation.measure(scenes, backbone(), config(), "cpu")
    assert found["miou"] > 0.75 and found["pixel_accuracy"] > 0.8
    assert found["miou"] == pytest.approx(np.mean(found["iou"])) and len(found["iou"]) == 3
    assert found == segmentation.measure(scenes, backbone(), config(), "cpu")


def test_void_pixels_do_not_count(tmp_path: Path) -> None:
    scenes = segmentation.load(str(folder(tmp_path)), config())
    before = segmentation.measure(scenes, backbone(), config(), "cpu")
    for file in scenes.images["test"]:
        picture = np.array(Image.open(file))
        Image.fromarray(picture).save(file.with_suffix(".png"))
    for mask in scenes.masks["test"]:
        values = np.array(Image.open(mask))
        values[5:9] = VOID
        Image.fromarray(values).save(mask)
    after = segmentation.measure(scenes, backbone(), config(), "cpu")
    assert after["pixel_accuracy"] != before["pixel_accuracy"]
    assert after["miou"] > 0.75


def test_intersection_over_union_by_hand() -> None:
    confusion = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(segmentation.intersection_over_union(confusion), [3 / 6, 4 / 7, np.nan])


def test_the_influence_of_an_image_is_the_derivative_of_the_mean_iou_by_its_weight() -> None:
    random = np.random.default_rng(0)
    union = random.integers(5, 60, (12, 4))
    both = (union * random.random((12, 4))).astype(np.int64)
    union[:, 3] = both[:, 3] = 0  # a class that is in no image

    def mean_iou(weights: np.ndarray) -> float:
        return float(((weights @ both)[:3] / (weights @ union)[:3]).mean())

    step = 1e-6 * np.eye(12)
    expected = [(mean_iou(1 + of) - mean_iou(1 - of)) / 2e-6 for of in step]
    np.testing.assert_allclose(segmentation.influence(both, union), expected, rtol=1e-6, atol=1e-9)


def test_the_influence_of_images_is_known_if_each_class_is_in_enough_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = segmentation.load(str(folder(tmp_path)), config())
    assert "miou_influence" not in segmentation.measure(scenes, backbone(), config(), "cpu")
    monkeypatch.setattr(segmentation, "LEAST_IMAGES", 4)
    moved = segmentation.measure(scenes, backbone(), config(), "cpu")["miou_influence"]
    assert len(moved) == 4 and sum(moved) == pytest.approx(0, abs=1e-4) and max(moved) > 0


def test_the_validation_split_stands_in_and_an_unused_one_is_noted(tmp_path: Path) -> None:
    assert segmentation.check(str(folder(tmp_path / "a", ("train", "val")))) == []
    assert segmentation.check(str(folder(tmp_path / "b", ("train", "val", "test")))) == ["the split 'val' is not used"]


def test_the_limit_is_of_each_split(tmp_path: Path) -> None:
    scenes = segmentation.load(str(folder(tmp_path)), config(limit=2))
    assert [len(scenes.images[split]) for split in ("train", "test")] == [2, 2]
    assert [len(scenes.masks[split]) for split in ("train", "test")] == [2, 2]


def broken(root: Path, what: str) -> None:
    mask = root / "masks" / "train" / "1.png"
    if what == "no mask":
        mask.unlink()
    elif what == "no test":
        (root / "images" / "test").rename(root / "images" / "other")
    elif what == "size":
        Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint8)).save(mask)
    elif what == "colours":
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(mask)
    elif what == "16 bits":
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(mask)
    elif what == "too large":  # for Pillow too
        Image.new("1", (20_000, 10_000)).save(mask)
    elif what == "no image":
        (root / "images" / "test" / "0.jpg").write_bytes(b"nothing")
    elif what == "one class":
        for file in mask.parent.iterdir():
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(file)
    elif what == "tested void":
        for file in (root / "masks" / "test").iterdir():
            Image.fromarray(np.full((HEIGHT, WIDTH), VOID, np.uint8)).save(file)
    elif what == "twice":
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "train" / "1.png")
    elif what == "no file":
        mask.write_bytes(b"nothing")


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA"])
def test_masks_are_read_from_every_kind_of_picture_whose_colours_are_equal(tmp_path: Path, mode: str) -> None:
    folder(tmp_path)
    for file in (tmp_path / "masks").glob("*/*.png"):
        values = np.uint8(np.array(Image.open(file)) == 1)
        if mode == "P":
            stored = Image.fromarray(values)
            stored.putpalette([0, 0, 0, 200, 10, 10])
        else:
            stored = Image.fromarray(values.astype(bool)) if mode == "1" else Image.fromarray(values).convert(mode)
        stored.save(file)
    scenes = segmentation.load(str(tmp_path), config())
    assert scenes.classes == 2
    assert segmentation.measure(scenes, backbone(), config(), "cpu")["pixel_accuracy"] > 0.8


def test_masks_are_of_the_images_turned_upright(tmp_path: Path) -> None:
    before = segmentation.measure(segmentation.load(str(folder(tmp_path)), config()), backbone(), config())
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (tmp_path / "images").glob("*/*.jpg"):
        with Image.open(file) as stored:
            stored.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)
    after = segmentation.measure(segmentation.load(str(tmp_path), config()), backbone(), config())
    assert after["miou"] == pytest.approx(before["miou"], abs=0.02)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no mask", "1.jpg' has no mask '"),
        ("no test", "must hold images/train and images/test"),
        ("size", f"has {WIDTH + 1}x{HEIGHT} pixels, its image {WIDTH}x{HEIGHT}: make them the same"),
        ("colours", "1.png' has colours or more than 8 bits: save it"),
        ("16 bits", "1.png' has colours or more than 8 bits: save it"),
        ("too large", "1.png' cannot be read"),
        ("no image", "0.jpg' cannot be read"),
        ("one class", r"show 1 classes beside void \(7\)"),
        ("tested void", r"the test masks in '.*' show 0 classes beside void \(7\)"),
        ("twice", "1.png' and '1.jpg' have one mask: rename or remove one"),
        ("no file", "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, what: str, said: str) -> None:
    broken(folder(tmp_path), what)
    with pytest.raises(UsageError, match=said):
        segmentation.load(str(tmp_path), config())


def test_a_class_that_is_only_tested_counts_as_missed(tmp_path: Path) -> None:
    before = segmentation.measure(segmentation.load(str(folder(tmp_path)), config()), backbone(), config())
    for mask in (tmp_path / "masks" / "test").iterdir():
        values = np.array(Image.open(mask))
        values[:12, :12] = 9
        Image.fromarray(values).save(mask)
    scenes = segmentation.load(str(tmp_path), config())
    assert scenes.notes == ["1 of 4 classes of the test images are in no training image"]
    found = segmentation.measure(scenes, backbone(), config())
    assert found["iou"][9] == 0 and found["miou"] == pytest.approx((sum(found["iou"][:3]) + 0) / 4)
    assert found["miou"] < 0.8 * before["miou"]


def test_masks_whose_cells_show_one_class_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    for mask in (tmp_path / "masks" / "train").iterdir():
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[0, 0] = 1  # at the centre of no cell
        Image.fromarray(values).save(mask)
    scenes = segmentation.load(str(tmp_path), config())
    with pytest.raises(UsageError, match="show 1 classes in the training masks of"):
        segmentation.measure(scenes, backbone(), config())


def test_what_a_system_leaves_beside_images_is_no_image(tmp_path: Path) -> None:
    (folder(tmp_path) / "images" / "train" / "._0.jpg").write_bytes(b"of another system")
    assert len(segmentation.load(str(tmp_path), config()).images["train"]) == 4
