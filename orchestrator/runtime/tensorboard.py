"""Scalars of a training as event files that TensorBoard reads."""

import time
from collections.abc import Mapping
from pathlib import Path

from infoaug.orchestrator.errors import StageError


class Scalars:
    """A new event file in a run's folder; TensorBoard reads all files of a folder as one run.

    Args:
        folder: of the run; it is created.

    Raises:
        StageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # takes a second, and few runs need it

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        except OSError as error:
            raise StageError(
                f"cannot write to '{folder}' ({error}): give another folder in tracking.tensorboard, and run the same "
                "command again; complete epochs are kept"
            ) from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write values at a step, by name; they are on the disk afterwards."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._file.flush()
