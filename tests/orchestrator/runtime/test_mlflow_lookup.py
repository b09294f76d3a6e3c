"""A run's backbone is found by the run's id and by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.mlflow_lookup import backbone
from infoaug.orchestrator.runtime.mlflow_runs import Run

Make = Callable[..., ExperimentConfig]

BACKBONE = {"backbone.safetensors": b"weights", "backbone.json": b"{}"}


@pytest.mark.parametrize("name", ["by-its-name", "a" * 32])
def test_a_backbone_is_found_by_its_run_s_id_and_name(name: str, config: Make, client: MlflowClient) -> None:
    made = config(f"name={name}")
    run = Run(made)
    run.files({**BACKBONE, "notes.txt": b"not of the backbone"}, "backbone")
    assert backbone(run.id, made.tracking) == (name, BACKBONE)
    elsewhere = config("tracking.experiment=of-another").tracking
    assert backbone(name, elsewhere) == (name, BACKBONE)


def test_a_renamed_run_is_found_whatever_its_name(config: Make, client: MlflowClient) -> None:
    made = config()
    run = Run(made)
    run.files(BACKBONE, "backbone")
    client.update_run(run.id, name="Anna's, 2nd")
    assert backbone("Anna's, 2nd", made.tracking) == ("Anna's, 2nd", BACKBONE)


def test_a_name_of_several_runs_is_refused_with_their_ids(config: Make) -> None:
    runs = [Run(config("name=twice", seed)) for seed in ("seed=0", "seed=1")]
    with pytest.raises(UsageError, match="several runs of this name: give the id of one") as caught:
        backbone("twice", config().tracking)
    assert all(run.id in str(caught.value) for run in runs)


def test_a_run_without_training_has_no_backbone(config: Make) -> None:
    run = Run(config())
    with pytest.raises(UsageError, match=f"{run.id} has no backbone: run `infoaug pretrain`"):
        backbone(run.id, config().tracking)


@pytest.mark.parametrize("unknown", ["nobody", "0" * 32, "' OR 1", "both ' and \""])
def test_an_unknown_run_is_refused(unknown: str, config: Make) -> None:
    with pytest.raises(UsageError, match="MLflow at 'sqlite"):
        backbone(unknown, config().tracking)


def test_searching_for_a_run_creates_no_database(tmp_path: Path) -> None:
    settings = load(None, [f"tracking.uri=sqlite:///{tmp_path / 'sub' / 'mlflow.db'}"]).tracking
    with pytest.raises(UsageError, match="has no run of this id or name"):
        backbone("x", settings)
    assert not list(tmp_path.iterdir())


def test_the_backbone_of_a_name_is_that_of_the_run_that_replaced_the_others(config: Make) -> None:
    made = config("name=changed-later")
    old, new = Run(made), Run(made)
    old.of_model("a")
    old.files(BACKBONE, "backbone")
    new.of_model("b")
    new.files({**BACKBONE, "backbone.json": b"new"}, "backbone")
    assert backbone("changed-later", made.tracking)[1]["backbone.json"] == b"new"
    assert backbone(old.id, made.tracking)[1] == BACKBONE
