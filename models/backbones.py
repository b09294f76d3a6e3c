"""Backbones from timm with the stem fitted to small images, and their files on disk."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from timm.models import is_model_in_modules
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

WEIGHTS_FILE = "backbone.safetensors"
RECIPE_FILE = "backbone.json"


@dataclass(frozen=True)
class Recipe:
    """What timm needs to build a backbone again, and how its input pixels are normalised.

    `name`: timm model name; `image_size`: pixels; `kwargs`: what else went to timm; `num_features`: length of a feature
    vector; `mean`, `std`: per channel, of pixels in 0–1, None until the backbone is saved.
    """

    name: str
    image_size: int
    kwargs: dict[str, Any]
    num_features: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def create_backbone(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    """Build an untrained timm model: images f32[B, 3, image_size, image_size] to features f32[B, num_features].

    ResNets keep at least 4×4 positions in the last stage: the stem reduces by 4 (timm's own), 2 (3×3 convolution of
    stride 2, no max-pool) or 1 (stride 1, no max-pool). Below 128 pixels ViTs get the patch size that gives 8×8 tokens.
    Other families are built as timm builds them. `kwargs` go to timm (`layers`, `channels`, `patch_size`, …) and win
    over what is fitted here. The result carries `.num_features` and `.recipe` (`Recipe`). Nothing is downloaded.

    Raises ValueError for an unknown name, an image size that does not fit, or arguments that timm refuses.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size must be an integer of at least 8 pixels, not {image_size!r}.")
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise ValueError(f"timm knows no model {name!r}; the nearest names are {', '.join(nearest)}.")
    if reserved := {"pretrained", "num_classes"} & kwargs.keys():
        raise ValueError(
            f"{', '.join(sorted(reserved))} cannot be set: a backbone starts untrained and has no classifier."
        )

    fitted = dict(kwargs)
    if is_model_in_modules(name, ("vision_transformer", "deit")):
        fitted.setdefault("img_size", image_size)
        if image_size < 128:
            fitted.setdefault("patch_size", image_size // 8)
    try:
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, **fitted)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"timm cannot build {name!r} with {fitted}: {error}") from error

    if isinstance(model, ResNet):
        _fit_resnet_stem(model, name, image_size)
    elif isinstance(model, VisionTransformer):
        _check_tokens(model, name)
    # What the pooled output really has: with `catavgmax` pooling, or in MobileNets, timm's num_features is shorter.
    model.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)
    model.recipe = Recipe(name, image_size, dict(kwargs), model.num_features)
    return model


def _fit_resnet_stem(model: Any, name: str, image_size: int) -> None:
    """Replace stem convolution and max-pool in place, so that the last stage keeps at least 4×4 positions."""
    reduction = max((r for r in (1, 2, 4) if image_size >= 4 * 8 * r), default=1)
    if reduction == 4:
        return
    first = model.conv1
    if isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d):  # deep stem: its 3×3 convolutions stay
        first[0].stride = (reduction, reduction)
    elif isinstance(first, nn.Conv2d):
        model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=reduction, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        raise ValueError(f"The stem of {name!r} cannot be fitted to {image_size} pixels; choose another ResNet.")
    model.maxpool = nn.Identity()


def _check_tokens(model: Any, name: str) -> None:
    """Refuse a patch size that would leave pixels at the border unseen."""
    sides = zip(model.patch_embed.img_size, model.patch_embed.patch_size, strict=True)
    if any(pixels % patch for pixels, patch in sides):
        raise ValueError(
            f"The patch size {model.patch_embed.patch_size} of {name!r} does not divide the image size "
            f"{model.patch_embed.img_size}; choose another image size or pass patch_size."
        )


def save_backbone(backbone: nn.Module, folder: str | Path, *, mean: Sequence[float], std: Sequence[float]) -> Path:
    """Write `backbone.safetensors` and `backbone.json` into `folder` (made if missing) and return the folder.

    `mean` and `std` are the per-channel normalisation of pixels in 0–1 that the backbone was trained with. The JSON is
    moved into place last, so a folder that holds it is complete. Raises ValueError if the backbone was not made by
    `create_backbone` or its timm arguments cannot be written as JSON.
    """
    recipe = getattr(backbone, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(
            "Only a backbone made by create_backbone can be saved; unwrap it from DDP or a framework first."
        )
    recipe = replace(recipe, mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    try:
        text = json.dumps(asdict(recipe), indent=2)
    except TypeError as error:
        raise ValueError(
            f"The timm arguments {recipe.kwargs} cannot be written as JSON; give layers by name."
        ) from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, description = folder / (WEIGHTS_FILE + ".part"), folder / (RECIPE_FILE + ".part")
    save_model(backbone, str(weights))
    description.write_text(text + "\n", encoding="utf-8")
    weights.replace(folder / WEIGHTS_FILE)
    description.replace(folder / RECIPE_FILE)
    return folder


def load_backbone(path: str | Path) -> nn.Module:
    """Rebuild the backbone saved in a folder (or beside one of its two files), in eval mode on the CPU.

    Its `.recipe` carries the `mean` and `std` it expects. Nothing is unpickled. Raises ValueError if a file is missing
    or broken, or if this timm builds another architecture under the same name.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in (folder / RECIPE_FILE, folder / WEIGHTS_FILE):
        if not file.is_file():
            raise ValueError(f"There is no saved backbone at {str(path)!r}: {file.name} is missing.")
    try:
        stored = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        recipe = Recipe(**{key: _tuples(value) for key, value in stored.items()})
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(folder / RECIPE_FILE)!r} does not describe a backbone: {error}") from error
    backbone = create_backbone(recipe.name, recipe.image_size, **recipe.kwargs)
    try:
        load_model(backbone, folder / WEIGHTS_FILE)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The weights in {str(folder)!r} do not fit {recipe.name!r} of timm {timm.__version__}."
        ) from error
    backbone.recipe = recipe  # type: ignore[assignment]  # a plain attribute, not a submodule
    return backbone.eval()


def _tuples(value: Any) -> Any:
    """Give JSON's lists back as the tuples that timm's signatures name."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
