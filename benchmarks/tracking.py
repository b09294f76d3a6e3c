"""How well do the trackers hold on, and how fast are they? Real clips with ground truth, and rendered scenes.

    python benchmarks/tracking.py [--data FOLDER] [--parts badja,davis,vtest,scenes,camera,speed] [--json FILE]
                                  [--weights cotracker=FILE] [--ray]

Compared in the same run: `plain`, pyramidal Lucas–Kanade from frame to frame as one would write it with OpenCV, a lost
point being lost for good; the classical methods of `infoaug.track`; and the learned ones
that have weights.

| part | question | ground truth |
|---|---|---|
| `badja` | are joints of animals where they were annotated? | BADJA, 4 sequences |
| `davis` | how many points survive 24 and 48 frames, still on the same thing? | DAVIS, 6 sequences, masks |
| `vtest` | are points on people who walk by still on them in the end? | PETS09, boxes |
| `scenes` | how exact are positions and visibility? | rendered scenes (synthetic) |
| `camera` | which camera model leaves least of the background's motion, and tells the object from it best? | DAVIS |
| `speed` | frames per second of one core, by its own time, so that other work on the machine matters little | – |
| `ray` | how much faster are two workers at the windows of the extract stage than one? only with `--ray` | – |

Intervals are Wilson's at 95 %; they take points for independent, which those of one animal are not. The folder (default
INFOAUG_TEST_DATA, or ../shared/data) holds `davis/JPEGImages/NAME`, `davis/Annotations/NAME`, `tracks/badja_NAME.json`,
`tracks/vtest_boxes.csv`, `clips`; parts whose files are missing are left out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import tracking_measures as measures
from rich.console import Console
from rich.table import Table

from infoaug.estimators.trackers import tracks
from infoaug.estimators.trackers.base import Bytes, Floats, Tracks, grey, inside
from infoaug.estimators.video import clips
from infoaug.orchestrator import config
from infoaug.orchestrator.runtime import cluster, store
from infoaug.orchestrator.stages import extract
from infoaug.orchestrator.synthetic import scenes

SPEED_SIZES, SPEED_FRAMES, REPEATS = (32, 64), 24, 3  # patches, pixels: 390 and 91 points of 854x480
HEIGHT, WIDTH = 480, 854


def plain(frames: Bytes, queries: Floats) -> Tracks:
    """The reference: Lucas–Kanade frame to frame, 21x21 px, 3 levels up; lost at a forward–backward error of 1.5 px."""
    position = np.repeat(queries[:, None].astype(np.float32), len(frames), axis=1)
    visible = np.zeros(position.shape[:2], dtype=bool)
    visible[:, 0] = True
    live, before = np.arange(len(queries)), grey(frames[0])
    flow: Any = partial(cv2.calcOpticalFlowPyrLK, winSize=(21, 21), maxLevel=3)
    for t in range(1, len(frames)):
        now, at = grey(frames[t]), position[live, t - 1]
        if len(live) == 0:
            break
        there, went, _ = flow(before, now, at, None)
        back, came, _ = flow(now, before, there, None)
        good = (went.ravel() == 1) & (came.ravel() == 1) & (np.linalg.norm(back - at, axis=1) < 1.5)
        good &= inside(there, now.shape)
        live, before = live[good], now
        position[live, t:] = there[good, None]
        visible[live, t] = True
    return Tracks(position, visible)


def speed(data: Path, trackers: Mapping[str, measures.Tracker]) -> measures.Rows:
    """Frames a second of one core, by process time, on the first frames of every DAVIS sequence, or of a scene.

    The trackers take turns, and the ratio to `plain` is the median over the turns. Work on a GPU does not count.
    """
    if (data / "davis").exists():
        footage = [clips.read_clip(path, 0, SPEED_FRAMES) for path in sorted((data / "davis/JPEGImages").iterdir())]
        footage = [frames for frames in footage if frames.shape[1:3] == (HEIGHT, WIDTH)]
    else:
        footage = [scenes.render(0, frames=SPEED_FRAMES, height=HEIGHT, width=WIDTH, size=96).frames]
    queries = {size: [measures.grid_points(frames, size) for frames in footage] for size in SPEED_SIZES}
    rows: measures.Rows = []
    for tracker in trackers.values():
        tracker(footage[0][:8], queries[SPEED_SIZES[0]][0])  # what is done once, such as loading weights
    for size in SPEED_SIZES:
        seconds: dict[str, list[float]] = defaultdict(list)
        for repeat in range(REPEATS):
            for name in list(trackers)[:: -1 if repeat % 2 else 1]:
                begin = time.process_time()
                for frames, points in zip(footage, queries[size], strict=True):
                    trackers[name](frames, points)
                seconds[name].append(time.process_time() - begin)
        steps = len(footage) * (SPEED_FRAMES - 1)
        for name, taken in seconds.items():
            ratio = np.array(seconds["plain"]) / taken
            row = {"points": len(queries[size][0]), "tracker": name, "fps": steps / float(np.median(taken))}
            ratios = {"ratio": np.median(ratio), "ratio_low": ratio.min(), "ratio_high": ratio.max()}
            rows.append(row | {key: float(value) for key, value in ratios.items()})
    return rows


def ray_speedup(data: Path) -> measures.Rows:
    """The window pass of the extract stage on the real clips, with one worker and with two, each in its own process."""
    rows: measures.Rows = []
    for workers in (1, 2):
        command = [sys.executable, __file__, "--data", str(data), "--ray-workers", str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"workers": workers} | row | {"speedup": (rows[0] if rows else row)["seconds"] / row["seconds"]})
    return rows


def ray_pass(data: Path, workers: int) -> dict[str, Any]:
    """Run the extract stage with so many workers and a fresh store: windows, and seconds of the pass over them alone.

    Ray is up by then, and the pass before, which looks into the clips, has started its workers.
    """
    seconds: list[float] = []
    whole_pass = cluster.map_windows

    def timed(*arguments: Any, **more: Any) -> Any:
        begin = time.perf_counter()
        outcome = whole_pass(*arguments, **more)
        seconds.append(time.perf_counter() - begin)
        return outcome

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(cluster, "map_windows", timed):
        settings = [f"clips.path={data / 'clips'}", f"store={folder}", f"ray.cpus={workers}", "ray.address=local"]
        experiment = config.load(None, settings)
        with cluster.session(experiment.ray):
            result = extract.run(experiment, store.Store(experiment.store))
            used = cluster.cpus()
    assert used == workers and len(seconds) == 1
    return {"windows": result.computed, "seconds": seconds[0]}


def both_frames(name: str) -> str:
    """A share at the two frames that `measures.davis` looks at, as a format of its rows."""
    return " / ".join(f"{{{name}_{frame}:.0%}}" for frame in measures.LOOK_AT)


class Part(NamedTuple):
    """A part of the benchmark: its table's title, the files it needs, and its columns, each a format of a row."""

    title: str
    needs: tuple[str, ...]
    columns: dict[str, str]


INTERVAL = "{{{0}:.1%}} [{{{0}_low:.0%}}, {{{0}_high:.0%}}]"
PARTS = {
    "badja": Part(
        f"BADJA joints, {WIDTH}x{HEIGHT}; PCK: nearer than {measures.PCK} of the square root of the animal's area",
        ("davis", "tracks"),
        {"sequence": "{sequence}", "tracker": "{tracker}", "joints": "{joints}", "PCK": INTERVAL.format("pck")}
        | {"median error, px": "{median:.1f}", "called visible": "{visible:.0%}", "PCK of these": "{pck_visible:.1%}"},
    ),
    "davis": Part(
        f"DAVIS windows of {measures.LENGTH} frames, patches of {measures.PATCH} px; after {measures.LOOK_AT[0]} / "
        f"{measures.LOOK_AT[1]} frames, 'could' estimated from masks and background homographies",
        ("davis",),
        {"sequence": "{sequence}", "tracker": "{tracker}", "points": "{points:.0f}", "survive": both_frames("seen")}
        | {"could": both_frames("could"), "look the same": both_frames("alike"), "same side": both_frames("side")}
        | {"all three, of all": both_frames("good"), "survive on object": both_frames("object")}
        | {"and stay on it": both_frames("object_side")},
    ),
    "vtest": Part(
        "PETS09 (vtest.avi): points in a person's first box, in the person's last one",
        ("tracks", "clips/vtest.avi"),
        {"tracker": "{tracker}", "points": "{points}", "visible": "{seen:.1%}", "of these in the box": "{in_box:.1%}"}
        | {"visible and in the box": INTERVAL.format("stayed")},
    ),
    "scenes": Part(
        f"rendered scenes of {measures.LENGTH} frames (synthetic)",
        (),
        {"scenes": "{scenes}", "on": "{on}", "tracker": "{tracker}", "median error, px": "{median:.2f}"}
        | {"95 %": "{p95:.1f}", "over 3 px": "{astray:.1%}", "n visible": "{visible}", "called so": "{seen:.1%}"}
        | {"n covered": "{covered}", "called hidden": "{hidden:.1%}", "visible, of called so": "{precise:.1%}"},
    ),
    "camera": Part(
        "camera models on DAVIS windows, lucas-kanade: medians of what the camera leaves, px",
        ("davis",),
        {"sequence": "{sequence}", "model": "{model}", "background, a frame": "{background:.3f}"}
        | {"object, a frame": "{object:.3f}", "background's spread": "{spread_background:.2f}"}
        | {"object's spread": "{spread_object:.2f}", "AUC of spread": "{auc:.3f}"},
    ),
    "speed": Part(
        f"speed at {WIDTH}x{HEIGHT}, median of {REPEATS} turns",
        (),
        {"tracker": "{tracker}", "points": "{points}", "frames/s of one core": "{fps:.1f}"}
        | {"to plain": "{ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}]"},
    ),
    "ray": Part(
        "extract stage on the real clips, the pass over windows (Ray's start-up and the look into the clips left out)",
        ("clips",),
        {"workers": "{workers}", "windows": "{windows}", "seconds": "{seconds:.1f}", "to one": "{speedup:.2f}"},
    ),
}


def measure(part: str, data: Path, trackers: Mapping[str, measures.Tracker], count: int) -> measures.Rows:
    """Rows of one part; `count` is the number of rendered scenes of each condition."""
    if part == "scenes":
        return measures.rendered(count, trackers)
    if part == "speed":
        return speed(data, trackers)
    if part == "camera":
        return measures.camera_models(data, trackers["lucas-kanade"])
    if part == "ray":
        return ray_speedup(data)
    return {"badja": measures.badja, "davis": measures.davis, "vtest": measures.vtest}[part](data, trackers)


def machine() -> dict[str, Any]:
    """What it runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    versions = {"python": platform.python_version(), "opencv": cv2.__version__, "numpy": np.__version__}
    return {"processor": processor, "cpus": os.cpu_count(), "system": platform.system()} | versions


def main() -> None:
    """Print a table a part, and write all rows as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data")))
    parser.add_argument("--parts", default=",".join(name for name in PARTS if name != "ray"))
    parser.add_argument("--scenes", type=int, default=6, help="rendered scenes of each condition")
    parser.add_argument("--weights", action="append", default=[], metavar="METHOD=FILE", help="cotracker or tapir")
    parser.add_argument("--ray", action="store_true", help="also time the extract stage on one and two workers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ray-workers", type=int, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    data = arguments.data.absolute()
    if arguments.ray_workers:
        print(json.dumps(ray_pass(data, arguments.ray_workers)))
        return
    parts = list(dict.fromkeys([*arguments.parts.split(","), *(["ray"] if arguments.ray else [])]))
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    trackers: dict[str, measures.Tracker] = {"plain": plain}
    for method in ("lucas-kanade", "dense-flow"):
        trackers[method] = partial(tracks.track, method=method)
    for method, _, file in (weights.partition("=") for weights in arguments.weights):
        if method not in ("cotracker", "tapir") or not Path(file).is_file():
            parser.error(f"--weights {method}={file}: give cotracker=FILE or tapir=FILE, and a file that exists")
        trackers[method] = partial(tracks.track, method=method, weights=file)

    console = Console(width=140)
    seeds = [extract.scene_seed(0, number) for number in range(arguments.scenes)]
    about = machine() | {"scenes of each condition": arguments.scenes, "their seeds": seeds}
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    results: dict[str, Any] = {"machine": about, "seconds": {}, "left out": {}}
    for name in parts:
        part = PARTS[name]
        missing = [need for need in part.needs if not (data / need).exists()]
        if missing:
            results["left out"][name] = f"no {', '.join(missing)} in {arguments.data}"
            console.print(f"{name} is left out: {results['left out'][name]}; set INFOAUG_TEST_DATA or --data")
            continue
        begin = time.perf_counter()
        rows = measure(name, data, trackers, arguments.scenes)
        results["seconds"][name] = time.perf_counter() - begin
        table = Table(*part.columns, title=part.title)
        for row in rows:
            table.add_row(*(column.format(**row) for column in part.columns.values()))
        console.print(table, f"{name}: {results['seconds'][name]:.0f} s")
        results[name] = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
