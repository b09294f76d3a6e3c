import copy
import math
import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from infoaug.models import frameworks, memory
from infoaug.models.training import Pairs, Training, TrainingSettings, loop, sampling
from infoaug.models.training.pairs import Window, write_mapped
from tests.models.training.trainings import (
    CPU,
    PARTS,
    SMALL,
    pairs_with_stills,
    random_pairs,
    random_tracks,
    same,
    several_partners,
    small_settings,
    trained,
)

NEED_TWO = ("barlow_twins", "dcl", "nnclr", "simclr")  # their loss compares pairs with each other: one pair costs 0
MULTI_CROP = ("dino", "swav")


def test_every_framework_has_small_settings_here() -> None:
    assert sorted(SMALL) == frameworks.available()


@pytest.mark.parametrize("framework", frameworks.available())
def test_a_framework_trains_and_resumed_after_any_epoch_ends_with_the_same_weights_to_the_last_bit(
    framework: str, tmp_path: Any
) -> None:
    settings, data = small_settings(framework), random_pairs()
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


def with_small_views(framework: str, count: int = 3, **changes: Any) -> TrainingSettings:
    """Settings of a small training with so many small views of 8 pixels."""
    return small_settings(framework, framework_settings={**SMALL[framework], "small_views": count}, **changes)


@pytest.mark.parametrize("framework", MULTI_CROP)
@pytest.mark.parametrize("changes", [{}, {"twin_weight": 0.0}, {"precision": "bfloat16"}, {"image_share": 0.25}])
def test_with_small_views_a_framework_trains_and_resumes_to_the_last_bit(
    framework: str, changes: dict[str, Any]
) -> None:
    settings = with_small_views(framework, **changes)
    data = pairs_with_stills() if "image_share" in changes else random_pairs()
    whole = trained(settings, data, 1)
    resumed = Training(settings, data, CPU)
    resumed.load_state(copy.deepcopy(whole.state()))
    metrics = whole.epoch(), resumed.epoch()
    assert all(math.isfinite(value) for value in metrics[0].values())
    assert all(same(resumed.state()[part], whole.state()[part]) for part in PARTS)
    plain = trained(small_settings(framework, **changes), data, 2)
    assert plain.history[1]["view_loss"] != metrics[0]["view_loss"]
    assert plain.model.state_dict().keys() == whole.model.state_dict().keys()


@pytest.mark.parametrize("framework", MULTI_CROP)
def test_no_small_views_change_nothing(framework: str) -> None:
    none, default = (trained(s, random_pairs(), 1) for s in (with_small_views(framework, 0), small_settings(framework)))
    assert all(same(none.state()[part], default.state()[part]) for part in PARTS)


@pytest.mark.parametrize("views", ["augmented", "time", "both"])
def test_small_views_show_the_picture_of_the_first_view_augmented_with_crops_of_their_own(
    views: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Training(with_small_views("swav", views=views, augment={"flip": 0.0, "hue": 0.2}), random_tracks(), CPU)
    small = run.augment_small
    assert small is not None
    assert small.settings == run.augment.settings.model_copy(update={"crop_scale": (0.05, 0.14)})
    assert (small.size, run.augment.size) == (8, None)
    batches: list[Any] = []
    pictures: list[Tensor] = []
    given: list[Tensor] = []
    small.register_forward_pre_hook(lambda module, inputs: pictures.append(inputs[0]))
    run.model.view_branch.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].small))
    real = run.step
    monkeypatch.setattr(run, "step", lambda batch, *rest, **named: batches.append(batch) or real(batch, *rest, **named))
    run.epoch()
    for batch, picture, features in zip(batches, pictures, given, strict=True):
        assert torch.equal(picture.view(8, 3, *picture.shape[1:]), batch.images[:, None].expand(-1, 3, -1, -1, -1))
        assert features.shape[:2] == (8, 3)


def test_small_views_that_are_not_smaller_than_the_images_are_refused() -> None:
    settings = small_settings("swav", framework_settings={"small_views": 2, "small_size": 16})
    with pytest.raises(ValueError, match="small_size 16 must be below image_size 16"):
        Training(settings, random_pairs(), CPU)


@pytest.mark.parametrize("changes", [{"views": "both", "later_share": 0.5}, {"views": "time", "twin_time": "nearest"}])
def test_pictures_of_several_times_are_drawn_again_by_a_resumed_training(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    settings, data = small_settings("moco", **changes), random_tracks()
    whole = trained(settings, data, 1)
    resumed = Training(settings, data, CPU)
    torch.save(whole.state(), tmp_path / "state.pt")
    torch.rand(3)
    resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    whole.epoch(), resumed.epoch()
    assert all(same(resumed.state()[part], whole.state()[part]) for part in PARTS)


def test_epochs_and_seeds_draw_other_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    firsts: list[list[int]] = []
    real = loop.draw

    def record(data: Pairs, *given: Any) -> Any:
        found = real(data, *given)
        firsts.append((found.first - data.starts[found.rows]).flatten().tolist())
        return found

    monkeypatch.setattr(loop, "draw", record)
    trained(small_settings(), random_tracks(), 2)
    trained(small_settings(), random_tracks(), 1)
    trained(small_settings(seed=1), random_tracks(), 1)
    assert firsts[0] == firsts[2] and firsts[0] != firsts[1] != firsts[3] != firsts[0]


def test_with_views_by_time_only_patches_of_one_crop_are_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Training(small_settings(views="time", augment={"flip": 1.0, "crop_scale": [0.2, 0.3]}), random_tracks(), CPU)
    given: list[tuple[Any, ...]] = []
    run.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    batches: list[Any] = []
    real = run.step
    monkeypatch.setattr(run, "step", lambda batch, *rest, **named: batches.append(batch) or real(batch, *rest, **named))
    run.epoch()
    for (first, second, twin, *_), batch in zip(given, batches, strict=True):
        for views, images, alone in (
            (first, batch.images, batch.alone),
            (second, batch.second, batch.alone),
            (twin, batch.twins, batch.alone[batch.twin_rows]),
        ):
            plain = (views == run.augment.normalise(images)).flatten(1).all(dim=1)
            assert torch.equal(plain, ~alone)
    assert any(batch.alone.any() for batch in batches) and not all(batch.alone.all() for batch in batches)


def test_patches_with_one_crop_are_counted_where_another_time_is_asked_for() -> None:
    data = random_tracks()
    none = Pairs(data.images, torch.full_like(data.twin, -1), frames=data.frames)
    for given, changes, counted in ((none, {}, False), (none, {"views": "time"}, True), (data, {}, True)):
        metrics = Training(small_settings(**changes), given, CPU).epoch()
        assert ("share_with_one_crop" in metrics) == counted
        assert not counted or 0 < metrics["share_with_one_crop"] < 1


def test_twins_without_a_crop_of_the_same_frame_are_counted() -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 1, 16, 16, 3), np.uint8)
    frames = np.arange(16)[:, None] // 4  # patches 0 to 3 share a frame, and so on
    for twin, share in ((np.arange(16) ^ 1, 0.0), (np.arange(16) ^ 4, 1.0)):
        data = Pairs.from_arrays(images, twin, frames=frames)
        metrics = Training(small_settings(twin_time="same"), data, CPU).epoch()
        assert metrics["twins_without_frame"] == metrics["steps_without_twin_loss"] == share
        assert "twins_without_frame" not in Training(small_settings(), data, CPU).epoch()


def test_the_example_in_the_docstring_trains_numpy_images_with_their_twins() -> None:
    random = np.random.default_rng(0)
    images, twins = random.integers(0, 256, (24, 32, 32, 3), np.uint8), random.integers(-1, 24, 24)

    settings = TrainingSettings(
        framework="simclr", backbone="resnet18", image_size=32, batch_size=8, epochs=2, warmup_epochs=0
    )
    training = Training(settings, Pairs.from_arrays(images, twins), CPU)
    before = training.model.backbone.conv1.weight.detach().clone()
    for _ in range(settings.epochs):
        assert math.isfinite(training.epoch()["loss"])
    backbone = training.model.backbone.eval()

    assert not torch.equal(backbone.conv1.weight, before)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, backbone.num_features)


@pytest.mark.parametrize(
    ("changes", "named"), [({"image_size": 32}, "image_size"), ({"batch_size": 32}, "batch"), ({"batch_size": 2}, None)]
)
def test_images_that_do_not_fit_the_settings_are_refused(changes: dict[str, Any], named: str | None) -> None:
    settings = small_settings(**changes)
    if named is None:
        assert Training(settings, random_pairs(), CPU).steps == 14
        return
    with pytest.raises(ValueError, match=named):
        Training(settings, random_pairs(), CPU)


def test_validation_is_called_when_it_is_due_and_after_the_last_epoch_and_joins_the_history() -> None:
    backbones: list[nn.Module] = []

    def validate(backbone: nn.Module) -> dict[str, float]:
        backbones.append(backbone)
        return {"validation": float(len(backbones))}

    training = Training(small_settings(validate_every=2), random_pairs(), CPU, validate)
    for _ in range(3):
        training.epoch()
    assert [epoch.get("validation") for epoch in training.history] == [None, 1.0, 2.0]
    assert all(backbone is training.model.backbone for backbone in backbones)


@pytest.mark.parametrize(
    ("framework", "encoder", "momentum"),
    [
        ("dino", None, True),  # the paper evaluates the teacher
        ("dino", "trained", False),
        ("byol", None, False),
        ("byol", "momentum", True),
        ("moco", None, False),
        ("moco", "momentum", True),
        ("simsiam", None, False),
    ],
)
def test_the_backbone_that_is_validated_and_kept_is_the_one_that_the_settings_name(
    framework: str, encoder: str | None, momentum: bool
) -> None:
    validated: list[nn.Module] = []
    chosen = {**SMALL[framework], **({"encoder": encoder} if encoder else {})}
    run = Training(
        small_settings(framework, framework_settings=chosen),
        random_pairs(),
        CPU,
        lambda backbone: {"validation": float(bool(validated.append(backbone)))},
    )
    run.epoch()
    kept = run.model.kept_backbone
    assert validated == [kept]
    assert (kept is run.model.momentum_backbone, kept is run.model.backbone) == (momentum, not momentum)
    if momentum:
        assert not same(kept.state_dict(), run.model.backbone.state_dict())


def test_a_framework_without_a_momentum_encoder_has_none_to_keep() -> None:
    with pytest.raises(ValueError, match="encoder"):
        Training(small_settings(framework_settings={"encoder": "momentum"}), random_pairs(), CPU)


@pytest.mark.parametrize(("framework", "needed"), [(name, 1 + (name in NEED_TWO)) for name in frameworks.available()])
def test_steps_whose_batch_has_too_few_twins_for_a_twin_loss_are_counted(framework: str, needed: int) -> None:
    images = random_pairs(24).images  # three batches of eight
    for twins in range(3):
        twin = torch.full((24,), -1)
        run = Training(small_settings(framework), Pairs(images, twin), CPU)
        batches = torch.randperm(24, generator=sampling.generator(0, 0)).view(3, 8)
        for number, batch in enumerate(batches):  # the first batch has two twins, the others have `twins`
            for row in batch[: 2 if number == 0 else twins]:
                twin[row] = batches[2 - number, 7]
        metrics = run.epoch()
        assert metrics["steps_without_twin_loss"] == pytest.approx(2 / 3 if twins < needed else 0), twins


def test_without_a_twin_branch_no_step_is_said_to_lack_a_twin_loss() -> None:
    assert "steps_without_twin_loss" not in Training(small_settings(twin_weight=0.0), random_pairs(), CPU).epoch()


def test_a_resumed_training_compares_its_features_with_those_of_the_first_epoch_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = iter([8.0, 3.0, 3.0])
    monkeypatch.setattr(loop, "rank_me", lambda features: torch.tensor(next(ranks)))
    run = Training(small_settings(), random_pairs(), CPU)
    assert run.epoch()["collapsed"] == 0
    assert run.epoch()["collapsed"] == 1
    resumed = Training(small_settings(), random_pairs(), CPU)
    resumed.load_state(run.state())
    assert resumed.epoch()["collapsed"] == 1


def test_images_in_memory_and_mapped_ones_give_the_same_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = np.array([[0, 3, 7], [0, 5, -1], [0, -1, -1]] * 3)
    windows = [
        Window(random.integers(0, 256, (18, 3, 16, 16), np.uint8), random.integers(-1, 9, 9), frames) for _ in range(3)
    ]
    write_mapped(tmp_path, windows)
    in_memory, mapped = (
        trained(small_settings("moco", views="both"), data, 2).state()
        for data in (Pairs.from_windows(windows), Pairs.mapped(tmp_path))
    )
    assert all(same(in_memory[part], mapped[part]) for part in PARTS)


def test_second_views_and_twins_have_an_augmentation_of_their_own() -> None:
    settings = small_settings(augment={"flip": 0.0, "blur": 0.3}, augment_second={"flip": 0.0, "blur": 0.1})
    training = Training(settings, random_pairs(), CPU)
    assert (training.augment.settings.blur, training.augment_second.settings.blur) == (0.3, 0.1)
    alone = Training(small_settings(augment={"blur": 0.3}), random_pairs(), CPU)
    assert alone.augment_second.settings == alone.augment.settings


def test_another_seed_gives_other_weights() -> None:
    one, other = (trained(small_settings(seed=seed), random_pairs(), 1) for seed in (0, 1))
    assert not same(one.model.state_dict(), other.model.state_dict())


def test_an_epoch_reports_losses_speed_memory_and_how_far_features_are_from_collapse() -> None:
    metrics = Training(small_settings(), random_pairs(), CPU).epoch()
    assert metrics["epoch"] == 1
    assert metrics["loss"] == pytest.approx(metrics["view_loss"] + 0.5 * metrics["twin_loss"], rel=1e-5)
    assert metrics["images_per_second"] == pytest.approx(24 / metrics["seconds"])
    assert 0 <= metrics["data_wait_fraction"] < 1
    assert 20 < metrics["peak_memory_mb"] < 1e6
    assert 0 < metrics["feature_std"] <= 1 and 1 <= metrics["rank_me"] <= 8
    assert 0 < metrics["share_with_twin"] < 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its own peak")
def test_the_peak_memory_of_an_epoch_is_not_what_the_process_took_before() -> None:
    run = Training(small_settings(), random_pairs(), CPU)
    held = bytearray(400 << 20)
    held[:: 1 << 12] = b"1" * len(held[:: 1 << 12])  # so that the pages are there
    before = memory.peak() / 2**20
    del held
    assert run.epoch()["peak_memory_mb"] < before - 200


@pytest.mark.parametrize("small_views", [0, 3])
def test_collapse_is_measured_on_the_first_views_of_the_last_batch(
    small_views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(loop, "rank_me", lambda features: seen.append(features) or torch.ones(()))
    run = Training(with_small_views("swav", small_views), random_pairs(), CPU)
    given: list[torch.Tensor] = []
    run.model.view_branch.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].first.detach()))
    run.epoch()
    assert torch.equal(seen[0], given[-1]) and seen[0].shape == (8, 16)


def test_without_a_twin_branch_no_twin_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    run = Training(small_settings(twin_weight=0.0), random_pairs(), CPU)
    run.augment_second.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    metrics = run.epoch()
    assert counts == [8, 8, 8]
    assert metrics["twin_loss"] == 0 and metrics["loss"] == metrics["view_loss"]


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_learning_rate() -> None:
    run = Training(small_settings(), random_pairs(), CPU)
    with torch.no_grad():
        next(run.model.view_branch.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        run.epoch()


@pytest.mark.parametrize("name", frameworks.available())
def test_a_loss_that_cannot_weigh_several_partners_is_refused_and_one_that_can_learns(name: str) -> None:
    settings = small_settings(name, twins=3, twin_choice="all")
    if name in ("barlow_twins", "vicreg"):
        with pytest.raises(ValueError, match=f"'{name}' cannot weigh several twins .* set twin_choice to uniform or"):
            Training(settings, several_partners(), CPU)
        for fine in ({"twin_choice": "strength"}, {"twins": 1}, {"twin_weight": 0.0}):
            Training(settings.model_copy(update=fine), several_partners(), CPU)
        return
    metrics = Training(settings, several_partners(), CPU).epoch()
    assert math.isfinite(metrics["loss"]) and 1 < metrics["partners"] <= 3 and 0 < metrics["share_with_twin"] < 1


@pytest.mark.parametrize("choice", ["uniform", "strength", "all"])
def test_with_one_twin_how_it_is_chosen_changes_no_bit(choice: str) -> None:
    one, other = (
        trained(small_settings("moco", twins=twins, twin_choice=choice), random_pairs(), 1).state() for twins in (1, 3)
    )
    plain = trained(small_settings("moco"), random_pairs(), 1).state()
    assert all(same(state[part], plain[part]) for state in (one, other) for part in PARTS)
    assert "partners" not in trained(small_settings(), random_pairs(), 1).history[0]


@pytest.mark.parametrize(
    "changes", [{"twin_choice": "all", "later_share": 0.3}, {"twin_choice": "strength", "twin_time": "nearest"}]
)
def test_partners_are_drawn_again_by_a_resumed_training(changes: dict[str, Any]) -> None:
    settings = small_settings("nnclr", twins=3, views="both", **changes)
    whole = trained(settings, several_partners(), 1)
    resumed = Training(settings, several_partners(), CPU)
    resumed.load_state(copy.deepcopy(whole.state()))
    whole.epoch(), resumed.epoch()
    assert all(same(resumed.state()[part], whole.state()[part]) for part in PARTS)


# ---- ranks


def pictures_on_rank(rank: int, choice: str) -> list[tuple[list[int], list[int], list[int]]]:
    """The pictures that a rank sees: of first views, of second views and of twins, step by step."""
    settings = small_settings("moco", views="both", later_share=0.5, warmup_epochs=0, twins=3, twin_choice=choice)
    run = Training(settings, several_partners(), CPU)
    found = []
    real = run.data.batch

    def record(drawn: Any, *given: Any, **named: Any) -> Any:
        found.append((drawn.first.tolist(), drawn.second.tolist(), drawn.twin.tolist()))
        return real(drawn, *given, **named)

    object.__setattr__(run.data, "batch", record)
    run.epoch()
    return found


@pytest.mark.parametrize("choice", ["uniform", "all"])
def test_ranks_share_the_pictures_that_one_rank_alone_would_see(
    choice: str, two_ranks: Callable[[Callable[[int], Any]], list[Any]]
) -> None:
    one, other = two_ranks(partial(pictures_on_rank, choice=choice))
    alone = pictures_on_rank(0, choice)
    assert [tuple(map(operator.add, *parts)) for parts in zip(one, other, strict=True)] == alone


def views_on_rank(rank: int) -> list[list[Tensor]]:
    """The views that the model of a rank takes: first, second, those of twins, and small ones; step by step."""
    changes = {"views": "both", "twins": 3, "twin_choice": "all", "warmup_epochs": 0}
    run = Training(with_small_views("swav", **changes), several_partners(), CPU)
    found: list[list[Tensor]] = []

    def record(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        found.append([*given[:3], named["small"]])

    run.model.register_forward_pre_hook(record, with_kwargs=True)
    run.epoch()
    return found


def test_ranks_together_see_the_views_that_one_rank_alone_would_see(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]],
) -> None:
    one, other = two_ranks(views_on_rank)
    alone = views_on_rank(0)
    assert len(alone) == len(one) == 3 and any(len(step[2]) % 2 for step in alone)
    for parts in zip(one, other, alone, strict=True):
        for of_one, of_other, of_both in zip(*parts, strict=True):
            torch.testing.assert_close(torch.cat([of_one, of_other]), of_both)  # rounding differs with the batch


def test_a_training_goes_on_with_another_number_of_ranks_as_if_it_had_had_one(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]], tmp_path: Path
) -> None:
    backbone = {**small_settings().backbone_settings, "drop_rate": 0.0}
    changes = {"backbone_settings": backbone, "learning_rate": 0.01}
    on = partial(trained_on_rank, framework="moco", changes=changes)
    on(0, file=tmp_path / "grown", epochs=1)
    two_ranks(partial(on, file=tmp_path / "grown", epochs=2))
    changed, alone = on(0, file=tmp_path / "grown", epochs=3), on(0, file=tmp_path / "alone", epochs=3)
    assert [epoch["loss"] for epoch in changed["history"]] == pytest.approx(
        [epoch["loss"] for epoch in alone["history"]], rel=1e-4
    )
    for name, value in alone["model"].items():
        torch.testing.assert_close(changed["model"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def trained_on_rank(rank: int, framework: str, changes: dict[str, Any], file: Path, epochs: int) -> dict[str, Any]:
    """Train to this epoch, from the state in `file` if there is one; rank 0 writes its own into it."""
    run = Training(small_settings(framework, **changes), random_pairs(), CPU)
    torch.rand(rank + epochs)  # another state of torch's own random numbers
    if file.exists():
        run.load_state(torch.load(file, weights_only=True))
    while len(run.history) < epochs:
        run.epoch()
    if rank == 0:
        torch.save(run.state(), file)
    return run.state()


@pytest.mark.parametrize(
    ("framework", "parts", "changes"),
    [
        ("moco", ["queue.keys", "momentum_backbone", "twin_branch"], {}),
        ("barlow_twins", ["twin_branch", "running_var"], {}),
        ("byol", ["momentum_backbone", "twin_branch"], {"freeze_layers": 2, "layer_decay": 0.5}),
        ("dino", ["center"], {"framework_settings": {**SMALL["dino"], "small_views": 2}}),
    ],
)
def test_two_resumed_ranks_end_like_two_uninterrupted_ones_to_the_last_bit(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]],
    framework: str,
    parts: list[str],
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    whole, cut, resumed = (
        two_ranks(partial(trained_on_rank, framework=framework, changes=changes, file=tmp_path / name, epochs=epochs))
        for name, epochs in (("whole", 3), ("cut", 1), ("cut", 3))
    )
    assert all(any(part in name for name in whole[0]["model"]) for part in parts)
    assert not same(cut[0]["model"], whole[0]["model"])
    for rank, state in enumerate([whole[1], *resumed]):
        for part in PARTS:
            assert same(state[part], whole[0][part]), (rank, part)


def orders_on_rank(rank: int) -> list[list[str]]:
    """Names of the weights in the order in which their gradients are summed over ranks, step by step."""
    run = Training(small_settings("moco"), random_pairs(), CPU)
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    orders: list[list[str]] = []

    def hook(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        orders.append([names[parameter] for parameter in bucket.parameters()])
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    run.parallel.register_comm_hook(None, hook)  # type: ignore[operator]
    run.epoch()
    return orders


def test_ranks_sum_gradients_in_the_same_order_in_the_first_step_and_in_later_ones(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]],
) -> None:
    first, *later = two_ranks(orders_on_rank)[0]
    assert len(first) > 10 and len(later) == 2
    assert all(order == first for order in later)


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    def largest(clip: float | None) -> float:
        run = Training(small_settings(clip_gradients=clip, learning_rate=1e-9), random_pairs(), CPU)
        norms: list[float] = []

        def keep(*_: Any) -> None:
            gradients = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
            norms.append(torch.cat(gradients).norm().item())

        run.optimizer.register_step_pre_hook(keep)
        run.epoch()
        return max(norms)

    assert largest(None) > 0.1
    assert largest(0.01) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("framework", "changes"), [("byol", {}), ("dino", {"small_views": 2})])
def test_a_compiled_backbone_trains_and_its_weights_keep_their_names(
    framework: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    chosen: list[Any] = []
    real = nn.Module.compile

    def record(module: nn.Module, **options: Any) -> None:
        compiled.append(module)
        chosen.append(options.get("options"))
        real(module, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(nn.Module, "compile", record)
    chosen_settings = {**SMALL[framework], **changes}
    run = Training(small_settings(framework, framework_settings=chosen_settings, compile=True), random_pairs(), CPU)
    assert compiled == [run.model.backbone, run.model.momentum_backbone]
    assert chosen == [{"layout_optimization": False}] * 2, "its convolutions are too narrow for channels last"
    plain = Training(small_settings(framework, framework_settings=chosen_settings), random_pairs(), CPU)
    one, other = run.epoch(), plain.epoch()
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert one["feature_std"] == pytest.approx(other["feature_std"], rel=1e-2)
    assert run.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.usefixtures("one_thread")
def test_partners_that_do_not_count_change_nothing() -> None:
    """Further partners in the data are negatives as other patches are, where one twin of a patch counts."""
    images, several = random_pairs().images, (torch.arange(28)[:, None] + torch.arange(1, 4)) % 28
    one = trained(small_settings(), Pairs.from_arrays(images, several[:, 0]), 1)
    first_of_three = trained(small_settings(), Pairs.from_arrays(images, several), 1)
    assert same(one.state()["model"], first_of_three.state()["model"])


def test_twins_without_a_frame_are_rows_without_any_partner_that_has_it() -> None:
    images = random_pairs().images
    several = (torch.arange(28)[:, None] + torch.arange(1, 4)) % 28
    several[:, 1:] = -1
    settings = small_settings(twins=3, twin_choice="all", twin_time="same")
    assert Training(settings, Pairs.from_arrays(images, several), CPU).epoch()["twins_without_frame"] == 0
