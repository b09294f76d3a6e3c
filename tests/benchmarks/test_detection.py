"""The benchmark of detection: measured once, and its table."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from infoaug.models.backbones import create_backbone, save_backbone
from infoaug.orchestrator.config import DetectorConfig
from infoaug.orchestrator.evaluation import objects
from tests.orchestrator.evaluation.boxes import yolo

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("detection")


def test_arms_are_measured_once_frozen_and_fine_tuned(benchmark: Any, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    settings = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    save_backbone(create_backbone("resnet18", 32, **settings), folder, mean=(0.5,) * 3, std=(0.2,) * 3)
    every = [*benchmark.backbones_of(f"untrained=untrained:{folder}", 1), *benchmark.backbones_of(f"own={folder}", 1)]
    data, small = (
        objects.load(str(yolo(tmp_path / "boxes", 2))),
        DetectorConfig(size=32, epochs=1, width=8, proposals=8),
    )
    results = benchmark.run(every, data, small, tmp_path / "results.json")
    assert [*results] == ["untrained 0 frozen", "untrained 0 fine-tuned", "own 0 frozen", "own 0 fine-tuned"]
    written = (tmp_path / "results.json").read_text("utf-8")
    assert benchmark.run(every, data, small, tmp_path / "results.json") == results == json.loads(written)


def test_the_table_compares_within_frozen_and_fine_tuned(benchmark: Any) -> None:
    results = {
        f"{arm} {seed} {mode}": {"arm": arm, "seed": seed, "mode": mode, "map": 0.1, "map_50": value, "seconds": 4.0}
        for arm, add in (("untrained", 0.0), ("own", 0.2))
        for mode, base in (("frozen", 0.2), ("fine-tuned", 0.5))
        for seed, value in ((0, base + add), (1, base + 1.1 * add))
    }
    lines = benchmark.table(results).splitlines()
    assert lines[0] == "| backbone | | seeds | mAP | mAP50 | mAP50 from untrained, points | p | s |"
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| untrained", "frozen", "2"],
        ["| own", "frozen", "2"],
        ["| untrained", "fine-tuned", "2"],
        ["| own", "fine-tuned", "2"],
    ]
    assert "20.0 % ± 0.0" in lines[2] and "+21.0" in lines[3]
