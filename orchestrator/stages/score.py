"""Score: trajectories to mutual information to twins, on Ray Data over windows.

Beside its twin, the twins that the controls would give a patch are stored: the policy is chosen when training reads
them, and all arms of a comparison share one scoring.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infoaug.estimators.information import entropy, motion, mutual_information, significance, ties, twins
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig, ScoreConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import Stage, Store, arrays, digest_of
from infoaug.orchestrator.stages import extract
from infoaug.orchestrator.stages.twin_table import COUNTED, RANDOM_DRAWS, ScoredWindow, column, summary, twin_table

VERSION = 5  # of the numbers: raised when the same config would give others
WINDOWS_PER_TASK = 8  # at most

LEDGER = pa.schema(
    [
        ("clip_id", pa.string()),
        ("folder", pa.string()),  # of the clip, among the twins
        ("window", pa.int32()),
        ("reason", pa.string()),  # why it could not be scored
        *((column(name), pa.int32()) for name in COUNTED),  # patches
    ]
)


@dataclass(frozen=True)
class Scored:
    """What the score stage leaves: its folder, and how many patches of each window ended for which reason.

    `extracted` is what was there, less the windows that could not be scored: the ledger says why. `policy` and `draw`:
    whose twins to train with, and of the random ones which.
    """

    stage: Stage
    extracted: extract.Extracted
    ledger: pa.Table
    resumed: int
    computed: int
    policy: str = "mutual-information"
    draw: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Patches, those tracked through all frames, and those of each reason (`twin` where there is none)."""
        counts = {name: self._total(name) for name in COUNTED}
        if self.policy == "none":
            kept = ("twin", "no candidate", "not significant")
            counts |= {"policy none": sum(counts[name] for name in kept), **dict.fromkeys(kept, 0)}
        return counts

    @property
    def share_with_twin(self) -> float:
        """Share of the patches that have a twin by every policy but `none`."""
        return self._total("twin") / max(1, self._total("patches"))

    def _total(self, name: str) -> int:
        return int(sum(self.ledger[column(name)].to_pylist()))


def stage(config: ExperimentConfig, extracted: extract.Extracted) -> Stage:
    """Where the twins of these trajectories live; those of all policies together."""
    settings = config.score.model_dump(exclude={"policy", *RUNTIME["score"]})
    key = {"version": VERSION, "extract": extracted.stage.hash, **settings}
    return Stage(extracted.stage.store, "score", key)


def twins_of(scored: Scored, folder: str, window: int) -> NDArray[np.int32]:
    """Who the twins of a window's patches are by the policy asked for, int32[N], −1 where there is none."""
    column = {"mutual-information": "twin"}.get(scored.policy, scored.policy)
    path = twins_path(scored.stage, folder, window)
    if scored.policy == "none":
        return np.full(len(scored.stage.store.read_table(path, ["patch"])), -1, np.int32)
    values = scored.stage.store.read_table(path, [column])[column].combine_chunks()
    if scored.policy == "random":
        return values.flatten().to_numpy().reshape(-1, RANDOM_DRAWS)[:, scored.draw]
    return values.fill_null(-1).to_numpy()


def twins_path(place: Stage, folder: str, window: int) -> str:
    """Where a window's twins lie on the store."""
    return place.path("twins", extract.window_file(folder, window))


def load(config: ExperimentConfig, store: Store) -> Scored:
    """What an earlier scoring left.

    Raises:
        StageError: there was none for this config, or it gave nothing.
    """
    extracted = extract.load(config, store)
    place = stage(config, extracted)
    path = place.path(f"ledger-{extract.source(config)}.parquet")
    if not store.exists(path):
        raise StageError("these trajectories are not scored yet: run `infoaug score` with the same config first")
    ledger = store.read_table(path, LEDGER.names)
    return _scored(config, place, extracted, ledger)


def run(config: ExperimentConfig, extracted: extract.Extracted) -> Scored:
    """Find the twins of every extracted window that has none yet.

    A window that cannot be scored is a row of the ledger with the reason, and the others go on.

    Raises:
        StageError: no window could be scored; or the store cannot be read or written to.
    """
    place, store = stage(config, extracted), extracted.stage.store
    place.record(config.to_yaml())
    path = place.path(f"ledger-{extract.source(config)}.parquet")
    known = store.read_table(path, LEDGER.names) if store.exists(path) else LEDGER.empty_table()
    parts, resumed = [], 0
    for part in console.parts(len(extracted.ledger), extract.CLIPS_AT_ONCE, "clips"):
        entries, there = _part(config, place, extracted.stage, extracted.ledger[part], known)
        parts.append(pa.Table.from_pylist(entries, schema=LEDGER))
        resumed += there
    ledger = pa.concat_tables(parts).combine_chunks()
    store.write_table(path, ledger)
    failed = _failed(ledger)
    scored = _scored(config, place, extracted, ledger, computed=len(ledger) - resumed - len(failed))
    clips = scored.extracted.ledger
    for row in clips.filter(pc.is_in(clips["folder"], failed["folder"])).to_pylist():
        extract.tell(row)
    return scored


def score_window(
    position: NDArray[np.float32],
    camera: NDArray[np.float32],
    visible: NDArray[np.bool_],
    settings: ScoreConfig,
    seed: int = 0,
    colour: NDArray[np.float32] | None = None,
) -> ScoredWindow:
    """Mutual information of a window's patches, and their twins.

    Args:
        position: f32[N, T, 2 or 3] pixels; depth, the third, in shares of the scene's.
        camera: f32[N, T, 2] pixels, what the camera alone would have done.
        visible: bool[N, T].
        settings: how to.
        seed: of the surrogates and of the random policy.
        colour: f32[N, T, 3] from 0 to 1; needed where colour is scored.

    Raises:
        ValueError: colour is to be scored and not given.
    """
    residual = _scored_trajectory(position, camera, visible, colour, settings)
    steps, seen = motion.displacement(residual, visible)
    spread = motion.spread(residual, visible)
    needed = settings.min_frames - 1  # displacements
    lost = seen.sum(1) < max(needed, settings.k + 1)
    content = np.full(len(position), np.nan)
    for patch in np.flatnonzero(~lost):
        content[patch] = entropy.entropy(steps[patch, seen[patch]], k=settings.k)
    static = spread < settings.min_spread
    if settings.min_entropy is not None:
        static |= content < settings.min_entropy
    excluded = np.where(lost, "lost", np.where(static, "static", ""))

    moving = np.flatnonzero(excluded == "")
    path, shown = residual[moving], visible[moving]
    block = motion.block_size(path, shown) if settings.samples == "innovations" else 1
    white, known = motion.samples(path, shown, settings.noise, kind=settings.samples, block=block)
    # Blocks and orders cost samples: of those that a pair needs at least, half must be left.
    least = needed * white.shape[1] // (2 * steps.shape[1])
    few = seen[moving].astype(int) @ seen[moving].T.astype(int) < needed
    options: dict[str, Any] = {"estimator": settings.estimator, "k": settings.k, "theiler": settings.theiler}
    options["backend"] = settings.backend
    if settings.camera == "condition":
        options["condition_on"] = _camera_samples(camera, settings, block)
    among = mutual_information.pairwise_mutual_information(
        white, visible=known, min_samples=least, seed=seed, **options
    )
    among[few] = np.nan
    p_values = None
    if settings.surrogates:
        options |= {"surrogates": settings.surrogates, "min_samples": least, "seed": seed}
        if settings.samples == "innovations":
            options |= {"method": "circular-shift", "mutual_information_matrix": among}
        p = significance.p_values(white, visible=known, **options)
        p_values = _spread_out(np.where(few, np.nan, p), moving, len(position))
    mi = _spread_out(among, moving, len(position))
    found = twins.find_twins(
        mi,
        p_values=p_values,
        position=position[:, 0, :2],
        policy=settings.policy,
        alpha=settings.alpha,
        min_distance=settings.min_distance,
        candidates=settings.candidates,
        excluded=excluded.tolist(),
        seed=seed,
    )
    return ScoredWindow(mi, p_values, residual, spread, content, ties.tied(steps, seen), found)


def score_trajectories(table: pa.Table, settings: ScoreConfig) -> ScoredWindow:
    """`score_window` of a window's trajectories as they lie on the store, with a seed of the window's own."""
    position, camera, visible, colour = (arrays(table, name) for name in ("position", "camera", "visible", "colour"))
    return score_window(position, camera, visible, settings, _own_seed(table, settings), colour)


def _own_seed(table: pa.Table, settings: ScoreConfig, draw: int = 0) -> int:
    key = table.select(["clip_id", "window"]).slice(0, 1).to_pylist()[0]
    return int(digest_of([settings.seed, *key.values(), *([draw] if draw else [])], 8), 16)


def _camera_samples(camera: NDArray[np.float32], settings: ScoreConfig, block: int) -> NDArray[np.float64]:
    """The camera's motion as samples of its own, f64[S, 2]: what it does to the median patch."""
    path = np.median(camera, axis=0, keepdims=True)
    kind = "positions" if settings.samples == "positions" else "displacements"
    return motion.samples(path, np.ones(path.shape[:2], bool), settings.noise, kind=kind, block=block)[0][0]


def _scored_trajectory(
    position: NDArray[np.float32],
    camera: NDArray[np.float32],
    visible: NDArray[np.bool_],
    colour: NDArray[np.float32] | None,
    settings: ScoreConfig,
) -> NDArray[np.float64]:
    """What of the trajectories is scored, f64[N, T, d], all of its coordinates with the tracker's noise."""
    parts = []
    if settings.trajectory in ("position", "both"):
        path = motion.residual(position, camera) if settings.camera == "subtract" else position.astype(np.float64)
        path[..., 2:] *= settings.noise / settings.depth_noise
        parts.append(path)
    if settings.trajectory in ("colour", "both"):
        if colour is None:
            raise ValueError(f"score.trajectory is '{settings.trajectory}', but there are no colours; give them")
        shade = motion.without_lighting(colour, visible) if settings.remove_lighting else colour.astype(np.float64)
        parts.append(shade * (settings.noise / settings.colour_noise))
    return np.concatenate(parts, axis=-1)


def _scored(
    config: ExperimentConfig, place: Stage, extracted: extract.Extracted, ledger: pa.Table, computed: int = 0
) -> Scored:
    """What is on the store now, `computed` windows of it since the command began."""
    failed = {(r["folder"], r["window"]): f"not scored: {r['reason']}" for r in _failed(ledger).to_pylist()}
    extracted = extracted.without(failed)
    resumed = len(ledger) - len(failed) - computed
    return Scored(place, extracted, ledger, resumed, computed, config.score.policy, config.seed % RANDOM_DRAWS)


def _failed(ledger: pa.Table) -> pa.Table:
    """The windows that could not be scored."""
    return ledger.filter(pc.not_equal(ledger["reason"], ""))


def _part(
    config: ExperimentConfig, place: Stage, extracted: Stage, clips: pa.Table, known: pa.Table
) -> tuple[list[dict[str, Any]], int]:
    """Score the windows of some clips: their ledger rows, and how many were there."""
    windows = extract.windows_of(clips)
    present = place.store.files(place.path("twins"), dict.fromkeys(folder for _, folder, _ in windows))
    rows = known.filter(pc.is_in(known["folder"], clips["folder"])).to_pylist()
    counts = {(row["folder"], row["window"]): row for row in rows if not row["reason"]}
    wanted: list[dict[str, Any]] = [
        {"folder": folder, "window": window, "there": extract.window_file(folder, window) in present}
        for _, folder, window in windows
    ]
    resumed = sum(row["there"] for row in wanted)
    console.say(f"score: {len(wanted)} windows, {resumed} already there")
    todo = [row for row in wanted if not row["there"] or (row["folder"], row["window"]) not in counts]
    if todo:
        cluster.connect(config.ray)
    settings = config.score.model_copy(update={"policy": "mutual-information"})
    work = partial(_score, place, extracted, settings, config.extract.window)
    gpus = settings.gpus_per_task if settings.backend == "cuda" else 0
    if todo and gpus > cluster.gpus():  # or Ray would wait for a GPU forever
        raise UsageError(
            f"score.backend 'cuda' needs {gpus:g} GPUs for a task, and the Ray cluster has {cluster.gpus()}: set "
            "score.backend to cpu"
        )
    done, failed = cluster.map_windows(todo, work, WINDOWS_PER_TASK, "score windows", gpus)
    counts |= {key: status["summary"] for key, status in done.items()}
    counts |= dict.fromkeys(failed, dict.fromkeys(map(column, COUNTED), 0))
    return [
        {"clip_id": clip_id, "folder": folder, "window": window, "reason": failed.get((folder, window), "")}
        | {name: counts[folder, window][name] for name in map(column, COUNTED)}
        for clip_id, folder, window in windows
    ], resumed


def _score(
    place: Stage, extracted: Stage, settings: ScoreConfig, length: int, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """On a worker: score and store some windows of `length` frames, but for those that are there, and sum them up."""
    numba.set_num_threads(1)  # a task has one CPU
    columns = ["clip_id", "window", "patch", "position", "camera", "visible", "colour"]
    for row in rows:
        window, path = (row["folder"], row["window"]), twins_path(place, row["folder"], row["window"])
        try:
            if not row["there"]:
                table = place.store.read_table(extract.trajectory_path(extracted, *window), columns)
                seeds = [_own_seed(table, settings, draw) for draw in range(RANDOM_DRAWS)]
                found = twin_table(table, score_trajectories(table, settings), seeds)
                place.store.write_table(path, found)
            yield {
                "reason": "",
                "summary": summary(place.store.read_table(path, ["reason", "visible_frames"]), length),
            }
        except StageError:  # the store's: it would be so with every window
            raise
        except Exception as error:  # whatever is wrong with one window must not stop the others
            yield {"reason": cluster.reason(error)}


def _spread_out(among: NDArray[np.float64], chosen: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """A matrix over the chosen patches as one over all patches, NaN elsewhere."""
    matrix = np.full((count, count), np.nan)
    matrix[np.ix_(chosen, chosen)] = among
    return matrix
