"""Frameworks of self-supervised learning: each one short file, named in the registry here, made by `create`."""

import difflib
from typing import Any

from pydantic import ValidationError
from torch import nn

from infoaug.models.frameworks.barlow_twins import BarlowTwins
from infoaug.models.frameworks.base import Branch, Framework, FrameworkSettings, Pairs
from infoaug.models.frameworks.byol import BYOL
from infoaug.models.frameworks.dcl import DCL
from infoaug.models.frameworks.dino import DINO
from infoaug.models.frameworks.moco import MoCo
from infoaug.models.frameworks.nnclr import NNCLR
from infoaug.models.frameworks.simclr import SimCLR
from infoaug.models.frameworks.simsiam import SimSiam
from infoaug.models.frameworks.swav import SwAV
from infoaug.models.frameworks.vicreg import VICReg

__all__ = ["Branch", "Framework", "FrameworkSettings", "Pairs", "available", "create", "settings_type"]

_FRAMEWORKS: dict[str, type[Framework]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "dcl": DCL,
    "dino": DINO,
    "moco": MoCo,
    "nnclr": NNCLR,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "swav": SwAV,
    "vicreg": VICReg,
}


def available() -> list[str]:
    """Names that `create` takes, sorted."""
    return sorted(_FRAMEWORKS)


def settings_type(name: str) -> type[FrameworkSettings]:
    """Give the typed settings of a framework. Raises ValueError for an unknown name."""
    return _find(name).settings_type


def create(name: str, backbone: nn.Module, **settings: Any) -> Framework:
    """Make a framework around a backbone that maps images to float[B, backbone.num_features].

    Raises ValueError for an unknown framework or setting (naming the nearest known one) or a value out of range.
    """
    framework = _find(name)
    known = list(framework.settings_type.model_fields)
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; did you mean {_nearest(unknown[0], known)!r}?")
    try:
        checked = framework.settings_type(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{name}: {where}={first['input']!r} does not do: {first['msg']}.") from error
    return framework(backbone, checked)


def _find(name: str) -> type[Framework]:
    if name not in _FRAMEWORKS:
        nearest = _nearest(name, available())
        raise ValueError(f"There is no framework {name!r}; did you mean {nearest!r}? Known: {', '.join(available())}.")
    return _FRAMEWORKS[name]


def _nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
