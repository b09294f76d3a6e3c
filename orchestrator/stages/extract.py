"""Extract: from clips to trajectories and patch images, on Ray Data.

The first pass scans clips: it counts the frames that can be decoded and finds shot cuts and repeats. The second pass
tracks windows. A task gets neighbouring windows of one clip: several workers can share a long clip, and each still
decodes forward only. A window becomes one Parquet file. The ledger has a row for every clip, with the reason if it
failed.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.markup import escape

from infoaug.estimators.geometry import camera, depth
from infoaug.estimators.trackers import tracks
from infoaug.estimators.video import clips, crops, manifest, patches, shots
from infoaug.estimators.video.manifest import is_url
from infoaug.orchestrator import places
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, ExtractConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, console, listings
from infoaug.orchestrator.runtime.store import BrokenFileError, StageFolder, Store, digest_of, tensors
from infoaug.orchestrator.settings import one_line
from infoaug.orchestrator.stages import known_clips, remote_clips, user_code
from infoaug.orchestrator.stages.windows import Windows
from infoaug.orchestrator.synthetic import scenes

VERSION = 5  # raised when the same config would give other numbers
TRACKER_VERSIONS = {"auto": 3, "lucas-kanade": 3}  # raised when a tracker alone gives others
WINDOWS_PER_TASK = 8  # at most: seconds of work, against an overhead of some 40 ms a task
CLIPS_PER_TASK = 16
CLIPS_AT_ONCE = 5_000  # bounds this process's memory: beyond it, only the ledger grows with the number of clips

CROPS = ["crops", "crop_frames"]  # the columns that training reads

_log = logging.getLogger(__name__)

LEDGER = pa.schema(
    [
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("status", pa.string()),  # ok, partial (some windows failed) or failed
        ("reason", pa.string()),
        ("folder", pa.string()),  # the clip's, below `trajectories/`
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("cuts", pa.list_(pa.int32())),
        ("repeats", pa.list_(pa.int32())),  # frames that show the one before once more; in no window
        ("first_frames", pa.list_(pa.int32())),  # the first frame of each of `windows`
        ("windows", pa.list_(pa.int32())),  # the numbers of the extracted windows
    ]
)
STORED = LEDGER.append(pa.field("signature", pa.string()))  # by which an unchanged clip is known


@dataclass(frozen=True)
class Extracted:
    """The output of the extract stage.

    Attributes:
        stage: the folder of the trajectories.
        ledger: a row for every clip, as in `LEDGER`.
        resumed: windows that were in the store already.
        computed: windows that were extracted now.
    """

    stage: StageFolder
    ledger: pa.Table
    resumed: int
    computed: int

    @property
    def folders(self) -> list[str]:
        """The folder of the outputs."""
        return [self.stage.folder]

    @cached_property
    def windows(self) -> Windows:
        """(clip_id, folder, window) of every extracted window, in order."""
        return Windows.of(self.ledger)

    def clip(self, clip_id: str) -> dict[str, Any]:
        """The row of the ledger of one of the clips."""
        row: dict[str, Any] = self.ledger.filter(pc.equal(self.ledger["clip_id"], clip_id)).to_pylist()[0]
        return row

    def without(self, failed: Mapping[tuple[str, int], str]) -> "Extracted":
        """A copy without the windows that failed.

        Args:
            failed: the reasons, by (folder, window); they are added to the clips' rows of the ledger.

        Raises:
            StageError: no window is left.
        """
        ledger = self.ledger
        if failed:
            hit = np.asarray(pc.is_in(ledger["folder"], pa.array({folder for folder, _ in failed})))
            rows = [_ledger_row(row, failed) for row in ledger.filter(hit).to_pylist()]
            ledger = merged(hit, pa.Table.from_pylist(rows, schema=LEDGER), ledger.filter(~hit))
        if not pc.any(pc.greater(pc.list_value_length(ledger["windows"]), 0)).as_py():
            why = ledger["reason"][0].as_py()
            raise StageError(f"none of {len(ledger)} clips gave a window, the first because: {why}")
        return replace(self, ledger=ledger)


def merged(chosen: NDArray[np.bool_], of_chosen: pa.Table, of_others: pa.Table) -> pa.Table:
    """The rows of two tables in one, those of the first where bool[N] `chosen` is true."""
    order = np.argsort(np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)]))
    return pa.concat_tables([of_chosen, of_others]).take(order).combine_chunks()


def stage(config: ExperimentConfig, store: Store) -> StageFolder:
    """The folder of this config's trajectories. All experiments with the same settings of `extract` share it.

    Raises:
        UsageError: a tracker of the user's own cannot be imported.
    """
    key = config.extract.model_dump(exclude=RUNTIME["extract"])
    key |= user_code.identity(config.extract.tracker, "tracker_code", "extract.tracker")
    if version := TRACKER_VERSIONS.get(config.extract.tracker):
        key["tracker_version"] = version
    return StageFolder(store, "extract", {"version": VERSION, **key})


def clips_digest(config: ExperimentConfig) -> str:
    """Digest of the set of clips that a config reads. It names the set's ledger."""
    clips_read = {"path": config.clips.path} if config.clips.path else config.scenes.model_dump()
    return digest_of(clips_read)


def window_file(folder: str, window: int) -> str:
    """A window's file name within a stage; `folder` is the clip's."""
    return f"{folder}/{window:05d}.parquet"


def trajectory_path(stage_folder: StageFolder, folder: str, window: int) -> str:
    """The path of a window's trajectories in the store."""
    return stage_folder.path("trajectories", window_file(folder, window))


def check(config: ExperimentConfig) -> None:
    """Check that there are clips, and that a tracker of the user's own can be called.

    Raises:
        UsageError: `clips.path` matches nothing, or there is no such tracker.
    """
    count(config)
    check_tracker(config)


def check_tracker(config: ExperimentConfig) -> None:
    """Check that a tracker of the user's own can be imported and called. Raises UsageError if not."""
    try:
        user_code.tracker(config.extract)
    except ValueError as error:
        raise UsageError(one_line(f"extract.tracker: {error}").rstrip(".")) from None


def load(config: ExperimentConfig, store: Store) -> Extracted:
    """Read what an earlier extraction left.

    Raises:
        StageError: these clips were not extracted with these settings, or no clip has a usable window.
    """
    stage_folder = stage(config, store)
    path = stage_folder.path(f"ledger-{clips_digest(config)}.parquet")
    if not store.exists(path):
        raise StageError("these clips are not extracted yet: run `infoaug extract` with the same config first")
    ledger = store.read_table(path, LEDGER.names)
    windows = pc.sum(pc.list_value_length(ledger["windows"])).as_py()
    return Extracted(stage_folder, ledger, resumed=windows, computed=0).without({})


def run(config: ExperimentConfig, store: Store) -> Extracted:
    """Extract every window that the store does not have yet.

    Clips are looked at by Ray's workers, but for those whose files and windows are all as an earlier run left them.

    Raises:
        UsageError: `clips.path` matches nothing.
        StageError: no clip has a usable window (the ledger says why), or the store cannot be written to.
    """
    stage_folder = stage(config, store)
    clips_found = find(config, store)
    _log.info("extracting %d clips into %s", len(clips_found), store.url(stage_folder.folder))
    stage_folder.record(config.to_yaml())
    path = stage_folder.path(f"ledger-{clips_digest(config)}.parquet")
    earlier = _earlier(store, path)
    parts, resumed, computed = [STORED.empty_table()], 0, 0
    for part in console.parts(len(clips_found), CLIPS_AT_ONCE, "clips"):
        rows, present, extracted = _extract_clips(stage_folder, config, clips_found[part], earlier)
        parts.append(rows)
        resumed, computed = resumed + present, computed + extracted
        for row in rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist():
            warn_of_failure(row)
    ledger = pa.concat_tables(parts).combine_chunks()
    store.write_table(path, ledger)
    return Extracted(stage_folder, ledger.select(LEDGER.names), resumed, computed).without({})


def find(config: ExperimentConfig, store: Store) -> list[manifest.Clip]:
    """The clips of `clips.path`; without one, the rendered scenes, which are rendered first if they are missing.

    Raises:
        UsageError: `clips.path` matches nothing, or the scenes cannot be rendered as configured.
    """
    try:
        if given := config.clips.path:
            return listings.take("clips", given, lambda: _listed(given))
        if store.local is None:
            raise UsageError("rendered scenes need a store in a local folder: set clips.path, or another store")
        folder = store.local / "scenes" / clips_digest(config)
        settings = config.scenes.model_dump(exclude={"count", "seed"})
        paths = [folder / f"scene-{number:04d}.avi" for number in range(config.scenes.count)]
        missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
        for number, path in console.track(missing, len(missing), "render scenes"):
            folder.mkdir(parents=True, exist_ok=True)
            scenes.write(scenes.render(scene_seed(config.scenes.seed, number), **settings), path)
        return [manifest.Clip(path.name, str(path)) for path in paths]
    except ValueError as error:
        raise UsageError(str(error)) from error


def count(config: ExperimentConfig) -> int:
    """The number of clips of a config. No clip is opened or rendered.

    Raises:
        UsageError: `clips.path` matches nothing.
    """
    path = config.clips.path
    if not path:
        return config.scenes.count
    try:
        return len(listings.once("clips", path, lambda: _listed(path)))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _listed(path: str) -> list[manifest.Clip]:
    return remote_clips.find_clips(places.found(path))


def scene_seed(seed: int, number: int) -> int:
    """Seed of one rendered scene of a set."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def extract_window(
    frames: np.ndarray,
    settings: ExtractConfig | None = None,
    *,
    numbers: Sequence[int] | None = None,
    clip: str | None = None,
) -> dict[str, np.ndarray]:
    """Track the patches of one window.

    Args:
        frames: u8[T, H, W, 3] RGB.
        settings: of the extract stage; None for the defaults.
        numbers: of the frames in their clip, T of them; None: its first T. Stored depth maps need them, and `clip`.
        clip: path of the clip.

    Returns:
        Arrays over the N patches, one for each cell of the grid, row-major: `position` f32[N, T, 2] and `camera`
        f32[N, T, 2] in pixels; `camera_map` f32[N, T, 3, 3], the homography from frame 0, the same for all patches;
        `colour` f32[N, T, 3] in 0–1, the mean of a square as large as a cell; `visible` bool[N, T];
        `texture` f32[N], see `patches.point_texture`; `crop_frames` int32[N, K], the frames that a patch is cropped in,
        the first frame first, then −1 (`crops.crop_frames`); `crops` u8[N, K, S, S, 3], centred on the point there.
        With depth, `position` is f32[N, T, 3], and a point counts as visible only where its depth is known.

    Raises:
        ValueError: no patch or no cell fits into the frame, the frames do not differ at all, or the tracker or the
            depth network cannot be loaded.
    """
    settings = settings or ExtractConfig()
    if len(frames) > 1 and all(np.array_equal(frame, frames[0]) for frame in frames[1:]):
        raise ValueError(f"its {len(frames)} frames are all the same picture, so there is nothing to track")
    height, width = frames.shape[1:3]
    cells = patches.patch_grid(height, width, settings.cell)
    queries = patches.trackable_points(frames[0], cells, point=settings.point)
    patches.check_patch_size(height, width, settings.patch_size)
    tracked = tracks.track(
        frames,
        queries,
        method=user_code.tracker(settings),
        forward_backward=settings.forward_backward,
        weights=settings.tracker_weights,
    )
    position, visible = tracked.position, tracked.visible
    if settings.depth:
        maps = depth.depth_maps(settings.depth, frames, numbers=numbers, clip=clip)
        near = depth.align_depth(depth.depth_at(maps, position, visible, (height, width)), visible)
        visible = visible & np.isfinite(near)
        position = np.concatenate([position, np.nan_to_num(near)[..., None]], axis=2)
    motion = camera.camera_motion(tracked.position, tracked.visible, model=settings.camera)
    at = crops.crop_frames(visible, settings.crops)
    centre = tracked.position.copy()
    centre[:, 0] = queries
    return {
        "position": position,
        "camera": camera.camera_trajectories(motion, queries),
        "camera_map": np.repeat(motion[None], len(queries), axis=0),
        "colour": patches.patch_colour(frames, tracked.position, settings.cell),
        "visible": visible,
        "texture": patches.point_texture(frames, tracked.position, tracked.visible),
        "crops": crops.cut(frames, centre, at, settings.patch_size, settings.image_size),
        "crop_frames": at,
    }


def warn_of_failure(row: Mapping[str, Any]) -> None:
    """Print the reason of a clip in the ledger that failed, wholly or in part."""
    if row["status"] != "ok":
        console.say(f"[yellow]{row['status']}[/] {escape(row['clip_id'])}: {escape(row['reason'])}")


def trajectories_table(clip_id: str, window: int, columns: Mapping[str, np.ndarray]) -> pa.Table:
    """One window's trajectories, as `extract_window` gives them, as a table for the store: a row for each patch."""
    at, count = columns["crop_frames"], len(columns["crop_frames"])
    keys = {
        "clip_id": pa.array([clip_id] * count, pa.string()),
        "window": pa.array([window] * count, pa.int32()),
        "patch": pa.array(np.arange(count), pa.int32()),
    }
    others = {name: array for name, array in columns.items() if name not in CROPS}
    pictures = {
        "crops": pa.array(crops.encode(columns["crops"], at), pa.binary()),
        "crop_frames": pa.array([row[row >= 0] for row in at], pa.list_(pa.int32())),
    }
    return pa.table(keys | {n: tensors(a) if a.ndim > 1 else pa.array(a) for n, a in others.items()} | pictures)


def crops_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The crops of a window's patches from its table, which may have the columns `CROPS` only.

    Returns:
        u8[P, S, S, 3], the crops of all patches one after the other; and int32[N, K], the frames of each patch's, −1
        after the last of them.

    Raises:
        ValueError: they cannot be decoded.
    """
    frames = table["crop_frames"].to_pylist()
    at = np.full((len(frames), max(map(len, frames))), -1, np.int32)
    for row, own in zip(at, frames, strict=True):
        row[: len(own)] = own
    return crops.decode(table["crops"].to_pylist()), at


def _earlier(store: Store, path: str) -> pa.Table:
    """The clips of an earlier run's ledger of which all windows were extracted, if it has their signatures."""
    try:
        ledger = store.read_table(path) if store.exists(path) else STORED.empty_table()
    except BrokenFileError:  # it is written anew
        ledger = STORED.empty_table()
    if "signature" not in ledger.column_names:
        return STORED.empty_table()
    return ledger.filter(pc.equal(ledger["status"], "ok"))


def _extract_clips(
    stage_folder: StageFolder, config: ExperimentConfig, clips_found: Sequence[manifest.Clip], earlier: pa.Table
) -> tuple[pa.Table, int, int]:
    """Extract some clips.

    Args:
        stage_folder: where the windows go.
        config: the experiment.
        clips_found: the clips.
        earlier: rows of an earlier run's ledger, see `_earlier`.

    Returns:
        Their rows of the ledger, the number of windows that were in the store, and the number extracted now.
    """
    settings = config.extract
    complete = _complete(stage_folder, settings, clips_found, earlier)
    ids = {clip: row for row, clip in enumerate(complete["clip_id"].to_pylist())}
    left = [clip for clip in clips_found if clip.clip_id not in ids]
    kept = len(pc.list_flatten(complete["windows"]))
    if left:
        cluster.connect(config.ray)
        cluster.check_shared(stage_folder.store)
    scan = partial(_scan, stage_folder, settings)
    scans = cluster.map_rows(list(map(vars, left)), scan, CLIPS_PER_TASK)
    rows = {row["clip_id"]: row | status for row, status in console.track(scans, len(left), "scan clips")}
    for clip in left:
        rows.setdefault(clip.clip_id, _worker_died(clip))
    wanted = [row for clip in left for row in _windows(rows[clip.clip_id], settings.window)]
    folders = dict.fromkeys(row["folder"] for row in wanted)
    present = stage_folder.store.files(stage_folder.path("trajectories"), folders)
    todo = [w for w in wanted if window_file(w["folder"], w["window"]) not in present]
    resumed = kept + len(wanted) - len(todo)
    if kept or wanted:
        console.say(f"extract: {kept + len(wanted)} windows of {len(clips_found)} clips, {resumed} already there")
    work = partial(_extract, stage_folder, settings)
    _, failed = cluster.map_windows(todo, work, WINDOWS_PER_TASK, "extract windows", settings.gpus_per_task)
    new = pa.Table.from_pylist([_ledger_row(rows[clip.clip_id], failed) for clip in left], schema=STORED)
    is_kept = np.array([clip.clip_id in ids for clip in clips_found])
    return merged(is_kept, complete, new), resumed, len(todo) - len(failed)


def _complete(
    stage_folder: StageFolder, settings: ExtractConfig, clips_found: Sequence[manifest.Clip], earlier: pa.Table
) -> pa.Table:
    """The rows of `earlier` of those clips whose files are what they were and whose windows are all there, in order."""
    place = pc.index_in(pa.array([clip.clip_id for clip in clips_found]), earlier["clip_id"].combine_chunks())
    known = earlier.take(place.drop_null())
    found = [clip for clip, row in zip(clips_found, place.to_pylist(), strict=True) if row is not None]
    paths = [clip.path for clip in found]
    on_disk = [path for path in paths if not is_url(path)]
    signatures = dict(zip(on_disk, clips.signatures(on_disk, settings.read_timeout), strict=True))
    given = {"path": paths, "signature": [signatures.get(clip.path, clip.state) for clip in found]}
    as_before = pc.and_(*(pc.equal(known[name], pa.array(of, pa.string())) for name, of in given.items()))
    known = known.filter(as_before)
    windows = Windows.of(known)
    present = stage_folder.store.files(stage_folder.path("trajectories"), known["folder"].to_pylist())
    there = [window_file(folder, window) in present for _, folder, window in windows]
    return known.filter(np.bincount(windows.clip[~np.array(there, bool)], minlength=len(known)) == 0)


def _windows(clip: Mapping[str, Any], length: int) -> Iterator[dict[str, Any]]:
    """A row for each window of a scanned clip, with the numbers of its frames: repeats are left out."""
    repeats = frozenset(clip["repeats"])
    for window, first in enumerate(clip["first_frames"]):
        numbers = shots.numbers(first, length, clip["frames"], clip["cuts"], repeats)
        of_clip = {name: clip[name] for name in ("clip_id", "path", "state", "folder")}
        yield {**of_clip, "window": window, "numbers": numbers}


def _scan(stage_folder: StageFolder, settings: ExtractConfig, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """On a worker: scan clips. The result is kept beside the trajectories, so that a clip is scanned once."""
    cv2.setNumThreads(1)  # a task has one CPU
    for row in rows:
        path, state = row["path"], row["state"]
        status: dict[str, Any] = {"reason": "", "folder": "", "frames": 0, "fps": 0.0, "width": 0, "height": 0}
        status["state"] = state
        status |= {"cuts": [], "repeats": [], "first_frames": []}
        try:
            if is_url(path) and not state:  # a manifest names it
                status["state"] = remote_clips.state(path)
            # Before the clip is read: of one that is written to meanwhile, the next run finds another.
            status["signature"] = status["state"] or clips.signature(path, settings.read_timeout)
            clip = manifest.Clip(row["clip_id"], path, status["state"])
            status["folder"], scan = known_clips.folder_and_scan(stage_folder, clip, settings)
            status |= vars(scan)
            # Fail here, once for the clip, rather than in each of its windows.
            clips.check_window(path, settings.window, scan.height, scan.width, settings.max_window_mb << 20)
            patches.check_patch_size(scan.height, scan.width, settings.patch_size)
            patches.patch_grid(scan.height, scan.width, settings.cell)
            status["first_frames"] = shots.windows(
                scan.frames, scan.cuts, settings.window, settings.stride, scan.repeats
            )
            if not status["first_frames"]:
                parts = f"{len(scan.cuts) + 1} shots" if scan.cuts else "one shot"
                shown = f"{scan.frames} frames" + f", {len(scan.repeats)} of them repeated," * bool(scan.repeats)
                status["reason"] = f"{shown} in {parts}, too few for a window of {settings.window}"
        except StageError:  # the store failed: every clip would
            raise
        except Exception as error:  # any error in one clip must not stop the others
            status |= cluster.failure(error)
        yield status


def _extract(
    stage_folder: StageFolder, settings: ExtractConfig, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """On a worker: read, track and store windows. The reader stays open from one window of a clip to the next."""
    cv2.setNumThreads(1)
    for (path, state), windows in itertools.groupby(rows, key=lambda row: (row["path"], row["state"])):
        with ExitStack() as opened:
            reader: clips.Reader | None = None
            local = path
            for row in windows:
                folder, window = row["folder"], row["window"]
                status: dict[str, Any] = {"reason": ""}
                try:
                    if reader is None:
                        limits = settings.max_window_mb << 20, settings.read_timeout
                        local = opened.enter_context(remote_clips.local_copy(path, state, settings.cache))
                        reader = opened.enter_context(clips.Reader(local, *limits))
                    frames = reader.take(row["numbers"])
                    columns = extract_window(frames, settings, numbers=row["numbers"], clip=local)
                    table = trajectories_table(row["clip_id"], window, columns)
                    stage_folder.store.write_table(trajectory_path(stage_folder, folder, window), table)
                except StageError:  # the store failed
                    raise
                except Exception as error:  # any error in one window must not stop the others
                    status = cluster.failure(error)
                    status["reason"] = status["reason"].replace(local, path)  # not where its copy was
                yield status


def _worker_died(clip: manifest.Clip) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "path": clip.path,
        "reason": cluster.DIED,
        "folder": "",
        "repeats": [],
        "first_frames": [],
    }


def _ledger_row(row: Mapping[str, Any], failed: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """A clip's ledger row without the windows that failed.

    Args:
        row: the clip's scan, or its earlier ledger row.
        failed: the reasons, by (folder, window).
    """
    # A scan has no windows yet: they are numbered as its first frames are.
    firsts = dict(zip(row.get("windows", itertools.count()), row["first_frames"], strict=False))
    reasons = {w: failed[row["folder"], w] for w in firsts if (row["folder"], w) in failed}
    kept = [w for w in firsts if w not in reasons]
    by_reason = {why: [str(w) for w in reasons if reasons[w] == why] for why in reasons.values()}
    new = [f"window {', '.join(windows)}: {why}" for why, windows in by_reason.items()]
    reason = "; ".join([row["reason"]] * bool(row["reason"]) + new)
    status = "failed" if not kept else "partial" if reason else "ok"
    return {**row, "status": status, "reason": reason, "windows": kept, "first_frames": [firsts[w] for w in kept]}
