"""A whole experiment on a real Ray and a real MLflow: what a user finds afterwards."""

from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from infoaug.models.backbones import load_backbone
from infoaug.orchestrator import experiment
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.exporting import export
from infoaug.orchestrator.identity import identity
from infoaug.orchestrator.runtime.store import file_name

SHOWN = ("neighbours", "map", "patches", "components")  # of what features see, without masks to propagate

pytestmark = pytest.mark.usefixtures("ray_cluster")


def artifacts(client: MlflowClient, run: str, folder: str | None = None) -> set[str]:
    found = client.list_artifacts(run, folder)
    return {item.path for item in found if not item.is_dir}.union(
        *(artifacts(client, run, item.path) for item in found if item.is_dir)
    )


def test_an_experiment_leaves_a_report_and_a_tracked_run_and_run_again_computes_nothing(
    tiny: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = experiment.run(tiny)
    assert told
    page = Path(told.page).read_text()
    assert "synthetic" in page and "scene-0000.avi" in page
    assert "http-equiv" in page and 'src="http' not in page

    client = MlflowClient(tracking_uri=told.tracking_uri)
    (only,) = client.search_runs([client.get_experiment_by_name("infoaug").experiment_id])
    assert only.info.status == "FINISHED"
    assert only.data.params["pretrain.twin_weight"] == "0.5"
    assert {
        "train/loss",
        "patches/twin",
        "seconds/score",
        "scenes/probe",
        "scenes/floor_knn",
    } <= only.data.metrics.keys()
    assert [m.step for m in client.get_metric_history(only.info.run_id, "train/loss")] == [1, 2]
    kept = artifacts(client, only.info.run_id)
    assert {"config.yaml", "report/report.html", "report/accuracy.png", "backbone/backbone.safetensors"} <= kept
    looks = {f"report/{name}-{whose}.png" for name in SHOWN for whose in ("trained", "baseline")}
    assert looks <= kept and "What the features see" in page
    assert {f"report/confusion-{file_name('scenes')}.{kind}" for kind in ("png", "csv")} <= kept
    assert "Which classes are confused" in page
    explorers = set(told.report.explorers.values())
    assert explorers and {f"report/{name}" for name in explorers} <= kept
    assert all(f'href="{name}"' in page and (Path(told.page).parent / name).exists() for name in explorers)

    folder = Path(client.download_artifacts(only.info.run_id, "backbone", str(tmp_path)))
    features = load_backbone(folder)(torch.zeros(2, 3, 16, 16))
    assert features.shape == (2, 16)

    (tmp_path / "tiny.yaml").write_text(tiny.to_yaml())
    for called in (str(tmp_path / "tiny.yaml"), only.info.run_id, "tiny"):
        name, backbone = export.find(called, [f"tracking.uri={told.tracking_uri}"])
        assert name == "tiny"
        assert torch.equal(backbone(torch.zeros(2, 3, 16, 16)), features)

    capsys.readouterr()
    again = experiment.run(tiny)
    assert again and again.report.results == told.report.results and again.report.looks == told.report.looks
    assert again.report.times == told.report.times, "nothing was computed, so nothing took time"
    assert "2 windows, 2 already there" in capsys.readouterr().err
    assert len(client.search_runs([only.info.experiment_id])) == 1

    unseen = [*(tmp_path / "store").glob("*/*/look-*.npz")]
    assert len(unseen) == 2
    for file in unseen:  # as if interrupted once all was measured
        file.unlink()
    again = experiment.run(tiny)
    assert again and again.report.looks == told.report.looks


def test_the_same_experiment_on_other_machines_is_the_same_run_and_another_weight_is_another(
    tiny: ExperimentConfig,
) -> None:
    elsewhere = tiny.model_copy(
        update={"store": "s3://bucket", "pretrain": tiny.pretrain.model_copy(update={"workers": 4, "gpu": True})}
    )
    heavier = tiny.model_copy(update={"pretrain": tiny.pretrain.model_copy(update={"twin_weight": 1.0})})
    assert identity(elsewhere) == identity(tiny)
    assert identity(heavier) != identity(tiny)
