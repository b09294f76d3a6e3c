import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from infoaug.models.training import Training, TrainingSettings
from infoaug.models.training.optimisation import autocast, create_optimizer, memory_format
from tests.models.training.trainings import CPU, random_pairs, small_settings, trained


@pytest.mark.parametrize(("optimizer", "settings"), [("sgd", {}), ("adamw", {}), ("lars", {"trust_coeff": 0.02})])
def test_one_kernel_for_all_weights_steps_as_one_for_each(optimizer: str, settings: dict[str, float]) -> None:
    one_by_one = {"foreach": False} | ({} if optimizer == "lars" else {"fused": False})
    moved = [
        trained(
            small_settings(optimizer=optimizer, optimizer_settings=settings | more), random_pairs(), 1
        ).model.state_dict()
        for more in ({}, one_by_one)
    ]
    for name, value in moved[0].items():
        torch.testing.assert_close(value, moved[1][name], rtol=1e-4, atol=1e-5)


def test_the_optimiser_is_fused_where_it_can_be() -> None:
    model = nn.Linear(2, 2)
    assert create_optimizer(small_settings(), model).defaults["fused"]
    assert "fused" not in create_optimizer(small_settings(optimizer="lars"), model).defaults


def test_the_learning_rate_scales_with_the_batch_and_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = create_optimizer(small_settings(learning_rate=0.1, batch_size=512, weight_decay=1e-2), model).param_groups
    assert {group["lr"] for group in groups} == {0.2}
    decayed = {group["weight_decay"]: sorted(tuple(p.shape) for p in group["params"]) for group in groups}
    assert decayed == {0.0: [(4,), (4,), (4,)], 1e-2: [(4, 3)]}


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum", "opt", "layer_decay"])
def test_settings_that_are_given_elsewhere_or_do_nothing_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"optimizer_settings cannot have {name}: "):
        create_optimizer(small_settings(optimizer_settings={name: 0.5}), nn.Linear(2, 2))


def test_the_learning_rate_rises_during_the_warm_up_and_follows_half_a_cosine_to_zero() -> None:
    run = Training(small_settings(learning_rate=1.0, epochs=4, batch_size=8), random_pairs(16), CPU)
    rates = [run.schedule.lr_lambdas[0](step) for step in range(9)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(7)])
    logged = [run.epoch()["learning_rate"] for _ in range(4)]
    assert logged == pytest.approx([8 / 256 * rates[last] for last in (1, 3, 5, 7)])  # of the last step of each epoch


def test_layout_is_channels_last_unless_a_cpu_would_crash_in_it() -> None:
    wide, narrow = nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(8, 16, 1, stride=2)
    assert memory_format(wide, CPU) is torch.channels_last
    assert memory_format(narrow, CPU) is torch.contiguous_format
    assert memory_format(narrow, torch.device("cuda")) is torch.channels_last


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_epochs"):
        TrainingSettings(epochs=10, warmup_epochs=10)


@pytest.mark.parametrize(
    ("size", "layers", "rounded"),
    [
        (16, [nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 2, 1)], True),  # the second sees 2×2
        (8, [nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 2, 1)], False),  # and here 1×1: its left weights see nothing
        (8, [nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 1, 1)], True),
        (8, [nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 7, 1, "same")], False),
        (8, [nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 1, 2)], True),  # no padding, so every weight sees the map
    ],
)
def test_a_cpu_rounds_only_where_its_gradients_are_right(
    monkeypatch: pytest.MonkeyPatch, size: int, layers: list[nn.Module], rounded: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    backbone = nn.Sequential(*layers)
    with autocast("auto", CPU, backbone, [64, size]):
        assert torch.is_autocast_enabled("cpu") == rounded
    with (
        nullcontext() if rounded else pytest.raises(ValueError, match=r"at 1 \(1×1\): set precision to auto or float32")
    ):
        autocast("bfloat16", CPU, backbone, [64, size])
    assert isinstance(autocast("float32", CPU, backbone, [size]), nullcontext)


def test_looking_for_small_maps_leaves_the_backbone_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout().eval())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    autocast("auto", CPU, backbone, [32])
    assert [module.training for module in backbone] == [True, True, False]
    assert not backbone[0]._forward_hooks
    torch.testing.assert_close(dict(backbone.state_dict()), before)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU does not multiply bfloat16 natively")
def test_gradients_that_are_rounded_are_right() -> None:
    torch.manual_seed(0)
    for kernel, stride, side in ((3, 1, 1), (3, 2, 2), (5, 2, 2), (7, 1, 3), (3, 4, 4)):
        layer, images = nn.Conv2d(64, 64, kernel, stride, kernel // 2), torch.randn(8, 64, side, side)
        gradients = []
        for rounded in (True, False):
            layer.zero_grad()
            junk = [torch.full_like(layer.weight, 1e30) for _ in range(3)]  # what memory would hold
            del junk
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
                layer(images).float().square().sum().backward()
            gradients.append(layer.weight.grad)
        torch.testing.assert_close(*gradients, rtol=0.1, atol=2.0)
