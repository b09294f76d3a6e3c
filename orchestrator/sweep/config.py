"""The typed config of a sweep: that of an experiment, and in a section `sweep` what is varied in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from infoaug.orchestrator import settings
from infoaug.orchestrator.config import ExperimentConfig, Positive, Section

# What is varied most, under a short name.
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
    """What the recipes of a folder say of `pretrain`, by framework.

    So a resolved config is whole: it does not change with a recipe, and is understood where there is no such folder.
    """
    if not isinstance(recipes, str):
        return recipes or {}
    found = {}
    for path in sorted(Path(recipes).glob("*.yaml")):
        try:
            content = settings.parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or not isinstance(content.get("pretrain"), dict):
            raise ValueError(f"'{path}' has no section pretrain")
        found[path.stem] = {key: value for key, value in content["pretrain"].items() if key != "framework"}
    if not found:
        raise ValueError(f"there is no recipe, a FRAMEWORK.yaml, in '{recipes}'")
    return found


Recipes = Annotated[dict[str, dict[str, Any]], BeforeValidator(_read)]


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


# RunResult apart by hand: as a value that stands alone a mapping would do for a list too.
Drawn = Annotated[
    Annotated[Range, Tag("range")] | Annotated[ListOfValues, Tag("values")],
    Discriminator(lambda v: "range" if isinstance(v, dict | Range) else "values"),
]


class SweepSettings(Section):
    """What is varied, who chooses, and what is stopped early."""

    grid: Grids = Field(
        [],
        description="grids whose trials are put together: settings by name, each with its values; framework, policy, "
        "twin_weight, negatives and backbone have short names, others their dotted ones",
    )
    space: dict[str, Drawn] = Field({}, description="what random and optuna draw from: values, or {low, high, log}")
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
    recipes: Recipes = Field(
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

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_sweep(cls, values: Any) -> Any:
        if isinstance(values, dict) and set(values) < set(cls.model_fields) and "sweep" not in values:
            raise ValueError("has no section sweep, which says what is varied: `infoaug run` runs one experiment")
        return values

    @model_validator(mode="after")
    def _there_is_something_to_go_by(self) -> "SweepConfig":
        if not self.evaluate.datasets and not self.evaluate.domains:
            raise ValueError("a sweep compares accuracies: name a data set in evaluate.datasets or evaluate.domains")
        if self.sweep.scheduler == "asha" and not self.evaluate.every:
            raise ValueError("sweep.scheduler 'asha' goes by the accuracy while training: set evaluate.every")
        return self

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load` reads back to an equal config; what recipes say is left to them."""
        values = self.model_dump(mode="json")
        if self.sweep.recipes:
            values["pretrain"] = self.pretrain.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(values, sort_keys=False)


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep's config file and put the overrides on top; see `settings.read` for both, and for what is raised."""
    return settings.read(SweepConfig, path, overrides)
