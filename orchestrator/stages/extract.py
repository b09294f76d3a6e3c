"""Extract: clips to trajectories and patch images, on Ray Data.

Two passes. The first goes over clips: what is really in the file, and where its shots begin. The second goes over
windows, neighbouring windows of a clip in one task, so that a long clip is shared among workers and each task still
decodes forward. A window is one Parquet file; a clip that gives none is a row of the ledger with the reason.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape

from infoaug.estimators.geometry import camera, depth
from infoaug.estimators.trackers import tracks
from infoaug.estimators.video import clips, manifest, patches, shots
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, ExtractConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import Stage, Store, digest_of, file_name, tensors
from infoaug.orchestrator.synthetic import scenes

VERSION = 2  # of the numbers: raised when the same config would give others
WINDOWS_PER_TASK = 8  # at most: seconds of work, against some 40 ms that a task costs
CLIPS_PER_TASK = 16
CLIPS_AT_ONCE = 5_000  # so that what this process holds grows with the number of clips by their ledger only

LEDGER = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("status", pa.string()),  # ok, partial (some windows failed) or failed
        ("reason", pa.string()),
        ("folder", pa.string()),  # of the clip, among the trajectories
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("cuts", pa.list_(pa.int32())),
        ("first_frames", pa.list_(pa.int32())),  # of the windows that are there, by window
        ("windows", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class Extracted:
    """What the extract stage leaves: its folder, and a ledger row for every clip."""

    stage: Stage
    ledger: pa.Table
    resumed: int
    computed: int

    @property
    def windows(self) -> list[tuple[str, str, int]]:
        """(clip_id, folder, window) of every window that is there, in order."""
        return windows_of(self.ledger)

    def without(self, failed: Mapping[tuple[str, int], str]) -> "Extracted":
        """Less some windows, by (folder, window), with why they are left out; the clips' rows say so.

        Raises:
            StageError: no window is left.
        """
        ledger = self.ledger
        if failed:
            starts = range(0, len(ledger), CLIPS_AT_ONCE)
            rows = ([_entry(row, failed) for row in ledger[s : s + CLIPS_AT_ONCE].to_pylist()] for s in starts)
            ledger = pa.concat_tables(pa.Table.from_pylist(part, schema=LEDGER) for part in rows).combine_chunks()
        if not pc.any(pc.greater(pc.list_value_length(ledger["windows"]), 0)).as_py():
            why = ledger["reason"][0].as_py()
            raise StageError(f"none of {len(ledger)} clips gave a window, the first because: {why}")
        return replace(self, ledger=ledger)


def windows_of(ledger: pa.Table) -> list[tuple[str, str, int]]:
    """(clip_id, folder, window) of the windows of some clips."""
    rows = ledger.select(["clip_id", "folder", "windows"]).to_pylist()
    return [(row["clip_id"], row["folder"], window) for row in rows for window in row["windows"]]


def stage(config: ExperimentConfig, store: Store) -> Stage:
    """Where this config's trajectories live; clips of all experiments with the same settings share it."""
    return Stage(store, "extract", {"version": VERSION, **config.extract.model_dump(exclude=RUNTIME["extract"])})


def source(config: ExperimentConfig) -> str:
    """Name of the set of clips that a config reads, for its ledger."""
    what = {"path": config.clips.path} if config.clips.path else config.scenes.model_dump()
    return digest_of(what)


def window_file(folder: str, window: int) -> str:
    """A window's file among those of a stage; `folder` is its clip's."""
    return f"{folder}/{window:05d}.parquet"


def trajectory_path(place: Stage, folder: str, window: int) -> str:
    """Where a window's trajectories lie on the store."""
    return place.path("trajectories", window_file(folder, window))


def load(config: ExperimentConfig, store: Store) -> Extracted:
    """What an earlier extraction left.

    Raises:
        StageError: there was none for this config, or no clip gave a window.
    """
    place = stage(config, store)
    path = place.path(f"ledger-{source(config)}.parquet")
    if not store.exists(path):
        raise StageError("these clips are not extracted yet: run `infoaug extract` with the same config first")
    ledger = store.read_table(path)
    count = sum(map(len, ledger["windows"].to_pylist()))
    return Extracted(place, ledger, resumed=count, computed=0).without({})


def run(config: ExperimentConfig, store: Store) -> Extracted:
    """Extract every window of every clip that is not there yet.

    Raises:
        UsageError: the clips are not to be found.
        StageError: no clip gave a window, the ledger says why; or the store cannot be written to.
    """
    place = stage(config, store)
    found = find(config, store)
    place.record(config.to_yaml())
    cluster.connect(config.ray)
    cluster.check_shared(store)

    parts, resumed, computed = [LEDGER.empty_table()], 0, 0
    for part in console.parts(len(found), CLIPS_AT_ONCE, "clips"):
        entries, there, new = _part(place, config.extract, found[part])
        parts.append(pa.Table.from_pylist(entries, schema=LEDGER))
        resumed, computed = resumed + there, computed + new
        for row in entries:
            tell(row)
    ledger = pa.concat_tables(parts).combine_chunks()
    store.write_table(place.path(f"ledger-{source(config)}.parquet"), ledger)
    return Extracted(place, ledger, resumed, computed).without({})


def find(config: ExperimentConfig, store: Store) -> list[manifest.Clip]:
    """The clips a config names, or the rendered scenes, which are rendered if they are not there yet.

    Raises:
        UsageError: nothing is to be found at `clips.path`, or scenes cannot be rendered as configured.
    """
    try:
        if config.clips.path:
            return manifest.find_clips(config.clips.path)
        if store.local is None:
            raise UsageError("rendered scenes need a store that is a folder: set clips.path, or a local store")
        folder = store.local / "scenes" / source(config)
        settings = config.scenes.model_dump(exclude={"count", "seed"})
        names = [folder / f"scene-{number:04d}.avi" for number in range(config.scenes.count)]
        missing = [(number, path) for number, path in enumerate(names) if not path.exists()]
        for number, path in console.track(missing, len(missing), "render scenes"):
            folder.mkdir(parents=True, exist_ok=True)
            scenes.write(scenes.render(scene_seed(config.scenes.seed, number), **settings), path)
        return [manifest.Clip(path.name, str(path)) for path in names]
    except ValueError as error:
        raise UsageError(str(error)) from None


def count(config: ExperimentConfig) -> int:
    """How many clips a config names; nothing is read or rendered.

    Raises:
        UsageError: nothing is to be found at `clips.path`.
    """
    return len(find(config, Store(config.store))) if config.clips.path else config.scenes.count


def scene_seed(seed: int, number: int) -> int:
    """Seed of one rendered scene of a set."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def extract_window(
    frames: np.ndarray, settings: ExtractConfig | None = None, *, first: int = 0, clip: str | None = None
) -> dict[str, np.ndarray]:
    """The trajectories of one window.

    Args:
        frames: u8[T, H, W, 3] RGB.
        settings: how to extract; None for the defaults.
        first: number of the window's first frame in its clip; needed, like `clip`, for stored depth maps.
        clip: path of the clip.

    Returns:
        For the N patches of the grid, row-major: `position` f32[N, T, 2] and `camera` f32[N, T, 2] in pixels,
        `camera_map` f32[N, T, 3, 3], the camera's map from frame 0, the same for all patches, `colour` f32[N, T, 3] in
        0–1, `visible` bool[N, T], `image` u8[N, S, S, 3]. With depth, `position` is f32[N, T, 3], and a point counts
        as visible only where its depth is known.

    Raises:
        ValueError: no patch fits, or the tracker or the depth cannot be had as configured.
    """
    settings = settings or ExtractConfig()
    boxes = patches.patch_grid(frames.shape[1], frames.shape[2], settings.patch_size)
    queries = patches.trackable_points(frames[0], boxes, point=settings.point)
    found = tracks.track(
        frames,
        queries,
        method=settings.tracker,
        forward_backward=settings.forward_backward,
        weights=settings.tracker_weights,
    )
    position, visible = found.position, found.visible
    if settings.depth:
        maps = depth.depth_maps(settings.depth, frames, first=first, clip=clip)
        near = depth.align_depth(depth.depth_at(maps, position, visible, frames.shape[1:3]), visible)
        visible = visible & np.isfinite(near)
        position = np.concatenate([position, np.nan_to_num(near)[..., None]], axis=2)
    motion = camera.camera_motion(found.position, found.visible, model=settings.camera)
    return {
        "position": position,
        "camera": camera.camera_trajectories(motion, queries),
        "camera_map": np.repeat(motion[None], len(boxes), axis=0),
        "colour": patches.patch_colour(frames, found.position, settings.patch_size),
        "visible": visible,
        "image": patches.patch_images(frames[0], boxes, settings.image_size),
    }


def tell(row: Mapping[str, Any]) -> None:
    """Say of a clip of the ledger that it gave no window, or only some."""
    if row["status"] != "ok":
        console.say(f"[yellow]{row['status']}[/] {escape(row['clip_id'])}: {escape(row['reason'])}")


def trajectories_table(clip_id: str, window: int, columns: dict[str, np.ndarray]) -> pa.Table:
    """One window's trajectories as they lie on the store, a row a patch."""
    count = len(columns["image"])
    keys = {
        "clip_id": pa.array([clip_id] * count, pa.string()),
        "window": pa.array([window] * count, pa.int32()),
        "patch": pa.array(np.arange(count), pa.int32()),
    }
    return pa.table(keys | {name: tensors(array) for name, array in columns.items()})


def _part(
    place: Stage, settings: ExtractConfig, found: Sequence[manifest.Clip]
) -> tuple[list[dict[str, Any]], int, int]:
    """Extract some clips: their ledger rows, how many windows were there, and how many came."""
    scanned = cluster.map_rows(
        [{"clip_id": c.clip_id, "path": c.path} for c in found], partial(_scan, place, settings), CLIPS_PER_TASK
    )
    rows = {row["clip_id"]: row | status for row, status in console.track(scanned, len(found), "scan clips")}
    for clip in found:
        rows.setdefault(clip.clip_id, _lost(clip))
    wanted = [
        {"clip_id": c.clip_id, "path": c.path, "folder": rows[c.clip_id]["folder"], "window": w, "first": first}
        for c in found
        for w, first in enumerate(rows[c.clip_id]["first_frames"])
    ]
    present = place.store.files(place.path("trajectories"), dict.fromkeys(row["folder"] for row in wanted))
    todo = [w for w in wanted if window_file(w["folder"], w["window"]) not in present]
    if wanted:
        console.say(f"extract: {len(wanted)} windows of {len(found)} clips, {len(wanted) - len(todo)} already there")
    work = partial(_extract, place, settings)
    _, failed = cluster.map_windows(todo, work, WINDOWS_PER_TASK, "extract windows", settings.gpus_per_task)
    return [_entry(rows[c.clip_id], failed) for c in found], len(wanted) - len(todo), len(todo) - len(failed)


def _scan(place: Stage, settings: ExtractConfig, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """On a worker: what is in each clip, kept beside its trajectories so that it is found out once."""
    cv2.setNumThreads(1)
    for row in rows:
        clip_id, path = row["clip_id"], row["path"]
        entry: dict[str, Any] = {"reason": "", "folder": "", "frames": 0, "fps": 0.0, "width": 0, "height": 0}
        entry |= {"cuts": [], "first_frames": []}
        try:
            entry["folder"] = file_name(clip_id, clips.digest(path, settings.read_timeout))
            kept = place.path("clips", f"{entry['folder']}.json")
            if place.store.exists(kept):
                scan = shots.Scan(**place.store.read_json(kept))
            else:
                scan = shots.scan(path, settings.read_timeout)
                place.store.write_json(kept, vars(scan))
            entry |= vars(scan)
            clips.check_window(path, settings.window, scan.height, scan.width, settings.max_window_mb << 20)
            patches.patch_grid(scan.height, scan.width, settings.patch_size)  # or no window can be used
            entry["first_frames"] = shots.windows(scan.frames, scan.cuts, settings.window, settings.stride)
            if not entry["first_frames"]:
                parts = f"{len(scan.cuts) + 1} shots" if scan.cuts else "one shot"
                entry["reason"] = f"{scan.frames} frames in {parts}, too few for a window of {settings.window}"
        except StageError:  # the store's: it would be so with every clip
            raise
        except Exception as error:  # whatever is wrong with one clip must not stop the others
            entry["reason"] = cluster.reason(error)
        yield entry


def _extract(place: Stage, settings: ExtractConfig, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """On a worker: read, track and store some windows, the reader kept open while they are of one clip."""
    cv2.setNumThreads(1)
    for path, windows in itertools.groupby(rows, key=lambda row: row["path"]):
        with ExitStack() as opened:
            reader: clips.Reader | None = None
            for row in windows:
                folder, window, reason = row["folder"], row["window"], ""
                try:
                    if reader is None:
                        limits = settings.max_window_mb << 20, settings.read_timeout
                        reader = opened.enter_context(clips.Reader(path, *limits))
                    frames = reader.read(row["first"], settings.window)
                    columns = extract_window(frames, settings, first=row["first"], clip=path)
                    table = trajectories_table(row["clip_id"], window, columns)
                    place.store.write_table(trajectory_path(place, folder, window), table)
                except StageError:
                    raise
                except Exception as error:  # as above
                    reason = cluster.reason(error)
                yield {"reason": reason}


def _lost(clip: manifest.Clip) -> dict[str, Any]:
    return {"clip_id": clip.clip_id, "path": clip.path, "reason": cluster.DIED, "folder": "", "first_frames": []}


def _entry(row: Mapping[str, Any], failed: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """A clip's ledger row: its scan, or what it was, less the windows that failed."""
    firsts = dict(zip(row.get("windows", itertools.count()), row["first_frames"], strict=False))
    reasons = {w: failed[row["folder"], w] for w in firsts if (row["folder"], w) in failed}
    there = [w for w in firsts if w not in reasons]
    same = {why: [str(w) for w in reasons if reasons[w] == why] for why in reasons.values()}
    new = [f"window {', '.join(which)}: {why}" for why, which in same.items()]
    reason = "; ".join([row["reason"]] * bool(row["reason"]) + new)
    status = "failed" if not there else "partial" if reason else "ok"
    return {**row, "status": status, "reason": reason, "windows": there, "first_frames": [firsts[w] for w in there]}
