"""The trials of a sweep: the experiments that its grids or its random search give, without duplicates."""

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
from infoaug.models.frameworks.settings import ContrastiveSettings, views_of_a_row
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import IMAGE_SHARE, ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.identity import identity as identity_of
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.sweep.config import (
    RUNTIME,
    SHORT,
    Range,
    SweepConfig,
    has_negatives,
    without_unused_negatives,
)

Point = dict[str, Any]  # a value for every varied setting, by its name in the sweep's config

SECTIONS = ("clips", "scenes", "extract", "score", "pretrain")  # a training depends on these and on the seed
TRAINING = ("pretrain.", "score.policy", "seed")  # settings that an adaptive search may vary
NEGATIVES = SHORT["negatives"]
# These have a fixed place in the name of a trial and a column of their own in the comparison.
ARMS = ("pretrain.framework", "score.policy", "pretrain.twin_weight", NEGATIVES, "seed")
DEFAULT = "default"  # shown for a setting that an experiment does not set
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep.

    Attributes:
        name: the varied settings in short: `simclr-random-w0.5-s0`.
        point: the values of the varied settings.
        config: the experiment.
        other: values of the varied settings that are not in `ARMS`, by dotted name.
    """

    name: str
    point: Point
    config: ExperimentConfig
    other: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Digest of the experiment, which does not depend on the trial's name."""
        return identity_of(self.config)

    @property
    def model(self) -> str:
        """Equal for trials that build the same model and optimizer, but for the twin branch and its heads."""
        return self.config.model_dump_json(
            include={"pretrain": True, "extract": {"image_size"}}, exclude={"pretrain": {"twin_weight", "epochs"}}
        )

    @property
    def extraction(self) -> str:
        """Equal for trials that share the extracted patches."""
        return self.config.model_dump_json(include={"clips", "scenes", "extract"})

    @property
    def scoring(self) -> str:
        """Equal for trials that share their scores: the policies choose twins among the same ones."""
        inputs = {"clips", "scenes", "extract", "score"}
        return self.config.model_dump_json(include=inputs, exclude={"score": {"policy"}})

    @property
    def has_twins(self) -> bool:
        """Whether the trial trains a twin branch."""
        return self.config.score.policy != "none" and self.config.pretrain.twin_weight > 0

    @property
    def negatives(self) -> str:
        """The kind of negatives and their other settings; empty for a framework without negatives."""
        if not has_negatives(self.config.pretrain.framework):
            return ""
        chosen = dict(self.config.pretrain.framework_settings.written().get("negatives", {}))
        kind = chosen.pop("kind", "all")
        rest = ",".join(f"{k}={v}" for k, v in chosen.items())
        return f"{kind}({rest})" if rest else kind


def planned(config: SweepConfig) -> list[Trial]:
    """All trials of a grid or a random search, in order; none for Optuna, which chooses them one by one.

    Values without an effect are left out: the twin weight without twins, negatives of a framework that has none, and
    settings of negatives when all are used. Several combinations may therefore be the same trial, which is run once.

    Raises:
        UsageError: an unknown setting or an invalid value.
    """
    if config.sweep.search == "optuna":
        return []
    points = _grid(config) if config.sweep.search == "grid" else _drawn(config)
    by_identity: dict[str, Trial] = {}
    for point in points:
        trial = make(config, point)
        by_identity.setdefault(trial.identity, trial)
    return list(by_identity.values())


def make(config: SweepConfig, point: Point) -> Trial:
    """Make the trial of a point. Raises UsageError for an unknown setting or an invalid value."""
    where = "sweep: " + ", ".join(f"{key}={value}" for key, value in point.items())
    full = _full(point)
    values = config.model_dump(mode="json", exclude_unset=True, exclude={"sweep"})
    framework = full.get("pretrain.framework", config.pretrain.framework)
    if framework in frameworks.available():  # otherwise refused below
        recipes, own = config.sweep.recipes, config.sweep.frameworks.get(framework, {})
        if recipes and framework not in recipes:
            raise UsageError(f"sweep.recipes: there is none for '{framework}', only for {', '.join(recipes)}")
        recipe = recipes[framework] if recipes else {}
        values["pretrain"] = _over(_over(recipe, values.get("pretrain", {})), own)
    for key, value in full.items():
        settings.put(values, key, value, where)
    if isinstance(values.get("pretrain"), dict):
        values["pretrain"] = without_unused_negatives(values["pretrain"])
    experiment = _normalised(settings.checked(ExperimentConfig, values, where), config)
    content = _values(experiment)
    other = {key: _at(content, key) for key in _varied(config) if key not in ARMS}
    trial = Trial("", point, experiment, {key: str(value) for key, value in other.items()})
    return replace(trial, name=_name(trial, other, NEGATIVES in _varied(config)))


def example(config: SweepConfig) -> Trial:
    """A trial of an adaptive search with the first value of every setting, to check before the search begins.

    Raises:
        UsageError: an invalid value, or a setting that an adaptive search may not vary.
    """
    for key in config.sweep.space:
        if not full_name(key).startswith(TRAINING):
            raise UsageError(f"sweep.space: optuna varies settings of the training, not '{key}': use search 'random'")
    return make(config, {key: v.low if isinstance(v, Range) else v[0] for key, v in config.sweep.space.items()})


def full_name(key: str) -> str:
    """The dotted name of a setting, which may be given by its short name."""
    return SHORT.get(key, key)


def budgeted(trial: Trial, config: SweepConfig, share_with_twin: float) -> Trial:
    """The trial with the number of epochs that the sweep's budget gives its arm.

    A step passes two images of every patch through the backbone, its small views, which count by their pixels, and a
    third image for each patch with a twin. With the budget `passes`, an arm without twins trains for correspondingly
    more epochs. `share_with_twin`: share of the patches that have a twin under the other policies, 0–1.
    """
    if config.sweep.budget == "steps" or trial.config.score.policy != "none":
        return trial
    rows_with_twin = trial.config.pretrain.rows_with_twin(share_with_twin)
    views = views_of_a_row(trial.config.pretrain.framework_settings, trial.config.extract.image_size)
    epochs = round(trial.config.pretrain.epochs * (views + rows_with_twin) / views)
    pretrain = trial.config.pretrain.model_copy(update={"epochs": epochs})
    return replace(trial, config=trial.config.model_copy(update={"pretrain": pretrain}))


def identity(config: SweepConfig) -> str:
    """Digest of a sweep: a sweep that is started again with the same digest resumes."""
    content = config.model_dump(mode="json", exclude=RUNTIME)
    if config.sweep.recipes:  # recipes apply only to settings that the config does not set
        content["given"] = config.pretrain.model_dump(mode="json", exclude_unset=True, exclude=RUNTIME["pretrain"])
    return digest_of(content)


def _grid(config: SweepConfig) -> Iterator[Point]:
    for block in config.sweep.grid:
        for values in itertools.product(*block.values()):
            yield dict(zip(block, values, strict=True))


def _drawn(config: SweepConfig) -> Iterator[Point]:
    random = np.random.default_rng(config.sweep.seed)
    for _ in range(config.sweep.samples):
        yield {key: _draw(values, random) for key, values in config.sweep.space.items()}


def _draw(values: Range | list[Any], random: np.random.Generator) -> Any:
    """Draw one value from the distribution that Optuna's random sampler uses for the same range."""
    if isinstance(values, list):
        return values[random.integers(len(values))]
    low, high = values.low, values.high
    if not values.log:
        return int(random.integers(int(low), int(high) + 1)) if values.of_integers else random.uniform(low, high)
    # Optuna widens a logarithmic range of integers by half a step on both sides, so that each integer stands for the
    # interval that is rounded to it. Ray Tune's `lograndint` rounds down instead and draws low values less often.
    margin = 0.5 if values.of_integers else 0.0
    drawn = math.exp(random.uniform(math.log(low - margin), math.log(high + margin)))
    return int(np.clip(round(drawn), low, high)) if values.of_integers else float(np.clip(drawn, low, high))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings section by section, those of `above` first; a copy."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _full(point: Point) -> Point:
    """A point by dotted names, sections before their settings. Raises UsageError for a setting that cannot vary."""
    full: Point = {}
    for key, value in sorted(point.items(), key=lambda item: full_name(item[0]).count(".")):
        section, _, rest = full_name(key).partition(".")
        known = section == "sweep" or section in ExperimentConfig.model_fields
        inside = section in SECTIONS and rest and rest.partition(".")[0] not in RUNTIME.get(section, ())
        if known and section != "seed" and not inside:
            raise UsageError(
                f"sweep: '{key}' cannot be varied: a sweep varies the seed and settings of {', '.join(SECTIONS)} that "
                "the training depends on"
            )
        if full_name(key) in full:
            raise UsageError(f"sweep: '{key}' is given twice, by its short and by its dotted name")
        if full_name(key) == NEGATIVES and isinstance(value, str):
            value = {"kind": value}
        full[full_name(key)] = value
    return full


def _normalised(experiment: ExperimentConfig, config: SweepConfig) -> ExperimentConfig:
    """The experiment without values that have no effect, so that equal experiments have equal identities."""
    pretrain, scoring = experiment.pretrain, experiment.score
    if scoring.policy == "none" or not pretrain.twin_weight:
        scoring = scoring.model_copy(update={"policy": "none"})
        pretrain = pretrain.model_copy(update={"twin_weight": config.pretrain.twin_weight})
    if pretrain.images is None:
        pretrain = pretrain.model_copy(update={"image_share": IMAGE_SHARE})
    if scoring.policy in ("none", "later"):  # no twin is another track
        pretrain = pretrain.model_copy(update={"twin_time": "own", "twins": 1})
    if pretrain.twins == 1:
        pretrain = pretrain.model_copy(update={"twin_choice": "uniform"})
    typed = pretrain.framework_settings
    written = typed.written()
    if isinstance(typed, ContrastiveSettings) and "negatives" in written:
        del written["negatives"]
        if typed.negatives.kind != "all":
            written["negatives"] = typed.negatives.model_dump(exclude_defaults=True)
        pretrain = pretrain.model_copy(update={"framework_settings": type(typed).model_validate(written)})
    return experiment.model_copy(update={"score": scoring, "pretrain": pretrain})


def _varied(config: SweepConfig) -> list[str]:
    """Dotted names of the settings that a sweep varies."""
    keys = [*itertools.chain(*config.sweep.grid), *config.sweep.space]
    return list(dict.fromkeys(map(full_name, keys)))


def _values(experiment: ExperimentConfig) -> dict[str, Any]:
    """All settings, also those whose default is left out when they are stored."""
    content = experiment.model_dump(mode="json")
    for name in SECTIONS:
        section = getattr(experiment, name)
        content[name] = {key: getattr(section, key) for key in type(section).model_fields} | content[name]
    return content


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return DEFAULT
        content = content[part]
    return content


def _name(trial: Trial, other: Mapping[str, Any], with_negatives: bool) -> str:
    """The varied settings in short, with a digest where they might not be unique."""
    config = trial.config
    parts = [config.pretrain.framework, config.score.policy]
    if config.score.policy != "none":
        weight = config.pretrain.twin_weight
        short = f"{weight:g}"
        parts.append("w" + (short if float(short) == weight else repr(weight)))
    written = {"": trial.negatives} if with_negatives and trial.negatives else {}
    last = Counter(key.rpartition(".")[2] for key in other)
    written |= {key if last[end := key.rpartition(".")[2]] > 1 else end: value for key, value in other.items()}
    exact = True
    for label, value in written.items():
        text = value if isinstance(value, str) else json.dumps(value)
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_")
        exact &= plain == text and not (isinstance(value, str) and _reads_as_another(value))
        parts.append(f"{label}={plain}" if label else plain)
    name = "-".join([*parts, f"s{config.seed}"])
    return name if exact and len(name) <= LONGEST else f"{name[: LONGEST - 13]}-{trial.identity}"


def _reads_as_another(text: str) -> bool:
    """Whether a string looks like another JSON value, such as "1" or "true"."""
    try:
        return not isinstance(json.loads(text), str)
    except ValueError:
        return False
