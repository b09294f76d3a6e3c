from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.models.training import Pairs, pairs
from infoaug.models.training.pairs import Batches, Window, write_mapped

CPU = torch.device("cpu")


def some_pairs(on_device: bool = True) -> Pairs:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2).contiguous()
    return Pairs(images, torch.tensor([3, -1, 5, 0, -1, 2]), on_device)


def windows() -> list[Window]:
    """Three windows of three patches; image number n is n everywhere."""
    images = np.broadcast_to(np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1, 1), (3, 3, 3, 4, 4))
    twins = np.array([[1, -1, 5], [5, 3, -1], [-1, -1, 7]])  # one is of another window
    return list(zip(images, twins, strict=True))


def numbers(images: torch.Tensor) -> list[int]:
    return images[:, 1, 0, 0].tolist()


def test_windows_are_concatenated() -> None:
    loaded = Pairs.from_windows(windows())
    assert (loaded.images.shape, loaded.images.dtype) == ((9, 3, 4, 4), torch.uint8)
    assert numbers(loaded.images) == list(range(9))
    assert loaded.twin.tolist() == [1, -1, 5, 5, 3, -1, -1, -1, 7]


def test_a_mapped_file_has_the_same_patches_and_may_be_deleted_once_it_is_mapped(tmp_path: Path) -> None:
    loaded = Pairs.from_windows(windows())
    write_mapped(tmp_path / "scratch", windows())
    mapped = Pairs.mapped(tmp_path / "scratch")
    for file in (tmp_path / "scratch").iterdir():
        file.unlink()
    assert not mapped.on_device
    assert torch.equal(mapped.images, loaded.images) and torch.equal(mapped.twin, loaded.twin)


def test_still_images_follow_the_patches_and_have_no_twin_in_memory_and_mapped(tmp_path: Path) -> None:
    blocks = [np.full((count, 3, 4, 4), 100 + count, np.uint8) for count in (2, 1)]
    write_mapped(tmp_path, windows(), iter(blocks))
    for loaded in (Pairs.from_windows(windows(), iter(blocks)), Pairs.mapped(tmp_path)):
        assert (loaded.patches, loaded.stills) == (9, 3)
        assert numbers(loaded.images) == [*range(9), 102, 102, 101]
        assert loaded.twin.tolist() == [1, -1, 5, 5, 3, -1, -1, -1, 7, -1, -1, -1]
        batch = loaded.batch(torch.tensor([9, 3, 11]), CPU)
        assert (numbers(batch.images), batch.twin_rows.tolist()) == ([102, 3, 101], [1])
    assert Pairs.from_arrays(IMAGES, TWINS, IMAGES[:2]).to(CPU).stills == 2
    with pytest.raises(ValueError, match="still images must have the patches' 4 pixels, not 5"):
        Pairs.from_arrays(IMAGES, TWINS, np.zeros((2, 5, 5, 3), np.uint8))


def test_numpy_images_have_channels_last_and_tensors_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    twins = np.array([1, 0, -1, 4, 3], np.int32)
    one = Pairs.from_arrays(images, twins)
    other = Pairs.from_arrays(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(twins))
    assert one.images.shape == (5, 3, 4, 4) and torch.equal(one.images, other.images)
    assert one.twin.dtype == torch.int64 and one.twin.tolist() == other.twin.tolist() == twins.tolist()
    assert one.images[2, 0, 1, 3] == images[2, 1, 3, 0]


IMAGES, TWINS = np.zeros((3, 4, 4, 3), np.uint8), np.array([1, 0, -1])


@pytest.mark.parametrize(
    ("images", "twins", "named"),
    [
        (IMAGES.transpose(0, 3, 1, 2), TWINS, r"\[N, S, S, 3\]"),
        (torch.from_numpy(IMAGES), TWINS, r"\[N, 3, S, S\]"),
        (IMAGES / 255, TWINS, "uint8"),
        (IMAGES, TWINS[:2], r"int\[3\]"),
        (IMAGES, TWINS.astype(float), r"int\[3\]"),
        (IMAGES, TWINS > 0, r"int\[3\]"),
        (IMAGES, np.array([1, 3, -1]), "0 to 2"),
        (IMAGES, np.array([1, -2, -1]), "0 to 2"),
    ],
)
def test_arrays_of_a_wrong_shape_dtype_or_range_are_refused(images: Any, twins: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pairs.from_arrays(images, twins)


def test_a_batch_has_the_images_asked_for_and_those_of_their_twins() -> None:
    batch = some_pairs().batch(torch.tensor([5, 1, 0]), CPU)
    assert numbers(batch.images) == [5, 1, 0]
    assert (numbers(batch.twins), batch.twin_rows.tolist()) == ([2, 3], [0, 2])
    assert (batch.image.tolist(), batch.twin_image.tolist()) == ([5, 1, 0], [2, -1, 3])


def test_a_batch_without_images_of_twins_still_says_which_they_are() -> None:
    batch = some_pairs().batch(torch.tensor([5, 1, 0]), CPU, twins=False)
    assert batch.twins.shape == (0, 3, 2, 2) and batch.twin_rows.shape == (0,)
    assert batch.twin_image.tolist() == [2, -1, 3]


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=5))
def test_reading_ahead_gives_the_batches_of_images_in_memory_in_the_same_order(rows: list[list[int]]) -> None:
    parts = [torch.tensor(part) for part in rows]
    in_memory, ahead = (list(Batches(some_pairs(kind), parts, CPU)) for kind in (True, False))
    assert len(in_memory) == len(rows) == len(ahead)
    for one, other, part in zip(in_memory, ahead, rows, strict=True):
        assert numbers(one.images) == part
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_time_waited_for_batches_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("infoaug.models.training.pairs.time.perf_counter", lambda: next(now))
    batches = Batches(some_pairs(), [torch.tensor([0])] * 3, CPU)
    assert len(list(batches)) == 3
    assert batches.waited == 4  # three batches, and the end


def test_images_fit_while_all_workers_copies_take_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infoaug.models.memory.limit", lambda: 4 * 1000 * 3 * 32 * 32)
    assert pairs.fits(1000, 32, CPU, workers=1)
    assert not pairs.fits(1001, 32, CPU, workers=1)
    assert not pairs.fits(600, 32, CPU, workers=2)
