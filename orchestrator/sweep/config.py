"""The typed config of a sweep: that of an experiment, and in a section `sweep` what is varied in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from orchestrator import settings
from orchestrator.config import ExperimentConfig, Positive, Section
from orchestrator.errors import UsageError

# What is varied most, under a short name.
SHORT = {
    "framework": "pretrain.framework",
    "policy": "score.policy",
    "twin_weight": "pretrain.twin_weight",
    "negatives": "pretrain.framework_settings.negatives",
    "backbone": "pretrain.backbone",
}

ListOfValues = Annotated[list[Any], BeforeValidator(lambda v: v if isinstance(v, list) else [v]), Field(min_length=1)]


class Range(Section):
    """An interval that a search draws from; of whole numbers if both ends are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range goes from low up to high, above 0 if log, got {self.low} to {self.high}")
        return self


class SweepSettings(Section):
    """What is varied, who chooses, and what is stopped early."""

    grid: list[dict[str, ListOfValues]] = Field(
        [],
        description="grids whose trials are put together: settings by name, each with its values; framework, policy, "
        "twin_weight, negatives and backbone have short names, others their dotted ones",
    )
    space: dict[str, Range | ListOfValues] = Field(
        {}, description="what random and optuna draw from: values, or {low, high, log}"
    )
    search: Literal["grid", "random", "optuna"] = "grid"
    samples: Positive = Field(20, description="how many random and optuna try")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of random and optuna")
    scheduler: Literal["none", "asha"] = Field("none", description="asha stops what lags behind in validation_knn")
    grace_epochs: Positive = Field(10, description="asha stops nothing before")
    reduction: Annotated[int, Field(ge=2)] = Field(3, description="asha goes on with one in so many")
    metric: Literal["validation_knn", "validation_probe"] = Field(
        "validation_knn", description="what optuna raises: accuracy on images held out of the first data set's training"
    )
    budget: Literal["steps", "passes"] = Field(
        "steps",
        description="what is the same for all arms: the steps, or the images through the backbone, of which a step "
        "without twins has fewer",
    )
    recipes: str | dict[str, dict[str, Any]] = Field(
        {},
        description="a folder with FRAMEWORK.yaml, or what is in it: its `pretrain` holds for that framework where "
        "this config says nothing",
    )
    frameworks: dict[str, dict[str, Any]] = Field(
        {}, description="settings of `pretrain` for one framework, by its name; what is varied comes before them"
    )
    concurrent: Positive | None = Field(None, description="trials at once; none: as many as there is room for")
    gpu_tflops: Annotated[float, Field(gt=0)] = Field(
        40, description="10¹² operations a second that a GPU sustains in training, for the estimate of --dry-run"
    )

    @model_validator(mode="after")
    def _there_is_something_to_vary(self) -> "SweepSettings":
        if self.search == "grid" and (not self.grid or self.space):
            raise ValueError("search 'grid' takes its values from `grid`, and from nowhere else")
        if self.search != "grid" and (not self.space or self.grid):
            raise ValueError(f"search '{self.search}' takes its values from `space`, and from nowhere else")
        return self


class SweepConfig(ExperimentConfig):
    """An experiment, and what is varied in it."""

    sweep: SweepSettings

    @model_validator(mode="after")
    def _asha_sees_something(self) -> "SweepConfig":
        if self.sweep.scheduler == "asha" and not self.evaluate.every:
            raise ValueError("sweep.scheduler 'asha' goes by the accuracy while training: set evaluate.every")
        return self


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep's config file, put the overrides on top, and read the recipes that it names.

    So the resolved config is whole: it does not change with a recipe, and is understood where there is no such folder.

    Raises:
        UsageError: as `settings.read`, or a recipe that cannot be read.
    """
    config = settings.read(SweepConfig, path, overrides)
    folder = config.sweep.recipes
    if not isinstance(folder, str):
        return config
    found = {recipe.stem: _recipe(recipe) for recipe in sorted(Path(folder).glob("*.yaml"))}
    if not found:
        raise UsageError(f"sweep.recipes: there is no recipe in '{folder}'")
    return config.model_copy(update={"sweep": config.sweep.model_copy(update={"recipes": found})})


def _recipe(path: Path) -> dict[str, Any]:
    """What a recipe says of `pretrain`, but for the framework."""
    try:
        found = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["pretrain"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise UsageError(f"sweep.recipes: '{path}' cannot be read: {error}") from None
    return {key: value for key, value in found.items() if key != "framework"}
