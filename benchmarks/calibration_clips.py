"""False positives of the test for dependence on real clips: windows that mix patches of two unrelated ones.

    python benchmarks/calibration_clips.py [--data FOLDER] [--cache FOLDER] [--json FILE]

A *mixed window* takes half of its patches from one clip and half from another. Both are tracked as filmed, without
their own camera's motion. All pairs across the two are independent: their share with p ≤ .05 is the false-positive
rate, and the share of such pairs among all that Benjamini–Hochberg accepts is that of false discoveries. Pairs within
one clip may be dependent, and belong to the window as they do in practice.

What happens to a file happens to all of its patches at once, so both halves get it at the same frames:

- `as filmed`;
- `shown twice, left in`: one frame in four is repeated, and not found;
- `dropped`: a tenth of the frames are missing;
- `stutter`: a tenth of the frames are missing, and the frame before is shown twice instead, which is found;
- `stutter, left in`: the same, not found;
- `jerks`: at a tenth of the frames, all patches are off by an error of the camera's motion of half a pixel.

A window of repeated frames that are found is as filmed. The *worst tenth* is the mean rate of the tenth of the windows
with the highest. Intervals at 95 % are by bootstrap over clips. Settings are chosen on the mixes of one half of the
clips (`choose`), and reported on those of the other (`report`). Data as in pairs.py.
"""

import argparse
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import false_discovery_control

from infoaug.estimators.information import motion, significance
from infoaug.estimators.video import clips, shots
from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
from infoaug.orchestrator.stages import extract

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

LENGTH, TRACKED = 48, 54  # frames of a window, and before a tenth of them is dropped
HALF = 20  # patches of one clip in a mixed window
KINDS = ("as filmed", "shown twice, left in", "dropped", "stutter", "stutter, left in", "jerks")
SHARE, JERK = 0.1, 0.5  # of the frames; pixels
SETTINGS = ScoreConfig()


class Paths(NamedTuple):
    """Patches of a window: trajectories f64[N, T, 2] without and with the camera's motion, visible bool[N, T]."""

    clip: str
    path: Float
    position: Float
    visible: Mask


def tracked(data: Path, cache: Path | None) -> list[Paths]:
    """A window of every DAVIS sequence and two of every other clip."""
    places = [(path, 0) for path in sorted((data / "davis/JPEGImages").iterdir())]
    for path in sorted((data / "clips").iterdir()):
        frames = shots.scan(path).frames
        places += [(path, frames // 3), (path, 2 * frames // 3)]
    found = []
    for path, first in places:
        key = hashlib.sha256(f"{path.resolve()} {first} {TRACKED} {extract.VERSION}".encode()).hexdigest()[:12]
        kept = cache and cache / f"{path.name}-{first}-{key}.npz"
        if kept and kept.exists():
            with np.load(kept) as stored:
                columns = dict(stored)
        else:
            count = min(TRACKED, len(list(path.iterdir()))) if path.is_dir() else TRACKED
            columns = extract.extract_window(
                clips.read_clip(path, first, count), ExtractConfig(window=count, spacing=32, patch_size=32)
            )
            columns = {name: columns[name] for name in ("position", "camera", "visible")}
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **columns)
        path_of = motion.residual(columns["position"], columns["camera"])
        found.append(Paths(path.name, path_of, columns["position"].astype(float), columns["visible"]))
    return found


def happened(kind: str, frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of a clip's frames a window of the kind shows, one after the other."""
    shown = np.arange(frames)
    if kind == "shown twice, left in":
        return np.sort(np.concatenate([shown, shown[3::4]]))[:LENGTH]
    if kind in ("dropped", "stutter"):
        return shown[np.append(True, rng.random(frames - 1) >= SHARE)][:LENGTH]
    if kind == "stutter, left in":
        missing = np.append(False, rng.random(frames - 1) < SHARE)
        missing[1:] &= ~missing[:-1]
        return (shown - missing)[:LENGTH]
    return shown[:LENGTH]


def mixed(one: Paths, other: Paths, kind: str, number: int) -> tuple[Float, Float, Mask, Mask] | None:
    """A mixed window: trajectories as in `Paths`, and which pairs are of two clips; None if too few patches move."""
    rng = np.random.default_rng([number, KINDS.index(kind)])
    frames = happened(kind, min(one.path.shape[1], other.path.shape[1]), rng)
    jerk = np.where(rng.random((1, len(frames), 1)) < SHARE, rng.normal(size=(1, len(frames), 2)) * JERK, 0.0)
    parts = []
    for clip in (one, other):
        path, visible = clip.path[:, frames], clip.visible[:, frames]
        _, seen = motion.displacement(path, visible)
        usable = (motion.spread(path, visible) >= SETTINGS.min_spread) & (seen.sum(1) >= SETTINGS.min_frames - 1)
        chosen = np.flatnonzero(usable)
        if len(chosen) < HALF // 4:
            return None
        chosen = np.sort(rng.permutation(chosen)[:HALF])
        off = jerk if kind == "jerks" else 0.0
        parts.append((path[chosen] + off, clip.position[chosen][:, frames], visible[chosen]))
    path, position, visible = (np.concatenate(part) for part in zip(*parts, strict=True))
    of = np.repeat([0, 1], [len(part[0]) for part in parts])
    return path, position, visible, of[:, None] != of[None]


def measured(one: Paths, other: Paths, kind: str, number: int) -> dict[str, Any] | None:
    """Rates of one mixed window, at the score stage's settings."""
    window = mixed(one, other, kind, number)
    if window is None:
        return None
    path, position, visible, across = window
    even = motion.evenly_paced(path, visible, motion.pace(path, position, visible=visible))
    x, seen = motion.samples(even, visible, SETTINGS.noise, kind=SETTINGS.samples)
    least = (SETTINGS.min_frames - 1) * x.shape[1] // (2 * (path.shape[1] - 1))
    p = significance.p_values(
        x, visible=seen, k=SETTINGS.k, method="circular-shift", surrogates=20_000, min_samples=least, seed=number
    )
    tested = np.triu(np.isfinite(p), 1)
    taken = np.zeros_like(tested)
    taken[tested] = false_discovery_control(p[tested]) <= SETTINGS.alpha
    return {
        "clips": [one.clip, other.clip],
        "kind": kind,
        "rate": float((p[tested & across] <= 0.05).mean()),
        "false": int((taken & across).sum()),
        "taken": int(taken.sum()),
    }


def mixes(windows: list[Paths]) -> list[tuple[str, int, Paths, Paths]]:
    """Every pair of windows of two clips of one half: `choose` (even clips) or `report` (odd ones)."""
    names = sorted({window.clip for window in windows})
    found = []
    for number, (one, other) in enumerate(combinations(windows, 2)):
        halves = {names.index(window.clip) % 2 for window in (one, other)}
        if one.clip != other.clip and len(halves) == 1:
            found.append(("choose" if halves == {0} else "report", number, one, other))
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the mixed windows of one kind; the intervals are over clips."""
    rates = np.array([row["rate"] for row in rows])
    names = sorted({name for row in rows for name in row["clips"]})
    belongs = np.array([[names.index(name) for name in row["clips"]] for row in rows])
    rng, means = np.random.default_rng(0), []
    for _ in range(1000):
        weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[belongs].prod(1)
        if weight.sum():
            means.append(float(np.average(rates, weights=weight)))
    worst = np.sort(rates)[-max(1, len(rates) // 10) :]
    taken = sum(row["taken"] for row in rows)
    return {
        "windows": len(rows),
        "rate": float(rates.mean()),
        "low": float(np.percentile(means, 2.5)),
        "high": float(np.percentile(means, 97.5)),
        "worst_tenth": float(worst.mean()),
        "false_discoveries": sum(row["false"] for row in rows) / max(1, taken),
        "false_a_window": float(np.mean([row["false"] / max(1, row["taken"]) for row in rows])),
        "taken": taken,
    }


def one_thread() -> None:
    """Initialise a worker process, which has one core."""
    numba.set_num_threads(1)


def rows_of(kind: str, mix: tuple[str, int, Paths, Paths]) -> dict[str, Any] | None:
    """The rates of one mix, with its half."""
    half, number, one, other = mix
    row = measured(one, other, kind, number)
    return row and row | {"half": half}


def main() -> None:
    """Print the table; write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, help="folder in which trajectories are kept")
    parser.add_argument("--mixes", type=int, default=60, help="mixed windows of each half and kind")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = mixes(tracked(arguments.data, arguments.cache))
    order = np.random.default_rng(0).permutation(len(found))
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        for kind in KINDS:
            for half in ("choose", "report"):
                some = [found[n] for n in order if found[n][0] == half][: arguments.mixes]
                rows += [row for row in pool.map(partial(rows_of, kind), some, chunksize=4) if row]
    heads = ("mixed windows", "p ≤ .05", "worst tenth", "false discoveries", "a window", "pairs found")
    table = Table("half", "kind", *heads, title="pairs of patches of two unrelated clips")
    for half in ("choose", "report"):
        for kind in KINDS:
            of = summary([row for row in rows if (row["half"], row["kind"]) == (half, kind)])
            table.add_row(
                half,
                kind,
                str(of["windows"]),
                f"{of['rate']:.3f} [{of['low']:.3f}, {of['high']:.3f}]",
                f"{of['worst_tenth']:.3f}",
                f"{of['false_discoveries']:.3f}",
                f"{of['false_a_window']:.3f}",
                str(of["taken"]),
            )
    Console(width=150).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
