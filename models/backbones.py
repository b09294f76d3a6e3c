"""Backbones, from timm with a stem adapted to small images or of the user's own, and their files on disk."""

import difflib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from timm.models import is_model_in_modules
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from infoaug.models import own_code

WEIGHTS_FILE = "backbone.safetensors"
RECIPE_FILE = "backbone.json"
# Far more than a recipe needs. Without limits, a hostile recipe could cost minutes or all memory before its weights are
# compared.
_LONGEST_RECIPE, _LARGEST_SUM = 1 << 16, 100_000


@dataclass(frozen=True)
class Recipe:
    """How timm rebuilds a backbone, and how the pixels of its input are normalised.

    `name`: timm model name, or `module:Class`; `image_size`: pixels; `kwargs`: further arguments of timm, or of the
    class; `num_features`: length of a feature vector; `mean`, `std`: per channel, of pixels in 0–1, None until the
    backbone is saved or given weights that say so.
    """

    name: str
    image_size: int
    kwargs: dict[str, Any]
    num_features: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def timm_kwargs(self) -> dict[str, Any]:
        """The arguments that timm takes itself."""
        return {key: value for key, value in self.kwargs.items() if key != "fit_stem"}

    def to_json(self) -> str:
        """The recipe as text. Raises TypeError for arguments that JSON does not have."""
        return json.dumps(asdict(self), indent=2)


def create_backbone(name: str, image_size: int, /, **kwargs: Any) -> nn.Module:
    """Build an untrained model: images f32[B, 3, image_size, image_size] to features f32[B, num_features].

    ResNets keep at least 4×4 positions in the last stage: the stem reduces by 4 (timm's own), 2 (3×3 convolution of
    stride 2, no max-pool) or 1 (stride 1, no max-pool). Below 128 pixels ViTs get the patch size that gives 8×8 tokens.
    Other families are built as timm builds them, and for `image_size` where timm builds them for another size that they
    depend on. `kwargs` are passed to timm (`layers`, `channels`, `patch_size`, …) and take precedence; with
    `fit_stem=False` a ResNet keeps timm's own stem, which published weights are of. The result has `.num_features` and
    `.recipe` (`Recipe`). Nothing is downloaded.

    `name` is timm's, or `module:Class` for a class of the user's own, a `torch.nn.Module` with an integer
    `num_features`. It is called as `Class(image_size=…, **kwargs)`; `own_code` says where its module is looked for.

    Raises ValueError for an unknown name, an image size that does not fit, or arguments that are refused.
    """
    model = _build(name, image_size, kwargs)
    if own_code.is_own(name):
        return model
    if "img_size" in kwargs or (isinstance(model, VisionTransformer) and model.patch_embed.img_size[0] == image_size):
        return model
    if takes(model, "img_size") and not _runs(model, image_size, kwargs.get("in_chans", 3)):
        model = _build(name, image_size, {**kwargs, "img_size": image_size})
        _check_tokens(model, name)
    return model


def _build(name: str, image_size: int, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model as its recipe says: see `create_backbone`."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size must be an integer of at least 8 pixels, not {image_size!r}.")
    if own_code.is_own(name):
        return _build_own(name, image_size, kwargs)
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name[:100], timm.list_models(), n=3, cutoff=0.0)
        raise ValueError(f"timm knows no model {name[:100]!r}; the nearest names are {', '.join(nearest)}.")
    if reserved := {"pretrained", "num_classes", "checkpoint_path"} & kwargs.keys():
        raise ValueError(
            f"{', '.join(sorted(reserved))} cannot be set: a backbone has no classifier, and pretrain.init "
            "(infoaug.models.initial in Python) gives it weights."
        )

    fitted = dict(kwargs)
    fit_stem = fitted.pop("fit_stem", True)
    if is_model_in_modules(name, ("vision_transformer", "deit")):
        fitted.setdefault("img_size", image_size)
        if image_size < 128:
            fitted.setdefault("patch_size", image_size // 8)
    try:
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, **fitted)
        # The length of the pooled output: with `catavgmax` pooling, or in MobileNets, timm's num_features is smaller.
        model.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)
    except Exception as error:  # any error that a network raises for arguments that it does not expect
        foreign = "unexpected keyword" in str(error) and bool(kwargs)
        remedy = "; set backbone_settings to what this backbone takes, {} for nothing" if foreign else ""
        raise ValueError(f"timm cannot build {name!r} with {fitted!s:.300}: {short(error)}{remedy}") from error

    if "fit_stem" in kwargs and not (isinstance(model, ResNet) and isinstance(fit_stem, bool)):
        raise ValueError(f"fit_stem is true or false, and for ResNets only: {name!r} cannot take {fit_stem!r:.60}.")
    if isinstance(model, ResNet):
        _fit_resnet_stem(model, name, stem_reduction(image_size, kwargs))
    elif isinstance(model, VisionTransformer):
        _check_tokens(model, name)
    model.recipe = Recipe(name, image_size, dict(kwargs), model.num_features)
    return model


def _build_own(name: str, image_size: int, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model of the user's own class: see `create_backbone`."""
    kind = own_code.load(name, nn.Module)
    _check_arguments(kind, name, kwargs)
    unfinished = f"{name!r} is no complete module: call super().__init__() first in its __init__."
    try:
        model: Any = kind(image_size=image_size, **kwargs)
    except (Exception, SystemExit) as error:  # the code may raise anything
        if "Module.__init__() call" in str(error):
            raise ValueError(unfinished) from error
        why = f"{type(error).__name__}: {short(error)}{own_code.place(error)}"
        raise ValueError(
            f"{name!r} cannot be built with image_size={image_size} and {kwargs!s:.300} ({why}): correct its code or "
            "its settings."
        ) from error
    if "_modules" not in vars(model):
        raise ValueError(unfinished)
    features = getattr(model, "num_features", None)
    if not isinstance(features, int) or features < 1:
        raise ValueError(f"{name!r} needs an integer num_features, the length of its feature vectors.")
    model.recipe = Recipe(name, image_size, dict(kwargs), features)
    return model


def _check_arguments(kind: type[nn.Module], name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that a class of the user's own does not take, and those that it lacks."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # of a class that is not written in Python
        return
    takes = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    others = [key for key in takes if key != "image_size"]
    if not any(each.kind == each.VAR_KEYWORD for each in parameters):
        if "image_size" not in takes:
            raise ValueError(f"{name!r} must take image_size, the side of its images in pixels, in its __init__.")
        if unknown := [key for key in kwargs if key not in takes]:
            remedy = f"; it takes {', '.join(others)}" if others else ""
            raise ValueError(
                f"{name!r} does not take {', '.join(map(repr, unknown))}: set pretrain.backbone_settings={{}} (in "
                f"Python, pass no such keyword){remedy}."
            )
    if lacking := [key for key in others if takes[key].default is inspect.Parameter.empty and key not in kwargs]:
        raise ValueError(
            f"{name!r} needs {', '.join(map(repr, lacking))}: give it in pretrain.backbone_settings (in Python, as a "
            "keyword)."
        )


def stem_reduction(image_size: int, kwargs: Mapping[str, Any]) -> int:
    """By how much the stem of a ResNet reduces an image in both directions: 1, 2, or timm's own 4."""
    if not kwargs.get("fit_stem", True):
        return 4
    return max((r for r in (1, 2, 4) if image_size >= 4 * 8 * r), default=1)


def _fit_resnet_stem(model: Any, name: str, reduction: int) -> None:
    """Replace stem convolution and max-pool in place, so that the last stage keeps at least 4×4 positions."""
    if reduction == 4:
        return
    first = model.conv1
    if isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d):  # deep stem: its 3×3 convolutions stay
        first[0].stride = (reduction, reduction)
    elif isinstance(first, nn.Conv2d):
        model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=reduction, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        raise ValueError(f"The stem of {name!r} cannot be fitted to small images; choose another ResNet.")
    model.maxpool = nn.Identity()


def takes(model: nn.Module, argument: str) -> bool:
    """Whether timm can build the model's family with an argument, such as `img_size`."""
    inits = filter(None, (vars(kind).get("__init__") for kind in type(model).__mro__))
    return any(argument in inspect.signature(init).parameters for init in inits)


def _runs(model: nn.Module, image_size: int, channels: int) -> bool:
    """Whether an untrained model takes images of this size."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, image_size, image_size, device=next(model.parameters()).device))
    except Exception:  # any error that a network raises for a size that it does not expect
        return False
    finally:
        model.train()
    return True


def _check_tokens(model: Any, name: str) -> None:
    """Refuse a patch size that does not divide the image size: pixels at the border would be ignored."""
    if not all(hasattr(getattr(model, "patch_embed", None), side) for side in ("img_size", "patch_size")):
        return
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
        text = recipe.to_json()
    except TypeError as error:
        raise ValueError(f"The arguments {recipe.kwargs} cannot be written as JSON; give layers by name.") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, description = folder / (WEIGHTS_FILE + ".part"), folder / (RECIPE_FILE + ".part")
    save_model(backbone, str(weights))
    description.write_text(text + "\n", encoding="utf-8")
    weights.replace(folder / WEIGHTS_FILE)
    description.replace(folder / RECIPE_FILE)
    return folder


def load_backbone(path: str | Path, *, own: str = "") -> nn.Module:
    """Rebuild the backbone saved in a folder (or beside one of its two files), in eval mode on the CPU.

    Its `.recipe` carries the `mean` and `std` it expects. Nothing is unpickled, and nothing is built that is larger
    than the file of its weights can fill. A backbone of its author's own class, `module:Class`, is built only if `own`
    names that class, because a file must not choose the code that runs. Raises ValueError if a file is missing or
    broken, if the weights are no finite numbers, if this timm builds another architecture under the same name, or for a
    class that `own` does not name.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in (folder / RECIPE_FILE, folder / WEIGHTS_FILE):
        if not file.is_file():
            raise ValueError(f"There is no saved backbone at {str(path)!r}: {file.name} is missing.")
    try:
        with (folder / RECIPE_FILE).open("rb") as opened:
            recipe = read_recipe(opened.read(_LONGEST_RECIPE + 1))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(folder / RECIPE_FILE)!r} does not describe a backbone: {short(error)}") from error
    if own_code.is_own(recipe.name):
        if recipe.name != own:
            raise ValueError(
                f"The backbone in {str(folder)!r} is built by code of its author's own, {recipe.name[:100]!r}, which "
                f"runs only if you name it: own='module:Class' in Python, pretrain.backbone in a config."
            )
        misfit = f"The weights in {str(folder)!r} do not fit {recipe.name!r}"
    else:
        misfit = f"The weights in {str(folder)!r} do not fit {recipe.name!r} of timm {timm.__version__}"
        with torch.device("meta"):  # only shapes, no memory
            shapes = _build(recipe.name, recipe.image_size, recipe.kwargs).state_dict()
        size = (folder / WEIGHTS_FILE).stat().st_size
        if (needed := sum(value.numel() for value in shapes.values())) > size:
            raise ValueError(f"{misfit}: {needed} numbers cannot be in {size} bytes.")
    backbone = _build(recipe.name, recipe.image_size, recipe.kwargs)
    try:
        load_model(backbone, folder / WEIGHTS_FILE)
    except (RuntimeError, SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{misfit}.") from error
    if not all(value.isfinite().all() for value in backbone.state_dict().values()):
        raise ValueError(
            f"The weights in {str(folder)!r} are not all finite numbers; train it again, or copy it again."
        )
    backbone.recipe = recipe  # type: ignore[assignment]  # a plain attribute, not a submodule
    return backbone.eval()


def read_recipe(content: str | bytes) -> Recipe:
    """Read a recipe that `Recipe.to_json` wrote.

    Raises ValueError, TypeError, AttributeError or RecursionError if the text is not a recipe.
    """
    if len(content) > _LONGEST_RECIPE:
        raise ValueError(f"it has more than {_LONGEST_RECIPE} bytes")
    recipe = Recipe(**{key: _tuples(value) for key, value in json.loads(content).items()})
    if not isinstance(recipe.name, str) or not isinstance(recipe.kwargs, dict):
        raise ValueError("name must be a text and kwargs a mapping")
    if sum(_sizes([recipe.image_size, recipe.kwargs])) > _LARGEST_SUM:
        raise ValueError("its numbers are too large for a network")
    given = [values for values in (recipe.mean, recipe.std) if values is not None]
    if not all(isinstance(value, float) and math.isfinite(value) for values in given for value in values):
        raise ValueError("mean and std must be finite numbers")
    if len({len(values) for values in given}) > 1 or not all(recipe.std or (1.0,)):
        raise ValueError("mean and std must be of the same channels, and std not 0")
    return recipe


def _sizes(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, as sizes."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _sizes(inner)
    elif isinstance(value, int | float):
        yield abs(value)


def short(error: BaseException) -> str:
    """The beginning of an error message, on one printable line."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _tuples(value: Any) -> Any:
    """Turn JSON's lists back into the tuples that timm's signatures expect."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
