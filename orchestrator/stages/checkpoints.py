"""Checkpoints of a training: its states in the store, each written while training goes on.

They belong to no run of Ray Train, so a training continues from them with any number of workers.
"""

import io
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self

import torch

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.store import StageFolder

FOLDER = "train"
KEPT = 2
_OURS = re.compile(r"checkpoint_\d{6}_\d{6}\.pt")  # complete epochs, and complete blocks of the next one
_RAYS = re.compile(r"checkpoint_[^/]+/state\.pt")  # of versions that left them to Ray Train


class Checkpoints:
    """Checkpoints in the folder of a stage. One process writes them, and any reads them.

    As a context, it waits at its end for what is still being written.
    """

    def __init__(self, stage: StageFolder) -> None:
        """Write nothing yet."""
        self._stage, self._pool = stage, ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def newest(self) -> str | None:
        """The name of the newest checkpoint, or None.

        Raises:
            StageError: the store cannot be listed.
        """
        names = self._names()
        return names[-1] if names else None

    def load(self, name: str, device: torch.device) -> dict[str, Any]:
        """The state that a checkpoint holds.

        Raises:
            StageError: it cannot be read.
        """
        path = self._stage.path(FOLDER, name)
        content = io.BytesIO(self._stage.store.read_bytes(path))
        try:
            state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
        except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
            raise StageError(
                f"the checkpoint '{path}' of the store is broken: delete it, and training goes on from the one before",
                retry=False,
            ) from error
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Keep the `state` of a training, and of all checkpoints the newest two.

        The state may change as soon as this returns; the store is written meanwhile.

        Raises:
            StageError: the checkpoint before this one could not be written.
        """
        self.wait()
        content = io.BytesIO()
        torch.save(state, content)
        blocks = state["sums"]["blocks"] if "sums" in state else 0
        name = f"checkpoint_{len(state['history']):06d}_{blocks:06d}.pt"
        self._writing = self._pool.submit(self._write, name, content.getvalue())

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            StageError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Self:
        """Nothing is done at the start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; after an error, that error matters and not this one."""
        self._pool.shutdown()
        if error is None:
            self.wait()

    def _names(self) -> list[str]:
        """All checkpoints, the newest last."""
        files = sorted(self._stage.store.files(self._stage.path(FOLDER)))
        return [*filter(_RAYS.fullmatch, files), *filter(_OURS.fullmatch, files)]

    def _write(self, name: str, content: bytes) -> None:
        self._stage.store.write_bytes(self._stage.path(FOLDER, name), content)
        for old in self._names()[:-KEPT]:
            self._stage.store.delete(self._stage.path(FOLDER, old.partition("/")[0]))
