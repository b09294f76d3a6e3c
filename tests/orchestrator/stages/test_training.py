import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from infoaug.models import frameworks
from infoaug.orchestrator.config import EvaluateConfig, ExperimentConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import pairs, pretrain, training
from infoaug.orchestrator.stages.pairs import Pairs
from infoaug.orchestrator.stages.training import Training
from tests.orchestrator.conftest import scored_windows

CPU = torch.device("cpu")
PARTS = ("model", "optimizer", "schedule")  # of a state
SMALL: dict[str, dict[str, Any]] = {
    "barlow_twins": {"hidden_dim": 16, "output_dim": 16},
    "byol": {"hidden_dim": 16, "output_dim": 8},
    "dcl": {},
    "dino": {"hidden_dim": 16, "bottleneck_dim": 8, "output_dim": 16},
    "moco": {"queue_size": 32},
    "nnclr": {"hidden_dim": 16, "output_dim": 8, "predictor_dim": 16, "queue_size": 32},
    "simclr": {},
    "simsiam": {"output_dim": 16, "predictor_dim": 8},
    "swav": {"prototypes": 8},
    "vicreg": {"hidden_dim": 16, "output_dim": 16},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def config(framework: str = "simclr", **pretrain: Any) -> ExperimentConfig:
    settings = {
        "framework": framework,
        "framework_settings": SMALL[framework],
        "backbone_settings": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "drop_rate": 0.1},
        "epochs": 3,
        "warmup_epochs": 1,
        "batch_size": 8,
        "precision": "float32",
    }
    return load(None).model_validate({"extract": {"image_size": 16}, "pretrain": settings | pretrain})


def patches(count: int = 28) -> Pairs:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=random)
    twin = torch.randint(0, count, (count,), generator=random)
    return Pairs(images, torch.where(torch.rand(count, generator=random) < 0.5, twin, -1))


def trained(settings: ExperimentConfig, data: Pairs, epochs: int = 3) -> Training:
    done = Training(settings, data, CPU)
    for _ in range(epochs):
        done.epoch()
    return done


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_every_framework_has_small_settings_here() -> None:
    assert sorted(SMALL) == frameworks.available()


@pytest.mark.parametrize("framework", frameworks.available())
def test_a_framework_trains_and_gone_on_with_from_any_epoch_gives_the_same_weights_to_the_last_bit(
    framework: str, tmp_path: Any
) -> None:
    settings, data = config(framework), patches()
    whole = Training(settings, data, CPU)
    before = {name: value.clone() for name, value in whole.model.backbone.named_parameters()}
    for epoch in range(2):
        torch.save(whole.state(), tmp_path / f"{epoch}.pt")
        metrics = whole.epoch()
        assert all(math.isfinite(value) for value in metrics.values())
    assert all(not torch.equal(value, before[name]) for name, value in whole.model.backbone.named_parameters())

    for epoch in range(2):
        resumed = Training(settings, data, CPU)
        torch.rand(epoch + 1)  # another state of torch's own random numbers
        resumed.load_state(torch.load(tmp_path / f"{epoch}.pt", weights_only=True))
        while len(resumed.history) < 2:
            resumed.epoch()
        for part in PARTS:
            assert same(resumed.state()[part], whole.state()[part]), part


@pytest.mark.parametrize("settings", [{}, {"framework": "byol"}, {"framework": "simsiam", "precision": "bfloat16"}])
def test_validation_between_epochs_leaves_the_training_as_it_is_to_the_last_bit(settings: dict[str, Any]) -> None:
    plain = trained(config(**settings), patches(), 3)
    every = {"every": 1, "limit": 60}
    run = Training(config(**settings), patches(), CPU)
    validation = probes.Validation(config().model_copy(update={"evaluate": EvaluateConfig(**every)}), CPU)
    modes = {name: module.training for name, module in run.model.named_modules()}
    for _ in range(3):
        run.epoch()
        run.model.train()
        layouts = {name: value.stride() for name, value in run.model.state_dict().items()}
        random = torch.get_rng_state()
        assert 0 <= validation.knn(run.model.backbone) <= 1
        assert torch.equal(torch.get_rng_state(), random)
        assert {name: value.stride() for name, value in run.model.state_dict().items()} == layouts
        assert {name: module.training for name, module in run.model.named_modules()} == modes
    for part in ("model", "optimizer", "schedule"):
        assert same(run.state()[part], plain.state()[part]), part


def test_another_seed_gives_other_weights() -> None:
    one, other = (trained(config().model_copy(update={"seed": seed}), patches(), 1) for seed in (0, 1))
    assert not same(one.model.state_dict(), other.model.state_dict())


def test_resident_images_and_mapped_ones_that_are_read_ahead_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    windows = [(random.integers(0, 256, (9, 16, 16, 3), np.uint8), random.integers(-1, 9, 9)) for _ in range(3)]
    scored = scored_windows(tmp_path / "store", {"a": windows[:1], "b": windows[1:]})
    store = scored.stage.store
    pairs.write(scored, store, tmp_path / "scratch")
    # A worker's own choice, without Ray Train; what it maps is deleted by then.
    alone = SimpleNamespace(get_local_world_size=lambda: 1, get_local_rank=lambda: 0)
    monkeypatch.setattr("ray.train.get_context", lambda: alone)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    place = StageFolder(store, "pretrain", {})
    chosen = [training._data(config(resident=kind), scored, place, CPU) for kind in (True, False)]
    assert not list((tmp_path / "temporary").iterdir())
    data = [pairs.load(scored, store), pairs.mapped(tmp_path / "scratch"), *chosen]
    assert [part.resident for part in data] == [True, False, True, False]
    expected, *others = (trained(config("moco"), part, 2).state() for part in data)
    assert all(same(state[part], expected[part]) for state in others for part in PARTS)


def test_an_epoch_tells_losses_speed_memory_and_how_far_features_are_from_collapse() -> None:
    metrics = Training(config(), patches(), CPU).epoch()
    assert metrics["epoch"] == 1
    assert metrics["loss"] == pytest.approx(metrics["view_loss"] + 0.5 * metrics["twin_loss"], rel=1e-5)
    assert metrics["images_per_second"] == pytest.approx(24 / metrics["seconds"])
    assert 0 <= metrics["data_wait_fraction"] < 1
    assert 20 < metrics["peak_memory_mb"] < 1e6
    assert 0 < metrics["feature_std"] <= 1 and 1 <= metrics["rank_me"] <= 8
    assert 0 < metrics["share_with_twin"] < 1


def test_measures_of_collapse_are_those_of_the_last_batchs_first_views(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(training, "rank_me", lambda features: seen.append(features) or torch.ones(()))
    run = Training(config(), patches(), CPU)
    given: list[torch.Tensor] = []
    run.model.view_branch.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].first.detach()))
    run.epoch()
    assert torch.equal(seen[0], given[-1]) and seen[0].shape == (8, 16)


def test_features_that_collapse_in_training_are_told_of_once() -> None:
    plain = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    run = Training(config(backbone_settings=plain, learning_rate=1e-6), patches(), CPU)
    history = [run.epoch()]
    assert pretrain.collapse_warning(history[0], []) == ""
    with torch.no_grad():
        for module in run.model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)
                nn.init.ones_(module.bias)
    history += [run.epoch(), run.epoch()]
    assert history[1]["feature_std"] < 0.1 < history[0]["feature_std"]
    told = pretrain.collapse_warning(history[1], history[:1])
    assert "epoch 2: the features have collapsed" in told and "pretrain.learning_rate" in told
    assert pretrain.collapse_warning(history[2], history[:2]) == ""


def test_without_a_twin_branch_no_twin_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    run = Training(config(twin_weight=0.0), patches(), CPU)
    run.augment_second.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    metrics = run.epoch()
    assert counts == [8, 8, 8]
    assert metrics["twin_loss"] == 0 and metrics["loss"] == metrics["view_loss"]


def test_second_views_and_twins_have_settings_of_their_own_on_top_of_the_first() -> None:
    first, second = training.augmentations(config(augment={"flip": 0.0, "blur": 0.3}, augment_second={"blur": 0.1}))
    assert (first.flip, first.blur, second.flip, second.blur) == (0.0, 0.3, 0.0, 0.1)


def test_a_loss_that_is_no_number_ends_the_training_with_the_remedy() -> None:
    run = Training(config(), patches(), CPU)
    with torch.no_grad():
        next(run.model.view_branch.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"in epoch 1: set pretrain\.learning_rate lower"):
        run.epoch()


# ---- ranks


def trained_on_rank(rank: int, framework: str, file: Path, epochs: int) -> dict[str, Any]:
    """Train to this epoch, from the state that `file` holds if it is there; rank 0 leaves its own in it."""
    run = Training(config(framework), patches(), CPU)
    torch.rand(rank + epochs)  # another state of torch's own random numbers
    if file.exists():
        run.load_state(torch.load(file, weights_only=True))
    while len(run.history) < epochs:
        run.epoch()
    if rank == 0:
        torch.save(run.state(), file)
    return run.state()


@pytest.mark.parametrize(
    ("framework", "has"),
    [("moco", ["queue.keys", "momentum_backbone", "twin_branch"]), ("barlow_twins", ["twin_branch", "running_var"])],
)
def test_two_ranks_that_go_on_end_like_two_that_were_not_interrupted_to_the_last_bit(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]], framework: str, has: list[str], tmp_path: Path
) -> None:
    whole, cut, resumed = (
        two_ranks(partial(trained_on_rank, framework=framework, file=tmp_path / name, epochs=epochs))
        for name, epochs in (("whole", 3), ("cut", 1), ("cut", 3))
    )
    assert all(any(part in name for name in whole[0]["model"]) for part in has)
    assert not same(cut[0]["model"], whole[0]["model"])
    for rank, state in enumerate([whole[1], *resumed]):
        for part in PARTS:
            assert same(state[part], whole[0][part]), (rank, part)


def orders_on_rank(rank: int) -> list[list[str]]:
    """Names of the weights in the order in which their gradients are summed over ranks, step by step."""
    run = Training(config("moco"), patches(), CPU)
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    orders: list[list[str]] = []

    def hook(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        orders.append([names[parameter] for parameter in bucket.parameters()])
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    run.parallel.register_comm_hook(None, hook)  # type: ignore[operator]
    run.epoch()
    return orders


def test_gradients_are_summed_in_the_same_order_in_the_first_step_and_later_so_that_more_ranks_round_alike_too(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]],
) -> None:
    first, *later = two_ranks(orders_on_rank)[0]
    assert len(first) > 10 and len(later) == 2
    assert all(order == first for order in later)


# ---- optimiser and schedule


@pytest.mark.parametrize(("optimizer", "settings"), [("sgd", {}), ("adamw", {}), ("lars", {"trust_coeff": 0.02})])
def test_one_kernel_for_all_weights_steps_as_one_for_each(optimizer: str, settings: dict[str, float]) -> None:
    one_by_one = {"foreach": False} | ({} if optimizer == "lars" else {"fused": False})
    moved = [
        trained(config(optimizer=optimizer, optimizer_settings=settings | more), patches(), 1).model.state_dict()
        for more in ({}, one_by_one)
    ]
    for name, value in moved[0].items():
        torch.testing.assert_close(value, moved[1][name], rtol=1e-4, atol=1e-5)


def test_the_optimiser_is_the_fused_one_where_there_is_one() -> None:
    model = nn.Linear(2, 2)
    assert training.optimizer_for(config(), model).defaults["fused"]
    assert "fused" not in training.optimizer_for(config(optimizer="lars"), model).defaults


def test_the_learning_rate_scales_with_the_batch_and_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = training.optimizer_for(config(learning_rate=0.1, batch_size=512, weight_decay=1e-2), model).param_groups
    assert {group["lr"] for group in groups} == {0.2}
    decayed = {group["weight_decay"]: sorted(tuple(p.shape) for p in group["params"]) for group in groups}
    assert decayed == {0.0: [(4,), (4,), (4,)], 1e-2: [(4, 3)]}


def test_the_learning_rate_rises_over_the_warm_up_and_falls_by_half_a_cosine_to_nothing() -> None:
    run = Training(config(learning_rate=1.0, epochs=4, batch_size=8), patches(16), CPU)
    rates = [run.schedule.lr_lambdas[0](step) for step in range(9)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(7)])
    assert run.epoch()["learning_rate"] == pytest.approx(8 / 256)


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    def largest(clip: float | None) -> float:
        run = Training(config(clip_gradients=clip, learning_rate=1e-9), patches(), CPU)
        norms: list[float] = []

        def keep(*_: Any) -> None:
            gradients = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
            norms.append(torch.cat(gradients).norm().item())

        run.optimizer.register_step_pre_hook(keep)
        run.epoch()
        return max(norms)

    assert largest(None) > 0.1
    assert largest(0.01) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer_settings": {"trust": 1}}, "trust"),
        ({"optimizer": "nonsense"}, "nonsense"),
    ],
)
def test_settings_that_the_optimizer_refuses_are_found_before_training(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pretrain.check(config(**wrong))


# ---- device


def test_layout_is_channels_last_unless_a_cpu_would_crash_in_it() -> None:
    wide, narrow = nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(8, 16, 1, stride=2)
    assert training.memory_format(wide, CPU) is torch.channels_last
    assert training.memory_format(narrow, CPU) is torch.contiguous_format
    assert training.memory_format(narrow, torch.device("cuda")) is torch.channels_last


def test_a_compiled_backbone_trains_and_its_weights_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    chosen: list[Any] = []
    real = nn.Module.compile

    def record(module: nn.Module, **options: Any) -> None:
        compiled.append(module)
        chosen.append(options.get("options"))
        real(module, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(nn.Module, "compile", record)
    run = Training(config("byol", compile=True), patches(), CPU)
    assert compiled == [run.model.backbone, run.model.momentum_backbone]
    assert chosen == [{"layout_optimization": False}] * 2, "its convolutions are too narrow for channels last"
    plain = Training(config("byol"), patches(), CPU)
    one, other = run.epoch(), plain.epoch()
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert one["feature_std"] == pytest.approx(other["feature_std"], rel=1e-2)
    assert run.model.state_dict().keys() == plain.model.state_dict().keys()
