"""Comparison: what the twins of mutual information change, a table for each data set and metric of a sweep.

Every number of a row is over seeds; the row of all frameworks has the frameworks as its units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from orchestrator import arms
from orchestrator.arms import MI, Arm, Arms, Setting, Sweep, values
from orchestrator.seeds import Paired, Summary, corrected, paired, points, probability, summary

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


def blocks(sweep: Sweep) -> list[Block]:
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


# ---- in words


def headlines(made: Sequence[Block]) -> list[str]:
    """A sentence for each data set, of its first table: the linear probe's where there is one."""
    first = {block.dataset: block for block in reversed(made)}
    return [headline(block) for block in made if first[block.dataset] is block]


def headline(block: Block) -> str:
    """What the MI twin changes, in one sentence written from the numbers."""
    row = block.total or block.rows[0]
    where = f"{arms.METRICS[block.metric]} accuracy on {block.title}"
    references = [("none", row.to_none), ("random twins", row.to_random)]
    known = [(name, test) for name, test in references if test is not None]
    if not known:
        return f"No trials with and without the MI twin can be compared in {where}."
    usual = known[0][1].difference.n
    if block.total:
        scope = f"Over {_count(usual, 'framework')} and {seeds_in_words(block)}"
    else:
        scope = f"With {row.name} over {_count(usual, 'seed')}"
    changes = " and ".join(f"by {_change(test, usual)} against {name}" for name, test in known)
    return f"{scope} the MI twin changes {where} {changes}."


def caption(block: Block, sweep: Sweep) -> str:
    """What the numbers of a table are; `reading` says what is the same for all tables."""
    fewest, most = block.seeds
    sentences = [
        f"Top-1 accuracy ({arms.METRICS[block.metric]}) on the test images of {block.title}, backbone frozen, in %, "
        "after the last epoch of training; "
        + ("one seed: no interval" if most == 1 else f"mean of {seeds_in_words(block)} ± 95 % interval")
        + (f", and n where it is not {most}" if fewest != most else ""),
        f"{training_in_words(sweep)}; twin weight {sweep.twin_weight:g}",
    ]
    if block.tests:
        sentences.append(f"* and bold: q < .05 over {_count(len(block.tests), 'test')}")
    if block.floor:
        sentences.append(f"Untrained backbone: {share(block.floor)} %")
    if block.chance is not None:
        sentences.append(f"Chance: {100 * block.chance:.3g} %")
    if sweep.synthetic:
        sentences.append("The video trained on is synthetic")
    return ". ".join(sentences) + "."


def reading(made: Sequence[Block]) -> str:
    """How the tables are to be read."""
    parts = [
        "Δ is the MI twin less none, or less random twins of the same weight, in points, within the seeds that both "
        "have; p is of a paired t-test over these seeds, and a dash where there are fewer than two or where the "
        "differences do not vary; q-values are Benjamini and Hochberg’s over all tests of a table."
    ]
    if any(block.total for block in made):
        parts.append(
            "In the row of all frameworks these are the units: its accuracies are means over the frameworks that have "
            "the arm, its Δ and p are of one mean difference a framework."
        )
    return " ".join(parts)


def source_in_words(sweep: Sweep) -> str:
    """What was trained on, and how many of the trials came to their end."""
    ended = [f"{len(sweep.trials)} of {_count(sweep.planned, 'planned trial')} came to the end"]
    ended += [
        f"{len(lost)} {what}" for lost, what in ((sweep.stopped, "stopped early"), (sweep.failed, "failed")) if lost
    ]
    synthetic = (
        " The video is synthetic: what comes out shows that the pipeline works; it says nothing about real video."
    )
    return f"{sweep.source.rstrip('.')}.{synthetic if sweep.synthetic else ''} {', '.join(ended)}."


def choices_caption(block: Block) -> str:
    """What the numbers of the table of choices are."""
    return (
        f"The MI twin at the weight of highest mean validation accuracy ({arms.METRICS[block.metric]}, "
        f"{block.title}), chosen for each row without a look at the test images; accuracies in %, Δ on the test images "
        "in points within seeds, ± 95 % interval over seeds."
    )


def training_in_words(sweep: Sweep) -> str:
    """How long the arms were trained, and what they had the same of."""
    epochs = sorted({trial.epochs for trial in sweep.trials})
    if sweep.budget == "steps":
        same = "Every arm trained the same number of steps"
    else:
        same = "Every arm saw the same number of images through the backbone"
    if not epochs:
        return same
    count = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return f"{same} ({count} epoch{'' if epochs[-1] == 1 else 's'})"


def seeds_in_words(block: Block) -> str:
    """Of how many seeds a table is."""
    fewest, most = block.seeds
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} seed{'' if most == 1 else 's'}"


def share(value: Summary | None, usual: int | None = None) -> str:
    """A share in percent, `35.0 ± 1.2`; with its n where that is not the usual one; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{100 * value.mean:.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text + ("" if usual is None or value.n == usual else f" (n = {value.n})")


def _change(test: Paired, usual: int) -> str:
    """A difference with its test, for a sentence; with its n where that is not the usual one."""
    p = probability(test.p)
    about = [] if test.difference.n == usual else [f"n = {test.difference.n}"]
    about += [] if test.p is None else [f"p {p}" if p.startswith("<") else f"p = {p}"]
    return f"{points(test.difference)} points" + (f" ({', '.join(about)})" if about else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- one table


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
