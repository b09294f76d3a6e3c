"""Rendered scenes with known coupling: the input of the demo, and ground truth for tests.

Square, textured sprites move at random over a textured background. Some move in pairs whose mutual information is known
in closed form. The scenes are synthetic; they reproduce no data set and no result of a paper.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.orchestrator.runtime.store import move_into_place
from infoaug.orchestrator.synthetic import textures

__all__ = ["Scene", "render", "write"]

Array = NDArray[Any]

SPACING = 1.3  # smallest distance of two starting centres along an axis, in sprite sides
TRIES = 1000  # paths drawn before a ValueError says that a sprite does not fit
MARGIN = 0.15  # background outside the frame, share of the longer side; more than the camera motion below uncovers
PAN, ZOOM, ANGLE = 0.06, 0.05, math.radians(2.5)  # largest camera motion: share of the side, log scale, radians


@dataclass(frozen=True)
class Scene:
    """A rendered clip of T frames with S sprites, and its ground truth.

    Pixel coordinates are (x, y) with (0, 0) at the *centre* of the top-left pixel, as in OpenCV. Sprites of
    higher index are in front.
    """

    frames: NDArray[np.uint8]
    """u8[T, H, W, 3], RGB."""
    position: NDArray[np.float32]
    """f32[S, T, 2], sprite centres in image pixels, camera motion included."""
    visible: NDArray[np.bool_]
    """bool[S, T], whether the centre is inside the frame and covered neither by another sprite nor by the bar."""
    camera: NDArray[np.float32]
    """f32[T, 2, 3], affine map from world (= frame-0 image) coordinates to those of frame t."""
    partner: NDArray[np.int64]
    """int[S], the sprite that each is coupled with, -1 for none."""
    mutual_information: NDArray[np.float64]
    """f64[S] nats, true mutual information of the 2-D displacements per frame, in the world, of a sprite and its
    partner; 0 without a partner."""
    static: NDArray[np.bool_]
    """bool[S], whether a sprite never moves in the world."""
    label: NDArray[np.int64]
    """int[S], texture family, an index into `textures.FAMILIES`."""
    bar: NDArray[np.float32]
    """f32[T, 2], left and right edge of the occluding bar in image pixels; NaN where there is none."""
    size: int
    """Side of a sprite in world pixels."""

    def owner(self, points: ArrayLike, frame: int = 0, margin: float = 0.0) -> NDArray[np.int64]:
        """The frontmost sprite under each point of a frame.

        Args:
            points: f[N, 2] as (x, y), pixels.
            frame: number of the frame.
            margin: a point at most this many pixels outside a sprite counts as on it, as a tracked point so close to
                its edge moves with it.

        Returns:
            int[N], index of the sprite, -1 for the background or the bar.

        Raises:
            ValueError: wrong shape, or there is no such frame.
        """
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points must have shape [N, 2], not {list(points.shape)}; pass one (x, y) per point.")
        if not 0 <= frame < len(self.frames):
            raise ValueError(f"frame {frame} is outside the clip; choose 0 to {len(self.frames) - 1}.")
        world = cv2.invertAffineTransform(self.camera[frame].astype(np.float64))
        covered = _covers(_apply(world, self.position[:, frame]), _apply(world, points), self.size + 2 * margin)
        sprite = np.where(covered, np.arange(len(self.position))[:, None], -1).max(axis=0, initial=-1)
        left, right = self.bar[frame]
        return np.where((points[:, 0] >= left) & (points[:, 0] < right), -1, sprite)

    @property
    def coupling(self) -> list[tuple[int, int, float]]:
        """The coupled pairs: (i, j, true mutual information in nats), i < j, each pair once."""
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
    """Render a clip in which the coupled sprites are known. The same arguments give the same pixels.

    Displacements per frame are independent over time. Those of one sprite are N(0, step² I). In a coupled pair the
    second sprite's are b = R(ρ a + √(1 − ρ²) n), where a and n are independent draws from N(0, step² I) and R is a
    random rotation or reflection of the pair. As R is orthogonal, the mutual information of the displacements is that
    of two independent Gaussian components of correlation ρ each: I = −ln(1 − ρ²) nats, twice that of one component
    (Cover & Thomas, Elements of Information Theory).

    A path is drawn first. Its start is then chosen so that the whole sprite stays inside the frame (before camera
    motion). If there is no such start, the paths of the sprite and its partner are drawn again, which conditions the
    Gaussian distribution slightly. This is rare: none of 1,200 draws with the default arguments, one in 14 at 256
    frames; its rate grows with `step · √frames` relative to the frame. Displacements are never clipped or reflected.

    Coupled sprites share a texture family and differ in colours, phase, scale and orientation. So a twin carries
    information about the label *by design*, which real video does not guarantee.

    Args:
        seed: ≥ 0.
        frames: of the clip.
        sprites: number of sprites.
        height: of a frame, pixels.
        width: of a frame, pixels.
        size: side of a sprite, pixels.
        coupled: number of coupled *pairs*; None: `sprites // 4`, half of the sprites.
        static: number of sprites that do not move; None: `sprites // 8`. All others move independently.
        rho: correlation of a coupled pair's displacements, 0–0.99.
        step: standard deviation of a displacement along each axis, pixels.
        camera: add a smooth pan, zoom and rotation, which can move a sprite's edge out of the frame.
        lighting: multiply each frame by a smooth gain of 0.7–1.3.
        occlusion: add an opaque bar that moves from left to right.

    `camera`, `lighting` and `occlusion` do not change the sprites' motion in the world.

    Raises:
        ValueError: an argument is out of range, or paths do not fit into the frame.
    """
    coupled = sprites // 4 if coupled is None else coupled
    static = sprites // 8 if static is None else static
    _validate(seed, frames, sprites, height, width, size, coupled, static, rho, step)
    # One random stream per purpose, so that an option does not change the draws of the others.
    layout, motion, texture, backdrop, moving, light, sweep = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(7)
    )

    roles = layout.permutation(sprites)
    partner = np.full(sprites, -1)
    partner[roles[: 2 * coupled]] = roles[: 2 * coupled].reshape(-1, 2)[:, ::-1].ravel()
    is_static = np.isin(np.arange(sprites), roles[2 * coupled : 2 * coupled + static])
    groups = [*roles[: 2 * coupled].reshape(-1, 2), *roles[2 * coupled :, None]]
    cells = _cells(layout, sprites, height, width, size)
    world = np.empty((sprites, frames, 2))
    for group in groups:
        group_step = 0.0 if is_static[group[0]] else step
        world[group] = _paths(motion, cells[group], frames, group_step, rho, np.array([width, height]), size)

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
        # All sprites have the same size, so covering each other's centres is symmetric. Entries above the diagonal are
        # those with the sprite in front.
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
    return Scene(
        frames=images,
        position=position.astype(np.float32),
        visible=inside & ~hidden,
        camera=maps.astype(np.float32),
        partner=partner,
        mutual_information=information,
        static=is_static,
        label=label,
        bar=bar.astype(np.float32),
        size=size,
    )


def write(scene: Scene, path: str | os.PathLike[str], fps: float = 25.0) -> None:
    """Write the frames of a scene as a lossless video, FFV1 in .avi.

    The file is written under a temporary name, decoded and compared with the frames, and then moved into place: a file
    that exists is complete and exact. Missing folders are created.

    Args:
        scene: what `render` returned.
        path: ends in .avi.
        fps: frames per second.

    Raises:
        ValueError: the path does not end in .avi, or the height or width is odd, which OpenCV would crop.
        OSError: the video could not be written without loss.
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
        move_into_place(temporary, path)
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
    """For every sprite the lowest and highest start (x, y), and a preferred start between them (0–1): f64[S, 3, 2]."""
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
    """Centres f64[G, T, 2] of one sprite or of two coupled ones, inside a frame of `extent` (width, height)."""
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
    # (wave − its first value) / 2 starts at 0 and stays within -1 and 1.
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
    """Whether the square of side `size` about each centre contains each point, bool[S, N]; in world coordinates."""
    return (np.abs(centres[:, None] - points[None]) <= size / 2).all(axis=-1)


def _same(bgr: Array | None, rgb: NDArray[np.uint8]) -> bool:
    return bgr is not None and np.array_equal(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), rgb)
