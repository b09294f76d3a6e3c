"""Inspect: what the stages see in one window of a clip, as pictures, and moving if wanted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.estimators.video import clips, shots
from infoaug.orchestrator.config import ExperimentConfig, ScoreConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import animation, figures, pictures
from infoaug.orchestrator.runtime.store import arrays
from infoaug.orchestrator.stages import extract, score, twin_table


@dataclass(frozen=True)
class Inspected:
    """One window seen through extract and score.

    Attributes:
        reasons: how many of its patches ended for which reason, `twin` where they have one.
        pictures: by name: `tracks`, `mutual-information`, `twins`, `reasons`.
        movie: what `animation.save` takes; None where only the first frame was read.
    """

    reasons: dict[str, int]
    pictures: dict[str, Figure]
    movie: animation.Movie | None = None


def inspect_clip(path: str, window: int, config: ExperimentConfig) -> Inspected:
    """Extract and score one window of a clip here and now, without Ray and without a store.

    Raises:
        UsageError: the clip is missing, cannot be decoded, or has no such window.
    """
    try:
        largest = config.extract.max_window_mb << 20
        scan = shots.scan(path, config.extract.read_timeout)
        firsts = shots.windows(scan.frames, scan.cuts, config.extract.window, config.extract.stride)
        if not 0 <= window < len(firsts):
            raise UsageError(
                f"'{path}' has {len(firsts)} windows of {config.extract.window} frames ({scan.frames} frames, "
                f"{len(scan.cuts)} shot cuts): there is no window {window}; lower --window or extract.window"
            )
        frames = clips.read_clip(path, firsts[window], config.extract.window, max_bytes=largest)
        columns = extract.extract_window(frames, config.extract, first=firsts[window], clip=path)
        table = extract.trajectories_table(Path(path).name, window, columns)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return _inspect(frames, table, config.score, scan.fps)


def inspect_stored(scored: score.Scored, config: ExperimentConfig, clip_id: str, window: int) -> Inspected:
    """The same for a window of an experiment, from its stored trajectories; only the first frame is read again.

    Raises:
        StageError: the clip is not where it was.
    """
    row = next(r for r in scored.extracted.ledger.to_pylist() if r["clip_id"] == clip_id)
    table = scored.stage.store.read_table(extract.trajectory_path(scored.extracted.stage, row["folder"], window))
    try:
        frames = clips.read_clip(row["path"], row["first_frames"][row["windows"].index(window)], 1)
    except ValueError as error:
        raise StageError(str(error)) from None
    return _inspect(frames, table, config.score)


def _inspect(frames: NDArray[np.uint8], table: pa.Table, settings: ScoreConfig, fps: float = 0.0) -> Inspected:
    """Score a window of which either all frames u8[T, H, W, 3] are there, or the first."""
    scored = score.score_trajectories(table, settings)
    found = scored.twins
    counts = {reason: found.reason.count("" if reason == "twin" else reason) for reason in twin_table.REASONS}
    mi, p = scored.mutual_information, scored.p_values
    position, visible, camera = (arrays(table, name) for name in ("position", "visible", "camera"))
    position = pictures.bridged(position[..., :2], visible)
    real = None if p is None else found.significant
    drawn = {
        "tracks": pictures.draw_tracks(frames[0], position, visible, camera, scored.spread, found.reason),
        "mutual-information": pictures.draw_mutual_information(mi, p, found.index, real),
        "twins": pictures.draw_twins(arrays(table, "image"), found.index, scored.of_twin(mi), scored.of_twin(p)),
        "reasons": figures.draw_reasons(counts),
    }
    movie = None
    if len(frames) == position.shape[1]:
        movie = animation.Movie(frames, fps, position, visible, scored.spread, found.reason, found.index)
    return Inspected(counts, drawn, movie)


def save(inspected: Inspected, folder: Path, name: str) -> list[Path]:
    """Write the pictures as `NAME-PICTURE.png`, and return where they are.

    Raises:
        StageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}-{picture}.png" for picture in inspected.pictures]
        for path, figure in zip(paths, inspected.pictures.values(), strict=True):
            path.write_bytes(figures.png(figure))
    except OSError as error:
        raise StageError(f"cannot write pictures to '{folder}': {error.strerror}") from None
    return paths
