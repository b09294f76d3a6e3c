"""Export: a trained backbone in a form that loads without infoaug."""

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from infoaug.models.backbones import RECIPE_FILE, load_backbone
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.exporting import formats
from infoaug.orchestrator.exporting.formats import FILES
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import pretrain


@dataclass(frozen=True)
class Exported:
    """What an export has left, and how to load it.

    Attributes:
        files: the paths, all in one folder.
        loading: three lines of Python that load the backbone and compute features.
    """

    files: list[Path]
    loading: list[str]


def export(
    run: str, to: str, out: Path | None = None, *, force: bool = False, overrides: Sequence[str] = ()
) -> Exported:
    """Write the backbone of a run in another form, compared with the original before it is put in place.

    `timm`: weights and configuration as timm's `local-dir:` and hub loaders read them; a ResNet whose stem was fitted
    to small images cannot be described to timm, and gets a `load.py` in place of `config.json`. `torchscript`, `onnx`:
    one file that takes pixels in 0–1, normalises them itself, and takes any number of images at once.

    Args:
        run: a config file of a finished training, a folder with a saved backbone, or id or name of an MLflow run.
        to: `timm`, `torchscript` or `onnx`.
        out: folder, made if missing; by default `export/NAME` of the experiment, the folder or the run. What else is in
            it stays.
        force: replace another export of the same format in that folder.
        overrides: settings as in `config.load`, on top of the config file; for an MLflow run, where to look for it.

    Raises:
        UsageError: no such run or format, a package is missing, or the folder holds another export.
        StageError: the model is not trained yet, this network cannot be exported so, or the folder cannot be written.
    """
    if to not in FILES:
        raise UsageError(f"there is no format '{to}': give one of {', '.join(FILES)}")
    if to == "onnx" and importlib.util.find_spec("onnx") is None:
        raise UsageError("the package onnx is missing: pip install 'infoaug[export]'")
    name, backbone = find(run, overrides)
    out = out or Path("export") / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "backbone")
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file: give a folder in --out")
    with tempfile.TemporaryDirectory() as place:
        formats.write(backbone, to, Path(place))
        made = {file: (Path(place) / file).read_bytes() for file in FILES[to] if (Path(place) / file).exists()}
    _put(made, out, FILES[to], force)
    files = [out / file for file in made]
    return Exported(files, formats.loading(backbone, files[-1]))


def find(run: str, overrides: Sequence[str] = ()) -> tuple[str, nn.Module]:
    """Name and backbone (on the CPU, in eval mode) of what the user calls a run; see `export`.

    Raises:
        UsageError: there is no such thing, or its files are broken.
        StageError: its model is not trained yet.
    """
    place = Path(run)
    if (place / RECIPE_FILE).is_file():
        return place.resolve().name, _read(place, run)
    if place.is_file() or place.suffix in (".yaml", ".yml"):
        config = load(place, overrides)
        name, files = config.name, pretrain.files(pretrain.load(config, Store(config.store)).stage)
    else:
        settings = load(None, overrides).tracking
        try:
            name, files = mlflow_runs.backbone(run, settings)
        except UsageError as error:
            raise UsageError(f"'{run}' is no config file, no folder with a saved backbone, and {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        return name, _read(Path(folder), run)


def _read(folder: Path, run: str) -> nn.Module:
    try:
        backbone = load_backbone(folder)
    except ValueError as error:
        raise UsageError(f"the backbone of '{run}' cannot be used: {str(error).replace(str(folder), run)}") from None
    recipe: Any = backbone.recipe
    if not all(values and all(isinstance(value, float) for value in values) for values in (recipe.mean, recipe.std)):
        raise UsageError(f"the backbone of '{run}' does not say how its input is normalised: save it with mean and std")
    return backbone


def _put(made: dict[str, bytes], out: Path, names: Sequence[str], force: bool) -> None:
    """Write an export's files; those that are there and the same stay, those of another export go by force only."""
    try:
        old = {name: (out / name).read_bytes() for name in names if (out / name).exists()}
        # Some files of this very export are one that was broken off; it is completed.
        if not force and any(made.get(name) != content for name, content in old.items()):
            there = ", ".join(old)
            raise UsageError(
                f"'{out}' holds another export ({there}): give another folder in --out, or replace it with --force"
            )
        if old == made:
            return
        for name in reversed(list(old)):
            (out / name).unlink()
    except OSError as error:
        raise StageError(f"cannot replace '{out}': {error.strerror or error}") from None
    store = Store(str(out.absolute()))
    for name, content in made.items():
        store.write_bytes(name, content)
