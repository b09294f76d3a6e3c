import pytest
import torch
from torch import nn

from infoaug.models import layers
from infoaug.models.backbones import create_backbone
from infoaug.models.training import Training
from infoaug.models.training.optimisation import create_optimizer
from tests.models.training.trainings import CPU, random_pairs, small_settings, trained

VIT = create_backbone("vit_small_patch14_reg4_dinov2", 32, depth=3, embed_dim=12, num_heads=2)


def test_the_tokens_and_the_embedding_of_a_vit_are_its_first_layer_and_each_block_is_one() -> None:
    found = layers.layers(VIT)
    first = {name for name, layer in found.items() if layer == 0}
    assert {"cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight"} <= first
    assert {found[f"blocks.{number}.attn.qkv.weight"] for number in range(3)} == {1, 2, 3}
    assert found["norm.weight"] == 3 == max(found.values())


def test_learning_rates_fall_from_the_heads_to_the_input_and_biases_and_norms_do_not_decay() -> None:
    model = nn.Module()
    model.backbone, model.head = VIT, nn.Linear(12, 4)  # type: ignore[assignment]
    settings = small_settings(learning_rate=0.1, batch_size=256, layer_decay=0.5, weight_decay=0.02, optimizer="adamw")
    groups = create_optimizer(settings, model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert rates["head.weight"] == (0.1, 0.02) and rates["head.bias"] == (0.1, 0.0)
    assert rates["backbone.blocks.2.attn.qkv.weight"] == pytest.approx((0.05, 0.02))
    assert rates["backbone.norm.weight"] == pytest.approx((0.05, 0.0))
    assert rates["backbone.blocks.0.attn.qkv.weight"] == pytest.approx((0.0125, 0.02))
    assert rates["backbone.patch_embed.proj.weight"][0] == rates["backbone.reg_token"][0] == pytest.approx(0.00625)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_a_training_follows_the_rates_of_its_layers_and_reports_that_of_the_heads(optimizer: str) -> None:
    training = trained(small_settings(optimizer=optimizer, layer_decay=0.5, epochs=3), random_pairs(), 2)
    rates = {group["lr"] for group in training.optimizer.param_groups}
    assert len(rates) == 6  # a ResNet of four blocks: its stem, the blocks, and the heads
    plain = trained(small_settings(optimizer=optimizer, epochs=3), random_pairs(), 2)
    assert training.history[-1]["learning_rate"] == plain.history[-1]["learning_rate"]
    assert max(rates) == plain.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("framework", ["simclr", "byol"])
def test_frozen_layers_keep_their_weights_and_statistics_and_the_others_learn(framework: str) -> None:
    torch.manual_seed(0)
    start = create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
    before = {name: value.clone() for name, value in start.state_dict().items()}
    settings = small_settings(framework, freeze_layers=2, backbone_settings={})
    training = Training(settings, random_pairs(), CPU, backbone=start)
    training.epoch()
    for backbone in filter(None, (training.model.backbone, training.model.momentum_backbone)):
        moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
        assert not {name for name in moved if name.startswith(("conv1", "bn1", "layer1"))}
        assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "layer4.0.conv2.weight"} <= moved
    assert not any(
        name.startswith("layer1") for name, p in training.model.backbone.named_parameters() if p.grad is not None
    )


def test_freezing_all_layers_or_layers_that_have_no_names_is_refused() -> None:
    with pytest.raises(ValueError, match="has 4 layers: freeze 3 at most"):
        layers.freeze(VIT, 4)
    with pytest.raises(ValueError, match="Linear does not name its layers"):
        layers.freeze(nn.Linear(2, 2), 1)
    assert layers.freeze(nn.Linear(2, 2), 0) == []
