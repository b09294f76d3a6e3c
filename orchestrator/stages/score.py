"""Score: from trajectories to mutual information to twins, on Ray Data over windows.

The twins of the control policies are stored beside those of mutual information; those of other windows are drawn by
`other_windows.py`. The policy is chosen when training reads them, so all arms of a comparison share one scoring.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infoaug.estimators.options import KERNELS, LARGEST_K, LATER, OTHER_WINDOWS, RANKED
from infoaug.orchestrator import places
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, ScoreConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import BrokenFileError, StageFolder, arrays
from infoaug.orchestrator.stages import extract, masks, other_windows
from infoaug.orchestrator.stages.extract import merged
from infoaug.orchestrator.stages.twin_table import (
    COUNTED,
    DRAWN,
    ONE,
    PARTNERS,
    RANDOM_DRAWS,
    column,
    of_control,
    stored_partners,
    summary,
    twin_table,
)
from infoaug.orchestrator.stages.windows import Window, Windows

VERSION = 7  # raised when the same config would give other numbers
WINDOWS_PER_TASK = 8  # at most
READERS = 8  # threads that read reasons

_log = logging.getLogger(__name__)

LEDGER = pa.schema(
    [
        ("clip_id", pa.string()),
        ("folder", pa.string()),  # the clip's, below `twins/`
        ("window", pa.int32()),
        ("reason", pa.string()),  # why it could not be scored
        *((column(name), pa.int32()) for name in COUNTED),  # numbers of patches
    ]
)


@dataclass(frozen=True)
class Scored:
    """The output of the score stage.

    Attributes:
        stage: the folder of the twins.
        extracted: the input, without the windows that could not be scored.
        ledger: a row for every window, as in `LEDGER`.
        resumed: windows that were in the store already.
        computed: windows that were scored now.
        policy: which twins to train with.
        draw: which of the `RANDOM_DRAWS` draws of a policy with chance in it.
        twins: how many of a patch's best partners to train with; 1 unless the policy is one of `RANKED`.
    """

    stage: StageFolder
    extracted: extract.Extracted
    ledger: pa.Table
    resumed: int
    computed: int
    policy: str = "mutual-information"
    draw: int = 0
    twins: int = 1

    @property
    def folders(self) -> list[str]:
        """The folder of the outputs."""
        return [self.stage.folder]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of patches: all (`patches`), `tracked` in every frame, with a `twin`, or without one by reason."""
        counts = {name: self._total(name) for name in COUNTED}
        if self.policy == "none":
            # Scoring knows nothing of this policy: it takes the twins away from patches that could have had one.
            eligible = ("twin", "no candidate", "not significant", "not mutual")
            counts |= {"policy none": sum(counts[name] for name in eligible), **dict.fromkeys(eligible, 0)}
        return counts

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self._total("patches")

    @property
    def paired(self) -> int:
        """Number of patches with a twin by mutual information, whatever the policy."""
        return self._total("twin")

    @property
    def share_with_twin(self) -> float:
        """Share of the patches that have a twin, 0–1; the same for all policies but `none`, and `oracle` at most."""
        return self.paired / max(1, self.patches)

    def for_training(self, config: ExperimentConfig) -> "Scored":
        """The same scoring with the policy, the random draw and the number of twins of another config."""
        policy, draw = config.score.policy, config.seed % RANDOM_DRAWS
        return replace(self, policy=policy, draw=draw, twins=config.pretrain.twins if policy in RANKED else 1)

    def in_windows(self, name: str) -> NDArray[np.integer]:
        """One of `COUNTED` in each of `extracted.windows`: int[W]."""
        return self.ledger[column(name)].to_numpy()[self._rows]

    def _total(self, name: str) -> int:
        return int(pc.sum(self.ledger[column(name)]).as_py() or 0)

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        return self.extracted.windows.rows_of(self.ledger)


def stage(config: ExperimentConfig, extracted: extract.Extracted) -> StageFolder:
    """The folder of these trajectories' twins, those of all policies."""
    settings = config.score.model_dump(exclude={"policy", *RUNTIME["score"]})
    key = {"version": VERSION, "extract": extracted.stage.hash, **settings}
    if config.clips.masks:
        key["masks"] = config.clips.masks
        if masks.are_reordered(config.clips.masks):
            key["masks_order"] = "by number"
    return StageFolder(extracted.stage.store, "score", key)


def twins_of(scored: Scored, folder: str, window: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The twins of a window's N patches by `scored.policy`, one of those within windows.

    Returns:
        int32[N], patch numbers, −1 where there is no twin, and bool[N], which patches have one by mutual information.
        By `later` a patch is its own twin; by `later+mutual-information` it has the twin of mutual information, and
        training draws which of the two it shows.
    """
    columns = sorted({"twin", *({scored.policy} & {*ONE, *DRAWN})})
    table = scored.stage.store.read_table(twins_path(scored.stage, folder, window), columns)
    paired = np.asarray(pc.is_valid(table["twin"]))
    twin = of_control(scored.policy, scored.draw, table.column, paired)
    return table["twin"].fill_null(-1).to_numpy() if twin is None else twin, paired


def partners_of(scored: Scored, folder: str, window: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best `scored.twins` partners of a window's N patches by mutual information.

    Returns:
        int64[N, k], patch numbers, the twin first, −1 after the last; and f64[N, k] nats, how strong the dependence on
        each is by `score.rank`, at least 0.
    """
    table = scored.stage.store.read_table(twins_path(scored.stage, folder, window), list(PARTNERS))
    asked = scored.stage.key
    return stored_partners(table, scored.twins, asked["alpha"], asked["mutual"], tested=asked["surrogates"] > 0)


def twins_elsewhere(scored: Scored) -> list[NDArray[np.int64]] | None:
    """The twins by a policy of `OTHER_WINDOWS`; None for another policy.

    Returns:
        For each window of `scored.extracted` int64[N], rows among the patches of all of them, −1 for no twin.

    Raises:
        StageError: no other clip has a patch that could be a twin, or the store cannot be read.
    """
    if scored.policy not in OTHER_WINDOWS:
        return None

    def read(unit: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        reason = scored.stage.store.read_table(twins_path(scored.stage, *unit[1:]), ["reason"])["reason"]
        never = pc.is_in(reason, pa.array(["lost", "static", "textureless"]))
        return pc.equal(reason, "").to_numpy(), ~never.to_numpy()

    units = scored.extracted.windows
    with ThreadPoolExecutor(READERS) as pool:
        paired, eligible = zip(*pool.map(read, units), strict=True)
    # By name, as it was drawn before ledgers had numbers of clips.
    clip = np.unique(np.array(units.clips["folder"].to_pylist()), return_inverse=True)[1][units.clip]
    return other_windows.drawn(scored.policy, clip, paired, eligible, scored.draw)


def twins_path(stage_folder: StageFolder, folder: str, window: int) -> str:
    """The path of a window's twins in the store."""
    return stage_folder.path("twins", extract.window_file(folder, window))


def check(config: ExperimentConfig) -> None:
    """Check that a twin is possible; the config itself validates every single setting of `score`.

    Raises:
        UsageError: a window is shorter than `score.min_frames`, the smallest possible p-value is above `score.alpha`,
            or the policy has no twins in these clips.
    """
    asked = config.score
    if asked.policy == "oracle" and not config.clips.masks:
        raise UsageError("score.policy oracle takes twins from the same object: set clips.masks to the clips' masks")
    if config.clips.masks and not places.located(config.clips.masks).is_dir():
        raise UsageError(f"clips.masks '{config.clips.masks}' is no folder: give one that holds Annotations/NAME/*.png")
    if asked.policy == "other-clip" and extract.count(config) < 2:
        raise UsageError("score.policy other-clip needs at least two clips: give more, or choose another policy")
    if asked.policy in LATER and config.extract.crops < 2:
        raise UsageError(f"score.policy {asked.policy} shows a track at another time: set extract.crops to 2 or more")
    if asked.policy != "none" and config.extract.window < asked.min_frames:
        raise UsageError(
            f"windows of extract.window {config.extract.window} frames are shorter than score.min_frames "
            f"{asked.min_frames}, so no patch would have a twin: set one of them to fit the other"
        )
    if asked.policy != "none" and asked.surrogates and 1 / (1 + asked.surrogates) > asked.alpha:
        raise UsageError(
            f"no p-value of {asked.surrogates} surrogates is below {1 / (1 + asked.surrogates):.2g}, so at score.alpha "
            f"{asked.alpha:g} no patch would have a twin: set score.surrogates or score.alpha higher, or "
            "score.surrogates to 0 for no test"
        )


def load(config: ExperimentConfig, extracted: extract.Extracted) -> Scored:
    """Read what an earlier scoring of these trajectories left.

    Raises:
        StageError: they, or some of them, were not scored with these settings, or no window could be scored.
    """
    stage_folder, store = stage(config, extracted), extracted.stage.store
    path = _ledger_path(config, stage_folder)
    if not store.exists(path):
        raise StageError("these trajectories are not scored yet: run `infoaug score` with the same config first")
    ledger = store.read_table(path, LEDGER.names)
    if missing := int((extracted.windows.rows_of(ledger) < 0).sum()):
        raise StageError(
            f"{missing} of {len(extracted.windows)} windows are not scored yet: run `infoaug score` with the same "
            "config first"
        )
    return _scored(config, stage_folder, extracted, ledger)


def run(config: ExperimentConfig, extracted: extract.Extracted) -> Scored:
    """Find the twins of every extracted window that has none in the store.

    A window that cannot be scored becomes a row of the ledger with the reason; it does not stop the others.

    Raises:
        StageError: no window could be scored, or the store cannot be read or written to.
    """
    stage_folder, store = stage(config, extracted), extracted.stage.store
    _log.info("scoring the windows of %d clips into %s", len(extracted.ledger), store.url(stage_folder.folder))
    stage_folder.record(config.to_yaml())
    path = _ledger_path(config, stage_folder)
    earlier = store.read_table(path, LEDGER.names) if store.exists(path) else LEDGER.empty_table()
    parts, resumed = [], 0
    for part in console.parts(len(extracted.ledger), extract.CLIPS_AT_ONCE, "clips"):
        rows, present = _score_clips(config, stage_folder, extracted.stage, extracted.ledger[part], earlier)
        parts.append(rows)
        resumed += present
    ledger = pa.concat_tables(parts).combine_chunks()
    store.write_table(path, ledger)
    failed = _failed(ledger)
    scored = _scored(config, stage_folder, extracted, ledger, computed=len(ledger) - resumed - len(failed))
    clips = scored.extracted.ledger
    for row in clips.filter(pc.is_in(clips["folder"], failed["folder"])).to_pylist():
        extract.warn_of_failure(row)
    return scored


def _ledger_path(config: ExperimentConfig, stage_folder: StageFolder) -> str:
    return stage_folder.path(f"ledger-{extract.clips_digest(config)}.parquet")


def _scored(
    config: ExperimentConfig,
    stage_folder: StageFolder,
    extracted: extract.Extracted,
    ledger: pa.Table,
    computed: int = 0,
) -> Scored:
    """The stage's output by its ledger, of which `computed` windows were scored now."""
    failed = {(r["folder"], r["window"]): f"not scored: {r['reason']}" for r in _failed(ledger).to_pylist()}
    resumed = len(ledger) - len(failed) - computed
    return Scored(stage_folder, extracted.without(failed), ledger, resumed, computed).for_training(config)


def _failed(ledger: pa.Table) -> pa.Table:
    """The rows of the windows that could not be scored."""
    return ledger.filter(pc.not_equal(ledger["reason"], ""))


def _score_clips(
    config: ExperimentConfig,
    stage_folder: StageFolder,
    trajectories: StageFolder,
    clips: pa.Table,
    earlier: pa.Table,
) -> tuple[pa.Table, int]:
    """Score the windows of some clips.

    Args:
        config: the experiment.
        stage_folder: where the twins go.
        trajectories: the folder of the extract stage.
        clips: rows of its ledger.
        earlier: the ledger of an earlier scoring, or an empty one.

    Returns:
        Their ledger rows, and the number of windows whose twins were in the store.
    """
    windows = Windows.of(clips)
    counted = earlier.filter(pc.and_(pc.is_in(earlier["folder"], clips["folder"]), pc.equal(earlier["reason"], "")))
    known = windows.rows_of(counted)
    folders = clips["folder"].take(np.unique(windows.clip)).to_pylist()
    present = stage_folder.store.files(stage_folder.path("twins"), folders)
    there = np.array([extract.window_file(folder, window) in present for _, folder, window in windows], bool)
    console.say(f"score: {len(windows)} windows, {there.sum()} already there")
    # A window with twins but without counts was scored by a command that was stopped before it wrote the ledger.
    left = ~there | (known < 0)
    frames = _first_frames(clips, config.clips.masks) if config.clips.masks else {}
    todo = [
        {"folder": folder, "window": window, "present": bool(is_there)} | frames.get((folder, window), {})
        for (_, folder, window), is_there in zip(windows[left], there[left], strict=True)
    ]
    if todo:
        cluster.connect(config.ray)
        if slow := _slow(config.score):
            console.say(slow)
    settings = config.score.model_copy(update={"policy": "mutual-information"})
    work = partial(_score, stage_folder, trajectories, settings, config.extract.window)
    gpus = settings.gpus_per_task if settings.backend == "cuda" else 0
    if todo and gpus > cluster.gpus():  # or Ray would wait for a GPU forever
        raise UsageError(
            f"score.backend 'cuda' needs {gpus:g} GPUs for a task, and the Ray cluster has {cluster.gpus()}: set "
            "score.backend to cpu"
        )
    done, failed = cluster.map_windows(todo, work, WINDOWS_PER_TASK, "score windows", gpus)
    new = [
        {"clip_id": clip_id, "folder": folder, "window": window, "reason": failed.get((folder, window), "")}
        | (done[folder, window]["summary"] if (folder, window) in done else dict.fromkeys(map(column, COUNTED), 0))
        for clip_id, folder, window in windows[left]
    ]
    return merged(left, pa.Table.from_pylist(new, schema=LEDGER), counted.take(known[~left])), int(there.sum())


def _first_frames(clips: pa.Table, given: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The mask of every window's first frame, empty for none, and the size of the frames, by folder and window.

    Raises:
        UsageError: the masks do not belong to the clips.
    """
    rows = [row for row in clips.to_pylist() if row["windows"]]
    masks.check(given, {row["clip_id"]: row["frames"] for row in rows})
    found = {}
    for row in rows:
        files = masks.files_of(given, row["clip_id"])
        for window, first in zip(row["windows"], row["first_frames"], strict=True):
            mask = str(files[first]) if files else ""
            found[row["folder"], window] = {"mask": mask, "width": row["width"], "height": row["height"]}
    return found


def _slow(settings: ScoreConfig) -> str:
    """A sentence where `auto` takes the readable form because no compiled kernel has the estimator or its k."""
    from infoaug.estimators.information import mutual_information

    if settings.backend != "auto" or mutual_information.by_kernel(settings.estimator, settings.k, "auto"):
        return ""
    return (
        f"[yellow]score: '{settings.estimator}' with k = {settings.k} has no compiled kernel and takes about a hundred "
        f"times as long: set score.estimator to {', '.join(KERNELS)} and score.k to {LARGEST_K} or less[/]"
    )


def _score(
    stage_folder: StageFolder,
    trajectories: StageFolder,
    settings: ScoreConfig,
    length: int,
    rows: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """On a worker: score and store those windows of `length` frames that have no twins yet, and count all of them."""
    import numba  # which only workers need, and as the estimators takes a second to be imported

    from infoaug.orchestrator.stages import window_scores

    numba.set_num_threads(1)  # a task has one CPU
    store = stage_folder.store
    columns = ["clip_id", "window", "patch", "position", "camera", "visible", "colour", "texture"]
    for row in rows:
        window = row["folder"], row["window"]
        reading, path = extract.trajectory_path(trajectories, *window), twins_path(stage_folder, *window)
        try:
            if not row["present"]:
                table = store.read_table(reading, columns)
                seeds = [window_scores.own_seed(table, settings, draw) for draw in range(RANDOM_DRAWS)]
                found = window_scores.score_trajectories(table, settings)
                store.write_table(path, twin_table(table, found, seeds, _objects(table, row)))
            # Counted from what is stored, so that scored and present windows are counted in the same way.
            reading = path
            yield {"reason": "", "summary": summary(store.read_table(path, ["reason", "visible_frames"]), length)}
        except BrokenFileError as error:  # this window's file: the next run computes it again
            store.delete(reading)
            reason = f"'{reading}' of the store was damaged and is deleted; run it again to compute it anew"
            yield cluster.failure(error) | {"reason": reason}
        except StageError:  # the store failed: every window would
            raise
        except Exception as error:  # any error in one window must not stop the others
            yield cluster.failure(error)


def _objects(table: pa.Table, row: dict[str, Any]) -> NDArray[np.int32]:
    """What the points of a window's patches are on in its first frame: int32[N], −1 without a mask."""
    if not row.get("mask"):
        return np.full(len(table), -1, np.int32)
    points = arrays(table, "position")[:, 0, :2]
    return masks.objects_at(row["mask"], points, row["width"], row["height"])
