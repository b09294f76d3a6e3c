"""What a sweep would do and cost: counted without a cluster, without data, and without a trace."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator import estimate
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import pretrain
from infoaug.orchestrator.sweep import checks, plan, trials
from infoaug.orchestrator.sweep.config import SweepConfig
from tests.orchestrator.sweep.made import config, leave_done, leave_scored

SMALL = {
    "backbone_settings": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "epochs": 2,
    "warmup_epochs": 0,
    "batch_size": 32,
}


def sweep(store: Path, experiment: dict[str, Any] | None = None, **settings: Any) -> SweepConfig:
    """A sweep over models that are counted in no time."""
    given: dict[str, Any] = {"name": "mine", "store": str(store), "extract": {"image_size": 16}, **(experiment or {})}
    return config({**given, "pretrain": {**SMALL, **given.get("pretrain", {})}}, **settings)


def shown(of: SweepConfig) -> str:
    """The plan as text, however its lines are broken."""
    console = Console(file=io.StringIO(), width=200)
    planned = plan.plan(of)
    console.print(*(f"{name} {text}" for name, text in planned.lines), planned.table, markup=False)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def experiment(policy: str = "none", **pretrain: Any) -> ExperimentConfig:
    given = {"framework": "simclr", **SMALL, **pretrain}
    return ExperimentConfig.model_validate(
        {"pretrain": given, "extract": {"image_size": 16}, "score": {"policy": policy}}
    )


# ---- operations


def test_operations_are_those_counted_by_hand() -> None:
    """A step does a linear layer three times: forward, and backward to its weights and to its inputs."""
    heads = [estimate.operations(experiment(framework_settings={"hidden_dim": width}), 0.0) for width in (32, 64)]
    # 32 more hidden units of two views: from 16 features and to 128 outputs, a multiplication and an addition each.
    assert heads[1] - heads[0] == 3 * 2 * 2 * 32 * (16 + 128)


def test_operations_go_with_the_area_of_the_images() -> None:
    def backbone(size: int) -> float:
        config = experiment()
        return estimate.operations(
            config.model_copy(update={"extract": config.extract.model_copy(update={"image_size": size})}), 0
        )

    assert backbone(32) / backbone(16) == pytest.approx(4, rel=0.2)


def test_a_twin_is_a_third_image_and_counts_for_the_patches_that_have_one() -> None:
    without = estimate.operations(experiment(), 0.5)
    with_twins = [estimate.operations(experiment("random"), share) for share in (0.0, 0.25, 0.5, 1.0)]
    assert with_twins[0] == without
    of_a_twin = with_twins[3] - without
    assert with_twins[1:3] == pytest.approx([without + 0.25 * of_a_twin, without + 0.5 * of_a_twin])
    assert with_twins[3] / without == pytest.approx(1.5, rel=0.1)


def test_rows_of_images_have_no_third_image() -> None:
    mixed = experiment("random", images="cifar10", image_share=0.75)
    assert estimate.operations(mixed, 1.0) == pytest.approx(estimate.operations(experiment("random"), 0.25))


@pytest.mark.parametrize("policy", ["none", "random"])
def test_small_views_cost_by_their_area(policy: str) -> None:
    none, some, more = (
        estimate.operations(experiment(policy, framework="swav", framework_settings={"small_views": count}), 1.0)
        for count in (0, 2, 4)
    )
    assert more - some == pytest.approx(some - none, rel=0.05)
    assert (more - none) / none == pytest.approx(4 * 0.25 / (2 if policy == "none" else 3), rel=0.25)


def test_operations_depend_on_the_model_and_on_nothing_else() -> None:
    assert estimate.operations(experiment("random", twin_weight=1), 0.5) == estimate.operations(
        experiment("nearest"), 0.5
    )
    assert estimate.operations(experiment(epochs=7), 0.5) == estimate.operations(experiment(), 0.5)
    assert estimate.operations(experiment(framework="moco"), 0.5) != estimate.operations(experiment(), 0.5)


# ---- the plan


def test_trials_are_told_by_framework_and_policy(tmp_path: Path) -> None:
    block = {"framework": ["simclr", "moco"], "policy": ["none", "mutual-information"], "twin_weight": [0.25, 0.5]}
    text = shown(sweep(tmp_path / "store", grid=[{**block, "seed": [0, 1]}]))
    assert "mine: 12 trials, 0 done" in text
    assert "framework ┃ none ┃ MI twin ┃ GPU hours" in text
    assert "│ SimCLR │ 2 │ 4 │" in text and "│ MoCo v2 │ 2 │ 4 │" in text
    assert "trials 12, 0 done: 2 frameworks, 2 twin policies, 2 seeds" in text
    # 8 scenes of 2 windows, a patch for each of 10 × 7 cells of 32 pixels
    assert "clips 8 clips, about 768 frames, 16 windows, 1,120 patches, rendered" in text
    assert "for 1,120 patches, all with a twin" in text
    assert "data sets scenes: they can be used" in text


def test_nothing_is_written_and_no_clip_need_be_there(tmp_path: Path) -> None:
    of = sweep(
        tmp_path / "store", {"clips": {"path": str(tmp_path / "none.mp4")}}, grid=[{"policy": ["none", "random"]}]
    )
    text = shown(of)
    assert "mine: 2 trials, 0 done" in text and "1,000,000 patches are assumed" in text
    assert "to extract and score" not in text, "not known"
    assert not list(tmp_path.iterdir())


def test_what_is_done_costs_nothing_and_the_rest_is_of_the_patches_that_are_there(tmp_path: Path) -> None:
    of = sweep(tmp_path / "store", grid=[{"policy": "random", "seed": [0, 1]}], gpu_tflops=1e-9)
    first, second = trials.planned(of)
    leave_scored(first, Store(of.store), patches=1000)
    each = estimate.operations(first.config, 0.25) * 1000 * 2 / (1e-9 * 1e12) / 3600
    assert f"{2 * each:,.2f} │" in shown(of)
    leave_done(second, Store(of.store), patches=1000)
    text = shown(of)
    assert "2 trials, 1 done" in text
    assert f"{each:,.2f} │" in text
    assert f"{each:,.1f} GPU hours for 1,000 patches, at 1e-09·10¹² operations a second" in text
    leave_done(first, Store(of.store), patches=1000)
    assert "2 trials, 2 done" in shown(of) and "│ 0.00 │" in shown(of)


def test_each_ledger_is_read_once_for_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = sweep(tmp_path / "store", grid=[{"policy": ["none", "random", "nearest"], "score.k": [3, 4], "seed": [0, 1]}])
    planned = trials.planned(of)
    for trial in planned:
        leave_scored(trial, Store(of.store), patches=1000)
    read: list[str] = []
    table = Store.read_table

    def reading(store: Store, path: str, columns: Any = None) -> Any:
        read.append(path)
        return table(store, path, columns)

    monkeypatch.setattr(Store, "read_table", reading)
    assert f"{len(planned)} trials, 0 done" in shown(of)
    assert sorted(path.partition("/")[0] for path in read) == ["extract", "score", "score"]


def test_arms_with_the_budget_of_passes_cost_the_same(tmp_path: Path) -> None:
    def hours(policy: str) -> float:
        pretrain = {"epochs": 100, "backbone_settings": SMALL["backbone_settings"]}
        of = sweep(tmp_path, {"pretrain": pretrain}, grid=[{"policy": policy}], budget="passes", gpu_tflops=1e-6)
        return float(shown(of).partition("│ SimCLR │ 1 │ ")[2].partition(" ")[0].replace(",", ""))

    assert hours("none") == pytest.approx(hours("random"), rel=0.1)


def test_an_adaptive_search_is_counted_by_its_samples(tmp_path: Path) -> None:
    space = {"pretrain.learning_rate": {"low": 0.1, "high": 1}}
    of = sweep(tmp_path, search="optuna", space=space, samples=7, gpu_tflops=1e-6)
    each = estimate.operations(trials.make(of, {"pretrain.learning_rate": 0.1}).config, 1.0) * 1120 * 2 / 1e6 / 3600
    text = shown(of)
    assert "mine: 7 trials " in text and "│ SimCLR │ search │" in text
    assert f"{7 * each:,.2f} │" in text


def test_the_frameworks_of_a_sweep_are_checked_around_one_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def create(name: str, *args: Any, **kwargs: Any) -> Any:
        built.append(name)
        return create_backbone(name, *args, **kwargs)

    monkeypatch.setattr(pretrain, "create_backbone", create)
    pretrain._check_model.cache_clear()
    pretrain._checked_backbone.cache_clear()
    of = sweep(tmp_path, grid=[{"framework": ["simclr", "byol", "nnclr"], "seed": [0, 1]}])
    checks.check(of, trials.planned(of), dry=True)
    assert built == ["resnet18"]
    assert not pretrain._checked_backbone(
        "resnet18", 16, json.dumps(SMALL["backbone_settings"], sort_keys=True), 0
    )._forward_hooks
    assert built == ["resnet18"]


def test_a_model_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resnet81"):
        plan.plan(sweep(tmp_path, grid=[{"backbone": "resnet81"}]))
    with pytest.raises(UsageError, match="temprature"):
        plan.plan(sweep(tmp_path, grid=[{"pretrain.framework_settings.temprature": 1}]))


def test_a_data_set_that_cannot_be_used_is_refused_and_one_to_download_is_not(tmp_path: Path) -> None:
    def of(dataset: str) -> SweepConfig:
        return sweep(
            tmp_path / "store", {"evaluate": {"datasets": [dataset], "data": str(tmp_path / "data")}}, grid=[{}]
        )

    with pytest.raises(UsageError, match="no data set 'cifar11'"):
        plan.plan(of("cifar11"))
    assert "1 trials, 0 done" in shown(of("cifar10"))
    assert not list(tmp_path.iterdir())
