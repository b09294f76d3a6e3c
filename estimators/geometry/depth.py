"""A third coordinate for tracked points: the depth under each of them, made comparable from frame to frame.

Networks that see one frame at a time predict inverse depth up to a scale and a shift that differ from frame to frame
(Ranftl et al. 2020, "Towards Robust Monocular Depth Estimation", sec. 5). Left in, they would move all points of a
frame at once, and mutual information would find a motion that all patches share and nothing in the scene performs.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.geometry import depth_models

Floats = NDArray[np.float32]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A pixel farther from its 3 x 3 pixels' median than this share of their range is on the other side of an edge.
_SAME_SIDE = 0.6
# Fewer points than this say nothing reliable about a scale and a shift.
_ENOUGH = 4
# As many points, evenly spread over the scene's depth, take part in the robust start: their pairs are all looked at.
_PAIRED = 160
# Rounds of frames against reference, and of reweighting in each: more change nothing that can be seen.
_ROUNDS, _REWEIGHTINGS = 5, 4
# Tukey's biweight gives no weight beyond this many standard deviations: 95 % efficient on normal noise.
_TUKEY = 4.685
# A point whose median distance from its reference exceeds that of the median point by this factor moves on its own.
_CALM = 2.0
# A difference below this share of the values is one of rounding: depth comes as f32.
_ROUNDING = 1e-6
# A scale is believed where the scene's depth stands out of the noise by at least this much.
_SIGNAL = 2.0


def depth_maps(source: str, frames: NDArray[np.uint8], *, first: int = 0, clip: str | Path | None = None) -> Floats:
    """Get a depth map for every frame of a window: f32[T, H', W'], larger is nearer for a network, NaN where unknown.

    Args:
        source: the setting `extract.depth`. `midas:CHECKPOINT.pt`, a DPT network of MiDaS (`depth_models.midas`);
            `FILE.onnx`, a network that takes RGB from 0 to 1, as MiDaS's published files do, or `imagenet:FILE.onnx`,
            one that wants ImageNet's mean and deviation taken out (`depth_models.onnx`); or a folder of maps
            (`depth_models.stored_maps`) of inverse depth, or of depth, as `align_depth` needs no more than that each
            frame's values are one scale and one shift away from those of the others.
        frames: u8[T, H, W, 3] RGB.
        first: number of the first frame in the clip; counts for a folder.
        clip: path of the clip; needed for a folder.

    Raises:
        ValueError: the source is none of these, or cannot be read or run.
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
        return depth_models.stored_maps(Path(source), Path(clip), first, len(frames))
    else:
        raise ValueError(
            f"extract.depth {source!r} is no source of depth; give midas:CHECKPOINT.pt, FILE.onnx, imagenet:FILE.onnx "
            "or a folder that exists"
        )
    return np.stack([network(frame) for frame in frames])


def depth_at(maps: Floats, position: ArrayLike, visible: Mask, frame_size: tuple[int, int]) -> Floats:
    """Read the depth under every point: f32[N, T], NaN where it is not visible or its depth is unknown.

    It is bilinear between those of the nearest pixels of the map that lie on the point's side of an edge, which is the
    side of the median of the 3 x 3 pixels around it: at the edge of an object a mean of front and back would be the
    depth of neither, and jitter as the point does. Holes of the map are passed over where one of the nine is known.

    Args:
        maps: f32[T, H', W'], NaN where unknown, of any size: map and frame cover the same view, edge to edge.
        position: f32[N, T, 2], pixels (x, y) of the frame, the centre of its top-left pixel at (0, 0).
        visible: bool[N, T].
        frame_size: (height, width) of the frame, pixels.

    Raises:
        ValueError: arrays that do not belong together.
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
    # The corners of a slope lie within half of the range of the nine, the other side of an edge does not.
    low, high = (limit(np.where(known, value, middle[..., None]), axis=2) for limit in (np.min, np.max))
    near = known & (far <= _SAME_SIDE * (high - low)[..., None])
    weight = near * np.maximum(1 - np.abs(tap - inside), 0).prod(axis=3)
    total = weight.sum(axis=2)
    mean = (weight * np.where(known, value, 0.0)).sum(axis=2) / np.where(total > 0, total, 1.0)
    return np.where(seen, np.where(total > 0, mean, middle), np.nan).astype(np.float32)


def align_depth(depth: ArrayLike, visible: ArrayLike, background: ArrayLike | None = None) -> Floats:
    """Remove every frame's own scale and shift from the depth of points: f32[N, T], unitless, NaN where unknown.

    Each frame t is taken to show d[n, t] = s_t · r[n] + o_t for the points n of the background, where r is a depth of
    their own that they keep through the window. r is the median over the frames of (d − o_t) / s_t, so that no single
    frame's noise and no late start of a point matters; s_t and o_t are regressed on r, from repeated medians (Siegel
    1982) through Tukey's biweight, which leave out up to nearly half of the points, those that truly move; in turns.
    What remains of a mover is its motion. At last the median of r becomes 0 and the range of its middle 90 % becomes 1:
    0.02 is 2 % of the scene's depth.

    Values may be of inverse depth or depth, but their frames must be a scale above 0 and a shift apart. The result does
    not change when a frame's values do so.

    Args:
        depth: f[N, T], as `depth_at` returns it; NaN where unknown.
        visible: bool[N, T].
        background: bool[N, T] or bool[N], which points are known not to move on their own; all by default. In a frame
            that shows fewer than 4 of them all points are used.

    A frame in which the scene's depth does not stand out of the noise, a wall seen from the front, keeps the scale of
    its values' own spread; one with fewer than 4 known points, or all at one depth, takes the median scale of the other
    frames; their shift is the median one. Where all points have one depth, the result is 0.

    Raises:
        ValueError: arrays that do not belong together.
    """
    values, seen = np.asarray(depth, np.float64), np.asarray(visible, bool)
    still = np.ones_like(seen) if background is None else np.asarray(background, bool)
    still = still[:, None] if still.ndim == 1 else still
    if values.ndim != 2 or seen.shape != values.shape or still.shape not in (values.shape, (len(values), 1)):
        raise ValueError(
            f"depth f[N, T], visible bool[N, T] and background bool[N, T] must belong together, not "
            f"{list(values.shape)}, {list(seen.shape)} and {list(still.shape)}"
        )
    values = np.where(seen & np.isfinite(values), values, np.nan)
    if not np.isfinite(values).any():
        return values.astype(np.float32)
    chosen = still & np.isfinite(values)
    chosen = np.where(chosen.sum(axis=0) >= _ENOUGH, chosen, np.isfinite(values))
    used = np.where(chosen, values, np.nan)
    scale, shift = _own_scale(used)
    start = scale
    for turn in range(_ROUNDS):
        reference = _median((used - shift) / scale)
        # From the third round on, the last round's fit is as good a start, and costs nothing.
        if turn < 2:
            scale, shift = _repeated_medians(used, reference)
        calm = _calm(used, reference, scale, shift)
        scale, shift = _biweight(calm, reference, scale, shift)
        scale, shift = _believed(calm, reference, scale, shift, start)
    aligned = (values - shift) / scale
    reference = _median((used - shift) / scale)
    reference = reference[np.isfinite(reference)]
    low, high = np.quantile(reference, (0.05, 0.95))
    unit = high - low if high - low > _ROUNDING * max(abs(low), abs(high)) else 1.0
    return ((aligned - np.median(reference)) / unit).astype(np.float32)


def _own_scale(values: Float) -> tuple[Float, Float]:
    """First guess of every frame's scale and shift, f64[T] each: the spread of its values, and their median."""
    shift = _median(values.T)
    spread = np.abs(values - shift)
    count = np.isfinite(values).sum(axis=0)
    scale = np.nansum(spread, axis=0) / np.maximum(count, 1)
    largest = np.nanmax(np.abs(values), axis=0, initial=0.0)
    told = (count >= _ENOUGH) & (scale > _ROUNDING * largest)
    return np.where(told, scale, np.median(scale[told]) if told.any() else 1.0), np.nan_to_num(shift)


def _repeated_medians(values: Float, reference: Float) -> tuple[Float, Float]:
    """Scale and shift by which each frame's values follow the reference, f64[T] each (Siegel 1982); NaN if unknown."""
    order = np.argsort(reference)[: int(np.isfinite(reference).sum())]
    taken = order[np.linspace(0, len(order) - 1, min(len(order), _PAIRED)).round().astype(int)]
    run = reference[taken, None] - reference[taken]
    rise = values[taken].T[:, :, None] - values[taken].T[:, None, :]
    slope = np.divide(rise, run, out=np.full_like(rise, np.nan), where=run != 0)
    scale = _median(_median(slope))
    return scale, _median((values - scale * reference[:, None]).T)


def _biweight(values: Float, reference: Float, scale: Float, shift: Float) -> tuple[Float, Float]:
    """Refine scale and shift, f64[T] each, by least squares with the weights of Tukey's biweight."""
    known = np.isfinite(values)
    r = np.where(known, reference[:, None], 0.0)
    d = np.where(known, values, 0.0)
    for _ in range(_REWEIGHTINGS):
        miss = values - scale * reference[:, None] - shift
        limit = np.maximum(_TUKEY * _deviation(miss), _ROUNDING * (np.abs(shift) + np.abs(scale)))
        with np.errstate(divide="ignore", invalid="ignore"):  # Where nothing is known or all is equal.
            weight = np.where(known, 1 - np.minimum(np.abs(miss) / limit, 1.0) ** 2, 0.0) ** 2
            total = weight.sum(axis=0)
            mean_r, mean_d = (weight * r).sum(axis=0) / total, (weight * d).sum(axis=0) / total
            slope = (weight * (r - mean_r) * (d - mean_d)).sum(axis=0) / (weight * (r - mean_r) ** 2).sum(axis=0)
        fits = np.isfinite(slope)
        scale = np.where(fits, slope, scale)
        shift = np.where(fits, mean_d - slope * mean_r, shift)
    return scale, shift


def _believed(values: Float, reference: Float, scale: Float, shift: Float, start: Float) -> tuple[Float, Float]:
    """Replace the scales that the values do not bear out, f64[T], and the shifts that belong to them."""
    known = np.isfinite(values)
    enough = known.sum(axis=0) >= _ENOUGH
    r = np.where(known, reference[:, None], np.nan)
    noise = _deviation(values - scale * r - shift)
    spread = _deviation(r)
    good = enough & (scale * spread > _SIGNAL * noise)
    rest = np.median(scale[good]) if good.any() else np.median(start)
    new = np.where(good, scale, np.where(enough, start, rest))
    middle = np.nan_to_num(_median((values - new * r).T))
    return new, np.where(good, shift, middle)


def _calm(values: Float, reference: Float, scale: Float, shift: Float) -> Float:
    """Leave out, as NaN, the points that keep away from their reference through the window, by which movers give away.

    In a single frame a slow mover is easily taken for background. A frame that would keep too few points keeps all.
    """
    away = _median(np.abs((values - shift) / scale - reference[:, None]))
    limit = max(_CALM * _median(away), _ROUNDING * np.nanmax(np.abs(reference), initial=0.0))
    calm = (away <= limit)[:, None] & np.isfinite(values)
    return np.where(calm | (calm.sum(axis=0) < _ENOUGH), values, np.nan)


def _deviation(values: Float) -> Float:
    """Standard deviation of each frame's values f64[N, T] by their median absolute deviation, f64[T]."""
    return 1.4826 * _median(np.abs(values - _median(values.T)).T)


def _median(values: Float) -> Float:
    """Median over the last axis of the values that are not NaN; NaN where there are none."""
    count = np.isfinite(values).sum(axis=-1, keepdims=True)
    middle = np.sort(values, axis=-1)  # NaN comes last.
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[-1] - 1)
    both = np.take_along_axis(middle, low, -1) + np.take_along_axis(middle, high, -1)
    return (both / 2)[..., 0]
