"""Whole sweeps on a real Ray and a real MLflow: what a user finds afterwards, and what a second start repeats."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.sweep import compared, runner
from infoaug.orchestrator.sweep.config import SweepConfig, load
from tests.integration.conftest import TINY

pytestmark = pytest.mark.usefixtures("ray_cluster", "scored_store")


def config_of(folder: Path, *settings: str) -> SweepConfig:
    """A tiny sweep whose store, which `scored_store` puts there, and database lie in a folder."""
    places = [f"store={folder / 'store'}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]
    return load(None, [*TINY, *places, *settings])


def runs_of(config: SweepConfig) -> tuple[MlflowClient, Run, dict[str, Run]]:
    """The sweep's run, and those of its trials by name."""
    client = MlflowClient(tracking_uri=config.tracking.uri)
    found = client.search_runs([client.get_experiment_by_name("infoaug").experiment_id])
    (parent,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    below = {run.info.run_name: run for run in found if run is not parent}
    assert len(below) == len(found) - 1, "a trial has two runs"
    assert {run.data.tags["mlflow.parentRunId"] for run in below.values()} <= {parent.info.run_id}
    return client, parent, below


def steps_of(client: MlflowClient, run: Run) -> list[int]:
    return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss"))


def computed(config: SweepConfig) -> dict[str, int]:
    """All that the stages have computed, with the times when it was written; ledgers are written anew."""
    stages = ("scenes", "extract", "score", "pretrain", "evaluate", "floor")
    files = (path for stage in stages for path in (Path(config.store) / stage).rglob("*.*"))
    return {str(path): path.stat().st_mtime_ns for path in files if not path.name.startswith("ledger")}


def forbidden(*arguments: Any, **settings: Any) -> None:
    raise AssertionError("Tune was started")


def test_a_sweep_leaves_tracked_trials_and_a_comparison_and_run_again_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "sweep.grid=[{policy: [none, mutual-information]}]")
    found = runner.run(config)
    told = capsys.readouterr()
    assert not told.out
    assert re.findall("(?m)^sweep tiny: 2 trials, 0 done$", told.err)
    assert len(re.findall(r"(?m)^trial [12]/2  simclr-\S+-s0  scenes kNN [\d.]+ %, probe [\d.]+ %$", told.err)) == 2

    assert sorted(trial.policy for trial in found.sweep.trials) == ["mutual-information", "none"]
    assert all(trial.epochs == 2 and trial.seconds > 0 for trial in found.sweep.trials)
    stages = ("extract", "score", "pretrain", "floor")
    folders = {stage: len(list((tmp_path / "store" / stage).iterdir())) for stage in stages}
    assert folders == {"extract": 1, "score": 1, "pretrain": 2, "floor": 1}
    assert Path(found.page).read_bytes() == found.files["comparison.html"]
    page = Path(found.page).read_text()
    assert "SimCLR" in page and not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)

    client, parent, below = runs_of(config)
    assert (parent.info.status, parent.data.tags["infoaug.kind"]) == ("FINISHED", "sweep")
    assert set(below) == {"simclr-none-s0", "simclr-mutual-information-w0.5-s0"}
    for run in below.values():
        assert (run.info.status, run.data.tags["infoaug.kind"]) == ("FINISHED", "trial")
        assert steps_of(client, run) == [1, 2]
        assert {"scenes/probe", "scenes/validation_knn", "pretrain/passes"} <= run.data.metrics.keys()
        assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["trial.json"]
    assert below["simclr-none-s0"].data.tags["policy"] == "none"
    kept = {Path(a.path).name for a in client.list_artifacts(parent.info.run_id, "comparison")}
    assert kept == set(found.files) and "comparison.html" in kept

    before = computed(config)
    monkeypatch.setattr(runner.tune, "Tuner", forbidden)
    again = runner.run(config)
    assert computed(config) == before
    assert again.files["trials.csv"] == found.files["trials.csv"]
    _, parent_again, below_again = runs_of(config)
    assert parent_again.info.run_id == parent.info.run_id and parent_again.info.status == "FINISHED"
    assert {n: r.info.run_id for n, r in below_again.items()} == {n: r.info.run_id for n, r in below.items()}
    assert all(steps_of(client, run) == [1, 2] for run in below_again.values())

    from_mlflow = compared.from_mlflow("infoaug", config.tracking, tmp_path / "compared")
    assert from_mlflow.files["summary.csv"] == found.files["summary.csv"]
    assert {trial.run for trial in from_mlflow.sweep.trials} == {run.info.run_id for run in below.values()}
    assert (tmp_path / "compared" / "comparison.html").exists()


@pytest.mark.slow
def test_asha_stops_what_lags_behind_and_frees_its_place_and_does_not_try_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, colour in enumerate([(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)]):
        folder = tmp_path / "colours" / f"class-{number}"
        folder.mkdir(parents=True)
        for copy in range(20):
            cv2.imwrite(str(folder / f"{copy}.png"), np.full((16, 16, 3), colour, np.uint8))
    config = config_of(
        tmp_path,
        f"evaluate.datasets=[{tmp_path / 'colours'}]",
        "evaluate.every=1",
        "sweep.scheduler=asha",
        "sweep.grace_epochs=1",
        "sweep.reduction=2",
        # A feature that is positive tells no directions apart: one channel knows no colours.
        "sweep.grid=[{pretrain.backbone_settings.channels: [[8, 8, 16, 16], [8, 8, 16, 1]]}, {seed: 1}]",
    )
    found = runner.run(config)
    ((name, why),) = found.sweep.stopped
    assert re.fullmatch("simclr-mutual-information-w0.5-channels=8_8_16_1-s0-[0-9a-f]{12}", name)
    assert why == "stopped early, after epoch 1"
    assert len(found.sweep.trials) == 2, "what came after the stopped one has found room"
    client, parent, below = runs_of(config)
    assert {run.info.status for run in (parent, *below.values())} == {"FINISHED"}
    assert below[name].data.tags["infoaug.ended"] == why
    assert steps_of(client, below[name])[0] == 1

    before = computed(config)
    monkeypatch.setattr(runner.tune, "Tuner", forbidden)
    again = runner.run(config)
    assert again.sweep.stopped == found.sweep.stopped and computed(config) == before


@pytest.mark.slow
def test_optuna_tries_as_many_as_asked_and_none_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(
        tmp_path,
        "pretrain.epochs=1",
        "sweep.search=optuna",
        "sweep.samples=2",
        "sweep.space={twin_weight: {low: 0.1, high: 2, log: true}}",
    )
    found = runner.run(config)
    weights = sorted(trial.twin_weight for trial in found.sweep.trials)
    assert len(set(weights)) == 2 and 0.1 <= weights[0] < weights[-1] <= 2
    _, _, below = runs_of(config)
    assert sorted(run.info.status for run in below.values()) == ["FINISHED"] * 2

    monkeypatch.setattr(runner.tune, "Tuner", forbidden)
    again = runner.run(config)
    assert sorted(trial.twin_weight for trial in again.sweep.trials) == weights


@pytest.mark.slow
@pytest.mark.parametrize("starts", [1, 2])
def test_a_trial_that_fails_keeps_no_other_from_its_end_and_is_tried_again_alone(
    starts: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, "score.policy=none", "sweep.grid=[{pretrain.learning_rate: [1.0e+30, 0.1]}]")
    failing, whole = (f"simclr-none-learning_rate={rate}-s0" for rate in ("1e+30", "0.1"))
    reason = "the loss is nan in epoch 1: set pretrain.learning_rate lower"
    there: list[dict[str, int]] = []
    for tried in (2, 1)[:starts]:
        with pytest.raises(StageError) as told:
            runner.run(config)
        assert str(told.value).startswith(f"1 of 2 trials failed, first {failing}: training failed: {reason}; ")
        assert "\n" not in str(told.value)
        client, parent, below = runs_of(config)
        assert {name: run.info.status for name, run in below.items()} == {failing: "FAILED", whole: "FINISHED"}
        assert parent.info.status == "FAILED"
        assert reason in below[failing].data.tags["infoaug.ended"] and "infoaug.ended" not in below[whole].data.tags
        assert "comparison" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
        assert capsys.readouterr().err.count("\ntrial ") == tried
        done = [f for f in computed(config) if re.search("/pretrain/.*/history.json|/evaluate/.*/scenes.*json", f)]
        there.append({file: computed(config)[file] for file in done})
    assert len(there[0]) == 2 and there[0] == there[-1], "the trial that was whole was repeated"
