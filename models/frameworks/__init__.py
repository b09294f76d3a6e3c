"""Frameworks of self-supervised learning, one short file each, by name; `create` makes one.

Importing this package imports no PyTorch: the names and the typed settings of all frameworks are in `settings.py`, and
a framework's own file is imported when it is created.
"""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from infoaug.models import own_code
from infoaug.models.frameworks.settings import (
    BarlowTwinsSettings,
    BYOLSettings,
    DCLSettings,
    DINOSettings,
    FrameworkSettings,
    MoCoSettings,
    NNCLRSettings,
    SimCLRSettings,
    SimSiamSettings,
    SwAVSettings,
    VICRegSettings,
)

if TYPE_CHECKING:
    from torch import nn

    from infoaug.models.frameworks.base import Framework

__all__ = ["FrameworkSettings", "available", "create", "settings_type"]

# The class of each framework, in the module of the framework's name, and its settings.
_FRAMEWORKS: dict[str, tuple[str, type[FrameworkSettings]]] = {
    "barlow_twins": ("BarlowTwins", BarlowTwinsSettings),
    "byol": ("BYOL", BYOLSettings),
    "dcl": ("DCL", DCLSettings),
    "dino": ("DINO", DINOSettings),
    "moco": ("MoCo", MoCoSettings),
    "nnclr": ("NNCLR", NNCLRSettings),
    "simclr": ("SimCLR", SimCLRSettings),
    "simsiam": ("SimSiam", SimSiamSettings),
    "swav": ("SwAV", SwAVSettings),
    "vicreg": ("VICReg", VICRegSettings),
}


def available() -> list[str]:
    """Names that `create` takes, sorted."""
    return sorted(_FRAMEWORKS)


def settings_type(name: str) -> type[FrameworkSettings]:
    """Give the typed settings of a framework. Raises ValueError for names and classes that `create` refuses."""
    return _own(name).settings_type if own_code.is_own(name) else _find(name)[1]


def create(name: str, backbone: "nn.Module", settings: FrameworkSettings | None = None, **given: Any) -> "Framework":
    """Make a framework around a backbone that maps images to float[B, backbone.num_features].

    Args:
        name: one of `available()`, or `module:Class` for a subclass of `base.Framework` of the user's own.
        backbone: the backbone.
        settings: settings of the framework, if they are typed already.
        given: otherwise its settings by name.

    Raises:
        ValueError: an unknown framework or setting (the nearest known one is named), a value out of range, settings
            of another framework, or a class that cannot be imported.
    """
    expected = settings_type(name)
    if settings is None:
        settings = _checked(name, expected, given)
    elif given or not isinstance(settings, expected):
        raise ValueError(f"{name} needs {expected.__name__} and no further settings, not {type(settings).__name__}.")
    if own_code.is_own(name):
        kind = _own(name)
        try:
            return kind(backbone, settings)
        except (Exception, SystemExit) as error:  # the code may raise anything
            why = own_code.why(error)
            raise ValueError(f"{name!r} cannot be built around the backbone ({why}): correct its __init__.") from error
    framework = getattr(import_module(f"infoaug.models.frameworks.{name}"), _find(name)[0])
    return framework(backbone, settings)


def _own(name: str) -> "type[Framework]":
    from infoaug.models.frameworks.base import Framework  # which imports PyTorch

    return own_code.load(name, Framework)


def _checked(name: str, expected: type[FrameworkSettings], given: dict[str, Any]) -> FrameworkSettings:
    known = list(expected.model_fields)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; did you mean {_nearest(unknown[0], known)!r}?")
    try:
        return expected(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{name}: {where}={first['input']!r} is not possible: {first['msg']}.") from error


def _find(name: str) -> tuple[str, type[FrameworkSettings]]:
    if name not in _FRAMEWORKS:
        nearest = _nearest(name, available())
        raise ValueError(f"There is no framework {name!r}; did you mean {nearest!r}? Known: {', '.join(available())}.")
    return _FRAMEWORKS[name]


def _nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
