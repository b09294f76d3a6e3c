"""What `pretrain.init` and classes of the user's own do to a stage, without Ray."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf

from infoaug.models import initial
from infoaug.models.backbones import create_backbone, load_backbone, save_backbone
from infoaug.models.training import Training
from infoaug.orchestrator import dry_run
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.exporting.export import export
from infoaug.orchestrator.stages import evaluate, initial_weights, pretrain
from tests.models.training.trainings import CPU, random_pairs
from tests.orchestrator.conftest import scored_windows

SMALL: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
TINY = "tests.models.own_models:Tiny"


def config(*overrides: str, init: Path | str | None = None, **backbone: Any) -> ExperimentConfig:
    named = [] if init is None else [f"pretrain.init={init}"]
    settings = f"pretrain.backbone_settings={json.dumps(backbone or SMALL)}"
    small = ["extract.image_size=16", settings, "evaluate.limit=40", "evaluate.neighbours=5"]
    return load(None, [*small, *named, *overrides])


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of an earlier training."""
    torch.manual_seed(5)
    folder = tmp_path / "earlier"
    save_backbone(create_backbone("resnet18", 16, **SMALL), folder, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    return folder


def scored(tmp_path: Path) -> Any:
    return scored_windows(tmp_path / "store", {"a": [(np.zeros((1, 16, 16, 3), np.uint8), [-1])]})


def test_the_content_of_the_weights_is_part_of_the_models_name_and_their_path_is_not(
    tmp_path: Path, earlier: Path
) -> None:
    windows, copy, exported = scored(tmp_path), tmp_path / "copy", tmp_path / "exported"
    shutil.copytree(earlier, copy)
    export(str(earlier), "timm", exported)
    plain = pretrain.stage(config(), windows)
    assert not {"init", "layer_decay", "freeze_layers"} & plain.key.keys()
    names = {pretrain.stage(config(init=path), windows).hash for path in (earlier, copy, exported)}
    assert len(names) == 1 and plain.hash not in names
    assert str(earlier) not in str(pretrain.stage(config(init=earlier), windows).key)
    floors = {
        evaluate.floor_stage(config(init=init), windows.stage.store, "datasets").hash for init in (None, earlier, copy)
    }
    assert len(floors) == 2
    other = create_backbone("resnet18", 16, **SMALL)
    save_backbone(other, copy, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert pretrain.stage(config(init=copy), windows).hash not in names, "the file has changed"


@pytest.mark.parametrize("setting", ["pretrain.layer_decay=0.7", "pretrain.freeze_layers=1"])
def test_layers_that_learn_otherwise_are_part_of_the_models_name(tmp_path: Path, setting: str) -> None:
    windows = scored(tmp_path)
    assert pretrain.stage(config(setting), windows).hash != pretrain.stage(config(), windows).hash


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.init=/no/such/folder"], r"pretrain\.init: There is no file or folder '/no/such/folder'"),
        (["pretrain.init={earlier}", "pretrain.backbone=resnet34"], "are of 'resnet18', the backbone is 'resnet34'"),
        (["pretrain.init={earlier}", "extract.image_size=64"], "stem .* reduces images by 1, .* 64 pixels by 2"),
        (["pretrain.init={earlier}", "pretrain.backbone_settings={layers: [2, 1, 1, 1], channels: [8, 8, 16, 16]}"],
         r"10 of them are missing, such as layer1\.1\.conv1\.weight \(they are of a backbone with"),
        (["pretrain.init={earlier}", "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 32]}"],
         r"layer4\.0\.conv1\.weight has the shape \[16, 16, 3, 3\] instead of \[32, 16, 3, 3\]"),
        (["pretrain.init=pretrained", "pretrain.backbone=resnet18.no_tag"], "timm (cannot build|publishes no weights)"),
        (["pretrain.init=nothing.yaml"], r"pretrain\.init.*nothing\.yaml"),
        (["pretrain.freeze_layers=5"], "has 5 layers: freeze 4 at most"),
        (["pretrain.optimizer_settings={layer_decay: 0.5}"], "set layer_decay beside it"),
        (["pretrain.backbone=no_module_of_mine:Net"], "cannot be imported .* current folder"),
        (["pretrain.backbone=tests.models.own_models:Tiny", "pretrain.backbone_settings={depth: 2}"], "'depth'"),
    ],
)  # fmt: skip
def test_weights_layers_and_classes_that_do_not_fit_are_refused_before_anything_is_started(
    earlier: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        pretrain.check(config(*(each.replace("{earlier}", str(earlier)) for each in overrides)))
    assert "\n" not in str(refused.value)


def test_finite_weights_whose_features_are_not_are_refused(tmp_path: Path) -> None:
    backbone: Any = create_backbone("resnet18", 16, **SMALL)
    for norm in (backbone.layer4[0].bn2, backbone.layer4[0].downsample[1]):
        norm.bias.data.fill_(3e38)
    save_backbone(backbone, tmp_path, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UsageError, match=r"pretrain\.init: the weights of .* give features that are NaN or infinite"):
        pretrain.check(config(init=tmp_path))


def test_a_dry_run_checks_weights_and_asks_no_server_for_published_ones(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = timm.create_model

    def create_model(name: str, pretrained: bool = False, **settings: Any) -> Any:
        assert not pretrained, "fetched"
        return built(name, **settings)

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(initial, "_cached", lambda known: None)
    place = [f"store={tmp_path / 'store'}"]
    planned = dry_run.plan(config("pretrain.init=pretrained", *place))
    assert "from the weights of 'pretrained', which have to be fetched" in planned["pretrain"]
    with pytest.raises(UsageError, match="the backbone is 'resnet34'"):
        dry_run.plan(config("pretrain.backbone=resnet34", *place, init=earlier))


def test_training_finds_the_weights_on_the_store_and_the_baseline_is_measured_with_them(
    earlier: Path, tmp_path: Path
) -> None:
    described, windows = config(init=earlier), scored(tmp_path)
    model = pretrain.stage(described, windows)
    with pytest.raises(StageError, match=r"cannot read .*initial"):
        initial_weights.stored(described, model)
    initial_weights.write(described, model)
    start: Any = initial_weights.stored(described, model)
    assert start.recipe.mean == pytest.approx((0.1, 0.2, 0.3)) and initial_weights.stored(config(), model) is None
    original = load_backbone(earlier)
    assert all(map(torch.equal, start.state_dict().values(), original.state_dict().values()))
    for name in ("backbone.safetensors", "backbone.json"):  # a training that moved nothing
        model.store.write_bytes(model.path(name), model.store.read_bytes(model.path("initial", name)))
    found = evaluate.measure(described, model, "scenes", evaluate.paths(described, model, "scenes"))
    assert found["baseline"] == "initial weights"
    assert found["knn"] == found["floor_knn"] and found["probe"] == found["floor_probe"]
    evaluate.delete(described, model)
    plain = config()
    assert "baseline" not in evaluate.measure(plain, model, "scenes", evaluate.paths(plain, model, "scenes"))


def test_features_are_of_images_normalised_as_the_backbone_was_trained(earlier: Path) -> None:
    backbone = load_backbone(earlier)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    with torch.no_grad():
        expected = backbone((images.float() / 255 - mean) / std)
    np.testing.assert_allclose(probes.features(backbone, images, 4), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_vit_from_a_timm_folder_keeps_its_normalisation_through_training_and_export(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    save_for_hf(timm.create_model("vit_tiny_patch16_224", **settings), str(tmp_path / "timm"), model_args=settings)
    more = ["pretrain.backbone=vit_tiny_patch16_224", "pretrain.batch_size=8", "pretrain.epochs=1"]
    described = config(
        *more, "pretrain.warmup_epochs=0", "pretrain.precision=float32", init=tmp_path / "timm", **settings
    )
    pretrain.check(described)
    model = pretrain.stage(described, scored(tmp_path))
    initial_weights.write(described, model)
    start = initial_weights.stored(described, model)
    training = Training(pretrain.training_settings(described), random_pairs(), CPU, backbone=start)
    assert training.augment.mean.flatten().tolist() == training.augment_second.std.flatten().tolist() == [0.5] * 3
    training.epoch()
    save_backbone(training.model.kept_backbone, tmp_path / "trained", mean=[0.5] * 3, std=[0.5] * 3)
    export(str(tmp_path / "trained"), "timm", tmp_path / "out")
    again: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert tuple(again.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    assert again.forward_features(torch.zeros(1, 3, 16, 16)).shape == (1, 65, 24), "patch tokens"
    pretrain.check(config(*more, "pretrain.warmup_epochs=0", init=tmp_path / "out", **settings))


def test_a_backbone_of_the_users_own_is_named_by_its_code_and_exported_where_a_trace_suffices(tmp_path: Path) -> None:
    own = load(None, ["extract.image_size=16", f"pretrain.backbone={TINY}"])
    model = pretrain.stage(own, scored(tmp_path))
    assert (
        len(model.key["backbone_code"]) == 16 and "backbone_code" not in pretrain.stage(config(), scored(tmp_path)).key
    )
    folder = tmp_path / "trained"
    save_backbone(create_backbone(TINY, 16).eval(), folder, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UsageError, match=r"author's own, .*pretrain\.backbone in a config"):
        export(str(folder), "torchscript", tmp_path / "no")
    named = [f"pretrain.backbone={TINY}"]
    export(str(folder), "torchscript", tmp_path / "out", overrides=named)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = load_backbone(folder, own=TINY)((images - 0.5) / 0.5)
        torch.testing.assert_close(torch.jit.load(str(tmp_path / "out" / "backbone.pt"))(images), expected)
    with pytest.raises(StageError, match=r"timm cannot rebuild '.*Tiny', .*torchscript or onnx"):
        export(str(folder), "timm", tmp_path / "timm", overrides=named)


def test_a_framework_of_the_users_own_is_read_from_a_config_with_its_settings(tmp_path: Path) -> None:
    name = "tests.models.own_models:Aligned"
    own = load(None, [f"pretrain.framework={name}", "pretrain.framework_settings={power: 1.5}"])
    assert pretrain.training_settings(own).framework_settings == {"power": 1.5}
    assert len(pretrain.stage(own, scored(tmp_path)).key["framework_code"]) == 16
    with pytest.raises(UsageError, match=r"did you mean 'pretrain\.framework_settings\.power'"):
        load(None, [f"pretrain.framework={name}", "pretrain.framework_settings={powr: 1.5}"])
    with pytest.raises(UsageError, match=r"pretrain.framework: .*cannot be imported"):
        load(None, ["pretrain.framework=no_module_of_mine:Net"])
