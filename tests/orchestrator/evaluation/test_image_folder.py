"""Which folders are splits, domains and classes, without a look into an image."""

from pathlib import Path

import pytest

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation.image_folder import Layout, domains, every, fingerprint, splits


def write(root: Path, *names: str, images: int = 2) -> Path:
    """Folders below `root` with files that are images by their names."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            (root / name / f"{i}.png").touch()
    return root


def classes(layout: Layout) -> dict[str, dict[str, int]]:
    """The number of images by group and class."""
    return {name: {c: len(files) for c, files in group.items()} for name, group in layout.groups.items()}


def refused(root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        splits(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN", "training_set", "train2017", "train-images"])
@pytest.mark.parametrize(
    "held", ["test", "Testing", "val", "Valid", "validation", "val2017", "dev", "eval", "test_set"]
)
def test_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, held: str) -> None:
    write(tmp_path, f"{train}/cat", f"{train}/dog", f"{held}/cat", f"{held}/dog")
    assert classes(splits(tmp_path)) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}


@pytest.mark.parametrize("unlabelled", ["test", "test/images", "test/unknown"])
def test_a_test_split_without_labels_gives_way_to_the_validation_split(tmp_path: Path, unlabelled: str) -> None:
    write(tmp_path, "train/n01/images", "train/n02/images", "val/n01", "val/n02", unlabelled)
    found = splits(tmp_path)
    assert classes(found) == {"train": {"n01": 2, "n02": 2}, "test": {"n01": 2, "n02": 2}}
    assert {str(file.relative_to(tmp_path).parts[0]) for file in found.groups["test"]["n01"]} == {"val"}
    assert "'test' has no class folders, so 'val' is the test split" in found.notes


def test_a_table_of_labels_stands_for_class_folders_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, "train/n01/images", "train/n02/images", "val/images", "test/images")
    table = tmp_path / "val" / "val_annotations.txt"
    table.write_text("0.png\tn02\t0\t0\t9\t9\n1.png\tn01\t0\t0\t9\t9\n../../x.png\tn01\n\nnothing\n")
    (n01,), (n02,) = (splits(tmp_path).groups["test"][name] for name in ("n01", "n02"))
    assert (n01, n02) == (tmp_path / "val/images/1.png", tmp_path / "val/images/0.png")
    before = fingerprint(tmp_path)
    table.write_text(table.read_text().replace("n02", "n01"))
    assert fingerprint(tmp_path) != before


def test_a_labelled_test_split_comes_before_the_validation_split(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "val/a", "val/b", "test/a", "test/b", "annotations")
    found = splits(tmp_path)
    assert {file.relative_to(tmp_path).parts[0] for files in found.groups["test"].values() for file in files} == {
        "test"
    }
    assert found.notes == []


@pytest.mark.parametrize("name", [".thumbs", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN"])
def test_hidden_folders_are_no_classes(tmp_path: Path, name: str) -> None:
    write(tmp_path, "cat", "dog", name, f"cat/{name}", images=6)
    found = splits(tmp_path)
    assert classes(found) == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}
    assert found.notes == []
    write(tmp_path / "d", "one/cat", "one/dog", "two/cat", "two/dog", f"two/{name}", name)
    assert classes(domains(tmp_path / "d")) == {"one": {"cat": 2, "dog": 2}, "two": {"cat": 2, "dog": 2}}


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog", images=6)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "cat" / name).touch()
    found = splits(tmp_path)
    assert (classes(found)["train"], found.notes) == ({"cat": 4, "dog": 4}, [])


def test_images_are_known_by_suffixes_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    for name in ("x.JPG", "x.Jpeg", "x.AVIF", "x.jfif", "x.TIFF"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a" / "x.HEIC").touch()
    found = splits(tmp_path)
    assert sum(len(group["a"]) for group in found.groups.values()) == 7
    assert found.notes == ["files are left out by their suffix: 1 .heic"]


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["train/a", "train/b"], "'train' is a split and no class"),
        (["train/a", "train/b", "extra"], "'train' is a split and no class"),
        (["test/a", "val/a"], "'test' is a split and no class"),
        (["a/train", "a/test", "b/train", "b/test"], "'a' and the others hold folders and no images"),
        (["photo/cat", "photo/dog", "art/cat", "art/dog"], "give DOMAIN/CLASS/image as evaluate.domains"),
        (
            ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a"],
            "'seg_train' and the others hold fold",
        ),
        (["w/Data/train/a", "w/Data/val/a"], "'w' and the others hold folders"),
        (["train/x/a", "train/x/b", "test/x/a", "test/x/b"], "'x' and the others hold folders and no images"),
        (["train/a", "train/b", "test/images", "val/images"], "a test split (test and val has none)"),
        (["train/a", "train/b", "test"], "needs class folders in a test split"),
        (["train/a", "Training/a", "test/a"], "has one split twice (Training, train)"),
        (["train/a", "val/a", "valid/a"], "has one split twice (val, valid)"),
    ],
)
def test_folders_that_cannot_be_told_apart_are_refused(tmp_path: Path, folders: list[str], told: str) -> None:
    assert told in refused(write(tmp_path, *folders))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "bus", "car", "train", images=5)
    assert classes(splits(tmp_path))["train"] == {"bus": 4, "car": 4, "train": 4}


def test_a_class_may_hold_folders_beside_images_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog", "dog/small", "dog/large", images=5)
    assert classes(splits(tmp_path))["train"] == {"cat": 4, "dog": 12}


def test_domains_may_be_called_like_splits_and_their_classes_may_not(tmp_path: Path) -> None:
    write(tmp_path, "train/car", "train/bus", "validation/car", "validation/bus")
    assert [*domains(tmp_path).groups] == ["train", "validation"]
    write(tmp_path / "deep", "a/train/car", "a/test/car", "b/train/car", "b/test/car")
    with pytest.raises(UsageError, match="'test' is a split and no class"):
        domains(tmp_path / "deep")


def test_a_test_split_that_is_the_training_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    assert "'test' is the same folder as the training split" in refused(tmp_path)


def test_a_class_that_both_splits_link_to_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "test/a")
    (tmp_path / "test" / "b").symlink_to(tmp_path / "train" / "b")
    assert "'test/b' is the same folder as in the training split" in refused(tmp_path)


def test_a_domain_that_is_a_link_to_another_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "art/a", "art/b", "photo/a", "photo/b")
    (tmp_path / "sketch").symlink_to(tmp_path / "art")
    with pytest.raises(UsageError, match=r"the domains 'art' and 'sketch' of .* are one folder"):
        domains(tmp_path)


def test_a_split_whose_images_have_other_suffixes_says_so(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "test/a", images=0)
    (tmp_path / "test" / "a" / "0.gif").touch()
    assert refused(tmp_path).endswith("files are left out by their suffix: 1 .gif")


def test_a_table_may_begin_with_a_mark_and_repeat_a_row_but_not_with_another_class(tmp_path: Path) -> None:
    write(tmp_path, "train/n01/images", "train/n02/images", "val/images")
    table, rows = tmp_path / "val" / "val_annotations.txt", "0.png\tn02\n1.png\tn01\n"
    table.write_text("\ufeff" + rows + rows, encoding="utf-8")
    assert classes(splits(tmp_path))["test"] == {"n01": 1, "n02": 1}
    table.write_text(rows + "0.png\tn01\n")
    assert "gives '0.png' two classes, 'n02' and 'n01'" in refused(tmp_path)


def test_links_to_folders_below_a_class_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    write(tmp_path, ".elsewhere")
    (tmp_path / "a" / "more").symlink_to(tmp_path / ".elsewhere")
    assert splits(tmp_path).notes == ["linked folders below a class are not followed: 1"]


def test_every_image_of_a_folder_whatever_its_folders_stand_for(tmp_path: Path) -> None:
    write(tmp_path, "train/cat", "test", "deep/er/still", ".hidden")
    (tmp_path / "loose.jpg").touch()
    (tmp_path / "train" / "clip.mp4").touch()
    layout = every(tmp_path)
    assert classes(layout) == {"all": {"": 7}}
    assert layout.notes == ["files are left out by their suffix: 1 .mp4"]
