"""From the trajectories of one window to mutual information and twins."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infoaug.estimators.geometry import parallax
from infoaug.estimators.information import (
    entropy,
    gaussian,
    lighting,
    motion,
    mutual_information,
    significance,
    ties,
    twins,
)
from infoaug.estimators.video.patches import LEAST_TEXTURE
from infoaug.orchestrator.config import ScoreConfig
from infoaug.orchestrator.runtime.store import arrays, digest_of
from infoaug.orchestrator.stages.twin_table import ScoredWindow


def score_window(
    position: NDArray[np.float32],
    camera: NDArray[np.float32],
    visible: NDArray[np.bool_],
    settings: ScoreConfig,
    seed: int = 0,
    colour: NDArray[np.float32] | None = None,
    texture: NDArray[np.float32] | None = None,
    objects: NDArray[np.int32] | None = None,
) -> ScoredWindow:
    """Estimate the mutual information of a window's patches and choose their twins.

    Args:
        position: f32[N, T, 2 or 3] pixels; the third coordinate, depth, as a share of the scene's depth.
        camera: f32[N, T, 2] pixels, the trajectories that the camera's motion alone would cause.
        visible: bool[N, T].
        settings: of the score stage.
        seed: of the noise that breaks ties, of the surrogates and of the random policy (docs/method.md says why one
            seed is enough).
        colour: f32[N, T, 3] in 0–1; needed if `settings.trajectory` is `colour` or `both`.
        texture: f32[N], see `patches.point_texture`; None: all points have enough.
        objects: int32[N], what each patch is on, for the policy `oracle`.

    Raises:
        ValueError: colour or objects are needed and missing, or twins of the policy are of other windows.
    """
    residual = _scored_trajectory(position, camera, visible, colour, settings)
    steps, seen = motion.displacement(residual, visible)
    spread, content = motion.spread(residual, visible), _entropies(steps, seen, settings)
    excluded = _exclusions(position, camera, visible, residual, content, texture, settings)
    moving = np.flatnonzero(excluded == "")
    spread_out = partial(_spread_out, chosen=moving, count=len(position))
    among, tested = _dependence(residual[moving], position[moving, :, :2], visible[moving], camera, settings, seed)
    mi, p_values = spread_out(among), None if tested is None else spread_out(tested)
    alike, strength = gaussian.correlation(steps, seen), mi
    if settings.rank == "gaussian":
        given = np.median(camera, axis=0) if settings.camera == "condition" else None
        free = steps if given is None else gaussian.without(steps, seen, np.diff(given, axis=0))
        strength = spread_out(gaussian.mutual_information(free[moving], seen[moving]))
    chosen = twins.find_twins(
        mi,
        p_values=p_values,
        position=position[:, 0, :2],
        rank=strength,
        mutual=settings.mutual,
        policy=settings.policy,
        correlation=alike,
        objects=objects,
        alpha=settings.alpha,
        min_distance=settings.min_distance,
        candidates=settings.candidates,
        excluded=excluded.tolist(),
        seed=seed,
    )
    return ScoredWindow(mi, p_values, strength, alike, residual, spread, content, ties.tied(steps, seen), chosen)


def _entropies(steps: NDArray[np.float64], seen: NDArray[np.bool_], settings: ScoreConfig) -> NDArray[np.float64]:
    """The entropy of each patch's displacements: f64[N] nats, NaN for a patch that is lost."""
    content = np.full(len(steps), np.nan)
    for patch in np.flatnonzero(seen.sum(1) >= max(settings.min_frames - 1, settings.k + 1)):
        content[patch] = entropy.entropy(steps[patch, seen[patch]], k=settings.k)
    return content


def _exclusions(
    position: NDArray[np.float32],
    camera: NDArray[np.float32],
    visible: NDArray[np.bool_],
    residual: NDArray[np.float64],
    content: NDArray[np.float64],
    texture: NDArray[np.float32] | None,
    settings: ScoreConfig,
) -> NDArray[np.str_]:
    """Why each patch can neither have nor be a twin: N texts, empty if it can. Arguments as in `score_window`."""
    lost = np.isnan(content)
    on_screen = motion.kept_on_screen(position, camera, visible, settings.min_spread)
    textureless = np.zeros_like(lost) if texture is None else texture < LEAST_TEXTURE
    static = on_screen | (motion.spread(residual, visible) < settings.min_spread)
    if settings.min_entropy is not None:
        static |= content < settings.min_entropy
    if settings.camera == "subtract" and settings.trajectory == "position" and (camera != camera[:, :1]).any():
        usable = ~(lost | on_screen | textureless)
        static |= parallax.still_scene(residual[..., :2], visible, usable, settings.min_spread)
    return np.select([lost, static, textureless], ["lost", "static", "textureless"], "")


def _dependence(
    residual: NDArray[np.float64],
    points: NDArray[np.float32],
    visible: NDArray[np.bool_],
    camera: NDArray[np.float32],
    settings: ScoreConfig,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Mutual information of the M patches that move, and its p-values, if surrogates are asked for.

    Args:
        residual: f64[M, T, d], the trajectories that are scored.
        points: f32[M, T, 2] pixels, the tracked points.
        visible: bool[M, T].
        camera: f32[N, T, 2], of all patches.
        settings: of the score stage.
        seed: see `score_window`.

    Returns:
        f64[M, M] nats, and f64[M, M] or None; NaN for pairs with too few common samples.
    """
    steps, seen = motion.displacement(residual, visible)
    needed = settings.min_frames - 1  # displacements
    pace = motion.pace(residual, points, visible=visible)
    path = motion.evenly_paced(residual, visible, pace)
    block = motion.block_size(path, visible) if settings.samples == "innovations" else 1
    white, known = motion.samples(path, visible, settings.noise, kind=settings.samples, block=block)
    # Averaging over blocks and fitting an autoregression leave fewer samples than displacements. A pair must have
    # half of what `min_frames` asks for, in proportion to the samples that are left.
    least = needed * white.shape[1] // (2 * steps.shape[1])
    few = seen.astype(int) @ seen.T.astype(int) < needed
    options: dict[str, Any] = {"estimator": settings.estimator, "k": settings.k, "theiler": settings.theiler}
    options |= {"backend": settings.backend, "min_samples": least, "seed": seed}
    if settings.camera == "condition":
        steady = motion.evenly_paced(camera, np.ones(camera.shape[:2], bool), pace)
        options["condition_on"] = _camera_samples(steady, settings, block)
    among = mutual_information.pairwise_mutual_information(white, visible=known, **options)
    among[few] = np.nan
    if not settings.surrogates:
        return among, None
    if settings.samples == "innovations":
        options |= {"method": "circular-shift", "mutual_information_matrix": among}
    p_values = significance.p_values(white, visible=known, surrogates=settings.surrogates, **options)
    return among, np.where(few, np.nan, p_values)


def score_trajectories(table: pa.Table, settings: ScoreConfig) -> ScoredWindow:
    """`score_window` for a window's trajectories as they are stored, with the window's own seed."""
    position, camera, visible, colour = (arrays(table, name) for name in ("position", "camera", "visible", "colour"))
    texture = table["texture"].to_numpy()
    return score_window(position, camera, visible, settings, own_seed(table, settings), colour, texture)


def own_seed(table: pa.Table, settings: ScoreConfig, draw: int = 0) -> int:
    """A seed that depends on the window and not on the order in which windows are scored."""
    key = table.select(["clip_id", "window"]).slice(0, 1).to_pylist()[0]
    return int(digest_of([settings.seed, *key.values(), *([draw] if draw else [])], 8), 16)


def _camera_samples(camera: NDArray[np.float64], settings: ScoreConfig, block: int) -> NDArray[np.float64]:
    """Samples of the camera's motion, f64[S, 2], at the median patch, to condition on."""
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
    """The trajectories to score, f64[N, T, d], scaled so that the noise of every coordinate is the tracker's."""
    parts = []
    if settings.trajectory in ("position", "both"):
        path = motion.residual(position, camera) if settings.camera == "subtract" else position.astype(np.float64)
        path[..., 2:] *= settings.noise / settings.depth_noise
        parts.append(path)
    if settings.trajectory in ("colour", "both"):
        if colour is None:
            raise ValueError(f"score.trajectory is '{settings.trajectory}', which needs colour")
        shade = colour.astype(np.float64)
        if settings.remove_lighting:
            shade = lighting.without_lighting(colour, visible, position[..., 1])
        parts.append(shade * (settings.noise / settings.colour_noise))
    return np.concatenate(parts, axis=-1)


def _spread_out(among: NDArray[np.float64], chosen: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """A matrix over the chosen patches as a matrix over all patches, NaN elsewhere."""
    matrix = np.full((count, count), np.nan)
    matrix[np.ix_(chosen, chosen)] = among
    return matrix
