"""Inspect one window of a clip: run extract and score on it, then draw the arrays that come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.estimators.information.twins import Twins
from infoaug.estimators.options import OTHER_WINDOWS
from infoaug.estimators.video import clips, shots
from infoaug.estimators.video.patches import LEAST_TEXTURE
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import animation, figures, pictures
from infoaug.orchestrator.runtime.store import arrays
from infoaug.orchestrator.stages import extract, remote_clips, score, twin_table, window_scores

ELSEWHERE = (*OTHER_WINDOWS, "oracle")  # policies that need other windows, or masks
DOUBTFUL_TEXTURE = 2 * LEAST_TEXTURE


@dataclass(frozen=True)
class Window:
    """One window after extract and score: T frames and N patches.

    Attributes:
        clip: the clip's name.
        number: of the window in the clip, from 0.
        config: the settings of `extract` and `score`.
        frames: u8[T, H, W, 3] RGB.
        fps: frames per second, 0 where unknown.
        first: number of the window's first frame in the clip.
        position: f32[N, T, 2 or 3] pixels (x, y); depth, the third coordinate, in scene depths.
        visible: bool[N, T].
        camera: f32[N, T, 2] pixels, where camera motion alone would have moved each patch.
        crops: u8[P, S, S, 3] RGB, the patches at several times, those of a patch one after the other.
        crop_frames: int32[N, K], the frames of each patch's crops, the first frame of the window first; −1 after the
            last of them.
        texture: f32[N], see `patches.point_texture`.
        scored: mutual information, p-values, spread and twins of the patches.
    """

    clip: str
    number: int
    config: ExperimentConfig
    frames: NDArray[np.uint8]
    fps: float
    first: int
    position: NDArray[np.float32]
    visible: NDArray[np.bool_]
    camera: NDArray[np.float32]
    crops: NDArray[np.uint8]
    crop_frames: NDArray[np.int32]
    texture: NDArray[np.float32]
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

    @property
    def doubts(self) -> list[str]:
        """N texts, why a patch's twin is doubtful; empty without a doubt, or without a twin.

        A twin is doubtful if the pair itself is not significant (the patch has another significant partner), or if one
        of the two has less than twice the texture that a patch needs.
        """
        twin = self.twins.index
        patch = np.arange(len(twin))
        doubts = [
            ((twin != patch) & ~self.twins.significant[patch, twin], "the pair itself is not significant"),
            (np.minimum(self.texture, self.texture[twin]) < DOUBTFUL_TEXTURE, "one of the two has little texture"),
        ]
        return ["; ".join(text for which, text in doubts if which[i]) if twin[i] >= 0 else "" for i in patch]


@dataclass(frozen=True)
class Clip:
    """A clip that was read once, to find its windows.

    Attributes:
        path: a video file or a folder of frames, or its URL.
        scan: its frames, cuts and repeated frames.
        first_frames: the first frame of each of its windows.
    """

    path: str
    scan: shots.Scan
    first_frames: list[int]


def read(path: str | Path, config: ExperimentConfig, most: int | None = None) -> Clip:
    """Read a clip to find its windows.

    Args:
        path: a video file or a folder of frames, or its URL.
        config: its `extract` settings are used.
        most: number of frames after which reading stops; None: at the end of the clip.

    Raises:
        UsageError: the clip is missing or cannot be decoded.
    """
    path, settings = str(path), config.extract
    try:
        with remote_clips.local_copy(path, None, settings.cache) as copy:
            scan = shots.scan(copy, settings.read_timeout, most)
        return Clip(path, scan, shots.windows(scan.frames, scan.cuts, settings.window, settings.stride, scan.repeats))
    except ValueError as error:
        raise _refused(path, error) from None


def inspect_window(path: str | Path | Clip, window: int, config: ExperimentConfig) -> Window:
    """Extract and score one window of a clip in this process, without Ray and without a store.

    Args:
        path: a video file or a folder of frames, its URL, or what `read` returned.
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
    clip = path if isinstance(path, Clip) else read(path, config)
    scan, settings = clip.scan, config.extract
    if not 0 <= window < len(clip.first_frames):
        raise UsageError(
            f"'{clip.path}' has {len(clip.first_frames)} windows of {settings.window} frames ({scan.frames} frames, "
            f"{len(scan.repeats)} of them repeated, {len(scan.cuts)} shot cuts): there is no window {window}; "
            "lower --window or extract.window"
        )
    first = clip.first_frames[window]
    numbers = shots.numbers(first, settings.window, scan.frames, scan.cuts, scan.repeats)
    try:
        with remote_clips.local_copy(clip.path, None, settings.cache) as copy:
            frames = _frames(copy, numbers, config)
            columns = extract.extract_window(frames, settings, numbers=numbers, clip=copy)
        table = extract.trajectories_table(Path(copy).name, window, columns)
    except ValueError as error:
        raise _refused(clip.path, error) from None
    return _scored(frames, scan.fps, first, table, config)


def stored_window(scored: score.Scored, config: ExperimentConfig, clip_id: str, window: int) -> Window:
    """A window of an experiment, from its stored trajectories; only its frames are decoded again.

    Twins of a policy in `ELSEWHERE` cannot be drawn in one window: those of mutual information take their place.

    Raises:
        StageError: the clip cannot be read any more.
    """
    row = scored.extracted.clip(clip_id)
    table = scored.stage.store.read_table(extract.trajectory_path(scored.extracted.stage, row["folder"], window))
    first = row["first_frames"][row["windows"].index(window)]
    try:
        numbers = shots.numbers(first, config.extract.window, row["frames"], row["cuts"], row["repeats"])
        with remote_clips.local_copy(row["path"], None, config.extract.cache) as copy:
            frames = _frames(copy, numbers, config)
    except ValueError as error:
        raise StageError(str(error)) from None
    if config.score.policy in ELSEWHERE:
        settings = config.score.model_copy(update={"policy": "mutual-information"})
        config = config.model_copy(update={"score": settings})
    return _scored(frames, row["fps"] or 0.0, first, table, config)


def _frames(path: str, numbers: Sequence[int], config: ExperimentConfig) -> NDArray[np.uint8]:
    settings = config.extract
    with clips.Reader(path, settings.max_window_mb << 20, settings.read_timeout) as reader:
        return reader.take(numbers)


def _refused(path: str, error: ValueError) -> UsageError:
    message = str(error)
    return UsageError(message if path in message else f"clip '{path}': {message}")


def _scored(frames: NDArray[np.uint8], fps: float, first: int, table: pa.Table, config: ExperimentConfig) -> Window:
    # Scored again rather than read from the store, which does not keep the whole matrix of mutual information.
    scored = window_scores.score_trajectories(table, config.score)
    clip, number = (table[name][0].as_py() for name in ("clip_id", "window"))
    columns = {name: arrays(table, name) for name in ("position", "visible", "camera")}
    crops, crop_frames = extract.crops_of(table)
    texture = table["texture"].to_numpy()
    return Window(
        clip, number, config, frames, fps, first, **columns,
        crops=crops, crop_frames=crop_frames, texture=texture, scored=scored,
    )  # fmt: skip


def draw(window: Window) -> dict[str, Figure]:
    """Pictures of a window, by name: `tracks`, `mutual-information`, `twins`, `reasons`."""
    scored, mi, p = window.scored, window.mutual_information, window.p_values
    twins = scored.twins
    position = pictures.bridged(window.position[..., :2], window.visible)
    return {
        "tracks": pictures.draw_tracks(
            window.frames[0],
            position,
            window.visible,
            window.camera,
            scored.spread,
            twins.reason,
            twins.index,
            scored.of_twin(scored.strength),
            np.array(window.doubts, dtype=object) != "",
        ),
        "mutual-information": pictures.draw_mutual_information(
            mi, p, twins.index, None if p is None else twins.significant
        ),
        "twins": pictures.draw_twins(window.images, twins.index, scored.of_twin(mi), scored.of_twin(p), window.later),
        "reasons": figures.draw_reasons(window.reasons),
    }


def movie(window: Window) -> animation.Movie:
    """The window as `animation.save` takes it."""
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
