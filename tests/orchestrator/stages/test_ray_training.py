"""What a worker of Ray Train does around the training, without Ray Train."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from infoaug.models.backbones import WEIGHTS_FILE
from infoaug.models.training import Pairs, Training
from infoaug.orchestrator.config import EvaluateConfig, ExperimentConfig, PretrainConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import extract, pretrain, ray_training, score
from tests.models.training.trainings import CPU, PARTS, random_pairs, same, small_settings, trained
from tests.orchestrator.conftest import scored_windows

ALONE = ray_training.Worker(CPU, tell=lambda epoch: None, leaving=lambda: False)

pytestmark = pytest.mark.usefixtures("one_thread")
TWINS = [[1, -1, 0], [2, 0, -1], [-1, -1, 1]]  # rows of their windows


@pytest.fixture
def scored(tmp_path: Path) -> score.Scored:
    """Three windows of three patches: image number n is n everywhere, except for its first channel, n + 100."""
    numbers = np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1, 1)
    images = np.broadcast_to(numbers, (3, 3, 4, 4, 3)) + np.array([100, 0, 0], np.uint8)
    windows = list(zip(images, TWINS, strict=True))
    return scored_windows(tmp_path / "store", {"a": windows[:2], "b": windows[2:]})


def test_patches_are_in_the_order_of_clips_windows_and_patches_with_the_rows_of_their_twins(
    scored: score.Scored,
) -> None:
    loaded = Pairs.from_windows(ray_training.windows(scored, scored.stage.store))
    assert (loaded.images.shape, loaded.images.dtype) == ((9, 3, 4, 4), torch.uint8)
    assert loaded.images[:, 1, 0, 0].tolist() == list(range(9))
    assert (loaded.images[:, 0] == loaded.images[:, 1] + 100).all()
    assert loaded.twin.tolist() == [1, -1, 0, 5, 3, -1, -1, -1, 7]


@pytest.mark.parametrize(
    ("policy", "twins"),
    [("later", [0, -1, 2, 3, 4, -1, -1, -1, 8]), ("later+mutual-information", [1, -1, 0, 5, 3, -1, -1, -1, 7])],
)
def test_a_patch_is_its_own_twin_by_the_policy_later(scored: score.Scored, policy: str, twins: list[int]) -> None:
    assert (
        Pairs.from_windows(ray_training.windows(replace(scored, policy=policy), scored.stage.store)).twin.tolist()
        == twins
    )


def test_all_crops_of_a_track_are_read_with_their_frames(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    given = scored_windows(tmp_path / "store", {"a": [(images, [1, 0])], "b": [(images[:, 0], [-1, -1])]})
    loaded = Pairs.from_windows(ray_training.windows(given, given.stage.store))
    expected = np.concatenate([images.reshape(6, 4, 4, 3), images[:, 0]]).transpose(0, 3, 1, 2)
    assert np.array_equal(loaded.images.numpy(), expected)
    assert loaded.crop_frames.tolist() == [[0, 1, 2], [0, 1, 2], [0, -1, -1], [0, -1, -1]]


def test_the_best_partners_are_read_with_the_strength_of_the_dependence(scored: score.Scored) -> None:
    # In every window: patch 0 has the twin 1 and the candidate 2; patch 1 the twin 2, which is no candidate of it, and
    # one that is not significant; patch 2 has no twin.
    table = {
        "twin": [1, 2, None],
        "strength": [0.5, 0.25, None],
        "candidates": [[1, 2], [0], []],
        "candidate_strength": [[0.5, -0.5], [0.5], []],
        "candidate_p_value": [[0.05, 0.01], [0.051], []],
    }
    types = {"candidates": pa.list_(pa.int32()), "twin": pa.int32()}
    columns = {name: pa.array(values, types.get(name, pa.list_(pa.float32()))) for name, values in table.items()
               if name != "strength"}  # fmt: skip
    columns["strength"] = pa.array(table["strength"], pa.float32())
    for _, folder, window in scored.extracted.windows:
        scored.stage.store.write_table(score.twins_path(scored.stage, folder, window), pa.table(columns))
    scored.stage.key.update(alpha=0.05, mutual=0, surrogates=9)
    config = ExperimentConfig.model_validate({"pretrain": {"twins": 3}})
    loaded = Pairs.from_windows(ray_training.windows(scored.for_training(config), scored.stage.store))
    assert loaded.partners.tolist() == [
        [row + start if row >= 0 else -1 for row in rows]
        for start in (0, 3, 6)
        for rows in ([1, 2, -1], [2, -1, -1], [-1, -1, -1])
    ]
    assert loaded.strengths[:3].tolist() == [[0.5, 0, 0], [0.25, 0, 0], [0, 0, 0]]
    assert loaded.twin.tolist() == loaded.partners[:, 0].tolist()
    later = config.model_copy(update={"score": config.score.model_copy(update={"policy": "later"})})
    loaded = Pairs.from_windows(ray_training.windows(scored.for_training(later), scored.stage.store))
    assert loaded.partners.tolist() == [[0], [1], [-1], [3], [4], [-1], [6], [7], [-1]]


def test_crops_that_cannot_be_decoded_name_their_file(scored: score.Scored) -> None:
    store, path = scored.stage.store, extract.trajectory_path(scored.extracted.stage, "b", 0)
    table = store.read_table(path)
    store.write_table(path, table.set_column(table.column_names.index("crops"), "crops", pa.array([b"junk"] * 3)))
    with pytest.raises(StageError, match=r"b/00000\.parquet' of the store: no crops can be decoded; delete it"):
        Pairs.from_windows(ray_training.windows(scored, store))


@pytest.mark.parametrize(("policy", "expected"), [("same-clip", {0, 1, 2, 3, 4, 5}), ("other-clip", {6, 7, 8})])
def test_twins_of_other_windows_are_drawn_for_the_same_patches(
    scored: score.Scored, policy: str, expected: set[int]
) -> None:
    store, stage, found = scored.stage.store, scored.stage, []
    for (_, folder, window), twins in zip(scored.extracted.windows, TWINS, strict=True):
        reason = ["" if twin >= 0 else "not significant" for twin in twins]
        store.write_table(score.twins_path(stage, folder, window), pa.table({"reason": reason}))
    for draw in range(30):
        loaded = Pairs.from_windows(ray_training.windows(replace(scored, policy=policy, draw=draw), store))
        assert loaded.images[:, 1, 0, 0].tolist() == list(range(9))
        assert (loaded.twin >= 0).tolist() == [twin >= 0 for window in TWINS for twin in window]
        found.append(loaded.twin)
    assert set(torch.stack(found)[:, 0].tolist()) == expected - {0}


def test_a_worker_keeps_images_in_memory_or_maps_a_file_that_it_deletes(
    scored: score.Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    stage = StageFolder(scored.stage.store, "pretrain", {})
    for asked, on_device in ((True, True), (False, False)):
        config = ExperimentConfig(pretrain=PretrainConfig(images_on_device=asked))
        data = ray_training._read(config, scored, stage, ALONE)
        assert data.on_device == on_device
        assert torch.equal(data.images, Pairs.from_windows(ray_training.windows(scored, scored.stage.store)).images)
        assert data.twin.tolist() == [1, -1, 0, 5, 3, -1, -1, -1, 7]
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("on_device", [True, False])
def test_images_beside_the_video_follow_the_patches_in_memory_and_mapped(
    on_device: bool, scored: score.Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "set.npz", images=np.full((2, 6, 6, 3), 77, np.uint8))
    config = ExperimentConfig(pretrain=PretrainConfig(images_on_device=on_device, images=str(tmp_path / "set.npz")))
    config = config.model_copy(update={"extract": config.extract.model_copy(update={"image_size": 4})})
    data = ray_training._read(config, scored, StageFolder(scored.stage.store, "pretrain", {}), ALONE)
    assert (data.on_device, data.patches, data.stills) == (on_device, 9, 2)
    assert data.images[:, 1, 0, 0].tolist() == [*range(9), 77, 77]
    assert data.twin.tolist() == [1, -1, 0, 5, 3, -1, -1, -1, 7, -1, -1]


def test_images_count_where_it_is_asked_whether_they_fit_into_memory(
    scored: score.Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(scored), "counts", {"patches": 9})
    asked = []
    monkeypatch.setattr(ray_training, "fits", lambda count, *_: asked.append(count) or True)
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    config = ExperimentConfig(pretrain=PretrainConfig(images=str(tmp_path / "set.npz")))
    config = config.model_copy(update={"extract": config.extract.model_copy(update={"image_size": 4})})
    ray_training._read(config, scored, StageFolder(scored.stage.store, "pretrain", {}), ALONE)
    assert asked == [9 * config.extract.crops + 2]


@pytest.mark.parametrize(("framework", "momentum"), [("dino", True), ("byol", False)])
def test_the_backbone_that_is_saved_is_the_one_that_the_paper_evaluates(
    framework: str, momentum: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    scored = scored_windows(
        tmp_path / "store", {"a": [(random.integers(0, 256, (16, 16, 16, 3), np.uint8), [-1] * 16)]}
    )
    reported: list[dict[str, float]] = []
    made: list[Training] = []
    real = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda training, between: made.append(training) or real(training))
    stage = StageFolder(scored.stage.store, "pretrain", {})
    np.savez(tmp_path / "set.npz", images=random.integers(0, 256, (5, 20, 20, 3), np.uint8))
    config = ExperimentConfig.model_validate(
        {
            "extract": {"image_size": 16},
            "pretrain": {"images_on_device": True, "images": str(tmp_path / "set.npz"), "image_share": 0.25},
        }
    )
    settings = small_settings(framework, epochs=1, warmup_epochs=0, image_share=0.25)
    monkeypatch.setattr(ray_training, "listed", lambda *given: scored)
    worker = replace(ALONE, tell=reported.append)
    assert ray_training.train(ray_training.Job(config, settings, stage), worker) == ""
    saved = safetensors.torch.load(stage.store.read_bytes(stage.path(WEIGHTS_FILE)))
    model = made[0].model
    teacher = model.momentum_backbone
    assert teacher is not None
    expected = (teacher if momentum else model.backbone).state_dict()
    assert len(reported) == 1 and reported[0]["share_of_images"] == 0.25
    assert pretrain.images(stage) == {"images": str(tmp_path / "set.npz"), "count": 5, "share": 0.25, "shown": 4}
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    assert not torch.equal(teacher.conv1.weight, model.backbone.conv1.weight)


def test_a_disk_that_fills_while_images_are_mapped_is_named_and_free_again(
    scored: score.Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path, windows: Any, images: Any) -> None:
        (folder / "images").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(ray_training, "write_mapped", fill)
    config = ExperimentConfig(pretrain=PretrainConfig(images_on_device=False))
    with pytest.raises(OSError, match=r"TMPDIR, .*/temporary, does not take the images .*: No space left on device"):
        ray_training._read(config, scored, StageFolder(scored.stage.store, "pretrain", {}), ALONE)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("settings", [{}, {"framework": "byol"}, {"framework": "simsiam", "precision": "bfloat16"}])
def test_validation_between_epochs_leaves_the_training_as_it_is_to_the_last_bit(settings: dict[str, Any]) -> None:
    plain = trained(small_settings(**settings), random_pairs(), 3)
    config = ExperimentConfig.model_validate(
        {
            "extract": {"image_size": 16},
            "pretrain": {"backbone_settings": small_settings().backbone_settings},
            "evaluate": EvaluateConfig(every=1, limit=60),
        }
    )
    training = Training(small_settings(**settings), random_pairs(), CPU)
    validation = probes.Validation(config, CPU)
    modes = {name: module.training for name, module in training.model.named_modules()}
    for _ in range(3):
        training.epoch()
        training.model.train()
        layouts = {name: value.stride() for name, value in training.model.state_dict().items()}
        random = torch.get_rng_state()
        assert 0 <= validation.knn(training.model.backbone) <= 1
        assert torch.equal(torch.get_rng_state(), random)
        assert {name: value.stride() for name, value in training.model.state_dict().items()} == layouts
        assert {name: module.training for name, module in training.model.named_modules()} == modes
    for part in PARTS:
        assert same(training.state()[part], plain.state()[part]), part
