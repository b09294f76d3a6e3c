"""Images that training reads beside the video: of every kind of data set, without labels and without test images."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import datasets, images, opening

SIZE = 8
CONFIG = EvaluateConfig(download=False)


def write(path: Path, grey: int = 0, side: int = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), grey, np.uint8)).save(path)
    return path


def greys(name: str | Path, config: EvaluateConfig = CONFIG) -> list[int]:
    """What grey each image is, as training reads them; their number is the one that was checked."""
    opened = opening.open_images(str(name), config, SIZE, fetch=False)
    read = torch.cat([*datasets.image_blocks(opened, SIZE)])
    assert read.shape[1:] == (3, SIZE, SIZE) and read.dtype == torch.uint8
    assert datasets.check_images(str(name), config, SIZE, fetch=False)[0] == len(read)
    return read[:, 0, 0, 0].tolist()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def notes(name: str | Path) -> list[str]:
    return datasets.check_images(str(name), CONFIG, SIZE, fetch=False)[1]


def test_of_a_folder_with_splits_all_training_images_are_read_with_classes_and_without(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat" / "a.png", 1)
    write(tmp_path / "train" / "dog" / "images" / "b.png", 2)
    write(tmp_path / "train" / "loose.png", 3, side=20)
    write(tmp_path / "test" / "unlabelled.png", 9)
    write(tmp_path / "val" / "cat" / "c.png", 9)
    assert greys(tmp_path) == [1, 2, 3]


def test_of_a_folder_of_classes_the_images_that_evaluation_tests_on_are_left_out(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            write(tmp_path / name / f"{number}.png", 10 * label + number)
    found = greys(tmp_path)
    tested = datasets.load(str(tmp_path), CONFIG, SIZE).test.images[:, 0, 0, 0].tolist()
    assert len(tested) == 4 and sorted(found + tested) == list(range(20))
    assert notes(tmp_path) == ["every fifth image of a class is for testing and left out: 4"]


@pytest.mark.parametrize("names", [["a.png", "b.jpg"], ["x/a.png"], ["a.png", "x/y/b.png"], ["p/1/a.png", "p/2/b.png"]])
def test_of_a_folder_without_classes_all_images_are_read(names: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        write(tmp_path / name, number)
    (tmp_path / "readme.txt").write_text("no image")
    assert greys(tmp_path) == list(range(len(names)))
    assert notes(tmp_path) == (["files are left out by their suffix: 1 .txt"])


def test_a_folder_of_test_images_or_of_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tested" / "val2017" / "a.png")
    assert "'val2017' is a split and there is no training split" in refusal(lambda: greys(tmp_path / "tested"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.gif").touch()
    told = refusal(lambda: greys(tmp_path / "empty"))
    assert "has no images; files are left out by their suffix: 1 .gif: put images such as .png or .jpg into it" in told


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_is_no_archive_is_not_taken_for_a_pickle(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    if content is None:
        np.save(path.with_suffix(".npy"), np.zeros((2, 8, 8, 3), np.uint8))
        path.with_suffix(".npy").rename(path)
    else:
        path.write_bytes(content)
    assert "it is no archive or a damaged one: write it by numpy.savez" in refusal(lambda: notes(path))


@pytest.mark.parametrize("name", ["x_train", "train_images", "images"])
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE, 3), (12, 9, 3)])
def test_of_an_npz_the_training_images_are_read_with_labels_and_without(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    pixels = np.broadcast_to(np.arange(5, dtype=np.uint8).reshape(5, *[1] * len(shape)), (5, *shape))
    np.savez(tmp_path / "set.npz", **{name: pixels, "x_test": pixels + 100})
    assert greys(tmp_path / "set.npz") == list(range(5))


def test_an_npz_without_images_to_train_on_says_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_test=np.zeros((2, 8, 8), np.uint8))
    told = refusal(lambda: greys(tmp_path / "set.npz"))
    assert "must hold x_train or train_images or images; it holds x_test" in told
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8)))
    assert "images must be uint8" in refusal(lambda: notes(tmp_path / "set.npz"))
    np.savez(tmp_path / "set.npz", images=np.zeros((0, 8, 8), np.uint8))
    assert "has no images in images" in refusal(lambda: notes(tmp_path / "set.npz"))


def test_of_cifar_the_training_images_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(root: str, train: bool, fetch: bool) -> SimpleNamespace:
        return SimpleNamespace(data=np.full((6, 4, 4, 3), 50 if train else 9, np.uint8), targets=[0, 1] * 3)

    monkeypatch.setitem(opening.TORCHVISION, "cifar10", fake)
    assert greys("cifar10") == [50] * 6


def test_of_stl10_the_unlabelled_images_are_read_rows_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright = np.zeros((3, 3, 96, 96), np.uint8)
    upright[:, :, :48] = [[[[7]]], [[[8]]], [[[9]]]]  # the upper half
    (tmp_path / "stl10_binary").mkdir()
    upright.transpose(0, 1, 3, 2).tofile(tmp_path / "stl10_binary" / "unlabeled_X.bin")

    def fake(root: str, train: bool, fetch: bool) -> SimpleNamespace:
        assert train, "only the split of which torchvision checks these images"
        files = [["train_X.bin", ""], ["train_y.bin", ""], ["unlabeled_X.bin", ""]]
        return SimpleNamespace(root=root, base_folder="stl10_binary", train_list=files)

    monkeypatch.setitem(opening.TORCHVISION, "stl10", fake)
    config = EvaluateConfig(data=str(tmp_path))
    (read,) = datasets.image_blocks(opening.open_images("stl10", config, 96, fetch=False), 96)
    assert np.array_equal(read.numpy(), upright)
    assert greys("stl10", config) == [7, 8, 9]


def test_of_scenes_the_training_images_are_read() -> None:
    opened = opening.open_images("scenes", CONFIG, 16, fetch=False)
    read = torch.cat([*datasets.image_blocks(opened, 16)])
    assert torch.equal(read, datasets.load("scenes", CONFIG, 16).train.images)


@pytest.mark.parametrize("name", ["cifar11", "absent.npz", "a\0b"])
def test_images_that_are_not_there_are_refused(name: str) -> None:
    assert "no data set" in refusal(lambda: datasets.check_images(name, CONFIG, SIZE, fetch=True))


def test_a_set_to_download_is_not_downloaded_to_look_at_it(tmp_path: Path) -> None:
    config = EvaluateConfig(data=str(tmp_path / "data"))
    count, told = datasets.check_images("cifar10", config, SIZE, fetch=False)
    assert count is None and "will be downloaded" in told[0] and not list(tmp_path.iterdir())
    missing = config.model_copy(update={"download": False})
    assert "could not be fetched" in refusal(lambda: datasets.check_images("cifar10", missing, SIZE, fetch=False))


# ---- a block at a time


def test_images_read_in_blocks_are_those_read_at_once_with_deeper_ones_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{number}.png", number) for number in range(7)]
    for number, value in ((1, 100), (4, 1000)):  # 10 bits are their common full scale
        Image.fromarray(np.full((SIZE, SIZE), value, np.uint16)).save(paths[number])
    paths[5].write_bytes(b"no image")
    whole, failed = images.read(paths, SIZE)
    monkeypatch.setattr(images, "BLOCK", 2)
    found: list[torch.Tensor] = []
    reading = images.blocks(paths, SIZE)
    while True:
        try:
            found.append(next(reading))
        except StopIteration as ended:
            assert ended.value == failed and list(failed) == [5]
            break
    assert [len(block) for block in found] == [2, 2, 2]
    assert torch.equal(torch.cat(found), whole[[0, 2, 3, 5, 1, 4]])


def test_too_many_images_that_cannot_be_read_are_refused_and_few_left_out(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number:02d}.png", number) for number in range(20)]
    damaged = paths[3].read_bytes()
    paths[3].write_bytes(damaged[:-30])  # its header is that of an image
    assert len(images.read(paths, SIZE)[1]) == 1
    opened = opening.open_images(str(tmp_path), CONFIG, SIZE, fetch=False)
    assert sum(map(len, datasets.image_blocks(opened, SIZE))) == 19
    for path in paths[4:8]:
        path.write_bytes(damaged[:-30])
    assert "5 of 20 images cannot be read" in refusal(lambda: [*datasets.image_blocks(opened, SIZE)])
    for path in paths[:5]:
        path.write_bytes(b"no image")
    assert "5 of 20 images cannot be read" in refusal(lambda: notes(tmp_path)), "before anything is started"
