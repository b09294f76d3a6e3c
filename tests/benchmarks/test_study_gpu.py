"""The study's script for a GPU trains as `Training` does, from what it packed, and goes on where it stopped."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from infoaug.models.backbones import load_backbone
from infoaug.models.training import Pairs, Training, TrainingSettings

ROOT = Path(__file__).parents[2]
PATCHES, CROPS, SIZE = 40, 2, 16


@pytest.fixture
def study_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("study_gpu")
    sys.modules.pop("study_gpu", None)


def settings(**other: Any) -> TrainingSettings:
    small = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "fit_stem": False}
    values = {"framework": "simclr", "backbone": "resnet18", "backbone_settings": small, "epochs": 2, "batch_size": 8}
    return TrainingSettings.model_validate(
        {**values, "warmup_epochs": 0, "image_size": SIZE, "twin_share": 0.5, **other}
    )


def pairs() -> Pairs:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (PATCHES, CROPS, SIZE, SIZE, 3), dtype=np.uint8)
    twin = np.where(np.arange(PATCHES) < 16, np.arange(PATCHES) ^ 1, -1)
    # Fewer twins than patches that are drawn as paired, so that their number differs from step to step.
    paired = twin >= 0
    twin[:3] = -1
    return Pairs.from_arrays(images, twin, paired=paired)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    found = other.state_dict()
    return all(torch.equal(value, found[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("other", [{}, {"twin_weight": 0.0}, {"framework": "barlow_twins"}])
def test_it_trains_like_the_training_of_a_run_bit_for_bit(study_gpu: ModuleType, other: dict[str, Any]) -> None:
    cpu = torch.device("cpu")
    usual, replayed = (Training(settings(**other), pairs(), cpu) for _ in range(2))
    for _ in range(2):
        expected, found = usual.epoch(), study_gpu.Replayed(replayed).epoch()
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert found["share_with_twin"] == expected["share_with_twin"]
    assert same(usual.model.kept_backbone, replayed.model.kept_backbone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_are_those_of_the_training_on_a_gpu(study_gpu: ModuleType) -> None:
    usual, replayed = (Training(settings(), pairs(), torch.device("cuda")) for _ in range(2))
    for _ in range(2):
        assert study_gpu.Replayed(replayed).epoch()["loss"] == pytest.approx(usual.epoch()["loss"], rel=1e-3)


def test_several_crops_of_a_row_are_refused(study_gpu: ModuleType) -> None:
    training = Training(settings(views="both"), pairs(), torch.device("cpu"))
    with pytest.raises(ValueError, match="one crop and one twin of a row"):
        study_gpu.Replayed(training).epoch()


def packed(folder: Path) -> None:
    """What `pack` writes, small: two trials, one with still images, and a data set of two classes."""
    data, random = pairs(), np.random.default_rng(1)
    folder.mkdir()
    np.save(folder / "pictures.npy", data.images.numpy())
    np.savez(folder / "patches.npz", frames=data.frames, paired=data.paired)
    np.savez(folder / "twins.npz", mi=data.twin.numpy())
    np.save(folder / "stills.npy", random.integers(0, 256, (9, 3, SIZE, SIZE), dtype=np.uint8))
    dark = random.integers(0, 128, (20, 3, SIZE, SIZE), dtype=np.uint8)
    dark[::2] += 128
    labels = np.arange(20) % 2
    np.savez(folder / "images-shades.npz", train=dark, test=dark, y_train=labels, y_test=labels)
    asked = settings(image_share=0.25).model_dump(mode="json")
    rows = [
        {"key": key, "grid": key[0], "seed": 0, "init": None, "image_share": share, "twins": "mi", "settings": asked}
        for key, share in (("A-none", 0.0), ("E-images", 0.25))
    ]
    evaluate = {"datasets": ["shades"], "batch_size": 16, "neighbours": 3}
    (folder / "study.json").write_text(json.dumps({"evaluate": evaluate, "trials": rows}))


def test_trials_are_trained_and_evaluated_once(tmp_path: Path) -> None:
    packed(folder := tmp_path / "packed")
    script = str(ROOT / "benchmarks" / "study_gpu.py")
    command = [sys.executable, script, "train", str(folder), "--trainers", "1", "--fitters", "1", "--minutes", "5"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    results = json.loads((folder / "results.json").read_text())
    assert results.keys() == {"A-none", "E-images", "floor-0"}
    assert all(0.5 <= row["shades probe"] <= 1 and 0.5 <= row["shades knn"] <= 1 for row in results.values())
    assert len(results["E-images"]["history"]) == 2
    load_backbone(folder / "A-none")
    written = (folder / "A-none" / "backbone.safetensors").stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and json.loads((folder / "results.json").read_text()) == results
    assert (folder / "A-none" / "backbone.safetensors").stat().st_mtime_ns == written
