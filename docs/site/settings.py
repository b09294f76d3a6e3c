"""Write docs/settings.md from the types of the config: names, values, defaults and meanings of all settings.

python docs/site/settings.py
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infoaug.models import frameworks
from infoaug.models.settings import AugmentSettings, Momentum, Negatives
from infoaug.orchestrator.config import DetectorConfig, ExperimentConfig, runtime_settings
from infoaug.orchestrator.sweep.config import SweepSettings

PAGE = Path(__file__).parents[1] / "settings.md"
BEGINNING = """# Settings

<!-- Written by `python docs/site/settings.py` from the types of the config: change a setting's text there. -->

A config is a YAML file. `--set section.key=value` overrides any setting, and `infoaug run CONFIG --dry-run` prints the
whole config. A misspelt setting is refused, and the nearest one is named. `null` is YAML's word for nothing.

`framework_settings.NAME` below is short for `pretrain.framework_settings.NAME`. Settings with ° say where and how an
experiment runs. They are no part of its identity: a change of them computes nothing anew.
"""
HEADER = "\n| setting | values | default | meaning |\n|---|---|---|---|\n"
SECTIONS = {
    "clips": "your video",
    "scenes": "rendered video, where `clips.path` is null",
    "extract": "clips to trajectories and patches",
    "score": "trajectories to twins",
    "pretrain": "training",
    "evaluate": "what features are worth",
    "tracking": "MLflow",
    "ray": "the cluster",
}


def page() -> str:
    """The text of the page."""
    runtime = runtime_settings(ExperimentConfig)
    plain = {name: True for name in ExperimentConfig.model_fields if name not in SECTIONS}
    parts = [BEGINNING, "\n## The experiment\n", HEADER, *_rows(ExperimentConfig, "", runtime, only=plain)]
    for section, what in SECTIONS.items():
        model: Any = ExperimentConfig.model_fields[section].annotation
        marked = runtime.get(section, {})
        marked = dict.fromkeys(model.model_fields, True) if marked is True else dict.fromkeys(marked, True)
        parts += [f"\n## `{section}`: {what}\n", HEADER, *_rows(model, section, marked)]
        if section == "pretrain":
            parts += _training()
        if section == "evaluate":
            parts += ["\n### `evaluate.detector`\n", HEADER, *_rows(DetectorConfig, "evaluate.detector", {})]
    marked = dict.fromkeys(runtime_settings(SweepSettings), True)
    parts += ["\n## `sweep`: what is varied\n", "\nOf the configs of `infoaug sweep` ([sweeps.md](sweeps.md)).\n"]
    parts += [HEADER, *_rows(SweepSettings, "sweep", marked)]
    return "".join(parts)


def _training() -> Iterator[str]:
    """Augmentation and the settings of each framework, with the documentation of their types."""
    yield "\n### `augment` and `augment_second`\n"
    yield from _documented(AugmentSettings, "pretrain.augment")
    for name in frameworks.available():
        yield f"\n### Framework `{name}`\n"
        yield from _documented(frameworks.settings_type(name), "framework_settings")
    for kind, name in ((Negatives, "negatives"), (Momentum, "momentum")):
        yield f"\n### `framework_settings.{name}`\n"
        yield from _documented(kind, f"framework_settings.{name}")


def _documented(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The documentation of a type that explains its fields in its docstring, and their values and defaults."""
    yield f"\n{inspect.getdoc(model)}\n"
    yield "\n| setting | values | default |\n|---|---|---|\n"
    yield from (row.removesuffix("  |\n") + "\n" for row in _rows(model, prefix, {}))


def _rows(
    model: type[BaseModel], prefix: str, runtime: Mapping[str, Any], only: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """A row of the table for each field of a model; `runtime` are the fields to mark."""
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        if only is not None and name not in only:
            continue
        dotted = f"{prefix}.{name}" if prefix else name
        mark = "°" if runtime.get(name) is True else ""
        default = f"`{_written(field['default'])}`" if "default" in field else ""
        if name == "detector":
            default = "below"
        values = _values(field, schema.get("$defs", {}))
        yield f"| `{dotted}`{mark} | {values} | {default} | {_cell(field.get('description', ''))} |\n"


def _values(field: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """What values a field takes, in words: its kind and limits."""
    if "$ref" in field:
        return _values(types[field["$ref"].rpartition("/")[2]], types)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_values(one, types) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{_written(value)}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        items = field.get("prefixItems")
        if items:
            return "[" + ", ".join(_values(item, types) for item in items) + "]"
        return f"list of {_values(field.get('items', {}), types)}"
    named = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
    return " ".join([named.get(kind, "mapping" if kind == "object" else kind), _limits(field)]).strip()


def _limits(field: Mapping[str, Any]) -> str:
    """The range of a number in words; empty without limits."""
    if "minimum" in field and "maximum" in field:
        return f"from {field['minimum']:,} to {field['maximum']:,}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {field[key]:,}" for key, sign in signs.items() if key in field)


def _written(value: Any) -> str:
    """A value as YAML and `--set` write it."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:.1f}"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
