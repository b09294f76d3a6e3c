"""Settings from YAML with `--set` overrides on top, validated by a pydantic model, with clear errors."""

import difflib
import math
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from infoaug.orchestrator import named_configs
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.masking import masked, without_secrets

Model = TypeVar("Model", bound=BaseModel)

# Far more than any config needs. Without limits, a small hostile file could cost minutes or all memory.
_LONGEST_FILE = 1 << 18  # bytes
_MOST_VALUES, _DEEPEST = 20_000, 40  # with aliases expanded
# Settings of earlier versions, and their present names.
RENAMED = {"extract.patience": "extract.read_timeout", "pretrain.resident": "pretrain.images_on_device"}
_MOST_SENTENCES, _LONGEST_SENTENCE, _LONGEST_QUOTE = 8, 1500, 100
_IS_TYPE = re.compile(r"(literal\[.*|constrained-\w+|bool)$")


def read(model: type[Model], path: str | Path | None, overrides: Iterable[str] = ()) -> Model:
    """Read a file of settings, apply the overrides, and validate the result by a model.

    Raises:
        UsageError: as `read_values` does; or a key is unknown (the nearest known one is named), or a value has the
            wrong type or is out of range.
    """
    return checked(model, read_values(path, overrides), str(path or "settings"))


def read_values(path: str | Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a file of settings and apply the overrides.

    Args:
        path: a YAML file, or the name of a config that comes with infoaug; None for no settings.
        overrides: `key=value` with a dotted key; the value is read as YAML (`[a, b]` is a list, `null` is None).

    Raises:
        UsageError: the file is missing or not a YAML mapping, or an override is malformed.
    """
    values = _file(named_configs.find(path)) if path else {}
    for override in overrides:
        _override(values, override)
    return values


def checked(model: type[Model], values: Any, where: str = "", prefix: str = "") -> Model:
    """Validate nested settings by a model.

    Args:
        model: the pydantic model.
        values: the settings.
        where: their source, which begins the message of an error.
        prefix: what the message puts before the name of each setting.

    Raises:
        UsageError: as `read` does.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = _of_settings(error.errors())
        sentences = [_sentence(model, values, mistake, prefix) for mistake in mistakes[:_MOST_SENTENCES]]
        if len(mistakes) > _MOST_SENTENCES:
            sentences.append(f"and {len(mistakes) - _MOST_SENTENCES} more")
        raise UsageError(one_line(f"{where}: {'; '.join(sentences)}" if where else "; ".join(sentences))) from None
    except OSError as error:  # a validator reads the file that a setting names
        raise UsageError(one_line(f"{where}: {error}" if where else str(error))) from None


class NoYAMLError(ValueError):
    """Invalid YAML, or YAML of an unreasonable size; the message is a predicate, to be put after the file's name."""


def parsed(text: str, name: str = "") -> Any:
    """Parse YAML into mappings with string keys, lists, strings, numbers, booleans and None.

    Args:
        text: YAML.
        name: of the setting whose value it is, for the messages.

    Raises:
        NoYAMLError: invalid YAML, a key given twice, or too many values when aliases are expanded.
        ValueError: a value that no setting has, such as a date, an integer of more than 64 bits or infinity.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _check_size(node, {})
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise NoYAMLError(f"is not valid YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise NoYAMLError(f"is nested too deeply: {_DEEPEST} levels are allowed") from None
    except NoYAMLError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML raises these for values that look like a number or a date, but are not one.
        raise NoYAMLError(f"is not valid YAML: {error}") from None
    _check_plain(value, name)
    return value


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML text, and where, without PyYAML's excerpt of it."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem or mark is None:
        return str(error)
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def one_line(text: str) -> str:
    """Put a message on one line, escape its control characters, and cut it to a readable length."""
    line = " ".join(without_secrets(text).split())
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
    return line if len(line) <= _LONGEST_SENTENCE else f"{line[:_LONGEST_SENTENCE]} …"


def put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in nested settings; missing sections are created.

    Raises:
        UsageError: a part of the key before the last is a setting, not a section.
    """
    *sections, last = key.split(".")
    parent = values
    for section in sections:
        if parent.get(section) is None:
            parent[section] = {}
        parent = parent[section]
        if not isinstance(parent, dict):
            raise UsageError(one_line(f"{where}: '{_quoted(section)}' is a setting, not a section"))
    parent[last] = value


def _file(path: str | Path) -> dict[str, Any]:
    """Read the settings of a file. Raises UsageError if it cannot be read or holds no mapping."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise UsageError(
                one_line(f"config file '{path}' has more than {_LONGEST_FILE >> 10} KiB: it is not a config")
            )
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(one_line(f"config file '{path}' does not exist; {named_configs.hint(path)}")) from None
    except UnicodeDecodeError as error:
        raise UsageError(one_line(f"config file '{path}' cannot be read: {error}; save it as UTF-8")) from None
    except (OSError, ValueError) as error:
        raise UsageError(one_line(f"config file '{path}' cannot be read: {error}")) from None
    try:
        values = parsed(text)
    except NoYAMLError as error:
        raise UsageError(one_line(f"config file '{path}' {error}")) from None
    except ValueError as error:
        raise UsageError(one_line(f"{path}: {error}")) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UsageError(one_line(f"config file '{path}' must hold a mapping of settings, not a {_kind(values)}"))
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(one_line(f"--set takes key=value, got '{_quoted(override)}'"))
    if not text.strip():  # as of a shell variable that is not set; YAML would read it as null
        raise UsageError(one_line(f"--set {_quoted(key)}= has no value: give one, or null"))
    if not key.isprintable() or key.count(".") > _DEEPEST:
        raise UsageError(one_line(f"--set takes key=value with the name of a setting, got '{_quoted(key)}'"))
    try:
        value = parsed(text, key)
    except NoYAMLError as error:
        why = str(error).removeprefix("is not valid YAML: ")
        raise UsageError(one_line(f"--set {_quoted(key)}: '{_quoted(text)}' is not a YAML value: {why}")) from None
    except ValueError as error:
        raise UsageError(one_line(f"--set {error}")) from None
    put(values, key, value, f"--set {_quoted(key)}")


def _quoted(text: Any) -> str:
    """Quote the beginning of a value in a message."""
    shown = without_secrets(str(text))  # before it is cut: the rest of a URL tells what is secret in it
    return shown if len(shown) <= _LONGEST_QUOTE else f"{shown[:_LONGEST_QUOTE]}…"


def _check_size(node: yaml.Node | None, seen: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Count the values and levels of a YAML node with aliases expanded; `seen` holds the counts by node.

    Each node is visited once, before anything is expanded. Raises NoYAMLError if there are too many, or a key is given
    twice.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1, 1
    if id(node) not in seen:
        seen[id(node)] = None
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        names = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(names)) < len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise NoYAMLError(f"has the key '{_quoted(twice)}' twice in one section: keep one of them")
        inner = [part for pair in pairs for part in pair] if pairs else node.value
        sizes = [_check_size(part, seen) for part in inner]
        count, depth = 1 + sum(size for size, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise NoYAMLError(
                f"holds too much: {_MOST_VALUES} values are allowed, with aliases expanded, and {_DEEPEST} levels"
            )
        seen[id(node)] = count, depth
    size = seen[id(node)]
    if size is None:
        raise NoYAMLError("has an alias inside the value that it refers to")
    return size


def _check_plain(value: Any, name: str = "") -> None:
    """Raise ValueError for a value that no setting has; `name` is its dotted key."""
    at = f"{_quoted(name)}: " if name else ""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{at}{_quoted(key)}: keys should be strings, put it in quotes")
            _check_plain(key, name)
            _check_plain(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, name)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
            raise ValueError(f"{at}a text cannot hold the character {'NUL' if chr(0) in value else 'of a surrogate'}")
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{at}input should be a number of at most 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{at}input should be a finite number (got {value})")
    elif value is not None:
        raise ValueError(f"{at}a setting cannot be a {_kind(value)}, put it in quotes if it is a text")


def _kind(value: Any) -> str:
    return type(value).__name__


def _of_settings(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """The mistakes of a model's settings. What a setting of several types is not, is one mistake."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for error in errors:
        # Pydantic names the type behind the setting: `literal[...]`, `constrained-int`.
        loc = tuple(part for part in error["loc"] if not _IS_TYPE.match(str(part)))
        own = {**error, "loc": loc}
        if loc != error["loc"] and (before := found.get(loc)):
            own["msg"] = f"{before['msg']}, or {own['msg'].removeprefix('Input should ')}"
        found[loc] = own
    return [*found.values()]


def _sentence(model: type[BaseModel], values: Any, error: Any, prefix: str = "") -> str:
    """Say in one sentence which setting is wrong and what to do; `prefix` goes before every key."""
    own = _quoted(".".join(map(str, error["loc"])))
    key = (prefix + own).removesuffix(".")
    if error["type"] == "extra_forbidden":
        if new := RENAMED.get(own):
            return f"'{key}' is now called '{prefix}{new}'"
        return f"unknown key '{key}'{_suggestion(model, values, own, prefix)}"
    if error["type"] == "model_type":
        return f"{key}: this is a section, which holds settings of its own (got {masked(error['input'])!r:.60})"
    if error["type"] == "missing":
        return f"'{key}' is missing"
    if error["type"] == "value_error":  # raised by a validator of ours, whose message quotes the value
        return f"{key}: {without_secrets(str(error['ctx']['error'])):.400}".removeprefix(": ")
    message = error["msg"]
    return f"{key or 'config'}: {message[0].lower()}{message[1:]} (got {masked(error['input'])!r:.60})"


def _suggestion(model: type[BaseModel], values: Any, key: str, prefix: str) -> str:
    of, _, inner = key.partition(".")
    field = model.model_fields.get(of)
    belongs_to = getattr(field.annotation, "belongs_to", None) if field else None
    if belongs_to and (owners := belongs_to(inner)):
        return f"; {owners}"
    known = list(_known_keys(model, values))
    section, _, last = key.rpartition(".")
    # Of several settings of one name, the one that is the least deep.
    anywhere = {name.rpartition(".")[2]: name for name in sorted(known, key=lambda name: -name.count("."))}
    inside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    for names in (inside, anywhere):  # a misspelt name is more likely than a name in the wrong section
        if near := difflib.get_close_matches(last, names, n=1):
            return f"; did you mean '{prefix}{names[near[0]]}'?"
    if section and inside:
        return f"; settings of '{prefix}{section}' are {', '.join(inside)}"
    return f"; {'settings' if prefix else 'sections'} are {', '.join(model.model_fields)}"


def _known_keys(model: type[BaseModel], values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a model; `values`, because the type of a setting may depend on another."""
    values = values if isinstance(values, dict) else {}
    types_by_value = getattr(model, "types_by_value", None)
    chosen = types_by_value(values) if types_by_value else {}
    for name, field in model.model_fields.items():
        yield prefix + name
        annotation = chosen.get(name, field.annotation)
        candidates = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _known_keys(candidate, values.get(name), f"{prefix}{name}.")
