"""Text of a comparison: headlines, captions, and the list of excluded trials."""

from collections.abc import Sequence

import numpy as np

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import Sweep
from infoaug.orchestrator.comparison.effects import EffectTable, below_baseline, is_significant
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting import verdict
from infoaug.orchestrator.reporting.one_seed import JACKKNIFE
from infoaug.orchestrator.reporting.statistics import Paired, Summary, margin, probability, seeds_for
from infoaug.orchestrator.reporting.verdict import Finding, Outcome

RESOLVED = 0.01  # half of an interval that is narrow enough, a share


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


def headlines(tables: Sequence[EffectTable], sweep: Sweep) -> list[str]:
    """The verdict on the MI twin for each data set, from its first table: the linear probe's if it was evaluated."""
    incomplete = completion(sweep) if len(sweep.trials) < sweep.planned else ""
    return [headline(table, incomplete) for table in _first(tables)]


def headline(table: EffectTable, missing: str = "") -> str:
    """The effect of the MI twin in one sentence, from the numbers of the table, and the arms that learnt nothing.

    A difference is stated as an effect only where the table marks it as significant. Of one seed none is: its interval,
    over what was tested on, can show that the difference may be 0, but not what other seeds would give.
    """
    row = table.total or table.rows[0]
    found = findings(table)
    seeds = _count(found[0].difference.n if found else table.seeds[1], "seed")
    frameworks = max(row.frameworks)
    scope = f"over {_count(frameworks, 'framework')} and {seeds}" if table.total else f"with {row.name} over {seeds}"
    sentences = [verdict.sentence("the MI twin", found, scope, missing)]
    if table.baseline and (below := below_baseline(table)):
        named = "; ".join(f"{name} ({', '.join(map(arms.policy_name, policies))})" for name, policies in below.items())
        start = "initial weights" if table.initial else "untrained backbone"
        sentences.append(f"Not above the {start} ({share(table.baseline)} %): {named}.")
    return " ".join(sentences)


def findings(table: EffectTable) -> list[Finding]:
    """The differences between the MI twin and its references, over all frameworks if there are several."""
    row = table.total or table.rows[0]
    measured = METRICS[table.metric].within(table.title)
    references = (("no twins", row.to_none), ("random twins", row.to_random))
    known = [(name, test, number) for (name, test), number in zip(references, row.frameworks, strict=True) if test]
    found = []
    for name, test, number in known:
        _, first, frameworks = known[0]
        of = [f"n = {test.difference.n}"] if test.difference.n != first.difference.n else []
        of += [_count(number, "framework")] if number != frameworks else []
        found.append(Finding(measured, name, test.difference, _shown(test), [*of, *_tested(test, table)]))
    return found


def _shown(test: Paired) -> bool | None:
    """Whether a difference is shown, see `Finding.shown`."""
    if test.p is not None:
        return is_significant(test)
    bounds = test.difference.bounds
    return False if bounds and bounds[0] <= 0 <= bounds[1] else None


def next_step(tables: Sequence[EffectTable]) -> str:
    """What to try next, in one sentence, from the first table."""
    return f"Next: {_next_step(tables[0]) if tables else 'see below why no trial was evaluated'}."


def _next_step(table: EffectTable) -> str:
    found = {finding.reference: finding for finding in findings(table)}
    outcomes = {reference: finding.outcome for reference, finding in found.items()}
    learnt = {(name, policy) for name, policies in below_baseline(table).items() for policy in policies}
    if learnt and len(learnt) == sum(len(row.accuracy) for row in table.rows):
        return "train longer or give more clips, because no arm is above the backbone that training started from"
    if "no twins" not in found:
        return "add the arms to compare with, score.policy none and random"
    difference = found["no twins"].difference
    match outcomes["no twins"]:
        case Outcome.UNTESTED | Outcome.NOT_SHOWN if difference.n == 1:
            return "at least three seeds: one seed tells nothing of how much the accuracies vary"
        case Outcome.WORSE:
            return "a lower pretrain.twin_weight, or video in which more things move together"
        case Outcome.BETTER if "random twins" not in found:
            return "the control, score.policy random: whether any two patches of a window would do as well"
        case Outcome.BETTER if outcomes["random twins"] is Outcome.BETTER:
            return "other video and other data sets, to see whether it holds there"
        case Outcome.BETTER:
            return "more seeds: it is not shown that the choice of the twin matters"
    if difference.half is not None and difference.half <= RESOLVED:
        return f"another framework, weight or video: more than {100 * difference.half:.1f} points are unlikely here"
    seeds = seeds_for(difference, RESOLVED)
    many = f"about {seeds}" if seeds else "more than 100"
    return f"more seeds: with {many} the interval would be as narrow as ± {100 * RESOLVED:g} point"


def _first(tables: Sequence[EffectTable]) -> list[EffectTable]:
    """The first table of each data set."""
    first = {table.dataset: table for table in reversed(tables)}
    return [table for table in tables if first[table.dataset] is table]


def caption(table: EffectTable, sweep: Sweep) -> str:
    """What the numbers of one table are; `how_to_read` explains what all tables share."""
    fewest, most = table.seeds
    sentences = [
        f"{METRICS[table.metric].of_data(table.title)}, {METRICS[table.metric].network}, in %, "
        "after the last epoch of training; "
        + ("one seed" if most == 1 else f"mean of {seeds_in_words(table)} ± 95 % interval")
        + (f"; n is given where it is not {most}" if fewest != most else ""),
        *([_of_one_seed(table)] if table.over or most == 1 else []),
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
    if any(table.over for table in tables):
        sentences.append(
            "Brackets hold the 95 % interval of a single seed, over what was tested on. It says how well these "
            "backbones are measured, and nothing about other seeds."
        )
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
        "percentage points, paired within seeds; ± 95 % interval over seeds"
        + (f"; in brackets, that of one seed over the {table.over}." if table.over else ".")
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
    text = f"{100 * value.mean:.1f}{margin(value)}"
    return text + ("" if usual is None or value.n == usual else f" (n = {value.n})")


def _of_one_seed(table: EffectTable) -> str:
    """How the intervals of a single seed are made; without a full stop."""
    if not table.over:
        return "No interval: the results of one seed lack what it needs"
    if METRICS[table.metric].counts_images:
        how = [
            "Wilson’s",
            "of Δ Newcombe’s for independent samples, as a rule too wide, because the images are the same",
        ]
    else:
        how = [JACKKNIFE if METRICS[table.metric].ranks_boxes else "Student’s t", *_pairing(table)]
    total = (table.total.to_none, table.total.to_random) if table.total else ()
    if any(test and test.difference.bounds for test in total):
        how.append("of Δ over all frameworks as if they erred alike, so rather too wide")
    return f"In brackets: 95 % interval of one seed over the {table.over} ({'; '.join(how)})"


def _pairing(table: EffectTable) -> list[str]:
    """Whether the differences of one seed are paired within what was tested on; empty without a difference."""
    tests = [test for row in table.rows for test in (row.to_none, row.to_random) if test and test.difference.bounds]
    units = "sequences" if table.over.endswith("sequences") else "images"
    alone = "as for independent samples, because the stored results lack what pairs them"
    independent = {test.independent for test in tests}
    if independent == {True}:
        return [f"of Δ {alone}"]
    return [f"Δ paired within {units}" + (f", in part {alone}" if True in independent else "")] if independent else []


def _tested(test: Paired, table: EffectTable) -> list[str]:
    """The p-value of a difference, or why it was not tested, and what the interval of one seed is over."""
    if test.p is None:
        over = [table.over] if test.difference.bounds else []
        return ["one seed", *over] if test.difference.n == 1 else ["equal over seeds"]
    p = probability(test.p)
    return [f"p {p}" if p.startswith("<") else f"p = {p}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
