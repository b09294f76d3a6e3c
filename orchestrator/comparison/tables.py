"""Tables of a comparison: for the terminal, as Markdown, and as CSV with every number in full."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from infoaug.orchestrator.comparison import arms, captions
from infoaug.orchestrator.comparison.arms import MI, Sweep, values
from infoaug.orchestrator.comparison.captions import share
from infoaug.orchestrator.comparison.effects import Block, Row, blocks_of, marked, to_reference
from infoaug.orchestrator.reporting.statistics import Paired, points, probability, summary

KEYS = ("probe", "knn", "validation_probe", "validation_knn", "rank_me")  # those of which `summary_csv` has rows
CHOICE_HEADER = ("framework", "chosen weight", "weights", "validation", "test", "Δ none")


class Cell(NamedTuple):
    """What stands in a cell, and whether it is to stand out."""

    text: str
    bold: bool = False


def header(block: Block) -> list[str]:
    """The columns of a table: the policies, then the MI twin's differences to those of its references there are."""
    differences = [name for reference in _references(block) for name in (f"Δ {reference}", "p")]
    return ["framework", *(arms.policy_name(policy) for policy in block.policies), *differences]


def cells(block: Block, row: Row) -> list[Cell]:
    """One line of a table, under `header`."""
    usual = max((cell.n for cell in row.accuracy.values()), default=0) if row is block.total else block.seeds[1]
    found = [Cell(row.name)]
    found += [Cell(share(row.accuracy.get(policy), usual)) for policy in block.policies]
    for reference in _references(block):
        test = row.to_none if reference == "none" else row.to_random
        mark = marked(test)
        found += [Cell(difference(test), mark), Cell(probability(test.p if test else None) + " *" * mark, mark)]
    return found


def lines(block: Block) -> list[list[Cell]]:
    """All lines of a table; that of all frameworks is the last."""
    return [cells(block, row) for row in (*block.rows, *([block.total] if block.total else []))]


def choice_lines(block: Block) -> list[list[str]]:
    """The lines of the table of chosen weights, under `CHOICE_HEADER`."""
    return [
        [c.name, f"{c.weight:g}", str(c.tried), share(c.validation), share(c.test), difference(c.to_none)]
        for c in block.choices
    ]


def difference(test: Paired | None) -> str:
    """A difference in points, a dash where there is none."""
    return points(test.difference) if test else "–"


def _references(block: Block) -> list[str]:
    return [policy for policy in ("none", "random") if MI in block.policies and policy in block.policies]


# ---- terminal


def terminal_tables(sweep: Sweep) -> list[Table]:
    """A table for each data set and metric, eighty columns wide where names are short; intervals on a second line."""
    tables, made = [], blocks_of(sweep)
    for block in made:
        below = captions.caption(block, sweep) + (f" {captions.reading(made)}" if block is made[-1] else "")
        table = Table(
            title=Text(f"{sweep.name}: {block.title}, {arms.METRICS[block.metric]}"),
            caption=Text(below),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for number, column in enumerate(c for c in header(block) if c != "p"):
            table.add_column(Text(column), justify="right" if number else "left", vertical="top")
        body = lines(block)
        for number, line in enumerate(body):
            if block.total and number == len(body) - 1:
                table.add_section()
            table.add_row(*_on_terminal(line, len(block.policies)))
        tables.append(table)
    return tables


def _on_terminal(line: Sequence[Cell], policies: int) -> list[Text]:
    """A line in which intervals stand below the means, and p-values below the differences."""
    name, accuracy, tests = line[0], line[1 : 1 + policies], line[1 + policies :]
    found = [Text(name.text)]
    found += [Text(cell.text.replace(" ± ", "\n± ").replace(" (n", "\n(n")) for cell in accuracy]
    for size, p in zip(tests[::2], tests[1::2], strict=True):
        below = "" if p.text == "–" else f"\np {p.text}"
        found.append(Text(size.text + below, style="bold" if size.bold else ""))
    return found


# ---- Markdown


def markdown(sweep: Sweep) -> str:
    """All tables, and what did not come to its end, as GitHub reads Markdown."""
    parts = [f"# {escaped(sweep.name)}"]
    made = blocks_of(sweep)
    parts += [f"**{escaped(sentence)}**" for sentence in captions.headlines(made)]
    parts.append(escaped(f"{captions.source_in_words(sweep)} {captions.ended_in_words(sweep)}."))
    parts += [escaped(captions.reading(made))] if made else []
    for block in made:
        parts.append(f"## {escaped(block.title)}: {arms.METRICS[block.metric]}")
        body = [[_bold(cell) for cell in line] for line in lines(block)]
        parts += [_grid(header(block), body), escaped(captions.caption(block, sweep))]
        if block.choices:
            body = [[escaped(cell) for cell in line] for line in choice_lines(block)]
            parts += [_grid(CHOICE_HEADER, body), escaped(captions.choices_caption(block))]
    gone = [[escaped(cell) for cell in line] for line in captions.lost(sweep)]
    if gone:
        parts += ["## Trials that the tables do not have", _grid(("trial", "what", "why"), gone, numbers=False)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Any text as Markdown that shows it, in one line."""
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def _bold(cell: Cell) -> str:
    return f"**{escaped(cell.text)}**" if cell.bold else escaped(cell.text)


def _grid(names: Sequence[str], body: Iterable[Sequence[str]], numbers: bool = True) -> str:
    rule = ["---", *("---:" if numbers else "---" for _ in names[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, rule, *body))


# ---- CSV


def trials_csv(sweep: Sweep) -> str:
    """One row a trial and data set, with everything that is known of it; lists are written as JSON."""
    trials = arms.all_trials(arms.grouped(sweep.trials))
    other = sorted({name for trial in trials for name in trial.other})
    keys = list(dict.fromkeys(key for trial in trials for result in trial.results.values() for key in result))
    rows: list[dict[str, Any]] = []
    for trial in trials:
        row = {name: getattr(trial, name) for name in ("framework", "policy", "twin_weight", "negatives", "seed")}
        row |= {name: trial.other.get(name) for name in other}
        row |= {"epochs": trial.epochs, "passes": trial.passes, "seconds": trial.seconds, "run": trial.run}
        for dataset, result in trial.results.items() or {None: {}}.items():
            rows.append(row | {"dataset": dataset} | {key: _plain(result.get(key)) for key in keys})
    return _csv(rows)


def summary_csv(sweep: Sweep) -> str:
    """One row an arm, data set and number, over seeds: mean, interval, and differences to `none` and to `random`.

    Shares and their differences are 0–1, `half` is half the width of the 95 % interval; differences are within seeds,
    to the arm of the same setting and weight. q-values stand where the tables have them.
    """
    trials = arms.grouped(sweep.trials)
    tables = {(block.dataset, block.metric): block for block in blocks_of(sweep)}
    other = sorted({name for arm in trials for name, _ in arm.setting.other})
    rows: list[dict[str, Any]] = []
    for arm in trials:
        row: dict[str, Any] = {"framework": arm.setting.framework, "policy": arm.policy}
        row |= {"twin_weight": arm.twin_weight, "negatives": arm.setting.negatives}
        row |= {name: dict(arm.setting.other).get(name) for name in other}
        for dataset in arms.datasets(trials):
            for key in KEYS:
                found = values(trials, arm, dataset, key)
                if not found:
                    continue
                mean = summary(list(found.values()))
                numbers: dict[str, Any] = {"n": mean.n, "mean": mean.mean, "half": mean.half}
                block = tables.get((dataset, key))
                shown = block is not None and (arm.policy, arm.twin_weight) == (MI, sweep.twin_weight)
                line = next((r for r in block.rows if r.setting == arm.setting), None) if block and shown else None
                for policy in ("none", "random"):
                    test = to_reference(trials, arm, policy, dataset, key)
                    listed = getattr(line, f"to_{policy}") if line else None
                    numbers |= _columns(f"to_{policy}", test, listed.q if listed else None)
                rows.append(row | {"dataset": dataset, "metric": key} | numbers)
    return _csv(rows)


def _columns(name: str, test: Paired | None, q: float | None) -> dict[str, Any]:
    """A comparison as columns."""
    found = {"n": None, "mean": None, "half": None, "p": None, "q": q}
    if test:
        mean = test.difference
        found |= {"n": mean.n, "mean": mean.mean, "half": mean.half, "p": test.p}
    return {f"{name}_{key}": value for key, value in found.items()}


def _plain(value: Any) -> Any:
    """A number or text as it is, anything else as JSON."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, default=float)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns, missing values empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
