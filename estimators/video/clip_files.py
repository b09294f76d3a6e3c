"""Clips on disk: which files are one, what tells it from others, and what is wrong with one that cannot be read."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av
import cv2

from infoaug.estimators.options import READ_TIMEOUT
from infoaug.estimators.video.timed_calls import TimedCalls

T = TypeVar("T")

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv", ".y4m",
))  # fmt: skip
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))

_MIB = 1 << 20
# How a list of clips writes the bytes of such names.
_NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")


class ClipError(ValueError):
    """A clip that cannot be found or read; the message names it and the remedy.

    It is one line of printable characters, whatever the clip is called, and its middle is left out where it is long.
    """

    def __init__(self, message: str) -> None:
        line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(message.split()))
        super().__init__(line if len(line) <= 1500 else f"{line[:1000]} … {line[-400:]}")


def digest(path: str | Path, read_timeout: float = READ_TIMEOUT) -> str:
    """Fingerprint a clip: 16 hex digits that depend neither on its place nor on its time stamps.

    Of a file: its size and its first and last MiB. Of a folder of frames: the names and sizes of all frames, and the
    bytes of the first and the last. It is quick, and blind to a change in the middle that keeps every size. Raises
    ClipError if the clip is missing or empty, or is no regular file, which might never end, or if its disk does not
    answer within `read_timeout` seconds.
    """
    waiting = TimedCalls(read_timeout)
    try:
        return in_time(waiting, Path(path), lambda: _digest(Path(path)))
    finally:
        waiting.end()


def in_time(read_timeout: TimedCalls, clip: Path, work: Callable[[], T], times: float = 1) -> T:
    """What `work`, which may wait for a clip's disk, returns or raises; ClipError if that takes too long."""
    try:
        return read_timeout.call(work, times)
    except TimeoutError:
        what = f"clip {clip} gave no answer for {read_timeout.seconds:g} s"
        raise ClipError(f"{what}; see whether its disk is there, or leave it out") from None


def _digest(given: Path) -> str:
    mark = hashlib.blake2b(digest_size=8)
    with readable(given):
        if is_folder(given):
            images = frames_of(given)
            for image in images:
                mark.update(os.fsencode(image.name) + f"\0{image.stat().st_size}\0".encode())
            for image in (images[0], images[-1]):
                mark.update(image.read_bytes())
            return mark.hexdigest()
        size = given.stat().st_size
        mark.update(f"{size}\0".encode())
        with given.open("rb") as file:
            mark.update(file.read(_MIB))
            file.seek(max(size - _MIB, 0))
            mark.update(file.read(_MIB))
    return mark.hexdigest()


@contextmanager
def readable(clip: Path) -> Iterator[None]:
    """Turn what the system or OpenCV says of a clip into a ClipError."""
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
    """Tell a folder of frames from a video file; ClipError for what is neither, such as a pipe, which might hang."""
    try:
        mode = clip.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if _NOT_UTF8.search(str(clip)):
            raise ClipError(f"clip {clip} has a name that is not UTF-8; rename it") from None
        raise ClipError(f"clip {clip} does not exist; check the path or the manifest") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ClipError(f"clip {clip} is neither a regular file nor a folder; leave it out")
    return stat.S_ISDIR(mode)


def frames_of(folder: Path) -> list[Path]:
    """List the frames of a folder in natural order; ClipError if there are none, or one is no regular file."""
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_a(entry.name, IMAGE_SUFFIXES):
                if not _is_regular(entry):  # a pipe would hang, a link that leads nowhere is missing
                    raise ClipError(f"frame {entry.path} is no regular file; remove it or leave the clip out")
                images.append(folder / entry.name)
    if not images:
        raise ClipError(f"clip {folder} holds no images; give a video file or a folder of frames")
    return sorted(images, key=natural_order)


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # of a circle of links
        return False


def is_a(name: str, suffixes: frozenset[str]) -> bool:
    """Say whether a file name has one of the suffixes; hidden files never do."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def natural_order(file: Path) -> list[tuple[int, str]]:
    """Key that sorts files by the numbers in their names: `2.png` comes before `10.png`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]
