"""Figures: what the stages saw and what came out, as matplotlib figures that share one style.

Every function returns a `Figure` of its own and leaves matplotlib's global state alone. Where there is nothing to draw,
the figure says so in words.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from orchestrator.report import accuracies, seeds_in_words

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # of Okabe and Ito's colour-blind safe palette
GREY, DIM, INK, FAINT = "#9AA3AD", "#69737D", "#1F2933", "#E4E7EB"
WIDTH = 6.4  # inches, of all figures: narrow enough to be read on a phone
DPI = 110
SPREAD_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0, 0.88, 256)))  # its yellow is too pale
MI_COLOURS = matplotlib.colormaps["viridis"].with_extremes(bad=FAINT)
NOT_MOVING = ("lost", "static")
MEANINGS = {
    "twin": "has a twin",
    "lost": "lost by the tracker",
    "static": "static",
    "no candidate": "no other patch to pair with",
    "not significant": "no significant pair",
    "policy none": "twins switched off",
}


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, facecolor="white")
    return buffer.getvalue()


def draw_tracks(
    frame: NDArray[np.uint8], position: ArrayLike, visible: ArrayLike, spread: ArrayLike, reason: Sequence[str]
) -> Figure:
    """Every patch's track over a window, on its first frame.

    Args:
        frame: u8[H, W, 3] RGB.
        position: f32[N, T, 2] pixels.
        visible: bool[N, T]; what is not visible is not drawn.
        spread: f64[N] pixels, RMS distance of the residual trajectory from its mean; the colour of the track.
        reason: N reasons why a patch has no twin, empty where it has one.
    """
    height, width = frame.shape[:2]
    points, seen = np.asarray(position, float), np.asarray(visible, bool)
    size = np.asarray(spread, float)
    why = np.array(reason, dtype=object)
    moving = ~np.isin(why, NOT_MOVING) & np.isfinite(size)
    figure = Figure(figsize=(WIDTH, min(0.84 * WIDTH * height / width, 7) + 0.65), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow((frame * 0.45 + 140).astype(np.uint8))  # paler, so that the tracks stand out
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

    lines = np.where(seen[..., None], points, np.nan)
    axes.add_collection(LineCollection(list(lines[~moving]), colors=GREY, linewidths=0.8))
    x, y = points[:, 0].T
    for shown, marker in ((why == "static", "o"), (~moving & (why != "static"), "x")):
        axes.scatter(x[shown], y[shown], s=9, marker=marker, color=DIM, linewidths=0.9)
    if moving.any():
        norm = _log_norm(size[moving])
        axes.add_collection(LineCollection(list(lines[moving]), colors="white", linewidths=2.6, alpha=0.75))
        coloured = LineCollection(
            list(lines[moving]), array=size[moving], cmap=SPREAD_COLOURS, norm=norm, linewidths=1.3
        )
        axes.add_collection(coloured)
        for shown, face in ((moving & (why == ""), None), (moving & (why != ""), "white")):
            edge = SPREAD_COLOURS(norm(size[shown]))
            axes.scatter(x[shown], y[shown], s=22, facecolors=face or edge, edgecolors=edge, linewidths=1.1, zorder=3)
        ticks = [float(f"{value:.2g}") for value in np.asarray(norm.inverse(np.linspace(0.1, 0.9, 4)))]
        bar = figure.colorbar(coloured, ax=axes, extend="both", fraction=0.035, pad=0.02, ticks=ticks)
        bar.minorticks_off()
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.set_label("spread of the residual motion, pixels", color=INK)

    entries = [
        ("with a twin", moving & (why == ""), "o", BLUE, 5),
        ("moving, no twin", moving & (why != ""), "o", "white", 5),
        ("static", why == "static", "o", DIM, 3),
        ("lost", ~moving & (why != "static"), "x", DIM, 4),
    ]
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=size, mfc=face, mec=BLUE if face == "white" else face)
        for *_, marker, face, size in entries
    ]
    figure.legend(
        handles,
        [f"{which.sum()} {name}" for name, which, *_ in entries],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.4,
    )
    frames = points.shape[1]
    _title(axes, f"{len(why)} patches over {frames} frames" + ("" if moving.any() else ": none of them moves"))
    return figure


def draw_mutual_information(mi: ArrayLike, p_values: ArrayLike | None, twin: ArrayLike) -> Figure:
    """Mutual information of the patches that were compared at all, each row's twin marked.

    Args:
        mi: f64[N, N] nats, NaN where it was not estimated.
        p_values: f64[N, N] or None.
        twin: int[N], −1 for none.
    """
    matrix, index = np.asarray(mi, float), np.asarray(twin, int)
    estimated = np.isfinite(matrix)
    np.fill_diagonal(estimated, False)
    kept = np.flatnonzero(estimated.any(0) | estimated.any(1))
    if not len(kept):
        return _message(
            f"No mutual information was estimated:\nno two of the {len(matrix)} patches move together long enough."
        )
    inner = np.where(estimated, matrix, np.nan)[np.ix_(kept, kept)]
    figure = Figure(figsize=(WIDTH, WIDTH * 0.92), layout="constrained")
    axes = figure.add_subplot()
    top = float(np.nanmax(inner))
    image = axes.imshow(inner, cmap=MI_COLOURS, vmin=0, vmax=max(top, 0.1), interpolation="nearest")

    place = np.full(len(matrix), -1)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(index[kept] >= 0)
    rows = rows[place[index[kept][rows]] >= 0]
    columns = place[index[kept][rows]]
    side = np.clip(200 / len(kept), 2, 9)
    axes.plot(columns, rows, "s", mfc="none", mec="white", ms=side + 1.5, mew=1.6)
    axes.plot(columns, rows, "s", mfc="none", mec=ORANGE, ms=side, mew=1.2, label="twin of the row")
    shown = np.arange(0, len(kept), math.ceil(len(kept) / 16))
    axes.set_xticks(shown, [str(n) for n in kept[shown]], rotation=90)
    axes.set_yticks(shown, [str(n) for n in kept[shown]])
    axes.set(xlabel="patch", ylabel="patch")
    axes.spines[:].set_visible(False)
    _ink(axes)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("mutual information, nats", color=INK)
    pairs = int(np.triu(estimated | estimated.T, 1).sum())
    told = f"{len(kept)} of {len(matrix)} patches, {pairs:,} pairs, {len(rows)} twins"
    if p_values is not None:
        p = np.asarray(p_values, float)[np.triu(estimated, 1)]
        told += f"\n{int((p <= 0.05).sum()):,} pairs at p ≤ 0.05, by chance alone {0.05 * np.isfinite(p).sum():,.0f}"
    _title(axes, told)
    if len(rows):
        figure.legend(loc="outside lower center", frameon=False, handletextpad=0.2)
    return figure


def draw_twins(images: NDArray[np.uint8], twin: ArrayLike, mi: ArrayLike, p: ArrayLike, count: int = 12) -> Figure:
    """Patches beside their twins, those of highest mutual information first; a mutual pair is shown once.

    Args:
        images: u8[N, S, S, 3] RGB.
        twin: int[N], −1 for none.
        mi: f64[N] nats, with the twin.
        p: f64[N], NaN where no test was made.
        count: how many pairs at most.
    """
    index, value, chance = np.asarray(twin, int), np.asarray(mi, float), np.asarray(p, float)
    ranked = [i for i in np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable") if index[i] >= 0]
    pairs = list({frozenset((int(i), int(index[i]))): int(i) for i in reversed(ranked)}.values())[::-1][:count]
    if not pairs:
        return _message(f"None of the {len(index)} patches has a twin.")
    columns = 3
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(WIDTH, 1.42 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    gap = np.full((images.shape[1], max(1, images.shape[2] // 16), 3), 255, np.uint8)
    for axes in grid.flat:
        axes.axis("off")
    for axes, patch in zip(grid.flat, pairs, strict=False):
        other = index[patch]
        axes.imshow(np.hstack([images[patch], gap, images[other]]), interpolation="nearest")
        arrow = "↔" if index[other] == patch else "→"
        tested = f", p {chance[patch]:.2g}" if np.isfinite(chance[patch]) else ""
        axes.set_title(f"{patch} {arrow} {other}\n{value[patch]:.2f} nats{tested}", fontsize=9.5, color=INK)
    return figure


def draw_reasons(counts: Mapping[str, int]) -> Figure:
    """How many patches have a twin, and why the others have none; other keys than the reasons are passed over."""
    shown = {reason: int(counts[reason]) for reason in MEANINGS if counts.get(reason)}
    total = sum(shown.values())
    if not total:
        return _message("There are no patches.")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    colours = [BLUE if reason == "twin" else GREY for reason in shown]
    bars = axes.barh([MEANINGS[r] for r in shown], list(shown.values()), color=colours, height=0.7)
    axes.bar_label(bars, [f"{n:,}  ({n / total:.1%})" for n in shown.values()], padding=4, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(shown.values()) * 1.3)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    _ink(axes)
    _title(axes, f"{total:,} patches")
    return figure


def draw_training(history: Sequence[Mapping[str, float]]) -> Figure:
    """Losses, and images per second, by epoch.

    Args:
        history: an epoch each, with `epoch`, `loss`, `view_loss`, `twin_loss` and `images_per_second`.
    """
    if not history:
        return _message("No epoch was trained.")
    epochs = [h["epoch"] for h in history]
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    marker = {"marker": "o", "markersize": 3.5} if len(history) <= 30 else {}
    for key, name, colour in (("loss", "total", INK), ("view_loss", "views", BLUE), ("twin_loss", "twins", ORANGE)):
        above.plot(epochs, [h[key] for h in history], color=colour, label=name, **marker)
    above.legend(frameon=False, ncols=3)
    above.set_ylabel("loss")
    below.plot(epochs, [h["images_per_second"] for h in history], color=GREEN, **marker)
    below.set(xlabel="epoch", ylabel="images/s")
    below.set_ylim(bottom=0)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in (above, below):
        _plot_area(axes, "y")
    _title(above, f"Training, {len(history)} epoch{'s' if len(history) > 1 else ''}")
    return figure


def draw_accuracy(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of the trained backbone beside that of the untrained one, with its interval where seeds allow one.

    Args:
        results: see `accuracies`.
    """
    rows = accuracies(results)
    if not rows:
        return _message("No data set was evaluated.")
    figure = Figure(figsize=(WIDTH, 1.3 + 0.72 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(len(rows)) + 0.35 * (np.arange(len(rows)) // 2)  # the two metrics of a data set stand together
    for summaries, name, offset, colour in (
        ([r.trained for r in rows], "trained", -0.19, BLUE),
        ([r.floor for r in rows], "random-init floor", 0.19, GREY),
    ):
        means = np.array([s.mean for s in summaries])
        halves = [s.half for s in summaries]
        error = [h or 0.0 for h in halves] if any(halves) else None
        bars = axes.barh(place + offset, means, height=0.36, color=colour, label=name, xerr=error, ecolor=INK)
        texts = [f"{m:.1%}" + (f" ± {h:.1%}" if h is not None else "") for m, h in zip(means, halves, strict=True)]
        axes.bar_label(bars, texts, padding=4, color=INK)
    known = [(y, r.chance) for y, r in zip(place, rows, strict=True) if r.chance is not None]
    if known:
        y, chance = np.array(known).T
        axes.vlines(chance, y - 0.42, y + 0.42, color=INK, linestyles=":", linewidth=1.4, label="chance")
    axes.set_yticks(place, [f"{r.dataset}\n{r.metric}" for r in rows], parse_math=False)
    axes.invert_yaxis()
    highest = max(s.mean + (s.half or 0) for r in rows for s in (r.trained, r.floor) if np.isfinite(s.mean))
    axes.set_xlim(0, max(highest, 0.05) * (1.2 if max(r.seeds for r in rows) == 1 else 1.4))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("top-1 accuracy")
    _plot_area(axes, "x")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda n: labels[n] == "chance")  # last
    figure.legend(
        [handles[n] for n in order], [labels[n] for n in order], loc="outside lower center", ncols=3, frameon=False
    )
    _title(axes, seeds_in_words(results).capitalize())
    return figure


def _message(text: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = Figure(figsize=(WIDTH, 1.3))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK, fontsize=11)
    return figure


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11, color=INK, parse_math=False)


def _ink(axes: Axes) -> None:
    axes.tick_params(colors=INK, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _plot_area(axes: Axes, grid: str) -> None:
    """Faint grid lines behind the data, and no box around it."""
    axes.grid(axis=grid, color=FAINT)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    _ink(axes)


def _log_norm(values: NDArray[np.float64]) -> LogNorm:
    """A log scale over all but the outermost values, never of no width."""
    low, high = np.quantile(np.maximum(values, 0.01), (0.02, 0.98))
    return LogNorm(low, max(high, 1.5 * low), clip=True)
