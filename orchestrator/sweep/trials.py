"""The trials of a sweep: from what is varied to the experiments that are run, each once and none without sense."""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from infoaug.models import frameworks
from infoaug.models.negatives import Negatives
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.sweep.config import SHORT, Range, SweepConfig

Point = dict[str, Any]  # a value for every setting that is varied, by the names of the sweep's config

SECTIONS = ("clips", "scenes", "extract", "score", "pretrain")  # what a training depends on, beside the seed
NEGATIVES = SHORT["negatives"]
ARMS = ("pretrain.framework", "score.policy", "pretrain.twin_weight", NEGATIVES, "seed")  # have places of their own
DEFAULT = "default"  # the value of a setting that an experiment does not name
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep.

    Attributes:
        name: what is varied, in short: `simclr-random-w0.5-s0`.
        point: the values that made it.
        config: the experiment.
        other: what else the sweep varies, by its dotted name: the value that this trial has of it.
    """

    name: str
    point: Point
    config: ExperimentConfig
    other: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The same for the same experiment, whatever it is called."""
        return mlflow_runs.identity(self.config)

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
        if not _has_negatives(self.config.pretrain.framework):
            return ""
        chosen = dict(self.config.pretrain.framework_settings.get("negatives", {}))
        kind = chosen.pop("kind", "all")
        rest = ",".join(f"{k}={v}" for k, v in chosen.items())
        return f"{kind}({rest})" if rest else kind


def planned(config: SweepConfig) -> list[Trial]:
    """All trials of a grid or a random search, in order; an adaptive search has none before it begins.

    What a combination's other values make meaningless is left out of it: the weight without twins, negatives of a
    framework that has none, and what is set of negatives when all are taken. So several combinations may be one trial.

    Raises:
        UsageError: an unknown setting, or values that no experiment takes.
    """
    if config.sweep.search == "optuna":
        return []
    points = _grid(config) if config.sweep.search == "grid" else _drawn(config)
    found: dict[str, Trial] = {}
    for point in points:
        trial = make(config, point)
        found.setdefault(trial.identity, trial)
    return list(found.values())


def make(config: SweepConfig, point: Point) -> Trial:
    """The trial of a point. Raises UsageError for an unknown setting or a value that no experiment takes."""
    where = "sweep: " + ", ".join(f"{key}={value}" for key, value in point.items())
    full = _full(point)
    values = config.model_dump(mode="json", exclude_unset=True, exclude={"sweep"})
    framework = full.get("pretrain.framework", config.pretrain.framework)
    if framework in frameworks.available():  # else it is refused below
        recipes, own = config.sweep.recipes, config.sweep.frameworks.get(framework, {})
        if recipes and framework not in recipes:
            raise UsageError(f"sweep.recipes: there is none for '{framework}', only for {', '.join(recipes)}")
        recipe = recipes[framework] if recipes else {}
        values["pretrain"] = _over(_over(recipe, values.get("pretrain", {})), own)
    for key, value in full.items():
        settings.put(values, key, value, where)
    made = _with_sense(settings.checked(ExperimentConfig, values, where), config, where)
    content = made.model_dump(mode="json")
    varied = [key for key in _varied(config) if key not in ARMS]
    found = {key: _at(content, key) for key in varied}
    trial = Trial("", point, made, {key: str(value) for key, value in found.items()})
    return replace(trial, name=_name(trial, found, NEGATIVES in _varied(config)))


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
    return replace(trial, config=trial.config.model_copy(update={"pretrain": pretrain}))


def identity(config: SweepConfig) -> str:
    """Digest of all that a sweep is; the same sweep started again goes on."""
    what = config.model_dump(mode="json", exclude={**RUNTIME, "sweep": {"concurrent", "gpu_tflops"}})
    if config.sweep.recipes:  # which say what this config does not
        what["given"] = config.pretrain.model_dump(mode="json", exclude_unset=True, exclude=RUNTIME["pretrain"])
    return digest_of(what)


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
    return float(np.clip(math.exp(drawn) if values.log else drawn, values.low, values.high))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over others, section by section; a copy."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _full(point: Point) -> Point:
    """A point by full names, what lies deeper after what it lies in. Raises UsageError for what cannot be varied."""
    full: Point = {}
    for key, value in sorted(point.items(), key=lambda item: full_name(item[0]).count(".")):
        section, _, rest = full_name(key).partition(".")
        known = section == "sweep" or section in ExperimentConfig.model_fields
        inside = section in SECTIONS and rest and rest.partition(".")[0] not in RUNTIME.get(section, ())
        if known and section != "seed" and not inside:
            raise UsageError(
                f"sweep: '{key}' cannot be varied: vary what the training depends on, the seed and settings of "
                f"{', '.join(SECTIONS)}, less those that say where and how it runs"
            )
        if full_name(key) in full:
            raise UsageError(f"sweep: '{key}' is given twice, by its short and by its dotted name")
        if full_name(key) == NEGATIVES and isinstance(value, str):
            value = {"kind": value}
        full[full_name(key)] = value
    return full


def _with_sense(made: ExperimentConfig, config: SweepConfig, where: str) -> ExperimentConfig:
    """An experiment less what its other values make meaningless."""
    pretrain, scoring = made.pretrain, made.score
    if scoring.policy == "none" or not pretrain.twin_weight:
        scoring = scoring.model_copy(update={"policy": "none"})
        pretrain = pretrain.model_copy(update={"twin_weight": config.pretrain.twin_weight})
    if "negatives" in pretrain.framework_settings:
        kept = dict(pretrain.framework_settings)
        negatives = kept.pop("negatives")
        if _has_negatives(pretrain.framework):
            checked = settings.checked(Negatives, negatives, where, f"{NEGATIVES}.")
            if checked.kind != "all":
                kept["negatives"] = checked.model_dump(exclude_defaults=True)
        pretrain = pretrain.model_copy(update={"framework_settings": kept})
    return made.model_copy(update={"score": scoring, "pretrain": pretrain})


def _varied(config: SweepConfig) -> list[str]:
    """All that a sweep varies, by full names."""
    keys = [*itertools.chain(*config.sweep.grid), *config.sweep.space]
    return list(dict.fromkeys(map(full_name, keys)))


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return DEFAULT
        content = content[part]
    return content


def _has_negatives(framework: str) -> bool:
    return framework in frameworks.available() and "negatives" in frameworks.settings_type(framework).model_fields


def _name(trial: Trial, other: Mapping[str, Any], with_negatives: bool) -> str:
    """What is varied, in short; with a digest where that alone might not tell the trial from all others."""
    made = trial.config
    parts = [made.pretrain.framework, made.score.policy]
    if made.score.policy != "none":
        short = f"{made.pretrain.twin_weight:g}"
        parts.append("w" + (short if float(short) == made.pretrain.twin_weight else repr(made.pretrain.twin_weight)))
    written = {"": trial.negatives} if with_negatives and trial.negatives else {}
    last = Counter(key.rpartition(".")[2] for key in other)
    written |= {key if last[end := key.rpartition(".")[2]] > 1 else end: value for key, value in other.items()}
    exact = True
    for label, value in written.items():
        text = value if isinstance(value, str) else json.dumps(value)
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_")
        exact &= plain == text and not (isinstance(value, str) and _reads_as_another(value))
        parts.append(f"{label}={plain}" if label else plain)
    name = "-".join([*parts, f"s{made.seed}"])
    return name if exact and len(name) <= LONGEST else f"{name[: LONGEST - 13]}-{trial.identity}"


def _reads_as_another(text: str) -> bool:
    """Whether a text is written like a value that is none."""
    try:
        return not isinstance(json.loads(text), str)
    except ValueError:
        return False
