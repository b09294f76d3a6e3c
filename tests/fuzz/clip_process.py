"""Reads clips in a process of its own, so that one that brings it down or hangs is found and told."""

import multiprocessing as mp
import resource
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

READ_TIMEOUT = 120  # seconds; a damaged clip of a few frames takes milliseconds
MOST_MEMORY = 6 << 30


def serve(requests: Connection) -> None:
    """In the child: for each path, what came of reading it, and why."""
    from infoaug.estimators.video import clips, shots

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    while True:
        path, window = requests.recv()
        try:
            clips.digest(path)
            seen = shots.scan(path)
            count = min(window, seen.frames)
            with clips.Reader(path) as reader:
                for first in (0, seen.frames - count, 0):
                    shape = reader.read(first, count).shape
                    assert shape == (count, seen.height, seen.width, 3), shape
            requests.send(("read", seen.frames))
        except clips.ClipError as error:
            requests.send(("refused", str(error)))
        except Exception:
            requests.send(("raised", traceback.format_exc()))


class ClipProcess:
    """The child; a new one is started after one that died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._here, there = mp.Pipe()
        self._child = mp.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
        self._child.start()
        there.close()

    def read(self, path: Path, window: int = 4) -> tuple[str, str | int]:
        """`read`, `refused`, `raised`, `died` or `hangs`, and how many frames, or the words that go with it."""
        self._here.send((str(path), window))
        try:
            if self._here.poll(READ_TIMEOUT):
                return self._here.recv()
            outcome = "hangs", f"no answer in {READ_TIMEOUT} seconds"
        except (EOFError, ConnectionError):
            self._child.join()
            outcome = "died", f"exit code {self._child.exitcode}"
        self.stop()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.join()
        self._here.close()
