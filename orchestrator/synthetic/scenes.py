"""Rendered scenes with known coupling: the built-in input of the demo and the ground truth of the tests.

Square, textured sprites wander over a textured background. Some move in pairs whose shared information is known in
closed form. Everything is synthetic and by our own design: nothing here is a data set or a result of a paper.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.orchestrator.synthetic import textures

__all__ = ["Scene", "render", "write"]

Array = NDArray[Any]

SPACING = 1.3  # smallest distance of two starting centres along an axis, in sprite sides
TRIES = 1000  # paths drawn before a sprite is declared not to fit
MARGIN = 0.15  # background beyond the frame, share of the longer side: more than the camera below ever uncovers
PAN, ZOOM, ANGLE = 0.06, 0.05, math.radians(2.5)  # largest camera motion: share of the side, log scale, radians


@dataclass(frozen=True)
class Scene:
    """A rendered clip of T frames and S sprites, and the truth about it. A sprite hides those of lower index.

    Pixel coordinates are (x, y) with (0, 0) at the *centre* of the top-left pixel, as in OpenCV.
    """

    frames: NDArray[np.uint8]
    """u8[T, H, W, 3], RGB."""
    position: NDArray[np.float32]
    """f32[S, T, 2], sprite centres in image pixels, camera motion included."""
    visible: NDArray[np.bool_]
    """bool[S, T], the centre is inside the frame and neither another sprite nor the bar covers it."""
    camera: NDArray[np.float32]
    """f32[T, 2, 3], affine map from world (= frame-0 image) coordinates to those of frame t."""
    partner: NDArray[np.int64]
    """int[S], the sprite that this one is coupled with, -1 for none."""
    mutual_information: NDArray[np.float64]
    """f64[S], true MI in nats of the per-frame increments (2-D, in the world) of sprite and partner; 0 without one."""
    static: NDArray[np.bool_]
    """bool[S], the sprite never moves in the world."""
    label: NDArray[np.int64]
    """int[S], texture family, an index into `textures.FAMILIES`."""
    bar: NDArray[np.float32]
    """f32[T, 2], left and right edge of the occluding bar in image pixels; NaN where there is none."""
    size: int
    """Side of a sprite in world pixels."""

    def owner(self, points: ArrayLike, frame: int = 0, margin: float = 0.0) -> NDArray[np.int64]:
        """Index of the topmost sprite under each point f[N, 2] of a frame, int[N]; -1 for the background or the bar.

        `margin`, pixels: a point that is so near to a sprite counts as on it: a tracker sees its edge move.
        """
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points must have shape [N, 2], not {list(points.shape)}; pass one row (x, y) per point.")
        if not 0 <= frame < len(self.frames):
            raise ValueError(f"frame {frame} is outside the clip; choose 0 to {len(self.frames) - 1}.")
        world = cv2.invertAffineTransform(self.camera[frame].astype(np.float64))
        covered = _covers(_apply(world, self.position[:, frame]), _apply(world, points), self.size + 2 * margin)
        sprite = np.where(covered, np.arange(len(self.position))[:, None], -1).max(axis=0, initial=-1)
        left, right = self.bar[frame]
        return np.where((points[:, 0] >= left) & (points[:, 0] < right), -1, sprite)

    @property
    def coupling(self) -> list[tuple[int, int, float]]:
        """Who moves with whom: (i, j, true MI in nats) with i < j, once per pair."""
        return [(i, int(j), float(self.mutual_information[i])) for i, j in enumerate(self.partner) if i < j]


def render(
    seed: int,
    frames: int = 64,
    sprites: int = 8,
    *,
    height: int = 240,
    width: int = 320,
    size: int = 40,
    coupled: int | None = None,
    static: int | None = None,
    rho: float = 0.95,
    step: float = 1.2,
    camera: bool = False,
    lighting: bool = False,
    occlusion: bool = False,
) -> Scene:
    """Render a clip in which it is known who moves with whom. The same arguments give the same pixels.

    `coupled` is the number of *pairs* (by default `sprites // 4`, so half of the sprites) and `static` the number of
    sprites that stand still (by default `sprites // 8`); all others walk alone. Increments per frame are independent
    over time. Those of one sprite are N(0, step² I), `step` in pixels. In a pair the second's are
    b = R(ρ a + √(1 − ρ²) n), with a and n independent draws of that law and R the pair's own rotation or reflection.
    As R is orthogonal, the MI of the increments is that of two independent Gaussian components of correlation ρ each:
    I = −ln(1 − ρ²) nats, twice that of one component (Cover & Thomas, Elements of Information Theory).

    A path is drawn first; then its start is chosen in the sprite's cell so that the whole sprite stays inside the frame
    (before the camera moves). Only where no start does is the path, and its partner's, drawn anew, which conditions the
    Gaussian law slightly. It is rare: with the default arguments none of 1200 draws, at 256 frames one in 14. It grows
    with `step · √frames` against the frame. Increments are never clipped or reflected.

    Coupled sprites share a texture family and differ in colours, phase, scale and orientation: *by this design* a twin
    carries information about the label, which real footage does not promise. All other families are drawn at random.

    `camera` adds a smooth pan, zoom and rotation, which can carry a sprite's edge out of the frame; `lighting` a smooth
    global gain within 0.7–1.3; `occlusion` an opaque bar that sweeps from left to right. No option changes the motions.
    Raises ValueError for arguments out of range, or for paths that do not fit into the frame.
    """
    coupled = sprites // 4 if coupled is None else coupled
    static = sprites // 8 if static is None else static
    _validate(seed, frames, sprites, height, width, size, coupled, static, rho, step)
    # One stream per purpose, so that no option shifts the draws of another.
    layout, motion, texture, backdrop, moving, light, sweep = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(7)
    )

    roles = layout.permutation(sprites)
    partner = np.full(sprites, -1)
    partner[roles[: 2 * coupled]] = roles[: 2 * coupled].reshape(-1, 2)[:, ::-1].ravel()
    still = np.isin(np.arange(sprites), roles[2 * coupled : 2 * coupled + static])
    groups = [*roles[: 2 * coupled].reshape(-1, 2), *roles[2 * coupled :, None]]
    cells = _cells(layout, sprites, height, width, size)
    world = np.empty((sprites, frames, 2))
    for group in groups:
        moves = 0.0 if still[group[0]] else step
        world[group] = _paths(motion, cells[group], frames, moves, rho, np.array([width, height]), size)

    label = np.empty(sprites, np.int64)
    for group in groups:
        label[group] = texture.integers(len(textures.FAMILIES))
    layers = [textures.sprite(texture, int(family), size) for family in label]
    margin = math.ceil(MARGIN * max(height, width))
    ground = textures.background(backdrop, height + 2 * margin, width + 2 * margin)
    maps = _camera(moving, frames, height, width) if camera else np.tile(np.eye(2, 3), (frames, 1, 1))
    gain = 1 + 0.3 * _wave(light, frames, 64, 128) if lighting else np.ones(frames)
    pillar = textures.opaque(textures.background(sweep, height, max(8, width // 8), hue=True))
    bar = np.full((frames, 2), np.nan)
    if occlusion:
        bar[:, 0] = np.linspace(-pillar.shape[1], width, frames) - 0.5
        bar[:, 1] = bar[:, 0] + pillar.shape[1]

    position = np.stack([_apply(maps[t], world[:, t]) for t in range(frames)], axis=1)
    inside = ((position >= -0.5) & (position < np.array([width, height]) - 0.5)).all(axis=-1)
    hidden = (position[..., 0] >= bar[:, 0]) & (position[..., 0] < bar[:, 1])
    for t in range(frames):
        # Above the diagonal: sprites in front. Who covers whose centre is mutual, as all squares are of one size.
        hidden[:, t] |= np.triu(_covers(world[:, t], world[:, t], size), 1).any(axis=1)

    images = np.empty((frames, height, width, 3), np.uint8)
    centre = (size - 1) / 2
    for t in range(frames):
        image: Array = cv2.warpAffine(
            ground, _shifted(maps[t], -margin, -margin), (width, height), flags=cv2.INTER_LINEAR
        )
        for layer, (x, y) in zip(layers, world[:, t], strict=True):
            textures.paste(image, layer, _shifted(maps[t], x - centre, y - centre))
        if occlusion:
            textures.paste(image, pillar, np.array([[1, 0, bar[t, 0] + 0.5], [0, 1, 0]]))
        images[t] = cv2.convertScaleAbs(image, alpha=gain[t]) if lighting else image

    information = np.where(partner >= 0, -np.log1p(-(rho**2)), 0.0)
    truth = (position.astype(np.float32), inside & ~hidden, maps.astype(np.float32), partner, information, still, label)
    return Scene(images, *truth, bar.astype(np.float32), size)


def write(scene: Scene, path: str | os.PathLike[str], fps: float = 25.0) -> None:
    """Write the frames of a scene as a lossless video (FFV1 in .avi), at `fps` frames per second.

    The file is written under a temporary name, decoded again, compared with the frames, and only then moved into place:
    a file that exists is complete and exact. Missing folders are made. Raises ValueError for a path that does not end
    in .avi or for frames of odd height or width, which OpenCV would crop, and OSError where the video could not be
    written without loss.
    """
    path = Path(path)
    if path.suffix.lower() != ".avi":
        raise ValueError(f"path {str(path)!r} must end in .avi, the container of the lossless video; rename it.")
    height, width = scene.frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height} pixels cannot be written; render an even height and width.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part.avi")
    try:
        video = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"FFV1"), fps, (width, height))
        for frame in scene.frames:
            video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        video.release()
        written = cv2.VideoCapture(str(temporary))
        exact = all(_same(written.read()[1], frame) for frame in scene.frames) and not written.read()[0]
        written.release()
        if not exact:
            raise OSError(
                f"{path} was not written without loss; check the free space and that OpenCV has the FFV1 codec."
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- motion


def _validate(
    seed: int,
    frames: int,
    sprites: int,
    height: int,
    width: int,
    size: int,
    coupled: int,
    static: int,
    rho: float,
    step: float,
) -> None:
    for name, value, least in (
        ("seed", seed, 0),
        ("frames", frames, 1),
        ("sprites", sprites, 1),
        ("size", size, 8),
        ("height", height, 16),
        ("width", width, 16),
        ("coupled", coupled, 0),
        ("static", static, 0),
    ):
        textures.at_least(name, value, least)
    if 2 * coupled + static > sprites:
        raise ValueError(
            f"coupled={coupled} pairs and static={static} need {2 * coupled + static} sprites, but sprites={sprites}; "
            "lower them or add sprites."
        )
    if not 0 <= rho <= 0.99:
        raise ValueError(f"rho={rho} must lie within 0 and 0.99; at 1 the mutual information is infinite.")
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step={step} must be a positive number of pixels per frame; for still sprites use static.")


def _cells(rng: np.random.Generator, sprites: int, height: int, width: int, size: int) -> Array:
    """Lowest and highest start (x, y) of every sprite, and where between them (0–1) it prefers to be: f64[S, 3, 2]."""
    grids = [(columns, -(-sprites // columns)) for columns in range(1, sprites + 1)]
    columns, rows = max(grids, key=lambda grid: min(width / grid[0], height / grid[1]))
    cell = np.array([width / columns, height / rows])
    if (cell < SPACING * size).any():
        raise ValueError(
            f"sprites={sprites} of size={size} do not fit apart into {width}x{height} pixels; "
            "use fewer or smaller sprites, or a larger frame."
        )
    index = rng.permutation(columns * rows)[:sprites]
    centre = (np.stack([index % columns, index // columns], axis=1) + 0.5) * cell - 0.5
    slack = (cell - SPACING * size) / 2
    return np.stack([centre - slack, centre + slack, rng.random((sprites, 2))], axis=1)


def _paths(
    rng: np.random.Generator, cells: Array, frames: int, step: float, rho: float, extent: NDArray[np.int64], size: int
) -> Array:
    """Centres f64[G, T, 2] of one sprite, or of two that are coupled, inside a frame of `extent` (width, height)."""
    low, high, preference = cells[:, 0], cells[:, 1], cells[:, 2]
    angle = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    rotation[:, 0] *= rng.choice([-1, 1])  # one in two is a reflection
    for _ in range(TRIES):
        move = step * rng.standard_normal((len(cells), frames - 1, 2))
        if len(cells) == 2:
            move[1] = (rho * move[0] + math.sqrt(1 - rho**2) * move[1]) @ rotation.T
        path = np.concatenate([np.zeros((len(cells), 1, 2)), np.cumsum(move, axis=1)], axis=1)
        first = np.maximum(low, size / 2 - 0.5 - path.min(axis=1))
        last = np.minimum(high, extent - size / 2 - 0.5 - path.max(axis=1))
        if (first <= last).all():
            return (first + preference * (last - first))[:, None] + path
    raise ValueError(
        f"step={step} over frames={frames} carries sprites of size={size} out of {extent[0]}x{extent[1]} pixels "
        f"in all of {TRIES} tries; lower step, frames, sprites or size, or enlarge the frame."
    )


def _camera(rng: np.random.Generator, frames: int, height: int, width: int) -> Array:
    """Smooth pan, zoom and rotation about the centre of the frame, f64[T, 2, 3]; the identity at frame 0."""
    # Half of a wave minus its first value stays within -1 and 1.
    x, y, zoom, angle = ((wave - wave[0]) / 2 for wave in (_wave(rng, frames, 64, 160) for _ in range(4)))
    scale = np.exp(ZOOM * zoom)
    cosine, sine = scale * np.cos(ANGLE * angle), scale * np.sin(ANGLE * angle)
    linear = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(frames, 2, 2)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - linear @ centre + PAN * np.stack([x * width, y * height], axis=1)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def _wave(rng: np.random.Generator, frames: int, shortest: float, longest: float) -> Array:
    """A sine over time of random phase and period (in frames), f64[T] within -1 and 1."""
    return np.sin(2 * math.pi * (rng.random() + np.arange(frames) / rng.uniform(shortest, longest)))


def _apply(affine: Array, points: Array) -> Array:
    return points @ affine[:, :2].T + affine[:, 2]


def _shifted(affine: Array, x: float, y: float) -> Array:
    """The affine map that first moves by (x, y)."""
    return np.column_stack([affine[:, :2], _apply(affine, np.array([x, y]))])


def _covers(centres: Array, points: Array, size: float) -> NDArray[np.bool_]:
    """Whether the square of side `size` about each centre holds each point, bool[S, N]; all in world coordinates."""
    return (np.abs(centres[:, None] - points[None]) <= size / 2).all(axis=-1)


def _same(bgr: Array | None, rgb: NDArray[np.uint8]) -> bool:
    return bgr is not None and np.array_equal(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), rgb)
