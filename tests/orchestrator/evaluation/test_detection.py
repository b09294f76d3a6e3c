"""Detection: mean average precision by hand, training that can be repeated, and what is refused before it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.config import DetectorConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import detection, objects
from infoaug.orchestrator.evaluation.detection import mean_average_precision
from tests.orchestrator.evaluation.boxes import yolo

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL: dict[str, Any] = {"size": 32, "epochs": 2, "batch_size": 2, "width": 8, "proposals": 16}


def backbone(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_backbone("resnet18", 32, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])


def vit() -> nn.Module:
    torch.manual_seed(0)
    return create_backbone("vit_tiny_patch16_224", 32, depth=1, embed_dim=24, num_heads=2)


def known(masks: bool = True) -> dict[str, Tensor]:
    found = {"boxes": torch.tensor([[2.0, 2, 12, 12], [20, 4, 30, 24]]), "labels": torch.tensor([1, 2])}
    found["iscrowd"] = torch.tensor([0, 0])
    drawn = torch.zeros(2, 32, 32, dtype=torch.bool)
    drawn[0, 2:12, 2:12] = drawn[1, 4:24, 20:30] = True
    return found | ({"masks": drawn} if masks else {})


def of(target: dict[str, Tensor], *scores: float) -> dict[str, Tensor]:
    return {key: value for key, value in target.items() if key != "iscrowd"} | {"scores": torch.tensor(scores)}


# ---- mean average precision


@pytest.mark.parametrize("masks", [False, True])
def test_perfect_detections_have_a_precision_of_one_and_none_of_zero(masks: bool) -> None:
    target, none = known(masks), {key: value[:0] for key, value in known(masks).items()}
    names = {"map", "map_50"} | ({"mask_map", "mask_map_50"} if masks else set())
    assert mean_average_precision([(of(target, 0.9, 0.8), target)], masks) == dict.fromkeys(names, 1.0)
    assert mean_average_precision([(of(none), target)], masks) == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize("masks", [False, True])
def test_precision_comes_with_what_each_image_adds_to_it(masks: bool) -> None:
    target = known()
    shifted = target | {"boxes": target["boxes"] + 4, "masks": target["masks"].roll(4, dims=-1)}
    pairs = [(of(shifted, 0.5, 0.4), target)] * 3 + [(of(target, 0.9, 0.8), target)] * 5
    found = mean_average_precision(pairs, masks)
    names = {"map", "map_50"} | ({"mask_map", "mask_map_50"} if masks else set())
    assert found.keys() == names | {f"{name}_influence" for name in names}
    for name in names:
        moved = sorted(found[f"{name}_influence"])
        assert len(moved) == 8 and sum(moved) == pytest.approx(0, abs=1e-3)
        assert 0 < found[name] < 1 and moved[2] < 0 < moved[3], "three images lower it, the others raise it"


def test_a_shifted_box_counts_up_to_its_overlap() -> None:
    target = known()
    shifted = target | {"boxes": target["boxes"] + torch.tensor([[2.0, 0, 2, 0], [0, 0, 0, 0]])}
    found = mean_average_precision([(of(shifted, 0.9, 0.8), target)], True)
    # The first box shares 80 of 120 pixels: it is right at the thresholds .5, .55, .6 and .65, of ten.
    assert found["map_50"] == found["mask_map"] == 1
    assert found["map"] == pytest.approx((0.4 + 1) / 2)


def test_a_crowd_is_neither_found_nor_missed() -> None:
    target = known() | {"iscrowd": torch.tensor([0, 1])}
    first = {key: value[:1] for key, value in known().items()}
    assert set(mean_average_precision([(of(first, 0.9), target)], True).values()) == {1.0}
    assert set(mean_average_precision([(of(known(), 0.9, 0.8), target)], True).values()) == {1.0}


# ---- training


def test_the_same_call_gives_the_same_numbers(tmp_path: Path) -> None:
    data = objects.load(str(yolo(tmp_path, polygons=True)))
    model, state = backbone(), torch.random.get_rng_state()
    first, second, other = (
        detection.measure(data, model, DetectorConfig(**SMALL, seed=seed), "cpu") for seed in (1, 1, 2)
    )
    assert first == second and first["loss"] != other["loss"]
    assert first.keys() == {"map", "map_50", "mask_map", "mask_map_50", "loss"} and len(first["loss"]) == 2
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("make", [backbone, vit])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_backbone_that_is_measured_stays_as_it_is(tmp_path: Path, make: Any, frozen: bool) -> None:
    data, model = objects.load(str(yolo(tmp_path))), make().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = detection.measure(data, model, DetectorConfig(**SMALL, frozen=frozen), "cpu")
    assert found.keys() == {"map", "map_50", "loss"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_mirrored_objects_stay_on_their_pixels(tmp_path: Path) -> None:
    data = objects.load(str(yolo(tmp_path, polygons=True)))
    image, target = data.read(data.pictures["train"][0])
    mirrored, moved = detection._to_train(image, target, True)
    for box, mask in zip(moved["boxes"].round().long().tolist(), moved["masks"], strict=True):
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].all() and mask.sum() == (x1 - x0) * (y1 - y0)
        assert (mirrored.amax(0)[y0:y1, x0:x1] > 100).all()
    assert "iscrowd" not in moved


def test_the_learning_rate_warms_up_and_falls_as_in_the_usual_schedules() -> None:
    factors = [detection._factor(step, 10, 12) for step in range(120)]
    assert factors[0] == pytest.approx(0.001) and factors[5] == pytest.approx(0.556) and factors[9] == 1
    assert [factors[10 * epoch] for epoch in (7, 8, 10, 11)] == pytest.approx([1, 0.1, 0.1, 0.01])
    of_26 = [detection._factor(step, 1, 26) for step in range(26)]
    assert detection._factor(0, 1, 1) == 1 and sum(factor == 1 for factor in of_26) == 17


def test_a_loss_that_is_not_finite_is_said(tmp_path: Path) -> None:
    data = objects.load(str(yolo(tmp_path)))
    with pytest.raises(StageError, match=r"loss of the detector .* steps: lower evaluate\.detector\.learning_rate"):
        detection.measure(data, backbone(), DetectorConfig(**SMALL | {"epochs": 20}, learning_rate=1e12), "cpu")


def test_too_little_memory_is_said_with_the_settings_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(detection, "_train", out_of_memory)
    with pytest.raises(StageError, match=r"lower evaluate\.detector\.batch_size") as caught:
        detection.measure(objects.load(str(yolo(tmp_path))), backbone(), DetectorConfig(**SMALL), "cpu")
    assert not caught.value.retry


# ---- before it


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(yolo(tmp_path))
    assert detection.check(folder) == []
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faster_coco_eval" else real(name))
    with pytest.raises(UsageError, match=r"needs faster-coco-eval: .* 'infoaug\[detection\]'"):
        detection.check(folder)


def test_a_backbone_without_maps_is_refused() -> None:
    with pytest.raises(UsageError, match=r"evaluate\.detection: 'mixer_s32_224' has no dense features"):
        detection.check_backbone(create_backbone("mixer_s32_224", 224))


def test_settings_at_their_defaults_leave_no_trace() -> None:
    assert "detector" not in load(None, ["evaluate.detector.epochs=12"]).evaluate.model_dump()
    config = load(None, ["evaluate.detection=/data/coco", "evaluate.detector={frozen: true, size: 400}"])
    assert config.evaluate.detector.frozen and config.evaluate.names[-1] == "/data/coco"
    with pytest.raises(UsageError, match=r"did you mean 'evaluate\.detector\.epochs'"):
        load(None, ["evaluate.detector.epoch=1"])
