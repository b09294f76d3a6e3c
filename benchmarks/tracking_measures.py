"""What benchmarks/tracking.py measures trackers by: readers of ground truth, and the measures, one function a part.

Each part takes the trackers by name and returns its rows; shares are from 0 to 1, NaN of nothing. Ground truth is that
of BADJA (Biggs et al. 2018, joints of animals), DAVIS-2016 (Perazzi et al. 2016, masks), the boxes of people in
PETS09-S2L1, and rendered scenes (synthetic), where every point's path is known.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from infoaug.estimators.geometry import camera
from infoaug.estimators.information import motion
from infoaug.estimators.trackers.base import Bytes, Floats, Mask, Tracks, grey, inside, sample
from infoaug.estimators.video import clips
from infoaug.estimators.video.patches import patch_grid, trackable_points
from infoaug.orchestrator.stages.extract import scene_seed
from infoaug.orchestrator.synthetic import scenes

Tracker = Callable[[Bytes, Floats], Tracks]
Rows = list[dict[str, Any]]

BADJA = ("camel", "cows", "dog", "horsejump-high")
BADJA_SIZE = 1920, 1080  # pixels in which its joints are given
PCK = 0.2  # a joint is correct within this share of the square root of the animal's area
LENGTH, STRIDE, PATCH = 48, 24, 32  # frames of a window, to the next; pixels
LOOK_AT = 24, 48  # frames at which survivors are counted, from 1
EDGE = 3  # points nearer to a sprite's edge than this are on it, pixels: they were chosen by what is so far around
ALIKE, SIDE = 0.6, 21  # correlation from which a patch is still the same; its side, pixels
CONDITIONS: dict[str, dict[str, bool]] = {
    "plain": {},
    "camera": {"camera": True},
    "lighting": {"lighting": True},
    "occlusion": {"occlusion": True},
}


def badja(data: Path, trackers: Mapping[str, Tracker]) -> Rows:
    """Joints of animals: tracked from the first annotated frame, compared wherever they are annotated later.

    Every joint counts, whether the tracker calls it visible or not; `pck_visible` is of those it does.
    """
    rows: Rows = []
    pooled: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for sequence in BADJA:
        frames, mask = _sequence(data, sequence)
        notes = json.loads((data / f"tracks/badja_{sequence}.json").read_text(encoding="utf-8"))
        at = np.array([int(Path(note["image_path"]).stem) for note in notes])
        joints, marked = (np.array([note[key] for note in notes])[at < len(frames)] for key in ("joints", "visibility"))
        at = at[at < len(frames)]
        scale = np.array(frames.shape[2:0:-1]) / BADJA_SIZE
        joints = (joints[:, marked[0], ::-1] * scale).astype(np.float32)  # given as (row, column)
        there = marked[1:, marked[0]]
        limit = PCK * np.sqrt(mask[at[1:]].sum(axis=(1, 2)))[:, None]
        for name, tracker in trackers.items():
            found = tracker(frames[at[0] :], joints[0])
            error = np.linalg.norm(found.position[:, at[1:] - at[0]].swapaxes(0, 1) - joints[1:], axis=2)
            seen = found.visible[:, at[1:] - at[0]].T
            values = np.stack([error, error < limit, seen])[:, there]
            pooled[name].append(values)
            rows.append({"sequence": sequence, "tracker": name} | _joints(values))
    for name in trackers:
        rows.append({"sequence": "all joints", "tracker": name} | _joints(np.concatenate(pooled[name], axis=1)))
    return rows


def davis(data: Path, trackers: Mapping[str, Tracker]) -> Rows:
    """Who survives a window, and is still on the same thing: patches of DAVIS sequences, as the extract stage has them.

    Of the survivors, `alike` correlate with their first look and `side` are still on or off the object; `good` are
    those that are both, as a share of all points. `could` is an estimate of what could survive at best: what is on the
    object, and of the background what its own motion leaves inside the frame and off the object. That motion is a chain
    of homographies (see `_background_paths`): it knows of no depth, and of nothing that hides but the object.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for sequence, frames, mask in _windows(data):
        queries = grid_points(frames, PATCH)
        first, owned = _unit_patches(grey(frames[0]), queries), _at(mask[0], queries)
        carried = _background_paths(frames, mask, queries)
        for name, tracker in trackers.items():
            found, count = tracker(frames, queries), counts[name, sequence]
            count.update(points=len(queries), object=int(owned.sum()))
            for frame in LOOK_AT:
                place, seen = found.position[:, frame - 1], found.visible[:, frame - 1]
                free = carried[:, frame - 1]
                could = owned | inside(free, mask.shape[1:]) & ~_at(mask[frame - 1], free)
                alike = (_unit_patches(grey(frames[frame - 1]), place) * first).sum(axis=1) >= ALIKE
                side = _at(mask[frame - 1], place) == owned
                held = {"could": could, "seen": seen, "alike": seen & alike, "side": seen & side}
                held |= {"good": seen & alike & side, "object": owned & seen, "object_side": owned & seen & side}
                count.update({f"{key}_{frame}": int(which.sum()) for key, which in held.items()})
    rows = [{"sequence": sequence, "tracker": name} | _survival(count) for (name, sequence), count in counts.items()]
    # A share that one tracker lacks, having no survivors, is left out of the means of all.
    lacking = {(row["sequence"], key) for row in rows for key, value in row.items() if value != value}
    shared = [{k: float("nan") if (row["sequence"], k) in lacking else v for k, v in row.items()} for row in rows]
    return rows + [row | {"sequence": "mean"} for row in _means(shared, ("tracker",))]


def vtest(data: Path, trackers: Mapping[str, Tracker]) -> Rows:
    """People who walk through the view of a fixed camera: who of the points in their first box is in their last one?"""
    boxes = np.loadtxt(data / "tracks/vtest_boxes.csv", delimiter=",")
    frames = clips.read_clip(data / "clips/vtest.avi", 0, int(boxes[:, 0].max()))
    counts: dict[str, Counter[str]] = {name: Counter() for name in trackers}
    for person in np.unique(boxes[:, 1]):
        own = boxes[boxes[:, 1] == person]
        (begin, _, left, top, width, height), (end, *_) = own[own[:, 0].argmin()], own[own[:, 0].argmax()]
        # The middle of the box: its corners are not the person.
        x = np.arange(left + 0.2 * width, left + 0.8 * width - 12, 12)
        y = np.arange(top + 0.1 * height, top + 0.9 * height - 12, 12)
        corner = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.int64)
        fits = (corner >= 0).all(axis=1) & (corner + 12 <= frames.shape[2:0:-1]).all(axis=1)
        queries = trackable_points(frames[int(begin) - 1], np.hstack([corner, corner + 12])[fits])
        low, size = np.hsplit(own[own[:, 0].argmax()][2:], 2)
        for name, tracker in trackers.items():
            found = tracker(frames[int(begin) - 1 : int(end)], queries)
            seen, place = found.visible[:, -1], found.position[:, -1]
            stayed = seen & ((place >= low) & (place <= low + size)).all(axis=1)
            counts[name].update(points=len(queries), seen=int(seen.sum()), stayed=int(stayed.sum()))
    return [
        {"tracker": name, "points": n["points"], "seen": _share(n["seen"], n["points"])}
        | {"in_box": _share(n["stayed"], n["seen"])}
        | _interval("stayed", n["stayed"], n["points"])
        for name, n in counts.items()
    ]


def rendered(count: int, trackers: Mapping[str, Tracker]) -> Rows:
    """Rendered scenes (synthetic), whose points' true paths are known, on the sprites and on the background.

    Errors are of what the tracker calls visible and is. `seen` is the share it calls visible of what is; `hidden` that
    which it calls invisible of what is covered inside the frame; `precise` the share that is visible of what it calls
    so. Points on an edge of a sprite are left out: their texture is that of both sides.
    """
    rows: Rows = []
    for condition, options in CONDITIONS.items():
        values: dict[tuple[str, str], list[NDArray[Any]]] = defaultdict(list)
        for number in range(count):
            scene = scenes.render(scene_seed(0, number), frames=LENGTH, **options)
            queries = grid_points(scene.frames, PATCH // 2)
            around = [scene.owner(queries + np.array([x, y])) for x in (-EDGE, EDGE) for y in (-EDGE, EDGE)]
            queries = queries[np.ptp(around, axis=0) == 0]
            truth, shown, owner = _true_paths(scene, queries)
            covered = ~shown & np.stack([inside(truth[:, t], scene.frames.shape[1:3]) for t in range(LENGTH)], axis=1)
            for name, tracker in trackers.items():
                found = tracker(scene.frames, queries)
                error = np.linalg.norm(found.position - truth, axis=2)
                all_of = np.stack([error, found.visible, shown, covered])[:, :, 1:]
                for on, which in (("sprites", owner >= 0), ("background", owner < 0)):
                    values[on, name].append(all_of[:, which].reshape(4, -1))
        for (on, name), parts in values.items():
            error, seen, there, hidden = np.concatenate(parts, axis=1)
            seen, there, hidden = seen > 0, there > 0, hidden > 0
            exact = error[seen & there]
            rows.append(
                {"scenes": condition, "on": on, "tracker": name, "median": _quantile(exact, 0.5)}
                | {"p95": _quantile(exact, 0.95), "astray": _share((exact > 3).sum(), len(exact))}
                | {"visible": int(there.sum()), "seen": _share((seen & there).sum(), there.sum())}
                | {"covered": int(hidden.sum()), "hidden": _share((hidden & ~seen).sum(), hidden.sum())}
                | {"precise": _share(len(exact), seen.sum())}
            )
    return rows


def camera_models(data: Path, tracker: Tracker) -> Rows:
    """What each model of the camera leaves of the background's motion and of the object's, on DAVIS windows.

    Of points seen in at least half of the frames: `background` and `object` are the medians of the root-mean-square
    displacement from frame to frame that the camera does not explain; `spread_…` those of the residual trajectory's
    spread, and `auc` is how well that spread tells the object from the background (1: perfectly, 0.5: not at all).
    """
    rows: Rows = []
    for sequence, frames, mask in _windows(data):
        queries = grid_points(frames, PATCH)
        found = tracker(frames, queries)
        kept = found.visible.sum(axis=1) >= LENGTH // 2
        owned, seen = _at(mask[0], queries)[kept], found.visible[kept]
        for model in ("translation", "similarity", "affine", "homography"):
            maps = camera.camera_motion(found.position, found.visible, model=model)
            left = motion.residual(found.position, camera.camera_trajectories(maps, queries))[kept]
            steps, both = motion.displacement(left, seen)
            jitter = np.sqrt((steps**2).sum(axis=(1, 2)) / np.maximum(both.sum(axis=1), 1))
            spread = motion.spread(left, seen)
            row = {"model": model, "sequence": sequence, "auc": float(roc_auc_score(owned, spread))}
            for name, which in (("background", ~owned), ("object", owned)):
                row |= {name: _quantile(jitter[which], 0.5), f"spread_{name}": _quantile(spread[which], 0.5)}
            rows.append(row)
    rows = _means(rows, ("model", "sequence"))  # of a sequence's windows
    return rows + [row | {"sequence": "mean"} for row in _means(rows, ("model",))]


def grid_points(frames: Bytes, size: int) -> Floats:
    """The points that stand for the patches of a window, f32[N, 2], as the extract stage chooses them."""
    return trackable_points(frames[0], patch_grid(frames.shape[1], frames.shape[2], size))


def _sequence(data: Path, name: str) -> tuple[Bytes, Mask]:
    """A DAVIS sequence: frames u8[T, H, W, 3], and the object's mask bool[T, H, W]."""
    annotation = clips.read_clip(data / "davis/Annotations" / name)
    return clips.read_clip(data / "davis/JPEGImages" / name), annotation[..., 0] > 127


def _windows(data: Path) -> Iterator[tuple[str, Bytes, Mask]]:
    """All windows of the DAVIS sequences: name, frames, masks."""
    for folder in sorted((data / "davis/JPEGImages").iterdir()):
        frames, mask = _sequence(data, folder.name)
        for first in range(0, len(frames) - LENGTH + 1, STRIDE):
            yield folder.name, frames[first : first + LENGTH], mask[first : first + LENGTH]


def _background_paths(frames: Bytes, mask: Mask, queries: Floats) -> Floats:
    """Where the background's own motion carries points of frame 0, f64[N, T, 2], pixels.

    A homography from each frame to the next, by RANSAC over many corners outside the mask, and their product.
    """
    maps = np.tile(np.eye(3), (len(frames), 1, 1))
    before = grey(frames[0])
    flow: Any = partial(cv2.calcOpticalFlowPyrLK, winSize=(21, 21), maxLevel=5)
    for t in range(1, len(frames)):
        now, step = grey(frames[t]), None
        outside = np.where(mask[t - 1], 0, 255).astype(np.uint8)
        at: Any = cv2.goodFeaturesToTrack(before, 600, 0.001, 8, mask=outside)
        if at is not None:
            there, went, _ = flow(before, now, at, None)
            back, came, _ = flow(now, before, there, None)
            good = (went.ravel() == 1) & (came.ravel() == 1) & (np.linalg.norm(back - at, axis=2).ravel() < 1)
            step = cv2.findHomography(at[good], there[good], cv2.RANSAC, 2.0)[0] if good.sum() >= 4 else None
        maps[t] = maps[t - 1] if step is None else step @ maps[t - 1]
        before = now
    return np.stack([cv2.perspectiveTransform(queries[:, None], m)[:, 0] for m in maps], axis=1)


def _unit_patches(image: Bytes, points: Floats) -> Floats:
    """Grey patches around points without their mean and of unit length, f32[N, side²]: products are correlations."""
    offset = np.arange(SIDE, dtype=np.float32) - SIDE // 2
    grid = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
    patches = sample(image, points[:, None] + grid).astype(np.float32)
    patches -= patches.mean(axis=1, keepdims=True)
    unit: Floats = patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    return unit


def _true_paths(scene: scenes.Scene, queries: Floats) -> tuple[Floats, Mask, NDArray[np.int64]]:
    """Where points of a scene really go, f32[N, T, 2]; when they can be seen, bool[N, T]; on which sprite they are."""
    linear, shift = scene.camera[:, :, :2].astype(np.float64), scene.camera[:, :, 2].astype(np.float64)
    centre = np.einsum("tij,stj->sti", np.linalg.inv(linear), scene.position - shift)  # in the world
    # The background stands still; it is sprite -1.
    moved = np.concatenate([centre - centre[:, :1], np.zeros((1, len(linear), 2))])
    owner = scene.owner(queries)
    world = queries[:, None] + moved[owner]
    truth = (np.einsum("tij,ntj->nti", linear, world) + shift).astype(np.float32)
    shown = np.empty(truth.shape[:2], dtype=bool)
    for t, (left, right) in enumerate(scene.bar):
        place = truth[:, t]
        behind = (place[:, 0] >= left) & (place[:, 0] < right)
        shown[:, t] = inside(place, scene.frames.shape[1:3]) & (scene.owner(place, t) == owner) & ~behind
    return truth, shown, owner


def _at(mask: Mask, points: Floats) -> Mask:
    """The mask bool[H, W] at the pixels nearest to points f[N, 2], those outside at its edge."""
    x, y = np.clip(np.rint(points).astype(np.int64), 0, np.array(mask.shape[::-1]) - 1).T
    return np.asarray(mask[y, x])


def _joints(values: NDArray[Any]) -> dict[str, Any]:
    """A row's measures from errors, hits and visibility, f[3, n]."""
    error, hit, seen = values[0], values[1] > 0, values[2] > 0
    row = {"joints": len(hit), "median": _quantile(error, 0.5), "visible": _share(seen.sum(), len(seen))}
    return row | _interval("pck", hit.sum(), len(hit)) | {"pck_visible": _share((hit & seen).sum(), seen.sum())}


def _survival(n: Counter[str]) -> dict[str, Any]:
    """A row's measures from the counts of one tracker on one sequence."""
    row: dict[str, Any] = {"points": n["points"]}
    for frame in LOOK_AT:
        row |= {f"{key}_{frame}": _share(n[f"{key}_{frame}"], n["points"]) for key in ("could", "seen", "good")}
        row |= {f"{key}_{frame}": _share(n[f"{key}_{frame}"], n[f"seen_{frame}"]) for key in ("alike", "side")}
        row[f"object_{frame}"] = _share(n[f"object_{frame}"], n["object"])
        row[f"object_side_{frame}"] = _share(n[f"object_side_{frame}"], n[f"object_{frame}"])
    return row


def _means(rows: Rows, by: tuple[str, ...]) -> Rows:
    """Means of all numbers over rows that agree in `by`: a row each. Shares of nothing do not count."""
    groups: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row)
    means = []
    for key, group in groups.items():
        numbers = [name for name, value in group[0].items() if isinstance(value, int | float)]
        mean = {name: float(np.nanmean([row[name] for row in group])) for name in numbers}
        means.append(dict(zip(by, key, strict=True)) | mean)
    return means


def _share(hits: int, of: int) -> float:
    return float(hits / of) if of else float("nan")


def _quantile(values: NDArray[Any], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share, at 95 %."""
    low, high = binomtest(int(hits), int(of)).proportion_ci(method="wilson") if of else (0.0, 1.0)
    return float(low), float(high)


def _interval(name: str, hits: int, of: int) -> dict[str, float]:
    """A share with its interval, as columns."""
    low, high = wilson(hits, of)
    return {name: _share(hits, of), f"{name}_low": low, f"{name}_high": high}
