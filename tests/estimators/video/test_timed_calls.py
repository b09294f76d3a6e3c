"""Calls that take too long are given up, and what they worked on is left alone."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from infoaug.estimators.video import shots
from infoaug.estimators.video.clips import ClipError, Reader, digest, read_clip
from infoaug.estimators.video.timed_calls import TimedCalls


@contextmanager
def blocked(path: Path) -> Iterator[None]:
    """Within it whoever opens the file waits, as for a disk that is away: the system asks us for our lease first."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    held = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(held)
        signal.signal(signal.SIGIO, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip of 12 frames, in a folder."""
    for number in range(12):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), image)
    return tmp_path


def test_a_call_gives_what_it_returns_and_raises_what_it_raises() -> None:
    read_timeout = TimedCalls(60)
    assert read_timeout.call(lambda: 3) == 3
    with pytest.raises(KeyError, match="gone"):
        read_timeout.call(lambda: {}["gone"])
    assert read_timeout.call(lambda: threading.current_thread()) is not threading.current_thread()
    read_timeout.end()


def test_a_call_that_takes_too_long_is_left_and_every_later_one_refused() -> None:
    read_timeout, free = TimedCalls(0.05), threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer in 0\.05 s"):
        read_timeout.call(lambda: free.wait(60))
    assert read_timeout.lost
    with pytest.raises(TimeoutError, match="an earlier call"):
        read_timeout.call(lambda: 3)
    free.set()


def test_a_call_may_get_more_time_than_usual() -> None:
    read_timeout = TimedCalls(0.05)
    assert read_timeout.call(partial(time.sleep, 0.2), times=200) is None


@pytest.mark.parametrize("ask", [digest, shots.scan, lambda path, seconds: Reader(path, read_timeout=seconds).read()])
def test_a_clip_whose_disk_does_not_answer_is_given_up_with_its_name(
    folder: Path, ask: Callable[[Path, float], object]
) -> None:
    with (
        blocked(folder / "00.png"),
        pytest.raises(ClipError, match=rf"^clip {folder} gave no answer for 0\.1 s; see whether its disk is there"),
    ):
        ask(folder, 0.1)


def test_a_video_whose_disk_does_not_answer_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(4):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with blocked(path), pytest.raises(ClipError, match=r"gave no answer for 0\.2 s"):
        Reader(path, read_timeout=0.2)
    assert Reader(path).read().shape == (4, 48, 64, 3)


def test_frames_before_the_one_that_hangs_are_read_and_the_reader_reads_no_more(folder: Path) -> None:
    with Reader(folder, read_timeout=0.2) as reader, blocked(folder / "06.png"):
        assert reader.read(0, 6).shape == (6, 48, 64, 3)
        for _ in range(2):
            with pytest.raises(ClipError, match="gave no answer"):
                reader.read(6, 6)


def test_a_clip_that_is_refused_leaves_no_thread_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(bytes(5000))
    before = set(threading.enumerate())
    for _ in range(10):
        for reading in (digest, Reader, shots.scan, read_clip):
            with suppress(ClipError):
                reading(path)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive()
