"""Windows of simulated paths with known coupling for calibration.py, in pixels, with a tracker's jitter.

A process turns innovations f64[N, WARM_UP + T, 2] of unit variance into positions f64[N, T, 2].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.geometry.camera import camera_motion, camera_trajectories
from infoaug.estimators.information import motion

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

PATHS, COUPLED, CORRELATION = 16, 4, 0.8
BACKGROUND = 32  # background points from which camera motion is estimated
JITTER = 0.1
WARM_UP = 60  # frames before the first, until a process is stationary


def velocity(innovation: Float, memory: float) -> Float:
    """Stationary autoregression of order 1 with unit variance; `memory` is the correlation of successive frames."""
    x = innovation.copy()
    for t in range(1, x.shape[1]):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * innovation[:, t]
    return x[:, WARM_UP:]


def smooth(innovation: Float, speed: float) -> Float:
    """Paths whose velocity has a memory of 0.9 and standard deviation `speed`, pixels a frame."""
    return speed * velocity(innovation, 0.9).cumsum(1)


def swing(count: int, length: int, rng: np.random.Generator) -> Float:
    """Sinusoids of 5 px amplitude with random periods (8 to 24 frames) and phases."""
    period, phase = rng.uniform(8, 24, (count, 1, 2)), rng.uniform(0, 2 * np.pi, (count, 1, 2))
    return 5 * np.sin(2 * np.pi * np.arange(length)[None, :, None] / period + phase)


def slow(count: int, length: int, rng: np.random.Generator) -> Float:
    """Random constant velocities of about 1 px a frame, plus a sinusoid with a period longer than the window."""
    period, phase = length * rng.uniform(1, 4, (count, 1, 2)), rng.uniform(0, 2 * np.pi, (count, 1, 2))
    frame = np.arange(length)[None, :, None]
    return rng.normal(size=(count, 1, 2)) * frame + 0.15 * length * np.sin(2 * np.pi * frame / period + phase)


def filmed(path: Float, rng: np.random.Generator) -> Float:
    """Paths filmed by a camera that pans, zooms and rotates, minus the camera motion estimated from the tracks."""
    count, length = path.shape[:2]
    start = rng.uniform(0, 300, (count + BACKGROUND, 1, 2))
    world = np.concatenate([path - path[:, :1], np.zeros((BACKGROUND, length, 2))]) + start - 150
    course = velocity(rng.normal(size=(2, length + WARM_UP, 2)), 0.9).cumsum(1)
    course -= course[:, :1]
    turned = (1 + 0.002 * course[0, :, 0] + 0.002j * course[0, :, 1]) * (world[..., 0] + 1j * world[..., 1])
    seen = np.stack([turned.real, turned.imag], -1) + 150 + 2 * course[1]
    tracked = (seen + JITTER * rng.normal(size=seen.shape)).astype(np.float32)
    maps = camera_motion(tracked, np.ones(tracked.shape[:2], bool))
    return motion.residual(tracked, camera_trajectories(maps, tracked[:, 0]))[:count]


def jittered(path: Float, rng: np.random.Generator, by: float = JITTER) -> Float:
    """Paths with independent Gaussian noise in every frame, as a tracker adds."""
    return path + by * rng.normal(size=path.shape)


PROCESSES: dict[str, Callable[[Float, int, np.random.Generator], Float]] = {
    "i.i.d. positions": lambda e, _, rng: 2 * e[:, WARM_UP:],
    "random walk": lambda e, _, rng: jittered(e[:, WARM_UP:].cumsum(1), rng),
    "smooth": lambda e, _, rng: jittered(smooth(e, 1.0), rng),
    "smooth, jitter as large": lambda e, _, rng: jittered(smooth(e, 0.3), rng, 0.3),
    "oscillation": lambda e, n, rng: jittered(swing(len(e), n, rng) + 0.5 * velocity(e, 0.5).cumsum(1), rng),
    "slow drift": lambda e, n, rng: jittered(slow(len(e), n, rng) + 0.3 * e[:, WARM_UP:].cumsum(1), rng),
    "shared slow drift": lambda e, n, rng: jittered(slow(1, n, rng) + 0.5 * e[:, WARM_UP:].cumsum(1), rng),
    "shared camera, walk": lambda e, _, rng: filmed(e[:, WARM_UP:].cumsum(1), rng),
    "shared camera, smooth": lambda e, _, rng: filmed(smooth(e, 1.0), rng),
    "smooth, gaps": lambda e, _, rng: jittered(smooth(e, 1.0), rng),
    "smooth, 4 paths": lambda e, _, rng: jittered(smooth(e[:4], 1.0), rng),
}


def window(process: str, length: int, coupled: bool, number: int) -> tuple[Float, Mask, Mask]:
    """A window's positions f64[N, T, 2], visibility bool[N, T], and which pairs are coupled, bool[N, N]."""
    rng = np.random.default_rng([number, length, coupled, list(PROCESSES).index(process)])
    innovation = rng.normal(size=(PATHS, WARM_UP + length, 2))
    first = np.arange(0, 2 * COUPLED, 2) if coupled else np.arange(0)
    innovation[first + 1] *= np.sqrt(1 - CORRELATION**2)
    innovation[first + 1] += CORRELATION * innovation[first]
    path = PROCESSES[process](innovation, length, rng)
    truth = np.zeros((PATHS, PATHS), bool)
    truth[first, first + 1] = True
    visible = np.ones(path.shape[:2], bool)
    if process == "smooth, gaps":
        for i, begin in enumerate(rng.integers(0, length, len(path))):
            visible[i, begin : begin + length // (4 if i % 2 else 8)] = False
    return path, visible, truth[: len(path), : len(path)]
