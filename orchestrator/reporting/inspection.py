"""Inspect one window of a clip: run extract and score on it, then draw the arrays that come out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.estimators.information.twins import Twins
from infoaug.estimators.options import OTHER_WINDOWS
from infoaug.estimators.video import clips, shots
from infoaug.orchestrator.config import ExperimentConfig, ScoreConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import animation, figures, pictures
from infoaug.orchestrator.runtime.store import arrays
from infoaug.orchestrator.stages import extract, remote_clips, score, twin_table, window_scores

ELSEWHERE = (*OTHER_WINDOWS, "oracle")  # policies that need other windows, or masks


@dataclass(frozen=True)
class Window:
    """One window after extract and score: T frames and N patches.

    Attributes:
        frames: u8[T, H, W, 3] RGB; u8[1, H, W, 3], the first frame alone, for a window of an experiment's store.
        fps: frames per second, 0 where unknown.
        first: number of the window's first frame in the clip.
        position: f32[N, T, 2 or 3] pixels (x, y); depth, the third coordinate, in scene depths.
        visible: bool[N, T].
        camera: f32[N, T, 2] pixels, where camera motion alone would have moved each patch.
        crops: u8[P, S, S, 3] RGB, the patches at several times, those of a patch one after the other.
        crop_frames: int32[N, K], the frames of each patch's crops, the first frame of the window first; −1 after the
            last of them.
        scored: mutual information, p-values, spread and twins of the patches.
    """

    frames: NDArray[np.uint8]
    fps: float
    first: int
    position: NDArray[np.float32]
    visible: NDArray[np.bool_]
    camera: NDArray[np.float32]
    crops: NDArray[np.uint8]
    crop_frames: NDArray[np.int32]
    scored: twin_table.ScoredWindow

    @property
    def images(self) -> NDArray[np.uint8]:
        """u8[N, S, S, 3] RGB, each patch in the first frame."""
        counts = (self.crop_frames >= 0).sum(axis=1)
        return self.crops[np.cumsum(counts) - counts]

    @property
    def later(self) -> NDArray[np.uint8]:
        """u8[N, S, S, 3] RGB, each patch in the last frame of its crops."""
        return self.crops[np.cumsum((self.crop_frames >= 0).sum(axis=1)) - 1]

    @property
    def mutual_information(self) -> NDArray[np.float64]:
        """f64[N, N] nats, NaN on the diagonal and for pairs that were not estimated."""
        return self.scored.mutual_information

    @property
    def p_values(self) -> NDArray[np.float64] | None:
        """f64[N, N], or None if `score.surrogates` is 0."""
        return self.scored.p_values

    @property
    def twins(self) -> Twins:
        """`index` int64[N], the twin of each patch, −1 for none; `reason`, N texts, why a patch has none."""
        return self.scored.twins

    @property
    def reasons(self) -> dict[str, int]:
        """How many patches have a `twin`, and how many have none for each of the reasons in `twin_table.REASONS`."""
        reason = self.scored.twins.reason
        return {name: reason.count("" if name == "twin" else name) for name in twin_table.REASONS}


def inspect_window(path: str | Path, window: int, config: ExperimentConfig) -> Window:
    """Extract and score one window of a clip in this process, without Ray and without a store.

    Args:
        path: a video file or a folder of frames, or its URL.
        window: number of the window in the clip, from 0.
        config: its `extract` and `score` settings are used.

    Raises:
        UsageError: the clip is missing, cannot be decoded, or has no such window; or the policy's twins are not of one
            window alone.
    """
    if config.score.policy in ELSEWHERE:
        raise UsageError(
            f"score.policy {config.score.policy} needs more than the inspected window: choose another policy"
        )
    with remote_clips.local_copy(str(path), None, config.extract.cache) as clip:
        return _inspected(clip, window, config)


def _inspected(path: str, window: int, config: ExperimentConfig) -> Window:
    """The same of a clip on disk."""
    settings = config.extract
    try:
        scan = shots.scan(path, settings.read_timeout)
        first_frames = shots.windows(scan.frames, scan.cuts, settings.window, settings.stride, scan.repeats)
        if not 0 <= window < len(first_frames):
            raise UsageError(
                f"'{path}' has {len(first_frames)} windows of {settings.window} frames ({scan.frames} frames, "
                f"{len(scan.repeats)} of them repeated, {len(scan.cuts)} shot cuts): there is no window {window}; "
                "lower --window or extract.window"
            )
        first = first_frames[window]
        numbers = shots.numbers(first, settings.window, scan.frames, scan.cuts, scan.repeats)
        with clips.Reader(path, settings.max_window_mb << 20, settings.read_timeout) as reader:
            frames = reader.take(numbers)
        columns = extract.extract_window(frames, settings, numbers=numbers, clip=path)
        table = extract.trajectories_table(Path(path).name, window, columns)
    except ValueError as error:
        message = str(error)
        raise UsageError(message if path in message else f"clip '{path}': {message}") from None
    return _scored(frames, scan.fps, first, table, config.score)


def stored_window(scored: score.Scored, config: ExperimentConfig, clip_id: str, window: int) -> Window:
    """A window of an experiment, from its stored trajectories; only the first frame is decoded again.

    Twins of a policy in `ELSEWHERE` cannot be drawn in one window: those of mutual information take their place.

    Raises:
        StageError: the clip cannot be read any more.
    """
    row = next(r for r in scored.extracted.ledger.to_pylist() if r["clip_id"] == clip_id)
    table = scored.stage.store.read_table(extract.trajectory_path(scored.extracted.stage, row["folder"], window))
    first = row["first_frames"][row["windows"].index(window)]
    try:
        with remote_clips.local_copy(row["path"], None, config.extract.cache) as clip:
            frame = clips.read_clip(clip, first, 1)
    except ValueError as error:
        raise StageError(str(error)) from None
    settings = config.score
    if settings.policy in ELSEWHERE:
        settings = settings.model_copy(update={"policy": "mutual-information"})
    return _scored(frame, row["fps"] or 0.0, first, table, settings)


def _scored(frames: NDArray[np.uint8], fps: float, first: int, table: pa.Table, settings: ScoreConfig) -> Window:
    # Scored again rather than read from the store, which does not keep the whole matrix of mutual information.
    scored = window_scores.score_trajectories(table, settings)
    columns = {name: arrays(table, name) for name in ("position", "visible", "camera")}
    crops, crop_frames = extract.crops_of(table)
    return Window(frames, fps, first, **columns, crops=crops, crop_frames=crop_frames, scored=scored)


def draw(window: Window) -> dict[str, Figure]:
    """Pictures of a window, by name: `tracks`, `mutual-information`, `twins`, `reasons`."""
    scored, mi, p = window.scored, window.mutual_information, window.p_values
    twins = scored.twins
    position = pictures.bridged(window.position[..., :2], window.visible)
    return {
        "tracks": pictures.draw_tracks(
            window.frames[0], position, window.visible, window.camera, scored.spread, twins.reason
        ),
        "mutual-information": pictures.draw_mutual_information(
            mi, p, twins.index, None if p is None else twins.significant
        ),
        "twins": pictures.draw_twins(window.images, twins.index, scored.of_twin(mi), scored.of_twin(p), window.later),
        "reasons": figures.draw_reasons(window.reasons),
    }


def movie(window: Window) -> animation.Movie:
    """The window as `animation.save` takes it.

    Raises:
        ValueError: the window does not hold all of its frames.
    """
    if len(window.frames) != window.position.shape[1]:
        raise ValueError(f"{len(window.frames)} of {window.position.shape[1]} frames: use inspect_window")
    position = pictures.bridged(window.position[..., :2], window.visible)
    twins = window.scored.twins
    return animation.Movie(
        window.frames, window.fps, position, window.visible, window.scored.spread, twins.reason, twins.index
    )


def save(drawn: Mapping[str, Figure], folder: Path, name: str) -> list[Path]:
    """Write the pictures of `draw` as `NAME-PICTURE.png`, and return their paths.

    Raises:
        StageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}-{picture}.png" for picture in drawn]
        for path, figure in zip(paths, drawn.values(), strict=True):
            path.write_bytes(figures.png(figure))
    except OSError as error:
        raise StageError(f"cannot write pictures to '{folder}': {error.strerror}") from None
    return paths
