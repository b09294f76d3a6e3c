"""What of a trajectory is scored: what neither the camera nor the light nor its own past explains, whitened."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

KINDS = ("innovations", "displacements", "positions")

# Sizes of blocks to choose from, frames; the share of noise at which a block is large enough, and how many
# displacements between blocks there must at least be.
_BLOCKS, _NOISE_SHARE, _LEAST = (1, 2, 4, 8), 0.1, 24
# The largest order of an autoregression, and how many samples each of its orders needs.
_ORDER, _SAMPLES_PER_ORDER = 4, 10


def residual(position: ArrayLike, camera: ArrayLike) -> Float:
    """Trajectory with the camera's motion taken out: where the point would be had the camera stood still.

    Args:
        position: [N, T, 2 or 3] pixels (a third coordinate, depth, passes through).
        camera: [N, T, 2] pixels, what the camera alone would have done to each point, from the same start.

    Returns:
        f64[N, T, 2 or 3]: the start plus the motion that the camera does not explain.
    """
    moved = np.array(position, dtype=np.float64)
    path = np.asarray(camera, dtype=np.float64)
    moved[..., :2] -= path - path[:, :1]
    return moved


def without_lighting(colour: ArrayLike, visible: ArrayLike) -> Float:
    """Colour of patches with the light's own changes taken out: as it would be had the light stayed the same.

    A change of light multiplies all colours by one gain a channel and frame: the median over the visible patches of
    their colour over their own median through time. Patches darker than 0.02 have no say in it.

    Args:
        colour: [N, T, 3], from 0 to 1.
        visible: bool[N, T].

    Returns:
        f64[N, T, 3].
    """
    values, seen = np.asarray(colour, np.float64), np.asarray(visible, bool)[..., None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # A patch never seen, or a frame without one that is lit.
        usual = np.nanmedian(np.where(seen, values, np.nan), axis=1, keepdims=True)
        gain = np.nanmedian(np.where(seen & (usual > 0.02), values, np.nan) / usual, axis=0)
    return values / np.where(gain > 0, gain, 1.0)


def displacement(trajectory: ArrayLike, visible: ArrayLike) -> tuple[Float, Mask]:
    """Frame-to-frame displacements, which are free of the slow drift that makes unrelated positions look dependent.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, T−1, d] and bool[N, T−1], True where both of a displacement's frames are visible; 0 elsewhere.
    """
    seen = np.asarray(visible, bool)
    both = seen[:, 1:] & seen[:, :-1]
    return np.where(both[..., None], np.diff(np.asarray(trajectory, np.float64), axis=1), 0.0), both


def block_means(trajectory: ArrayLike, visible: ArrayLike, size: int) -> tuple[Float, Mask]:
    """Trajectory averaged over consecutive blocks of frames, which takes out what jitters from frame to frame.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].
        size: of a block, frames, ≥ 1; a last block that is not full is dropped.

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
    """How many frames to average, so that a window's displacements are motion and not the tracker's jitter.

    Jitter that is new in every frame enters two displacements with opposite signs: it lowers their autocorrelation at
    lag 1 and at no other. What lags 2 and 3 foretell for lag 1, less what it is, is its share of the variance. The
    smallest of 1, 2, 4, 8 frames is taken at which that is at most a tenth, medians over the window's trajectories, as
    long as 24 displacements are left; 1 where none is. Only what each trajectory is by itself enters.

    Args:
        trajectory: [N, T, d].
        visible: bool[N, T].
    """
    for size in _BLOCKS:
        steps, seen = displacement(*block_means(trajectory, visible, size))
        if steps.shape[1] < _LEAST or not seen.any():
            break
        one, two, three = (
            float(np.median(_autocorrelation(steps[seen.any(1)], seen[seen.any(1)], n))) for n in (1, 2, 3)
        )
        # Lags 2 and 3 say how fast the motion forgets (slower than that, and what swings would pass for jitter); where
        # there is no memory, nothing but jitter takes lag 1 below zero.
        foretold = two / np.clip(three / two, 0.7, 1.0) if two > 0.1 else 0.0
        if foretold - one <= _NOISE_SHARE:
            return size
    return 1


def innovations(samples: ArrayLike, visible: ArrayLike) -> tuple[Float, Mask]:
    """What of each sample a trajectory's own past does not foretell: residuals of an autoregression of its own.

    x(t) = c + a₁·x(t−1) + … + a_p·x(t−p) + e(t) is fitted by least squares along each principal axis of a trajectory;
    e is returned. The order p, at most 4 and a tenth of the visible samples, is that of least AIC (Akaike 1974), the
    same for all axes. Independent trajectories that are smooth, drift or swing look dependent, because each of them
    resembles itself for a while; their innovations do not. A unit root is no obstacle: positions of a random walk yield
    its steps.

    Args:
        samples: [N, T, d].
        visible: bool[N, T].

    Returns:
        f64[N, T, d] in the samples' unit, 0 elsewhere, and bool[N, T], True where the sample and the p before it are
        visible.
    """
    centred, variance, axes = _principal_axes(np.asarray(samples, np.float64), np.asarray(visible, bool))
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))[:, None]
    x, seen = centred @ axes / scale, np.asarray(visible, bool)
    allowed = np.minimum(_ORDER, seen.sum(1) // _SAMPLES_PER_ORDER)
    # Orders are compared on the samples that the largest of them can explain, and the one chosen fitted on all it can.
    criterion = np.full((_ORDER + 1, len(x)), np.inf)
    for order in range(_ORDER + 1):
        known = _with_past(seen, allowed)
        count = np.maximum(known.sum(1), 1)
        error = (_unexplained(x, known, order) ** 2).sum(1) / count[:, None]
        value = (count[:, None] * np.log(np.maximum(error, 1e-12)) + 2 * order).sum(1)
        criterion[order] = np.where(order <= allowed, value, np.inf)
    chosen = criterion.argmin(0) if len(x) else allowed
    kept = _with_past(seen, chosen)
    result = np.zeros_like(x)
    for order in np.unique(chosen):
        of = chosen == order
        result[of] = _unexplained(x[of], kept[of], order)
    return (result * scale) @ np.swapaxes(axes, 1, 2), kept


def samples(
    trajectory: ArrayLike, visible: ArrayLike, noise: float, *, kind: str = "innovations", block: int | None = None
) -> tuple[Float, Mask]:
    """The samples that trajectories are compared by, whitened.

    Args:
        trajectory: [N, T, d], with the camera's motion taken out.
        visible: bool[N, T].
        noise: see `whiten`.
        kind: one of `KINDS`: the positions, the displacements between blocks of frames, or what of these a
            trajectory's own past does not foretell; benchmarks/calibration.py shows what that is for.
        block: frames; none: that of `block_size`, but single frames for positions.

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
    return whiten(x, seen, noise), seen


def spread(trajectory: ArrayLike, visible: ArrayLike) -> Float:
    """Root-mean-square distance of each trajectory from its own mean over its visible frames.

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


def whiten(samples: ArrayLike, visible: ArrayLike, noise: float) -> Float:
    """Each trajectory's samples centred, decorrelated and brought to unit variance by its own principal axes.

    Mutual information does not change under an invertible map of either variable, but nearest-neighbour estimates do:
    unequal scales ruin them, and pixel coordinates exceed the range in which NPEET is exact. An axis whose variance is
    below the tracker's noise is not blown up: its variance counts as `noise`².

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
    """Mean over the visible samples f64[N, 1, d], and their count int[N, 1], at least 1."""
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    return np.where(seen[..., None], x, 0.0).sum(1, keepdims=True) / count[..., None], count


def _principal_axes(x: Float, seen: Mask) -> tuple[Float, Float, Float]:
    """Centred samples f64[N, T, d], 0 where hidden, the variances f64[N, d] and the axes f64[N, d, d], in columns."""
    mean, count = _mean(x, seen)
    centred = np.where(seen[..., None], x - mean, 0.0)
    variance, axes = np.linalg.eigh(np.einsum("nti,ntj->nij", centred, centred) / count[..., None])
    return centred, variance, axes


def _autocorrelation(x: Float, seen: Mask, lag: int) -> Float:
    """Of each trajectory's samples, over its coordinates: f64[N]."""
    mean, count = _mean(x, seen)
    centred = np.where(seen[..., None], x - mean, 0.0)
    pairs = np.maximum((seen[:, lag:] & seen[:, :-lag]).sum(1), 1)
    product = (centred[:, lag:] * centred[:, :-lag]).sum((1, 2)) / pairs
    return product / np.maximum((centred**2).sum((1, 2)) / count[:, 0], 1e-300)


def _with_past(seen: Mask, order: NDArray[np.integer]) -> Mask:
    """Which samples are visible, and the `order` before them too."""
    known = seen.copy()
    for lag in range(1, int(order.max(initial=0)) + 1):
        before = np.zeros_like(seen)
        before[:, lag:] = seen[:, :-lag]
        known &= before | (order < lag)[:, None]
    return known


def _unexplained(x: Float, known: Mask, order: int) -> Float:
    """Residuals of an autoregression of that order, fitted to each trajectory and coordinate, on the known samples."""
    past = np.ones((*np.swapaxes(x, 1, 2).shape, order + 1))
    for lag in range(1, order + 1):
        past[:, :, lag:, lag] = np.swapaxes(x, 1, 2)[:, :, :-lag]
    past *= known[:, None, :, None]
    normal = np.einsum("ncti,nctj->ncij", past, past)
    target = np.einsum("ncti,ntc->nci", past, x)
    # The ridge decides where there is nothing to fit; samples have unit variance.
    normal += 1e-9 * np.maximum(known.sum(1), 1)[:, None, None, None] * np.eye(order + 1)
    weights = np.linalg.solve(normal, target[..., None])[..., 0]
    return np.where(known[..., None], x - np.einsum("ncti,nci->ntc", past, weights), 0.0)
