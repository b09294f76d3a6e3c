"""Speed and memory of the compiled kernel for mutual information, compared with NPEET in the same run.

    python benchmarks/mutual_information.py [--patches 196] [--frames 32,…,1024] [--quick] [--json FILE] [--plot FILE]

*Speed.* The kernel estimates all pairs of a window. NPEET estimates one pair at a time: a sample of its pairs is timed
before and after the kernel, and the mean is reported. On this sample the kernel's values are compared with NPEET's.
Windows of more than 512 frames have fewer patches, to bound the running time. Compilation is not counted. `--plot`
draws the time of one pair as a PNG.

*Share of the bare operations* (`of bare`). For each of the T² pairs of samples, KSG needs 2k minima or maxima (the
larger distance of the two margins, and the k smallest of these), and one comparison and one addition in each margin.
The rate of these operations on one core, vectorised and on data in the first-level cache, is measured in the same run,
once for each precision. `of bare` is the kernel's rate per thread as a share of it. The rest of the time goes into
computing distances, padding to whole vectors, and memory traffic between caches.

*Memory.* Computed: the kernel's panels, sums, inputs and result. Measured: the growth of a process's peak memory (Linux
only; growth below 1 MiB can be hidden by memory that the process already holds). For comparison, the table lists the
memory that storing all distances would need.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from npeet_plus import estimators as npeet
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from infoaug.estimators.information import kernels
from infoaug.estimators.information.mutual_information import mutual_information, pairwise_mutual_information

K, NPEET_PAIRS = 3, 40
REPEATS, AT_LEAST = 3, 0.3  # minimum number of repeats, and minimum total time in seconds
FULL = 512  # frames; longer windows get fewer patches
PLOTTED = 2  # dimensions in the figure
COMPARED = 128  # frames in the comparison of estimators
SWEEPS = 100_000  # over a panel, to time the bare operations
Rows = list[dict[str, Any]]


def seconds(work: Callable[[], Any]) -> float:
    """Time of the fastest of at least `REPEATS` repeats, after one that compiles."""
    work()
    taken: list[float] = []
    while len(taken) < REPEATS or sum(taken) < AT_LEAST:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def walks(patches: int, frames: int, dimensions: int) -> NDArray[np.float64]:
    """Random walks f64[N, T, d] of unit variance; fewer of them beyond `FULL` frames."""
    count = max(16, min(patches, patches * FULL // frames))
    samples = np.random.default_rng(frames).normal(size=(count, frames, dimensions)).cumsum(1)
    standard: NDArray[np.float64] = (samples - samples.mean(1, keepdims=True)) / samples.std(1, keepdims=True)
    return standard


# ---- rate of the bare operations


@numba.njit(boundscheck=False, fastmath={"nsz", "arcp", "contract", "reassoc"})
def select(p: Any, q: Any, state: Any, sweeps: int) -> None:
    """Six minima or maxima for each row and lane of two panels [8, L]; `state` is [5, L]."""
    for _ in range(sweeps):
        for lane in range(p.shape[1]):
            a, b, c, d, e = state[0, lane], state[1, lane], state[2, lane], state[3, lane], state[4, lane]
            for row in range(8):
                x, y = p[row, lane], q[row, lane]
                z = max(x, y)
                a, b, c, d, e = min(a, z), max(b, z), min(c, x), max(d, x), min(e, y)
            state[0, lane], state[1, lane], state[2, lane], state[3, lane], state[4, lane] = a, b, c, d, e


@numba.njit(boundscheck=False, fastmath={"nsz", "arcp", "contract", "reassoc"})
def compare(p: Any, q: Any, radius: Any, one: Any, inside: Any, sweeps: int) -> None:
    """One comparison and one addition for each row and lane of two panels [8, L]."""
    for _ in range(sweeps):
        for lane in range(p.shape[1]):
            r, n, m = radius[lane], inside[0, lane], inside[1, lane]
            for row in range(8):
                n += one if p[row, lane] < r else one - one
                m += one if q[row, lane] < r else one - one
            inside[0, lane], inside[1, lane] = n, m


def aligned(shape: tuple[int, ...], dtype: str) -> NDArray[np.floating]:
    """Random numbers from 0 to 1, aligned to a cache line so that no vector crosses two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    values = buffer[start : start + size].view(dtype).reshape(shape)
    values[:] = np.random.default_rng(0).random(shape)
    return values


def bare_pairs_per_s(frames: int, dtype: str) -> float:
    """Pairs per second on one core if only the bare operations were needed; see the top of this file."""
    lanes = kernels._LANE_BYTES // np.dtype(dtype).itemsize
    p, q, state, inside = (aligned((rows, lanes), dtype) for rows in (8, 8, 5, 2))
    radius, one = aligned((lanes,), dtype), np.dtype(dtype).type(1)
    done = 8 * lanes * SWEEPS
    selections = 6 * done / seconds(lambda: select(p, q, state, SWEEPS))
    comparisons = 2 * done / seconds(lambda: compare(p, q, radius, one, inside, SWEEPS))
    return 1 / (frames**2 * (2 * K / selections + 2 / comparisons))


# ---- speed


def npeet_seconds(samples: NDArray[np.float64], chosen: list[tuple[int, int]]) -> tuple[float, list[float]]:
    """NPEET's time for one pair in seconds, and its estimates of the given pairs."""
    begin = time.perf_counter()
    values = [float(npeet.mi(samples[i], samples[j], k=K, base=np.e)) for i, j in chosen]
    return (time.perf_counter() - begin) / len(chosen), values


def speeds(patches: int, frames: int, dimensions: int) -> Rows:
    """One row for each precision and number of threads."""
    samples = walks(patches, frames, dimensions)
    count, all_threads = len(samples), numba.get_num_threads()
    chosen = [(0, j) for j in range(1, min(count, NPEET_PAIRS + 1))]
    before, reference = npeet_seconds(samples, chosen)
    rows: Rows = []
    for dtype in ("float64", "float32"):
        bare = bare_pairs_per_s(frames, dtype)
        for threads in sorted({1, all_threads}):
            numba.set_num_threads(threads)
            found: dict[str, Any] = {"d": dimensions, "frames": frames, "patches": count, "dtype": dtype}
            work = partial(pairwise_mutual_information, samples, k=K, backend="cpu", dtype=dtype)
            pairs, matrix = count * (count - 1) / 2 / seconds(work), work()
            off = max(abs(matrix[pair] - value) for pair, value in zip(chosen, reference, strict=True))
            found |= {"threads": threads, "pairs_per_s": pairs, "largest_difference": float(off)}
            rows.append(found | {"bare_pairs_per_s": bare, "of_bare": pairs / threads / bare})
    numba.set_num_threads(all_threads)
    after = npeet_seconds(samples, chosen)[0]
    slow = 2 / (before + after)
    about = {"npeet_pairs_per_s": slow, "npeet_before": 1 / before, "npeet_after": 1 / after}
    return [row | about | {"ratio": row["pairs_per_s"] / slow} for row in rows]


def estimators(patches: int) -> Rows:
    """The kernel's other estimators, float64 and all threads, with their difference from the reference functions."""
    samples = walks(patches, COMPARED, 2)
    given = walks(16, COMPARED, 2)[-1]
    rows: Rows = []
    kinds: dict[str, dict[str, Any]] = {name: {"estimator": name} for name in ("ksg", "ksg2", "3kl")}
    for name, options in (kinds | {"ksg, conditional": {"condition_on": given}}).items():
        work = partial(pairwise_mutual_information, samples, k=K, backend="cpu", **options)
        pairs, matrix = len(samples) * (len(samples) - 1) / 2 / seconds(work), work()
        off = max(abs(matrix[0, j] - mutual_information(samples[0], samples[j], k=K, **options)) for j in range(1, 9))
        row: dict[str, Any] = {"estimator": name, "frames": COMPARED, "patches": len(samples), "pairs_per_s": pairs}
        rows.append(row | {"to_ksg": pairs / (rows[0] if rows else row)["pairs_per_s"], "largest_difference": off})
    return rows


# ---- memory


def kernel_bytes(patches: int, frames: int, dimensions: int, itemsize: int, threads: int) -> int:
    """Peak memory of `kernels.all_pairs`: the result, plus the larger of inputs, panels and sums, and of mirroring."""
    lanes = kernels._LANE_BYTES // itemsize
    panel = -(-frames // kernels._ROWS) * kernels._ROWS * kernels._LANE_BYTES
    block = int(np.clip(kernels._BLOCK_BYTES // panel, 4, 16))
    inputs = 2 * patches * dimensions * -(-frames // lanes) * lanes * itemsize
    mirrored = patches**2 + patches * (patches - 1) // 2 * (2 * 8 + 8)  # a mask, indices, and values
    result = 8 * patches**2
    return result + max(inputs + threads * ((block + 1) * panel + 8 * block * patches), mirrored)


def peak_growth(patches: int, frames: int) -> int:
    """Growth of this process's peak memory while the kernel runs, in bytes (Linux)."""

    def resident(line: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(entry.split()[1]) for entry in status.splitlines() if entry.startswith(line))

    def work(samples: NDArray[np.float64]) -> None:
        seen = np.ones(samples.shape[:2], bool)
        kernels.all_pairs(samples, samples, seen, seen, estimator="ksg", k=K, least=0, symmetric=True)

    samples = walks(patches, frames, 2)
    work(samples[:4, :16])  # load the compiled code
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    before = resident("VmRSS")
    work(samples)
    return resident("VmHWM") - before


def memory(patches: int, lengths: list[int]) -> Rows:
    """One row for each length, each measured in its own process; float64, all threads."""
    rows: Rows = []
    for frames in lengths:
        count = len(walks(patches, frames, 2))
        row = {"frames": frames, "patches": count, "stored": count * frames**2 * 8, "growth": None}
        row["computed"] = kernel_bytes(count, frames, 2, 8, numba.get_num_threads())
        if Path("/proc/self/clear_refs").exists():
            command = [sys.executable, __file__, "--measure", str(patches), str(frames)]
            # Freed memory returns to the system at once, so that growth is not hidden in memory held before.
            alone = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone)
            row["growth"] = int(done.stdout.splitlines()[-1])
        rows.append(row)
    return rows


# ---- output


def plot(rows: Rows, machine: str, path: Path) -> None:
    """Plot the time of one pair against the number of observations, both logarithmic."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    own = [row for row in rows if row["d"] == PLOTTED]
    slow = {row["frames"]: 1e6 / row["npeet_pairs_per_s"] for row in own}
    axes.plot(list(slow), list(slow.values()), "o-", color="#D55E00", label="NPEET, one thread")
    for dtype, colour in (("float64", "#0072B2"), ("float32", "#009E73")):
        for threads, style in zip(sorted({row["threads"] for row in own}), ("o-", "s--"), strict=False):
            line = [row for row in own if (row["dtype"], row["threads"]) == (dtype, threads)]
            label = f"this kernel, {dtype}, {threads} thread{'s' if threads > 1 else ''}"
            times = [1e6 / row["pairs_per_s"] for row in line]
            axes.plot([row["frames"] for row in line], times, style, color=colour, label=label, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="observations", ylabel="time of one pair, µs")
    axes.set_xticks(list(slow), [f"{frames:,}" for frames in slow])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(color="#E4E7EB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"KSG mutual information of two {PLOTTED}-d trajectories, k = {K}\n{machine}", loc="left", fontsize=10
    )
    axes.legend(frameon=False, fontsize="small", handlelength=3.5)
    figure.savefig(path, dpi=120)


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    columns = (
        "d",
        "frames",
        "patches",
        "type",
        "threads",
        "pairs/s",
        "NPEET before, after",
        "ratio",
        "off by",
        "of bare",
    )
    table = Table(*columns, title=f"all pairs of a window, k = {K}")
    for row in results["rows"]:
        cells = (str(row[name]) for name in ("d", "frames", "patches", "dtype", "threads"))
        speed = (f"{row['pairs_per_s']:,.0f}", f"{row['npeet_before']:,.0f}, {row['npeet_after']:,.0f}")
        table.add_row(
            *cells, *speed, f"{row['ratio']:,.0f}", f"{row['largest_difference']:.1e}", f"{row['of_bare']:.0%}"
        )
    console.print(table)
    table = Table("estimator", "pairs/s", "to ksg", "off by", title=f"{COMPARED} frames, float64, all threads")
    for row in results["estimators"]:
        table.add_row(
            row["estimator"], f"{row['pairs_per_s']:,.0f}", f"{row['to_ksg']:.2f}", f"{row['largest_difference']:.1e}"
        )
    console.print(table)
    table = Table(
        "frames", "patches", "kernel, computed", "peak grew by", "all distances", title="memory, MiB, float64"
    )
    for row in results["memory"]:
        sizes = (
            f"{row[name] / 2**20:,.1f}" if row[name] is not None else "–" for name in ("computed", "growth", "stored")
        )
        table.add_row(str(row["frames"]), str(row["patches"]), *sizes)
    console.print(table)


def machine_line() -> str:
    """Processor and numba version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} processors, numba {numba.__version__}"


def main() -> None:
    """Print the tables; optionally write them as JSON, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--frames", default="32,64,128,256,512,1024")
    parser.add_argument("--quick", action="store_true", help="64 patches, lengths 32 and 128, 2 dimensions")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)  # run in its own process
    arguments = parser.parse_args()
    if arguments.measure:
        print(peak_growth(*arguments.measure))
        return
    patches, lengths = arguments.patches, [int(length) for length in arguments.frames.split(",")]
    if arguments.quick:
        patches, lengths = 64, [32, 128]
    machine, console = machine_line(), Console(width=120)
    console.print(machine)
    rows = [
        row for d in ((2,) if arguments.quick else (2, 3)) for length in lengths for row in speeds(patches, length, d)
    ]
    results = {"machine": machine, "k": K, "rows": rows}
    results |= {"estimators": estimators(patches), "memory": memory(patches, lengths)}
    show(results, console)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(rows, machine, arguments.plot)


if __name__ == "__main__":
    main()
