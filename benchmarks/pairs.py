"""What pairs are worth: how many there are, whether both belong to the same object, and which subjects are lost.

    python benchmarks/pairs.py [--parts davis,vtest,scenes] [--sizes 64,32] [--cache FOLDER] [SECTION.KEY=VALUE …]
    python benchmarks/pairs.py --render    # docs/pairs.md from benchmarks/results/pairs.json

Windows are tracked, scored and paired by the functions of the stages, without Ray, with the default settings or those
given (`extract.spacing=16 score.min_frames=12`). With `--cache`, tracked and scored windows are kept, and the command
goes on where it was interrupted; twins are chosen anew from what is kept.

* `davis`: DAVIS-2016 (Perazzi et al.), a moving camera and one subject with masks. Windows of 48 frames start every 24;
  a shorter sequence is one window. A sequence is a clip. Half of them (`CHOOSING`) are for choosing methods and
  settings, the other half for reporting them.
* `vtest`: PETS09, a fixed camera and boxes of people. Only patches on people count. A single clip has no interval.
* `scenes`: rendered (synthetic), 4 scenes in each of 4 conditions. Coupled sprites count as one object, still ones as
  background. A sequence is a scene.

A twin is judged by three questions, and *chance* answers each for all other patches of the window that are as far away
(in bins of distance), *allowed* for those of them that could be twins:

* `point`: are both tracked points on the same object, or both on the background?
* `crop`: do both stored pictures show mostly the same object, or both mostly the background?
* `shown`: do both pictures show mostly what the patch's own point is on?

All policies give twins to the same patches; `oracle` leaves out those that are alone on their object. No twin of the
policy `other-clip` can be right, so it is not in the tables. Twins are chosen among patches that are at least 0, 1.5
and 3 crops away, and `score.min_distance` in any case. *Lost* patches are visible in too few frames to be scored.
*Still on the object* counts the points on an object that are visible in the window's last frame. Video seconds are
those of the windows.

Shares are pooled over patches. Intervals (95 %) are over sequences: Student's t with the linearised variance of a
ratio, as patches of a sequence are not independent. Sequences without such patches do not count, and fewer than 3 give
none. With so few sequences, intervals near 0 and 100 % are too narrow rather than too wide.

The folder (default INFOAUG_TEST_DATA, or ../shared/data) holds `davis/JPEGImages/NAME`, `davis/Annotations/NAME`,
`clips/vtest.avi` and `tracks/vtest_boxes.csv`; parts whose files are missing are left out.
"""

import argparse
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numba
import numpy as np
import pairs_measures as measures
import pairs_tables as tables
from gpu import commit
from numpy.typing import NDArray
from pairs_measures import BACKGROUND, NOTHING, POLICIES, Int, Window
from tracking_measures import CONDITIONS

from infoaug.estimators.video import clips
from infoaug.estimators.video.patches import crop_boxes
from infoaug.orchestrator import config
from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.reporting.pictures import NOT_MOVING
from infoaug.orchestrator.runtime.store import digest_of, move_into_place
from infoaug.orchestrator.stages import extract, score, window_scores
from infoaug.orchestrator.synthetic import scenes

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/results/pairs.json", ROOT / "docs/pairs.md"
CHOOSING = "blackswan", "breakdance", "car-roundabout", "cows", "dog", "horsejump-high", "motocross-jump"
VERSION = 2  # raised when windows get other labels
LENGTH, STRIDE = 48, 24  # of windows, frames
APART = 0.0, 1.5, 3.0  # smallest distance of twins, crops
FPS = {"davis": 24.0, "vtest": 10.0, "scenes": 25.0}
NEEDS = {"davis": ("davis",), "vtest": ("clips/vtest.avi", "tracks/vtest_boxes.csv"), "scenes": ()}
SCENES, SCENE = 4, {"height": 480, "width": 640, "size": 80}  # of each condition; pixels
# What the scores of a window depend on. Twins are chosen from them anew.
CODE = [
    *sorted((ROOT / "estimators").rglob("*.py")),
    *(ROOT / f"orchestrator/stages/{n}.py" for n in ("extract", "score")),
]
CODE.remove(ROOT / "estimators/information/twins.py")


class Task(NamedTuple):
    """A window: a part, a clip of it, the first frame, the number of frames, and the side of crops in pixels."""

    part: str
    clip: str
    first: int
    length: int
    size: int


# ---- windows and their truth


def windows(data: Path, part: str) -> Iterator[tuple[str, int, int]]:
    """Clip, first frame and number of frames of every window of a part."""
    if part == "davis":
        for folder in sorted((data / "davis/JPEGImages").iterdir()):
            count = len(list(folder.iterdir()))
            for first in range(0, max(1, count - LENGTH + 1), STRIDE):
                yield folder.name, first, min(LENGTH, count)
    elif part == "vtest":
        annotated = np.unique(boxes_of_people(data)[:, 0]).astype(int) - 1
        yield from (("vtest.avi", int(first), LENGTH) for first in annotated if first % STRIDE == 0)
    else:
        yield from ((f"{name} {number}", 0, LENGTH) for name in CONDITIONS for number in range(SCENES))


def footage(data: Path, task: Task) -> tuple[NDArray[np.uint8], Int, Int | None]:
    """Frames u8[T, H, W, 3], and labels int[H, W] of the first and of the last frame, None if they are not known."""
    if task.part == "davis":
        folders = (data / "davis" / kind / task.clip for kind in ("JPEGImages", "Annotations"))
        frames, masks = (clips.read_clip(folder, task.first, task.length) for folder in folders)
        first, last = (np.where(masks[t, ..., 0] > 127, 0, BACKGROUND) for t in (0, -1))
        return frames, first, last
    if task.part == "vtest":
        frames = clips.read_clip(data / "clips" / task.clip, task.first, task.length)
        labels, people = np.full(frames.shape[1:3], BACKGROUND), boxes_of_people(data)
        own = people[people[:, 0] == task.first + 1]
        for _, number, left, top, width, height in own[np.argsort(own[:, 3] + own[:, 5])]:  # the nearest in front
            labels[max(0, int(top)) : int(top + height) + 1, max(0, int(left)) : int(left + width) + 1] = number
        return frames, labels, None
    name, number = task.clip.split()
    scene = scenes.render(extract.scene_seed(0, int(number)), frames=task.length, **SCENE, **CONDITIONS[name])
    return scene.frames, labels_of_scene(scene, 0), labels_of_scene(scene, task.length - 1)


def boxes_of_people(data: Path) -> Any:
    """Rows of `vtest_boxes.csv`: frame from 1, person, left, top, width, height in pixels."""
    return np.loadtxt(data / "tracks/vtest_boxes.csv", delimiter=",")


def labels_of_scene(scene: scenes.Scene, frame: int) -> Int:
    """Labels int[H, W] of a frame: coupled sprites have that of the first of them, still ones are background."""
    groups = np.array([min(s, p) if p >= 0 else s for s, p in enumerate(scene.partner)])
    groups = np.append(np.where(scene.static, BACKGROUND, groups), BACKGROUND)
    height, width = scene.frames.shape[1:3]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    return groups[scene.owner(pixels, frame)].reshape(height, width)


# ---- scores


def scored(data: Path, cache: Path | None, tracking: ExtractConfig, scoring: ScoreConfig, task: Task) -> Window:
    """A window's scores and labels, from the cache if they are there."""
    tracking = tracking.model_copy(update={"window": task.length, "patch_size": task.size})
    scoring = scoring.model_copy(update={"policy": "mutual-information", "min_distance": 0.0})
    key = [
        task,
        tracking.model_dump(),
        scoring.model_dump(exclude={"alpha", "candidates", "rank", "mutual"}),
        extract.VERSION,
    ]
    key += [score.VERSION, hashlib.sha256(b"".join(file.read_bytes() for file in CODE)).hexdigest(), VERSION]
    key += [SCENE if task.part == "scenes" else str(data.resolve())]
    path = cache and cache / f"{task.clip.replace(' ', '-')}-{task.first}-{task.size}-{digest_of(key)}.npz"
    if path and path.exists():
        with np.load(path) as kept:
            return Window(**kept)
    ready()
    frames, first, last = footage(data, task)
    begin = time.process_time()
    columns = extract.extract_window(frames, tracking)
    between = time.process_time()
    position, visible = columns["position"][..., :2], columns["visible"]
    paths = columns["position"], columns["camera"], visible
    found = window_scores.score_window(*paths, scoring, scoring.seed, columns["colour"], columns["texture"])
    seconds = np.array([between - begin, time.process_time() - between])
    ending = np.full(len(position), NOTHING)
    if last is not None:
        ending = np.where(visible[:, -1], measures.labels_at(last, position[:, -1]), NOTHING)
    window = Window(
        position=position,
        camera=columns["camera"],
        visible=visible,
        mutual_information=found.mutual_information,
        p_values=np.zeros(0) if found.p_values is None else found.p_values,
        excluded=np.array([reason if reason in NOT_MOVING else "" for reason in found.twins.reason]),
        point=measures.labels_at(first, position[:, 0]),
        picture=measures.labels_of_crops(first, crop_boxes(position[:, 0], *first.shape, tracking.patch_size)),
        last=ending,
        seconds=seconds,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.{os.getpid()}.npz")
        np.savez_compressed(part, **vars(window))
        move_into_place(part, path)
    return window


@functools.cache
def ready() -> None:
    """Give this process one core, and compile what scores before anything is timed."""
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    path = np.random.default_rng(0).normal(size=(4, LENGTH, 2)).cumsum(1).astype(np.float32)
    window_scores.score_window(path, 0 * path, np.ones(path.shape[:2], bool), ScoreConfig(surrogates=100))


def all_scored(tasks: list[Task], work: Callable[[Task], Window], processes: int) -> list[Window]:
    """The windows of all tasks, in order, with progress on stderr."""
    done, begin = [], time.perf_counter()

    def noted(windows: Iterable[Window]) -> list[Window]:
        for number, (task, window) in enumerate(zip(tasks, windows, strict=True), 1):
            done.append(window)
            spent = time.perf_counter() - begin
            where = f"{task.part} {task.clip} from {task.first}, {task.size} px"
            print(f"{number}/{len(tasks)} {where}: {spent:.0f} s", file=sys.stderr, flush=True)
        return done

    if processes == 1:
        return noted(map(work, tasks))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return noted(pool.map(work, tasks))


# ---- results


def groups_of(part: str, names: Iterable[str]) -> dict[str, list[str]]:
    """The clips of each table of a part."""
    listed = list(names)
    groups = {"all": listed}
    if part == "davis":
        groups = {
            "choosing": [n for n in listed if n in CHOOSING],
            "reporting": [n for n in listed if n not in CHOOSING],
        }
        groups["all"] = listed
    return {group: members for group, members in groups.items() if members}


def results_of(part: str, size: int, found: dict[str, list[Window]], scoring: ScoreConfig) -> list[dict[str, Any]]:
    """A row for each table and smallest distance of a part at a patch size, from the windows of its clips."""
    rows = []
    for apart in APART:
        counts = {c: measures.counts_of(w, scoring, size, apart, FPS[part]) for c, w in found.items()}
        pairs = {c: measures.pairs_of(w, scoring, size, apart) for c, w in found.items()}
        for group, members in groups_of(part, found).items():
            row: dict[str, Any] = {
                "part": part,
                "clips": group,
                "size": size,
                "apart": apart,
                "sequences": len(members),
            }
            row |= measures.yields([counts[c] for c in members])
            row["pairs"] = [
                {"policy": name, "patches": which}
                | measures.judged([pairs[c] for c in members], name, which == "object", [counts[c] for c in members])
                for which in (("all", "object") if part != "vtest" else ("object",))
                for name in POLICIES
            ]
            rows.append(row)
    return rows


def without_nan(value: Any) -> Any:
    """Results as JSON has them: null for NaN."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if value != value else value


def main() -> None:
    """Measure, write the JSON and print the tables; or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="settings of extract and score")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data")))
    parser.add_argument("--parts", default=",".join(NEEDS))
    parser.add_argument("--sizes", default="64,32", help="sides of crops, pixels")
    parser.add_argument("--cache", type=Path, help="folder for tracked and scored windows")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true", help="write docs/pairs.md from the JSON and end")
    arguments = parser.parse_args()
    if arguments.render:
        PAGE.write_text(tables.page(__doc__, json.loads(arguments.json.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(NEEDS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(NEEDS)}")
    try:
        settings = config.load(None, arguments.settings)
    except UsageError as error:
        parser.error(str(error))
    tasks = []
    for part in parts:
        if missing := [need for need in NEEDS[part] if not (arguments.data / need).exists()]:
            where = f"no {', '.join(missing)} in {arguments.data}"
            print(f"{where}: {part} is left out; set INFOAUG_TEST_DATA or --data", file=sys.stderr)
            continue
        for size in map(int, arguments.sizes.split(",")):
            tasks += [Task(part, *window, size) for window in windows(arguments.data, part)]
    work = functools.partial(scored, arguments.data, arguments.cache, settings.extract, settings.score)
    found: dict[tuple[str, int], dict[str, list[Window]]] = {}
    for task, window in zip(tasks, all_scored(tasks, work, arguments.processes), strict=True):
        found.setdefault((task.part, task.size), {}).setdefault(task.clip, []).append(window)
    rows = [row for (part, size), by_clip in found.items() for row in results_of(part, size, by_clip, settings.score)]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    about = {"machine": machine, "windows": len(tasks), "commit": commit(), "settings": arguments.settings}
    results = {**about, "choosing": CHOOSING, "rows": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(without_nan(results), indent=1) + "\n", encoding="utf-8")
    print(tables.markdown(results))


if __name__ == "__main__":
    main()
