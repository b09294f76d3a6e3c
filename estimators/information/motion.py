"""From trajectories to the samples that are compared.

Camera motion and changes of light are removed, and steps over dropped frames shortened; frames are averaged in blocks,
displacements taken, their autocorrelation and the gain of each frame removed, and the result whitened. `samples` does
the steps from the blocks on.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

KINDS = ("innovations", "displacements", "positions")

# `block_size`: sizes to choose from, frames; largest share of jitter in the variance of the displacements; smallest
# number of displacements between blocks.
_BLOCKS, _NOISE_SHARE, _LEAST = (1, 2, 4, 8), 0.1, 24
# `kept_on_screen`: the largest spread of a coordinate that stays where it is, and the smallest of the camera's, as
# multiples of the spread of a static trajectory.
_STAYS, _PASSES = 0.5, 2.0
# `innovations`: the largest order of the autoregression, and how many samples each order needs.
_ORDER, _SAMPLES_PER_ORDER = 4, 10
# `pace`: frames on either side, smallest ratio and how far it stands out, smallest usual coefficient, rounds.
_REACH, _LONGER, _STANDS_OUT, _SMOOTH, _PACE_ROUNDS = 3, 1.5, 3.0, 0.2, 3
# `without_gain`: a smaller length, in units of the usual one, says no more.
_LEAST_LENGTH = 0.05


def residual(position: ArrayLike, camera: ArrayLike) -> Float:
    """Trajectories without camera motion: where each point would be if the camera had not moved.

    Args:
        position: [N, T, 2 or 3] pixels; a third coordinate, depth, is unchanged.
        camera: [N, T, 2] pixels, where camera motion alone would have moved each point from the same start.

    Returns:
        f64[N, T, 2 or 3], the start plus the motion that the camera does not explain.
    """
    moved = np.array(position, dtype=np.float64)
    path = np.asarray(camera, dtype=np.float64)
    moved[..., :2] -= path - path[:, :1]
    return moved


def displacement(trajectory: ArrayLike, visible: ArrayLike) -> tuple[Float, Mask]:
    """Frame-to-frame displacements. Unlike positions, they do not make slow independent drifts look dependent.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, T−1, d], 0 where not visible, and bool[N, T−1], True where both frames of a displacement are visible.
    """
    seen = np.asarray(visible, bool)
    both = seen[:, 1:] & seen[:, :-1]
    return np.where(both[..., None], np.diff(np.asarray(trajectory, np.float64), axis=1), 0.0), both


def block_means(trajectory: ArrayLike, visible: ArrayLike, size: int) -> tuple[Float, Mask]:
    """Trajectories averaged over consecutive blocks of frames, which reduces the tracker's jitter.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].
        size: frames of a block, ≥ 1; an incomplete last block is dropped.

    Returns:
        f64[N, T // size, d], 0 where not visible, and bool[N, T // size], True where all frames of the block are.

    Raises:
        ValueError: size < 1.
    """
    if size < 1:
        raise ValueError(f"a block must have at least 1 frame, got {size}")
    x, seen = np.asarray(trajectory, np.float64), np.asarray(visible, bool)
    count, blocks = len(x), x.shape[1] // size
    whole: Mask = np.all(seen[:, : blocks * size].reshape(count, blocks, size), axis=2)
    mean = x[:, : blocks * size].reshape(count, blocks, size, x.shape[2]).mean(2)
    return np.where(whole[..., None], mean, 0.0), whole


def block_size(trajectory: ArrayLike, visible: ArrayLike) -> int:
    """How many frames to average so that displacements are motion rather than the tracker's jitter.

    Jitter that is independent in every frame enters two consecutive displacements with opposite signs: it lowers
    their autocorrelation at lag 1 and at no other lag. Its share of the variance is estimated as the autocorrelation
    at lag 1 extrapolated from lags 2 and 3, minus the measured one, both as medians over the window's trajectories.

    Only the autocorrelation of single trajectories is used, so the choice does not bias the test of their dependence.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].

    Returns:
        The smallest of 1, 2, 4 and 8 frames with a share of at most a tenth and at least 24 displacements; 1 if no
        size qualifies.
    """
    for size in _BLOCKS:
        steps, seen = displacement(*block_means(trajectory, visible, size))
        if steps.shape[1] < _LEAST or not seen.any():
            break
        one, two, three = (
            float(np.median(_autocorrelation(steps[seen.any(1)], seen[seen.any(1)], n))) for n in (1, 2, 3)
        )
        # The ratio of lags 3 and 2 gives the decay per frame; below 0.7, an oscillation would be taken for jitter.
        # Without autocorrelation at lag 2, only jitter makes lag 1 negative.
        predicted = two / np.clip(three / two, 0.7, 1.0) if two > 0.1 else 0.0
        if predicted - one <= _NOISE_SHARE:
            return size
    return 1


def innovations(samples: ArrayLike, visible: ArrayLike) -> tuple[Float, Mask]:
    """The residuals of an autoregression of each trajectory on its own past.

    x(t) = c + a₁·x(t−1) + … + a_p·x(t−p) + e(t) is fitted by least squares along each principal axis of a trajectory;
    e is returned. The order p is that of smallest AIC (Akaike 1974), at most 4 and at most a tenth of the visible
    samples, the same for all axes.

    Independent trajectories that are smooth, drift or oscillate look dependent because each is autocorrelated; their
    innovations do not. A unit root is handled too: the innovations of a random walk's positions are its steps.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, T, d] in the samples' unit, 0 where not known, and bool[N, T], True where the sample and the p samples
        before it are visible.
    """
    centred, variance, axes = _principal_axes(np.asarray(samples, np.float64), np.asarray(visible, bool))
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))[:, None]
    x, seen = centred @ axes / scale, np.asarray(visible, bool)
    allowed = np.minimum(_ORDER, seen.sum(1) // _SAMPLES_PER_ORDER)
    # AIC compares the orders on the same samples, those that the largest order can predict. The chosen order is then
    # fitted on all samples that it can predict.
    criterion = np.full((_ORDER + 1, len(x)), np.inf)
    for order in range(_ORDER + 1):
        known = _with_past(seen, allowed)
        count = np.maximum(known.sum(1), 1)
        error = (_residuals(x, known, order) ** 2).sum(1) / count[:, None]
        value = (count[:, None] * np.log(np.maximum(error, 1e-12)) + 2 * order).sum(1)
        criterion[order] = np.where(order <= allowed, value, np.inf)
    chosen = criterion.argmin(0) if len(x) else allowed
    kept = _with_past(seen, chosen)
    result = np.zeros_like(x)
    for order in np.unique(chosen):
        rows = chosen == order
        result[rows] = _residuals(x[rows], kept[rows], order)
    return (result * scale) @ np.swapaxes(axes, 1, 2), kept


def pace(*trajectories: ArrayLike, visible: ArrayLike) -> Float:
    """How many times its usual length each step of a window is, because frames before it were dropped.

    A step is compared with the mean of the three before and the three after it, by regression over all trajectories,
    each weighted by the inverse of its variance. Where motion is smooth the usual coefficient is near 1, and that of a
    step over a dropped frame is twice as large. A step counts as longer if it is at least 1.5 times the usual one and
    stands out by three standard errors, both of the regression and of the other steps; a random walk has no such step.

    Args:
        trajectories: each [N, T, d] of the same points: without the camera's motion, with it.
        visible: bool[N, T].

    Returns:
        f64[T−1], 1 for a usual step.
    """
    found = [_pace(*displacement(trajectory, visible)) for trajectory in trajectories]
    ratio, stands_out = (np.stack(part) for part in zip(*found, strict=True))
    clearest = stands_out.argmax(0)[None]
    ratio, stands_out = (np.take_along_axis(part, clearest, 0)[0] for part in (ratio, stands_out))
    return np.where((stands_out > _STANDS_OUT) & (ratio > _LONGER), ratio, 1.0)


def evenly_paced(trajectory: ArrayLike, visible: ArrayLike, pace: ArrayLike) -> Float:
    """Trajectories whose steps are divided by their `pace`: [N, T, d], from 0, at rest where not visible."""
    steps, _ = displacement(trajectory, visible)
    path = np.zeros((steps.shape[0], steps.shape[1] + 1, steps.shape[2]))
    path[:, 1:] = (steps / np.asarray(pace)[:, None]).cumsum(1)
    return path


def without_gain(samples: ArrayLike, visible: ArrayLike) -> Float:
    """Samples divided by the gain of their frame: [N, T, d].

    An error of the camera's motion or a dropped frame moves all patches at once: independent patches then have their
    largest samples in the same frames. The gain of a frame is the geometric mean, over trajectories, of a sample's
    length relative to its trajectory's root mean square. It is shrunk towards 1 by the share of its variance over the
    frames that is explained by the scatter within frames, so that a window of few patches, or without such frames,
    hardly changes.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].
    """
    x, seen = np.asarray(samples, np.float64), np.asarray(visible, bool)
    length = np.linalg.norm(np.where(seen[..., None], x, 0.0), axis=-1)
    usual = np.sqrt((length**2).sum(1, keepdims=True) / np.maximum(seen.sum(1, keepdims=True), 1))
    seen = seen & (usual > 0)
    relative = np.log(np.maximum(length / np.where(usual > 0, usual, 1.0), _LEAST_LENGTH))
    count = seen.sum(0)
    known = count > 1
    if known.sum() < 2:
        return x
    mean = np.where(seen, relative, 0.0).sum(0) / np.maximum(count, 1)
    scatter = (np.where(seen, relative - mean, 0.0) ** 2).sum(0) / np.maximum(count - 1, 1) / np.maximum(count, 1)
    variance = max(float(mean[known].var(ddof=1)), 1e-12)
    share = max(0.0, 1 - float(scatter[known].mean()) / variance)
    return x / np.exp(share * np.where(known, mean - np.median(mean[known]), 0.0))[:, None]


def samples(
    trajectory: ArrayLike, visible: ArrayLike, noise: float, *, kind: str = "innovations", block: int | None = None
) -> tuple[Float, Mask]:
    """The whitened samples of which mutual information is estimated.

    Args:
        trajectory: [N, T, d], without camera motion.
        visible: bool[N, T].
        noise: see `whiten`.
        kind: one of `KINDS`: the innovations of the displacements between blocks of frames, without the frames' gain,
            these displacements, or the positions; benchmarks/calibration.py compares them.
        block: frames of a block; None: `block_size` chooses, except for positions, which are not averaged.

    Returns:
        f64[N, S, d], 0 where not visible, and bool[N, S]; S = T // block − 1, of positions T // block.

    Raises:
        ValueError: unknown kind, or noise ≤ 0.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of samples '{kind}': choose one of {', '.join(KINDS)}")
    block = block or (1 if kind == "positions" else block_size(trajectory, visible))
    x, seen = block_means(trajectory, visible, block)
    if kind != "positions":
        x, seen = displacement(x, seen)
    if kind == "innovations":
        x, seen = innovations(x, seen)
        x = without_gain(x, seen)
    return whiten(x, seen, noise), seen


def spread(trajectory: ArrayLike, visible: ArrayLike) -> Float:
    """Root-mean-square distance of each trajectory from its mean over its visible frames.

    Args:
        trajectory: [N, T, d], pixels.
        visible: bool[N, T].

    Returns:
        f64[N] pixels; 0 for a trajectory that is never visible.
    """
    x, seen = np.asarray(trajectory, np.float64), np.asarray(visible, bool)
    mean, count = _mean(x, seen)
    square = np.where(seen[..., None], (x - mean) ** 2, 0.0).sum((1, 2))
    return np.sqrt(square / count[:, 0])


def kept_on_screen(position: ArrayLike, camera: ArrayLike, visible: ArrayLike, static: float) -> Mask:
    """Which points keep their row or their column on the screen while the camera moves the scene.

    These are points of the picture and not of the scene: logos, clocks and subtitles, and edges of black bars, along
    which a point may slide.

    Args:
        position: [N, T, 2 or 3] pixels, as tracked.
        camera: [N, T, 2] pixels, where camera motion alone would have moved each point.
        visible: bool[N, T].
        static: spread below which a trajectory is static, pixels. A coordinate stays if its spread is below half of
            it, while the camera's motion of that coordinate has a spread of more than twice as much.

    Returns:
        bool[N]; all False under a camera that does not move.
    """
    raw, moved = np.asarray(position)[..., :2], np.asarray(camera)
    kept = np.zeros(len(raw), bool)
    for axis in ([0], [1]):
        stays = spread(raw[..., axis], visible) < _STAYS * static
        kept |= stays & (spread(moved[..., axis], visible) > _PASSES * static)
    return kept


def whiten(samples: ArrayLike, visible: ArrayLike, noise: float) -> Float:
    """Each trajectory's samples centred, decorrelated and scaled to unit variance along its principal axes.

    Mutual information is invariant under an invertible map of either variable, but nearest-neighbour estimates are
    not: unequal scales bias them, and pixel coordinates exceed the range in which NPEET is exact. An axis whose
    variance is below `noise`² is divided by `noise` instead, so that tracking errors are not amplified.

    Args:
        samples: [N, T, d].
        visible: bool[N, T], which samples count.
        noise: standard deviation of the tracker's error, in the samples' unit, > 0.

    Returns:
        f64[N, T, d], 0 where not visible.

    Raises:
        ValueError: noise ≤ 0.
    """
    if not noise > 0:
        raise ValueError(f"noise must be above 0, got {noise}")
    centred, variance, axes = _principal_axes(np.asarray(samples, np.float64), np.asarray(visible, bool))
    return np.einsum("nti,nij->ntj", centred, axes / np.sqrt(np.maximum(variance, noise**2))[:, None, :])


def _mean(x: Float, seen: Mask) -> tuple[Float, NDArray[np.int64]]:
    """Mean over the visible samples f64[N, 1, d], and their number int[N, 1], at least 1."""
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    return np.where(seen[..., None], x, 0.0).sum(1, keepdims=True) / count[..., None], count


def _principal_axes(x: Float, seen: Mask) -> tuple[Float, Float, Float]:
    """Centred samples f64[N, T, d], 0 where not visible, variances f64[N, d], and axes f64[N, d, d] in columns."""
    mean, count = _mean(x, seen)
    centred = np.where(seen[..., None], x - mean, 0.0)
    variance, axes = np.linalg.eigh(np.einsum("nti,ntj->nij", centred, centred) / count[..., None])
    return centred, variance, axes


def _autocorrelation(x: Float, seen: Mask, lag: int) -> Float:
    """Autocorrelation of each trajectory at one lag, over all its coordinates: f64[N]."""
    mean, count = _mean(x, seen)
    centred = np.where(seen[..., None], x - mean, 0.0)
    pairs = np.maximum((seen[:, lag:] & seen[:, :-lag]).sum(1), 1)
    product = (centred[:, lag:] * centred[:, :-lag]).sum((1, 2)) / pairs
    return product / np.maximum((centred**2).sum((1, 2)) / count[:, 0], 1e-300)


def _with_past(seen: Mask, order: NDArray[np.integer]) -> Mask:
    """Which samples are visible together with the `order` samples before them: bool[N, T]."""
    known = seen.copy()
    for lag in range(1, int(order.max(initial=0)) + 1):
        before = np.zeros_like(seen)
        before[:, lag:] = seen[:, :-lag]
        known &= before | (order < lag)[:, None]
    return known


def _residuals(x: Float, known: Mask, order: int) -> Float:
    """Residuals of an autoregression of that order, fitted to each trajectory and coordinate on its known samples."""
    past = np.ones((*np.swapaxes(x, 1, 2).shape, order + 1))
    for lag in range(1, order + 1):
        past[:, :, lag:, lag] = np.swapaxes(x, 1, 2)[:, :, :-lag]
    past *= known[:, None, :, None]
    normal = np.einsum("ncti,nctj->ncij", past, past)
    target = np.einsum("ncti,ntc->nci", past, x)
    # The ridge makes the system solvable where samples are too few or constant; it is small as variances are 1.
    normal += 1e-9 * np.maximum(known.sum(1), 1)[:, None, None, None] * np.eye(order + 1)
    weights = np.linalg.solve(normal, target[..., None])[..., 0]
    return np.where(known[..., None], x - np.einsum("ncti,nci->ntc", past, weights), 0.0)


def _pace(steps: Float, seen: Mask) -> tuple[Float, Float]:
    """Ratio of every step to the usual one f64[S], and how many standard errors it stands out; 1 and 0 if unknown."""
    ratio, stands_out = np.ones(steps.shape[1]), np.zeros(steps.shape[1])
    taken = np.ones(steps.shape[1])
    for _ in range(_PACE_ROUNDS):  # longer steps found before do not lengthen the mean of their neighbours
        x = steps / taken[:, None]
        around = _around(seen.astype(np.float64))
        mean = _around(np.where(seen[..., None], x, 0.0)) / np.maximum(around, 1)[..., None]
        both = seen & (around >= 2)
        weight = both / np.maximum((x**2).sum((1, 2)) / np.maximum(seen.sum(1), 1), 1e-9)[:, None]
        product, square = weight * (steps * mean).sum(-1), weight * (mean**2).sum(-1)
        total = np.maximum(square.sum(0), 1e-9)
        usual = float(np.median(product.sum(0) / total)) if len(total) else 0.0
        if usual <= _SMOOTH:
            break
        ratio = product.sum(0) / total / usual
        error = np.sqrt(((product / usual - ratio * square) ** 2).sum(0)) / total
        others = 1.4826 * np.median(np.abs(ratio - 1))
        stands_out = (ratio - 1) / np.maximum(np.hypot(error, others), 1e-9)
        taken = np.where((stands_out > _STANDS_OUT) & (ratio > _LONGER), ratio, 1.0)
    return ratio, stands_out


def _around(values: Float) -> Float:
    """Sums over the `_REACH` entries of axis 1 on either side, without the one in the middle."""
    padded = np.pad(values, [(0, 0), (_REACH, _REACH)] + [(0, 0)] * (values.ndim - 2))
    offsets = (offset for offset in range(2 * _REACH + 1) if offset != _REACH)
    return np.sum([padded[:, offset : offset + values.shape[1]] for offset in offsets], axis=0)
