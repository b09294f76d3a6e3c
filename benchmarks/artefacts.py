"""Twins where nothing moves by itself: how many patches of a still scene have one, by what is wrong with the picture.

    python benchmarks/artefacts.py [--scenes 2] [--json FILE] [SECTION.KEY=VALUE …]

A rendered (synthetic) still scene, partly textured and partly plain wall, is filmed by a panning and shaking camera:
48 frames of 640 × 384 pixels, 240 patches of 32 pixels. Every twin is an artefact: of the picture, of the tracker or of
the camera's estimated motion. Each condition adds one effect to the same scene; `flicker` scores position and colour.
Settings are those of the stages, with `extract.patch_size=32 extract.spacing=32`.
"""

import argparse
import io
import json
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from infoaug.orchestrator import config
from infoaug.orchestrator.stages.extract import extract_window
from infoaug.orchestrator.stages.window_scores import score_window
from infoaug.orchestrator.synthetic import textures

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]

LENGTH, HEIGHT, WIDTH, MARGIN = 48, 384, 640, 96
WALLS, PLAIN = 12, 0.06  # how many rectangles of plain wall, and the contrast that is left there
BOXES, NEAREST = 24, 0.6  # for parallax: boxes in front of the scene; the largest extra share of the pan that one moves
SETTINGS = ["extract.patch_size=32", "extract.spacing=32"]


def camera_path(rng: np.random.Generator) -> Array:
    """A smooth pan of some 60 pixels with the shake of a hand, f64[T, 2] pixels, 0 at the start."""
    time = np.linspace(0, 1, LENGTH)[:, None]
    pan = rng.uniform(40, 70, 2) * [1, 0.4] * rng.choice([-1, 1], 2) * np.sin(time * rng.uniform(1.2, 2.4, 2))
    shake = np.cumsum(rng.normal(0, 0.6, (LENGTH, 2)), axis=0)
    return np.asarray(pan + shake - (pan + shake)[:1])


def canvas(rng: np.random.Generator) -> NDArray[np.float32]:
    """A picture with plain walls, larger than a frame by the margin on each side: f32[H, W, 3], 0–255."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    picture = textures.background(rng, height, width).astype(np.float32)
    smooth = cv2.GaussianBlur(picture, (0, 0), 24)
    contrast = np.ones((height, width), np.float32)
    for _ in range(WALLS):
        x, y, w, h = rng.uniform((0, 0, 60, 60), (width, height, 220, 180)).astype(int)
        contrast[y : y + h, x : x + w] = PLAIN
    return np.asarray(smooth + cv2.GaussianBlur(contrast, (0, 0), 1)[..., None] * (picture - smooth))


def filmed(picture: NDArray[np.float32], path: Array, rows: Array | None = None) -> Frames:
    """The picture under a camera that moves: u8[T, H, W, 3]. `rows` f64[H] is when a row is read out, in frames."""
    x, y = np.meshgrid(np.arange(WIDTH) + MARGIN, np.arange(HEIGHT) + MARGIN)
    frames = np.empty((LENGTH, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(LENGTH):
        when = np.full(HEIGHT, float(t)) if rows is None else t + rows
        shift = np.stack([np.interp(when, np.arange(LENGTH), path[:, axis]) for axis in (0, 1)])[:, :, None]
        at = [(grid + part).astype(np.float32) for grid, part in zip((x, y), shift, strict=True)]
        frames[t] = np.clip(np.rint(cv2.remap(picture, *at, cv2.INTER_CUBIC)), 0, 255)
    return frames


# ---- effects


def parallax(rng: np.random.Generator, frames: Frames, path: Array) -> Frames:
    """Boxes in front of the scene, which the pan moves the more the nearer they are."""
    shown = frames.copy()
    for near in np.sort(rng.uniform(0.05, NEAREST, BOXES)):
        side = int(rng.integers(60, 120))
        layer = textures.opaque(textures.background(rng, side, side, hue=True))
        corner = rng.uniform((0, 0), (WIDTH - side, HEIGHT - side))
        for t in range(LENGTH):
            x, y = corner - path[t] * (1 + near)
            textures.paste(shown[t], layer, np.array([[1, 0, x], [0, 1, y]]))
    return shown


def vignetting(frames: Frames) -> Frames:
    """The corners are darker by 60 %."""
    return np.rint(frames * (1 - 0.6 * _radius() ** 2)[..., None]).astype(np.uint8)


def barrel(frames: Frames) -> Frames:
    """The lens moves the corners inwards by 8 %."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    stretch = 0.92 * (1 + 0.087 * _radius() ** 2)
    at = [((g - c) * stretch + c).astype(np.float32) for g, c in ((x, (WIDTH - 1) / 2), (y, (HEIGHT - 1) / 2))]
    return np.stack([cv2.remap(frame, *at, cv2.INTER_CUBIC) for frame in frames])


def compression(frames: Frames, rate: int = 38) -> Frames:
    """H.264 with a constant rate factor of 38."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as video:
        stream = video.add_stream("libx264", rate=25, options={"crf": str(rate)})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    file.seek(0)
    with av.open(file) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def letterbox(frames: Frames) -> Frames:
    """Black bars above and below, an eighth of the height each."""
    shown = frames.copy()
    shown[:, : HEIGHT // 8] = shown[:, -HEIGHT // 8 :] = 0
    return shown


def overlay(frames: Frames) -> Frames:
    """A logo and a clock that counts tenths of a second."""
    shown = frames.copy()
    for t, frame in enumerate(shown):
        cv2.rectangle(frame, (WIDTH - 170, 20), (WIDTH - 20, 100), (230, 30, 30), -1)
        cv2.putText(frame, "NEWS", (WIDTH - 160, 75), cv2.FONT_HERSHEY_DUPLEX, 1.6, (255, 255, 255), 3)
        cv2.putText(frame, f"12:34:{t / 25:04.1f}", (20, HEIGHT - 24), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 3)
    return shown


def flicker(frames: Frames) -> Frames:
    """Bands of brightness ±8 % that run through the rows, as from lamps on 100 Hz mains."""
    row, time = np.arange(HEIGHT)[None, :], np.arange(LENGTH)[:, None]
    gain = 1 + 0.08 * np.sin(2 * np.pi * (row / 300 + 0.171 * time))
    return np.clip(np.rint(frames * gain[:, :, None, None]), 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, frames: Frames) -> Frames:
    """Sensor noise of 5 grey levels."""
    return np.clip(frames + rng.normal(0, 5, frames.shape), 0, 255).astype(np.uint8)


def _radius() -> Array:
    """Distance of every pixel from the middle, 1 in the corners: f64[H, W]."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return np.hypot(x, y * HEIGHT / WIDTH) / np.hypot(1, HEIGHT / WIDTH)


def rendered(seed: int, condition: str) -> Frames:
    """The frames of a scene in a condition."""
    layout, moving, own = map(np.random.default_rng, np.random.SeedSequence([seed, 1998]).spawn(3))
    picture, path = canvas(layout), camera_path(moving)
    rows = np.arange(HEIGHT) / HEIGHT if condition == "rolling shutter" else None
    return CONDITIONS[condition](own, filmed(picture, path, rows), path)


CONDITIONS: dict[str, Callable[[np.random.Generator, Frames, Array], Frames]] = {
    "plain": lambda rng, frames, path: frames,
    "overlay": lambda rng, frames, path: overlay(frames),
    "letterbox": lambda rng, frames, path: letterbox(frames),
    "compression": lambda rng, frames, path: compression(frames),
    "sensor noise": lambda rng, frames, path: noise(rng, frames),
    "vignetting": lambda rng, frames, path: vignetting(frames),
    "barrel distortion": lambda rng, frames, path: barrel(frames),
    "rolling shutter": lambda rng, frames, path: frames,
    "parallax": parallax,
    "flicker": lambda rng, frames, path: flicker(frames),
}


# ---- counts


def reasons(frames: Frames, condition: str, settings: config.ExperimentConfig) -> Counter[str]:
    """How many patches have a twin, and how many have none, by reason."""
    window = extract_window(frames, settings.extract)
    scoring = settings.score
    if condition == "flicker":
        scoring = scoring.model_copy(update={"trajectory": "both"})
    arrays = window["position"], window["camera"], window["visible"]
    scored = score_window(*arrays, scoring, scoring.seed, window["colour"], window["texture"])
    return Counter(reason or "twin" for reason in scored.twins.reason)


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="settings of extract and score")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = config.load(None, SETTINGS + arguments.settings)
    cv2.setNumThreads(1)

    rows = []
    for condition in CONDITIONS:
        counts: Counter[str] = Counter()
        for seed in range(arguments.scenes):
            counts += reasons(rendered(seed, condition), condition, settings)
        rows.append({"condition": condition, "patches": counts.total(), "reasons": dict(counts)})
    names = sorted({reason for row in rows for reason in row["reasons"]} - {"twin"})
    title = f"{arguments.scenes} rendered still scenes in each condition (synthetic), {platform.processor()}"
    table = Table("condition", "patches with a twin", *names, title=title)
    for row in rows:
        found, patches = row["reasons"].get("twin", 0), row["patches"]
        cells = (str(row["reasons"].get(name, 0)) for name in names)
        table.add_row(row["condition"], f"{found}/{patches} = {found / patches:.0%}", *cells)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"scenes": arguments.scenes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
