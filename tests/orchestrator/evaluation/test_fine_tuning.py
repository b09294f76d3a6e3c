"""Fine-tuning of a backbone with a linear head, on images whose classes are colours and shapes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import fine_tuning
from infoaug.orchestrator.evaluation.datasets import Labelled

pytestmark = pytest.mark.usefixtures("one_thread")


def _images(count: int, seed: int) -> Labelled:
    """Stripes across, stripes down or none, in noise: crops and flips leave the class as it is."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(60, 120, (count, 3, 16, 16), generator=random)
    images[labels == 0, :, ::4] += 130
    images[labels == 1, :, :, ::4] += 130
    return Labelled(images.to(torch.uint8), labels)


def _backbone(name: str = "resnet18", **settings: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, 16, **settings or {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)})


def _config(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"fine_tune": 2, "fine_tune_batch": 32, "fine_tune_rate": 0.5} | settings)


def _state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def train() -> Labelled:
    return _images(96, 0)


@pytest.fixture(scope="module")
def test() -> Labelled:
    return _images(60, 1)


def test_classes_that_can_be_told_apart_are_learned(train: Labelled, test: Labelled) -> None:
    backbone = _backbone().train()
    before = copy.deepcopy(_state(backbone))
    found = fine_tuning.accuracies(train, test, backbone, _config(fine_tune=9))
    assert found.keys() == {"fine_tuned"} and found["fine_tuned"] > 0.9
    assert backbone.training and not any(parameter.grad is not None for parameter in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_the_backbone_is_trained_with_the_head(train: Labelled) -> None:
    backbone, rows = _backbone(), torch.arange(96)
    model = fine_tuning.fine_tuned(backbone, train, rows, _config(fine_tune=1))
    stem, tuned = next(backbone.parameters()), next(model[0].parameters())
    assert not torch.equal(stem, tuned) and not model.training and model[1].out_features == 3


def test_the_same_backbone_is_tuned_in_the_same_way_again(train: Labelled) -> None:
    settings = {"depth": 1, "embed_dim": 24, "num_heads": 2, "drop_path_rate": 0.5}
    backbone, rows = _backbone("vit_tiny_patch16_224", **settings), torch.arange(96)
    drawn = torch.random.get_rng_state()
    one, other = (_state(fine_tuning.fine_tuned(backbone, train, rows, _config(fine_tune=2))) for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(torch.random.get_rng_state(), drawn), "random numbers of others are as if nothing was drawn"


def test_few_labels_are_tuned_on_too(train: Labelled, test: Labelled) -> None:
    found = fine_tuning.accuracies(train, test, _backbone(), _config(fine_tune=1), label_shares=(0.1, 0.01))
    assert found.keys() == {"fine_tuned", "fine_tuned_10", "fine_tuned_1"}
    assert all(0 <= value <= 1 for value in found.values())


def test_a_batch_that_exceeds_the_images_is_all_of_them(train: Labelled) -> None:
    model = fine_tuning.fine_tuned(_backbone(), train, torch.arange(5), _config(fine_tune=1, fine_tune_batch=4096))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_learning_rate_is_of_a_batch_of_256(train: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, real = [], fine_tuning.create_optimizer
    monkeypatch.setattr(fine_tuning, "create_optimizer", lambda *given: rates.append(real(*given)) or rates[-1])
    fine_tuning.fine_tuned(_backbone(), train, torch.arange(96), _config(fine_tune=1, fine_tune_rate=0.4))
    (group, *_) = rates[0].param_groups
    assert (group["initial_lr"], group["momentum"], group["nesterov"]) == (0.4 * 32 / 256, 0.9, True)
    assert all(each["weight_decay"] == 0 for each in rates[0].param_groups)


def test_a_training_that_diverges_is_refused(train: Labelled) -> None:
    with pytest.raises(StageError, match=r"diverged in epoch \d+: set evaluate\.fine_tune_rate lower"):
        fine_tuning.fine_tuned(_backbone(), train, torch.arange(96), _config(fine_tune=1, fine_tune_rate=1e39))
