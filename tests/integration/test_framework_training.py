"""Every framework by its recipe, on two workers of a real Ray Train."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig

from infoaug.models import frameworks
from infoaug.models.training import Pairs, Training
from infoaug.orchestrator.config import load
from infoaug.orchestrator.stages import pretrain

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
# The recipes' heads on a backbone of a thousandth of a ResNet-18's work, two steps an epoch.
SMALL = [
    "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    "pretrain.batch_size=8",
    "pretrain.epochs=1",
    "pretrain.warmup_epochs=0",
]


# The one with a queue and a momentum encoder, whose state the workers have most to agree on; all others are slow.
FAST = "moco"


def cases() -> list[Any]:
    """A case for each framework."""
    return [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in frameworks.available()]


@pytest.fixture(scope="module")
def workers(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder in which two workers have left what their tests look at, a file for each framework and worker.

    One training serves all frameworks that this run tests, as Ray Train takes longer to start than they to train.
    """
    folder = tmp_path_factory.mktemp("workers")
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    tested = [item.callspec.params["framework"] for item in items]
    recipes = {name: load(RECIPES / f"{name}.yaml", SMALL) for name in tested}
    settings = {name: pretrain.training_settings(config) for name, config in recipes.items()}

    def train() -> None:  # in here, as the workers cannot import this file
        def digest(value: torch.Tensor) -> str:
            return hashlib.sha256(value.numpy().tobytes()).hexdigest()

        torch.set_num_threads(1)
        random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (18, 3, 32, 32), dtype=torch.uint8, generator=random)
        data = Pairs(images, torch.randint(-1, 18, (18,), generator=random))
        for name in settings:
            training = Training(settings[name], data, torch.device("cpu"))
            # Matrices and kernels: a norm's scale of 1 rounds steps as small as a recipe's away.
            weights = {key: value for key, value in training.model.backbone.named_parameters() if value.ndim > 1}
            before = {key: value.detach().clone() for key, value in weights.items()}
            metrics = training.epoch()
            still = [key for key, value in weights.items() if torch.equal(value, before[key])]
            state = {key: digest(value) for key, value in training.model.state_dict().items()}
            found = {"world": training.world, "metrics": metrics, "still": still, "state": state}
            (folder / f"{name}-{training.rank}.json").write_text(json.dumps(found))

    ray.train.torch.TorchTrainer(
        train,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()
    return folder


@pytest.mark.parametrize("framework", cases())
def test_two_workers_train_a_framework_by_its_recipe_and_end_with_the_same_weights(
    framework: str, workers: Path
) -> None:
    one, other = (json.loads((workers / f"{framework}-{rank}.json").read_text()) for rank in (0, 1))
    assert one["world"] == other["world"] == 2
    assert all(math.isfinite(value) for value in one["metrics"].values())
    assert one["metrics"]["twin_loss"] != 0
    assert not one["still"], "these weights have not moved"
    assert len(one["state"]) > 20 and one["state"] == other["state"]
