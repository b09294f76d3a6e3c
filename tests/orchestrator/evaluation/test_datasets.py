"""Labelled images for evaluation: every kind of data set, its splits, and what a wrong one is answered with."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.config import load as load_config
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import arrays as npz
from infoaug.orchestrator.evaluation import datasets, image_folder, opening
from infoaug.orchestrator.evaluation.datasets import Labelled, held_out, load_domains
from infoaug.orchestrator.evaluation.opening import fingerprint
from infoaug.orchestrator.runtime import scratch

SIZE = 8


def settings(*overrides: str) -> EvaluateConfig:
    return load_config(None, [f"evaluate.{o}" for o in ("download=false", *overrides)]).evaluate


def flat(value: int, size: tuple[int, int] = (SIZE, SIZE), mode: str = "RGB") -> Image.Image:
    """An image of one grey."""
    return Image.fromarray(np.full(size, value, np.uint8)).convert(mode)


def write_folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> None:
    """A folder of classes; the images of class number c are of grey 10·c + their own number."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            flat(10 * label + i).save(root / name / f"{i:03d}{suffix}")


def greys(split: Labelled) -> list[int]:
    """What grey each image is."""
    return split.images[:, 0, 0, 0].tolist()


def check(split: Labelled, count: int, size: int = SIZE) -> None:
    assert split.images.shape == (count, 3, size, size)
    assert split.images.dtype == torch.uint8
    assert split.labels.shape == (count,)
    assert split.labels.dtype == torch.int64


def load(name: str, config: EvaluateConfig, size: int) -> tuple[Labelled, Labelled]:
    """The two splits of a data set."""
    loaded = datasets.load(name, config, size)
    return loaded.train, loaded.test


def sentence(call: Callable[[], Any]) -> str:
    """The one sentence that a wrong data set is answered with."""
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- scenes


def test_scenes_are_two_disjoint_labelled_splits() -> None:
    train, test = load("scenes", settings("limit=60"), 16)
    check(train, 60, 16)
    check(test, 60, 16)
    assert train.labels.unique().numel() > 5
    assert not (train.images[:, None] == test.images[None]).all(dim=(2, 3, 4)).any()


def test_scenes_too_small_to_draw_are_refused() -> None:
    assert "data set 'scenes' cannot be drawn: image_size=8" in sentence(lambda: load("scenes", settings(), 8))


# ---- folders


@pytest.mark.parametrize("held", ["test", "val"])
def test_a_folder_with_splits_keeps_them_and_numbers_its_classes_by_name(tmp_path: Path, held: str) -> None:
    write_folder(tmp_path / "train", {"zebra": 3, "ant": 2})
    write_folder(tmp_path / held, {"ant": 1, "zebra": 2})
    train, test = load(str(tmp_path), settings(), SIZE)
    check(train, 5)
    check(test, 3)
    assert dict(zip(greys(train), train.labels.tolist(), strict=True)) == {0: 1, 1: 1, 2: 1, 10: 0, 11: 0}
    assert dict(zip(greys(test), test.labels.tolist(), strict=True)) == {0: 0, 10: 1, 11: 1}


def test_test_comes_before_val(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 3), ("test", 1)):
        write_folder(tmp_path / split, {"a": count, "b": count})
    check(load(str(tmp_path), settings(), SIZE)[1], 2)


def test_every_fifth_image_of_a_class_is_held_out_where_there_is_no_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 10, "b": 6})
    train, test = load(str(tmp_path), settings(), SIZE)
    assert sorted(greys(test)) == [0, 5, 10, 15]
    assert sorted(greys(train)) == [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]
    assert test.labels.tolist() == [0, 0, 1, 1]
    again = load(str(tmp_path), settings(), SIZE)
    assert torch.equal(again[0].images, train.images)


def test_images_of_any_kind_and_size_come_out_as_colour_at_the_size_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5}, ".JPEG")
    left_to_right = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 20, axis=0)  # 60 wide, 20 high
    Image.fromarray(left_to_right).save(tmp_path / "a" / "wide.PNG")
    flat(77, (31, 17), "L").save(tmp_path / "a" / "grey.bmp")
    flat(78, (9, 9), "P").save(tmp_path / "b" / "palette.png")
    flat(79, (9, 9), "RGBA").save(tmp_path / "b" / "clear.webp", lossless=True)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    train, test = load(str(tmp_path), settings(), SIZE)
    check(train, 10)
    check(test, 4)
    every = torch.cat([train.images, test.images])
    assert {77, 78, 79} <= set(every[:, 0, 0, 0].tolist())
    wide = next(image for image in every if image[0, 0, -1] > image[0, 0, 0] + 20)
    assert 75 <= wide[0, :, 0].float().mean() <= 90, "cropped at the centre: columns 20 to 40 of 60"
    assert 145 <= wide[0, :, -1].float().mean() <= 160


def test_images_in_subfolders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4})
    write_folder(tmp_path / "a", {"more": 3})
    train, test = load(str(tmp_path), settings(), SIZE)
    assert (torch.cat([train.labels, test.labels]) == 0).sum() == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("junk.png", b"not an image"),
        ("empty.jpg", b""),
        ("cut.png", None),
        ("header.ppm", b"P6\n24\xef255\n" + bytes(100)),
        ("bomb.bmp", b"BM" + bytes(12) + b"\x28\0\0\0\xff\xff\xff\x0f\xff\xff\xff\x0f\x01\0\x18" + bytes(80)),
    ],
)
def test_an_unreadable_image_is_named_and_left_out_if_there_are_few(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    write_folder(tmp_path, {"a": 6, "b": 6})
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)).save(tmp_path / "whole.png")
        content = (tmp_path / "whole.png").read_bytes()[:1200]
        (tmp_path / "whole.png").unlink()
    (tmp_path / "b" / name).write_bytes(content)
    found = datasets.load(str(tmp_path), settings(), SIZE)
    assert len(found.train.labels) + len(found.test.labels) == 12
    (note,) = found.notes
    assert note.startswith(f"1 of 13 images cannot be read: '{tmp_path / 'b' / name}' (")
    for number in (1, 2):
        (tmp_path / "a" / f"{number}{name}").write_bytes(content)
    told = sentence(lambda: load(str(tmp_path), settings(), SIZE))
    assert "3 of 15 images cannot be read: " in told and told.endswith("; replace or remove them")


def test_a_class_of_which_no_image_to_fit_on_can_be_read_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 12, "b": 12, "c": 1})
    write_folder(tmp_path / "test", {"a": 1, "b": 1, "c": 1})
    (tmp_path / "test" / "c" / "000.png").write_bytes(b"")
    assert len(load(str(tmp_path), settings(), SIZE)[1].labels) == 2
    (tmp_path / "train" / "c" / "000.png").write_bytes(b"")
    assert "no image of class 'c' in train: 2 of 28" in sentence(lambda: load(str(tmp_path), settings(), SIZE))


def test_a_class_of_the_test_split_only_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 1, "b": 1})
    write_folder(tmp_path / "test", {"a": 1, "cat": 1})
    assert "class 'cat' is in the test split only" in sentence(lambda: load(str(tmp_path), settings(), SIZE))


@pytest.mark.parametrize("counts", [{}, {"a": 0, "b": 0}, {"a": 10}, {"a": 1, "b": 1}])
def test_a_folder_without_images_of_two_classes_is_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    write_folder(tmp_path, counts)
    assert "needs training and test images of at least two classes" in sentence(
        lambda: load(str(tmp_path), settings(), SIZE)
    )


def test_a_limit_of_a_folder_is_taken_before_its_images_are_read(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_folder(tmp_path / name, {"a": 10, "b": 10})
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    whole, _ = load(str(tmp_path), settings(), SIZE)
    for unwanted in order[8:].tolist():
        (tmp_path / "train" / "ab"[unwanted // 10] / f"{unwanted % 10:03d}.png").write_bytes(b"no image")
    train, _ = load(str(tmp_path), settings("limit=8"), SIZE)
    assert torch.equal(train.images, whole.images[order[:8]])
    assert torch.equal(train.labels, whole.labels[order[:8]])


# ---- domains


def test_domains_have_the_classes_that_all_of_them_have_under_the_same_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path / "photo", {"cat": 5, "dog": 6, "fox": 5})
    write_folder(tmp_path / "art", {"ape": 3, "cat": 4, "dog": 5, "fox": 0})
    write_folder(tmp_path / "notes", {"empty": 0})
    (tmp_path / "list.txt").write_text("no domain")
    data = load_domains(str(tmp_path), settings(), SIZE)
    assert (list(data.images), data.classes, data.left_out) == (["art", "photo"], ["cat", "dog"], ["ape", "fox"])
    check(data.images["art"], 9)
    check(data.images["photo"], 11)
    assert data.images["art"].labels.tolist() == [0] * 4 + [1] * 5
    assert greys(data.images["art"])[:4] == [10, 11, 12, 13]


def test_a_limit_is_of_each_domain(tmp_path: Path) -> None:
    for domain in ("one", "two"):
        write_folder(tmp_path / domain, {"a": 10, "b": 10})
    data = load_domains(str(tmp_path), settings("limit=8"), SIZE)
    assert [len(split.labels) for split in data.images.values()] == [8, 8]


@pytest.mark.parametrize(
    ("domains", "told"),
    [
        ({}, "must hold images of at least two domains, as DOMAIN/CLASS/image; it has 0"),
        ({"one": {"a": 9, "b": 9}}, "at least two domains, as DOMAIN/CLASS/image; it has 1"),
        ({"one": {"a": 9, "b": 9}, "two": {"a": 0}}, "it has 1"),
        ({"one": {"a": 9, "b": 9}, "two": {"b": 9, "c": 9}}, "(one, two) must have at least two classes in common"),
        ({"one": {"a": 9, "b": 9}, "two": {"a": 1, "b": 1}}, "domain 'two' of"),
    ],
)
def test_domains_that_cannot_be_compared_are_refused(
    tmp_path: Path, domains: dict[str, dict[str, int]], told: str
) -> None:
    for domain, counts in domains.items():
        write_folder(tmp_path / domain, counts)
    assert told in sentence(lambda: load_domains(str(tmp_path), settings(), SIZE))


def test_domains_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert "there is no folder" in sentence(lambda: load_domains(str(tmp_path / "absent"), settings(), SIZE))


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "huge", "long"])
def test_an_image_that_cannot_be_read_safely_is_left_out_and_named(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5})
    bad = tmp_path / "a" / "bad.png"
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "link to nothing":
        bad.symlink_to(tmp_path / "absent")
    else:
        Image.new("1", {"huge": (9000, 9000), "long": (5000, 1)}[kind]).save(bad)
    assert fingerprint(str(tmp_path))
    (note,) = datasets.load(str(tmp_path), settings(), SIZE).notes
    assert "1 of 11 images cannot be read: " in note and "bad.png' (" in note


def test_a_circle_of_links_in_an_image_folder_ends(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    train, _ = load(str(tmp_path), settings(), SIZE)
    assert fingerprint(str(tmp_path))
    assert len(train.labels) == 8


# ---- the validation fifth


@given(st.lists(st.integers(0, 4), min_size=3, max_size=300))
def test_a_fifth_is_held_out_over_all_classes_and_the_same_one_every_time(classes: list[int]) -> None:
    labels = torch.tensor(classes)
    held = held_out(labels)
    assert torch.equal(held, held_out(labels.clone()))
    assert abs(int(held.sum()) - len(labels) / 5) < 1
    for c in labels.unique():
        of_class = held[labels == c]
        assert abs(int(of_class.sum()) - len(of_class) / 5) < 1


def test_what_is_held_out_is_not_the_end_of_each_class() -> None:
    held = held_out(torch.arange(1000) // 500)
    assert 30 < held[:250].sum() < 70


def test_too_few_images_to_hold_a_fifth_out_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "b": 2})
    told = sentence(lambda: load(str(tmp_path), settings(), SIZE))
    assert "has too few images to train with (2): a fifth is held out for validation" in told


# ---- .npz


def arrays(colour: bool = True, size: int = SIZE) -> dict[str, np.ndarray]:
    """Ten training and five test images."""
    rng = np.random.default_rng(0)
    shape = (size, size, 3) if colour else (size, size)
    return {
        "x_train": rng.integers(0, 255, (10, *shape), np.uint8),
        "y_train": np.arange(10) % 3,
        "x_test": rng.integers(0, 255, (5, *shape), np.uint8),
        "y_test": np.arange(5) % 3,
    }


MEDMNIST = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"}


def save(path: Path, content: dict[str, Any]) -> str:
    np.savez(path, **content)
    return str(path)


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "grey"])
@pytest.mark.parametrize("keys", [{}, MEDMNIST], ids=["x_train", "train_images"])
def test_an_npz_of_either_naming_and_colour_is_read(tmp_path: Path, keys: dict[str, str], colour: bool) -> None:
    content = arrays(colour)
    path = save(tmp_path / "d.npz", {keys.get(name, name): array for name, array in content.items()})
    train, test = load(path, settings(), SIZE)
    check(train, 10)
    check(test, 5)
    expected = content["x_train"] if colour else np.repeat(content["x_train"][..., None], 3, axis=-1)
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert test.labels.tolist() == [0, 1, 2, 0, 1]


def test_labels_of_an_npz_may_be_a_column_of_bytes(tmp_path: Path) -> None:
    content = arrays()
    content["y_train"] = content["y_train"][:, None].astype(np.uint8)
    train, _ = load(save(tmp_path / "d.npz", content), settings(), SIZE)
    assert train.labels.tolist() == [0, 1, 2] * 3 + [0]


def test_images_of_an_npz_are_resized(tmp_path: Path) -> None:
    train, _ = load(save(tmp_path / "d.npz", arrays(size=20)), settings(), SIZE)
    check(train, 10)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"x_train": np.zeros((10, 8, 8, 3))}, "images must be uint8 [N, H, W] or [N, H, W, 3], got float64"),
        ({"x_train": np.zeros((10, 8, 8, 4), np.uint8)}, "got uint8 (10, 8, 8, 4)"),
        ({"x_train": np.zeros((10, 64), np.uint8)}, "got uint8 (10, 64)"),
        ({"y_train": np.zeros(10)}, "labels must be integers from 0, one an image, got float64 (10,)"),
        ({"y_train": np.full(10, -1)}, "labels must be integers from 0"),
        ({"y_train": np.zeros((10, 2), int)}, "labels must be integers from 0, one an image, got int64 (10, 2)"),
        ({"y_train": np.array(3)}, "labels must be integers from 0, one an image, got int64 ()"),
        ({"y_train": np.array(["a"] * 10)}, "labels must be integers from 0"),
        ({"y_train": np.array([None] * 10)}, "cannot be read as .npz: Object arrays cannot be loaded"),
        ({"y_train": np.arange(4)}, "10 images have 4 labels"),
        ({"y_train": np.full(10, 2**64 - 1, np.uint64)}, "labels must be integers from 0"),
        ({"x_train": np.zeros((10, 0, 8), np.uint8)}, "8x0 pixels are too few"),
        ({"x_train": np.zeros((10, 1, 9000), np.uint8)}, "9000x1 pixels are too few, too many (above 67108864) or too"),
        ({"y_train": np.zeros(0, int)}, "10 images have 0 labels"),
        ({"y_train": np.zeros(10, int)}, "needs training and test images of at least two classes"),
        ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)}, "needs training and test images"),
        ({"x_test": np.zeros((0, 9, 9), np.uint8), "y_test": np.zeros(0, int)}, "needs training and test images"),
    ],
)
def test_an_npz_of_wrong_content_is_answered_with_what_it_must_hold(
    tmp_path: Path, changes: dict[str, np.ndarray], found: str
) -> None:
    path = save(tmp_path / "d.npz", {**arrays(), **changes})
    told = sentence(lambda: load(path, settings(), SIZE))
    assert found in told
    assert path in told


def test_an_npz_without_the_names_says_which_it_needs_and_holds(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", {"images": np.zeros(3), "labels": np.zeros(3)})
    told = sentence(lambda: load(path, settings(), SIZE))
    assert "must hold x_train, y_train, x_test, y_test; it holds images, labels" in told


def test_a_broken_npz_is_one_sentence(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "whole.npz", arrays())).read_bytes()
    flipped = bytearray(whole)
    flipped[400] ^= 255
    np.save(tmp_path / "one.npy", np.zeros(3))
    one = (tmp_path / "one.npy").read_bytes()
    for content in (b"", b"junk" * 30, whole[: len(whole) // 2], bytes(flipped), one):
        (tmp_path / "broken.npz").write_bytes(content)
        told = sentence(lambda: load(str(tmp_path / "broken.npz"), settings(), SIZE))
        assert "broken.npz' cannot be read as .npz" in told


def test_an_array_that_takes_more_than_the_container_may_use_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "d.npz", arrays())
    monkeypatch.setattr("infoaug.models.memory.limit", lambda: 1000)
    assert "cannot be read as .npz: it takes 0 MiB, this process may use 0" in sentence(
        lambda: load(path, settings(), SIZE)
    )


@pytest.mark.parametrize("shape", ["(1000000000000, 8, 8, 3)", "(10, 0, 8, 3)", "(-1, 8)", "(10L, 8L)", "(" * 5000])
def test_an_array_whose_header_lies_is_one_sentence(tmp_path: Path, shape: str) -> None:
    whole = Path(save(tmp_path / "whole.npz", arrays()))
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path = tmp_path / "lies.npz"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as changed:
        for entry in archive.namelist():
            lie = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)
            changed.writestr(entry, lie if entry == "x_train.npy" else archive.read(entry))
    assert "lies.npz'" in sentence(lambda: load(str(path), settings(), SIZE))


# ---- torchvision's


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_a_set_that_is_not_there_and_may_not_be_fetched_names_the_remedy(tmp_path: Path, name: str) -> None:
    told = sentence(lambda: load(name, settings(f"data={tmp_path}"), SIZE))
    assert f"data set '{name}' is not in '{tmp_path}' and could not be fetched" in told
    assert "put it there, or name another one" in told


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_a_set_of_torchvision_is_read_in_its_own_layout(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, SIZE, SIZE, 3), np.uint8)
    labels = [0, 1, 2, 0, 1, 2]
    asked = []

    def fake(root: str, train: bool, fetch: bool) -> SimpleNamespace:
        asked.append((root, train, fetch))
        if name == "stl10":
            return SimpleNamespace(data=np.moveaxis(pixels, 3, 1), labels=np.array(labels))
        return SimpleNamespace(data=pixels, targets=labels)

    monkeypatch.setitem(opening.TORCHVISION, name, fake)
    train, _ = load(name, settings("data=there"), SIZE)
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert train.labels.tolist() == labels
    assert asked == [("there", True, False), ("there", False, False)]


# ---- all of them


def test_a_limit_takes_the_first_of_a_fixed_shuffle_of_each_split(tmp_path: Path) -> None:
    content = arrays()
    path = save(tmp_path / "d.npz", content)
    whole, _ = load(path, settings(), SIZE)
    train, test = load(path, settings("limit=4"), SIZE)
    check(train, 4)
    check(test, 4)
    for image, label in zip(train.images, train.labels, strict=True):
        (row,) = torch.nonzero((whole.images == image).all(dim=(1, 2, 3)))
        assert whole.labels[row] == label
    more, _ = load(path, settings("limit=6"), SIZE)
    assert torch.equal(more.images[:4], train.images)
    check(load(path, settings("limit=1000"), SIZE)[0], 10)
    assert "at least two classes" in sentence(lambda: load(path, settings("limit=1"), SIZE))


@pytest.mark.parametrize("name", ["imagenet", "no/such/folder", "absent.npz"])
def test_an_unknown_data_set_is_answered_with_what_there_is(name: str) -> None:
    told = sentence(lambda: load(name, settings(), SIZE))
    assert f"no data set '{name}': give one of scenes, cifar10, cifar100, stl10, an existing image folder" in told


def test_a_file_of_another_kind_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"")
    assert "no data set" in sentence(lambda: load(str(tmp_path / "x.zip"), settings(), SIZE))


def test_a_fingerprint_changes_with_the_images_of_a_folder_and_with_nothing_else(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 2, "b": 2})
    first = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == first
    flat(1).save(tmp_path / "a" / "new.png")
    second = fingerprint(str(tmp_path))
    (tmp_path / "a" / "new.png").rename(tmp_path / "b" / "new.png")
    third = fingerprint(str(tmp_path))
    assert len({first, second, third}) == 3, "the third has the same image in another class"

    before = fingerprint(str(tmp_path))
    (tmp_path / ".DS_Store").write_bytes(b"view")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"thumbs")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    flat(1).save(tmp_path / ".ipynb_checkpoints" / "new.png")
    os.utime(tmp_path / "a" / "000.png", (0, 0))
    assert fingerprint(str(tmp_path)) == before


@pytest.mark.parametrize("hashed", [2000, 0], ids=["small", "large"])
def test_two_images_that_change_places_change_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: int
) -> None:
    monkeypatch.setattr(image_folder, "MOST_HASHED", hashed)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for time, name in enumerate(("a/0.bmp", "b/0.bmp")):
        flat(100 * time).save(tmp_path / name)
        os.utime(tmp_path / name, (time, time))
    assert (tmp_path / "a/0.bmp").stat().st_size == (tmp_path / "b/0.bmp").stat().st_size
    before = fingerprint(str(tmp_path))
    (tmp_path / "a/0.bmp").rename(tmp_path / "spare")
    (tmp_path / "b/0.bmp").rename(tmp_path / "a/0.bmp")
    (tmp_path / "spare").rename(tmp_path / "b/0.bmp")
    assert fingerprint(str(tmp_path)) != before


def test_linked_class_folders_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"a": 2, "b": 2})
    (tmp_path / "links").mkdir()
    for name in "ab":
        (tmp_path / "links" / name).symlink_to(tmp_path / "elsewhere" / name)
    before = fingerprint(str(tmp_path / "links"))
    flat(99).save(tmp_path / "elsewhere" / "a" / "000.png")
    assert fingerprint(str(tmp_path / "links")) != before


def test_corrected_labels_of_an_npz_change_its_fingerprint_and_a_new_time_does_not(tmp_path: Path) -> None:
    content = arrays()
    path = save(tmp_path / "d.npz", content)
    before, size = fingerprint(path), Path(path).stat().st_size
    os.utime(path, (0, 0))
    assert fingerprint(path) == before
    content["y_train"] = content["y_train"][::-1].copy()
    save(tmp_path / "d.npz", content)
    assert Path(path).stat().st_size == size
    assert fingerprint(path) != before


def test_sets_that_have_a_name_keep_their_fingerprint_whatever_lies_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "cifar10", {"a": 1, "b": 1})
    assert {fingerprint(name) for name in ("cifar10", "stl10", "scenes", "absent")} == {"0:0"}


# ---- classes


@pytest.mark.parametrize("labels", [[7, 1007, 2007], [1, 2, 3], [0, 1, 2]])
def test_classes_are_the_distinct_labels(tmp_path: Path, labels: list[int]) -> None:
    content = arrays()
    content |= {name: np.array(labels)[content[name]] for name in ("y_train", "y_test")}
    found = datasets.load(save(tmp_path / "d.npz", content), settings(), SIZE)
    assert found.classes == 3
    assert found.train.labels.tolist() == [0, 1, 2] * 3 + [0]
    assert found.test.labels.tolist() == [0, 1, 2, 0, 1]


def test_a_limit_does_not_change_the_number_of_classes(tmp_path: Path) -> None:
    content = {**arrays(), "y_train": np.arange(10) % 5, "y_test": np.arange(5)}
    path = save(tmp_path / "d.npz", content)
    assert datasets.load(path, settings("limit=4"), SIZE).classes == 5


def test_a_class_of_the_test_split_only_is_named_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "d.npz", {**arrays(), "y_test": np.array([0, 1, 2, 9, 1])})
    assert "class '9' is in the test split only" in sentence(lambda: load(path, settings(), SIZE))
    write_folder(tmp_path / "flat", {"a": 9, "b": 9, "lonely": 1})
    assert "class 'lonely' is in the test split only" in sentence(lambda: load(f"{tmp_path}/flat", settings(), SIZE))
    write_folder(tmp_path / "split" / "train", {"Cat": 9, "dog": 9, "empty": 0})
    write_folder(tmp_path / "split" / "test", {"cat": 9, "dog": 9})
    told = sentence(lambda: load(f"{tmp_path}/split", settings(), SIZE))
    assert "class 'cat' is in the test split only (the training split has 'Cat')" in told
    write_folder(tmp_path / "accents" / "train", {"caf\u00e9": 9, "dog": 9})
    write_folder(tmp_path / "accents" / "test", {"cafe\u0301": 9, "dog": 9})
    told = sentence(lambda: load(f"{tmp_path}/accents", settings(), SIZE))
    assert r"(the training split has 'caf\xe9')" in told
    pixels = np.zeros((10, SIZE, SIZE, 3), np.uint8)
    monkeypatch.setitem(
        opening.TORCHVISION,
        "cifar10",
        lambda _, train, __: SimpleNamespace(data=pixels, targets=[0, 1] * 5 if train else [0, 5] * 5),
    )
    assert "class '5' is in the test split only" in sentence(lambda: load("cifar10", settings(), SIZE))


# ---- before anything is started


def looked_at(name: str, *overrides: str) -> list[str]:
    return datasets.check(name, settings(*overrides), SIZE, fetch=False)


def test_a_folder_without_usable_images_says_what_it_left_out(tmp_path: Path) -> None:
    for name in (r"train\a\0.png", r"train\b\0.png"):  # as some archives of Windows are unpacked
        (tmp_path / name).touch()
    told = sentence(lambda: load(str(tmp_path), settings(), SIZE))
    assert told.endswith("of at least two classes; images outside class folders are left out: 2")


def test_what_is_not_used_is_counted_before_anything_is_started(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5})
    for name in ("a/0.heic", "a/1.HEIC", "b/x.gif", "b/plain"):
        (tmp_path / name).write_bytes(b"")
    flat(1).save(tmp_path / "loose.png")
    assert looked_at(str(tmp_path)) == [
        "images outside class folders are left out: 1",
        "files are left out by their suffix: 2 .heic, 1 .gif, 1 without a suffix",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x_train": np.zeros((10, 8, 8, 3))}, "images must be uint8"),
        ({"y_train": np.arange(4)}, "10 images have 4 labels"),
        ({"y_test": np.full(5, 9)}, "class '9' is in the test split only"),
        ({"y_train": np.zeros(10, int)}, "at least two classes"),
    ],
)
def test_a_wrong_npz_is_found_without_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, np.ndarray], told: str
) -> None:
    monkeypatch.setattr(npz, "images", None)
    assert looked_at(save(tmp_path / "good.npz", arrays())) == []
    path = save(tmp_path / "d.npz", {**arrays(), **change})
    assert told in sentence(lambda: looked_at(path))


def test_files_that_are_no_images_are_found_by_their_headers(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5})
    for path in tmp_path.glob("a/*"):
        Image.fromarray(np.ones((9, 9), np.float32)).save(path, "TIFF")
    told = sentence(lambda: looked_at(str(tmp_path)))
    assert "5 of 10 images cannot be read: " in told and "its pixels are floats" in told


def test_domains_that_are_too_small_are_found(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", {"a": 9, "b": 9})
    write_folder(tmp_path / "two", {"a": 1, "b": 1})
    assert "domain 'two' of" in sentence(lambda: datasets.check_domains(str(tmp_path), settings()))


def test_a_set_to_download_is_not_downloaded_to_look_at_it(tmp_path: Path) -> None:
    (note,) = looked_at("cifar10", "download=true", f"data={tmp_path}")
    assert "is not in" in note and "will be downloaded" in note
    assert not list(tmp_path.iterdir())
    assert "could not be fetched" in sentence(lambda: looked_at("cifar10", f"data={tmp_path}"))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "pets", {"a": 5, "b": 5})
    check(load("~/pets", settings(), SIZE)[0], 8)


def test_names_that_are_no_text_are_said_in_printable_characters(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 5, "b": 5, "caf\udce9": 5})
    (tmp_path / "caf\udce9" / "x.j\udce9g").touch()
    (tmp_path / "caf\udce9" / "\udce9.png").touch()
    found = datasets.load(str(tmp_path), settings(), SIZE)
    assert found.classes == 3 and fingerprint(str(tmp_path))
    assert len(found.notes) == 2 and all(note.isprintable() for note in found.notes)


# ---- images that exceed a share of the memory


@pytest.mark.parametrize("side", [SIZE, 13])
def test_images_that_exceed_a_share_of_the_memory_are_in_a_file_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, side, side, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "set.npz", x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "set" / ("test" if number >= 40 else "train") / f"{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    (tmp_path / "set" / "train" / "0" / "00.png").write_bytes(b"damaged")
    made: list[Any] = []
    array = scratch.array

    def recorded(shape: tuple[int, ...], dtype: Any) -> Any:
        made.append(array(shape, dtype))
        return made[-1]

    for name in ("set", "set.npz"):
        expected = load(str(tmp_path / name), settings("limit=30"), SIZE)
        with monkeypatch.context() as patched:
            patched.setattr(scratch, "IN_MEMORY", 0)
            patched.setattr(scratch, "array", recorded)
            patched.setattr("infoaug.orchestrator.evaluation.images.BLOCK", 7)
            found = load(str(tmp_path / name), settings("limit=30"), SIZE)
        assert made and all(isinstance(of, np.memmap) for of in made)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_names_of_folders_that_are_no_utf_8_are_text_that_a_page_can_show(tmp_path: Path) -> None:
    for number, name in enumerate((b"caf\xe9", b"caf\xe8", "été".encode())):
        for split in ("train", "test"):
            try:
                folder = tmp_path / split / os.fsdecode(name)
                folder.mkdir(parents=True)
            except OSError:
                pytest.skip("this file system takes no such name")
            flat(number).save(folder / "0.png")
    loaded = datasets.load(str(tmp_path), settings(), SIZE)
    assert loaded.names == ["caf\\xe8", "caf\\xe9", "été"]
    assert greys(loaded.test) == [1, 0, 2]
    across = opening.open_domains(str(tmp_path))
    assert across.classes == loaded.names
