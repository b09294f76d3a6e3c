"""Settings from YAML, `--set` overrides on top, into any typed model of them, with clear errors out."""

import difflib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], path: str | Path | None, overrides: Iterable[str] = ()) -> Model:
    """Read a file of settings, put the overrides on top, and validate both by a model.

    Raises:
        UsageError: as `read_values` does, or a key is unknown (the nearest known one is named), or a value is not of
            its setting's type or range.
    """
    return checked(model, read_values(path, overrides), str(path or "settings"))


def read_values(path: str | Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a file of settings and put the overrides on top.

    Args:
        path: a YAML file; None for no settings.
        overrides: `key=value` with a dotted key; the value is read as YAML (`[a, b]` is a list, `null` is none).

    Raises:
        UsageError: the file is missing or no YAML mapping, or an override is none.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else {}
    except FileNotFoundError:
        raise UsageError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config file '{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"config file '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UsageError(f"config file '{path}' must hold a mapping of settings, not a {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return values


def checked(model: type[Model], values: Any, where: str = "", prefix: str = "") -> Model:
    """Validate nested settings that came from `where`, and are called `prefix` and their own name.

    Raises:
        UsageError: as `read` does.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        sentences = "; ".join(_sentence(model, one, prefix) for one in error.errors())
        raise UsageError(f"{where}: {sentences}" if where else sentences) from None


def put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in nested settings; the sections on the way are made.

    Raises:
        UsageError: on the way lies a setting, not a section.
    """
    *sections, last = key.split(".")
    place = values
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise UsageError(f"{where}: '{section}' is a setting, not a section")
    place[last] = value


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set takes key=value, got '{override}'")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {key}: '{text}' is not a YAML value") from None
    put(values, key, value, f"--set {key}")


def _sentence(model: type[BaseModel], error: Any, prefix: str = "") -> str:
    """One pydantic error as a sentence that names the setting and the remedy; `prefix` goes before every key."""
    own = ".".join(map(str, error["loc"]))
    key = (prefix + own).removesuffix(".")
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_suggestion(model, own, prefix)}"
    if error["type"] == "model_type":
        return f"{key}: this is a section, which holds settings of its own (got {error['input']!r:.60})"
    if error["type"] == "missing":
        return f"'{key}' is missing"
    if error["type"] == "value_error":  # one of ours, which says what it got
        return f"{key}: {error['ctx']['error']}".removeprefix(": ")
    message = error["msg"]
    return f"{key or 'config'}: {message[0].lower()}{message[1:]} (got {error['input']!r:.60})"


def _suggestion(model: type[BaseModel], key: str, prefix: str) -> str:
    known = list(_known_keys(model))
    by_last_part = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1) or [
        by_last_part[part] for part in difflib.get_close_matches(key.rpartition(".")[2], by_last_part, n=1)
    ]
    if near:
        return f"; did you mean '{prefix}{near[0]}'?"
    return f"; {'settings' if prefix else 'sections'} are {', '.join(model.model_fields)}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = field.annotation
        candidates = get_args(inner) if get_origin(inner) in (Union, types.UnionType) else (inner,)
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _known_keys(candidate, f"{prefix}{name}.")
