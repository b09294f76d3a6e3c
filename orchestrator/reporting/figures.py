"""Figures of an experiment's results, and the style that all figures share.

Every function returns a new matplotlib `Figure` and does not touch matplotlib's global state. A figure without data
says why it is empty.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting.confusion import MOST_DRAWN, Confusion
from infoaug.orchestrator.reporting.page import in_percent
from infoaug.orchestrator.reporting.report import accuracies, baseline_name, seeds_in_words
from infoaug.orchestrator.reporting.statistics import Summary, percent

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's colour-blind safe palette
GREY, DIM, INK, FAINT = "#9AA3AD", "#69737D", "#1F2933", "#E4E7EB"
WIDTH = 6.4  # inches; narrow enough to read on a phone
DPI = 110
LONGEST_CLASS = 14  # signs of a name beside a matrix
NUMBERS = 9.0, 5.5  # points, in the cells of a matrix: of few classes, of `MOST_DRAWN`
REASONS = {  # why a patch has a twin or none, in the words of the figure
    "twin": "has a twin",
    "lost": "lost (visible in too few frames)",
    "static": "static",
    "textureless": "too little texture to track",
    "no candidate": "no other patch to pair with",
    "not significant": "no significant pair",
    "not mutual": "among the best of no partner",
    "policy none": "twins switched off",
}


CURVES = {  # what the figure of a training shows below the losses, if it was measured
    "validation_knn": "kNN,\nvalidation",
    "rank_me": "RankMe",
    "feature_std": "feature\nspread",
    "learning_rate": "learning\nrate",
    "images_per_second": "images/s",
}


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with _any_name():
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, facecolor="white")
    return buffer.getvalue()


@contextmanager
def _any_name() -> Iterator[None]:
    """Names of the user's may have signs that no font of the figure has, such as emoji: they are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def svg(figure: Figure) -> bytes:
    """A figure as the bytes of an SVG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "infoaug"}), _any_name():
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", pad_inches=0.12, facecolor="white", metadata={"Date": None}
        )
    return buffer.getvalue()


def draw_reasons(counts: Mapping[str, int]) -> Figure:
    """Number of patches with a twin, and without one by reason; keys that are not reasons are ignored."""
    shown = {reason: int(counts[reason]) for reason in REASONS if counts.get(reason)}
    total = sum(shown.values())
    if not total:
        return message("There are no patches.")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    colours = [BLUE if reason == "twin" else GREY for reason in shown]
    bars = axes.barh([REASONS[r] for r in shown], list(shown.values()), color=colours, height=0.7)
    axes.bar_label(bars, [f"{n:,}  ({in_percent(n / total, 1)})" for n in shown.values()], padding=4, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(shown.values()) * 1.3)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    ink(axes)
    title(axes, f"{total:,} patches")
    return figure


def draw_training(history: Sequence[Mapping[str, float]]) -> Figure:
    """Losses, learning rate, label-free quality, validation accuracy and images per second by epoch.

    Args:
        history: one mapping for each epoch, with `epoch`, `loss`, `view_loss`, `twin_loss` and `images_per_second`, and
            those of `CURVES` that were measured.
    """
    if not history:
        return message("No epoch was trained.")
    epochs = [h["epoch"] for h in history]
    shown = {key: label for key, label in CURVES.items() if any(key in h for h in history)}
    figure = Figure(figsize=(WIDTH, 2.8 + 1.15 * len(shown)), layout="constrained")
    above, *others = figure.subplots(1 + len(shown), 1, sharex=True, height_ratios=(2, *[1] * len(shown)))
    marker = {"marker": "o", "markersize": 3.5} if len(history) <= 30 else {}
    for key, name, colour in (("loss", "total", INK), ("view_loss", "views", BLUE), ("twin_loss", "twins", ORANGE)):
        above.plot(epochs, [h[key] for h in history], color=colour, label=name, **marker)
    above.legend(frameon=False, ncols=3)
    above.set_ylabel("loss")
    for axes, (key, label) in zip(others, shown.items(), strict=True):
        axes.plot(epochs, [h.get(key, np.nan) for h in history], color=GREEN, **marker)
        axes.set_ylabel(label, fontsize=9)
        highest = np.nanmax([0.0, *(h[key] for h in history if np.isfinite(h.get(key, np.nan)))])
        axes.set_ylim(0, 1.12 * highest or 1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    others[-1].set_xlabel("epoch")
    others[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (above, *others):
        plot_area(axes, "y")
    title(above, f"Training, {len(history)} epoch{'s' if len(history) > 1 else ''}")
    return figure


def draw_accuracy(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of the trained backbone beside that before training, with intervals for several seeds.

    Args:
        results: see `accuracies`.
    """
    rows = accuracies(results)
    if not rows:
        return message("No data set was evaluated.")
    figure = Figure(figsize=(WIDTH, 1.3 + 0.72 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [row.dataset for row in rows]
    # A gap before every data set keeps its metrics together.
    positions = np.arange(len(rows)) + 0.35 * np.cumsum(
        [a != b for a, b in zip(names, [names[0], *names], strict=False)]
    )
    for summaries, name, offset, colour in (
        ([r.trained for r in rows], "trained", -0.19, BLUE),
        ([r.baseline for r in rows], baseline_name(results), 0.19, GREY),
    ):
        means = np.array([s.mean for s in summaries])
        error = errors(summaries)
        bars = axes.barh(positions + offset, means, height=0.36, color=colour, label=name, xerr=error, ecolor=INK)
        axes.bar_label(bars, [percent(s) for s in summaries], padding=4, color=INK)
    known = [(y, r.chance) for y, r in zip(positions, rows, strict=True) if r.chance is not None]
    if known:
        y, chance = np.array(known).T
        axes.vlines(chance, y - 0.42, y + 0.42, color=INK, linestyles=":", linewidth=1.4, label="chance")
    axes.set_yticks(positions, [f"{r.dataset}\n{r.metric}" for r in rows], parse_math=False)
    axes.invert_yaxis()
    both = [s for r in rows for s in (r.trained, r.baseline) if np.isfinite(s.mean)]
    highest = max((s.interval[1] if s.interval else s.mean for s in both), default=0)
    axes.set_xlim(0, max(highest, 0.05) * (1.5 if any(s.interval for s in both) else 1.2))  # room for the numbers
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    kinds = {metric.axis for metric in METRICS.values() if metric.name in {row.metric for row in rows}}
    axes.set_xlabel(kinds.pop() if len(kinds) == 1 else "share")
    plot_area(axes, "x")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda n: labels[n] == "chance")  # last
    figure.legend(
        [handles[n] for n in order], [labels[n] for n in order], loc="outside lower center", ncols=3, frameon=False
    )
    title(axes, seeds_in_words(results).capitalize())
    return figure


def draw_domains(result: Mapping[str, Any]) -> Figure:
    """Heat map of cross-domain probe accuracies in percent, with those before training in brackets.

    Args:
        result: evaluation on one cross-domain data set, with D `domains` (names), and `probe_matrix` and
            `floor_probe_matrix`, shares f[D, D]; rows are trained on, columns tested on.
    """
    names = result["domains"]
    trained, baseline = (np.array(result[f"{prefix}probe_matrix"]) for prefix in ("", "floor_"))
    figure = Figure(figsize=(WIDTH, 1.7 + 0.62 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    highest = max(trained.max(), 0.05)
    image = axes.imshow(trained, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for (row, column), share in np.ndenumerate(trained):
        colour = "white" if share > 0.55 * highest else INK  # legible on dark cells
        text = f"{100 * share:.1f}\n({100 * baseline[row, column]:.1f})"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    labels = [name if len(name) <= 12 else f"{name[:11]}…" for name in names]
    axes.set_xticks(range(len(names)), labels, parse_math=False)
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.spines[:].set_visible(False)
    ink(axes)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0)
    title(axes, f"Linear probe across domains, % ({baseline_name([result])})")
    return figure


def draw_confusion(confusion: Confusion) -> Figure:
    """Draw the matrix of the classes, of each row the shares in percent; a row without test images is left out."""
    shown = np.flatnonzero(confusion.images)
    if not len(shown):
        return message("There are no test images.")
    classes, images = confusion.classes, confusion.images
    matrix = np.zeros((len(classes), len(classes)))
    matrix[confusion.counts[:, 0], confusion.counts[:, 1]] = confusion.counts[:, 2]
    shares = matrix[shown] / images[shown, None]
    size = float(np.interp(len(classes) / MOST_DRAWN, (0.4, 1), NUMBERS))
    height = float(np.clip(0.6 * WIDTH / len(classes), 0.22, 0.5)) * len(shown)
    figure = Figure(figsize=(WIDTH, 1.5 + height), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if matrix[shown[row], column]:
            text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
            colour = "white" if share > 0.55 else INK  # legible on dark cells
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    # Names of classes differ at either end.
    names = [name if len(name) <= LONGEST_CLASS else f"{name[:7]}…{name[8 - LONGEST_CLASS :]}" for name in classes]
    named: dict[str, Any] = {"parse_math": False, "fontsize": max(size, 7.0)}
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", **named)
    axes.set_yticks(range(len(shown)), [names[label] for label in shown], **named)
    axes.set(xlabel="class found by the probe", ylabel="class of the image")
    axes.spines[:].set_visible(False)
    ink(axes)
    accuracy = confusion.right.sum() / images.sum()
    title(axes, f"{images.sum():,} test images, {in_percent(accuracy, 1)} right; % of the images of a row")
    return figure


def within_percent(limits: tuple[float, float]) -> tuple[float, float]:
    """The limits of an axis of shares in percent, without what no share can be."""
    return max(limits[0], 0.0), min(limits[1], 100.0)


def errors(summaries: Sequence[Summary]) -> NDArray[np.float64] | None:
    """Lengths of the error bars of shares f64[2, N], below and above the means; None if none has an interval."""
    if not any(s.interval for s in summaries):
        return None
    ends = [s.interval or (s.mean, s.mean) for s in summaries]
    lengths = [(s.mean - low, high - s.mean) for s, (low, high) in zip(summaries, ends, strict=True)]
    return np.maximum(np.array(lengths).T, 0.0)  # rounding


def message(text: str) -> Figure:
    """A figure that shows a sentence instead of data."""
    figure = Figure(figsize=(WIDTH, 1.3))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK, fontsize=11)
    return figure


def title(axes: Axes, text: str) -> None:
    """Set a left-aligned title; dollar signs are not read as mathematics."""
    axes.set_title(text, loc="left", fontsize=11, color=INK, parse_math=False)


def ink(axes: Axes) -> None:
    """Use the ink colour for labels, and no tick marks."""
    axes.tick_params(colors=INK, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def plot_area(axes: Axes, grid: str) -> None:
    """Draw faint grid lines behind the data, and no box around it."""
    axes.grid(axis=grid, color=FAINT)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    ink(axes)
