import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from infoaug.models import initial
from infoaug.models.augment import CIFAR_MEAN, Augment
from infoaug.models.backbones import create_backbone, save_backbone
from infoaug.models.initial import Weights

VIT = "vit_tiny_patch16_224"
SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def timm_folder(folder: Path, name: str, **settings: Any) -> nn.Module:
    """A folder as timm's `local-dir:` loads it, with random weights of a classifier."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=5, **settings)
    save_for_hf(model, str(folder), model_args=settings, safe_serialization=True)
    return model


def own_folder(folder: Path, name: str = "resnet18", image_size: int = 32, **settings: Any) -> nn.Module:
    torch.manual_seed(4)
    backbone = create_backbone(name, image_size, **settings or SMALL)
    save_backbone(backbone, folder, mean=MEAN, std=STD)
    return backbone


def test_a_timm_folder_gives_its_weights_and_its_normalisation(tmp_path: Path) -> None:
    model = timm_folder(tmp_path, VIT, depth=2)
    weights = initial.read(tmp_path, VIT)
    backbone: Any = initial.initialised(VIT, 224, weights, depth=2)
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
        assert torch.equal(backbone.eval()(images), expected)
        assert torch.equal(backbone.forward_features(images), model.forward_features(images)), "its patch tokens too"
    assert (backbone.recipe.mean, backbone.recipe.std) == ((0.5,) * 3, (0.5,) * 3)
    assert torch.equal(Augment.of(backbone).normalise(torch.zeros(1, 3, 4, 4)), torch.full((1, 3, 4, 4), -1.0))


def test_a_timm_folder_may_hold_a_pickled_state_dict(tmp_path: Path) -> None:
    model = timm.create_model(VIT, depth=1)
    save_for_hf(model, str(tmp_path), model_args={"depth": 1})
    weights = initial.read(f"local-dir:{tmp_path}", VIT)
    assert (weights.name, weights.settings and weights.settings["depth"]) == (VIT, 1)
    assert torch.equal(weights.state["cls_token"], model.cls_token)


def test_embeddings_of_positions_and_patches_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    timm_folder(tmp_path, VIT, depth=1)
    weights = initial.read(tmp_path, VIT)
    backbone: Any = initial.initialised(VIT, 32, weights, depth=1)
    assert backbone.pos_embed.shape == (1, 65, 192) and backbone.patch_embed.proj.weight.shape[2:] == (4, 4)
    assert torch.equal(backbone.cls_token, weights.state["cls_token"])
    assert torch.equal(backbone.blocks[0].mlp.fc1.weight, weights.state["blocks.0.mlp.fc1.weight"])
    kept: Any = initial.initialised(VIT, 160, weights, depth=1)
    assert torch.equal(kept.patch_embed.proj.weight, weights.state["patch_embed.proj.weight"])
    assert kept.pos_embed.shape == (1, 101, 192)


def test_the_weights_of_an_earlier_training_are_used_to_the_last_bit(tmp_path: Path) -> None:
    backbone = own_folder(tmp_path)
    for path in (tmp_path, tmp_path / "backbone.json", tmp_path / "backbone.safetensors"):
        weights = initial.read(path, "resnet18")
        assert (weights.mean, weights.std, weights.image_size) == (MEAN, STD, 32)
        built = initial.initialised("resnet18", 32, weights, **SMALL)
        for name, value in backbone.state_dict().items():
            assert torch.equal(built.state_dict()[name], value)


@pytest.mark.parametrize("prefix", ["", "module.", "student.backbone."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_state_dict_is_found_under_the_prefix_of_its_training(tmp_path: Path, prefix: str, suffix: str) -> None:
    state = create_backbone("resnet18", 128, **SMALL).state_dict()
    written = {f"{prefix}{name}": value for name, value in state.items()} | {"fc.weight": torch.zeros(2, 2)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": written, "epoch": 3}, path)
    else:
        save_file(written, path)
    weights = initial.read(path, "resnet18")
    assert weights.mean == pytest.approx((0.485, 0.456, 0.406)), "that of the weights which timm publishes"
    built = initial.initialised("resnet18", 128, weights, **SMALL)
    assert all(torch.equal(built.state_dict()[name], value) for name, value in state.items())


def test_the_weights_of_two_networks_in_one_file_are_not_chosen_between(tmp_path: Path) -> None:
    state = create_backbone("resnet18", 128, **SMALL).state_dict()
    written = {f"{who}.{name}": value.clone() for who in ("student", "teacher") for name, value in state.items()}
    save_file(written, tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match=r"several networks \(student\., teacher\.\)"):
        initial.initialised("resnet18", 128, initial.read(tmp_path / "both.safetensors", "resnet18"), **SMALL)


@pytest.mark.parametrize(
    ("name", "image_size", "settings", "message"),
    [
        ("vit_small_patch16_224", 224, {"depth": 2}, "are of 'vit_tiny_patch16_224', the backbone is 'vit_small_"),
        (VIT, 224, {"depth": 3}, r"missing, such as blocks\.2\..*\(they are of a backbone with {'depth': 2"),
        (VIT, 224, {"depth": 1}, r"too many, such as blocks\.1\."),
        (VIT, 224, {"depth": 2, "embed_dim": 96, "num_heads": 3}, r"cls_token has the shape \[1, 1, 192\] instead of"),
        (VIT, 150, {"depth": 2}, "does not divide the image size"),
    ],
)
def test_weights_of_a_vit_that_do_not_fit_are_refused_in_a_sentence(
    tmp_path: Path, name: str, image_size: int, settings: dict[str, Any], message: str
) -> None:
    timm_folder(tmp_path, VIT, depth=2)
    with pytest.raises(ValueError, match=message):
        initial.initialised(name, image_size, initial.read(tmp_path, name), **settings)


def test_a_resnet_says_which_image_size_its_stem_is_for(tmp_path: Path) -> None:
    own_folder(tmp_path / "small", image_size=64)
    small = initial.read(tmp_path / "small", "resnet18")
    with pytest.raises(ValueError, match=r"stem .* reduces images by 2, .* 32 pixels by 1: .* to 64 to 127 pixels"):
        initial.initialised("resnet18", 32, small, **SMALL)
    initial.initialised("resnet18", 96, small, **SMALL)
    timm_folder(tmp_path / "timm", "resnet18", **SMALL)
    for path in (tmp_path / "timm", tmp_path / "bare.safetensors"):
        if path.suffix:
            (tmp_path / "timm" / "model.safetensors").rename(path)
        large = initial.read(path, "resnet18")
        with pytest.raises(ValueError, match=r"by 4, .* 32 pixels by 1: .* 128 pixels or more, or fit_stem to false"):
            initial.initialised("resnet18", 32, large, **SMALL)
        kept: Any = initial.initialised("resnet18", 32, large, **SMALL, fit_stem=False)
        assert kept.conv1.kernel_size == (7, 7) and torch.equal(kept.conv1.weight, large.state["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "gone.safetensors", "no file or folder .*: correct the path"),
        (b"text", "text.safetensors", "cannot be read as safetensors"),
        (b"text", "text.pth", "is damaged, or was not written by torch.save: copy it again"),
        (b"", "empty.pt", "is empty: copy it again"),
        (b"", "empty.safetensors", "is empty: copy it again"),
        (b"text", "weights.npz", "no file of weights"),
        ({"architecture": 3}, "model/config.json", "does not describe a timm model"),
        ({}, "folder/other.json", "none of backbone.json, model.safetensors, pytorch_model.bin: name a"),
    ],
)
def test_files_without_weights_are_refused(tmp_path: Path, content: Any, name: str, message: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
        if path.name == "config.json":
            save_file({"a": torch.zeros(1)}, path.with_name("model.safetensors"))
        path = path.parent
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        initial.read(path, "resnet18")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return sys.exit, (3,)

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match="plain tensors"):
        initial.read(tmp_path / "hostile.pth", "resnet18")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            nn.Linear(1, 1),
            r"objects such as torch\.nn\.\S*\.Linear instead of plain tensors by name: write",
        ),
        ({"state_dict": {}, "optimizer": torch.optim.SGD}, r"objects such as torch\.optim\.sgd\.SGD instead of"),
        ([torch.zeros(1)], "holds a list instead of plain tensors by name: write"),
        (torch.zeros(1), "holds a Tensor instead of plain tensors by name: write"),
        ({"conv1.weight": torch.zeros(1), "epoch": 3}, "more than tensors by name, a int as 'epoch': write"),
        ({}, "holds no tensors: give the state dict"),
    ],
)
def test_a_pickle_without_a_state_dict_is_refused_for_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "given.pt")
    with pytest.raises(ValueError, match=message) as refused:
        initial.read(tmp_path / "given.pt", "resnet18")
    assert "\n" not in str(refused.value)


def test_a_damaged_archive_and_a_torchscript_archive_are_told_apart(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:500])
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    for name, message in (("cut.pt", "is damaged.*copy it again"), ("script.pt", "holds a TorchScript archive.*write")):
        with pytest.raises(ValueError, match=message):
            initial.read(tmp_path / name, "resnet18")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    state = create_backbone("resnet18", 32, **SMALL).state_dict()
    torch.save(state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(dtype)}, tmp_path / "given.pt")
    weights = initial.read(tmp_path / "given.pt", "resnet18")
    with pytest.raises(ValueError, match=rf"layer1\.0\.conv1\.weight .* is of {dtype}, which is no float.*: give"):
        initial.initialised("resnet18", 32, weights, **SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_any_floating_point_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    state = create_backbone("resnet18", 32, **SMALL).state_dict()
    state["conv1.weight"] = state["conv1.weight"].to(dtype)
    save_file(state, tmp_path / "given.safetensors")
    weights = initial.read(tmp_path / "given.safetensors", "resnet18")
    built: Any = initial.initialised("resnet18", 32, weights, **SMALL)
    assert torch.equal(built.conv1.weight, state["conv1.weight"].float()) and len(weights.digest) == 16


def renamed(state: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {f"x_{name}_y": value for name, value in state.items()},
            "none of its names, but such as 'x_",
        ),
        (
            lambda state: state | {"more.weight": torch.zeros(1)},
            r"1 of them are too many, such as more\.weight; choose",
        ),
        (
            lambda state: renamed(state, "layer4", "layer5"),
            r"are missing, such as layer4\..*, and \d+ of them are too many, such as layer5\..*; choose the backbone",
        ),
    ],
)
def test_weights_of_another_architecture_are_told_from_those_of_other_settings(
    tmp_path: Path, change: Any, message: str
) -> None:
    save_file(change(create_backbone("resnet18", 32, **SMALL).state_dict()), tmp_path / "given.safetensors")
    with pytest.raises(ValueError, match=message):
        initial.initialised("resnet18", 32, initial.read(tmp_path / "given.safetensors", "resnet18"), **SMALL)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.full((2, 2), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"not all finite numbers, such as conv1\.weight: .* give those of an earlier"):
        initial.read(tmp_path / "nan.safetensors", "resnet18")


def test_the_digest_is_of_the_content_and_not_of_the_path(tmp_path: Path) -> None:
    own_folder(tmp_path / "one")
    own_folder(tmp_path / "another")
    one, another = (initial.read(tmp_path / name, "resnet18") for name in ("one", "another"))
    assert one.digest == another.digest
    state = dict(one.state) | {"bn1.bias": one.state["bn1.bias"] + 1e-3}
    assert Weights("", state, mean=one.mean, std=one.std).digest != one.digest
    assert Weights("", one.state, mean=(0.5,) * 3, std=one.std).digest != one.digest, "another normalisation"
    halves = {name: value.bfloat16() for name, value in one.state.items() if value.is_floating_point()}
    assert Weights("", halves).digest != Weights("", {k: v.float() for k, v in halves.items()}).digest


def test_published_weights_are_fetched_when_asked_and_from_the_cache_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm_folder(tmp_path, "resnet10t")
    file, asked = tmp_path / "model.safetensors", []

    def cached(repository: str, name: str, **_: Any) -> str | None:
        asked.append(repository)
        return str(file) if name == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("the network was asked"))
    cut = {k: v for k, v in timm.models.load_state_dict(str(file)).items() if not k.startswith("fc.")}
    save_file(cut | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, file)
    assert initial.is_cached("resnet10t")
    weights = initial.read("pretrained", "resnet10t", fetch=False)
    assert asked == ["timm/resnet10t.c3_in1k"] * 2
    assert torch.equal(weights.state["conv1.0.weight"], cut["conv1.0.weight"])
    assert weights.mean == pytest.approx((0.485, 0.456, 0.406)) and "fc.weight" not in weights.state


def test_without_a_network_one_sentence_says_how_to_get_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(initial, "_cached", lambda known: None)
    with pytest.raises(ValueError, match=r"^The published weights of 'resnet18' are not in the cache\.$"):
        initial.read("pretrained", "resnet18", fetch=False)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"cannot be fetched \(Name or .* more\): run it once with .*HF_HOME"):
        initial.read("pretrained", "resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224.nonsense", r"choose one of vit_tiny_patch16_224\.augreg_in21k"),
        ("resnet81", "publishes no weights for 'resnet81': choose another"),
    ],
)
def test_a_model_without_published_weights_is_answered_with_those_that_have_some(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initial.read("pretrained", name)


def test_without_weights_that_say_so_the_normalisation_is_cifars() -> None:
    assert Augment.of(create_backbone("resnet18", 32, **SMALL)).mean.flatten().tolist() == pytest.approx(CIFAR_MEAN)
