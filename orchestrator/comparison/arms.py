"""The trials of a sweep, grouped into arms, and the names of arms in tables.

Trials of one arm differ only in their seed. An arm is a treatment (twin policy and twin weight) in a setting
(framework, negatives, and any other swept settings); treatments are compared within a setting.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from infoaug.orchestrator.dataset_names import titles

FRAMEWORKS = {
    "simclr": "SimCLR",
    "moco": "MoCo v2",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
    "nnclr": "NNCLR",
    "dcl": "DCL",
    "swav": "SwAV",
    "dino": "DINO",
}  # in the order of the tables; others follow by name
POLICIES = {
    "none": "none",
    "other-clip": "other clip",
    "same-clip": "same clip",
    "random": "random",
    "shuffled": "shuffled",
    "nearest": "nearest",
    "correlation": "correlation",
    "later": "own later",
    "mutual-information": "MI twin",
    "later+mutual-information": "later + MI",
    "oracle": "same object",
}  # in the order of the tables
MI = "mutual-information"


@dataclass(frozen=True)
class TrialResult:
    """One trial of a sweep and its results.

    Attributes:
        framework: as the config names it, such as `moco`.
        policy: twin policy, one of `POLICIES`.
        twin_weight: λ in L = L_view + λ · L_twin; 0 with the policy `none`.
        negatives: `all`, `ball`, `ring` or another; empty for a framework without negatives.
        seed: the training's seed.
        results: by data set as the config names it: those of `METRICS` (shares, 0–1) that were measured,
            `validation_knn`, `validation_probe`, `rank_me`, `classes`; `floor_knn` and so on for the backbone before
            training; for a
            cross-domain data set `domains` (names), `knn_matrix` and `probe_matrix` (shares; rows are trained on,
            columns tested on). Any may be missing.
        seconds: wall-clock training time.
        epochs: number of epochs trained.
        passes: number of images that went through the backbone in training; small views count by their pixels.
        other: further swept settings, by their dotted name.
        run: MLflow run id.
        curves: metrics of training by epoch, by name; empty for trials of before they were kept.

    Raises:
        ValueError: a trial without twins has a twin weight.
    """

    framework: str
    policy: str
    twin_weight: float
    negatives: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    seconds: float
    epochs: int
    passes: float
    other: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy == "none" and self.twin_weight:
            raise ValueError(f"a trial with the twin policy none has twin_weight {self.twin_weight:g}: give it 0")


@dataclass(frozen=True)
class Sweep:
    """Content of a sweep's comparison.

    Attributes:
        name: the sweep's name.
        created: date and time, ISO 8601.
        trials: the completed trials, in any order.
        twin_weight: the twin weight at which the tables compare policies.
        budget: what is equal for all arms: training `steps`, or `passes` of images through the backbone.
        source: one sentence about the video.
        synthetic: whether the video is rendered.
        planned: number of planned trials.
        stopped: names of the trials that were stopped early, with the reasons.
        failed: names of the trials that failed, with the reasons.
        config_yaml: the sweep's resolved config.
        packages: versions of packages, by name.
        commit: Git commit of this code, empty if unknown.
    """

    name: str
    created: str
    trials: Sequence[TrialResult]
    twin_weight: float
    budget: Literal["steps", "passes"]
    source: str
    synthetic: bool
    planned: int
    stopped: Sequence[tuple[str, str]] = ()
    failed: Sequence[tuple[str, str]] = ()
    config_yaml: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


class Setting(NamedTuple):
    """What is equal for the arms that are compared with each other."""

    framework: str
    negatives: str
    other: tuple[tuple[str, str], ...]


class Arm(NamedTuple):
    """What is equal for trials that differ only in their seed."""

    setting: Setting
    policy: str
    twin_weight: float


Arms = Mapping[Arm, Mapping[int, TrialResult]]  # by arm and seed


def arm_of(trial: TrialResult) -> Arm:
    """The arm that a trial belongs to."""
    setting = Setting(trial.framework, trial.negatives, tuple(sorted(trial.other.items())))
    return Arm(setting, trial.policy, trial.twin_weight)


def grouped(trials: Iterable[TrialResult]) -> dict[Arm, dict[int, TrialResult]]:
    """Group trials by arm and seed, in the order of the tables, whatever the order of the trials.

    Raises:
        ValueError: two trials have the same arm and seed.
    """
    arms: dict[Arm, dict[int, TrialResult]] = {}
    for trial in sorted(trials, key=lambda trial: (_sort_key(arm_of(trial)), trial.seed, trial.run)):
        seeds = arms.setdefault(arm_of(trial), {})
        if trial.seed in seeds:
            runs = " and ".join(repr(run) for run in (seeds[trial.seed].run, trial.run) if run)
            raise ValueError(
                f"two trials are both {describe(arm_of(trial))}, seed {trial.seed}"
                f"{f' (runs {runs})' if runs else ''}: leave one of them out"
            )
        seeds[trial.seed] = trial
    return arms


def values(arms: Arms, arm: Arm, dataset: str, key: str) -> dict[int, float]:
    """One number of an arm's results by seed, without missing and non-finite values."""
    by_seed = {seed: trial.results.get(dataset, {}).get(key) for seed, trial in arms.get(arm, {}).items()}
    return {seed: float(value) for seed, value in by_seed.items() if value is not None and math.isfinite(value)}


def all_trials(arms: Arms) -> list[TrialResult]:
    """The trials in the order of the tables."""
    return [trial for seeds in arms.values() for trial in seeds.values()]


def settings(arms: Arms) -> list[Setting]:
    """The settings in the order of the tables."""
    return list(dict.fromkeys(arm.setting for arm in arms))


def policies(arms: Arms) -> list[str]:
    """The policies in the order of the tables."""
    return sorted({arm.policy for arm in arms}, key=_policy_rank)


def weights(arms: Arms, setting: Setting, policy: str = MI) -> list[float]:
    """The twin weights that a policy was trained with in a setting, ascending."""
    return sorted(arm.twin_weight for arm in arms if (arm.setting, arm.policy) == (setting, policy))


def at_weight(setting: Setting, policy: str, twin_weight: float) -> Arm:
    """The arm of a policy in a setting; its weight is 0 without twins."""
    return Arm(setting, policy, 0.0 if policy == "none" else twin_weight)


def datasets(arms: Arms) -> list[str]:
    """The data sets as the config names them."""
    return list(dict.fromkeys(name for trial in all_trials(arms) for name in trial.results))


def dataset_titles(names: Iterable[str]) -> dict[str, str]:
    """Names of data sets in tables: the end of the path that tells it from the others; `scenes` is synthetic."""
    return {name: "scenes (synthetic)" if name == "scenes" else title for name, title in titles(names).items()}


def setting_names(arms: Arms) -> dict[Setting, str]:
    """Names of settings in tables: the framework, and what distinguishes it from its other settings."""
    listed = settings(arms)
    names = {}
    for setting in listed:
        siblings = [other for other in listed if other.framework == setting.framework]
        parts = [framework_name(setting.framework)]
        if len({other.negatives for other in siblings}) > 1:
            parts.append(setting.negatives or "no negatives")
        shared = set.intersection(*(set(other.other) for other in siblings))
        parts += [f"{name} = {value}" for name, value in setting.other if (name, value) not in shared]
        names[setting] = ", ".join(parts)
    return names


def framework_name(framework: str) -> str:
    """A framework's name in tables."""
    return FRAMEWORKS.get(framework, framework)


def policy_name(policy: str) -> str:
    """A twin policy's name in tables."""
    return POLICIES.get(policy, policy)


def describe(arm: Arm) -> str:
    """An arm in words, with everything that identifies it."""
    setting = arm.setting
    parts = [framework_name(setting.framework)]
    parts += [f"negatives {setting.negatives}"] if setting.negatives else []
    parts += [f"{name} = {value}" for name, value in setting.other]
    parts.append(f"twins {arm.policy}" + ("" if arm.policy == "none" else f" at weight {arm.twin_weight:g}"))
    return ", ".join(parts)


def _sort_key(arm: Arm) -> tuple[Any, ...]:
    """Position of an arm in the tables."""
    setting = arm.setting
    order = [*FRAMEWORKS].index(setting.framework) if setting.framework in FRAMEWORKS else len(FRAMEWORKS)
    negatives = (setting.negatives != "all", setting.negatives)
    return order, setting.framework, negatives, setting.other, _policy_rank(arm.policy), arm.twin_weight


def _policy_rank(policy: str) -> tuple[int, str]:
    return [*POLICIES].index(policy) if policy in POLICIES else len(POLICIES), policy
