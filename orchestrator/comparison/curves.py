"""Figures of all trials of a sweep: what they did epoch by epoch, and their settings beside their accuracy."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import Arms, TrialResult
from infoaug.orchestrator.comparison.plots import STYLES
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.reporting.figures import FAINT, GREY, INK, WIDTH

CURVES = {"loss": "loss", "validation_knn": "kNN, validation", "rank_me": "RankMe", "feature_std": "feature spread"}
COLOURS = matplotlib.colormaps["viridis"]
SPREAD = 0.06  # of the lines through one value of a setting, share of an axis
FEWEST = 3  # trials that are worth comparing by lines


def draw_curves(trials: Arms) -> Figure | None:
    """One line a trial, by epoch: a row of panels for each framework; None if no trial has kept its epochs."""
    kept = [trial for trial in arms.all_trials(trials) if trial.curves]
    columns = [key for key in CURVES if any(key in trial.curves for trial in kept)]
    if not columns:
        return None
    rows = list(dict.fromkeys(trial.framework for trial in kept))
    figure = Figure(figsize=(WIDTH, 0.9 + 1.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), sharex=True, squeeze=False)
    for line, framework in zip(grid, rows, strict=True):
        for axes, key in zip(line, columns, strict=True):
            for trial in kept:
                if trial.framework == framework and key in trial.curves:
                    values = trial.curves[key]
                    epochs = np.arange(1, len(values) + 1)
                    axes.plot(epochs, values, color=_colour(trial.policy), linewidth=0.9, alpha=0.7)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            figures.plot_area(axes, "y")
            axes.tick_params(labelsize=8)
        line[0].set_ylabel(arms.framework_name(framework)[:22], fontsize=9, parse_math=False)
    for axes, key in zip(grid[0], columns, strict=True):
        figures.title(axes, CURVES[key])
        axes.title.set_fontsize(9)
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=9)
    names = [policy for policy in arms.policies(trials) if any(trial.policy == policy for trial in kept)]
    handles = [Line2D([], [], color=_colour(policy), label=arms.policy_name(policy)) for policy in names]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_settings(trials: Arms, dataset: str, metric: str) -> Figure | None:
    """Parallel coordinates: an axis for each setting that varies and one for the accuracy, a line for each trial.

    None if fewer than two settings vary, or fewer than `FEWEST` trials have the accuracy.
    """
    known = [trial for trial in arms.all_trials(trials) if np.isfinite(_accuracy(trial, dataset, metric))]
    varied = {name: values for name, values in _settings(known).items() if len(set(values)) > 1}
    if len(varied) < 2 or len(known) < FEWEST:
        return None
    accuracy = np.array([100 * _accuracy(trial, dataset, metric) for trial in known])
    low, high = accuracy.min(), max(accuracy.max(), accuracy.min() + 1e-9)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    relative = (accuracy - low) / (high - low)
    heights = []
    for column, values in enumerate(varied.values()):
        levels = list(dict.fromkeys(values))
        places = np.linspace(0, 1, len(levels))
        # Trials of equal settings are drawn beside each other, in the order of their accuracies.
        heights.append([places[levels.index(value)] + SPREAD * at for value, at in zip(values, relative, strict=True)])
        for level, place in zip(levels, places, strict=True):
            axes.annotate(
                level[:18], (column, place), (4, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
                parse_math=False, bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )  # fmt: skip
    heights.append(list(relative))
    norm = Normalize(low, high)
    for line, value in sorted(zip(zip(*heights, strict=True), accuracy, strict=True), key=lambda pair: pair[1]):
        axes.plot(range(len(heights)), line, color=COLOURS(norm(value)), linewidth=1, alpha=0.75)
    for column in range(len(heights)):
        axes.axvline(column, color=FAINT if column < len(varied) else GREY, zorder=0)
    axes.set_xticks(range(len(heights)), [*varied, METRICS[metric].name], fontsize=8, parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, len(varied) + 0.05)
    figures.ink(axes)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, pad=0.01)
    bar.set_label(f"{METRICS[metric].axis}, %", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    return figure


def _settings(trials: Sequence[TrialResult]) -> dict[str, list[str]]:
    """The settings of the trials as texts, by their names in short."""
    named = {
        "framework": [arms.framework_name(trial.framework) for trial in trials],
        "negatives": [trial.negatives or "–" for trial in trials],
        "twins": [arms.policy_name(trial.policy) for trial in trials],
        "weight": [f"{trial.twin_weight:g}" for trial in trials],
    }
    others = sorted({name for trial in trials for name in trial.other})
    named |= {name.rpartition(".")[2]: [str(trial.other.get(name, "–")) for trial in trials] for name in others}
    return named | {"seed": [str(trial.seed) for trial in trials]}


def _accuracy(trial: TrialResult, dataset: str, metric: str) -> float:
    return float(trial.results.get(dataset, {}).get(metric, np.nan))


def _colour(policy: str) -> str:
    return str(STYLES.get(policy, {}).get("color", GREY))
