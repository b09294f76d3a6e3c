from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.orchestrator.stages import pairs, score
from infoaug.orchestrator.stages.pairs import Batches, Pairs
from tests.orchestrator.conftest import scored_windows

CPU = torch.device("cpu")
TWINS = [[1, -1, 0], [2, 0, -1], [-1, -1, 1]]  # within their windows


@pytest.fixture
def scored(tmp_path: Path) -> score.Scored:
    """Three windows of three patches: image number n is n everywhere, but for its first channel, which is 100 more."""
    numbers = np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1, 1)
    images = np.broadcast_to(numbers, (3, 3, 4, 4, 3)) + np.array([100, 0, 0], np.uint8)
    windows = list(zip(images, TWINS, strict=True))
    return scored_windows(tmp_path / "store", {"a": windows[:2], "b": windows[2:]})


def some_pairs(resident: bool = True) -> Pairs:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2).contiguous()
    return Pairs(images, torch.tensor([3, -1, 5, 0, -1, 2]), resident)


def numbers(images: torch.Tensor) -> list[int]:
    return images[:, 1, 0, 0].tolist()


def test_patches_come_in_the_order_of_clips_windows_and_patches_with_the_rows_of_their_twins(
    scored: score.Scored,
) -> None:
    loaded = pairs.load(scored, scored.stage.store)
    assert (loaded.images.shape, loaded.images.dtype) == ((9, 3, 4, 4), torch.uint8)
    assert numbers(loaded.images) == list(range(9))
    assert (loaded.images[:, 0] == loaded.images[:, 1] + 100).all()
    assert loaded.twin.tolist() == [1, -1, 0, 5, 3, -1, -1, -1, 7]


def test_a_mapped_file_holds_the_same_and_may_be_deleted_once_it_is_mapped(
    scored: score.Scored, tmp_path: Path
) -> None:
    loaded = pairs.load(scored, scored.stage.store)
    pairs.write(scored, scored.stage.store, tmp_path / "scratch")
    mapped = pairs.mapped(tmp_path / "scratch")
    for file in (tmp_path / "scratch").iterdir():
        file.unlink()
    assert not mapped.resident
    assert torch.equal(mapped.images, loaded.images) and torch.equal(mapped.twin, loaded.twin)


def test_a_batch_has_the_images_asked_for_and_those_of_their_twins() -> None:
    batch = some_pairs().batch(torch.tensor([5, 1, 0]), CPU)
    assert numbers(batch.images) == [5, 1, 0]
    assert (numbers(batch.twins), batch.twin_rows.tolist()) == ([2, 3], [0, 2])
    assert (batch.image.tolist(), batch.twin_image.tolist()) == ([5, 1, 0], [2, -1, 3])


def test_a_batch_without_twins_still_says_which_they_are() -> None:
    batch = some_pairs().batch(torch.tensor([5, 1, 0]), CPU, twins=False)
    assert batch.twins.shape == (0, 3, 2, 2) and batch.twin_rows.shape == (0,)
    assert batch.twin_image.tolist() == [2, -1, 3]


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=5))
def test_reading_ahead_gives_the_batches_of_resident_images_in_the_same_order(rows: list[list[int]]) -> None:
    parts = [torch.tensor(part) for part in rows]
    resident, ahead = (list(Batches(some_pairs(kind), parts, CPU)) for kind in (True, False))
    assert len(resident) == len(rows) == len(ahead)
    for one, other, part in zip(resident, ahead, rows, strict=True):
        assert numbers(one.images) == part
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_the_time_that_a_slow_file_is_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("infoaug.orchestrator.stages.pairs.time.perf_counter", lambda: next(now))
    batches = Batches(some_pairs(), [torch.tensor([0])] * 3, CPU)
    assert len(list(batches)) == 3
    assert batches.waited == 4  # three batches, and the end


def test_images_are_resident_while_all_workers_copies_take_a_quarter_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "_memory", lambda: 4 * 1000 * 3 * 32 * 32)
    assert pairs.fits(1000, 32, CPU, workers=1)
    assert not pairs.fits(1001, 32, CPU, workers=1)
    assert not pairs.fits(600, 32, CPU, workers=2)


def test_this_machine_has_memory() -> None:
    assert 2**26 < pairs._memory() < 2**50
