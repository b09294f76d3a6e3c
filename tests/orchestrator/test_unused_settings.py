"""What a command says about settings that have no effect."""

from pathlib import Path

import pytest

from infoaug.orchestrator import dry_run, unused_settings
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.sweep import plan
from infoaug.orchestrator.sweep.config import load as load_sweep

LATER = "score.policy=later"


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["pretrain.image_share=0.3"], "pretrain.image_share has no effect: pretrain.images names no images"),
        (
            ["pretrain.images=scenes", "pretrain.image_share=0"],
            "pretrain.images has no effect: pretrain.image_",
        ),
        (["score.policy=none", "pretrain.twin_time=same"], "pretrain.twin_time has no effect: by score.policy none"),
        (
            ["score.policy=none", "pretrain.twin_time=same", "pretrain.twin_weight=1"],
            "pretrain.twin_weight and pretrain.twin_time have no effect: by score.policy none",
        ),
        ([LATER, "pretrain.twin_weight=0"], "score.policy has no effect: pretrain.twin_weight is 0"),
        ([LATER, "pretrain.twin_time=same"], "pretrain.twin_time has no effect: by score.policy later"),
        ([LATER, "pretrain.twins=2"], "pretrain.twins has no effect: by score.policy later"),
        (["pretrain.twin_choice=all"], "pretrain.twin_choice has no effect: pretrain.twins is 1"),
        (["evaluate.fine_tune_rate=0.1"], "evaluate.fine_tune_rate has no effect: evaluate.fine_tune is null"),
        (["extract.image_size=96"], "crops of 64 pixels (extract.patch_size) are enlarged to 96 (extract.image_size)"),
        (["extract.tracker_weights=a.pt"], "extract.tracker_weights has no effect: extract.tracker 'auto'"),
    ],
)
def test_settings_without_an_effect_are_named_with_the_cause(overrides: list[str], note: str) -> None:
    (found,) = unused_settings.notes(load(None, overrides))
    assert found.startswith(note)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["pretrain.twin_weight=0"],
        ["score.policy=none"],
        [LATER],
        ["pretrain.images=scenes", "pretrain.image_share=0.3"],
        ["pretrain.twin_time=same", "pretrain.twin_weight=1"],
        ["pretrain.twins=3", "pretrain.twin_choice=strength"],
        ["extract.tracker=cotracker", "extract.tracker_weights=a.pt"],
        ["extract.image_size=96", "extract.patch_size=96"],
        ["evaluate.fine_tune_rate=0.1", "evaluate.fine_tune=2"],
    ],
)
def test_nothing_is_said_about_settings_that_are_used_or_at_their_defaults(overrides: list[str]) -> None:
    config = load(None, overrides)
    assert unused_settings.notes(config) == []
    assert unused_settings.notes(ExperimentConfig.model_validate(config.model_dump())) == []


def test_one_experiment_says_it_and_a_sweep_over_none_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INFOAUG_STORE", str(tmp_path))
    small = ["extract.image_size=16", "pretrain.twin_time=nearest", "pretrain.twin_weight=0.7"]
    small.append("pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}")
    dry_run.plan(load(None, [*small, "score.policy=none"]))
    assert "pretrain.twin_weight and pretrain.twin_time have no effect" in capsys.readouterr().err
    plan.plan(load_sweep(None, [*small, "sweep.grid={policy: [none, later], twin_weight: [0.0, 0.7]}"]))
    assert "no effect" not in capsys.readouterr().err
