"""Export formats: timm, TorchScript and ONNX. Each export is loaded and compared with the original."""

import json
import re
import runpy
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from infoaug.models import own_code
from infoaug.orchestrator.errors import StageError

# The files of each format; the one that is loaded first comes last.
FILES = {
    "timm": ("model.safetensors", "config.json", "load.py"),
    "torchscript": ("backbone.pt",),
    "onnx": ("backbone.onnx",),
}

_LOADER = '''"""Load the backbone beside this file: `load()`. Needs timm and safetensors.

timm's own stem would reduce images of {size} pixels too far. This network has another stem, which no argument of timm
describes. Images f32[B, {channels}, {size}, {size}], pixels in 0–1 less MEAN over STD, to features f32[B, {features}].
"""

from pathlib import Path

import timm
from safetensors.torch import load_file
from torch import nn

MEAN = {mean}
STD = {std}


def load():
    """The backbone with its weights, in eval mode on the CPU."""
    model = timm.create_model({arguments})
    {stem}
    model.maxpool = nn.Identity()
    model.load_state_dict(load_file(Path(__file__).with_name("model.safetensors")))
    return model.eval()
'''


def write(backbone: nn.Module, to: str, folder: Path) -> None:
    """Write a backbone to an empty folder, in one of the formats of `FILES`.

    Args:
        backbone: as `infoaug.models.backbones.load_backbone` returns it, in eval mode, with mean and std in its recipe.
        to: a key of `FILES`.
        folder: the folder to write to.

    Raises:
        StageError: this network cannot be written in this format, or would give other features.
    """
    writers: dict[str, Callable[[Any, Path], None]] = {
        "timm": _to_timm,
        "torchscript": _to_torchscript,
        "onnx": _to_onnx,
    }
    writers[to](backbone, folder)


def loading(backbone: Any, described: Path) -> list[str]:
    """Three lines of Python that load an export, given the last of its files, and compute features."""
    recipe = backbone.recipe
    folder, path = json.dumps(f"local-dir:{described.parent}"), json.dumps(str(described))
    shape = f"f32[B, {_channels(recipe)}, {recipe.image_size}, {recipe.image_size}]"
    pixels, features = f"images: {shape}, pixels in 0–1", f"f32[B, {backbone.num_features}]"
    mean, std = (tuple(float(f"{value:.7g}") for value in values) for values in (recipe.mean, recipe.std))
    normalised = f"{pixels} less {mean} over {std}"
    return {
        "config.json": [
            "import timm",
            f"backbone = timm.create_model({folder}, pretrained=True).eval()",
            f"features = backbone(images)  # {features}; {normalised}",
        ],
        "load.py": [
            "import runpy",
            f'backbone = runpy.run_path({path})["load"]()  # needs timm and safetensors',
            f"features = backbone(images)  # {features}; {normalised}",
        ],
        "backbone.pt": [
            "import torch",
            f"backbone = torch.jit.load({path})",
            f"features = backbone(images)  # {features}; {pixels}",
        ],
        "backbone.onnx": [
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({path})",
            f'(features,) = session.run(None, {{"images": images}})  # {features}; {pixels}',
        ],
    }[described.name]


def _to_timm(backbone: Any, folder: Path) -> None:
    """Write what timm loads from a folder or a hub; for a stem that timm does not know, a short loader."""
    recipe = backbone.recipe
    if own_code.is_own(recipe.name):
        raise StageError(f"timm cannot rebuild '{recipe.name}', which is not its own: export to torchscript or onnx")
    weights = {key: value.contiguous() for key, value in backbone.state_dict().items()}
    try:
        (folder / "model.safetensors").write_bytes(_safetensors(weights, {"format": "pt", "recipe": recipe.to_json()}))
        if isinstance(backbone, ResNet) and isinstance(backbone.maxpool, nn.Identity):
            # No config.json: if only a stride differs, timm would load the weights into a different network.
            (folder / "load.py").write_text(_loader(backbone), encoding="utf-8")
            loaded = runpy.run_path(str(folder / "load.py"))["load"]()
        else:
            described = json.dumps(_description(backbone), indent=2)
            (folder / "config.json").write_text(described + "\n", encoding="utf-8")
            loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise StageError(f"cannot export '{recipe.name}' to timm: {str(error).partition(chr(10))[0]}") from None
    _compare(backbone, loaded, recipe)


def _safetensors(weights: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with the metadata in their order; the library's own order differs from time to time."""
    content = save(weights, metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]) | {"__metadata__": metadata}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def _description(backbone: Any) -> dict[str, Any]:
    """timm's config.json: how to build the network, and the input it was trained with."""
    recipe, known = backbone.recipe, backbone.pretrained_cfg
    arguments = {"num_classes": 0, **recipe.timm_kwargs}
    if isinstance(backbone, VisionTransformer):
        arguments |= {key: getattr(backbone.patch_embed, key) for key in ("img_size", "patch_size")}
    return {
        "architecture": recipe.name.partition(".")[0],
        "num_classes": 0,
        "num_features": backbone.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": (_channels(recipe), recipe.image_size, recipe.image_size),
            "fixed_input_size": known.get("fixed_input_size", False),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": recipe.mean,
            "std": recipe.std,
            "num_classes": 0,
            # With these two timm adapts the weights to other classes and channels.
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }


def _loader(backbone: Any) -> str:
    """load.py: timm's network, with the stem that was used in training."""
    recipe, first = backbone.recipe, backbone.conv1
    if isinstance(first, nn.Sequential):
        stem = f"model.conv1[0].stride = {first[0].stride}"
    else:
        sizes = f"{first.in_channels}, {first.out_channels}, {first.kernel_size[0]}"
        stem = f"model.conv1 = nn.Conv2d({sizes}, stride={first.stride[0]}, padding={first.padding[0]}, bias=False)"
    # Values of the recipe enter the code only as literals, so that a recipe cannot inject code.
    arguments = f"{recipe.name!r}, **{ {'num_classes': 0, **recipe.timm_kwargs}!r}"
    return _LOADER.format(
        size=recipe.image_size, channels=_channels(recipe), features=backbone.num_features, mean=recipe.mean,
        std=recipe.std, arguments=arguments, stem=stem,
    )  # fmt: skip


class _Normalised(nn.Module):
    """A backbone with its normalisation: images f32[B, C, H, W] in 0–1 to features f32[B, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(backbone.recipe, name)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images - self.mean) / self.std)


def _traced(backbone: Any) -> tuple[Any, Tensor]:
    """The backbone with its normalisation as TorchScript, and example images; checked on other batch sizes."""
    model = _Normalised(backbone).eval()
    images = _images(backbone.recipe, 2)
    try:
        with _quiet(), torch.no_grad():
            traced: Any = torch.jit.trace(model, images, check_trace=False)
        _compare(model, traced, backbone.recipe)
    except RuntimeError as error:
        raise StageError(f"'{backbone.recipe.name}' cannot be traced: {str(error).partition(chr(10))[0]}") from None
    return traced, images


def _to_torchscript(backbone: Any, folder: Path) -> None:
    """Write one file for torch.jit.load."""
    traced, _ = _traced(backbone)
    with _quiet():
        torch.jit.save(traced, str(folder / "whole.pt"))
    # For tracebacks, the archive holds the paths of source files on this machine. Loading does not need them.
    with zipfile.ZipFile(folder / "whole.pt") as whole, zipfile.ZipFile(folder / "backbone.pt", "w") as kept:
        for entry in sorted(whole.namelist()):
            if not entry.endswith((".debug_pkl", "/serialization_id")):
                kept.writestr(zipfile.ZipInfo(re.sub("^[^/]+", "backbone", entry)), whole.read(entry))
    with _quiet():
        loaded = torch.jit.load(str(folder / "backbone.pt"))
    _compare(_Normalised(backbone).eval(), loaded, backbone.recipe)


def _to_onnx(backbone: Any, folder: Path) -> None:
    """Write one file for ONNX runtimes: input `images`, output `features`."""
    traced, images = _traced(backbone)
    try:
        # dynamo=False: the older exporter needs no onnxscript and writes no paths of this machine.
        with _quiet():
            torch.onnx.export(
                traced,
                (images,),
                str(folder / "backbone.onnx"),
                input_names=["images"],
                output_names=["features"],
                dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"'{backbone.recipe.name}' cannot be written as ONNX: {reason}") from None


def _channels(recipe: Any) -> int:
    return int(recipe.kwargs.get("in_chans", 3))


def _images(recipe: Any, number: int) -> Tensor:
    size = (number, _channels(recipe), recipe.image_size, recipe.image_size)
    return torch.rand(size, generator=torch.Generator().manual_seed(number))


def _compare(original: nn.Module, loaded: Any, recipe: Any) -> None:
    """Check that an export computes the same features, for one image and for several."""
    with torch.no_grad():
        for number in (1, 3):
            images = _images(recipe, number)
            expected, got = original(images), loaded(images)
            if expected.shape != got.shape or not torch.allclose(expected, got, rtol=1e-4, atol=1e-5):
                raise StageError(f"'{recipe.name}' would give other features in this format: choose another one")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide torch's warnings on TorchScript's deprecation and on values fixed by a trace, which `_compare` checks."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "no signature found")
        yield
