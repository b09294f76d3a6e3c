"""Detectors: levels by the real strides of a network, and what is frozen stays as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoaug.models.backbones import create_backbone
from infoaug.models.detection import ANCHOR, Pyramid, detector, usual_size

RESNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
VIT: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2}


def backbone(name: str, image_size: int, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, image_size, **settings)


def target(height: int, width: int) -> dict[str, Tensor]:
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    masks[:, 8:24, 8:30] = 1
    return {"boxes": torch.tensor([[8.0, 8, 30, 24]]), "labels": torch.tensor([1]), "masks": masks}


def loss(model: Any) -> Tensor:
    torch.manual_seed(0)
    every: Tensor = sum(model([torch.rand(3, 32, 48)], [target(32, 48)]).values())
    return every


@pytest.mark.parametrize(
    ("name", "image_size", "settings", "strides"),
    [
        ("resnet18", 32, RESNET, (1, 2, 4, 8, 16)),
        ("resnet18", 64, RESNET, (2, 4, 8, 16, 32)),
        ("resnet18", 224, RESNET, (4, 8, 16, 32, 64)),
        ("resnet18", 32, RESNET | {"fit_stem": False}, (4, 8, 16, 32, 64)),
        ("vit_tiny_patch16_224", 224, VIT, (4, 8, 16, 32, 64)),
        ("vit_tiny_patch16_224", 32, VIT, (1, 2, 4, 8, 16)),
        ("vit_tiny_patch16_224", 56, VIT | {"patch_size": 14}, (7, 14, 28, 56)),
        ("convnext_atto", 64, {}, (4, 8, 16, 32, 64)),
    ],
)
def test_levels_and_anchors_follow_the_real_strides(
    name: str, image_size: int, settings: dict[str, Any], strides: tuple[int, ...]
) -> None:
    pyramid = Pyramid(backbone(name, image_size, **settings), width=8)
    assert pyramid.strides == strides
    with torch.no_grad():
        levels = pyramid(torch.rand(1, 3, strides[-1], 2 * strides[-1]))
    sizes = [(strides[-1] // stride, 2 * strides[-1] // stride) for stride in strides]
    assert [tuple(level.shape) for level in levels.values()] == [(1, 8, *size) for size in sizes]
    assert [*levels] == [*pyramid.names, "pool"]
    assert usual_size(pyramid) == 25 * strides[-2]
    model = detector(backbone(name, image_size, **settings), 2, masks=False, width=8)
    assert model.rpn.anchor_generator.sizes == tuple((ANCHOR * stride,) for stride in strides)
    assert model.transform.size_divisible == strides[-1]


@pytest.mark.parametrize(("name", "settings"), [("resnet18", RESNET), ("vit_tiny_patch16_224", VIT)])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_stays_and_another_is_trained(name: str, settings: dict[str, Any], frozen: bool) -> None:
    trained = backbone(name, 32, **settings).train()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    model = detector(trained, 1, masks=True, size=32, width=8, proposals=16, frozen=frozen)
    copied = {key: value.clone() for key, value in model.backbone.network.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    after = model.backbone.network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, copied[key])}
    assert (not changed) if frozen else changed
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert model.backbone.network.training is not frozen
    assert all(weight.grad is not None for weight in model.backbone.fpn.parameters())


def test_the_statistics_of_batch_norm_are_kept_if_asked() -> None:
    def statistics(batch_norm: Any) -> tuple[Tensor, Tensor]:
        model = detector(backbone("resnet18", 32, **RESNET), 1, masks=True, size=32, width=8, batch_norm=batch_norm)
        model.train()
        loss(model).backward()
        norm = model.backbone.network.bn1
        return norm.running_mean, norm.weight.grad

    kept, gradient = statistics("frozen")
    assert not kept.any() and gradient.any()
    assert statistics("train")[0].any()


def test_what_has_no_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="'mixer_s32_224' has no dense features"):
        Pyramid(backbone("mixer_s32_224", 224))
