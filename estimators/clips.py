"""Clips: find them, tell them apart, and decode them exactly.

A clip is a video file or a folder of frames. Frames are u8[H, W, 3] RGB, numbered from 0 in the order of decoding.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Read by OpenCV when it first opens a video: FFmpeg's complaints about damaged files come as ClipError instead.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Frame = NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv", ".y4m",
))  # fmt: skip
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
MANIFEST_SUFFIXES = frozenset((".txt", ".csv", ".parquet"))

_MIB = 1 << 20
# Decoding this many frames for nothing costs about as much as a seek, which decodes from the key frame before.
_SEEK_BEYOND = 250


class ClipError(ValueError):
    """A clip that cannot be found or read; the message names it and the remedy."""


@dataclass(frozen=True)
class Clip:
    """A clip and the name it is known by: unique, and the same wherever the data set lies."""

    clip_id: str
    path: str


def find_clips(path: str | Path) -> list[Clip]:
    """List the clips that `path` stands for, sorted by name.

    `path` is a video file; a folder of frames; a folder that holds either, at any depth; a glob; or a manifest: a
    `.txt` with a path per line (`#` starts a comment), or a `.csv` or `.parquet` with a column `path` and, if wanted,
    `clip_id`. A folder that directly holds images is one clip. Names are paths relative to the folder given (or the
    fixed part of the glob), suffix included; of a manifest, the paths as written, which are relative to the manifest
    and are not checked here, so that one missing clip does not stop the others. Raises ClipError where nothing is found
    or two clips share a name.
    """
    given = Path(path)
    if given.suffix.lower() in MANIFEST_SUFFIXES and given.is_file():
        clips = _listed(given)
    elif given.is_dir():
        clips = [Clip(_name(found, given), str(found)) for found in _walk(given)]
    elif given.is_file():
        if given.suffix.lower() in IMAGE_SUFFIXES:
            raise ClipError(f"{given} is a single image; give the folder that holds the clip's frames")
        clips = [Clip(given.name, str(given))]
    elif any(sign in str(path) for sign in "*?["):
        clips = _matching(given)
    else:
        raise ClipError(f"{given} does not exist; give a video, a folder of frames or clips, a glob or a manifest")
    if not clips:
        raise ClipError(f"{given} holds no clip; a clip is a video file or a folder of images")
    clips.sort(key=lambda clip: clip.clip_id)
    for one, next_one in pairwise(clips):
        if one.clip_id == next_one.clip_id:
            raise ClipError(
                f"{given} gives the name {one.clip_id!r} to both {one.path} and {next_one.path}; make clip_id unique"
            )
    return clips


def digest(path: str | Path) -> str:
    """Fingerprint a clip: 16 hex digits that depend neither on its place nor on its time stamps.

    Of a file: its size and its first and last MiB. Of a folder of frames: the names and sizes of all frames, and the
    bytes of the first and the last. It is quick, and blind to a change in the middle that keeps every size. Raises
    ClipError if the clip is missing or empty.
    """
    mark = hashlib.blake2b(digest_size=8)
    given = Path(path)
    if given.is_dir():
        images = _images(given)
        for image in images:
            mark.update(f"{image.name}\0{image.stat().st_size}\0".encode())
        ends = [images[0], images[-1]]
        for image in ends:
            mark.update(image.read_bytes())
        return mark.hexdigest()
    if not given.is_file():
        raise ClipError(f"clip {given} does not exist; check the path or the manifest")
    size = given.stat().st_size
    mark.update(f"{size}\0".encode())
    with given.open("rb") as file:
        mark.update(file.read(_MIB))
        file.seek(max(size - _MIB, 0))
        mark.update(file.read(_MIB))
    return mark.hexdigest()


def read_clip(path: str | Path, first: int = 0, count: int | None = None) -> Frame:
    """Decode frames `first` … `first + count − 1` (by default to the end) of a clip: u8[T, H, W, 3] RGB.

    `path` is a video file or a folder of frames. Raises ClipError if the clip cannot be read or has fewer frames.
    """
    with Reader(path) as reader:
        return reader.read(first, count)


class Reader:
    """A clip kept open, for windows read one after the other: each frame is decoded once if they come in order.

    A video is decoded onwards from where it stands. It seeks only far ahead or backwards, and only in files whose
    packets are evenly spaced in time, where the frame number follows from the time exactly; any other file is decoded
    from its start again. In a damaged file with frames missing in the middle, frame numbers after a seek may differ
    from those of a sequential pass. FFmpeg decodes with as many threads as OpenCV is set to.

    Images of a folder are ordered naturally (`2.png` before `10.png`); grey, 16-bit and four-channel images become
    8-bit RGB. Raises ClipError if the clip is missing or nothing in it can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.fps = 0.0
        self._next = 0
        self._shape: tuple[int, ...] | None = None
        self._even: bool | None = None
        self._video: cv2.VideoCapture | None = None
        self._images: list[Path] = []
        if self.path.is_dir():
            self._images = _images(self.path)
        elif self.path.is_file():
            self._video = self._open()
            fps = self._video.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if 0 < fps <= 1000 else 0.0
        else:
            raise ClipError(f"clip {self.path} does not exist; check the path or the manifest")

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        if self._video is not None:
            self._video.release()

    def read(self, first: int = 0, count: int | None = None) -> Frame:
        """Decode frames `first` … `first + count − 1` (by default to the end): u8[T, H, W, 3] RGB.

        Raises ClipError if the clip has fewer frames or they change size, ValueError if `first` or `count` makes no
        sense.
        """
        if first < 0 or (count is not None and count < 1):
            raise ValueError(f"first must be at least 0 and count at least 1, not {first} and {count}")
        self._go_to(first)
        taken: list[Frame] = []
        while (count is None or len(taken) < count) and (frame := self._decode()) is not None:
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
            taken.append(frame)
        if not taken or (count is not None and len(taken) < count):
            asked = f"from {first} on" if count is None else f"{first} to {first + count - 1}"
            raise ClipError(f"clip {self.path} has {self._next} frames, asked for {asked}; scan it for its true length")
        return np.stack(taken)

    def frames(self) -> Iterator[Frame]:
        """Decode all frames from the start, one at a time, as OpenCV gives them: u8[H, W, 3] BGR."""
        self._go_to(0)
        while (frame := self._decode()) is not None:
            yield frame
        if self._next == 0:
            raise ClipError(f"clip {self.path} has no frame that can be decoded; convert it or leave it out")

    def _open(self) -> cv2.VideoCapture:
        with _quiet():
            threads = max(1, cv2.getNumThreads())
            video = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
        if not video.isOpened():
            raise ClipError(f"clip {self.path} is no video that can be decoded; convert it or leave it out")
        return video

    def _decode(self) -> Frame | None:
        """Return the next frame, BGR; None at the end."""
        frame: Any
        if self._video is not None:
            ok, frame = self._video.read()
            if not ok:
                return None
        elif self._next < len(self._images):
            image = self._images[self._next]
            with _quiet():
                frame = cv2.imread(str(image), cv2.IMREAD_COLOR)
            if frame is None:
                raise ClipError(f"frame {image} cannot be decoded; replace it or leave the clip out")
        else:
            return None
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            old, new = self._shape, frame.shape
            raise ClipError(
                f"clip {self.path} changes size at frame {self._next} from {old[1]}x{old[0]} to {new[1]}x{new[0]}; "
                "split it there or resize its frames"
            )
        self._next += 1
        return frame

    def _go_to(self, first: int) -> None:
        """Stand before frame `first`, or at the end if there are fewer."""
        if self._video is None:
            self._next = min(first, len(self._images))
            return
        near = 0 <= first - self._next <= _SEEK_BEYOND
        if not near and not self._seek(first) and first < self._next:
            self._restart()
        while self._next < first and self._video.grab():
            self._next += 1

    def _seek(self, first: int) -> bool:
        """Jump to frame `first` if that can be done exactly."""
        assert self._video is not None
        if first == 0:
            return False
        if self._even is None:
            self._even = self._evenly_spaced()
        if not self._even:
            return False
        self._video.set(cv2.CAP_PROP_POS_FRAMES, first)
        if int(self._video.get(cv2.CAP_PROP_POS_FRAMES)) == first and self._video.grab():
            # Only a frame that is there proves that the seek did not stop short at the end.
            self._video.set(cv2.CAP_PROP_POS_FRAMES, first)
            self._next = first
            return True
        self._restart()
        return False

    def _restart(self) -> None:
        assert self._video is not None
        self._video.release()
        self._video, self._next = self._open(), 0

    def _evenly_spaced(self) -> bool:
        """Say whether the packets of the file are evenly spaced in time; they are read, not decoded."""
        with _quiet():
            packets = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        times = []
        while packets.grab():
            times.append(packets.get(cv2.CAP_PROP_PTS))
        packets.release()
        steps = np.diff(np.sort(times))
        return steps.size > 0 and steps[0] > 0 and bool((steps == steps[0]).all())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what is raised as ClipError."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def _images(folder: Path) -> list[Path]:
    """List the frames of a folder in natural order; ClipError if there are none."""
    images = [file for file in folder.iterdir() if _is_a(file.name, IMAGE_SUFFIXES)]
    if not images:
        raise ClipError(f"clip {folder} holds no images; give a video file or a folder of frames")
    return sorted(images, key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Order names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _is_a(name: str, suffixes: frozenset[str]) -> bool:
    """Say whether a file name has one of the suffixes; hidden files never do."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _walk(root: Path) -> Iterator[Path]:
    """Find videos and folders of frames under a folder; follows links, but enters every folder once."""
    entered: set[Path] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = Path(place).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(_is_a(name, IMAGE_SUFFIXES) for name in files):
            yield Path(place)
        yield from (Path(place, name) for name in files if _is_a(name, VIDEO_SUFFIXES))


def _name(found: Path, root: Path) -> str:
    """Name a clip by its path below the root; the root itself by its own name."""
    return found.relative_to(root).as_posix() if found != root else root.resolve().name


def _matching(pattern: Path) -> list[Clip]:
    """List the clips that a glob matches."""
    fixed = 0
    while not any(sign in pattern.parts[fixed] for sign in "*?["):
        fixed += 1
    root = Path(*pattern.parts[:fixed])
    found: set[Path] = set()
    for match in root.glob(str(Path(*pattern.parts[fixed:]))):
        if match.is_dir():
            found.update(_walk(match))
        elif _is_a(match.name, VIDEO_SUFFIXES):
            found.add(match)
    return [Clip(_name(path, root), str(path)) for path in found]


def _listed(manifest: Path) -> list[Clip]:
    """Read the clips of a manifest."""
    kind = manifest.suffix.lower()
    rows: list[dict[str, str | None]]
    if kind == ".txt":
        lines = (line.strip() for line in manifest.read_text(encoding="utf-8-sig").splitlines())
        rows = [{"path": line} for line in lines if line and not line.startswith("#")]
    elif kind == ".csv":
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    else:
        import pyarrow.parquet  # Only here: everything else in this package needs NumPy and OpenCV alone.

        rows = pyarrow.parquet.read_table(manifest).to_pylist()
    clips = []
    for row in rows:
        path = row.get("path")
        if not path:
            raise ClipError(f"manifest {manifest} has a row without a path; give every clip one in the column 'path'")
        clips.append(Clip(str(row.get("clip_id") or Path(path).as_posix()), str(manifest.parent / path)))
    return clips
