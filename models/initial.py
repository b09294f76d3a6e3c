"""Weights to start a training from: published ones, a file's, or an earlier training's, fitted to a new backbone."""

import hashlib
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import load_state_dict
from timm.models.resnet import ResNet
from torch import Tensor, nn

from infoaug.models.backbones import (
    RECIPE_FILE,
    WEIGHTS_FILE,
    Recipe,
    create_backbone,
    load_backbone,
    read_recipe,
    short,
    stem_reduction,
)

PUBLISHED = "pretrained"  # names the published weights of the backbone
_TIMM_WEIGHTS, _TIMM_CONFIG = ("model.safetensors", "pytorch_model.bin"), "config.json"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")  # of files of weights
FILES = (RECIPE_FILE, WEIGHTS_FILE, *_TIMM_WEIGHTS, _TIMM_CONFIG, "load.py")  # what a folder of weights may hold
_NORMALISATION = ("mean", "std")
_SIZES = ("num_classes", "in_chans", "img_size")  # arguments of timm that need not be the same


@dataclass(frozen=True)
class Weights:
    """The weights of a backbone, and what is known of where they are from.

    Attributes:
        source: what they are called in messages.
        state: tensors by name.
        name: timm's name of the architecture; empty if unknown.
        image_size: pixels that they were trained with; None if unknown.
        settings: the arguments of timm that they were built with; None if unknown.
        stem_reduction: of a ResNet, by how much its stem reduces an image; None if unknown.
        mean, std: the normalisation of pixels in 0–1 that they were trained with, by channel; None if unknown.
    """

    source: str
    state: Mapping[str, Tensor]
    name: str = ""
    image_size: int | None = None
    settings: Mapping[str, Any] | None = None
    stem_reduction: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def digest(self) -> str:
        """Identifies the tensors and their normalisation, wherever they lie: 16 hexadecimal digits."""
        sha = hashlib.sha256(repr((self.mean, self.std)).encode())
        for name, value in sorted(self.state.items()):
            sha.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            content: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            sha.update(content)
        return sha.hexdigest()[:16]


def read(source: str | Path, name: str, *, fetch: bool = True) -> Weights:
    """Read weights to start from. Nothing is unpickled but tensors.

    Args:
        source: `pretrained` for the weights that timm publishes for the backbone; a folder that holds a saved backbone
            (`backbone.json`), an export, or a model as timm's `local-dir:` loads it (`config.json`); or a file,
            `.safetensors`, or `.pt`, `.pth`, `.bin` with a state dict.
        name: the backbone, timm's name or `module:Class`. Where the source does not say its normalisation, it is that
            of the weights that timm publishes under this name.
        fetch: download published weights that are not in the cache.

    Raises:
        ValueError: there are no such weights, they cannot be read or fetched, or they are no finite numbers.
    """
    if str(source) == PUBLISHED:
        weights = _published(name, fetch)
    else:
        path = Path(str(source).removeprefix("local-dir:")).expanduser()
        if path.name in (WEIGHTS_FILE, RECIPE_FILE) and path.with_name(RECIPE_FILE).is_file():
            path = path.parent
        if path.name in (*_TIMM_WEIGHTS, _TIMM_CONFIG) and path.with_name(_TIMM_CONFIG).is_file():
            path = path.parent
        weights = _from_folder(path, name) if path.is_dir() else _from_file(path, name)
    if not weights.state:
        raise ValueError(f"{weights.source} holds no tensors: give the state dict of a model.")
    for key, value in weights.state.items():
        # Numbers of one byte have no test of their own.
        if value.is_floating_point() and not (value.float() if value.itemsize == 1 else value).isfinite().all():
            raise ValueError(
                f"The weights of {weights.source} are not all finite numbers, such as {key:.100}: their training has "
                "failed, so give those of an earlier epoch."
            )
    return weights


def of_backbone(backbone: nn.Module, source: str) -> Weights:
    """The weights of a backbone that `create_backbone` built or `load_backbone` read, by reference."""
    recipe: Any = backbone.recipe
    return Weights(source, backbone.state_dict(), **_described(recipe))


def initialised(name: str, image_size: int, weights: Weights, /, **kwargs: Any) -> nn.Module:
    """Build a backbone as `create_backbone` does, with these weights instead of random ones.

    Patch embeddings and position embeddings of ViTs are resampled to the patch size and image size of the backbone, by
    timm. All other weights must have the shapes of the backbone's; classifiers are left out. The backbone's `recipe`
    has the normalisation of the weights.

    Raises:
        ValueError: another architecture, shape or stem, weights that are missing or too many, or no floating point.
    """
    if weights.name and _base(weights.name) != _base(name):
        raise ValueError(
            f"The weights of {weights.source} are of {weights.name!r}, the backbone is {name!r}: choose the one or "
            "the other."
        )
    backbone: Any = create_backbone(name, image_size, **kwargs)
    state = _fitted(backbone, weights)
    _check_stem(backbone, state, weights)
    _check(backbone, state, weights)
    backbone.load_state_dict(state, strict=False)  # only counts of batches may be missing
    backbone.recipe = replace(backbone.recipe, mean=weights.mean, std=weights.std)
    return backbone


def is_cached(name: str) -> bool:
    """Whether the weights that timm publishes under a name are in this machine's cache."""
    known = _known(name)
    return known is not None and _cached(known) is not None


def _published(name: str, fetch: bool) -> Weights:
    known = _known(name)
    if known is None or not known.has_weights:
        tagged = [f"{_base(name)}.{tag}" for tag in _tags(name)]
        remedy = f"choose one of {', '.join(tagged[:5])}" if tagged else "choose another backbone, or give a file"
        raise ValueError(f"timm publishes no weights for {name!r:.100}: {remedy}.")
    overlay: dict[str, Any] = {}
    if (cached := _cached(known)) is not None:
        overlay = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": cached.suffix == ".npz"}}
    elif not fetch:
        raise ValueError(f"The published weights of {name!r} are not in the cache.")
    try:
        with torch.random.fork_rng(devices=[]):
            model: Any = timm.create_model(name, pretrained=True, num_classes=0, **overlay)
    except Exception as error:  # of the network, of the file system, of timm: each has its own
        why = short(error).partition(". ")[0]
        raise ValueError(
            f"The published weights of {name!r} are not in the cache and cannot be fetched ({why:.160}): run "
            "it once with a network, copy the cache of a machine that has them (HF_HOME, TORCH_HOME), or give a file."
        ) from error
    return Weights(f"timm's {name!r}", model.state_dict(), **_of_timm(model.pretrained_cfg, name))


def _known(name: str) -> Any:
    """timm's description of the weights that it publishes under a name; None if it knows no such name."""
    try:
        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the architecture has no weights of this tag
        return None


def _cached(known: Any) -> Path | None:
    """The file of published weights in the cache of Hugging Face or of torch.hub. Asks no server."""
    if known.hf_hub_id:
        repository, _, revision = known.hf_hub_id.partition("@")
        names = [known.hf_hub_filename] if known.hf_hub_filename else _TIMM_WEIGHTS
        for file in names:
            found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if known.url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(known.url).name
        return file if file.is_file() else None
    return None


def _tags(name: str) -> list[str]:
    """The tags of an architecture that has published weights under them."""
    base = _base(name)
    found = timm.list_models(f"{base}.*", pretrained=True) if timm.is_model(base) else []
    return [model.partition(".")[2] for model in found]


def _from_folder(folder: Path, name: str) -> Weights:
    if (folder / RECIPE_FILE).is_file():
        return of_backbone(load_backbone(folder, own=name), f"'{folder}'")
    file = next((folder / name for name in _TIMM_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ValueError(
            f"There are no weights in the folder '{folder}', which has none of "
            f"{', '.join((RECIPE_FILE, *_TIMM_WEIGHTS))}: name a folder that has one, or a file of weights."
        )
    weights = _from_file(file, "")
    if (folder / _TIMM_CONFIG).is_file():
        try:
            config = json.loads((folder / _TIMM_CONFIG).read_bytes())
            known = _of_timm(config.get("pretrained_cfg", config), str(config["architecture"]))
            settings = dict(config.get("model_args", {}))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(f"'{folder / _TIMM_CONFIG}' does not describe a timm model: {short(error)}.") from error
        return replace(weights, source=f"'{folder}'", settings=settings, **known)
    return weights


def _from_file(path: Path, name: str) -> Weights:
    if not path.is_file():
        raise ValueError(f"There is no file or folder '{path}' with weights: correct the path.")
    if not path.stat().st_size:
        raise ValueError(f"'{path}' is empty: copy it again.")
    source, known = f"'{path}'", _known(name)
    if path.suffix == ".safetensors":
        state = _tensors(path)
        if (recipe := _recipe_in(path)) is not None:
            return Weights(source, state, **_described(recipe))
        if path.name == _TIMM_WEIGHTS[0] and path.with_name("load.py").is_file():
            raise ValueError(f"{source} was exported by an earlier infoaug: export it again.")
    elif path.suffix in SUFFIXES:
        state = _unpickled(path)
    else:
        raise ValueError(f"{source} is no file of weights: give one of {', '.join(SUFFIXES)}, or a folder.")
    return Weights(source, state, mean=known and tuple(known.mean), std=known and tuple(known.std))


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a file that `torch.save` wrote, also within a checkpoint as timm knows it."""
    advice = "write torch.save(model.state_dict(), file) where the model is, and give that file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which torch adds to its errors
            state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # a pickle with code, a damaged archive, a text: each has its own error
        what = _content(path)
        if not what:
            raise ValueError(
                f"'{path}' is damaged, or was not written by torch.save: copy it again, or give the right file."
            ) from error
        raise ValueError(f"'{path}' holds {what} instead of plain tensors by name: {advice}.") from error
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"'{path}' holds more than tensors by name, a {type(state[odd[0]]).__name__} as {odd[0]!r:.60}: {advice}."
        )
    return state


def _content(path: Path) -> str:
    """What a file of torch's holds that is no state dict; empty if it cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "TorchScript" in str(error):
            return "a TorchScript archive"
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80" or zipfile.is_zipfile(path)
        if not (pickled and isinstance(error, UnpicklingError)):
            return ""
        found = re.search(r"GLOBAL ([\w.]+) was not", str(error))
        return f"objects such as {found[1]:.100}" if found else "objects"
    return f"a {type(content).__name__}"


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"'{path}' cannot be read as safetensors: {short(error)}.") from error


def _recipe_in(path: Path) -> Recipe | None:
    """The recipe in the metadata of an export's weights."""
    try:
        with safe_open(str(path), "pt") as opened:
            written = (opened.metadata() or {}).get("recipe")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{path}' cannot be read as safetensors: {short(error)}.") from error
    if not written:
        return None
    try:
        return read_recipe(written)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"The metadata of '{path}' do not describe a backbone: {short(error)}.") from error


def _described(recipe: Recipe) -> dict[str, Any]:
    known = {name: getattr(recipe, name) for name in ("name", "image_size", *_NORMALISATION)}
    return known | {"settings": recipe.kwargs, "stem_reduction": stem_reduction(recipe.image_size, recipe.kwargs)}


def _of_timm(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What timm's description of published weights says."""
    normalisation = {key: tuple(map(float, config[key])) for key in _NORMALISATION}
    return {"name": name, "image_size": int(config["input_size"][-1]), "stem_reduction": 4, **normalisation}


def _fitted(backbone: Any, weights: Weights) -> dict[str, Tensor]:
    """The weights as the backbone names and sizes them, without classifiers."""
    longest = max(backbone.state_dict(), key=len)
    prefixes = [key.removesuffix(longest) for key in weights.state if key.endswith(longest)]
    if len(prefixes) > 1 and "" not in prefixes:
        raise ValueError(
            f"{weights.source} holds the weights of several networks ({', '.join(sorted(prefixes)[:4])}): give those "
            "of one."
        )
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    state = {key.removeprefix(prefix): value for key, value in weights.state.items() if key.startswith(prefix)}
    wanted = backbone.state_dict()
    for key, value in wanted.items():
        if key in state and value.is_floating_point() and not state[key].is_floating_point():
            raise ValueError(
                f"{key:.100} of the weights of {weights.source} is of {state[key].dtype}, which is no floating point: "
                "give the weights from before they were quantised or converted."
            )
    # By a convention of timm, the function that adapts weights of a family to a model's sizes.
    fit: Callable[..., Any] | None = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if fit is not None:
        try:
            state = fit(state, backbone)
        except Exception as error:  # any error that it raises for names and shapes that it does not expect
            raise ValueError(f"The weights of {weights.source} do not fit the backbone: {short(error)}.") from error
    classifiers = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifiers] if isinstance(classifiers, str) else classifiers))
    return {key: value for key, value in state.items() if not key.startswith(heads)} if heads else state


def _check_stem(backbone: Any, state: Mapping[str, Tensor], weights: Weights) -> None:
    """Refuse weights of a ResNet whose stem reduces images by another factor, which their shapes do not always show."""
    if not isinstance(backbone, ResNet):
        return
    recipe: Any = backbone.recipe
    own, theirs = stem_reduction(recipe.image_size, recipe.kwargs), weights.stem_reduction
    first = state.get("conv1.weight")
    if theirs is None and first is not None and first.shape[-1] == 7:  # only timm's own is so large
        theirs = 4
    if theirs is not None and own != theirs:
        sizes = {1: "63 pixels or less", 2: "64 to 127 pixels", 4: "128 pixels or more"}[theirs]
        keep = ", or fit_stem to false in the settings of the backbone" if theirs == 4 else ""
        raise ValueError(
            f"The stem of the weights of {weights.source} reduces images by {theirs}, that of {recipe.name!r} for "
            f"{recipe.image_size} pixels by {own}: set the image size to {sizes}{keep}."
        )


def _check(backbone: Any, state: Mapping[str, Tensor], weights: Weights) -> None:
    """Refuse weights that are missing, too many, or of other shapes."""
    wanted = backbone.state_dict()
    where = f"The weights of {weights.source} do not fit {backbone.recipe.name!r}"
    settings = {key: value for key, value in (weights.settings or {}).items() if key not in _SIZES}
    built = f" (they are of a backbone with {settings!s:.300})" if settings else ""
    for key in wanted.keys() & state.keys():
        if wanted[key].shape != state[key].shape:
            key = next(k for k in wanted if k in state and wanted[k].shape != state[k].shape)  # the first in order
            raise ValueError(
                f"{where}: {key} has the shape {list(state[key].shape)} instead of {list(wanted[key].shape)}; choose "
                f"the backbone, its settings and the image size that they were trained with{built}."
            )
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    if not wanted.keys() & state.keys():
        raise ValueError(
            f"{where}: they have none of its names, but such as {next(iter(state), '')!r:.100}, so they are of another "
            "architecture, or named by another library than timm; choose the backbone that they are of."
        )
    counted = [
        f"{len(keys)} of them {what}, such as {keys[0]:.100}"
        for keys, what in ((missing, "are missing"), (extra, "are too many"))
        if keys
    ]
    if counted:
        raise ValueError(
            f"{where}: {', and '.join(counted)}{built}; choose the backbone and the settings that they were trained "
            "with."
        )


def _base(name: str) -> str:
    """The architecture without the tag of its weights."""
    return name.partition(".")[0]
