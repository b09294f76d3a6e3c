"""How often a patch and its twin lie on the same object in real clips, compared with chance at their distance.

    python benchmarks/twins_on_clips.py [--data FOLDER] [--sizes 64,32] [--quick] [--json FILE]

DAVIS sequences (Perazzi et al. 2016; a moving camera, one object): whether a patch's point and its twin's are on the
same side of the object's mask in the window's first frame. `vtest.avi` (PETS09, a fixed camera): whether the twin of a
patch in a person's box is in the same box. Windows, trajectories and twins use the default settings. A second run
requires twins to be at least two patch sizes apart, as the tracker uses much the same pixels for neighbours.

Nearby patches are likely to lie on the same object however twins are chosen. So each twin is compared with *chance at
its distance*:

- `own`: among the patch's other admissible partners, the tenth (at least 5) closest in distance to the twin; the share
  of these on the same object. If the twin is the nearest partner, all of these are farther away.
- `window`: among all admissible pairs of the window whose first patch is on (off) the object like the patch, those
  whose length is within a tenth of the twin's distance, or the 20 closest in length if there are fewer; the share of
  these on the same object.

`random` and `nearest` are the control policies: the same patches with other twins.

Wilson's intervals (95 %) assume independent patches. This does not hold: patches move together, twins are often mutual,
and windows overlap. The intervals over sequences (Student's t, each sequence one observation) do not need it. The
sentences below the tables use the latter (for `vtest.avi`, a single clip, Wilson's) and the window's chance.

The folder (default INFOAUG_TEST_DATA, or ../shared/data) holds `davis/JPEGImages/NAME`, `davis/Annotations/NAME`,
`clips/vtest.avi` and `tracks/vtest_boxes.csv`; missing data are skipped.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from tracking_measures import wilson

from infoaug.estimators.video import clips
from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
from infoaug.orchestrator.stages.extract import extract_window
from infoaug.orchestrator.stages.score import score_window

Bool = NDArray[np.bool_]
Rows = list[dict[str, Any]]

LENGTH, STRIDE = 48, 24  # of windows, frames
POLICIES = ("mutual-information", "random", "nearest")
APART = (0, 2)  # smallest distance of twins, patch sizes
MATCHED, OWN, PAIRS = 0.1, 5, 20  # share of partners or of the distance; smallest number of partners, of pairs
MEANS = ("mutual-information", "random", "nearest", "own", "chance", "distance", "own_distance")
FEWEST, SEQUENCES = 5, 3  # smallest number of patches with a twin for an observation, of observations for an interval
VTEST, TOGETHER = "vtest.avi", "all of DAVIS"
COLUMNS = {
    "chance: window": "{chance:.1%}",
    "own (px away)": "{own:.1%} ({own_distance:.0f})",
    "random": "{random:.1%}",
    "nearest": "{nearest:.1%}",
}


class Window(NamedTuple):
    """Frames u8[T, H, W, 3] of a clip, and masks bool[P, H, W] of the objects in its first frame; they may overlap.

    `both_sides`: patches on no mask count as on the background together; otherwise they are not evaluated.
    """

    clip: str
    frames: NDArray[np.uint8]
    masks: Bool
    both_sides: bool


def davis(data: Path, most: int | None) -> Iterator[Window]:
    """Windows of the DAVIS sequences, at most `most` of each."""
    for folder in sorted((data / "davis/JPEGImages").iterdir()):
        frames = clips.read_clip(folder)
        mask = clips.read_clip(data / "davis/Annotations" / folder.name)[..., 0] > 127
        for first in range(0, len(frames) - LENGTH + 1, STRIDE)[:most]:
            yield Window(folder.name, frames[first : first + LENGTH], mask[first][None], True)


def vtest(data: Path, most: int | None) -> Iterator[Window]:
    """Windows of `vtest.avi` that start at an annotated frame."""
    boxes = np.loadtxt(data / "tracks/vtest_boxes.csv", delimiter=",")
    annotated = np.unique(boxes[:, 0]).astype(int) - 1
    for first in [f for f in annotated.tolist() if f % STRIDE == 0][:most]:
        frames = clips.read_clip(data / "clips" / VTEST, first, LENGTH)
        own = boxes[boxes[:, 0] == first + 1]
        masks = np.zeros((len(own), *frames.shape[1:3]), bool)
        for mask, (left, top, width, height) in zip(masks, own[:, 2:], strict=True):
            mask[max(0, int(top)) : int(top + height) + 1, max(0, int(left)) : int(left + width) + 1] = True
        yield Window(VTEST, frames, masks, False)


def twins_of(window: Window, size: int) -> Rows:
    """A row for each patch with a twin: whether each policy's twin is on the same object, and the chance."""
    columns = extract_window(window.frames, ExtractConfig(window=LENGTH, spacing=size, patch_size=size))
    paths, point = (columns["position"], columns["camera"], columns["visible"]), columns["position"][:, 0]
    x, y = np.rint(point).astype(int).T
    on = window.masks[:, y, x].T
    owned: Bool = np.asarray(on.any(axis=1))
    same: Bool = np.asarray((on[:, None] & on).any(axis=-1))
    if window.both_sides:
        same |= ~owned[:, None] & ~owned
    distance = np.linalg.norm(point[:, None] - point, axis=-1)
    rows: Rows = []
    for apart in APART:
        settings = {policy: ScoreConfig(policy=policy, min_distance=apart * size) for policy in POLICIES}
        scored = {policy: score_window(*paths, settings[policy]) for policy in POLICIES}
        twin = {policy: scored[policy].twins.index for policy in POLICIES}
        admissible = np.isfinite(scored[POLICIES[0]].mutual_information) & (distance >= apart * size)
        for patch in np.flatnonzero((twin[POLICIES[0]] >= 0) & (window.both_sides | owned)):
            own, own_distance, chance = chances(
                int(patch), int(twin[POLICIES[0]][patch]), same, distance, admissible, owned
            )
            row = {"clip": window.clip, "size": size, "apart": apart, "object": bool(owned[patch]), "own": own}
            row |= {"chance": chance, "own_distance": own_distance}
            row |= {"distance": float(distance[patch, twin[POLICIES[0]][patch]])}
            rows.append(row | {policy: bool(same[patch, twin[policy][patch]]) for policy in POLICIES})
    return rows


def chances(
    patch: int, twin: int, same: Bool, distance: NDArray[np.floating], admissible: Bool, owned: Bool
) -> tuple[float, float, float]:
    """`own` chance, the mean distance of its partners, and `window` chance; NaN without partners or pairs."""
    off = abs(distance - distance[patch, twin])
    allowed = admissible.copy()
    allowed[patch, twin] = allowed[twin, patch] = False
    partners = np.flatnonzero(allowed[patch])
    partners = partners[np.argsort(off[patch, partners], kind="stable")][: max(OWN, round(MATCHED * len(partners)))]
    i, j = np.nonzero(allowed & (owned == owned[patch])[:, None])
    order = np.argsort(off[i, j], kind="stable")
    order = order[: max(PAIRS, int((off[i, j] <= MATCHED * distance[patch, twin]).sum()))]
    return mean(same[patch, partners]), mean(distance[patch, partners]), mean(same[i, j][order])


def mean(values: NDArray[Any] | list[Any]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    kept = np.asarray(values, float)
    kept = kept[~np.isnan(kept)]
    return float(kept.mean()) if len(kept) else float("nan")


def summary(patches: Rows, clip: str, which: str) -> dict[str, Any]:
    """Shares among some patches; `excess`, twins minus the window's chance, has an interval over sequences."""
    low, high = wilson(sum(p["mutual-information"] for p in patches), len(patches))
    row: dict[str, Any] = {"clip": clip, "patches": which, "n": len(patches), "low": low, "high": high}
    row |= {name: mean([p[name] for p in patches]) for name in MEANS}
    by_clip = [
        [p["mutual-information"] - p["chance"] for p in patches if p["clip"] == name] for name in clips_of(patches)
    ]
    excess = np.array([mean(part) for part in by_clip if len(part) >= FEWEST])
    half = t.ppf(0.975, len(excess) - 1) * excess.std(ddof=1) / len(excess) ** 0.5 if len(excess) > 1 else float("nan")
    row |= {"sequences": len(excess), "above": int((excess > 0).sum()), "excess": mean(excess)}
    return row | {"excess_low": float(row["excess"] - half), "excess_high": float(row["excess"] + half)}


def clips_of(patches: Rows) -> list[str]:
    """The clips of some patches, without repetition, in order."""
    return list(dict.fromkeys(p["clip"] for p in patches))


def summaries(patches: Rows) -> Rows:
    """A row for each clip and kind of patch, then for all DAVIS sequences together."""
    groups = {clip: [p for p in patches if p["clip"] == clip] for clip in clips_of(patches)}
    if sequences := [p for p in patches if p["clip"] != VTEST]:
        groups[TOGETHER] = sequences
    rows: Rows = []
    for clip, group in groups.items():
        if clip == VTEST:
            rows.append(summary(group, clip, "on a person"))
        else:
            rows.append(summary(group, clip, "all"))
            rows.append(summary([p for p in group if p["object"]], clip, "on the object"))
            rows.append(summary([p for p in group if not p["object"]], clip, "off the object"))
    return rows


def in_words(row: dict[str, Any]) -> str:
    """The conclusion that a row's numbers allow."""
    text = f"{row['clip']}, {row['patches']}: twins {row['mutual-information']:.1%}, chance {row['chance']:.1%}, "
    text += f"nearest {row['nearest']:.1%}; "
    if row["clip"] == VTEST:
        low, high = row["low"], row["high"]
        way = "more than" if low > row["chance"] else "less than" if high < row["chance"] else "indistinguishable from"
        return f"{text}n = {row['n']}, [{low:.0%}, {high:.0%}]: {way} chance; a single clip does not generalise"
    count = row["sequences"]
    if count < SEQUENCES:
        return f"{text}{FEWEST} or more such patches are in only {count} sequences: no interval"
    low, high = row["excess_low"], row["excess_high"]
    way = "more than chance" if low > 0 else "less than chance" if high < 0 else "is not distinguishable from chance"
    return f"{text}{row['excess']:+.1%} [{low:+.1%}, {high:+.1%}] over {count} sequences, {row['above']} above 0: {way}"


def table_of(rows: Rows, title: str) -> Table:
    """The rows as a table."""
    table = Table("clip", "patches", "n", "distance, px", "on the same object", *COLUMNS, title=title)
    for row in (row for row in rows if row["n"]):
        twin = f"{row['mutual-information']:.1%} [{row['low']:.0%}, {row['high']:.0%}]"
        cells = (column.format(**row) for column in COLUMNS.values())
        table.add_row(row["clip"], row["patches"], str(row["n"]), f"{row['distance']:.0f}", twin, *cells)
    return table


def main() -> None:
    """Print a table and its conclusions for each patch size and smallest distance; write both as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data")))
    parser.add_argument("--sizes", default="64,32", help="patch sizes, pixels")
    parser.add_argument("--quick", action="store_true", help="only the first window of each clip")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    data, sizes, begin = arguments.data, [int(size) for size in arguments.sizes.split(",")], time.perf_counter()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    console, patches, windows = Console(width=140), Rows(), 0
    for source, needs in ((davis, ("davis",)), (vtest, ("clips/vtest.avi", "tracks/vtest_boxes.csv"))):
        if missing := [need for need in needs if not (data / need).exists()]:
            console.print(f"no {', '.join(missing)} in {data}: skipped; set INFOAUG_TEST_DATA or --data")
            continue
        for window in source(data, 1 if arguments.quick else None):
            windows += 1
            patches += [row for size in sizes for row in twins_of(window, size)]
    if not windows:
        return
    console.print(f"{windows} windows of {LENGTH} frames, patches that have a twin; {machine}")
    results = Rows()
    for apart, size in product(APART, sizes):
        rows = summaries([p for p in patches if (p["size"], p["apart"]) == (size, apart)])
        said = [in_words(row) for row in rows if row["clip"] in (TOGETHER, VTEST) and row["n"]]
        title = f"patches of {size} px" + (f", twins at least {apart * size} px away" if apart else "")
        console.print(table_of(rows, title), *said, "", sep="\n", highlight=False)
        clean = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        results.append({"size": size, "min_distance": apart * size, "rows": clean, "in words": said})
    console.print(f"took {time.perf_counter() - begin:.0f} s")
    if arguments.json:
        about = {"machine": machine, "windows": windows, "score": ScoreConfig().model_dump()}
        arguments.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
