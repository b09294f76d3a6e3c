"""Checkpoints in the store: which are kept, what is read again, and when an error of writing is told."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages.checkpoints import Checkpoints
from tests.models.training.trainings import CPU, same


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    return StageFolder(Store(str(tmp_path)), "pretrain", {})


def state(epochs: int, blocks: int | None = None) -> dict[str, Any]:
    """What a training keeps after so many epochs, and blocks of the next one."""
    kept = {"model": {"weight": torch.full((3,), float(epochs))}, "history": [{"epoch": n + 1} for n in range(epochs)]}
    return kept | ({} if blocks is None else {"sums": {"blocks": blocks}})


def names(stage: StageFolder) -> list[str]:
    return sorted(stage.store.files(stage.path("train")))


def test_the_newest_two_are_kept_and_the_newest_is_read_again(stage: StageFolder) -> None:
    with Checkpoints(stage) as checkpoints:
        assert checkpoints.newest() is None
        for kept in (state(8), state(9), state(9, 1), state(9, 12), state(10)):
            checkpoints.save(kept)
    assert names(stage) == ["checkpoint_000009_000012.pt", "checkpoint_000010_000000.pt"]
    again = Checkpoints(stage)
    assert again.newest() == "checkpoint_000010_000000.pt"
    assert same(again.load("checkpoint_000010_000000.pt", CPU), state(10))
    assert same(again.load("checkpoint_000009_000012.pt", CPU), state(9, 12))


def test_a_state_may_change_while_it_is_written_and_training_does_not_wait(
    stage: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = threading.Event(), Store.write_bytes

    def slow(store: Store, path: str, content: bytes) -> None:
        assert written.wait(60)
        real(store, path, content)

    monkeypatch.setattr(Store, "write_bytes", slow)
    with Checkpoints(stage) as checkpoints:
        kept = state(3)
        checkpoints.save(kept)
        kept["model"]["weight"].zero_()
        assert not names(stage)
        written.set()
    assert same(checkpoints.load("checkpoint_000003_000000.pt", CPU), state(3))


def test_one_that_cannot_be_written_is_an_error_of_the_next_one_or_of_the_end(
    stage: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StageError("no space left on device")

    monkeypatch.setattr(Store, "write_bytes", full)
    with pytest.raises(StageError, match="no space left"), Checkpoints(stage) as checkpoints:
        checkpoints.save(state(1))
    with pytest.raises(ZeroDivisionError), Checkpoints(stage) as checkpoints:  # which came first
        checkpoints.save(state(1))
        raise ZeroDivisionError
    with pytest.raises(StageError, match="no space left"), Checkpoints(stage) as checkpoints:
        checkpoints.save(state(1))
        checkpoints.save(state(2))
        pytest.fail("the second was begun")


def test_those_that_ray_train_has_left_are_continued_from_until_there_are_newer_ones(
    stage: StageFolder, tmp_path: Path
) -> None:
    for name in ("checkpoint_2026-11-26_21-00-00.000001", "checkpoint_2026-11-26_21-01-00.000001"):
        folder = tmp_path / stage.path("train", name)
        folder.mkdir(parents=True)
        torch.save(state(4), folder / "state.pt")
    with Checkpoints(stage) as checkpoints:
        assert (newest := checkpoints.newest()) == "checkpoint_2026-11-26_21-01-00.000001/state.pt"
        assert same(checkpoints.load(newest, CPU), state(4))
        checkpoints.save(state(5))
        checkpoints.save(state(6))
    assert names(stage) == ["checkpoint_000005_000000.pt", "checkpoint_000006_000000.pt"]


@pytest.mark.parametrize("keep", [0, 100])
def test_a_broken_one_is_named(stage: StageFolder, tmp_path: Path, keep: int) -> None:
    with Checkpoints(stage) as checkpoints:
        checkpoints.save(state(2))
    file = tmp_path / stage.path("train", names(stage)[0])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StageError, match=r"checkpoint_000002_000000\.pt' of the store is broken: delete it"):
        checkpoints.load(names(stage)[0], CPU)
