"""The weights that a training starts from, as `pretrain.init` names them.

The command reads them once and leaves them, fitted to the backbone, beside the model on the store, where the workers of
any node find them. A model's identity has the digest of the weights and not where they came from.
"""

from pathlib import Path

import torch
from rich.markup import escape
from torch import nn

from infoaug.models import initial
from infoaug.models.augment import Augment
from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE, load_backbone, save_backbone
from infoaug.models.initial import PUBLISHED, Weights
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import console, scratch
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.settings import one_line
from infoaug.orchestrator.stages import user_code

FOLDER = "initial"  # of a stage

_digests: dict[tuple[object, ...], str] = {}
_checked: set[tuple[object, ...]] = set()


def identity(config: ExperimentConfig) -> dict[str, str]:
    """What of the start of a training belongs to the identity of its model: nothing, for random weights of timm's.

    Returns:
        Digests of the weights in `init`, and in `backbone_code` of the code of a class of the user's own.

    Raises:
        UsageError: as `read`.
    """
    settings = config.pretrain
    found: dict[str, str] = {}
    if settings.init is not None:
        # They are read and hashed once, for as long as their files do not change.
        key = settings.init, settings.backbone, config.tracking.uri, _signature(settings.init)
        if key not in _digests:
            _digests[key] = read(config).digest
        found["init"] = _digests[key]
    return found | user_code.identity(settings.backbone, "backbone_code", "pretrain.backbone")


def is_known(config: ExperimentConfig) -> bool:
    """Whether the weights can be read without downloading them."""
    settings = config.pretrain
    return settings.init != PUBLISHED or initial.is_cached(settings.backbone)


def read(config: ExperimentConfig) -> Weights:
    """Read the weights; published ones are downloaded if they are not in the cache.

    Raises:
        UsageError: there are none, or they cannot be read.
    """
    from infoaug.orchestrator.exporting import export  # which imports the stages

    init, name = str(config.pretrain.init), config.pretrain.backbone
    if not is_known(config):
        console.say(f"pretrain: fetching the published weights of {name}")
    try:
        if init == PUBLISHED or _is_path(init):
            return initial.read(init, name)
        return initial.of_backbone(export.find(init, base=config)[1], f"'{init}'")
    except (ValueError, UsageError, StageError) as error:
        where = "" if init in str(error) else f" '{init}'"
        raise UsageError(one_line(f"pretrain.init{where}: {error}").rstrip(".")) from None


def backbone(config: ExperimentConfig) -> nn.Module | None:
    """The backbone with the weights that the config starts from; None if it starts from random ones.

    Raises:
        UsageError: as `read`, or they do not fit the backbone.
    """
    settings = config.pretrain
    if settings.init is None:
        return None
    weights = read(config)
    try:
        return initial.initialised(settings.backbone, config.extract.image_size, weights, **settings.backbone_settings)
    except ValueError as error:
        raise UsageError(one_line(f"pretrain.init: {error}").rstrip(".")) from None


def check(config: ExperimentConfig) -> None:
    """Check that the backbone can be built with the weights that the config starts from, once for the same of both.

    Raises:
        UsageError: as `backbone`, or its features are not finite.
    """
    described = config.pretrain.model_dump_json(include={"backbone", "backbone_settings"})
    key = described, config.extract.image_size, identity(config)["init"]
    if key in _checked:
        return
    if (built := backbone(config)) is not None:
        size = config.extract.image_size
        with torch.no_grad():
            features = built.eval()(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
        if not features.isfinite().all():
            raise UsageError(
                f"pretrain.init: the weights of '{config.pretrain.init}' give features that are NaN or infinite for a "
                "random image: give others, such as those of an earlier epoch"
            )
    _checked.add(key)


def write(config: ExperimentConfig, stage: StageFolder) -> None:
    """Leave the backbone that training starts from in the folder of its stage; nothing where that is a random one.

    Raises:
        UsageError: as `backbone`.
    """
    if stage.store.exists(stage.path(FOLDER, RECIPE_FILE)):
        return
    built = backbone(config)
    if built is None:
        return
    normal = Augment.of(built)
    mean, std = (values.flatten().tolist() for values in (normal.mean, normal.std))
    shown = " and ".join(", ".join(f"{value:.3g}" for value in values) for values in (mean, std))
    console.say(escape(f"pretrain: from the weights of '{config.pretrain.init}', mean and deviation of pixels {shown}"))
    with scratch.folder() as folder:
        save_backbone(built, folder, mean=mean, std=std)
        for name in (WEIGHTS_FILE, RECIPE_FILE):
            stage.store.write_bytes(stage.path(FOLDER, name), (folder / name).read_bytes())


def stored(config: ExperimentConfig, stage: StageFolder) -> nn.Module | None:
    """The backbone that `write` left, in eval mode on the CPU; None if training starts from random weights.

    Raises:
        StageError: it is missing.
    """
    if config.pretrain.init is None:
        return None
    with scratch.folder() as folder:
        for name in (WEIGHTS_FILE, RECIPE_FILE):
            (folder / name).write_bytes(stage.store.read_bytes(stage.path(FOLDER, name)))
        return load_backbone(folder, own=config.pretrain.backbone)


def _is_path(init: str) -> bool:
    """Whether the setting names a file or folder of weights, rather than a config or a run of MLflow."""
    path = Path(init.removeprefix("local-dir:")).expanduser()
    return path.suffix not in (".yaml", ".yml") and (path.exists() or path.suffix in initial.SUFFIXES or "/" in init)


def _signature(init: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that the setting may name, and of those that describe them."""
    path = Path(init.removeprefix("local-dir:")).expanduser()
    folder = path if path.is_dir() else path.parent
    files = [file for file in (path, *(folder / name for name in initial.FILES)) if file.is_file()]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
