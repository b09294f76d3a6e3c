"""A comparison in words: what its numbers say, what they are, and what is not in them."""

from collections.abc import Sequence

import numpy as np

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import Sweep
from infoaug.orchestrator.comparison.effects import Block
from infoaug.orchestrator.reporting.statistics import Paired, Summary, points, probability


def lost(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Every trial of which the tables do not have all: its name, what became of it, and why."""
    found = [(name, "failed", why) for name, why in sweep.failed]
    found += [(name, "stopped early", why) for name, why in sweep.stopped]
    for arm, seeds in arms.grouped(sweep.trials).items():
        for seed, trial in seeds.items():
            for dataset, result in trial.results.items():
                broken = [arms.METRICS[key] for key in arms.METRICS if not np.isfinite(result.get(key, 0.0))]
                if broken:
                    name = f"{arms.describe(arm)}, seed {seed}"
                    found.append((name, "not counted", f"{' and '.join(broken)} on {dataset}: not a number"))
    return found


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
    """What was trained on."""
    synthetic = (
        " The video is synthetic: what comes out shows that the pipeline works; it says nothing about real video."
    )
    return f"{sweep.source.rstrip('.')}.{synthetic if sweep.synthetic else ''}"


def ended_in_words(sweep: Sweep) -> str:
    """How many of the trials came to their end, and what became of the others; without a full stop."""
    ended = [f"{len(sweep.trials)} of {_count(sweep.planned, 'planned trial')} came to the end"]
    others = ((sweep.failed, "failed"), (sweep.stopped, "stopped early"))
    return ", ".join(ended + [f"{len(trials)} {what}" for trials, what in others if trials])


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
