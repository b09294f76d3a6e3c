"""Clips on disk: which files may be one, and errors for clips that cannot be read."""

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av
import cv2

from infoaug.estimators.video.timed_calls import TimedCalls

T = TypeVar("T")

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))  # fmt: skip
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

# `manifest` writes the bytes of a file name that is not UTF-8 like this.
_NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")


class ClipError(ValueError):
    """A clip cannot be found or read; the message names the clip and the remedy.

    The message is one line of printable characters, whatever the clip is called. The middle of a long one is cut out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(message.split()))
        super().__init__(line if len(line) <= 1500 else f"{line[:1000]} … {line[-400:]}")


def in_time(calls: TimedCalls, clip: Path, work: Callable[[], T], times: float = 1) -> T:
    """Call `work`, which may wait for a clip's disk; ClipError if it exceeds `times` the limit of `calls`."""
    try:
        return calls.call(work, times)
    except TimeoutError:
        raise ClipError(
            f"clip {clip} gave no answer for {calls.seconds:g} s; check that its disk is connected, or leave it out"
        ) from None


def once_in_time(clip: Path, read_timeout: float, work: Callable[[Path], T]) -> T:
    """Call `work` with a clip, once; ClipError if the clip cannot be read, or not within `read_timeout` seconds."""

    def read() -> T:
        with readable(clip):  # in here: a file system may raise a TimeoutError of its own
            return work(clip)

    calls = TimedCalls(read_timeout)
    try:
        return in_time(calls, clip, read)
    finally:
        calls.end()


@contextmanager
def readable(clip: Path) -> Iterator[None]:
    """Turn errors of the operating system, FFmpeg and OpenCV into a ClipError that names the clip."""
    try:
        yield
    except OSError as error:
        raise ClipError(f"clip {clip} cannot be read ({error.strerror or error}); fix it or leave it out") from None
    except av.FFmpegError as error:
        what = error.strerror or type(error).__name__
        raise ClipError(f"clip {clip} cannot be decoded ({what}); convert it or leave it out") from None
    except cv2.error as error:
        # Not `error.err`: OpenCV sets it on the class, where an earlier error's text may remain.
        what = str(error).rpartition(" error: ")[2]
        raise ClipError(f"clip {clip} cannot be decoded ({what}); convert it or leave it out") from None


def is_folder(clip: Path) -> bool:
    """Return whether a clip is a folder of frames; ClipError if it is no regular file either (a pipe might block)."""
    try:
        mode = clip.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if _NOT_UTF8.search(str(clip)):
            raise ClipError(f"clip {clip} has a name that is not UTF-8; rename it") from None
        raise ClipError(f"clip {clip} does not exist; check the path or the manifest") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ClipError(f"clip {clip} is neither a regular file nor a folder; leave it out")
    return stat.S_ISDIR(mode)


def is_a(name: str, suffixes: frozenset[str]) -> bool:
    """Return whether a file name has one of the suffixes, in any case; hidden files never do."""
    return not name.startswith(".") and name[name.rfind(".") :].lower() in suffixes
