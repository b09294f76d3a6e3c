"""Estimates of a dry run are the work, counted, at the rates that the documents have."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from infoaug.models import frameworks, own_code
from infoaug.models.training.loop import build_model, example
from infoaug.orchestrator import estimate
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.stages import pretrain

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


OWN = """
from infoaug.models.frameworks.settings import SimCLRSettings
from infoaug.models.frameworks.simclr import SimCLR, SimCLRBranch

class Looking(SimCLRBranch):
    def forward(self, pairs):
        assert float(pairs.first.detach().mean()) < 1e9
        return super().forward(pairs)

class Own(SimCLR):
    branch_type, settings_type = Looking, SimCLRSettings
"""


@pytest.mark.parametrize("framework", [*frameworks.available(), "own_framework_of_estimates:Own"])
def test_operations_are_those_of_a_whole_step_without_its_first_input_gradient(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone's operations are reckoned from one image; the momentum backbones have no gradients.

    The reference has values; the estimate only where the framework is the user's own, which may look at them.
    """
    (tmp_path / "own_framework_of_estimates.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_loaded", set())
    given = {"pretrain": {"framework": framework, "backbone_settings": SMALL}, "extract": {"image_size": 32}}
    config = ExperimentConfig.model_validate({**given, "score": {"policy": "random"}})
    model = build_model(pretrain.training_settings(config)).train()
    with FlopCounterMode(display=False) as counter:
        model(**example(model, 32, 4))["loss"].backward()
    assert estimate.operations(config, 1.0) == pytest.approx(counter.get_total_flops() / 4, rel=0.1)
    without = ExperimentConfig.model_validate({**given, "score": {"policy": "none"}})
    model = build_model(pretrain.training_settings(without)).train()
    batch = example(model, 32, 4)
    with FlopCounterMode(display=False) as counter:
        model(**{name: part for name, part in batch.items() if "twin" not in name})["loss"].backward()
    assert estimate.operations(without, 1.0) == pytest.approx(counter.get_total_flops() / 4, rel=0.1)


def test_clips_are_reckoned_from_their_size(tmp_path) -> None:
    for number in range(3):
        for frame in range(30):
            folder = tmp_path / f"clip-{number}"
            folder.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / f"{frame:03d}.png"), np.zeros((64, 96, 3), np.uint8))
    config = load(None, [f"clips.path={tmp_path}", "extract.window=12", "extract.spacing=32"])
    found = estimate.video(config)
    assert (found.clips, found.frames, found.windows, found.patches) == (3, 90, 6, 36)
    assert estimate.video(load(None, ["clips.path=no/such/clips"])) is None


def test_the_demo_and_the_clips_of_the_readme_take_about_what_was_measured() -> None:
    demo = load("demo", ["ray.cpus=2"])
    left = estimate.of_run(demo, None, estimate.video(demo), trained=False)
    seconds = left.training / (2 * estimate.CORE)
    assert 0.5 < seconds / (40 * 2304 / 190) < 2  # 190 patches a second, 40 epochs
    measured = estimate.Video(clips=16, frames=5878, pixels=500_000, windows=116, patches=10_538)
    assert 0.5 < measured.seconds(load(None)) / (2 * (106 + 6)) < 2  # on two cores
    assert estimate.of_run(demo, None, estimate.video(demo), trained=True).training == 0
    told = dict(left.lines(demo))
    assert "min on 2 CPU cores" in told["time"] and "docs/scaling.md" in told[""]
    assert told["disk"].endswith("MB in outputs")
    short = dict(estimate.Estimate(1.0, 1e9, 1e6).lines(demo))["time"]
    assert short.startswith("under a minute on ") and "about" not in short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "under a minute"), (90, "1.5 min"), (7200, "2 h"), (3 * 86400, "3 days"), (1e9, "32 years")],
)
def test_a_duration_has_one_unit(seconds: float, text: str) -> None:
    assert estimate.about(seconds) == text
