"""The benchmark of dense features: the untrained reference, its table, and differences paired by sequence."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.models.backbones import create_backbone, save_backbone

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("dense")


def _found(*values: float) -> dict[str, Any]:
    return {"sequences": {str(i): {"j": value, "f": value, "jf": value} for i, value in enumerate(values)}}


def test_the_untrained_backbone_has_other_weights_and_the_same_recipe(dense):
    backbone = create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    first, again, other = (dense.untrained(backbone, seed) for seed in (1, 1, 2))
    assert first.recipe == backbone.recipe
    weights = [each.layer1[0].conv1.weight for each in (first, again, other, backbone)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])


def test_differences_are_paired_by_sequence_with_the_mean_of_the_untrained(dense):
    references = [dense.row("a", _found(0.1, 0.5), 2), dense.row("b", _found(0.3, 0.7), 2)]
    trained = dense.row("c", _found(0.3, 0.9), 8)
    dense.add_difference(trained, references)
    assert trained["above_untrained"]["mean"] == pytest.approx(0.2)
    assert trained["seconds_a_sequence"] == 4 and trained["jf"]["mean"] == pytest.approx(0.6)
    table = dense.markdown([*references, trained], "title")
    assert "| c | 60.0 % ±" in table and "+20.0 ±" in table


def test_a_backbone_is_measured_beside_the_untrained_one(dense, tmp_path, monkeypatch):
    for name in ("ant", "bird"):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / "videos" / part / name).mkdir(parents=True)
        for i in range(3):
            mask = np.zeros((32, 40), np.uint8)
            mask[8:24, 8:24] = 255
            frame = np.stack([mask, mask // 2, 255 - mask], axis=-1)
            Image.fromarray(frame).save(tmp_path / "videos" / "JPEGImages" / name / f"{i}.png")
            Image.fromarray(mask).save(tmp_path / "videos" / "Annotations" / name / f"{i}.png")
    backbone = create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    folder = save_backbone(backbone, tmp_path / "trained", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    arguments = [str(tmp_path / "videos"), str(folder), "--seeds", "1", "--size", "32", "--stride", "4"]
    files = tmp_path / "table.json", tmp_path / "table.md"
    monkeypatch.setattr("sys.argv", ["dense.py", *arguments, "--json", str(files[0]), "--markdown", str(files[1])])
    dense.main()
    rows = json.loads(files[0].read_text())["rows"]
    assert [row["backbone"] for row in rows] == ["untrained resnet18, seed 0", "trained"]
    assert rows[1]["above_untrained"] and set(rows[1]["sequences"]) == {"ant", "bird"}
    assert "| trained |" in files[1].read_text()
