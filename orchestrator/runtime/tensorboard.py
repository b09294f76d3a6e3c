"""Scalars of a training as event files that TensorBoard reads."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infoaug.estimators.video.manifest import is_url
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import scratch


def check(folder: str | None) -> None:
    """Check that event files can be written to a folder, which is created. Raises UsageError if they cannot be."""
    if folder is None:
        return
    if is_url(folder):
        raise UsageError(f"tracking.tensorboard takes a folder of this machine, not a URL, as '{folder}' is")
    place = located(folder)
    probe = Path(scratch.part_of(str(place / "check")))
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to '{place}' ({error}): give another folder in tracking.tensorboard, or null"
        ) from None


def located(folder: str) -> Path:
    """The path of the setting, `~` expanded where there is such a user."""
    return Path(os.path.expanduser(folder))  # noqa: PTH111


class Scalars:
    """A new event file in a run's folder; TensorBoard reads all files of a folder as one run.

    Args:
        folder: of the run; it is created.

    Raises:
        StageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # takes a second, and few runs need it

        self._folder = folder
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write values at a step, by name; they are on the disk afterwards. Raises StageError if they cannot be."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with self._told():
            for name, value in values.items():
                self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the disk into a sentence."""
        try:
            yield
        except OSError as error:
            raise StageError(
                f"cannot write to '{self._folder}' ({error}): give another folder in tracking.tensorboard, or free "
                "some space, and run the same command again; complete epochs are kept"
            ) from None
