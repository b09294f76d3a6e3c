"""Where relative paths of settings are looked for: where the user stands, then beside the config that names them.

A setting keeps its text, so that stages and experiments have the same keys wherever a path was found.
"""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "INFOAUG_BESIDE"  # in the environment, which workers on this machine inherit


def look_beside(config: str | Path) -> None:
    """Look for relative paths also in the folder of this config and in the one above, here and in new processes.

    A config that is no file leaves everything as it is.
    """
    path = Path(config)
    try:
        if path.is_file():
            os.environ[VARIABLE] = str(path.parent.absolute())
    except (OSError, ValueError):  # what cannot be a path, such as a text with a NUL
        return


@contextmanager
def restored() -> Iterator[None]:
    """Forget at the end what `look_beside` was told."""
    before = os.environ.get(VARIABLE, "")
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def found(name: str) -> str:
    """What a setting names, a file, folder or glob: the text as it is, or its path beside the config if it is there."""
    folder, path = os.environ.get(VARIABLE), _expanded(name)
    if not folder or path.is_absolute() or "://" in name or _is_there(path):
        return name
    beside = (above / path for above in (Path(folder), Path(folder).parent))
    return next((str(other) for other in beside if _is_there(other)), name)


def located(name: str) -> Path:
    """The path of `found`, `~` expanded."""
    return _expanded(found(name))


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def _is_there(path: Path) -> bool:
    try:
        if glob.has_magic(str(path)) and not path.exists():
            return any(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        return path.exists()
    except (OSError, ValueError, NotImplementedError):
        return False
