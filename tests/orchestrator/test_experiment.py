"""What an experiment would do, told without doing it."""

from pathlib import Path

import pytest

from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.experiment import plan


def config(tmp_path: Path, dataset: str, *more: str) -> ExperimentConfig:
    backbone = "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"
    places = [f"store={tmp_path / 'store'}", f"evaluate.data={tmp_path / 'data'}", "extract.image_size=16"]
    return load(None, [backbone, *places, f"evaluate.datasets=['{dataset}']", *more])


def test_a_plan_refuses_a_data_set_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set 'cifar11'"):
        plan(config(tmp_path, "cifar11"))
    with pytest.raises(UsageError, match="could not be fetched"):
        plan(config(tmp_path, "cifar10", "evaluate.download=false"))
    with pytest.raises(UsageError, match="there is no folder"):
        plan(config(tmp_path, "scenes", "evaluate.domains=absent"))


def test_a_plan_downloads_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(config(tmp_path, "cifar10", "evaluate.every=1"))["evaluate"] == "do: cifar10"
    assert "will be downloaded" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
