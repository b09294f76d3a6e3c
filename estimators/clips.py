"""Clips: find them, tell them apart, and decode them exactly.

A clip is a video file or a folder of frames. Frames are u8[H, W, 3] RGB, numbered from 0 in the order of decoding.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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

_MIB = 1 << 20
# Decoding this many frames for nothing costs about as much as a seek, which decodes from the key frame before.
_SEEK_BEYOND = 250


class ClipError(ValueError):
    """A clip that cannot be found or read; the message names it and the remedy."""


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
    images = [file for file in folder.iterdir() if is_a(file.name, IMAGE_SUFFIXES)]
    if not images:
        raise ClipError(f"clip {folder} holds no images; give a video file or a folder of frames")
    return sorted(images, key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Order names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def is_a(name: str, suffixes: frozenset[str]) -> bool:
    """Say whether a file name has one of the suffixes; hidden files never do."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes
