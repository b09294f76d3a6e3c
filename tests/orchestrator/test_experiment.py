"""An experiment without a cluster: what it would do, and what its run in MLflow is if its stages are complete."""

import signal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from infoaug.models.backbones import create_backbone, save_backbone
from infoaug.orchestrator import dry_run, experiment
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import interruption
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import pretrain
from tests.orchestrator.sweep.made import leave_done, leave_scored, scored_of


@pytest.fixture
def config(database: Path, tmp_path: Path, request: pytest.FixtureRequest) -> ExperimentConfig:
    tracked = [f"tracking.uri=sqlite:///{database}", f"tracking.experiment={request.node.name}"]
    return load(None, [f"store={tmp_path / 'store'}", *tracked])


def leave(config: ExperimentConfig, clip: str, epochs: int, knn: float) -> None:
    """All stages of an experiment on a clip of this content."""
    of, store = SimpleNamespace(config=config), Store(config.store)
    leave_done(of, store, shares=(0.25,) * epochs, clip=clip, knn=knn)  # type: ignore[arg-type]
    trained = pretrain.stage(config, scored_of(of, store))  # type: ignore[arg-type]
    for name, content in backbone_of(clip).items():
        store.write_bytes(trained.path(name), content)


@cache
def backbone_of(clip: str) -> dict[str, bytes]:
    """The files of a small backbone with other weights for every clip."""
    with torch.random.fork_rng(), TemporaryDirectory() as folder:
        torch.manual_seed(ord(clip))
        small = create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 8, 8])
        save_backbone(small, Path(folder), mean=[0.5] * 3, std=[0.25] * 3)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def test_accuracies_of_changed_clips_never_stand_beside_the_epochs_of_the_old_ones(
    config: ExperimentConfig, client: MlflowClient, tmp_path: Path
) -> None:
    for clip, epochs, knn in (("a", 3, 0.3), ("b", 2, 0.2), ("b", 2, 0.2), ("a", 3, 0.3)):
        leave(config, clip, epochs, knn)
        experiment.run(config, ("pretrain", "evaluate"))
    whole = client.get_experiment_by_name(config.tracking.experiment)
    runs = sorted(client.search_runs([whole.experiment_id]), key=lambda run: run.info.start_time)
    seen = []
    for run in runs:
        epochs = len(client.get_metric_history(run.info.run_id, "train/loss"))
        weights = client.download_artifacts(run.info.run_id, "backbone/backbone.safetensors", str(tmp_path))
        seen.append((epochs, run.data.metrics["scenes/knn"], Path(weights).read_bytes()))
        assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"config.yaml", "backbone"}
        assert run.inputs.dataset_inputs and run.info.status == "FINISHED"
    a, b = (backbone_of(clip)[pretrain.WEIGHTS_FILE] for clip in "ab")
    assert a != b and seen == [(3, 0.3, a), (2, 0.2, b), (3, 0.3, a)]
    replaced = [run.data.tags.get("infoaug.replaced_by", "") for run in runs]
    assert replaced == [runs[1].info.run_id, runs[2].info.run_id, ""]


def test_a_second_command_is_told_who_works_on_the_experiment(config: ExperimentConfig, client: MlflowClient) -> None:
    told = r"the experiment 'experiment' in the store .* is in use by another command \(process"
    with Store(config.store).hold(experiment.folder(config), "it"), pytest.raises(UsageError, match=told):
        experiment.run(config, ("pretrain", "evaluate"))
    assert client.get_experiment_by_name(config.tracking.experiment) is None, "nothing was begun"


def test_a_folder_for_tensorboard_that_cannot_be_written_to_is_refused_before_hours_of_training(
    config: ExperimentConfig, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    asked = config.tracking.model_copy(update={"tensorboard": str(tmp_path / "file")})
    with pytest.raises(UsageError, match=r"tracking\.tensorboard"):
        experiment.run(config.model_copy(update={"tracking": asked}), ("pretrain", "evaluate"))
    assert client.get_experiment_by_name(config.tracking.experiment) is None, "nothing was begun"


@pytest.mark.parametrize("stored", [[], {"score": 3.0}, {"score": {}}])
def test_times_that_were_changed_by_hand_are_named_as_broken(stored: Any, config: ExperimentConfig) -> None:
    store = Store(config.store)
    path = f"{experiment.folder(config)}/times.json"
    store.write_json(path, {"score": {"seconds": 1.0, "computed": 1, "resumed": 0}})
    assert experiment._times(config, store)["score"]["seconds"] == 1.0
    store.write_json(path, stored)
    with pytest.raises(StageError, match=r"times\.json' of the store .* is broken, delete it"):
        experiment._times(config, store)


def planned(tmp_path: Path, dataset: str, *more: str) -> ExperimentConfig:
    backbone = "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"
    places = [f"store={tmp_path / 'store'}", f"evaluate.data={tmp_path / 'data'}", "extract.image_size=16"]
    return load(None, [backbone, *places, f"evaluate.datasets=['{dataset}']", *more])


def test_a_plan_refuses_a_data_set_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set 'cifar11'"):
        dry_run.plan(planned(tmp_path, "cifar11"))
    with pytest.raises(UsageError, match="could not be fetched"):
        dry_run.plan(planned(tmp_path, "cifar10", "evaluate.download=false"))
    with pytest.raises(UsageError, match="there is no folder"):
        dry_run.plan(planned(tmp_path, "scenes", "evaluate.domains=absent"))


def test_a_plan_downloads_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run.plan(planned(tmp_path, "cifar10", "evaluate.every=1"))["evaluate"] == "do: cifar10"
    assert "will be downloaded" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_says_that_rendered_patches_will_be_too_few_and_refuses_scored_ones(tmp_path: Path) -> None:
    few = planned(tmp_path, "scenes", "pretrain.batch_size=4096", "scenes.count=1")
    told = [text for _, text in dry_run.lines(few)]
    assert [text for text in told if "probably be refused: about" in text and "fewer than a batch of 4096" in text]
    enough = planned(tmp_path, "scenes", "pretrain.batch_size=8", "scenes.count=1")
    assert not [text for _, text in dry_run.lines(enough) if "refused" in text]

    store = Store(few.store)
    leave_scored(SimpleNamespace(config=few), store, patches=100)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="100 patches are fewer than a batch of 4096: give more clips, or set"):
        dry_run.plan(few)
    assert dry_run.plan(enough)["score"] == "reuse 100 patches, 25 with a twin"


def test_a_plan_says_which_images_are_trained_on_and_refuses_those_that_cannot_be(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=np.zeros((3, 8, 8), np.uint8))
    asked = planned(tmp_path, "scenes", f"pretrain.images={tmp_path / 'mine.npz'}", "pretrain.image_share=0.25")
    assert dry_run.plan(asked)["pretrain"].endswith(f"100 epochs with '{tmp_path / 'mine.npz'}' in 25 % of a batch")
    assert [(source.name, source.purpose) for source in experiment.sources(asked)] == [
        ("scenes (synthetic)", "training"),
        (str(tmp_path / "mine.npz"), "training"),
        ("scenes", "evaluation"),
    ]
    with pytest.raises(UsageError, match="no data set 'absent'"):
        dry_run.plan(planned(tmp_path, "scenes", "pretrain.images=absent"))
    with pytest.raises(UsageError, match="could not be fetched"):
        dry_run.plan(planned(tmp_path, "scenes", "pretrain.images=cifar10", "evaluate.download=false"))


def test_a_signal_while_the_run_is_created_leaves_no_run_that_seems_to_work(
    config: ExperimentConfig, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run

    def signalled(*args: Any, **kwargs: Any) -> Any:
        run = create(*args, **kwargs)
        signal.raise_signal(signal.SIGTERM)
        return run

    def statuses() -> list[str]:
        whole = client.get_experiment_by_name(config.tracking.experiment)
        return [run.info.status for run in client.search_runs([whole.experiment_id])]

    def interrupt() -> None:
        with monkeypatch.context() as patch, interruption.raised(), pytest.raises(interruption.Interrupted):
            patch.setattr(MlflowClient, "create_run", signalled)
            experiment.run(config, ("pretrain",))

    leave(config, "a", 2, 0.2)
    interrupt()
    assert statuses() == ["KILLED"]
    experiment.run(config, ("pretrain",))
    leave(config, "b", 2, 0.2)  # another run takes the place of that of the old clips
    interrupt()
    assert sorted(statuses()) == ["FINISHED", "KILLED"]
