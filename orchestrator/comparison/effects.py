"""Comparison: what the twins of mutual information change, a table for each data set and metric of a sweep.

Every number of a row is over seeds; the row of all frameworks has the frameworks as its units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import MI, Arm, Arms, Setting, Sweep, values
from infoaug.orchestrator.reporting.statistics import Paired, Summary, corrected, paired, summary

SIGNIFICANT = 0.05  # the q-value below which a difference is marked


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: of the setting.
        setting: None for all frameworks.
        accuracy: by policy, over seeds; without those that were not trained.
        to_none: the MI twin less none, within seeds.
        to_random: the MI twin less random twins of the same weight, within seeds.
    """

    name: str
    setting: Setting | None
    accuracy: Mapping[str, Summary]
    to_none: Paired | None
    to_random: Paired | None


@dataclass(frozen=True)
class Choice:
    """The weight of the MI twin that a setting's validation images choose, and what it gives on the test images.

    Attributes:
        name: of the setting.
        weight: of highest mean validation accuracy among those with the most seeds; of equals the smallest.
        tried: how many weights there were to choose from.
        validation: accuracy at that weight.
        test: accuracy at that weight.
        to_none: on the test images, the MI twin at that weight less none, within seeds.
    """

    name: str
    weight: float
    tried: int
    validation: Summary
    test: Summary
    to_none: Paired | None


@dataclass(frozen=True)
class Block:
    """The table of one data set and metric.

    Attributes:
        dataset: as the config names it.
        title: how it is called.
        metric: a key of `arms.METRICS`.
        policies: the columns.
        rows: one a setting that has any accuracy here.
        total: all frameworks: means over frameworks that have the arm, without an interval, and differences whose
            units are frameworks; a framework with several settings counts with their mean. None for a single one.
        floor: of the untrained backbone, over seeds; None where unknown.
        chance: one over the number of classes, None where unknown.
        seeds: the least and the largest number of seeds of an arm.
        choices: by setting; empty where no setting has two weights and validation accuracies.
    """

    dataset: str
    title: str
    metric: str
    policies: Sequence[str]
    rows: Sequence[Row]
    total: Row | None
    floor: Summary | None
    chance: float | None
    seeds: tuple[int, int]
    choices: Sequence[Choice]

    @property
    def tests(self) -> list[Paired]:
        """The comparisons with a p-value, over which q-values are taken."""
        rows = [*self.rows, *([self.total] if self.total else [])]
        return [test for row in rows for test in (row.to_none, row.to_random) if test and test.p is not None]


def blocks_of(sweep: Sweep) -> list[Block]:
    """The tables of a sweep; without those that would be empty.

    Raises:
        ValueError: two trials are of the same arm and seed.
    """
    trials = arms.grouped(sweep.trials)
    titles = arms.dataset_titles(arms.datasets(trials))
    made = [_block(sweep, trials, name, title, metric) for name, title in titles.items() for metric in arms.METRICS]
    return [block for block in made if block.rows]


def to_reference(trials: Arms, arm: Arm, policy: str, dataset: str, key: str) -> Paired | None:
    """An arm less that of another policy in the same setting and at the same weight, within seeds."""
    reference = arms.at_weight(arm.setting, policy, arm.twin_weight)
    return (
        None if reference == arm else paired(values(trials, arm, dataset, key), values(trials, reference, dataset, key))
    )


def floor(trials: Arms, dataset: str, key: str) -> Summary | None:
    """A number of the untrained backbones over seeds; those of one seed count once, with their mean."""
    by_seed: dict[int, list[float]] = {}
    for arm in trials:
        for seed, value in values(trials, arm, dataset, f"floor_{key}").items():
            by_seed.setdefault(seed, []).append(value)
    return summary([np.mean(by_seed[seed]) for seed in sorted(by_seed)]) if by_seed else None


def marked(test: Paired | None) -> bool:
    """Whether a difference is to be marked as significant."""
    return test is not None and test.q is not None and test.q < SIGNIFICANT


def _block(sweep: Sweep, trials: Arms, dataset: str, title: str, metric: str) -> Block:
    columns, names = arms.policies(trials), arms.setting_names(trials)
    rows: dict[Setting, Row] = {}
    for setting in arms.settings(trials):
        ours = {policy: arms.at_weight(setting, policy, sweep.twin_weight) for policy in columns}
        found = {policy: values(trials, arm, dataset, metric) for policy, arm in ours.items()}
        accuracy = {policy: summary(list(numbers.values())) for policy, numbers in found.items() if numbers}
        if accuracy:
            arm = arms.at_weight(setting, MI, sweep.twin_weight)
            tests = (to_reference(trials, arm, policy, dataset, metric) for policy in ("none", "random"))
            rows[setting] = Row(names[setting], setting, accuracy, *tests)
    total = _total(rows, columns)
    together = [*rows.values(), *([total] if total else [])]
    with_q = corrected([test for row in together for test in (row.to_none, row.to_random)])
    together = [
        replace(row, to_none=none, to_random=random)
        for row, none, random in zip(together, with_q[::2], with_q[1::2], strict=True)
    ]
    counts = [cell.n for row in rows.values() for cell in row.accuracy.values()]
    classes = {int(n) for arm in trials for n in values(trials, arm, dataset, "classes").values()}
    return Block(
        dataset,
        title,
        metric,
        columns,
        together[: len(rows)],
        together[-1] if total else None,
        floor(trials, dataset, metric),
        1 / classes.pop() if len(classes) == 1 else None,
        (min(counts), max(counts)) if counts else (0, 0),
        _choices(trials, list(rows), names, dataset, metric),
    )


_TESTS: tuple[Callable[[Row], Paired | None], ...] = (attrgetter("to_none"), attrgetter("to_random"))


def _total(rows: Mapping[Setting, Row], columns: Sequence[str]) -> Row | None:
    """The row of all frameworks; q-values come later."""
    frameworks: dict[str, list[Row]] = {}
    for setting, row in rows.items():
        frameworks.setdefault(setting.framework, []).append(row)
    if len(frameworks) < 2:
        return None
    accuracy = {}
    for policy in columns:
        ours = ([row.accuracy[policy].mean for row in group if policy in row.accuracy] for group in frameworks.values())
        means = [float(np.mean(group)) for group in ours if group]
        if means:
            accuracy[policy] = replace(summary(means), half=None)
    to_none, to_random = (_over([test(row) for row in group] for group in frameworks.values()) for test in _TESTS)
    return Row("all frameworks", None, accuracy, to_none, to_random)


def _over(frameworks: Iterable[Sequence[Paired | None]]) -> Paired | None:
    """The mean difference of each framework against 0."""
    groups = ([test.difference.mean for test in group if test is not None] for group in frameworks)
    means = {number: float(np.mean(group)) for number, group in enumerate(groups) if group}
    return paired(means, dict.fromkeys(means, 0.0))


def _choices(
    trials: Arms, settings: Sequence[Setting], names: Mapping[Setting, str], dataset: str, metric: str
) -> list[Choice]:
    """One a setting with validation accuracies of MI twins; none at all where no setting has two weights."""
    made = []
    for setting in settings:
        tried = {}
        for weight in arms.weights(trials, setting):
            found = values(trials, Arm(setting, MI, weight), dataset, f"validation_{metric}")
            if found:
                tried[weight] = summary(list(found.values()))
        if not tried:
            continue
        most = max(found.n for found in tried.values())
        best = max((weight for weight in tried if tried[weight].n == most), key=lambda w: (tried[w].mean, -w))
        arm = Arm(setting, MI, best)
        test = values(trials, arm, dataset, metric)
        if test:
            to_none = to_reference(trials, arm, "none", dataset, metric)
            made.append(Choice(names[setting], best, len(tried), tried[best], summary(list(test.values())), to_none))
    return made if any(choice.tried > 1 for choice in made) else []
