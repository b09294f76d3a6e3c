"""A call that exceeds its time limit raises, and what it works on is not touched any more."""

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
    """Make whoever opens the file wait, as for a disconnected disk: the system first asks for our lease on it."""
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


def test_a_call_returns_and_raises_what_the_work_does() -> None:
    calls = TimedCalls(60)
    assert calls.call(lambda: 3) == 3
    with pytest.raises(KeyError, match="gone"):
        calls.call(lambda: {}["gone"])
    assert calls.call(lambda: threading.current_thread()) is not threading.current_thread()
    calls.end()


def test_a_call_that_exceeds_its_limit_is_abandoned_and_later_calls_are_refused() -> None:
    calls, free = TimedCalls(0.05), threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer in 0\.05 s"):
        calls.call(lambda: free.wait(60))
    assert calls.lost
    with pytest.raises(TimeoutError, match="an earlier call"):
        calls.call(lambda: 3)
    free.set()


def test_a_call_may_have_a_longer_limit() -> None:
    calls = TimedCalls(0.05)
    assert calls.call(partial(time.sleep, 0.2), times=200) is None


@pytest.mark.parametrize("ask", [digest, shots.scan, lambda path, seconds: Reader(path, read_timeout=seconds).read()])
def test_a_clip_whose_disk_does_not_answer_is_an_error_that_names_it(
    folder: Path, ask: Callable[[Path, float], object]
) -> None:
    with (
        blocked(folder / "00.png"),
        pytest.raises(ClipError, match=rf"^clip {folder} gave no answer for 0\.1 s; check"),
    ):
        ask(folder, 0.1)


def test_a_video_whose_disk_does_not_answer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(4):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with blocked(path), pytest.raises(ClipError, match=r"gave no answer for 0\.2 s"):
        Reader(path, read_timeout=0.2)
    assert Reader(path).read().shape == (4, 48, 64, 3)


def test_frames_before_one_that_blocks_are_read_and_none_after_it(folder: Path) -> None:
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
