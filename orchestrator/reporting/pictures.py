"""Pictures of one window of a clip: tracks, mutual information and twins, as matplotlib figures."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from infoaug.orchestrator.reporting.figures import BLUE, DIM, FAINT, GREY, INK, ORANGE, WIDTH, ink, message, title

SPREAD_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0, 0.88, 256)))  # its yellow is too pale
SPREAD_LABEL = "spread of the residual motion, pixels"
MI_COLOURS = matplotlib.colormaps["viridis"].with_extremes(bad=FAINT)
NOT_MOVING = ("lost", "static", "textureless")
HALO = (effects.withStroke(linewidth=4.5, foreground="white"),)
STILL = 0.05  # pixels: a camera that moves no patch by more counts as still
CAMERA_STILL = "camera still"
DASHES = (0, (2.5, 1.8))
DOTS = (0, (1, 1.6))
NUMBER = 5.5  # points: the size of patch numbers

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


def moves(reason: Sequence[str], spread: ArrayLike) -> Mask:
    """Patches that are drawn in colour, bool[N]: neither static nor lost.

    Args:
        reason: N reasons why a patch has no twin, empty where it has one.
        spread: f64[N] pixels.
    """
    return ~np.isin(np.array(reason, dtype=object), NOT_MOVING) & np.isfinite(np.asarray(spread, float))


def hidden(visible: ArrayLike) -> Mask:
    """Frames in which a patch is hidden between two in which it is visible: bool[N, T] from bool[N, T]."""
    seen = np.asarray(visible, bool)
    before = np.logical_or.accumulate(seen, axis=1)
    after = np.logical_or.accumulate(seen[:, ::-1], axis=1)[:, ::-1]
    return before & after & ~seen


def bridged(position: ArrayLike, visible: ArrayLike) -> Float:
    """Positions f64[N, T, 2], linearly interpolated over the frames in which a patch is hidden.

    The tracker's own estimates for these frames may follow the occluding object.
    """
    points = np.array(position, float)
    frames = np.arange(points.shape[1])
    for path, seen, gap in zip(points, np.asarray(visible, bool), hidden(visible), strict=True):
        if gap.any():
            for axis in (0, 1):
                path[gap, axis] = np.interp(frames[gap], frames[seen], path[seen, axis])
    return points


def spread_norm(values: Float) -> LogNorm:
    """A log scale from the 2nd to the 98th percentile of spreads in pixels, with a width even for equal values."""
    low, high = np.quantile(np.maximum(values, 0.01), (0.02, 0.98))
    return LogNorm(low, max(high, 1.5 * low), clip=True)


def spread_ticks(norm: LogNorm, count: int) -> list[float]:
    """`count` rounded values along a scale of spreads."""
    return [float(f"{value:.2g}") for value in np.asarray(norm.inverse(np.linspace(0.1, 0.9, count)))]


def draw_tracks(
    frame: NDArray[np.uint8],
    position: ArrayLike,
    visible: ArrayLike,
    camera: ArrayLike,
    spread: ArrayLike,
    reason: Sequence[str],
    twin: ArrayLike | None = None,
    strength: ArrayLike | None = None,
    doubtful: ArrayLike | None = None,
) -> Figure:
    """Draw the tracks of all patches of a window on its first frame, and an arrow for the camera motion.

    A track is dashed while its patch is hidden, and ends where the patch was last visible. A line joins a patch to its
    twin; a doubtful twin's is dotted and in orange. Patches with a twin have their numbers, as far as there is room.

    Args:
        frame: u8[H, W, 3] RGB.
        position: f[N, T, 2] pixels; interpolated while a patch is hidden (`bridged`).
        visible: bool[N, T].
        camera: f32[N, T, 2] pixels, where camera motion alone would have moved each patch. The arrow is the path of the
            patch that starts nearest to the picture's centre, in true length.
        spread: f64[N] pixels, RMS distance of the residual trajectory from its mean; it sets the track's colour.
        reason: N reasons why a patch has no twin, empty where it has one.
        twin: int[N], −1 for none; None: no lines and numbers.
        strength: f64[N] of the dependence on the twin: the strongest have their numbers first.
        doubtful: bool[N], whose twin is doubtful.
    """
    height, width = frame.shape[:2]
    points, seen = np.asarray(position, float), np.asarray(visible, bool)
    size, gaps = np.asarray(spread, float), hidden(visible)
    why = np.array(reason, dtype=object)
    moving, paired, static = moves(reason, spread), why == "", why == "static"
    figure = Figure(figsize=(WIDTH, min(0.84 * WIDTH * height / width, 7) + 0.85), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow((frame * 0.45 + 140).astype(np.uint8))  # paler, so that the tracks stand out
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

    solid, dashed = np.where(seen[..., None], points, np.nan), _across_gaps(points, gaps)
    # Line widths in typographic points: thinner the less space there is between patches or lines.
    point = 60 * WIDTH / width  # a pixel's side: the picture takes five sixths of the figure
    way = point * np.nansum(np.linalg.norm(np.diff(solid[moving], axis=1), axis=2))
    room = point * math.sqrt(height * width / max(len(why), 1))
    line = float(np.clip(min(0.16 * room, 0.4 * point**2 * height * width / max(way, 1)), 0.6, 1.4))
    dot = float(np.clip(0.4 * room, 1.6, 1.5 + 2.3 * line))
    dashes: dict[str, Any] = {"linestyles": [DASHES], "linewidths": 0.7 * line}
    axes.add_collection(LineCollection(list(solid[~moving]), colors=GREY, linewidths=0.6 * line))
    axes.add_collection(LineCollection(list(dashed[~moving]), colors=GREY, **dashes))
    x, y = points[:, 0].T
    for shown, marker in ((static, "o"), (why == "lost", "x"), (why == "textureless", "+")):
        axes.scatter(x[shown], y[shown], s=(0.6 * dot) ** 2, marker=marker, color=DIM, linewidths=0.7 * line, zorder=3)
    if moving.any():
        norm = spread_norm(size[moving])
        scale: dict[str, Any] = {"array": size[moving], "cmap": SPREAD_COLOURS, "norm": norm}
        axes.add_collection(LineCollection(list(solid[moving]), colors="white", linewidths=2 * line, alpha=0.75))
        axes.add_collection(LineCollection(list(dashed[moving]), **scale, **dashes))
        coloured = LineCollection(list(solid[moving]), **scale, linewidths=line)
        axes.add_collection(coloured)
        for shown, face in ((moving & paired, None), (moving & ~paired, "white")):
            edge = SPREAD_COLOURS(norm(size[shown]))
            marked = {"facecolors": face or edge, "edgecolors": edge, "linewidths": 0.8 * line, "zorder": 3}
            axes.scatter(x[shown], y[shown], s=dot**2, **marked)
        bar = figure.colorbar(
            coloured, ax=axes, extend="both", fraction=0.035, pad=0.02, ticks=spread_ticks(norm, 4), format="{x:g}"
        )
        bar.minorticks_off()
        bar.set_label(SPREAD_LABEL, color=INK)

    index = np.full(len(why), -1) if twin is None else np.asarray(twin, int)
    unsure = np.zeros(len(why), bool) if doubtful is None else np.asarray(doubtful, bool)
    _draw_lines(axes, points[:, 0], index, unsure, line)
    _draw_numbers(axes, points[:, 0], index, np.zeros(len(why)) if strength is None else np.asarray(strength), width)

    def dots(marker: str, ms: float, face: str = DIM) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, ms=ms, mfc=face, mec=BLUE if face == "white" else face)

    entries = [
        (dots("o", 5, BLUE), f"{(moving & paired).sum()} with a twin"),
        (dots("o", 5, "white"), f"{(moving & ~paired).sum()} moving, no twin"),
        (dots("o", 3), f"{static.sum()} static"),
        (dots("x", 4), f"{(why == 'lost').sum()} lost"),
        (dots("+", 5), f"{(why == 'textureless').sum()} textureless"),
    ]
    if (index >= 0).any():
        entries.append((Line2D([], [], color=INK, lw=0.9), "to the twin"))
    if unsure.any():
        entries.append((Line2D([], [], color=ORANGE, lw=1.1, ls=DOTS), f"to a doubtful twin ({unsure.sum()})"))
    if gaps.any():
        dashed_line = Line2D([], [], color=BLUE, lw=1.1, ls=DASHES)
        entries.append((dashed_line, f"{gaps.any(1).sum()} temporarily hidden"))
    motion = _draw_camera(axes, np.asarray(camera, float), width, height)
    if motion and motion != CAMERA_STILL:
        entries.append((Line2D([], [], color=INK, lw=1.8, marker=">", ms=6, markevery=(1, 2)), "camera motion"))
    figure.legend(
        *zip(*entries, strict=True),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.4,
    )
    still = "" if moving.any() else ", none moving"
    title(axes, f"{len(why)} patches over {points.shape[1]} frames{still}\n{motion}".rstrip())
    return figure


def draw_mutual_information(
    mi: ArrayLike, p_values: ArrayLike | None, twin: ArrayLike, significant: ArrayLike | None = None
) -> Figure:
    """Draw the mutual information of the patches with estimates; significant pairs and each row's twin are marked.

    Args:
        mi: f64[N, N] nats, NaN for pairs that were not estimated.
        p_values: f64[N, N] or None.
        twin: int[N], −1 for none.
        significant: bool[N, N], the significant pairs; None if there was no test.
    """
    matrix, index = np.asarray(mi, float), np.asarray(twin, int)
    estimated = np.isfinite(matrix)
    np.fill_diagonal(estimated, False)
    kept = np.flatnonzero(estimated.any(0) | estimated.any(1))
    if not len(kept):
        return message(
            f"No mutual information was estimated:\nno two of the {len(matrix)} patches share enough frames."
        )
    inner = np.where(estimated, matrix, np.nan)[np.ix_(kept, kept)]
    figure = Figure(figsize=(WIDTH, WIDTH * 0.92), layout="constrained")
    axes = figure.add_subplot()
    top = float(np.nanmax(inner))
    image = axes.imshow(inner, cmap=MI_COLOURS, vmin=0, vmax=max(top, 0.1), interpolation="nearest")

    position = np.full(len(matrix), -1)  # of each patch in the figure
    position[kept] = np.arange(len(kept))
    rows = np.flatnonzero(index[kept] >= 0)
    rows = rows[position[index[kept][rows]] >= 0]
    columns = position[index[kept][rows]]
    side = float(np.clip(200 / len(kept), 2, 9))
    real = np.zeros_like(estimated) if significant is None else np.asarray(significant, bool)
    if len(marked := np.argwhere(real[np.ix_(kept, kept)])):
        dot: dict[str, Any] = {"mfc": "white", "mec": INK, "ms": 0.45 * side, "mew": 0.06 * side}
        axes.plot(*marked.T[::-1], "o", **dot, label=f"significant pair ({len(marked) // 2:,})")
    axes.plot(columns, rows, "s", mfc="none", mec="white", ms=side + 1.5, mew=1.6)
    axes.plot(columns, rows, "s", mfc="none", mec=ORANGE, ms=side, mew=1.2, label="twin of the row")
    shown = np.arange(0, len(kept), math.ceil(len(kept) / 16))
    axes.set_xticks(shown, [str(n) for n in kept[shown]], rotation=90)
    axes.set_yticks(shown, [str(n) for n in kept[shown]])
    axes.set(xlabel="patch", ylabel="patch")
    axes.spines[:].set_visible(False)
    ink(axes)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("mutual information, nats", color=INK)
    pairs = int(np.triu(estimated | estimated.T, 1).sum())
    heading = f"{len(kept)} of {len(matrix)} patches, {pairs:,} pairs, {len(rows)} twins"
    if p_values is not None:
        p = np.asarray(p_values, float)[np.triu(estimated, 1)]
        heading += (
            f"\n{int((p <= 0.05).sum()):,} pairs at p ≤ 0.05, {0.05 * np.isfinite(p).sum():,.0f} expected by chance"
        )
    title(axes, heading)
    if len(rows) or len(marked):
        figure.legend(loc="outside lower center", frameon=False, handletextpad=0.2, ncols=2)
    return figure


def draw_twins(
    images: NDArray[np.uint8],
    twin: ArrayLike,
    mi: ArrayLike,
    p: ArrayLike,
    later: NDArray[np.uint8] | None = None,
    count: int = 12,
) -> Figure:
    """Draw patches beside their twins, by decreasing mutual information; a mutual pair is shown once.

    Args:
        images: u8[N, S, S, 3] RGB.
        twin: int[N], −1 for none.
        mi: f64[N] nats, with the twin.
        p: f64[N], NaN without a test.
        later: u8[N, S, S, 3] RGB, at another time, for patches that are their own twins; None: `images`.
        count: maximum number of pairs.
    """
    index, value, chance = np.asarray(twin, int), np.asarray(mi, float), np.asarray(p, float)
    ranked = [i for i in np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable") if index[i] >= 0]
    pairs = list({frozenset((int(i), int(index[i]))): int(i) for i in reversed(ranked)}.values())[::-1][:count]
    if not pairs:
        return message(f"None of the {len(index)} patches has a twin.")
    columns = 3
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(WIDTH, 1.42 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    gap = np.full((images.shape[1], max(1, images.shape[2] // 16), 3), 255, np.uint8)
    for axes in grid.flat:
        axes.axis("off")
    for axes, patch in zip(grid.flat, pairs, strict=False):
        other = index[patch]
        beside = later[patch] if later is not None and other == patch else images[other]
        axes.imshow(np.hstack([images[patch], gap, beside]), interpolation="nearest")
        if other == patch:
            axes.set_title(f"{patch}, later", fontsize=9.5, color=INK)
            continue
        arrow = "↔" if index[other] == patch else "→"
        tested = f", p {chance[patch]:.2g}" if np.isfinite(chance[patch]) else ""
        axes.set_title(f"{patch} {arrow} {other}\n{value[patch]:.2f} nats{tested}", fontsize=9.5, color=INK)
    return figure


def _across_gaps(points: Float, gaps: Mask) -> Float:
    """Lines f64[N, 2T − 1, 2] over the frames in which a patch is hidden and to their neighbours, NaN elsewhere.

    There is a midpoint between any two frames, so that gaps on both sides of a visible frame are not joined.
    """
    step = gaps[:, 1:] | gaps[:, :-1]
    kept = np.zeros((len(points), 2 * points.shape[1] - 1), bool)
    kept[:, 1::2] = step
    kept[:, 2::2] |= step
    kept[:, :-1:2] |= step
    line = np.repeat(points, 2, axis=1)[:, :-1]
    line[:, 1::2] = (points[:, 1:] + points[:, :-1]) / 2
    return np.where(kept[..., None], line, np.nan)


def _draw_lines(axes: Axes, point: Float, twin: NDArray[np.int64], doubtful: Mask, line: float) -> None:
    """Draw a line from each point to its twin's, doubtful ones dotted."""
    has = np.flatnonzero((twin >= 0) & (twin != np.arange(len(twin))))
    for shown, colour, style in ((has[~doubtful[has]], INK, "-"), (has[doubtful[has]], ORANGE, DOTS)):
        ends = list(np.stack([point[shown], point[twin[shown]]], axis=1))
        axes.add_collection(LineCollection(ends, colors="white", linewidths=1.6 * line, alpha=0.7))
        axes.add_collection(LineCollection(ends, colors=colour, linewidths=0.8 * line, linestyles=[style], alpha=0.9))


def _draw_numbers(axes: Axes, point: Float, twin: NDArray[np.int64], strength: Float, width: int) -> None:
    """Write the numbers of patches with a twin, the strongest first, where they do not cover another number."""
    pixel = width / (60 * WIDTH)  # of the picture, in a typographic point
    high = 1.3 * NUMBER * pixel
    taken: list[tuple[float, float, float]] = []
    for patch in np.argsort(-np.nan_to_num(strength), kind="stable"):
        if twin[patch] < 0:
            continue
        x, y = point[patch]
        wide = 0.65 * NUMBER * pixel * len(str(patch))
        if any(abs(x - u) < (wide + other) / 2 + pixel and abs(y - v) < high for u, v, other in taken):
            continue
        taken.append((x, y, wide))
        axes.annotate(
            str(patch), (x, y), (0, 3.2), textcoords="offset points", ha="center", va="bottom", fontsize=NUMBER,
            color=INK, path_effects=[effects.withStroke(linewidth=1.6, foreground="white")], zorder=6,
            annotation_clip=True,
        )  # fmt: skip


def _draw_camera(axes: Axes, camera: Float, width: int, height: int) -> str:
    """Draw the camera motion as the path of the most central patch, and return it as text."""
    if not len(camera):
        return ""
    if np.abs(camera - camera[:, :1]).max() <= STILL:
        return CAMERA_STILL
    path = camera[np.linalg.norm(camera[:, 0] - ((width - 1) / 2, (height - 1) / 2), axis=1).argmin()]
    far, length = math.dist(path[-1], path[0]), float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    outside = ((path < 0) | (path > (width - 1, height - 1))).any(1)
    inside = path[: outside.argmax()] if outside.any() else path
    text = f"camera motion at the centre: {_pixels(far)}"
    if length > 1.5 * far + 1:
        text += f", on a path of {_pixels(length)}"
    if outside.any():
        text += ", out of the picture"
    axes.plot(*inside.T, color=INK, lw=1.8, path_effects=HALO, zorder=4)
    # The head points along the last part of the path, about as long as the head: a single step may be jitter.
    behind = np.flatnonzero(np.linalg.norm(inside - inside[-1], axis=1) >= 0.025 * width)
    start = inside[behind[-1] if len(behind) else 0]
    head = {"arrowstyle": "-|>", "color": INK, "lw": 0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 19}
    head["path_effects"] = [effects.withStroke(linewidth=2.5, foreground="white")]
    axes.annotate("", inside[-1], start, arrowprops=head, zorder=5)
    return text


def _pixels(length: float) -> str:
    return f"{length:.0f} px" if length >= 9.5 else f"{length:.1f} px"
