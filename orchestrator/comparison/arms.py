"""Arms: the trials of a sweep, put together by what was the same in them, and how they are called.

An arm is all that was chosen but the seed. What is compared, the twins' policy and weight, is told from the setting in
which it is compared: framework, negatives, and whatever else was swept.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
}  # in the order of the tables; unknown ones come after, by name
POLICIES = {"none": "none", "random": "random", "nearest": "nearest", "mutual-information": "MI twin"}
METRICS = {"probe": "linear probe", "knn": "kNN"}
MI = "mutual-information"


@dataclass(frozen=True)
class TrialResult:
    """One training of a sweep and what came out of it.

    Attributes:
        framework: as the config names it, such as `moco`.
        policy: of the twins: `none`, `random`, `nearest` or `mutual-information`.
        twin_weight: λ in L = L_view + λ · L_twin; 0 where the policy is none.
        negatives: `all`, `ball`, `ring` or another; empty for a framework without negatives.
        seed: of the training.
        results: by data set as the config names it: `knn`, `probe`, `validation_knn`, `validation_probe`, `floor_knn`,
            `floor_probe` (shares, 0–1), `rank_me`, `floor_rank_me`, `classes`; for a cross-domain one `domains`
            (names), `knn_matrix` and `probe_matrix` (shares; rows trained on, columns tested on). Any may be missing.
        seconds: of training, by the wall clock.
        epochs: trained.
        passes: images that went through the trained backbone in training.
        other: further settings that were swept, by their dotted name.
        run: MLflow's id.

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

    def __post_init__(self) -> None:
        if self.policy == "none" and self.twin_weight:
            raise ValueError(f"a trial with the twin policy none has twin_weight {self.twin_weight:g}: give it 0")


@dataclass(frozen=True)
class Sweep:
    """All that is told of a sweep.

    Attributes:
        name: of the sweep.
        created: when, ISO 8601.
        trials: that came to their end, in any order.
        twin_weight: at which the tables compare the policies.
        budget: what all arms had the same of: `steps` of training, or `passes` of images through the backbone.
        source: one sentence about the video.
        synthetic: whether that video is rendered.
        planned: how many trials there were to be.
        stopped: trials ended early, and why.
        failed: trials that failed, and why.
        config_yaml: the sweep's resolved config.
        packages: versions, by name.
        commit: of this code, empty where unknown.
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
    """In what arms are compared."""

    framework: str
    negatives: str
    other: tuple[tuple[str, str], ...]


class Arm(NamedTuple):
    """What trials have in common that differ only in their seed."""

    setting: Setting
    policy: str
    twin_weight: float


Arms = Mapping[Arm, Mapping[int, TrialResult]]  # by arm and seed


def arm_of(trial: TrialResult) -> Arm:
    """The arm that a trial belongs to."""
    setting = Setting(trial.framework, trial.negatives, tuple(sorted(trial.other.items())))
    return Arm(setting, trial.policy, trial.twin_weight)


def grouped(trials: Iterable[TrialResult]) -> dict[Arm, dict[int, TrialResult]]:
    """Trials by arm and seed, always in the order of the tables: that of the trials does not matter.

    Raises:
        ValueError: two trials are of the same arm and seed.
    """
    arms: dict[Arm, dict[int, TrialResult]] = {}
    for trial in sorted(trials, key=lambda trial: (_place(arm_of(trial)), trial.seed, trial.run)):
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
    """One number of an arm's results by seed; those that are missing or not finite are left out."""
    found = {seed: trial.results.get(dataset, {}).get(key) for seed, trial in arms.get(arm, {}).items()}
    return {seed: float(value) for seed, value in found.items() if value is not None and math.isfinite(value)}


def all_trials(arms: Arms) -> list[TrialResult]:
    """The trials in the order of the tables."""
    return [trial for seeds in arms.values() for trial in seeds.values()]


def settings(arms: Arms) -> list[Setting]:
    """The settings in the order of the tables."""
    return list(dict.fromkeys(arm.setting for arm in arms))


def policies(arms: Arms) -> list[str]:
    """The policies in the order of the tables."""
    return sorted({arm.policy for arm in arms}, key=_policy_place)


def weights(arms: Arms, setting: Setting, policy: str = MI) -> list[float]:
    """The twin weights at which a policy was trained in a setting, ascending."""
    return sorted(arm.twin_weight for arm in arms if (arm.setting, arm.policy) == (setting, policy))


def at_weight(setting: Setting, policy: str, twin_weight: float) -> Arm:
    """An arm of a setting; without twins there is no weight."""
    return Arm(setting, policy, 0.0 if policy == "none" else twin_weight)


def datasets(arms: Arms) -> list[str]:
    """The data sets as the config names them."""
    return list(dict.fromkeys(name for trial in all_trials(arms) for name in trial.results))


def dataset_titles(names: Iterable[str]) -> dict[str, str]:
    """How data sets are called: the last part of a path where that tells them apart, and `scenes` as synthetic."""
    short = {name: "scenes (synthetic)" if name == "scenes" else Path(name).name or name for name in names}
    return {name: title if list(short.values()).count(title) == 1 else name for name, title in short.items()}


def setting_names(arms: Arms) -> dict[Setting, str]:
    """How settings are called: the framework, and of the rest what tells it from others of the framework."""
    found = settings(arms)
    names = {}
    for setting in found:
        ours = [other for other in found if other.framework == setting.framework]
        parts = [framework_name(setting.framework)]
        if len({other.negatives for other in ours}) > 1:
            parts.append(setting.negatives or "no negatives")
        same = set.intersection(*(set(other.other) for other in ours))
        parts += [f"{name} = {value}" for name, value in setting.other if (name, value) not in same]
        names[setting] = ", ".join(parts)
    return names


def framework_name(framework: str) -> str:
    """How a framework is called."""
    return FRAMEWORKS.get(framework, framework)


def policy_name(policy: str) -> str:
    """How a twin policy is called."""
    return POLICIES.get(policy, policy)


def describe(arm: Arm) -> str:
    """An arm in words, with all that it is told by."""
    setting = arm.setting
    parts = [framework_name(setting.framework)]
    parts += [f"negatives {setting.negatives}"] if setting.negatives else []
    parts += [f"{name} = {value}" for name, value in setting.other]
    parts.append(f"twins {arm.policy}" + ("" if arm.policy == "none" else f" at weight {arm.twin_weight:g}"))
    return ", ".join(parts)


def _place(arm: Arm) -> tuple[Any, ...]:
    """Where an arm stands in the tables."""
    setting = arm.setting
    order = [*FRAMEWORKS].index(setting.framework) if setting.framework in FRAMEWORKS else len(FRAMEWORKS)
    negatives = (setting.negatives != "all", setting.negatives)
    return order, setting.framework, negatives, setting.other, _policy_place(arm.policy), arm.twin_weight


def _policy_place(policy: str) -> tuple[int, str]:
    return [*POLICIES].index(policy) if policy in POLICIES else len(POLICIES), policy
