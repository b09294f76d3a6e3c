"""The log file of a command: what it did, and the full traceback of whatever failed.

Modules log by `logging.getLogger(__name__)`. In a library nothing is shown unless the caller configures logging. Only
the command `infoaug` calls `to_file`.
"""

import logging
import platform
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infoaug.orchestrator.masking import without_secrets

# Of other packages only what they warn of: Ray, MLflow and matplotlib write pages of DEBUG lines.
_OWN = "infoaug"
_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"

_log = logging.getLogger(__name__)
_current: "_LogFile | None" = None


@contextmanager
def to_file(command: str, arguments: Sequence[str] = ()) -> Iterator[None]:
    """Collect what `infoaug` logs; `set_place` says where the file lies.

    The file is written from the first line of level INFO on, with the DEBUG lines before it: a command that is refused
    before it has started leaves none. A log that cannot be written never stops the command.

    Args:
        command: its name, for the file's.
        arguments: of the command line, for the first line.
    """
    global _current
    root, own = logging.getLogger(), logging.getLogger(_OWN)
    level, _current = own.level, _LogFile(command)
    own.setLevel(logging.DEBUG)
    root.addHandler(_current)
    versions = f"Python {platform.python_version()}, {platform.platform()}"
    _log.debug("infoaug %s (%s)", shlex.join(arguments), versions)
    try:
        yield
    finally:
        root.removeHandler(_current)
        own.setLevel(level)
        _current.close()
        _current = None


def set_place(store: Path | None, name: str) -> None:
    """Say where the log of this command belongs, before its first line of level INFO; else it lies in `logs/`.

    Args:
        store: the local folder of the store; None for a store that is no local folder.
        name: of the experiment, for the file's name.
    """
    if _current:
        _current.set_place((store or Path()) / "logs", name)


def file() -> Path | None:
    """The log file of this command; None if nothing was logged, or it cannot be written."""
    return _current.path if _current and _current.opened else None


class _LogFile(logging.FileHandler):
    """`<utc time>-<command>-<name>.log`, opened at the first record of level INFO."""

    def __init__(self, command: str) -> None:
        self._command, self._started = command, time.time()
        self._held: list[logging.LogRecord] = []
        self.opened = self._broken = False
        super().__init__(self._file_name(Path("logs"), ""), mode="a", encoding="utf-8", delay=True)
        formatter = _Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self.addFilter(lambda record: record.name.partition(".")[0] == _OWN or record.levelno >= logging.WARNING)

    @property
    def path(self) -> Path:
        return Path(self.baseFilename)

    def set_place(self, folder: Path, name: str) -> None:
        if not self.opened:
            with suppress(OSError):  # of a folder that may not be looked into
                self.baseFilename = str(self._file_name(folder, name).absolute())

    def emit(self, record: logging.LogRecord) -> None:
        if self._broken:
            return
        if not self.opened and record.levelno < logging.INFO:
            self._held.append(record)
            return
        try:
            if not self.opened:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.opened = True
                for held in self._held:
                    super().emit(held)
                self._held = []
            super().emit(record)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # of what a full disk did not take
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk, or a folder that may not be written to: this command has no log from here on."""
        self._broken, self.opened = True, False

    def _file_name(self, folder: Path, name: str) -> Path:
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._started))
        safe = re.sub(r"[^\w.-]+", "_", name).strip("_.")[:100]
        stem = folder / "-".join(filter(None, (began, self._command, safe)))
        found, number = stem.with_name(f"{stem.name}.log"), 1
        while found.exists():  # two commands of the same second
            number += 1
            found = stem.with_name(f"{stem.name}-{number}.log")
        return found


class _Formatter(logging.Formatter):
    """Lines without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
