"""A third coordinate of tracked points: their depth, aligned from frame to frame.

Networks that see one frame at a time predict inverse depth up to a scale and a shift that differ from frame to frame
(Ranftl et al. 2020, "Towards Robust Monocular Depth Estimation", sec. 5). Unless they are
removed, they move all points of a frame at once, and mutual information detects a motion that is not in the scene.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.geometry import depth_models

Floats = NDArray[np.float32]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A pixel that differs from the median of its 3 x 3 pixels by more than this share of their range is across an edge.
_SAME_SIDE = 0.6
# Fewer points than this do not determine a scale and a shift reliably.
_ENOUGH = 4
# The robust start compares all pairs of this many points, evenly spread over the scene's depth.
_PAIRED = 160
# Rounds of fitting frames and reference in turns, and of reweighting in each; more do not change the result.
_ROUNDS, _REWEIGHTINGS = 5, 4
# Tukey's biweight is 0 beyond this many standard deviations; 95 % efficiency for normal noise.
_TUKEY = 4.685
# A point moves on its own if its median distance from its reference is this many times that of the median point.
_CALM = 2.0
# A difference below this share of the values is rounding, because depth is f32.
_ROUNDING = 1e-6
# A scale is used if the spread of the scene's depth is at least this many times the noise.
_SIGNAL = 2.0


def depth_maps(
    source: str,
    frames: NDArray[np.uint8],
    *,
    numbers: Sequence[int] | None = None,
    clip: str | Path | None = None,
) -> Floats:
    """Get a depth map for every frame of a window: f32[T, H', W'], NaN where unknown; networks give larger for nearer.

    Args:
        source: the setting `extract.depth`. `midas:CHECKPOINT.pt`, a DPT network of MiDaS (`depth_models.midas`);
            `FILE.onnx`, a network that takes RGB from 0 to 1, as MiDaS's published files do, or `imagenet:FILE.onnx`,
            one that expects inputs normalised by ImageNet's mean and deviation (`depth_models.onnx`); or a folder of
            maps (`depth_models.stored_maps`) of depth or inverse depth; `align_depth` requires only that the values
            of two frames differ by one scale and one shift.
        frames: u8[T, H, W, 3] RGB.
        numbers: of the frames in the clip, T of them; used for a folder. None: the clip's first T.
        clip: path of the clip; required for a folder.

    Raises:
        ValueError: the source is not one of these, or cannot be read or run.
    """
    kind, _, file = source.partition(":")
    if kind == "midas" and file:
        network = depth_models.midas(file)
    elif kind == "imagenet" and file:
        network = depth_models.onnx(file, imagenet=True)
    elif source.lower().endswith(".onnx"):
        network = depth_models.onnx(source)
    elif source and Path(source).is_dir():
        if clip is None:
            raise ValueError(f"depth maps from the folder {source} need the path of their clip; give it")
        return depth_models.stored_maps(Path(source), Path(clip), range(len(frames)) if numbers is None else numbers)
    else:
        raise ValueError(
            f"extract.depth {source!r} is not a source of depth; give midas:CHECKPOINT.pt, FILE.onnx, "
            "imagenet:FILE.onnx or a folder that exists"
        )
    return np.stack([network(frame) for frame in frames])


def depth_at(maps: Floats, position: ArrayLike, visible: Mask, frame_size: tuple[int, int]) -> Floats:
    """Read the depth at every point: f32[N, T], NaN where the point is not visible or its depth is unknown.

    Depth is interpolated bilinearly between the nearest pixels on the point's side of an edge. Its side is that of the
    median of the 3 x 3 pixels around it. At the edge of an object the mean of front and back would be the depth of
    neither, and would jitter with the point. Unknown pixels are ignored if one of the nine is known.

    Args:
        maps: f32[T, H', W'], NaN where unknown, of any size; maps and frames cover the same view, edge to edge.
        position: f32[N, T, 2], pixels (x, y) of the frame, the centre of its top-left pixel at (0, 0).
        visible: bool[N, T].
        frame_size: (height, width) of the frame, pixels.

    Raises:
        ValueError: the shapes of the arrays do not match.
    """
    at, seen = np.asarray(position, np.float64), np.asarray(visible, bool)
    if maps.ndim != 3 or at.shape != (*seen.shape, 2) or len(maps) != seen.shape[1]:
        raise ValueError(
            f"maps f32[T, H, W], position f32[N, T, 2] and visible bool[N, T] must belong together, not "
            f"{list(maps.shape)}, {list(at.shape)} and {list(seen.shape)}"
        )
    size = np.array(maps.shape[:0:-1])
    inside = np.clip((at + 0.5) * (size / np.array(frame_size[::-1])) - 0.5, 0, size - 1)
    seen = seen & np.isfinite(inside).all(axis=2)
    inside = np.where(seen[..., None], inside, 0.0)[:, :, None, :]
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(9, 2)
    tap = np.rint(inside).astype(np.int64) + around
    x, y = np.moveaxis(np.clip(tap, 0, size - 1), -1, 0)
    value = maps[np.arange(len(maps))[None, :, None], y, x].astype(np.float64)
    known = np.isfinite(value)
    middle = _median(np.where(known, value, np.nan))
    far = np.abs(np.where(known, value, middle[..., None]) - middle[..., None])
    # On a slope even the corners differ from the median by half of the range; across an edge they differ by more.
    low, high = (limit(np.where(known, value, middle[..., None]), axis=2) for limit in (np.min, np.max))
    near = known & (far <= _SAME_SIDE * (high - low)[..., None])
    weight = near * np.maximum(1 - np.abs(tap - inside), 0).prod(axis=3)
    total = weight.sum(axis=2)
    mean = (weight * np.where(known, value, 0.0)).sum(axis=2) / np.where(total > 0, total, 1.0)
    return np.where(seen, np.where(total > 0, mean, middle), np.nan).astype(np.float32)


def align_depth(depth: ArrayLike, visible: ArrayLike, background: ArrayLike | None = None) -> Floats:
    """Remove each frame's scale and shift from the depth of points: f32[N, T], unitless, NaN where unknown.

    The model is d[n, t] = s_t · r[n] + o_t for background points n, whose reference depth r is constant in the window.
    Two steps alternate:

    - r is the median over the frames of (d − o_t) / s_t, robust to noisy frames and to points that appear late;
    - s_t and o_t are regressed on r, by repeated medians (Siegel 1982) and then Tukey's biweight, which are robust to
      moving points, up to nearly half of all.

    The motion of moving points remains. Finally the median of r is set to 0 and the range of its middle 90 % to 1, so
    that 0.02 is 2 % of the scene's depth. The result does not change if a frame's values are scaled (by a factor above
    0) and shifted.

    Args:
        depth: f[N, T] from `depth_at`, depth or inverse depth; NaN where unknown.
        visible: bool[N, T].
        background: bool[N, T] or bool[N], points that do not move on their own; by default all. A frame that shows
            fewer than 4 of them uses all points.

    Special cases: a frame whose depth does not exceed the noise (a wall seen from the front) is scaled by the spread of
    its own values. One with fewer than 4 known points, or with all at one depth, gets the median scale of the other
    frames. Both get the median shift. If all points have one depth, the result is 0.

    Raises:
        ValueError: the shapes of the arrays do not match.
    """
    values, seen = np.asarray(depth, np.float64), np.asarray(visible, bool)
    static = np.ones_like(seen) if background is None else np.asarray(background, bool)
    static = static[:, None] if static.ndim == 1 else static
    if values.ndim != 2 or seen.shape != values.shape or static.shape not in (values.shape, (len(values), 1)):
        raise ValueError(
            f"depth f[N, T], visible bool[N, T] and background bool[N, T] must belong together, not "
            f"{list(values.shape)}, {list(seen.shape)} and {list(static.shape)}"
        )
    values = np.where(seen & np.isfinite(values), values, np.nan)
    if not np.isfinite(values).any():
        return values.astype(np.float32)
    chosen = static & np.isfinite(values)
    chosen = np.where(chosen.sum(axis=0) >= _ENOUGH, chosen, np.isfinite(values))
    used = np.where(chosen, values, np.nan)
    scale, shift = _own_scale(used)
    start = scale
    for turn in range(_ROUNDS):
        reference = _median((used - shift) / scale)
        # From the third round on, the fit of the last round is an equally good start.
        if turn < 2:
            scale, shift = _repeated_medians(used, reference)
        static_values = _without_movers(used, reference, scale, shift)
        scale, shift = _biweight(static_values, reference, scale, shift)
        scale, shift = _with_fallbacks(static_values, reference, scale, shift, start)
    aligned = (values - shift) / scale
    reference = _median((used - shift) / scale)
    reference = reference[np.isfinite(reference)]
    low, high = np.quantile(reference, (0.05, 0.95))
    unit = high - low if high - low > _ROUNDING * max(abs(low), abs(high)) else 1.0
    return ((aligned - np.median(reference)) / unit).astype(np.float32)


def _own_scale(values: Float) -> tuple[Float, Float]:
    """Guess each frame's scale and shift, f64[T] each: the mean absolute deviation and the median of its values."""
    shift = _median(values.T)
    spread = np.abs(values - shift)
    count = np.isfinite(values).sum(axis=0)
    scale = np.nansum(spread, axis=0) / np.maximum(count, 1)
    largest = np.nanmax(np.abs(values), axis=0, initial=0.0)
    valid = (count >= _ENOUGH) & (scale > _ROUNDING * largest)
    return np.where(valid, scale, np.median(scale[valid]) if valid.any() else 1.0), np.nan_to_num(shift)


def _repeated_medians(values: Float, reference: Float) -> tuple[Float, Float]:
    """Regress each frame's values on the reference (Siegel 1982): scale and shift, f64[T] each; NaN if unknown."""
    order = np.argsort(reference)[: int(np.isfinite(reference).sum())]
    paired = order[np.linspace(0, len(order) - 1, min(len(order), _PAIRED)).round().astype(int)]
    run = reference[paired, None] - reference[paired]
    rise = values[paired].T[:, :, None] - values[paired].T[:, None, :]
    slope = np.divide(rise, run, out=np.full_like(rise, np.nan), where=run != 0)
    scale = _median(_median(slope))
    return scale, _median((values - scale * reference[:, None]).T)


def _biweight(values: Float, reference: Float, scale: Float, shift: Float) -> tuple[Float, Float]:
    """Refine scale and shift, f64[T] each, by least squares with the weights of Tukey's biweight."""
    known = np.isfinite(values)
    r = np.where(known, reference[:, None], 0.0)
    d = np.where(known, values, 0.0)
    for _ in range(_REWEIGHTINGS):
        residual = values - scale * reference[:, None] - shift
        limit = np.maximum(_TUKEY * _deviation(residual), _ROUNDING * (np.abs(shift) + np.abs(scale)))
        with np.errstate(divide="ignore", invalid="ignore"):  # frames without known points, or with all equal
            weight = np.where(known, 1 - np.minimum(np.abs(residual) / limit, 1.0) ** 2, 0.0) ** 2
            total = weight.sum(axis=0)
            mean_r, mean_d = (weight * r).sum(axis=0) / total, (weight * d).sum(axis=0) / total
            slope = (weight * (r - mean_r) * (d - mean_d)).sum(axis=0) / (weight * (r - mean_r) ** 2).sum(axis=0)
        fits = np.isfinite(slope)
        scale = np.where(fits, slope, scale)
        shift = np.where(fits, mean_d - slope * mean_r, shift)
    return scale, shift


def _with_fallbacks(values: Float, reference: Float, scale: Float, shift: Float, start: Float) -> tuple[Float, Float]:
    """Replace the scales, f64[T], of frames that do not determine them, and the shifts of these frames."""
    known = np.isfinite(values)
    enough = known.sum(axis=0) >= _ENOUGH
    r = np.where(known, reference[:, None], np.nan)
    noise = _deviation(values - scale * r - shift)
    spread = _deviation(r)
    good = enough & (scale * spread > _SIGNAL * noise)
    usual = np.median(scale[good]) if good.any() else np.median(start)
    new = np.where(good, scale, np.where(enough, start, usual))
    middle = np.nan_to_num(_median((values - new * r).T))
    return new, np.where(good, shift, middle)


def _without_movers(values: Float, reference: Float, scale: Float, shift: Float) -> Float:
    """Set points to NaN that stay away from their reference through the window: these move on their own.

    A single frame does not tell a slow mover from background. A frame that would keep too few points keeps all.
    """
    away = _median(np.abs((values - shift) / scale - reference[:, None]))
    limit = max(_CALM * _median(away), _ROUNDING * np.nanmax(np.abs(reference), initial=0.0))
    static = (away <= limit)[:, None] & np.isfinite(values)
    return np.where(static | (static.sum(axis=0) < _ENOUGH), values, np.nan)


def _deviation(values: Float) -> Float:
    """Estimate the standard deviation of each frame's values f64[N, T] from their median absolute deviation: f64[T]."""
    return 1.4826 * _median(np.abs(values - _median(values.T)).T)


def _median(values: Float) -> Float:
    """Median over the last axis, ignoring NaN; NaN where all are."""
    count = np.isfinite(values).sum(axis=-1, keepdims=True)
    middle = np.sort(values, axis=-1)  # NaN is sorted last
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[-1] - 1)
    both = np.take_along_axis(middle, low, -1) + np.take_along_axis(middle, high, -1)
    return (both / 2)[..., 0]
