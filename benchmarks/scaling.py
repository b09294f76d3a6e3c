"""What do extraction and scoring cost as data grows, and what would Kinetics-700 take?

    python benchmarks/scaling.py [--clips 100 1000 10000] [--json FILE] [--plot FILE.png]

Two kinds of measurements, on rendered scenes (synthetic). *Clips*: the two stages on Ray, over more and more small
clips of one window each, with one worker and with two (the most by two only), each a process of its own: seconds,
bytes on the store, peak memory of the driver and what the ledgers take of it, and how much of Ray's object store was
taken at most.
*Windows*: one window in this process, one thread, over frames, patches and pixels. Models are fitted to both, power
laws and lines, and told beside what was measured. Last, the costs of a clip of Kinetics' geometry (340 x 256 pixels,
10 s at 25 frames/s) are multiplied out to its 650,000 clips: an extrapolation, not a measurement.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SCENES = 8  # different ones; more clips are the same files under other names
KINETICS = {"clips": 650_000, "frames": 250, "width": 340, "height": 256}
STORE_MB = 80  # the least that Ray takes
Row = dict[str, Any]


def render(folder: Path, frames: int, width: int, height: int, count: int = SCENES) -> list[Path]:
    """Rendered scenes as lossless videos."""
    from infoaug.orchestrator.synthetic import scenes

    paths = [folder / f"scene-{number}.avi" for number in range(count)]
    for number, path in enumerate(paths):
        scenes.write(scenes.render(number, frames, width=width, height=height, size=height // 6), path)
    return paths


def stages(clips: Path, store: Path, workers: int) -> Row:
    """Extract and score clips with so many workers, in this process; what Ray's object store held at most, MiB."""
    import ray

    from infoaug.models import memory
    from infoaug.orchestrator import config
    from infoaug.orchestrator.runtime import cluster
    from infoaug.orchestrator.runtime.store import Store
    from infoaug.orchestrator.stages import extract, score

    sizes = ["extract.window=24", "extract.spacing=32", "extract.patch_size=32", "extract.image_size=16"]
    sizes += ["score.surrogates=100"]
    where = [f"clips.path={clips}", f"store={store}", f"ray.cpus={workers}", f"ray.object_store_mb={STORE_MB}"]
    experiment = config.load(None, [*sizes, *where, "ray.address=local"])
    held, over, seconds = [0.0], threading.Event(), {}

    def watch() -> None:
        while not over.wait(0.5):
            there = ray.cluster_resources().get("object_store_memory", 0)
            held.append((there - ray.available_resources().get("object_store_memory", there)) / 2**20)

    with cluster.session(experiment.ray):
        cluster.connect(experiment.ray)
        threading.Thread(target=watch, daemon=True).start()
        started = time.perf_counter()
        extracted = extract.run(experiment, Store(experiment.store))
        seconds["extract"] = time.perf_counter() - started
        scored = score.run(experiment, extracted)
        seconds["score"] = time.perf_counter() - started - seconds["extract"]
        over.set()
    peak = memory.peak() / 2**20
    rows = {"clip_row_bytes": extracted.ledger.nbytes / len(extracted.ledger)}
    rows["window_row_bytes"] = scored.ledger.nbytes / len(scored.ledger)
    return {**seconds, "object_store_mib": max(held), "driver_mib": peak, "windows": len(scored.ledger), **rows}


def over_clips(counts: list[int], folder: Path) -> list[Row]:
    """`stages` over growing numbers of clips, each in a process of its own; the most by two workers only."""
    sources = render(folder / "scenes", 24, 160, 128)
    rows = []
    for count in counts:
        clips = folder / f"{count}"
        clips.mkdir()
        for number in range(count):
            os.link(sources[number % SCENES], clips / f"{number:06d}.avi")
        for workers in (1, 2) if count < max(counts) else (2,):
            store = folder / f"store-{count}-{workers}"
            command = [sys.executable, __file__, "--measure", str(clips), str(store), str(workers)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
            told = json.loads(done.stdout.splitlines()[-1])
            rows.append({"clips": count, "workers": workers, **told, "store_mib": size / 2**20})
            print(rows[-1], file=sys.stderr)
    return rows


def timed(work: Callable[[], Any], least: float = 0.5) -> float:
    """Seconds of a call, the median of several that together take a while."""
    taken: list[float] = []
    while sum(taken) < least or len(taken) < 3:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def one_window(frames: int, width: int, height: int, spacing: int) -> Row:
    """Seconds of the extraction and the scoring of one window that is in memory, on one thread."""
    import cv2
    import numba

    from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
    from infoaug.orchestrator.stages import extract, window_scores
    from infoaug.orchestrator.synthetic import scenes

    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    pixels = scenes.render(0, frames, width=width, height=height, size=height // 6).frames
    settings, scoring = ExtractConfig(window=frames, spacing=spacing), ScoreConfig()
    columns = extract.extract_window(pixels, settings)
    table = extract.trajectories_table("clip", 0, columns)
    window_scores.score_trajectories(table, scoring)  # compiles
    return {
        "frames": frames,
        "pixels": width * height,
        "patches": len(table),
        "extract": timed(lambda: extract.extract_window(pixels, settings)),
        "score": timed(lambda: window_scores.score_trajectories(table, scoring)),
    }


def over_windows() -> dict[str, list[Row]]:
    """One window over frames, over patches and over pixels, the other two being kept."""
    return {
        "frames": [one_window(frames, 640, 360, 64) for frames in (24, 48, 96, 192)],
        "patches": [one_window(48, 640, 360, spacing) for spacing in (96, 64, 40, 28, 20)],
        "pixels": [one_window(48, w, h, s) for w, h, s in ((320, 180, 32), (640, 360, 64), (1280, 720, 128))],
    }


def power(x: list[float], y: list[float]) -> tuple[float, float]:
    """a and b of y = a·x^b, by least squares of the logarithms."""
    b, log_a = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(log_a)), float(b)


def kinetics(folder: Path) -> Row:
    """Seconds and bytes of one clip of Kinetics' geometry, and of all, if all cost as much."""
    from infoaug.estimators.video import shots
    from infoaug.orchestrator.config import ExtractConfig
    from infoaug.orchestrator.runtime.store import Store
    from infoaug.orchestrator.stages import extract

    frames, width, height = KINETICS["frames"], KINETICS["width"], KINETICS["height"]
    (path,) = render(folder / "kinetics", frames, width, height, count=1)
    settings = ExtractConfig()
    windows = len(shots.windows(frames, [], settings.window))
    window = one_window(settings.window, width, height, settings.cell)
    scan = timed(lambda: shots.scan(path))
    from infoaug.estimators.video.clips import read_clip

    read = timed(lambda: read_clip(path, 0, settings.window))
    columns = extract.extract_window(read_clip(path, 0, settings.window), settings)
    store = Store(str(folder / "bytes"))
    store.write_table("x", extract.trajectories_table("clip", 0, columns))
    size = (folder / "bytes" / "x").stat().st_size
    seconds = scan + windows * (read + window["extract"] + window["score"])
    return {
        "windows": windows * KINETICS["clips"],
        "patches": windows * window["patches"] * KINETICS["clips"],
        "scan": scan,
        "read": read,
        "extract": window["extract"],
        "score": window["score"],
        "cpu_hours": seconds * KINETICS["clips"] / 3600,
        "store_gib": size * windows * KINETICS["clips"] / 2**30,
    }


def draw(found: Row, path: Path) -> None:
    """The measurements with the fitted laws."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for workers, colour in ((1, "C0"), (2, "C1")):
        rows = [row for row in found["clips"] if row["workers"] == workers]
        x = [row["clips"] for row in rows]
        axes[0].plot(x, [row["extract"] + row["score"] for row in rows], "o", color=colour, label=f"{workers} workers")
        slope, start = found["lines"][f"seconds, {workers} workers"]
        axes[0].plot(x, [start + slope * count for count in x], color=colour, lw=1)
        axes[1].plot(x, [row["driver_mib"] for row in rows], "o-", color=colour, label=f"driver, {workers} workers")
        axes[1].plot(
            x, [row["object_store_mib"] for row in rows], "s--", color=colour, label=f"object store, {workers}"
        )
    axes[0].set(xscale="log", yscale="log", xlabel="clips of one window", ylabel="seconds, extract and score")
    axes[1].set(xscale="log", xlabel="clips of one window", ylabel="MiB", ylim=(0, None))
    for name, rows in found["windows"].items():
        for stage, mark in (("extract", "o"), ("score", "s")):
            x = [row[name] / rows[0][name] for row in rows]
            a, b = found["powers"][f"{stage} over {name}"]
            axes[2].plot(x, [row[stage] for row in rows], mark, label=f"{stage}: {name}^{b:.2f}")
            axes[2].plot(x, [a * row[name] ** b for row in rows], color=axes[2].lines[-1].get_color(), lw=1)
    axes[2].set(xscale="log", yscale="log", xlabel="times the smallest", ylabel="seconds a window, one thread")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    axes[1].legend(fontsize=7, loc="center right")
    axes[2].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside it: its points are everywhere
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the tables, and write JSON and a figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # clips, store, workers: in a process of its own
    arguments = parser.parse_args()
    if arguments.measure:
        clips, store, workers = arguments.measure
        print(json.dumps(stages(Path(clips), Path(store), int(workers))))
        return

    found: Row = {"windows": over_windows()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["kinetics"] = kinetics(folder)
        found["clips"] = over_clips(arguments.clips, folder)
    most, kin = found["clips"][-1], found["kinetics"]
    kin["ledger_mib"] = KINETICS["clips"] * most["clip_row_bytes"] + kin["windows"] * most["window_row_bytes"]
    kin["ledger_mib"] /= 2**20
    found["powers"] = {
        f"{stage} over {what}": power([row[what] for row in rows], [row[stage] for row in rows])
        for what, rows in found["windows"].items()
        for stage in ("extract", "score")
    }
    found["lines"] = {}
    for workers in (1, 2):
        rows = [row for row in found["clips"] if row["workers"] == workers]
        for what, values in (
            ("seconds", [row["extract"] + row["score"] for row in rows]),
            ("MiB of the driver", [row["driver_mib"] for row in rows]),
            ("MiB on the store", [row["store_mib"] for row in rows]),
        ):
            slope, start = np.polyfit([row["clips"] for row in rows], values, 1)
            found["lines"][f"{what}, {workers} workers"] = [float(slope), float(start)]

    console = Console(width=140)
    table = Table(*found["clips"][0], title=f"clips of 24 frames at 160x128 (synthetic), {platform.machine()}")
    for row in found["clips"]:
        table.add_row(*(f"{value:,.4g}" for value in row.values()))
    console.print(table)
    for name, (slope, start) in found["lines"].items():
        console.print(f"{name} = {start:.3g} + {slope:.3g} a clip")
    for what, rows in found["windows"].items():
        for stage in ("extract", "score"):
            a, b = found["powers"][f"{stage} over {what}"]
            told = ", ".join(f"{row[what]:,}: {row[stage]:.3g} s (law {a * row[what] ** b:.3g})" for row in rows)
            console.print(f"{stage} ~ {what}^{b:.2f}   {told}")
    console.print("Kinetics-700, extrapolated:", {k: f"{v:,.4g}" for k, v in found["kinetics"].items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        draw(found, arguments.plot)


if __name__ == "__main__":
    main()
