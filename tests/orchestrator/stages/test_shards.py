"""Shards of scored windows: the patches and twins that training reads from windows, and how windows are dealt out."""

import copy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from infoaug.models.training import Pairs, Stream
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import pretrain, ray_training, score, shards
from infoaug.orchestrator.stages.checkpoints import Checkpoints
from infoaug.orchestrator.stages.twin_table import COUNTED, RANDOM_DRAWS, column
from tests.models.training.trainings import small_settings
from tests.orchestrator.conftest import scored_windows

pytestmark = pytest.mark.usefixtures("one_thread")
CLIPS = {"a": 3, "b": 2}  # windows of each
PATCHES, SIZE, CROPS = 6, 16, 3
POLICIES = ("mutual-information", "later", "later+mutual-information", "none", *shards.ONE, *shards.DRAWN)


@pytest.fixture
def scored(tmp_path: Path) -> score.Scored:
    """Five windows of random crops, of one to three times, with random twins by all policies."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (sum(CLIPS.values()), PATCHES, CROPS, SIZE, SIZE, 3), np.uint8)
    windows = iter(images)
    given = {clip: [(next(windows), [-1] * PATCHES) for _ in range(count)] for clip, count in CLIPS.items()}
    found = scored_windows(tmp_path / "store", given)
    units = found.extracted.windows
    for _, folder, window in units:
        found.stage.store.write_table(score.twins_path(found.stage, folder, window), _twins(random))
    found.stage.key.update(alpha=0.05, mutual=2, surrogates=9)
    counts = {name: [0] * len(units) for name in map(column, COUNTED)} | {"patches": [PATCHES] * len(units)}
    ledger = pa.table({"folder": [f for _, f, _ in units], "window": [w for _, _, w in units], **counts})
    return replace(found, ledger=ledger)


def _twins(random: np.random.Generator) -> pa.Table:
    paired = random.random(PATCHES) < 0.7

    def drawn(*shape: int) -> Any:
        other = np.arange(PATCHES).reshape(-1, *[1] * len(shape)) + random.integers(1, PATCHES, (PATCHES, *shape))
        return np.where(paired.reshape(-1, *[1] * len(shape)), other % PATCHES, -1)

    several = drawn(RANDOM_DRAWS)
    candidates = [random.permutation(PATCHES)[: random.integers(0, 4)] for _ in range(PATCHES)]
    columns = {
        "twin": pa.array([int(t) if t >= 0 else None for t in drawn()], pa.int32()),
        "strength": pa.array(random.random(PATCHES), pa.float32()),
        "candidates": pa.array(candidates, pa.list_(pa.int32())),
        "candidate_strength": pa.array([random.random(len(own)) for own in candidates], pa.list_(pa.float32())),
        "candidate_p_value": pa.array([random.random(len(own)) * 0.08 for own in candidates], pa.list_(pa.float32())),
        **{name: pa.array([int(t) if t >= 0 else None for t in drawn()], pa.int32()) for name in shards.ONE},
        **{
            name: pa.FixedSizeListArray.from_arrays(pa.array(several.ravel(), pa.int32()), RANDOM_DRAWS)
            for name in shards.DRAWN
        },
    }
    return pa.table(columns)


def _written(config: ExperimentConfig, scored: score.Scored, number: int = 0) -> Pairs:
    """A shard, written as a worker writes it, and opened."""
    found, windows = shards.sharded(config, scored)
    units = [scored.extracted.windows[window][1:] for window in windows[number]]
    work = {"number": number, "windows": units}
    assert [*shards._write(found, scored.extracted.stage, scored.stage, [work])] == [{"reason": ""}]
    local = scored.stage.store.local
    assert local
    return shards.open_shard(found, local / found.path(number))


def _config(**pretrain: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"extract": {"image_size": SIZE, "crops": CROPS}, "pretrain": pretrain})


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("twins", [1, 3])
def test_a_shard_has_the_crops_and_twins_that_its_windows_have(scored: score.Scored, policy: str, twins: int) -> None:
    config = _config(twins=twins)
    chosen = config.model_copy(update={"seed": 3, "score": config.score.model_copy(update={"policy": policy})})
    asked = scored.for_training(chosen)
    expected = Pairs.from_windows(ray_training.windows(asked, asked.stage.store))
    shard = _written(chosen, asked)
    assert isinstance(expected.images, torch.Tensor)
    assert torch.equal(shard.images[torch.arange(len(shard.images))], expected.images)
    for name in ("twin", "partners", "strengths", "crop_frames", "is_paired", "starts"):
        assert torch.equal(getattr(shard, name), getattr(expected, name)), name
    assert (shard.twin >= 0).any() == (policy != "none")


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_windows_are_in_the_shards_that_they_were_always_in(counts: list[int], each: int) -> None:
    patches = np.array(counts)
    order = np.random.default_rng(0).permutation(len(patches))
    number = max(1, round(int(patches.sum()) / each))
    shard = np.minimum(np.cumsum(patches[order]) * number // max(1, int(patches.sum())), number - 1)
    dealt = [sorted(order[shard == n].tolist()) for n in range(number)]
    assert [own.tolist() for own in shards.planned(patches, each)] == [o for o in dealt if o and patches[o].sum()]


def test_workers_are_told_of_no_window(scored: score.Scored) -> None:
    for shuffle in ("all", PATCHES):
        config = _config(batch_size=4, shuffle=shuffle)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "write", lambda *given: None)
            told = pretrain.job(config, scored, pretrain.stage(config, scored), "starting")
        assert (told.sharded is None) == (shuffle == "all")
        assert b"a.mp4" in cloudpickle.dumps(scored) and b"a.mp4" not in cloudpickle.dumps(told)


def test_windows_are_dealt_out_at_random_into_shards_of_about_one_size() -> None:
    patches = np.random.default_rng(0).integers(0, 300, 1000)
    dealt = shards.planned(patches, 5000)
    assert sorted(chain(*dealt)) == list(range(1000)) and len(dealt) == round(patches.sum() / 5000)
    sizes = [patches[own].sum() for own in dealt]
    assert max(sizes) - min(sizes) <= 2 * patches.max()
    assert np.std([np.mean(own) for own in dealt]) < 100, "a shard is a sample of all clips"
    assert all(map(np.array_equal, dealt, shards.planned(patches, 5000)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_each_window_with_patches_is_in_one_shard_and_no_shard_is_empty(patches: list[int], each: int) -> None:
    dealt = shards.planned(np.array(patches), each)
    placed = sorted(window for own in dealt for window in own)
    assert len(placed) == len(set(placed)) and {i for i, n in enumerate(patches) if n} <= {*placed}
    assert all(sum(patches[window] for window in own) for own in dealt)


def test_several_shards_make_a_stream_of_all_patches(scored: score.Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BYTES", 2 * PATCHES * CROPS * 3 * SIZE * SIZE)
    config = _config()
    found, _ = shards.sharded(config, scored)
    assert len(found.counts) > 1 and sum(found.counts) == scored.counts["patches"]
    opened = [_written(config, scored, number) for number in range(len(found.counts))]
    assert tuple(shard.patches for shard in opened) == found.counts
    stream = Stream(found.counts, opened.__getitem__, found.together(12), SIZE)
    rows = [pairs.ids for _, pairs in stream.epoch(0, seed=0)]
    assert sorted(torch.cat([row for row in rows if row is not None]).tolist()) == list(range(30))


def test_a_training_is_streamed_if_its_pixels_are_many_or_its_config_says_so(scored: score.Scored) -> None:
    def block(**settings: Any) -> int | None:
        return shards.block(_config(**settings), scored)

    assert block() is None and block(shuffle="all") is None and block(shuffle=12) == 12
    assert block(shuffle=30) is None, "one block holds all patches"
    large = replace(scored, ledger=scored.ledger.set_column(2, "patches", pa.array([2**24] * 5)))
    assert shards.block(_config(), large) == shards.BLOCK and shards.block(_config(shuffle="all"), large) is None


def test_a_streamed_training_is_another_one_and_where_it_is_held_changes_nothing(scored: score.Scored) -> None:
    names = [pretrain.stage(_config(**settings), scored).hash for settings in (
        {}, {"shuffle": "all"}, {"shuffle": 100}, {"shuffle": 12}, {"shuffle": 18})]  # fmt: skip
    assert len({*names[:3]}) == 1 and len({*names}) == 3


def test_twins_of_other_windows_cannot_be_streamed(scored: score.Scored) -> None:
    with pytest.raises(UsageError, match=r"same-clip takes twins from other windows.*set pretrain.shuffle to all"):
        shards.check(_config(shuffle=12), replace(scored, policy="same-clip"))
    shards.check(_config(), replace(scored, policy="same-clip"))


def test_blocks_that_cannot_be_trained_on_are_found_before_training(
    scored: score.Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BYTES", 1)  # a window a shard
    paired = replace(scored, ledger=scored.ledger.drop_columns("twin").append_column("twin", pa.array([3, 3, 3, 3, 1])))
    few = {"batch_size": PATCHES + 1}

    def in_blocks(scored: score.Scored, **settings: Any) -> str:
        config = _config(shuffle=PATCHES, **settings)
        found, windows = shards.sharded(config, scored)
        return pretrain._in_blocks(config, found, shards.paired(scored, windows), PATCHES)

    with pytest.raises(UsageError, match=r"no batch of 7.*set pretrain\.shuffle higher or pretrain\.batch_size lower"):
        in_blocks(scored, **few)
    share = {"batch_size": 4, "twin_share": 0.5}
    with pytest.raises(UsageError, match=r"takes 2 patches with a twin, and there are 1.*set pretrain\.shuffle higher"):
        in_blocks(paired, **share)
    assert "47 % of them are left out" in in_blocks(paired, batch_size=4)


def test_a_damaged_shard_is_named(tmp_path: Path, scored: score.Scored) -> None:
    found, _ = shards.sharded(_config(), scored)
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1junk")
    with pytest.raises(StageError, match=r"broken\.arrow' is damaged"):
        shards.open_shard(found, tmp_path / "broken.arrow")


def test_a_shard_whose_windows_cannot_be_read_says_why(scored: score.Scored) -> None:
    found, _ = shards.sharded(_config(), scored)
    path = score.twins_path(scored.stage, "a", 0)
    scored.stage.store.write_bytes(path, b"junk")
    work = {"number": 0, "windows": [("a", 0)]}
    with pytest.raises(StageError, match="is broken, delete it"):
        list(shards._write(found, scored.extracted.stage, scored.stage, [work]))


@pytest.mark.parametrize(("minutes", "news", "saved"), [(0.0, 0, 4), (60.0, 0, 0), (60.0, 2, 1)])
def test_a_worker_saves_between_blocks_when_it_is_due_and_when_its_node_will_go(
    scored: score.Scored, monkeypatch: pytest.MonkeyPatch, minutes: float, news: int, saved: int
) -> None:
    monkeypatch.setattr(shards, "BYTES", 1)  # a window a shard
    config = _config(shuffle=PATCHES, checkpoint_minutes=minutes, epochs=1, warmup_epochs=0)
    found, windows = shards.sharded(config, scored)
    for number in range(len(windows)):
        _written(config, scored, number)
    asked: list[int] = []
    told: list[dict[str, float]] = []
    states: list[dict[str, Any]] = []

    def leaving() -> bool:
        asked.append(1)
        return len(asked) == news

    monkeypatch.setattr(Checkpoints, "save", lambda self, state: states.append(copy.deepcopy(state)))
    settings = small_settings(epochs=1, warmup_epochs=0, batch_size=2)
    stage = StageFolder(scored.stage.store, "pretrain", {})
    job = ray_training.Job(config, settings, stage, found, found.together(PATCHES))
    worker = ray_training.Worker(torch.device("cpu"), told.append, leaving)
    assert ray_training.train(job, worker) == ""
    assert [epoch["epoch"] for epoch in told] == [1]
    assert len(states) == saved + 1 and "sums" not in states[-1]
    assert [state["sums"]["blocks"] for state in states[:-1]] == ([1, 2, 3, 4] if not minutes else [news] * saved)
