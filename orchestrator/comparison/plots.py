"""Figures of a comparison: accuracies, twin weights, training time, and label-free quality.

Policies differ by marker as well as by colour. Where there is nothing to draw, there is no figure.
"""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.stats import spearmanr

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import MI, Arm, Arms, Setting, values
from infoaug.orchestrator.comparison.effects import EffectTable, accuracy_of
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.reporting.figures import BLUE, DIM, FAINT, GREEN, GREY, INK, ORANGE, WIDTH
from infoaug.orchestrator.reporting.statistics import Summary, probability

STYLES = {
    "none": {"color": INK, "marker": "o", "markerfacecolor": "white"},
    "random": {"color": ORANGE, "marker": "s"},
    "nearest": {"color": GREEN, "marker": "^"},
    MI: {"color": BLUE, "marker": "D"},
    "correlation": {"color": "#CC79A7", "marker": "P"},
    "shuffled": {"color": "#E69F00", "marker": "X"},
    "same-clip": {"color": "#56B4E9", "marker": "<"},
    "other-clip": {"color": GREY, "marker": ">"},
    "oracle": {"color": INK, "marker": "*"},
    "later": {"color": "#D55E00", "marker": "p"},
    "later+mutual-information": {"color": "#D55E00", "marker": "h", "markerfacecolor": "white"},
}
OTHER = {"color": GREY, "marker": "v"}  # any other policy
PANELS = 3  # in a row


def draw_accuracy(tables: Sequence[EffectTable]) -> Figure | None:
    """Accuracies on one data set: one panel per metric, one row per setting, one marker with interval per policy."""
    rows = list(dict.fromkeys((row.setting, row.name) for table in tables for row in table.rows))
    if not rows:
        return None
    columns = tables[0].policies
    figure = Figure(figsize=(WIDTH, 1.5 + (0.14 * len(columns) + 0.16) * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    position = {setting: number for number, (setting, _) in enumerate(rows)}
    for axes, table in zip(panels, tables, strict=True):
        for number, policy in enumerate(columns):
            offset = 0.74 * ((number + 0.5) / len(columns) - 0.5)
            here = [row for row in table.rows if policy in row.accuracy]
            cells = [row.accuracy[policy] for row in here]
            _marks(axes, policy, cells, [position[row.setting] + offset for row in here], horizontal=True)
        for line in range(len(rows) - 1):
            axes.axhline(line + 0.5, color=FAINT, linewidth=1)
        if table.baseline:
            label = "initial weights" if table.initial else "random-init baseline"
            axes.axvline(100 * table.baseline.mean, color=DIM, linestyle=":", linewidth=1.2, label=label)
        axes.set_xlabel(f"{METRICS[table.metric].axis}, %")
        axes.set_xlim(figures.within_percent(axes.get_xlim()))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        figures.plot_area(axes, "x")
        figures.title(axes, METRICS[table.metric].name)
    panels[0].set_yticks(range(len(rows)), [_wrapped(name) for _, name in rows], parse_math=False)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    _legend(figure, panels)
    return figure


def draw_weights(trials: Arms, dataset: str, metric: str, twin_weight: float) -> Figure | None:
    """Accuracy against the weight of the MI twin: one panel per setting, all spanning the same range of accuracy.

    Bands and bars are 95 % intervals. `none` is the dashed line, `random` the marker at the weight of the tables.
    """
    names = {
        setting: name
        for setting, name in arms.setting_names(trials).items()
        if sum(bool(values(trials, Arm(setting, MI, w), dataset, metric)) for w in arms.weights(trials, setting)) > 1
    }
    if not names:
        return None
    across = min(PANELS, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.75 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, squeeze=False)
    panels = [axes for line in grid for axes in line]
    for axes in panels[len(names) :]:
        axes.remove()
    panels = panels[: len(names)]
    ticks = sorted({w for setting in names for w in arms.weights(trials, setting)})
    for axes, (setting, name) in zip(panels, names.items(), strict=True):
        _weights_of(axes, trials, setting, dataset, metric, twin_weight)
        if ticks[0] > 0 and ticks[-1] / ticks[0] > 4:
            axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{weight:g}" for weight in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figures.plot_area(axes, "y")
        axes.tick_params(labelsize=8.5)
        figures.title(axes, _wrapped(name))
    _same_span(panels)
    for axes in panels[-across:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("twin weight λ")
    figure.supylabel(f"{METRICS[metric].axis}, %", fontsize=10, color=INK)
    _legend(figure, panels)
    return figure


def draw_time(trials: Arms, dataset: str, metric: str, twin_weight: float) -> Figure | None:
    """Accuracy against wall-clock training time: one marker per arm, small if its weight is not `twin_weight`.

    A line connects `none` and the MI twin of the same setting.
    """
    points: dict[Arm, tuple[float, float]] = {}
    for arm, seeds in trials.items():
        accuracy = values(trials, arm, dataset, metric)
        timed = [seed for seed in accuracy if math.isfinite(seeds[seed].seconds)]
        if timed:
            minutes = np.mean([seeds[seed].seconds for seed in timed]) / 60
            points[arm] = (float(minutes), 100 * float(np.mean([accuracy[seed] for seed in timed])))
    if not points:
        return None
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for policy in arms.policies(trials):
        axes.plot([], [], linestyle="none", markersize=6, label=arms.policy_name(policy), **_style(policy))
    for arm, (x, y) in points.items():
        in_tables = arm == arms.at_weight(arm.setting, arm.policy, twin_weight)
        shown = {"markersize": 6, "zorder": 3} if in_tables else {"markersize": 3.5, "alpha": 0.5}
        axes.plot([x], [y], linestyle="none", **shown, **_style(arm.policy))
    starts = {}
    for setting, name in arms.setting_names(trials).items():
        none, twin = (arms.at_weight(setting, policy, twin_weight) for policy in ("none", MI))
        if none in points and twin in points:
            axes.plot(*zip(points[none], points[twin], strict=True), color=GREY, linewidth=0.9, zorder=1)
        own = [points[arm] for arm in points if arm.setting == setting]
        if own:
            starts[name] = points.get(none, min(own))
    axes.set(xlabel="training time, minutes", ylabel=f"{METRICS[metric].axis}, %")
    axes.margins(x=0.08)
    axes.set_ylim(figures.within_percent(axes.get_ylim()))
    axes.set_xlim(left=axes.get_xlim()[0] - 0.14 * np.ptp(axes.get_xlim()))  # room for names
    _names(axes, starts)
    figures.plot_area(axes, "both")
    _legend(figure, [axes])
    return figure


def draw_quality(trials: Arms, dataset: str) -> Figure | None:
    """RankMe, which needs no labels, against linear-probe accuracy: one marker per arm, means over seeds."""
    rows: list[tuple[str, float, float]] = []
    for arm in trials:
        quality, accuracy = (values(trials, arm, dataset, key) for key in ("rank_me", "probe"))
        both = [seed for seed in quality if seed in accuracy]
        if both:
            x, y = (float(np.mean([by_seed[seed] for seed in both])) for by_seed in (quality, accuracy))
            rows.append((arm.policy, x, 100 * y))
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for policy in arms.policies(trials):
        own = [(x, y) for name, x, y in rows if name == policy]
        style = {**_style(policy), "linestyle": "none", "markersize": 5.5}
        axes.plot([x for x, _ in own], [y for _, y in own], label=arms.policy_name(policy), **style)
    axes.set(xlabel="RankMe, effective dimensions", ylabel="linear probe, top-1 accuracy, %")
    figures.plot_area(axes, "both")
    figures.title(axes, rank_correlation([x for _, x, _ in rows], [y for *_, y in rows]))
    _legend(figure, [axes])
    return figure


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> str:
    """Spearman's rank correlation with its two-sided p-value, as text."""
    if len(x) < 3:
        return f"{len(x)} arm{'' if len(x) == 1 else 's'}: too few for a rank correlation"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input, reported below
        correlation = spearmanr(x, y)
    if not np.isfinite(correlation.statistic):
        return "no rank correlation: one of the two does not vary"
    p = probability(float(correlation.pvalue))
    text = f"Spearman’s ρ = {correlation.statistic:.2f}, p {p if p.startswith('<') else f'= {p}'}, {len(x)} arms"
    return text.replace("-", "−")


def _weights_of(axes: Axes, trials: Arms, setting: Setting, dataset: str, metric: str, twin_weight: float) -> None:
    """One panel of `draw_weights`."""
    each = {w: accuracy_of(trials, Arm(setting, MI, w), dataset, metric) for w in arms.weights(trials, setting)}
    tried = {weight: cell for weight, cell in each.items() if cell}
    if none := accuracy_of(trials, arms.at_weight(setting, "none", 0), dataset, metric):
        axes.axhline(100 * none.mean, color=INK, linestyle="--", linewidth=1.2, label=arms.policy_name("none"))
        if none.interval:
            axes.axhspan(100 * none.interval[0], 100 * none.interval[1], color=GREY, alpha=0.2, lw=0)
    cells = [*tried.values()]
    means = [100 * cell.mean for cell in cells]
    low, high = (np.array([100 * (cell.interval or 2 * [cell.mean])[end] for cell in cells]) for end in (0, 1))
    axes.fill_between(list(tried), low, high, color=BLUE, alpha=0.22, linewidth=0)
    axes.plot(list(tried), means, label=arms.policy_name(MI), markersize=4.5, **_style(MI))
    if random := accuracy_of(trials, arms.at_weight(setting, "random", twin_weight), dataset, metric):
        _marks(axes, "random", [random], [twin_weight], horizontal=False)


def _same_span(panels: Sequence[Axes]) -> None:
    """Make all panels span the same range of accuracy, so that slopes are comparable."""
    for axes in panels:
        axes.set_ylim(figures.within_percent(axes.get_ylim()))
    span = max(high - low for low, high in (axes.get_ylim() for axes in panels))
    for axes in panels:
        low = min(max(sum(axes.get_ylim()) / 2 - span / 2, 0.0), max(100.0 - span, 0.0))
        axes.set_ylim(low, low + span)


def _marks(axes: Axes, policy: str, cells: Sequence[Summary], places: Sequence[float], *, horizontal: bool) -> None:
    """Draw means in percent, with error bars if there are intervals."""
    means = [100 * cell.mean for cell in cells]
    x, y = (means, places) if horizontal else (places, means)
    style = {**_style(policy), "linestyle": "none", "markersize": 5, "elinewidth": 1.3, "capsize": 2, "clip_on": False}
    if (lengths := figures.errors(cells)) is not None:
        style["xerr" if horizontal else "yerr"] = 100 * lengths
    axes.errorbar(x, y, label=arms.policy_name(policy), **style)


def _names(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names to the left of their points, moved up where they would overlap."""
    wide, high = (np.ptp(limits) for limits in (axes.get_xlim(), axes.get_ylim()))
    taken: list[tuple[float, float]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: (item[1][1], item[0])):
        height = y
        while any(abs(x - other) < 0.2 * wide and abs(height - above) < 0.035 * high for other, above in taken):
            height += 0.01 * high
        taken.append((x, height))
        axes.annotate(
            _wrapped(name), (x, height), (-7, 0), textcoords="offset points", ha="right", va="center", fontsize=8.5,
            color=INK, parse_math=False,
        )  # fmt: skip


def _wrapped(name: str) -> str:
    """Wrap a name into at most three short lines, which leaves room for the data."""
    return textwrap.fill(name, 22, max_lines=3, placeholder=" …")


def _style(policy: str) -> dict[str, Any]:
    return dict(STYLES.get(policy, OTHER))


def _legend(figure: Figure, panels: Sequence[Axes], columns: int = 5) -> None:
    """One legend for all panels, below the figure."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
