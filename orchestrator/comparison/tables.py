"""Tables of a comparison: for the terminal, as Markdown, and as CSV at full precision."""

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
from infoaug.orchestrator.comparison.effects import (
    EffectTable,
    Row,
    accuracy_of,
    effect_tables,
    is_significant,
    to_reference,
)
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting.statistics import Paired, points, probability, summary

KEYS = (*METRICS, "validation_probe", "validation_knn", "rank_me")  # the numbers in `summary_csv`
CHOICE_HEADER = ("framework", "chosen weight", "weights", "validation", "test", "Δ none")


class Cell(NamedTuple):
    """Text of a table cell."""

    text: str
    bold: bool = False


def header(table: EffectTable) -> list[str]:
    """Column headers: the policies, then the MI twin's difference to each reference that was trained."""
    differences = [name for reference in _references(table) for name in (f"Δ {reference}", "p")]
    return ["framework", *(arms.policy_name(policy) for policy in table.policies), *differences]


def cells(table: EffectTable, row: Row) -> list[Cell]:
    """The cells of one row, in the order of `header`."""
    usual = max((cell.n for cell in row.accuracy.values()), default=0) if row is table.total else table.seeds[1]
    line = [Cell(row.name)]
    line += [Cell(share(row.accuracy.get(policy), usual)) for policy in table.policies]
    for reference in _references(table):
        test = row.to_none if reference == "none" else row.to_random
        mark = is_significant(test)
        line += [Cell(difference(test), mark), Cell(probability(test.p if test else None) + " *" * mark, mark)]
    return line


def lines(table: EffectTable) -> list[list[Cell]]:
    """The cells of all rows; the row of all frameworks comes last."""
    return [cells(table, row) for row in (*table.rows, *([table.total] if table.total else []))]


def choice_lines(table: EffectTable) -> list[list[str]]:
    """The rows of the table of chosen weights, in the order of `CHOICE_HEADER`."""
    return [
        [c.name, f"{c.weight:g}", str(c.tried), share(c.validation), share(c.test), difference(c.to_none)]
        for c in table.choices
    ]


def difference(test: Paired | None) -> str:
    """A difference in percentage points; a dash for None."""
    return points(test.difference) if test else "–"


def _references(table: EffectTable) -> list[str]:
    return [policy for policy in ("none", "random") if MI in table.policies and policy in table.policies]


# ---- terminal


def terminal_tables(sweep: Sweep) -> list[Table]:
    """One table for each data set and metric; intervals go on a second line, so that 80 columns are enough."""
    terminal, tables = [], effect_tables(sweep)
    for table in tables:
        caption = captions.caption(table, sweep) + (f" {captions.how_to_read(tables)}" if table is tables[-1] else "")
        grid = Table(
            title=Text(f"{sweep.name}: {table.title}, {METRICS[table.metric].name}"),
            caption=Text(caption),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for number, column in enumerate(c for c in header(table) if c != "p"):
            grid.add_column(Text(column), justify="right" if number else "left", vertical="top")
        body = lines(table)
        for number, line in enumerate(body):
            if table.total and number == len(body) - 1:
                grid.add_section()
            grid.add_row(*_on_terminal(line, len(table.policies)))
        terminal.append(grid)
    return terminal


def _on_terminal(line: Sequence[Cell], policies: int) -> list[Text]:
    """A row with intervals below the means, and p-values below the differences."""
    name, accuracy, tests = line[0], line[1 : 1 + policies], line[1 + policies :]
    cells_shown = [Text(name.text)]
    cells_shown += [Text(cell.text.replace(" ± ", "\n± ").replace(" (", "\n(")) for cell in accuracy]
    for size, p in zip(tests[::2], tests[1::2], strict=True):
        below = "" if p.text == "–" else f"\np {p.text}"
        # The interval of one seed, from its lower to its upper end, takes a line each.
        shown = size.text.replace(" (", "\n(").replace(" to ", "\nto ")
        cells_shown.append(Text(shown + below, style="bold" if size.bold else ""))
    return cells_shown


# ---- Markdown


def markdown(sweep: Sweep) -> str:
    """All tables, and the excluded trials, as GitHub-flavoured Markdown."""
    parts = [f"# {escaped(sweep.name)}"]
    tables = effect_tables(sweep)
    parts += [f"**{escaped(sentence)}**" for sentence in captions.headlines(tables, sweep)]
    parts.append(escaped(captions.next_step(tables)))
    parts.append(escaped(f"{captions.source(sweep)} {captions.completion(sweep)}."))
    parts += [escaped(captions.how_to_read(tables))] if tables else []
    for table in tables:
        parts.append(f"## {escaped(table.title)}: {METRICS[table.metric].name}")
        body = [[_bold(cell) for cell in line] for line in lines(table)]
        parts += [_grid(header(table), body), escaped(captions.caption(table, sweep))]
        if table.choices:
            body = [[escaped(cell) for cell in line] for line in choice_lines(table)]
            parts += [_grid(CHOICE_HEADER, body), escaped(captions.choices_caption(table))]
    excluded = [[escaped(cell) for cell in line] for line in captions.excluded_trials(sweep)]
    if excluded:
        parts += ["## Excluded trials", _grid(("trial", "status", "reason"), excluded, numbers=False)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Escape Markdown in a text, and join its lines."""
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def _bold(cell: Cell) -> str:
    return f"**{escaped(cell.text)}**" if cell.bold else escaped(cell.text)


def _grid(names: Sequence[str], body: Iterable[Sequence[str]], numbers: bool = True) -> str:
    rule = ["---", *("---:" if numbers else "---" for _ in names[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, rule, *body))


# ---- CSV


def trials_csv(sweep: Sweep) -> str:
    """One row for each trial and data set, with all settings and results; lists are written as JSON."""
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
    """One row for each arm, data set and metric: mean over seeds, interval, differences to `none` and `random`.

    Shares and differences are on a scale of 0–1. `half` is half the width of the 95 % confidence interval over seeds,
    `low` and `high` its ends, or for one seed those of the interval over what it was tested on (`one_seed`).
    Differences are paired within seeds, to the arm of the same setting and weight, with the same columns. q-values are
    given where the tables have them.
    """
    trials = arms.grouped(sweep.trials)
    by_metric = {(table.dataset, table.metric): table for table in effect_tables(sweep)}
    other = sorted({name for arm in trials for name, _ in arm.setting.other})
    rows: list[dict[str, Any]] = []
    for arm in trials:
        row: dict[str, Any] = {"framework": arm.setting.framework, "policy": arm.policy}
        row |= {"twin_weight": arm.twin_weight, "negatives": arm.setting.negatives}
        row |= {name: dict(arm.setting.other).get(name) for name in other}
        for dataset in arms.datasets(trials):
            for key in KEYS:
                by_seed = values(trials, arm, dataset, key)
                if not by_seed:
                    continue
                accuracy = accuracy_of(trials, arm, dataset, key) if key in METRICS else None
                mean = accuracy or summary(list(by_seed.values()))
                low, high = mean.interval or (None, None)
                numbers: dict[str, Any] = {"n": mean.n, "mean": mean.mean, "half": mean.half, "low": low, "high": high}
                table = by_metric.get((dataset, key))
                shown = table is not None and (arm.policy, arm.twin_weight) == (MI, sweep.twin_weight)
                line = next((r for r in table.rows if r.setting == arm.setting), None) if table and shown else None
                for policy in ("none", "random"):
                    test = to_reference(trials, arm, policy, dataset, key)
                    listed = getattr(line, f"to_{policy}") if line else None
                    numbers |= _columns(f"to_{policy}", test, listed.q if listed else None)
                rows.append(row | {"dataset": dataset, "metric": key} | numbers)
    return _csv(rows)


def _columns(name: str, test: Paired | None, q: float | None) -> dict[str, Any]:
    """A paired difference as columns."""
    numbers = {"n": None, "mean": None, "half": None, "low": None, "high": None, "p": None, "q": q}
    if test:
        mean = test.difference
        low, high = mean.interval or (None, None)
        numbers |= {"n": mean.n, "mean": mean.mean, "half": mean.half, "low": low, "high": high, "p": test.p}
    return {f"{name}_{key}": value for key, value in numbers.items()}


def _plain(value: Any) -> Any:
    """Numbers and text unchanged, anything else as JSON."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, default=float)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same columns as CSV, missing values empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
