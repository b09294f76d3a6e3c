"""Text of a comparison: headlines, captions, and the list of excluded trials."""

from collections.abc import Sequence

import numpy as np

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import Sweep
from infoaug.orchestrator.comparison.effects import EffectTable, below_baseline, is_significant
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting.statistics import Paired, Summary, points, probability


def excluded_trials(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Trials that are missing from the tables, whole or in part: name, status and reason."""
    excluded = [(name, "failed", reason) for name, reason in sweep.failed]
    excluded += [(name, "stopped early", reason) for name, reason in sweep.stopped]
    for arm, seeds in arms.grouped(sweep.trials).items():
        for seed, trial in seeds.items():
            for dataset, result in trial.results.items():
                broken = [metric.name for key, metric in METRICS.items() if not np.isfinite(result.get(key, 0.0))]
                if broken:
                    name = f"{arms.describe(arm)}, seed {seed}"
                    excluded.append((name, "excluded", f"{' and '.join(broken)} on {dataset}: not a number"))
    return excluded


def headlines(tables: Sequence[EffectTable]) -> list[str]:
    """What one table of each data set shows, the first: the linear probe's if it was evaluated."""
    first = {table.dataset: table for table in reversed(tables)}
    return [headline(table) for table in tables if first[table.dataset] is table]


def headline(table: EffectTable) -> str:
    """The effect of the MI twin in one sentence, from the numbers of the table, and the arms that learnt nothing.

    A difference is stated as an effect only where the table marks it as significant.
    """
    sentences = [_effect(table)]
    if table.baseline and (below := below_baseline(table)):
        named = "; ".join(f"{name} ({', '.join(map(arms.policy_name, policies))})" for name, policies in below.items())
        start = "initial weights" if table.initial else "untrained backbone"
        sentences.append(f"Not above the {start} ({share(table.baseline)} %): {named}.")
    return " ".join(sentences)


def _effect(table: EffectTable) -> str:
    row = table.total or table.rows[0]
    accuracy = METRICS[table.metric].within(table.title)
    references = (("no twins", row.to_none), ("random twins", row.to_random))
    known = [(name, test, number) for (name, test), number in zip(references, row.frameworks, strict=True) if test]
    if not known:
        return f"No trials with and without the MI twin can be compared by {accuracy}."
    usual, frameworks = known[0][1].difference.n, known[0][2]
    seeds = _count(usual, "seed")
    scope = f"Over {_count(frameworks, 'framework')} and {seeds}" if table.total else f"With {row.name} over {seeds}"
    shown, others = [], []
    for name, test, number in known:
        of = [f"n = {test.difference.n}"] if test.difference.n != usual else []
        of += [_count(number, "framework")] if number != frameworks else []
        if is_significant(test):
            shown.append(f"by {_change(test, of)} relative to {name}")
        else:
            others.append(f"{name} ({_numbers(test, of)})")
    difference = f"between the MI twin and {' or '.join(others)}"
    if not shown:
        return f"{scope}, no difference in {accuracy} is shown {difference}."
    changes = f"{scope}, the MI twin changes {accuracy} {' and '.join(shown)}"
    return f"{changes}; no difference is shown {difference}." if others else f"{changes}."


def caption(table: EffectTable, sweep: Sweep) -> str:
    """What the numbers of one table are; `how_to_read` explains what all tables share."""
    fewest, most = table.seeds
    sentences = [
        f"{METRICS[table.metric].of_data(table.title)}, {METRICS[table.metric].network}, in %, "
        "after the last epoch of training; "
        + ("one seed: no interval" if most == 1 else f"mean of {seeds_in_words(table)} ± 95 % interval")
        + (f"; n is given where it is not {most}" if fewest != most else ""),
        f"{training_budget(sweep)}; twin weight {sweep.twin_weight:g}",
    ]
    if table.tests:
        sentences.append(f"* and bold: q < .05, adjusted over {_count(len(table.tests), 'test')}")
    if table.baseline:
        sentences.append(f"{'Initial weights' if table.initial else 'Random-init baseline'}: {share(table.baseline)} %")
    if table.chance is not None:
        sentences.append(f"Chance: {100 * table.chance:.3g} %")
    if sweep.synthetic:
        sentences.append("The training video is synthetic")
    return ". ".join(sentences) + "."


def how_to_read(tables: Sequence[EffectTable]) -> str:
    """The differences, p-values and q-values that all tables share."""
    sentences = [
        "Δ is the difference between the MI twin and a reference (no twins, or random twins at the same "
        "weight), in percentage points, paired within seeds.",
        "p is the p-value of a paired t-test over seeds. A dash means that there are fewer than two pairs, or that the "
        "differences are all equal.",
        "q-values (Benjamini and Hochberg) are adjusted over all tests of a table.",
    ]
    if any(table.total for table in tables):
        sentences.append(
            "In the row of all frameworks, accuracies are means over the frameworks that have the arm. Δ and p use one "
            "value per seed, the mean difference over the frameworks that have both arms: the frameworks of a seed "
            "share video and twins, so they are not independent. They speak of these frameworks and this video only."
        )
    return " ".join(sentences)


def source(sweep: Sweep) -> str:
    """The video that the trials were trained on, and what synthetic video allows to conclude."""
    synthetic = " The video is synthetic: the results show that the pipeline works. They say nothing about real video."
    return f"{sweep.source.rstrip('.')}.{synthetic if sweep.synthetic else ''}"


def completion(sweep: Sweep) -> str:
    """How many trials were completed, failed and stopped early; without a full stop."""
    parts = [f"{len(sweep.trials)} of {_count(sweep.planned, 'planned trial')} completed"]
    others = ((sweep.failed, "failed"), (sweep.stopped, "stopped early"))
    return ", ".join(parts + [f"{len(trials)} {status}" for trials, status in others if trials])


def choices_caption(table: EffectTable) -> str:
    """What the numbers in the table of chosen weights are."""
    return (
        f"The MI twin at the weight of highest mean validation accuracy ({METRICS[table.metric].name}, "
        f"{table.title}), chosen for each row without the test images. Accuracies in %, Δ on the test images in "
        "percentage points, paired within seeds; ± 95 % interval over seeds."
    )


def training_budget(sweep: Sweep) -> str:
    """The training budget that all arms share, and the number of epochs."""
    epochs = sorted({trial.epochs for trial in sweep.trials})
    if sweep.budget == "steps":
        same = "All arms were trained for the same number of steps"
    else:
        same = "All arms were trained on the same number of images through the backbone"
    if not epochs:
        return same
    count = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return f"{same} ({count} epoch{'' if epochs[-1] == 1 else 's'})"


def seeds_in_words(table: EffectTable) -> str:
    """The number of seeds of a table's arms, as `3 seeds` or `1 to 3 seeds`."""
    fewest, most = table.seeds
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} seed{'' if most == 1 else 's'}"


def share(value: Summary | None, usual: int | None = None) -> str:
    """Format a share in percent as `35.0 ± 1.2`, with its n where it differs from `usual`; a dash for None."""
    if value is None:
        return "–"
    text = f"{100 * value.mean:.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text + ("" if usual is None or value.n == usual else f" (n = {value.n})")


def _change(test: Paired, of: Sequence[str]) -> str:
    """A difference, its p-value and what it is of, as `+1.5 ± 0.4 points (n = 2, p = .034)`."""
    details = [*of, *_p(test)]
    return f"{points(test.difference)} points" + (f" ({', '.join(details)})" if details else "")


def _numbers(test: Paired, of: Sequence[str]) -> str:
    """A paired difference without a verdict: `+1.5 ± 0.4 points, n = 2, p = .034`, or why it was not tested."""
    untested = "one seed, no test" if test.difference.n == 1 else "equal over seeds, no test"
    return ", ".join([f"{points(test.difference)} points", *of, *(_p(test) or [untested])])


def _p(test: Paired) -> list[str]:
    p = probability(test.p)
    return [] if test.p is None else [f"p {p}" if p.startswith("<") else f"p = {p}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
