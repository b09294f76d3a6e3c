"""Animation of a window: its frames with the moving patches, as a GIF or an MP4 file."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from infoaug.estimators.video.clips import quiet
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting.figures import BLUE, GREY, INK
from infoaug.orchestrator.reporting.pictures import SPREAD_COLOURS, hidden, moves, spread_norm, spread_ticks
from infoaug.orchestrator.runtime import scratch

Frames = NDArray[np.uint8]

CODECS = ("avc1", "vp09", "mp4v")  # by browser support; not every build of OpenCV has all
MAX_FPS = 15.0  # slow enough for the eye to follow
LONGER_SIDE = {".gif": 480, ".mp4": 640}  # of the frames, pixels; a GIF compresses badly
MIN_WIDTH = 480  # of the strip below the frames, pixels
STRIP, COUNTER = 60, 82  # pixels: height of the strip, width of the frame counter in it
TRAIL = 12  # frames
SHADES = 16  # levels of the colour scale
SLATE = "#46505A"  # of static patches: darker than the darkest frame, since frames are drawn pale
SHIFT = 4  # fractional bits of OpenCV's coordinates
# A small dot is drawn as a closed ring: OpenCV would draw a short thick line as a cross.
SMALL = np.round(11 * np.exp(1j * np.linspace(0, 2 * np.pi, 9)).view(float).reshape(-1, 2)).astype(np.int32)


@dataclass(frozen=True)
class Movie:
    """Content of an animation: T frames and N patches.

    Attributes:
        frames: u8[T, H, W, 3] RGB.
        fps: frames per second, 0 where unknown.
        position: f[N, T, 2] pixels; interpolated while a patch is hidden (`pictures.bridged`).
        visible: bool[N, T].
        spread: f64[N] pixels, RMS distance of the residual trajectory from its mean; it sets the colour of the track.
        reason: N reasons why a patch has no twin, empty where it has one.
        twin: int[N], −1 for none.
    """

    frames: Frames
    fps: float
    position: NDArray[np.floating]
    visible: NDArray[np.bool_]
    spread: NDArray[np.floating]
    reason: Sequence[str]
    twin: NDArray[np.integer]


def checked(path: Path) -> Path:
    """Return the path if its suffix is that of an animation.

    Raises:
        UsageError: the suffix is neither `.gif` nor `.mp4`.
    """
    if path.suffix.lower() not in LONGER_SIDE:
        raise UsageError(f"'{path}' is neither a .gif nor an .mp4 file: give the animation one of these suffixes")
    return path


def save(movie: Movie, path: Path) -> Path:
    """Write an animation in the format of its suffix, at the clip's frame rate up to 15 frames per second.

    Raises:
        UsageError, StageError: as `write`.
    """
    pictures = draw(movie, LONGER_SIDE[checked(path).suffix.lower()])
    return write(pictures, path, min(movie.fps, MAX_FPS) if movie.fps > 0 else MAX_FPS)


def write(pictures: Iterator[Frames], path: Path, fps: float = MAX_FPS) -> Path:
    """Write pictures u8[H, W, 3] RGB of one size with even sides, in the format of the path's suffix.

    Raises:
        UsageError: the suffix is neither `.gif` nor `.mp4`.
        StageError: the file cannot be written, or this OpenCV has no codec for it.
    """
    content = {".gif": _gif, ".mp4": _mp4}[checked(path).suffix.lower()](pictures, fps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StageError(f"cannot write the animation '{path}': {error.strerror}") from None
    return path


def draw(movie: Movie, longest: int) -> Iterator[Frames]:
    """Yield the pictures of an animation, one per frame: u8[H', W', 3] RGB, with even sides and a legend below.

    Frames are scaled to `longest` pixels on the longer side; narrow ones are padded with white.

    Each patch is a dot with the trail of its last frames, in the colours of `pictures.draw_tracks`. A thin line joins
    it to its twin. While the patch is hidden, the dot is hollow and the trail dotted. After the patch was last visible,
    it is not drawn.
    """
    height, width = movie.frames.shape[1:3]
    scale = longest / max(height, width)
    size = (_even(width * scale), _even(height * scale))
    margin = max(MIN_WIDTH - size[0], 0) // 2
    moving = moves(movie.reason, movie.spread)
    norm = spread_norm(np.asarray(movie.spread, float)[moving]) if moving.any() else None
    shade = np.full(len(moving), -1)
    if norm:
        shade[moving] = (np.asarray(norm(movie.spread[moving])) * (SHADES - 1)).round()

    occluded = hidden(movie.visible)
    present = movie.visible | occluded
    points = (np.asarray(movie.position, float) + 0.5) * (np.array(size) / (width, height)) - 0.5
    points = np.clip(np.nan_to_num(points), -longest, 2 * longest)  # OpenCV overflows far outside the picture
    points = np.round(points * 2**SHIFT).astype(np.int32)
    has = np.flatnonzero(movie.twin >= 0)
    mutual = movie.twin[movie.twin[has]] == has
    ends = np.stack([has, movie.twin[has]], 1)[~mutual | (has < movie.twin[has])]
    dot = int(np.clip(0.5 * math.sqrt(size[0] * size[1] / max(len(shade), 1)), 5, 8))  # smaller for many patches
    strip = _strip(size[0] + 2 * margin, norm, bool((~moving).any()), bool(occluded.any()), len(ends) > 0)
    number = Figure(figsize=(COUNTER / 100, STRIP / 100), dpi=100, facecolor="white")
    counter = number.text(8 / COUNTER, 0.5, "", fontsize=8.5, va="center", color=INK)

    for t, frame in enumerate(movie.frames):
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        picture = (picture * 0.55 + 114).astype(np.uint8)  # paler, so that the tracks stand occluded
        joined = ends[present[ends, t].all(1)]
        if len(joined):
            veil, weight = picture.copy(), float(np.clip(15 / len(joined), 0.25, 0.55))
            _lines(veil, points[joined, t], INK, 1)
            picture = cv2.addWeighted(veil, weight, picture, 1 - weight, 0).astype(np.uint8)
        _trails(picture, points[:, max(t - TRAIL, 0) : t + 1], present, occluded, shade, t)
        _dots(picture, points[:, t], present[:, t], occluded[:, t], shade, dot)
        framed = cv2.copyMakeBorder(picture, 0, 0, margin, margin, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        counter.set_text(f"frame {t + 1}/{len(movie.frames)}")
        yield np.vstack([framed, np.hstack([_pixels(number), strip[:, COUNTER:]])])


def _trails(
    picture: Frames,
    points: NDArray[np.int32],
    present: NDArray[np.bool_],
    occluded: NDArray[np.bool_],
    shade: NDArray[np.int64],
    t: int,
) -> None:
    """Draw the last steps of each patch: `points` int[N, up to TRAIL + 1, 2] end at frame t."""
    first = t - points.shape[1] + 1
    steps = np.stack([points[:, :-1], points[:, 1:]], axis=2)
    now, seen = slice(first + 1, t + 1), present & ~occluded
    past = slice(first, t)
    solid = seen[:, now] & seen[:, past]
    # Every other hidden step, counted from the window's start so that the dots do not move between frames.
    dotted = present[:, now] & present[:, past] & ~solid & (np.arange(first, t) % 2 == 0)
    _lines(picture, steps[(shade < 0)[:, None] & (solid | dotted)], GREY, 1)
    _lines(picture, steps[(shade >= 0)[:, None] & solid], "white", 4)
    for level in np.unique(shade[shade >= 0]):
        own = (shade == level)[:, None]
        _lines(picture, steps[own & solid], _colour(level), 2)
        _lines(picture, steps[own & dotted], _colour(level), 1)


def _dots(
    picture: Frames,
    points: NDArray[np.int32],
    present: NDArray[np.bool_],
    occluded: NDArray[np.bool_],
    shade: NDArray[np.int64],
    size: int,
) -> None:
    """Draw the current positions. A dot is a line of length 0, so that one call draws all dots of a colour."""
    lines, moving = np.stack([points, points], axis=1), shade >= 0
    _lines(picture, points[present & ~moving & ~occluded][:, None] + SMALL, SLATE, 2)
    _lines(picture, lines[present & moving], "white", size + 2)
    for level in np.unique(shade[moving]):
        _lines(picture, lines[present & (shade == level)], _colour(level), size)
    _lines(picture, lines[moving & occluded], "white", size - 2)


def _lines(picture: Frames, lines: NDArray[np.int32], colour: Any, thickness: int) -> None:
    """Draw M lines of P points each, int[M, P, 2], with fractional coordinates."""
    value = [round(255 * part) for part in to_rgb(colour)]
    cv2.polylines(picture, list(lines), False, value, thickness, cv2.LINE_AA, SHIFT)


def _colour(level: int) -> Any:
    return SPREAD_COLOURS(level / (SHADES - 1))[:3]


def _strip(width: int, norm: LogNorm | None, still: bool, occluded: bool, twins: bool) -> Frames:
    """The legend of markers and the colour scale below the frames, beside the frame counter."""
    figure = Figure(figsize=(width / 100, STRIP / 100), dpi=100, facecolor="white")
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "mec": BLUE}
    marks = [
        (norm is not None, Line2D([], [], mfc=BLUE, ms=5, **dot), "moving"),
        (still, Line2D([], [], linestyle="", marker="o", mfc=SLATE, mec=SLATE, ms=2), "static or lost"),
        (occluded, Line2D([], [], mfc="white", ms=4.5, **dot), "hidden"),
        (twins, Line2D([], [], color=INK, lw=0.8, alpha=0.6), "to its twin"),
    ]
    shown = [(handle, label) for present, handle, label in marks if present]
    if shown:
        figure.legend(
            *zip(*shown, strict=True), loc="center left", bbox_to_anchor=(COUNTER / width, 0.5), ncols=2, frameon=False,
            fontsize=7.5, handletextpad=0.3, columnspacing=0.8, handlelength=1.5, labelcolor=INK,
        )  # fmt: skip
    if norm:
        axes = figure.add_axes((1 - 158 / width, 0.62, 136 / width, 0.16))
        mapped = ScalarMappable(norm, SPREAD_COLOURS)
        bar = figure.colorbar(mapped, cax=axes, orientation="horizontal", ticks=spread_ticks(norm, 4), format="{x:g}")
        bar.minorticks_off()
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5, labelcolor=INK, length=2, pad=1)
        bar.set_label("spread of residual motion, px", fontsize=7.5, color=INK, labelpad=1)
    return _pixels(figure)


def _pixels(figure: Figure) -> Frames:
    """A figure as u8[H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _gif(pictures: Iterator[Frames], fps: float) -> bytes:
    """Encode an endless GIF; all pictures share one palette, which contains the exact colours of the tracks."""
    images = [Image.fromarray(picture) for picture in pictures]
    kept = [to_rgb(colour) for colour in ("white", INK, GREY, SLATE, BLUE)] + [
        _colour(level) for level in range(SHADES)
    ]
    sample = np.vstack([np.asarray(image) for image in images[:: max(1, len(images) // 6)]])
    rest = Image.fromarray(sample).quantize(256 - len(kept), Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([round(255 * part) for colour in kept for part in colour] + rest)
    first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def _mp4(pictures: Iterator[Frames], fps: float) -> bytes:
    """Encode an MP4 with the first codec that this OpenCV can write."""
    first = next(pictures)
    with scratch.folder() as folder:
        path = folder / "animation.mp4"
        video = _opened(path, fps, (first.shape[1], first.shape[0]))
        video.write(cv2.cvtColor(first, cv2.COLOR_RGB2BGR))
        for picture in pictures:
            video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        video.release()
        return path.read_bytes()


def _opened(path: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """A writer with the first codec that opens; OpenCV's messages on the others are hidden."""
    with quiet():
        for codec in CODECS:
            video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size)
            if video.isOpened():
                return video
    raise StageError("this OpenCV cannot write MP4: name a .gif file, or install opencv-python-headless from PyPI")


def _even(length: float) -> int:
    """The nearest even number, at least 2; video codecs need even sides."""
    return max(2, 2 * round(length / 2))
