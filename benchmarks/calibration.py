"""Calibration of p-values: false-positive rate and power of the default test and alternatives on simulated paths.

    python benchmarks/calibration.py [--quick] [--json FILE] [--plot FILE.png]

Windows of paths are drawn, in pixels, with a tracker's jitter. In *independent* windows the paths' innovations are
independent: the share of pairs with p ≤ α is the false-positive rate, which should be α. In *coupled* windows the
innovations of 4 pairs are correlated (ρ = 0.8 in each coordinate): the share of these pairs with p ≤ α is the power,
their share accepted by Benjamini–Hochberg is `found`, and the share of uncoupled pairs among all accepted ones is the
false discovery rate.

Independence refers to the innovations: paths that share a slow drift or a moving camera count as independent.
Intervals are at 95 %, by a bootstrap over windows, as pairs of a window share paths.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numba
import numpy as np
from calibration_paths import COUPLED, PATHS, PROCESSES, WARM_UP, Float, Mask, jittered, smooth, window
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import false_discovery_control

from infoaug.estimators.information import kernels, motion
from infoaug.estimators.information.significance import p_values

Test = Callable[[Float, Mask, int], Float]

WINDOWS = {24: 100, 48: 100, 64: 80, 128: 40, 256: 20}  # number of windows by length, frames
COMPARED = 30  # number of windows for the alternatives
NOISE, K, SURROGATES = 0.1, 5, 2000


# ---- tests: functions of positions, visibility and a seed that return p-values


# Whitened samples: those of the score stage, and without blocks the innovations, displacements and positions.
compared = partial(motion.samples, noise=NOISE)
innovated, displaced, placed = (partial(compared, kind=kind, block=1) for kind in motion.KINDS)


def circular(prepare: Any, k: int, surrogates: int, theiler: bool = False) -> Test:
    """`p_values` on given samples, without a Theiler window or with one of an eighth of the samples."""

    def test(path: Float, visible: Mask, seed: int) -> Float:
        x, seen = prepare(path, visible)
        options: dict[str, Any] = {"k": k, "theiler": x.shape[1] // 8 if theiler else 0, "visible": seen}
        return p_values(x, surrogates=surrogates, method="circular-shift", seed=seed, **options)

    return test


def other_null(prepare: Any, move: Callable[..., Any], surrogates: int, own: bool = False) -> Test:
    """A null of surrogates by `move`, pooled over the window or separate for each pair."""

    def test(path: Float, visible: Mask, seed: int) -> Float:
        x, seen = prepare(path, visible)
        rng, count = np.random.default_rng(seed), len(x)
        copies = 99 if own else 1 if move is backwards else -(-surrogates // (count * (count - 1)))
        moved = [[move(x[j], seen[j], rng) for j in range(count)] for _ in range(copies)]
        y, there = (np.array([[m[part] for m in row] for row in moved]) for part in (0, 1))
        y, there = y.reshape(-1, *x.shape[1:]), there.reshape(-1, x.shape[1])
        mi = kernels.all_pairs(x, x, seen, seen, estimator="ksg", k=K, least=0, symmetric=True)
        null = kernels.all_pairs(x, y, seen, there, estimator="ksg", k=K, least=0).reshape(count, copies, count)
        if own:
            known = np.isfinite(null).sum(1)
            return np.where(np.isfinite(mi), (1 + (null >= mi[:, None]).sum(1)) / (1 + known), np.nan)
        values = np.sort(null[np.isfinite(null) & ~np.eye(count, dtype=bool)[:, None]])
        above = len(values) - np.searchsorted(values, mi)
        return np.where(np.isfinite(mi), (1 + above) / (1 + len(values)), np.nan)

    return test


def permuted(x: Float, seen: Mask, rng: np.random.Generator) -> tuple[Float, Mask]:
    """A random permutation of the samples."""
    moved, shown = np.zeros_like(x), np.flatnonzero(seen)
    moved[shown] = x[rng.permutation(shown)]
    return moved, seen


def truncated(x: Float, seen: Mask, rng: np.random.Generator) -> tuple[Float, Mask]:
    """Shifted by a tenth to half of the length; samples shifted out of the window are dropped."""
    shift = rng.integers(len(x) // 10, len(x) // 2) * rng.choice((-1, 1))
    moved, there = np.roll(x, shift, axis=0), np.roll(seen, shift)
    there[slice(0, shift) if shift > 0 else slice(shift, None)] = False
    return moved * there[:, None], there


def shifted(x: Float, seen: Mask, rng: np.random.Generator) -> tuple[Float, Mask]:
    """Shifted circularly by a tenth of the length or more."""
    shift = rng.integers(max(1, len(x) // 10), len(x) - len(x) // 10)
    return np.roll(x, shift, axis=0), np.roll(seen, shift)


def backwards(x: Float, seen: Mask, _: np.random.Generator) -> tuple[Float, Mask]:
    """Reversed in time: no discontinuity, but only one surrogate per pair."""
    return x[::-1], seen[::-1]


def as_they_are(path: Float, visible: Mask, seed: int, surrogates: int) -> Float:
    """Positions given to `p_values` with its default method, k = 3."""
    return p_values(path, k=3, surrogates=surrogates, visible=visible, seed=seed)


def tests(surrogates: int) -> dict[str, Test]:
    """The default test, first, and the alternatives, each with a null of that size."""
    return {
        "default": circular(compared, K, surrogates),
        "default, k = 3": circular(compared, 3, surrogates),
        "default, k = 10": circular(compared, 10, surrogates),
        "default, truncated shift": other_null(compared, truncated, surrogates),
        "default, backwards": other_null(compared, backwards, surrogates),
        "default, own null of 99": other_null(compared, shifted, surrogates, own=True),
        "no blocks": circular(innovated, K, surrogates),
        "p_values(positions)": partial(as_they_are, surrogates=surrogates),
        "displacements, circular shift": circular(displaced, K, surrogates),
        "displacements, Theiler window": circular(displaced, K, surrogates, theiler=True),
        "displacements, permutation": other_null(displaced, permuted, surrogates),
        "positions, circular shift": circular(placed, K, surrogates),
        "positions, Theiler window": circular(placed, K, surrogates, theiler=True),
        "positions, truncated shift": other_null(placed, truncated, surrogates),
        "positions, permutation": other_null(placed, permuted, surrogates),
    }


# ---- measures


def measured(task: tuple[str, int, list[str], int]) -> list[dict[str, Any]]:
    """A row for each named test on the same windows of one process and length."""
    process, length, names, count = task
    chosen, found = tests(SURROGATES), {name: [] for name in names}
    for number in range(count):
        alone, coupled = (window(process, length, truth, number) for truth in (False, True))
        for name in names:
            p, q = (chosen[name](path, seen, number) for path, seen, _ in (alone, coupled))
            above = np.triu(np.isfinite(p), 1)
            tested = np.triu(np.isfinite(q), 1)
            taken = np.zeros_like(tested)
            taken[tested] = false_discovery_control(q[tested]) <= 0.05
            true = coupled[2] & tested
            found[name].append(
                (
                    (p[above] <= 0.05).mean(),
                    (p[above] <= 0.01).mean(),
                    (q[true] <= 0.05).mean(),
                    taken[true].mean(),
                    (taken & ~true).sum() / max(1, taken.sum()),
                )
            )
    return [
        {"process": process, "frames": length, "test": name, "windows": count} | summary(np.array(values))
        for name, values in found.items()
    ]


def summary(values: Float) -> dict[str, Any]:
    """Means of f64[W, 5] over windows, each with its bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(1000, len(values)))
    low, high = np.nanpercentile(values[drawn].mean(1), (2.5, 97.5), axis=0)
    names = ("false_positives_05", "false_positives_01", "power_05", "found", "false_discoveries")
    return {
        n: [float(v) for v in row] for n, row in zip(names, zip(values.mean(0), low, high, strict=True), strict=True)
    }


def costs(patches: int = 100, length: int = 48, surrogates: int = 100_000) -> dict[str, float]:
    """Seconds of each test for a large window with a large null, after compilation."""
    rng, taken = np.random.default_rng(0), {}
    path = jittered(smooth(rng.normal(size=(patches, WARM_UP + length, 2)), 1.0), rng)
    visible = np.ones((patches, length), bool)
    for name, test in tests(surrogates).items():
        test(path[:4], visible[:4], 0)
        begin = time.perf_counter()
        test(path, visible, 0)
        taken[name] = time.perf_counter() - begin
    return taken


# ---- tables and figure


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print a table of the default test at all lengths, and of all tests at each length at which they are compared."""

    def cell(row: dict[str, Any], name: str, digits: int = 3) -> str:
        mean, low, high = row[name]
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    heads = ("p ≤ .05, independent", "p ≤ .01, independent", "p ≤ .05, coupled", "found", "false discoveries")
    table = Table("process", "frames", *heads, title="the default")
    for row in (r for r in rows if r["test"] == "default"):
        rates = [cell(row, n) for n in ("false_positives_05", "false_positives_01")]
        table.add_row(
            row["process"],
            str(row["frames"]),
            *rates,
            *(cell(row, n, 2) for n in ("power_05", "found", "false_discoveries")),
        )
    console.print(table)
    for length in sorted({r["frames"] for r in rows if r["test"] != "default"}):
        compared_rows = [r for r in rows if r["frames"] == length]
        kinds = list(dict.fromkeys(r["process"] for r in compared_rows))
        table = Table("test", *kinds, title=f"p ≤ .05 of independent / found of coupled pairs, {length} frames")
        for name in dict.fromkeys(r["test"] for r in compared_rows):
            of = {r["process"]: r for r in compared_rows if r["test"] == name}
            table.add_row(name, *(f"{of[k]['false_positives_05'][0]:.3f} / {of[k]['found'][0]:.2f}" for k in kinds))
        console.print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the false-positive rate of each test on autocorrelated independent paths."""
    shown = ("positions, permutation", "positions, circular shift", "displacements, circular shift", "default")
    length = min(r["frames"] for r in rows if r["test"] == shown[0])
    kinds = list(PROCESSES)[:9]
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots()
    for n, name in enumerate(shown):
        of = {r["process"]: r["false_positives_05"] for r in rows if r["test"] == name and r["frames"] == length}
        mean, low, high = np.array([of[k] for k in kinds]).T
        where = np.arange(len(kinds)) + 0.2 * (n - 1.5)
        axes.bar(where, mean, 0.19, yerr=(mean - low, high - mean), label=name, color=f"C{(1, 4, 0, 2)[n]}")
    axes.axhline(0.05, color="black", linewidth=1, linestyle="--", label="nominal rate")
    axes.set_xticks(range(len(kinds)), [k.replace(", ", ",\n").replace(" ", "\n", 1) for k in kinds])
    axes.set_ylabel("independent pairs with p ≤ 0.05")
    axes.set_yscale("log")
    axes.set_yticks((0.05, 0.1, 0.2, 0.5, 1), ("0.05", "0.1", "0.2", "0.5", "1"))
    axes.set_title(f"The autocorrelation trap: {PATHS} independent paths of {length} frames (simulated)")
    axes.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize="small")
    figure.savefig(path, dpi=120)


def one_thread() -> None:
    """Initialise a worker process, which has one core."""
    numba.set_num_threads(1)


def main() -> None:
    """Print the tables; write them as JSON, and the figure, if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixth of the windows")
    parser.add_argument("--compare", type=int, default=48, help="frames at which the alternatives are measured")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    lengths = list(WINDOWS)
    begin, everything, tasks = time.perf_counter(), list(tests(SURROGATES)), []
    for length in sorted({*lengths, arguments.compare}, reverse=True):
        few = 6 if arguments.quick else 1
        # A window of 4 paths has only 6 pairs, so more windows are needed.
        more = {process: 8 if process.endswith("4 paths") else 1 for process in PROCESSES}
        tasks += [(p, length, everything[:1], more[p] * WINDOWS.get(length, 40) // few) for p in PROCESSES]
        if length == arguments.compare:
            tasks += [(p, length, everything[1:], more[p] * COMPARED // few) for p in PROCESSES]
    taken = costs()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        order = list(PROCESSES)
        rows = [row for part in pool.map(measured, tasks) for row in part]
    rows.sort(key=lambda r: (order.index(r["process"]), r["frames"]))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    console = Console(width=200)
    show(rows, console)
    table = Table("test", "seconds", title=f"a window of 100 patches, 48 frames, a null of 100,000; {machine}")
    for name, value in taken.items():
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    worst = max((r for r in rows if r["test"] == "default"), key=lambda r: r["false_positives_05"][0])
    rate, low, high = worst["false_positives_05"]
    console.print(
        f"the default's largest rate at 0.05: {rate:.3f} [{low:.3f}, {high:.3f}], {worst['process']}, "
        f"{worst['frames']} frames; all of this took {time.perf_counter() - begin:.0f} s"
    )
    if arguments.json:
        about = {"paths": PATHS, "coupled": COUPLED, "k": K, "surrogates": SURROGATES, "machine": machine}
        arguments.json.write_text(json.dumps({**about, "rows": rows, "seconds": taken}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
