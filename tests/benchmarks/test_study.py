"""What the study's page says is what its trials gave: paired differences, corrected tests, AUC by hand."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from infoaug.orchestrator.sweep import config as sweep_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("study")
    for name in ("study", "study_gpu", "gpu"):
        sys.modules.pop(name, None)


class MeanColour(nn.Module):
    """Features are an image's mean colour, normalised."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def trials(study: ModuleType) -> list[dict[str, Any]]:
    """Grid A with five seeds; twins by mutual information gain two points over none, and lose one to nearest."""
    gains = {"none": 0.0, "later": 0.01, "random": -0.01, "nearest": 0.03, "mutual-information": 0.02}
    rows = []
    for (policy, gain), seed in ((pair, seed) for pair in gains.items() for seed in range(5)):
        row = {"grid": "A", "name": f"{policy}-{seed}", "framework": "simclr", "policy": policy, "seed": seed}
        row |= {"twin_share": 0.5, "image_share": 0.0, "init": None}
        for key in study.MEASURES:
            value = 0.4 + gain + 0.01 * seed + 0.001 * ((seed * len(policy)) % 3)
            row[key] = {"dog": value, "cows": value} if key == "auc" else value
            row[f"floor {key}"] = {"dog": 0.5, "cows": 0.5} if key == "auc" else 0.3
        rows.append(row)
    return rows


def test_p_values_are_corrected_in_steps_and_never_fall(study: ModuleType) -> None:
    assert study.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert study.holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_page_has_differences_paired_by_seed_and_the_claim(study: ModuleType) -> None:
    text = study.page(trials(study), {"nearest": {"same object": 0.8, "patches": 10}})
    assert "| before training | 5 | 30.0 % ± 0.0 |" in text
    line = next(line for line in text.splitlines() if line.startswith("| MI twin | 5 |"))
    gained = [row["auc"]["dog"] for row in trials(study) if row["policy"] == "mutual-information"]
    before = [row["auc"]["dog"] for row in trials(study) if row["policy"] == "none"]
    assert line.endswith(f"| {study.points(study.summary(np.subtract(gained, before)))} |")
    assert "### The claim" in text and "| CIFAR-10 probe | nearest | −1." in text
    assert "| nearest | 80.0 % | 10 |" in text
    assert "### The claim" not in study.page([row for row in trials(study) if row["policy"] != "later"], {})


def test_the_auc_is_that_of_pairs_that_share_no_pixel(study: ModuleType) -> None:
    colours = torch.tensor([[250, 0, 0], [220, 120, 0], [0, 0, 250], [240, 50, 0]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(4, 3, 4, 4).contiguous()
    on = np.array([9, 9, 0, 0])
    apart = ~np.eye(4, dtype=bool)
    found = study.separation(MeanColour(), {"dog": [(images, on, apart)]})
    # The pair on the object, 0 and 1, is closer than those with the blue patch, and not than those with the last.
    assert found["dog"] == pytest.approx(0.5)
    apart[0, 3] = apart[3, 0] = apart[1, 3] = apart[3, 1] = False
    assert study.separation(MeanColour(), {"dog": [(images, on, apart)]})["dog"] == 1


def test_every_grid_of_the_config_has_its_letter(study: ModuleType) -> None:
    grids = sweep_config.load(ROOT / "configs" / "study.yaml").sweep.grid
    assert len(grids) == len(study.GRIDS)
    assert study.BEGIN in (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
