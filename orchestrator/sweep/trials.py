"""The trials of a sweep: from what is varied to the experiments that are run, each once and none without sense."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import frameworks
from orchestrator import settings, tracking
from orchestrator.config import ExperimentConfig
from orchestrator.store import digest_of
from orchestrator.sweep.config import SHORT, Range, SweepConfig

Point = dict[str, Any]  # a value for every setting that is varied, by the names of the sweep's config


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep.

    Attributes:
        name: what is varied, in short: `simclr-random-w0.5-s0`.
        point: the values that made it.
        config: the experiment.
    """

    name: str
    point: Point
    config: ExperimentConfig

    @property
    def identity(self) -> str:
        """The same for the same experiment, whatever it is called."""
        return tracking.identity(self.config)

    @property
    def model(self) -> str:
        """The same for trials that build the same model and optimiser, whatever their seeds and their twins."""
        settings = self.config.model_dump_json(
            include={"pretrain": True, "extract": {"image_size"}}, exclude={"pretrain": {"twin_weight", "epochs"}}
        )
        return f"{self.config.score.policy == 'none'} {settings}"

    @property
    def negatives(self) -> str:
        """Which negatives: their kind, with what else is set of them; empty for a framework that has none."""
        chosen = self.config.pretrain.framework_settings.get("negatives", {})
        if not _has_negatives(self.config.pretrain.framework):
            return ""
        kind = chosen.get("kind", "all")
        rest = ",".join(f"{k}={v}" for k, v in chosen.items() if k != "kind")
        return f"{kind}({rest})" if rest else kind


def planned(config: SweepConfig) -> list[Trial]:
    """All trials of a grid or a random search, in order; an adaptive search has none before it begins.

    What a combination's other values make meaningless is left out of it: the weight without twins, and negatives of a
    framework that has none. So several combinations may be one trial.

    Raises:
        UsageError: an unknown setting, or values that no experiment takes.
    """
    if config.sweep.search == "optuna":
        return []
    points = _grid(config) if config.sweep.search == "grid" else _drawn(config)
    found = {trial.identity: trial for trial in (make(config, point) for point in points)}
    return list(found.values())


def make(config: SweepConfig, point: Point) -> Trial:
    """The trial of a point. Raises UsageError for an unknown setting or a value that no experiment takes."""
    where = "sweep: " + ", ".join(f"{key}={value}" for key, value in point.items())
    values = config.model_dump(mode="json", exclude_unset=True, exclude={"sweep"})
    full = {full_name(key): value for key, value in point.items()}
    framework = full.get("pretrain.framework", config.pretrain.framework)
    recipes = config.sweep.recipes
    recipe = recipes.get(framework, {}) if isinstance(recipes, dict) else {}
    own = config.sweep.frameworks.get(framework, {})
    values["pretrain"] = _over(_over(recipe, values.get("pretrain", {})), own)
    for key, value in full.items():
        if key.endswith(".negatives") and isinstance(value, str):
            value = {"kind": value}
        settings.put(values, key, value, where)
    twins = values.get("score", {}).get("policy"), values.get("pretrain", {}).get("twin_weight")
    if "none" in twins or 0 in twins:
        settings.put(values, "score.policy", "none", where)
        settings.put(values, "pretrain.twin_weight", config.pretrain.twin_weight, where)
    if not _has_negatives(framework):
        values.get("pretrain", {}).get("framework_settings", {}).pop("negatives", None)
    made = settings.checked(ExperimentConfig, values, where)
    return Trial(_name(made, point), point, made)


def full_name(key: str) -> str:
    """The dotted name of a setting that may have a short one."""
    return SHORT.get(key, key)


def budgeted(trial: Trial, config: SweepConfig, share_with_twin: float) -> Trial:
    """The trial with as many epochs as its arm gets; `share_with_twin`: of the patches, by policies that give twins.

    A step takes two images a patch through the backbone, and a third for each patch with a twin. With the budget
    `passes`, an arm without twins trains for as many epochs more.
    """
    if config.sweep.budget == "steps" or trial.config.score.policy != "none":
        return trial
    epochs = round(trial.config.pretrain.epochs * (2 + share_with_twin) / 2)
    pretrain = trial.config.pretrain.model_copy(update={"epochs": epochs})
    return Trial(trial.name, trial.point, trial.config.model_copy(update={"pretrain": pretrain}))


def identity(config: SweepConfig) -> str:
    """Digest of all that a sweep is; the same sweep started again goes on."""
    varied = config.sweep.model_dump(mode="json", exclude={"concurrent", "gpu_tflops"})
    return digest_of({"experiment": tracking.identity(config), "sweep": varied})


def _grid(config: SweepConfig) -> Iterator[Point]:
    for block in config.sweep.grid:
        for values in itertools.product(*block.values()):
            yield dict(zip(block, values, strict=True))


def _drawn(config: SweepConfig) -> Iterator[Point]:
    random = np.random.default_rng(config.sweep.seed)
    for _ in range(config.sweep.samples):
        yield {key: _draw(values, random) for key, values in config.sweep.space.items()}


def _draw(values: Range | list[Any], random: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[random.integers(len(values))]
    low, high = (math.log(end) if values.log else end for end in (values.low, values.high))
    if isinstance(values.low, int) and isinstance(values.high, int):
        if values.log:
            return round(math.exp(random.uniform(low, high)))
        return int(random.integers(values.low, values.high + 1))
    drawn = random.uniform(low, high)
    return float(math.exp(drawn) if values.log else drawn)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings put on top of others, mappings within them too."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _over(below[key], above[key])
    return merged


def _has_negatives(framework: str) -> bool:
    return framework in frameworks.available() and "negatives" in frameworks.settings_type(framework).model_fields


def _name(config: ExperimentConfig, point: Point) -> str:
    parts = [config.pretrain.framework, config.score.policy]
    if config.score.policy != "none":
        parts.append(f"w{config.pretrain.twin_weight:g}")
    for key, value in point.items():
        full = full_name(key)
        if full in ("pretrain.framework", "score.policy", "pretrain.twin_weight", "seed"):
            continue
        if key != "negatives":
            parts.append(f"{full.rpartition('.')[2]}={value}")
        elif _has_negatives(config.pretrain.framework):
            parts.append(value if isinstance(value, str) else "-".join(map(str, value.values())))
    return "-".join([*parts, f"s{config.seed}"])
