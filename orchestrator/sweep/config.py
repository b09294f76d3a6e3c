"""The typed config of a sweep: an experiment's config, with a section `sweep` that says what is varied."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from infoaug.models import frameworks
from infoaug.models.frameworks.settings import FrameworkSettings
from infoaug.orchestrator import named_configs, settings
from infoaug.orchestrator.config import ExperimentConfig, Positive, PretrainConfig, Runtime, Section, runtime_settings
from infoaug.orchestrator.masking import masked

# Short names of the settings that are varied most.
SHORT = {
    "framework": "pretrain.framework",
    "policy": "score.policy",
    "twin_weight": "pretrain.twin_weight",
    "negatives": "pretrain.framework_settings.negatives",
    "backbone": "pretrain.backbone",
}

ListOfValues = Annotated[list[Any], BeforeValidator(lambda v: v if isinstance(v, list) else [v]), Field(min_length=1)]

Grids = Annotated[list[dict[str, ListOfValues]], BeforeValidator(lambda v: [v] if isinstance(v, dict) else v)]


def _read(recipes: Any) -> Any:
    """Read the section `pretrain` of every recipe in a folder, by framework.

    The resolved config holds the contents. It does not change when a recipe file does, and needs no such folder.
    """
    if not isinstance(recipes, str):
        return recipes or {}
    contents = {}
    for path in sorted(named_configs.folder(recipes).glob("*.yaml")):
        try:
            content = settings.parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or not isinstance(content.get("pretrain"), dict):
            raise ValueError(f"'{path}' has no section pretrain")
        contents[path.stem] = {key: value for key, value in content["pretrain"].items() if key != "framework"}
    if not contents:
        raise ValueError(f"there is no recipe, a FRAMEWORK.yaml, in '{recipes}'")
    return contents


Recipes = Annotated[dict[str, dict[str, Any]], BeforeValidator(_read)]


class Range(Section):
    """An interval that a search draws from, both ends included; of integers if both ends are integers."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="draw uniformly on a logarithmic scale")

    @property
    def of_integers(self) -> bool:
        """Whether integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _ascends(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range needs low < high, and 0 < low if log, got {self.low} to {self.high}")
        return self


# Told apart by a function: a single value counts as a list of one, so a mapping would fit both types.
Drawn = Annotated[
    Annotated[Range, Tag("range")] | Annotated[ListOfValues, Tag("values")],
    Discriminator(lambda v: "range" if isinstance(v, dict | Range) else "values"),
]


class SweepSettings(Section):
    """What is varied, how values are chosen, and which trials are stopped early."""

    grid: Grids = Field(
        [],
        description="one or more grids: settings by name, each with its values. The trials of a grid are all "
        "combinations. framework, policy, twin_weight, negatives and backbone have short names, other settings their "
        "dotted names",
    )
    space: dict[str, Drawn] = Field(
        {}, description="search space of random and optuna: settings by name, each with values or {low, high, log}"
    )
    search: Literal["grid", "random", "optuna"] = Field(
        "grid", description="all combinations of grid, or trials from space that are drawn or chosen by Optuna"
    )
    samples: Positive = Field(20, description="number of trials of random and optuna")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of random and optuna")
    scheduler: Literal["none", "asha"] = Field("none", description="asha stops trials whose validation_knn is low")
    grace_epochs: Positive = Field(10, description="asha stops no trial before this epoch")
    reduction: Annotated[int, Field(ge=2)] = Field(3, description="asha continues one in this many trials")
    metric: Literal["validation_knn", "validation_probe"] = Field(
        "validation_knn",
        description="accuracy that optuna maximises, on held-out training images of the first data set",
    )
    budget: Literal["steps", "passes"] = Field(
        "steps",
        description="what is equal for all arms: the number of steps, or of images passed through the backbone, of "
        "which a step without twins passes fewer",
    )
    recipes: Recipes = Field(
        {},
        description="a folder with FRAMEWORK.yaml, or its contents: the section `pretrain` sets defaults for that "
        "framework",
    )
    frameworks: dict[str, dict[str, Any]] = Field(
        {}, description="settings of `pretrain` by framework; they override this config, varied settings override them"
    )
    concurrent: Annotated[Positive | None, Runtime] = Field(
        None, description="number of trials that run at once; null: as many as the cluster has room for"
    )
    gpu_tflops: Annotated[float, Field(gt=0), Runtime] = Field(
        110,
        description="TFLOP/s that a GPU sustains in training, for the estimate of --dry-run; by default that of an "
        "H100 (docs/gpu.md)",
    )

    @model_validator(mode="after")
    def _has_values(self) -> "SweepSettings":
        if self.search == "grid" and (not self.grid or self.space):
            raise ValueError("search 'grid' needs values in `grid`, and none in `space`")
        if self.search != "grid" and (not self.space or self.grid):
            raise ValueError(f"search '{self.search}' needs values in `space`, and none in `grid`")
        return self


class AnyFrameworkSettings(FrameworkSettings, frozen=True, extra="allow"):
    """Settings of any framework, not checked: the framework may be varied."""


class VariedPretrainConfig(PretrainConfig):
    """`pretrain` of a sweep. `load` checks `framework_settings` for every framework of the sweep."""

    @classmethod
    def framework_settings_type(cls, framework: Any) -> type[FrameworkSettings]:
        """The type of `framework_settings` for a framework."""
        return AnyFrameworkSettings


class SweepConfig(ExperimentConfig):
    """An experiment, and what is varied in it."""

    pretrain: VariedPretrainConfig = VariedPretrainConfig()
    sweep: SweepSettings

    @model_validator(mode="before")
    @classmethod
    def _has_a_section_sweep(cls, values: Any) -> Any:
        if isinstance(values, dict) and set(values) < set(cls.model_fields) and "sweep" not in values:
            raise ValueError("has no section sweep, which says what is varied: `infoaug run` runs one experiment")
        return values

    @model_validator(mode="after")
    def _has_an_accuracy(self) -> "SweepConfig":
        if not self.evaluate.names:
            raise ValueError("a sweep compares accuracies: name a data set, as in evaluate.datasets")
        if self.sweep.scheduler == "asha" and not self.evaluate.every:
            raise ValueError("sweep.scheduler 'asha' compares accuracies during training: set evaluate.every")
        return self

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load` reads back to an equal config, but for the secrets of URLs: `***`.

        With recipes, `pretrain` holds only what the config sets, so that recipes apply again.
        """
        values = self.model_dump(mode="json")
        if self.sweep.recipes:
            values["pretrain"] = self.pretrain.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(masked(values), sort_keys=False)


# The settings that are no part of a sweep's identity, for pydantic's `exclude`.
RUNTIME: dict[str, Any] = runtime_settings(SweepConfig)


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep's config file and apply the overrides; see `settings.read` for both.

    Raises:
        UsageError: as `settings.read` does; or `pretrain`, a recipe or `sweep.frameworks` has settings that a framework
            of the sweep does not accept.
    """
    config = settings.read(SweepConfig, path, overrides)
    check_frameworks(config, str(path or "settings"))
    return config


def check_frameworks(config: SweepConfig, where: str) -> None:
    """Check the settings of `pretrain` for every framework of the sweep, and those given for one framework.

    Raises:
        UsageError: as `settings.checked` does; `where` begins the message.
    """
    given = config.pretrain.model_dump(mode="json", include={"framework_settings"})
    sources = [(where, name, given) for name in _frameworks(config)]
    for section in ("recipes", "frameworks"):
        by_framework = getattr(config.sweep, section)
        for name, values in by_framework.items():
            if section == "frameworks" or name in frameworks.available():  # a folder may hold other recipes too
                sources.append((f"{where}: sweep.{section}.{name}", name, values))
    for source, name, values in sources:
        pretrain = without_unused_negatives({**values, "framework": name})
        settings.checked(ExperimentConfig, {"pretrain": pretrain}, source)


def has_negatives(framework: Any) -> bool:
    """Whether a framework of this name exists and contrasts with negatives."""
    return framework in frameworks.available() and "negatives" in frameworks.settings_type(framework).model_fields


def without_unused_negatives(pretrain: dict[str, Any]) -> dict[str, Any]:
    """Settings of `pretrain`, without negatives if the framework has none: a sweep may vary both."""
    given = pretrain.get("framework_settings")
    framework = pretrain.get("framework", PretrainConfig.model_fields["framework"].default)
    if not isinstance(given, dict) or framework not in frameworks.available() or has_negatives(framework):
        return pretrain
    return {**pretrain, "framework_settings": {key: value for key, value in given.items() if key != "negatives"}}


def _frameworks(config: SweepConfig) -> list[Any]:
    """The frameworks of a sweep's trials, as far as they are known before a search draws."""
    names: list[Any] = []
    blocks: list[dict[str, Any]] = [*config.sweep.grid] or [dict(config.sweep.space)]
    for varied in blocks:
        values = varied.get("framework", varied.get(SHORT["framework"], [config.pretrain.framework]))
        names += values if isinstance(values, list) else []
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))
