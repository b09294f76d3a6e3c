"""Clips: exact decoding of video files and folders of frames.

Frames are u8[H, W, 3] RGB, numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.options import MAX_WINDOW_BYTES, READ_TIMEOUT
from infoaug.estimators.video import video_file
from infoaug.estimators.video.clip_files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ClipError,
    in_time,
    is_a,
    is_folder,
    once_in_time,
    readable,
)
from infoaug.estimators.video.fingerprints import content, digest, signature, signatures
from infoaug.estimators.video.frame_folders import frames_of, in_order, read_frame
from infoaug.estimators.video.timed_calls import TimedCalls
from infoaug.estimators.video.video_file import FrameIndex, VideoFile, frame_index

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ClipError",
    "Reader",
    "check_window",
    "content",
    "conversions",
    "digest",
    "in_order",
    "is_a",
    "quiet",
    "read_clip",
    "signature",
    "signatures",
]

# OpenCV reads this when it first opens a video, and FFmpeg then writes nothing to stderr; errors are raised.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Frame = NDArray[np.uint8]
T = TypeVar("T")

_log = logging.getLogger(__name__)

_MIB = 1 << 20
# Skipping this many frames costs about as much as a seek, which decodes from the key frame before.
_SEEK_BEYOND = 250


def check_window(path: str | Path, count: int, height: int, width: int, max_bytes: int = MAX_WINDOW_BYTES) -> None:
    """Raise ClipError if `count` RGB frames of height × width pixels take more than `max_bytes`."""
    needed = 3 * count * height * width
    if needed > max_bytes:
        what = f"{count} frames" if count > 1 else "a frame"
        raise ClipError(
            f"{what} of {width}x{height} of clip {path} would take {needed / _MIB:.0f} MiB, more than "
            f"{max_bytes / _MIB:.0f}; resize the clip, or set extract.window lower or extract.max_window_mb higher"
        )


def read_clip(
    path: str | Path,
    first: int = 0,
    count: int | None = None,
    *,
    max_bytes: int = MAX_WINDOW_BYTES,
) -> Frame:
    """Decode a window of a clip: u8[T, H, W, 3] RGB.

    Args:
        path: a video file or a folder of frames.
        first: number of the first frame.
        count: number of frames; by default all to the end.
        max_bytes: limit of the window's size.

    Raises:
        ClipError: the clip cannot be read, has fewer frames, or they would take more than `max_bytes`.
        ValueError: `first` is negative or `count` below 1.
    """
    with Reader(path, max_bytes) as reader:
        frames = reader.read(first, count)
    frames.setflags(write=True)  # the reader, which shared it, is gone
    return frames


def conversions(path: str | Path, read_timeout: float = READ_TIMEOUT) -> list[str]:
    """Name what is special about a clip's frames: `deinterlaced`, `square pixels`, `stream 1`; nothing for a folder.

    Args:
        path: a video file or a folder of frames.
        read_timeout: seconds to wait for the clip's disk.

    Raises:
        ClipError: the clip cannot be opened, or its disk does not answer in time.
    """
    return once_in_time(Path(path), read_timeout, lambda clip: [] if is_folder(clip) else video_file.conversions(clip))


class Reader:
    """An open clip, for reading windows one after the other.

    Windows in ascending order are decoded in one pass: frames that a window shares with the one before are copied. The
    reader keeps the last window, and while it reads one that overlaps it, both are in memory.

    Videos. Frame numbers are those of a pass from the start. To jump backwards or far ahead the reader seeks by time
    stamps: it lists the times of all packets, once per file and process, starts at a key frame before the window, and
    checks every frame it decodes against the list. If times are missing, repeated or not those of the decoded frames,
    it decodes from the start instead. One case is not noticed: a damaged packet far before the window that gives no
    frame. What FFmpeg shows for damaged data may depend on where decoding started. Frames are turned upright,
    interlaced ones deinterlaced, and pixels made square. The decoder uses as many threads as OpenCV is set to.

    A window with damaged frames is refused: those decoded with errors, and those after them up to the next key frame.
    `frames` gives them.

    Folders. Images are in the order of their numbers (`2.png` before `10.png`, `0.25.png` before `0.5.png`); grey,
    16-bit and four-channel images become 8-bit RGB.

    Args:
        path: a video file or a folder of frames.
        max_bytes: limit of a window's size, checked before memory is allocated.
        read_timeout: seconds to wait for a frame. A reader that has waited in vain reads no more.

    Raises:
        ClipError: the clip is missing, cannot be decoded or does not answer in time, here or in any method; or a single
            frame takes more than `max_bytes`.
    """

    def __init__(self, path: str | Path, max_bytes: int = MAX_WINDOW_BYTES, read_timeout: float = READ_TIMEOUT) -> None:
        self.path, self.max_bytes = Path(path), max_bytes
        self._calls = TimedCalls(read_timeout)
        self.fps = 0.0
        self._next = 0
        self._size: tuple[int, int] | None = None  # height, width
        self._last: tuple[list[int], Frame] | None = None  # frame numbers, window
        self._index: FrameIndex | None = None  # while frame numbers follow from a seek
        self._seekable = True
        self._video: VideoFile | None = None
        self._images: list[Path] = []
        try:
            self._in_time(self._begin)
        except BaseException:
            self.close()  # `with` will not, and the thread would wait for ever
            raise

    def _begin(self) -> None:
        with readable(self.path):
            if is_folder(self.path):
                self._images = frames_of(self.path)
                return
            self._video = self._open()
        self.fps = self._video.fps
        self._check_window(1)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the last window."""
        self._last = None
        self._calls.end()
        if self._video is not None and not self._calls.lost:  # a call that is lost may still use it
            self._video.close()

    @property
    def is_folder(self) -> bool:
        """Whether the clip is a folder of frames."""
        return self._video is None

    @property
    def announced(self) -> int:
        """Number of frames: of a folder its images, of a video what it announces, 0 if it does not."""
        return len(self._images) if self._video is None else self._video.announced

    def _in_time(self, work: Callable[[], T], times: float = 1) -> T:
        return in_time(self._calls, self.path, work, times)

    def read(self, first: int = 0, count: int | None = None) -> Frame:
        """Decode frames that follow each other: u8[T, H, W, 3] RGB, read-only as the next window may share its frames.

        Args:
            first: number of the first frame.
            count: number of frames; by default all to the end.

        Raises:
            ClipError: the clip has fewer frames, or they are damaged, change size, or take more than `max_bytes`.
            ValueError: `first` is negative or `count` below 1.
        """
        if first < 0 or (count is not None and count < 1):
            raise ValueError(f"first must be at least 0 and count at least 1, not {first} and {count}")
        return self._window(range(first, sys.maxsize if count is None else first + count), to_the_end=count is None)

    def take(self, numbers: Sequence[int]) -> Frame:
        """Decode the frames of these numbers, such as `shots.numbers` gives for a window: as `read`.

        Args:
            numbers: ascending, at least one; frames between them are left out.

        Raises:
            ClipError: as `read`.
            ValueError: there are no numbers, or they do not ascend.
        """
        if not numbers or numbers[0] < 0 or any(after <= before for before, after in pairwise(numbers)):
            raise ValueError(f"numbers of frames must ascend from 0 or more, not {numbers}")
        return self._window(numbers, to_the_end=False)

    def _window(self, numbers: Sequence[int], to_the_end: bool) -> Frame:
        """Decode the frames of these numbers; `to_the_end`, as many of them as there are."""
        shared = self._shared(numbers)
        if len(shared) == len(numbers):
            return shared
        self._last = None  # frees it before the next is allocated, unless they share frames
        read = self._rest if to_the_end else self._all
        with readable(self.path):
            self._check_window(1 if to_the_end else len(numbers))
            try:
                window = read(numbers, shared)
            except _AstrayError:
                _log.warning("clip %s: a seek led to other frames than announced; decoding from the start", self.path)
                self._seekable = False
                self._in_time(self._restart)
                window = read(numbers, shared[:0])
        window.setflags(write=False)
        self._last = list(numbers[: len(window)]), window
        return window

    def _shared(self, numbers: Sequence[int]) -> Frame:
        """Return the frames of the last window that the next one starts with, if it needs no other one before them."""
        if self._last is not None:
            last, window = self._last
            wanted = list(numbers[: bisect_left(numbers, self._next)])
            start = bisect_left(last, wanted[0]) if wanted else len(last)
            if wanted and last[start : start + len(wanted)] == wanted:
                return window[start : start + len(wanted)]
        return np.empty((0, 0, 0, 3), np.uint8)  # a slice would keep the last window alive

    def _all(self, numbers: Sequence[int], shared: Frame) -> Frame:
        """Decode these frames, of which the first are given."""
        window = shared
        for position in range(len(shared), len(numbers)):
            frame = self._frame(numbers[position])
            if frame is None:
                raise self._too_short(f"{numbers[0]} to {numbers[-1]}")
            if len(window) < len(numbers):
                self._check_window(len(numbers))
                window = np.empty((len(numbers), *frame.shape), np.uint8)
                if len(shared):
                    window[: len(shared)] = shared
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=window[position])
        return window

    def _rest(self, numbers: Sequence[int], shared: Frame) -> Frame:
        """Decode as many of these frames as there are, of which the first are given."""
        frames = [*shared]
        while (frame := self._frame(numbers[len(frames)])) is not None:
            self._check_window(len(frames) + 1)
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame))
        if not frames:
            raise self._too_short(f"{numbers[0]} on")
        return np.stack(frames)

    def _frame(self, number: int) -> Frame | None:
        """Decode a frame, BGR, and check that it is whole; None if the clip has fewer."""
        self._go_to(number)
        frame = self._in_time(self._decode) if self._next == number else None
        if frame is not None:
            self._check_whole()
        return frame

    def _check_window(self, count: int) -> None:
        """Raise ClipError if `count` frames, of their true size or else the announced one, take too much."""
        if self._size is not None:
            height, width = self._size
        elif self._video is not None:
            height, width = self._video.size
        else:
            return
        check_window(self.path, count, height, width, self.max_bytes)

    def _check_whole(self) -> None:
        """Raise ClipError if the frame that was decoded last is damaged."""
        if self._video is not None and self._video.is_damaged:
            raise ClipError(
                f"clip {self.path} is damaged at frame {self._next - 1}: it is decoded with errors; copy it again, or "
                "re-encode it"
            )

    def _too_short(self, asked: str) -> ClipError:
        return ClipError(f"clip {self.path} has {self._next} frames, asked for {asked}; scan it for its true length")

    def frames(self) -> Iterator[Frame]:
        """Decode all frames from the start, one at a time: u8[H, W, 3] BGR, the order of OpenCV."""
        self._last = None
        with readable(self.path):
            self._go_to(0)
            while (frame := self._in_time(self._decode)) is not None:
                yield frame
        if self._next == 0:
            raise ClipError(f"clip {self.path} has no frame that can be decoded; convert it or leave it out")

    def every(self, step: int, first: int = 0) -> Iterator[tuple[int, Frame | ClipError]]:
        """Decode every `step`-th frame from frame `first` to the end, one at a time; those between are not converted.

        Yields:
            The frame's number, and the frame, u8[H, W, 3] RGB, or in place of a damaged one why it is not given.

        Raises:
            ClipError: the frames change size, or the clip cannot be read any further.
        """
        self._last, self._seekable = None, False  # exact without an index: every packet is decoded once
        with readable(self.path):
            while True:
                self._go_to(first)
                frame = self._in_time(self._decode) if self._next == first else None
                if frame is None:
                    return
                try:
                    self._check_whole()
                except ClipError as error:
                    yield first, error
                else:
                    cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
                    yield first, frame
                first += step

    def _decode(self) -> Frame | None:
        """Return the next frame, BGR; None at the end."""
        frame: Any
        if self._video is not None:
            if not self._grab():
                return None
            self._check_size(self._video.size)  # before memory is allocated for it
            frame = self._video.image()
        elif self._next < len(self._images):
            with quiet():
                frame = read_frame(self._images[self._next])
        else:
            return None
        self._check_size(frame.shape[:2])
        self._next += 1
        return frame

    def _check_size(self, size: tuple[int, int]) -> None:
        """Raise ClipError if the next frame has another size than those before it."""
        self._size = self._size or size
        if size != self._size:
            old, new = self._size, size
            raise ClipError(
                f"clip {self.path} changes size at frame {self._next} from {old[1]}x{old[0]} to {new[1]}x{new[0]}; "
                "split it there or resize its frames"
            )

    def _go_to(self, first: int) -> None:
        """Move to before frame `first`, or to the end if there are fewer."""
        if self._video is None:
            self._next = min(first, len(self._images))
            return
        near = 0 <= first - self._next <= _SEEK_BEYOND
        # A seek may list the packets of the whole file first.
        sought = not near and self._in_time(lambda: self._seek(first), times=10)
        if not near and not sought and (first < self._next or self._index is not None):
            self._in_time(self._restart)
        while self._next < first and self._in_time(self._grab):
            self._next += 1

    def _grab(self) -> bool:
        """Decode the next frame without converting it; False at the end. After a seek, check it against the index."""
        assert self._video is not None
        ok = self._video.grab()
        if self._index is not None:
            number = self._index.number(self._video.time) if ok else len(self._index.times)
            if number != self._next:
                raise _AstrayError
        return ok

    def _seek(self, first: int) -> bool:
        """Jump to a frame before frame `first` whose number is known; False if that cannot be done."""
        assert self._video is not None
        if first == 0 or not self._seekable:
            return False
        status = self.path.stat()
        index = frame_index(str(self.path), status.st_size, status.st_mtime_ns)
        self._seekable = index is not None
        if index is None:
            _log.debug("clip %s: frames cannot be told by their time stamps; decoding from the start", self.path)
        if index is None or first >= len(index.times):
            return False
        number = self._video.seek(index, first)
        if number is None:
            self._restart()
            return False
        self._index, self._next = index, number + 1
        return True

    def _restart(self) -> None:
        assert self._video is not None
        self._video.close()
        self._video, self._next, self._index = self._open(), 0, None

    def _open(self) -> VideoFile:
        return VideoFile(self.path, threads=max(1, cv2.getNumThreads()))


class _AstrayError(Exception):
    """After a seek the decoder gives other frames than the index announces."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV from writing warnings to stderr; failures are raised as errors instead."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
