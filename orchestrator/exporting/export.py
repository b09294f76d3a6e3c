"""Export a trained backbone to a format that loads without infoaug."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from infoaug.models.backbones import RECIPE_FILE, load_backbone
from infoaug.orchestrator import named_configs
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.exporting import formats
from infoaug.orchestrator.exporting.formats import FILES
from infoaug.orchestrator.runtime import logs, mlflow_lookup, scratch
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, pretrain, score


@dataclass(frozen=True)
class Exported:
    """The files of an export.

    Attributes:
        files: their paths, all in one folder.
        loading: three lines of Python that load the backbone and compute features.
    """

    files: list[Path]
    loading: list[str]


def export(
    run: str, to: str, out: Path | None = None, *, force: bool = False, overrides: Sequence[str] = ()
) -> Exported:
    """Write the backbone of a run in another format; its features are compared with the original's first.

    `timm` is weights and configuration for timm's `local-dir:` and hub loaders. timm cannot describe a ResNet with a
    stem for small images: it gets a `load.py` instead of `config.json`. `torchscript` and `onnx` are one file each,
    which takes any number of images with pixels in 0–1, and normalises them itself.

    Args:
        run: the config of a finished training (a file or its name), a folder with a saved backbone, or an MLflow run's
            id or name. A name that both a config and a run have is the config's.
        to: `timm`, `torchscript` or `onnx`.
        out: folder, created if missing; other files in it are kept. By default `export/NAME`, with the name of the
            experiment, the folder or the run.
        force: replace another export of the same format in that folder.
        overrides: settings as in `config.load`, applied to the config file; for an MLflow run, where MLflow is; for a
            backbone of your own class, `pretrain.backbone=module:Class`, whose code may then run.

    Raises:
        UsageError: the run or format does not exist, a package is missing, or the folder holds another export.
        StageError: the model is not trained yet, cannot be exported to this format, or the folder cannot be written.
    """
    if to not in FILES:
        raise UsageError(f"there is no format '{to}': give one of {', '.join(FILES)}")
    if to == "onnx" and importlib.util.find_spec("onnx") is None:
        raise UsageError("the package onnx is missing: pip install 'infoaug[export]'")
    name, backbone = find(run, overrides)
    out = out or Path("export") / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "backbone")
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file: give a folder in --out")
    with scratch.folder() as folder:
        formats.write(backbone, to, folder)
        written = {file: (folder / file).read_bytes() for file in FILES[to] if (folder / file).exists()}
    _install(written, out, FILES[to], force)
    files = [out / file for file in written]
    return Exported(files, formats.loading(backbone, files[-1]))


def find(run: str, overrides: Sequence[str] = (), base: ExperimentConfig | None = None) -> tuple[str, nn.Module]:
    """Name and backbone of a run; the backbone is on the CPU, in eval mode.

    Args:
        run, overrides: as `export` takes them.
        base: a config that says where MLflow is, and in `pretrain.backbone` which class of the user's own may be built;
            by default the overrides alone. A config file says both itself.

    Raises:
        UsageError: the run does not exist, or its files are broken.
        StageError: its model is not trained yet.
    """
    path, base = Path(run), base or load(None, overrides)
    described = named_configs.find(run)
    if (path / RECIPE_FILE).is_file():
        return path.resolve().name, _read(path, run, base)
    if described.is_file() or path.suffix in (".yaml", ".yml"):
        config = load(described, overrides)
        store = Store(config.store)
        logs.set_place(store.local, config.name)
        trained = pretrain.load(config, score.load(config, extract.load(config, store)))
        name, files, base = config.name, pretrain.files(trained.stage), config
    else:
        try:
            name, files = mlflow_lookup.backbone(run, base.tracking)
        except UsageError as error:
            raise UsageError(f"'{run}' is no config file and no folder with a saved backbone, and {error}") from None
    with scratch.folder() as folder:
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return name, _read(folder, run, base)


def _read(folder: Path, run: str, base: ExperimentConfig) -> nn.Module:
    try:
        backbone = load_backbone(folder, own=base.pretrain.backbone)
    except ValueError as error:
        raise UsageError(f"the backbone of '{run}' cannot be used: {str(error).replace(str(folder), run)}") from None
    recipe: Any = backbone.recipe
    if not all(values and all(isinstance(value, float) for value in values) for values in (recipe.mean, recipe.std)):
        raise UsageError(f"the backbone of '{run}' does not say how its input is normalised: save it with mean and std")
    return backbone


def _install(written: dict[str, bytes], out: Path, names: Sequence[str], force: bool) -> None:
    """Write the files of an export to a folder; another export in it is replaced only with `force`."""
    try:
        old = {name: (out / name).read_bytes() for name in names if (out / name).exists()}
        # Equal files are from an interrupted run of this export, which is completed.
        if not force and any(written.get(name) != content for name, content in old.items()):
            raise UsageError(
                f"'{out}' holds another export ({', '.join(old)}): give another folder in --out, or replace it with "
                "--force"
            )
        if old == written:
            return
        for name in reversed(list(old)):
            (out / name).unlink()
    except OSError as error:
        raise StageError(f"cannot replace '{out}': {error.strerror or error}") from None
    store = Store(str(out.absolute()))
    for name, content in written.items():
        store.write_bytes(name, content)
