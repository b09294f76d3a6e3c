"""Fingerprints of clips: a short one that names a clip, and those by which a changed clip is found."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from infoaug.estimators.options import READ_TIMEOUT
from infoaug.estimators.video.clip_files import ClipError, in_time, is_folder, once_in_time, readable
from infoaug.estimators.video.frame_folders import frames_of
from infoaug.estimators.video.timed_calls import TimedCalls

_MIB = 1 << 20
_AT_ONCE = 16 * _MIB  # read within the time limit
_CLIPS_AT_ONCE, _READERS = 64, 32  # looked at within the time limit; threads


def digest(path: str | Path, read_timeout: float = READ_TIMEOUT) -> str:
    """Fingerprint a clip quickly: 16 hex digits, independent of its path and its modification time.

    A file is fingerprinted by its size and its first and last MiB, a folder of frames by the names and sizes of all
    frames and the bytes of the first and the last. A change in the middle that keeps every size is not noticed; see
    `content`.

    Args:
        path: a video file or a folder of frames.
        read_timeout: seconds to wait for the clip's disk.

    Raises:
        ClipError: the clip is missing, is an empty folder or no regular file, or its disk does not answer in time.
    """
    return once_in_time(Path(path), read_timeout, _digest)


def signature(path: str | Path, read_timeout: float = READ_TIMEOUT) -> str:
    """Fingerprint what the disk says of a clip's files: 32 hex digits of names, sizes and times, without reading them.

    While it stays the same, so does the content. It changes when the clip is copied or moved. Arguments and errors are
    those of `digest`.
    """
    return once_in_time(Path(path), read_timeout, _signature)


def signatures(paths: Sequence[str | Path], read_timeout: float = READ_TIMEOUT) -> list[str | None]:
    """The `signature` of each of many clips, several at the same time.

    Args:
        paths: video files or folders of frames.
        read_timeout: seconds to wait for the disk, for 64 clips.

    Returns:
        The signatures; None for a clip that cannot be read, and for all that follow when the disk does not answer.
    """
    parts = [paths[start : start + _CLIPS_AT_ONCE] for start in range(0, len(paths), _CLIPS_AT_ONCE)]
    lost = Event()

    def read(part: Sequence[str | Path]) -> list[str | None]:
        calls = TimedCalls(read_timeout)
        try:
            if not lost.is_set():
                return calls.call(lambda: [*map(_signature_if_readable, part)])
        except TimeoutError:
            lost.set()
        finally:
            calls.end()
        return [None] * len(part)

    with ThreadPoolExecutor(_READERS) as pool:
        return [found for part in pool.map(read, parts) for found in part]


def content(path: str | Path, read_timeout: float = READ_TIMEOUT) -> str:
    """Fingerprint all bytes of a clip, and the names of its frames: 32 hex digits.

    Arguments and errors are those of `digest`; the time limit is for 16 MiB.
    """
    clip, mark = Path(path), hashlib.blake2b(digest_size=16)
    calls = TimedCalls(read_timeout)
    try:
        with readable(clip):
            for file in in_time(calls, clip, lambda: _files(clip)):
                mark.update(os.fsencode(file.name if file != clip else "") + b"\0")
                parts = _parts(file)
                while part := in_time(calls, clip, lambda parts=parts: next(parts, b"")):  # type: ignore[misc]
                    mark.update(part)
        return mark.hexdigest()
    finally:
        calls.end()


def _files(clip: Path) -> list[Path]:
    return frames_of(clip) if is_folder(clip) else [clip]


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(_AT_ONCE):
            yield part


def _digest(clip: Path) -> str:
    mark = hashlib.blake2b(digest_size=8)
    if is_folder(clip):
        images = frames_of(clip)
        for image in images:
            mark.update(os.fsencode(image.name) + f"\0{image.stat().st_size}\0".encode())
        for image in (images[0], images[-1]):
            mark.update(image.read_bytes())
        return mark.hexdigest()
    size = clip.stat().st_size
    mark.update(f"{size}\0".encode())
    with clip.open("rb") as file:
        mark.update(file.read(_MIB))
        file.seek(max(size - _MIB, 0))
        mark.update(file.read(_MIB))
    return mark.hexdigest()


def _signature_if_readable(path: str | Path) -> str | None:
    try:
        return _signature(Path(path))
    except (OSError, ClipError):
        return None


def _signature(clip: Path) -> str:
    mark = hashlib.blake2b(digest_size=16)
    for file in _files(clip):
        status = file.stat()
        # The time of the last change of the file's entry, too: tools that copy can set the other one.
        numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        mark.update(os.fsencode(file.name) + f"\0{numbers}\0".encode())
    return mark.hexdigest()
