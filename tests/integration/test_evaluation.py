"""Validation while training and evaluation after it, on a real Ray: and what domains give."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from infoaug.orchestrator import experiment
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from tests.orchestrator.conftest import write_domains

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_training_is_validated_as_asked_and_ends_with_the_validation_that_evaluation_finds(
    tiny_scored: ExperimentConfig, tmp_path: Path
) -> None:
    tiny = tiny_scored
    write_domains(tmp_path / "pacs", count=60)
    domains = str(tmp_path / "pacs")
    settings = tiny.evaluate.model_copy(update={"every": 2, "domains": [domains]})
    epochs = tiny.pretrain.model_copy(update={"epochs": 3})
    config = tiny.model_copy(update={"evaluate": settings, "pretrain": epochs})
    told = experiment.run(config)
    assert told
    history = told.report.history
    assert ["validation_knn" in epoch for epoch in history] == [False, True, True]
    plain, across = told.report.results
    assert history[-1]["validation_knn"] == pytest.approx(plain["validation_knn"], abs=0.05)

    client = MlflowClient(tracking_uri=told.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("infoaug").experiment_id])
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/validation_knn")] == [2, 3]
    assert run.data.metrics["pacs/grey to plain/probe"] == across["probe_matrix"][0][2]
    assert {"pacs/probe", "pacs/floor_probe", "scenes/rank_me", "scenes/validation_probe"} <= run.data.metrics.keys()
    assert "pacs (cross-domain)" in Path(told.page).read_text()
    assert list(Path(told.page).parent.glob("domains-*.png"))


def test_a_data_set_to_validate_on_that_cannot_be_read_is_refused_before_training(
    tiny: ExperimentConfig, tmp_path: Path
) -> None:
    settings = tiny.evaluate.model_copy(update={"every": 1, "datasets": [str(tmp_path)]})
    with pytest.raises(UsageError, match="needs training and test images"):
        experiment.run(tiny.model_copy(update={"evaluate": settings}), stages=("pretrain",))
