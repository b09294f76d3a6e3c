"""Effect of mutual-information twins on accuracy: one table for each data set and metric of a sweep.

Each row is one setting, with means and paired tests over seeds. The last row summarises all frameworks. Its units are
seeds too: the frameworks of a seed share their video, their twins and their order of patches, so they are averaged
before the test, and do not count as independent.

A single seed has the intervals of `one_seed` instead, over what it was tested on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import MI, Arm, Arms, Setting, Sweep, values
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting import one_seed
from infoaug.orchestrator.reporting.statistics import Paired, Summary, corrected, of_same_units, paired, summary

T = TypeVar("T")

SIGNIFICANCE_LEVEL = 0.05  # of q-values


@dataclass(frozen=True)
class Row:
    """One row of an effect table.

    Attributes:
        name: the setting's name.
        setting: None in the row of all frameworks.
        accuracy: mean over seeds, for each policy that was trained; of one seed with the interval of `one_seed`.
        to_none: MI twin − no twins, paired within seeds; of one seed with the interval of `one_seed`.
        to_random: MI twin − random twins at the same weight, paired within seeds.
        frameworks: number of frameworks in `to_none` and in `to_random`.
    """

    name: str
    setting: Setting | None
    accuracy: Mapping[str, Summary]
    to_none: Paired | None
    to_random: Paired | None
    frameworks: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class WeightChoice:
    """The twin weight chosen for a setting by validation accuracy, and its accuracy on the test images.

    Attributes:
        name: the setting's name.
        weight: the weight of highest mean validation accuracy, among those with the most seeds; the smallest if several
            are equal.
        tried: number of weights to choose from.
        validation: validation accuracy at this weight.
        test: test accuracy at this weight.
        to_none: on the test images, MI twin at this weight − no twins, paired within seeds.
    """

    name: str
    weight: float
    tried: int
    validation: Summary
    test: Summary
    to_none: Paired | None


@dataclass(frozen=True)
class EffectTable:
    """Accuracies and effects on one data set by one metric.

    Attributes:
        dataset: the data set as the config names it.
        title: the data set's name in tables.
        metric: a key of `METRICS`.
        policies: the columns.
        rows: one for each setting with an accuracy.
        total: the row of all frameworks: means over the frameworks that have the arm, without intervals, and
            differences with one value per seed (the mean over the frameworks that have both arms, each the mean of its
            settings), for the seeds that all of these have. None for a single framework.
        baseline: accuracy of the backbone before training, over seeds; None if unknown, or if some trials start from
            random weights and some from others.
        initial: whether these are no random weights.
        chance: see `Metric.chance`.
        seeds: the smallest and the largest number of seeds of an arm.
        choices: one for each setting; empty unless some setting has validation accuracies at two weights or more.
        over: what the intervals of a single seed are over, `300 test images`; empty if there are none.
    """

    dataset: str
    title: str
    metric: str
    policies: Sequence[str]
    rows: Sequence[Row]
    total: Row | None
    baseline: Summary | None
    initial: bool
    chance: float | None
    seeds: tuple[int, int]
    choices: Sequence[WeightChoice]
    over: str = ""

    @property
    def tests(self) -> list[Paired]:
        """The comparisons with a p-value; q-values are adjusted over all of them."""
        rows = [*self.rows, *([self.total] if self.total else [])]
        return [test for row in rows for test in (row.to_none, row.to_random) if test and test.p is not None]


def effect_tables(sweep: Sweep) -> list[EffectTable]:
    """All effect tables of a sweep that have rows.

    Raises:
        ValueError: two trials have the same arm and seed.
    """
    trials = arms.grouped(sweep.trials)
    titles = arms.dataset_titles(arms.datasets(trials))
    tables = [_effect_table(sweep, trials, name, title, metric) for name, title in titles.items() for metric in METRICS]
    return [table for table in tables if table.rows]


def to_reference(trials: Arms, arm: Arm, policy: str, dataset: str, key: str) -> Paired | None:
    """An arm − the arm of another policy in the same setting and at the same weight, paired within seeds.

    If they share one seed, the difference has the interval of `one_seed.compared`, and no test.
    """
    reference = arms.at_weight(arm.setting, policy, arm.twin_weight)
    if reference == arm:
        return None
    treated, control = (values(trials, each, dataset, key) for each in (arm, reference))
    test = paired(treated, control)
    if test is None or test.difference.n > 1 or key not in METRICS:
        return test
    (seed,) = treated.keys() & control.keys()
    return _within_seed(trials, arm, reference, seed, dataset, key)


def baseline(trials: Arms, dataset: str, key: str) -> Summary | None:
    """A number of the backbone before training over seeds; several values of one seed are averaged first.

    A single seed has the interval of `one_seed.measured`.
    """
    by_seed: dict[int, list[Summary]] = {}
    for arm in trials:
        for seed in values(trials, arm, dataset, f"{one_seed.FLOOR}{key}"):
            before = one_seed.before(trials[arm][seed].results[dataset])
            by_seed.setdefault(seed, []).append(one_seed.measured(before, key))
    means = [of_same_units(by_seed[seed]) for seed in sorted(by_seed)]
    return _over_seeds(means) if means else None


def accuracy_of(trials: Arms, arm: Arm, dataset: str, metric: str) -> Summary | None:
    """Mean and interval of an arm's accuracy: over seeds, or of a single one over what it was tested on.

    None if the arm has no such accuracy.
    """
    by_seed = values(trials, arm, dataset, metric)
    each = [one_seed.measured(trials[arm][seed].results[dataset], metric) for seed in by_seed]
    return _over_seeds(each) if each else None


def below_baseline(table: EffectTable) -> dict[str, list[str]]:
    """The arms whose mean accuracy does not exceed that of the untrained backbone: policies, by name of the setting."""
    if table.baseline is None:
        return {}
    least = table.baseline.mean
    below = {
        row.name: [policy for policy, accuracy in row.accuracy.items() if accuracy.mean <= least] for row in table.rows
    }
    return {name: policies for name, policies in below.items() if policies}


def is_significant(test: Paired | None) -> bool:
    """Whether a difference is significant after adjustment for multiple tests."""
    return test is not None and test.q is not None and test.q < SIGNIFICANCE_LEVEL


def _over_seeds(each: Sequence[Summary]) -> Summary:
    return each[0] if len(each) == 1 else summary([of.mean for of in each])


def _within_seed(trials: Arms, arm: Arm, reference: Arm, seed: int, dataset: str, metric: str) -> Paired:
    """The difference of two arms in one seed, with the interval over what they were tested on."""
    treatment, control = (trials[each][seed].results[dataset] for each in (arm, reference))
    difference, is_paired = one_seed.compared(treatment, control, metric)
    return Paired(difference, None, independent=not is_paired)


def _effect_table(sweep: Sweep, trials: Arms, dataset: str, title: str, metric: str) -> EffectTable:
    columns, names = arms.policies(trials), arms.setting_names(trials)
    rows: dict[Setting, Row] = {}
    for setting in arms.settings(trials):
        each = {
            policy: accuracy_of(trials, arms.at_weight(setting, policy, sweep.twin_weight), dataset, metric)
            for policy in columns
        }
        accuracy = {policy: value for policy, value in each.items() if value}
        if accuracy:
            arm = arms.at_weight(setting, MI, sweep.twin_weight)
            to_none, to_random = (to_reference(trials, arm, policy, dataset, metric) for policy in ("none", "random"))
            rows[setting] = Row(names[setting], setting, accuracy, to_none, to_random)
    total = _total(sweep, trials, rows, columns, dataset, metric)
    all_rows = [*rows.values(), *([total] if total else [])]
    with_q = corrected([test for row in all_rows for test in (row.to_none, row.to_random)])
    all_rows = [
        replace(row, to_none=none, to_random=random)
        for row, none, random in zip(all_rows, with_q[::2], with_q[1::2], strict=True)
    ]
    counts = [cell.n for row in rows.values() for cell in row.accuracy.values()]
    classes = {int(n) for arm in trials for n in values(trials, arm, dataset, "classes").values()}
    starts = {"baseline" in t.results[dataset] for t in arms.all_trials(trials) if dataset in t.results}
    return EffectTable(
        dataset,
        title,
        metric,
        columns,
        all_rows[: len(rows)],
        all_rows[-1] if total else None,
        baseline(trials, dataset, metric) if len(starts) == 1 else None,
        starts == {True},
        METRICS[metric].chance(classes.pop() if len(classes) == 1 else None),
        (min(counts), max(counts)) if counts else (0, 0),
        _choices(trials, list(rows), names, dataset, metric),
        _over(trials, rows.values(), dataset, metric),
    )


def _over(trials: Arms, rows: Collection[Row], dataset: str, metric: str) -> str:
    """What the intervals of a single seed are over; without a number if trials were tested on different numbers."""
    tests = [test.difference for row in rows for test in (row.to_none, row.to_random) if test]
    if not any(of.bounds for of in (*tests, *(of for row in rows for of in row.accuracy.values()))):
        return ""
    results = (trial.results.get(dataset, {}) for trial in arms.all_trials(trials))
    every = {units for result in results if metric in result and (units := one_seed.units(result, metric))}
    return every.pop() if len(every) == 1 else next(iter(every)).partition(" ")[2]


def _total(
    sweep: Sweep, trials: Arms, rows: Mapping[Setting, Row], columns: Sequence[str], dataset: str, metric: str
) -> Row | None:
    """The row of all frameworks, without q-values; None for a single framework."""
    if len({setting.framework for setting in rows}) < 2:
        return None
    accuracy = {}
    for policy in columns:
        means = {setting: row.accuracy[policy].mean for setting, row in rows.items() if policy in row.accuracy}
        if means:
            accuracy[policy] = replace(summary([*_by_framework(means).values()]), half=None)
    tests, counts = [], []
    for policy in ("none", "random"):
        pairs = {}
        for setting in rows:
            both = arms.at_weight(setting, MI, sweep.twin_weight), arms.at_weight(setting, policy, sweep.twin_weight)
            if values(trials, both[0], dataset, metric).keys() & values(trials, both[1], dataset, metric).keys():
                pairs[setting] = both
        tests.append(_over_frameworks(trials, pairs, dataset, metric))
        counts.append(len({setting.framework for setting in pairs}))
    return Row("all frameworks", None, accuracy, tests[0], tests[1], (counts[0], counts[1]))


def _over_frameworks(
    trials: Arms, pairs: Mapping[Setting, tuple[Arm, Arm]], dataset: str, metric: str
) -> Paired | None:
    """Compare two arms over all frameworks. A seed counts if every setting was run with it in both arms.

    Args:
        trials: by arm and seed.
        pairs: for each setting, the treatment and the reference; they share a seed.
        dataset: as the config names it.
        metric: a key of `METRICS`.

    Returns:
        None for a single framework, or without such a seed.
    """
    if len({setting.framework for setting in pairs}) < 2:
        return None
    numbers = {setting: [values(trials, arm, dataset, metric) for arm in pair] for setting, pair in pairs.items()}
    shared = sorted(set.intersection(*(set(of) for pair in numbers.values() for of in pair)))
    if len(shared) == 1:
        each = {
            setting: _within_seed(trials, *pair, shared[0], dataset, metric).difference
            for setting, pair in pairs.items()
        }
        groups = _grouped(each).values()
        return Paired(of_same_units([of_same_units(group) for group in groups]), None, independent=True)
    means: list[dict[int, float]] = [{}, {}]
    for side, mean in enumerate(means):
        for seed in shared:
            of_settings = _by_framework({setting: pair[side][seed] for setting, pair in numbers.items()})
            mean[seed] = float(np.mean([*of_settings.values()]))
    return paired(*means)


def _by_framework(numbers: Mapping[Setting, float]) -> dict[str, float]:
    """Average over the settings of each framework."""
    return {framework: float(np.mean(group)) for framework, group in _grouped(numbers).items()}


def _grouped(of_settings: Mapping[Setting, T]) -> dict[str, list[T]]:
    """What there is of each setting, by framework."""
    groups: dict[str, list[T]] = {}
    for setting, value in of_settings.items():
        groups.setdefault(setting.framework, []).append(value)
    return groups


def _choices(
    trials: Arms, settings: Sequence[Setting], names: Mapping[Setting, str], dataset: str, metric: str
) -> list[WeightChoice]:
    """The weight chosen for each setting; empty if no setting has two weights with validation accuracies."""
    choices = []
    for setting in settings:
        tried = {}
        for weight in arms.weights(trials, setting):
            by_seed = values(trials, Arm(setting, MI, weight), dataset, f"validation_{metric}")
            if by_seed:
                tried[weight] = summary(list(by_seed.values()))
        if not tried:
            continue
        # A weight with fewer seeds could win by chance alone.
        most = max(accuracy.n for accuracy in tried.values())
        best = max((weight for weight in tried if tried[weight].n == most), key=lambda w: (tried[w].mean, -w))
        arm = Arm(setting, MI, best)
        if tested := accuracy_of(trials, arm, dataset, metric):
            to_none = to_reference(trials, arm, "none", dataset, metric)
            choices.append(WeightChoice(names[setting], best, len(tried), tried[best], tested, to_none))
    return choices if any(choice.tried > 1 for choice in choices) else []
