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


def _own(arm: str, seed: int, *values: float, **further: float) -> dict[str, Any]:
    sequences = {str(i): {"j": value, "f": value, "jf": value} for i, value in enumerate(values)}
    return {"arm": arm, "seed": seed, "sequences": sequences, **further}


def test_an_untrained_backbone_has_other_weights_and_the_same_recipe(dense, tmp_path):
    backbone = create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    folder = save_backbone(backbone, tmp_path, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    first, again, other = (dense.untrained(str(folder), seed) for seed in (1, 1, 2))
    assert first.recipe.mean == (0.5, 0.5, 0.5)
    weights = [each.layer1[0].conv1.weight for each in (first, again, other, backbone)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert dense.untrained("vit_tiny_patch16_224:64", 0).patch_embed.img_size == (64, 64)


def test_differences_are_paired_by_sequence_for_masks_and_by_seed_for_segmentation(dense):
    rows = [
        _own("untrained", 0, 0.1, 0.5, miou=0.10),
        _own("untrained", 1, 0.3, 0.7, miou=0.20),
        _own("mi", 0, 0.3, 0.9, miou=0.14),
        _own("mi", 1, 0.5, 0.9, miou=0.28),
    ]
    lines = dense.table({str(i): row for i, row in enumerate(rows)}).splitlines()
    first, second = (line.split(" | ") for line in lines[2:])
    assert first[4].startswith("40.0 %") and first[5:7] == ["–", "–"]
    assert second[4].startswith("65.0 %") and second[5].startswith("+25.0 ±")
    # Means over seeds: 0.2 and 0.6 against 0.4 and 0.9, so the interval is of the differences 0.2 and 0.3.
    assert second[5] == "+25.0 ± 63.5"
    assert second[8].startswith("+6.0 ±")


def test_an_arm_without_backbones_is_refused(dense):
    with pytest.raises(SystemExit, match="'mi' names no backbones"):
        dense.backbones_of("mi", 3)


def test_what_the_results_have_is_not_measured_again(dense, tmp_path, monkeypatch):
    for name in ("ant", "bird"):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / "videos" / part / name).mkdir(parents=True)
        for i in range(3):
            mask = np.zeros((32, 40), np.uint8)
            mask[8:24, 8:24] = 255
            frame = np.stack([mask, mask // 2, 255 - mask], axis=-1)
            Image.fromarray(frame).save(tmp_path / "videos" / "JPEGImages" / name / f"{i}.png")
            Image.fromarray(mask).save(tmp_path / "videos" / "Annotations" / name / f"{i}.png")
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (tmp_path / "scenes" / part / split).mkdir(parents=True)
            Image.fromarray(mask // 255).save(tmp_path / "scenes" / part / split / "a.png")
    backbone = create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    folder = save_backbone(backbone, tmp_path / "trained", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    results = tmp_path / "results.json"
    arguments = ["--propagation", str(tmp_path / "videos"), "--segmentation", str(tmp_path / "scenes")]
    arguments += ["--results", str(results), "--seeds", "1", "--size", "32", "--markdown", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", ["dense.py", f"untrained=untrained:{folder}", f"trained={folder}", *arguments])
    dense.main()
    found = json.loads(results.read_text())
    assert list(found) == ["untrained 0", "trained 0"]
    assert set(found["trained 0"]["sequences"]) == {"ant", "bird"} and 0 <= found["trained 0"]["miou"] <= 1
    assert "| trained | 1 |" in (tmp_path / "table.md").read_text()

    del found["trained 0"]["sequences"]["bird"]
    results.write_text(json.dumps(found))
    asked = []
    whole = dense.propagation.measure

    def measure(videos, *given):
        asked.append([video.name for video in videos])
        return whole(videos, *given)

    monkeypatch.setattr(dense.propagation, "measure", measure)
    dense.main()
    assert asked == [["bird"]]
