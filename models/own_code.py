"""Classes of the user's own, named `module:Class`: their import, and the files that hold their code.

The module is looked for where Python looks, and in the current folder. Importing it runs its code, so a name is only
ever taken from what the user wrote: a config, or an argument.
"""

import hashlib
import importlib
import re
import site
import sys
import sysconfig
from pathlib import Path
from typing import TypeVar

Kind = TypeVar("Kind")

_loaded: set[str] = set()
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_own(name: str) -> bool:
    """Whether a name is `module:Class` rather than one that infoaug or timm knows."""
    return ":" in name


def load(name: str, base: type[Kind]) -> type[Kind]:
    """Import a class.

    Args:
        name: `module:Class`.
        base: what it must be a subclass of.

    Raises:
        ValueError: the name is malformed, the module cannot be imported, or it has no such class.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not of the form module:Class.")
    module, _, class_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file of the folder hides no other module
    importlib.invalidate_caches()
    try:
        found = getattr(importlib.import_module(module), class_name, None)
    except (Exception, SystemExit) as error:  # mostly ImportError, but importing may raise anything
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"The module of {name!r} cannot be imported ({why:.200}): install it, or put it into the current folder."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name!r} is not a subclass of {base.__module__}.{base.__qualname__}.")
    _loaded.add(name)
    return found


def source(name: str) -> Path | None:
    """The file, or the folder of the package, that holds a class's module; None for what is installed.

    Raises:
        ValueError: as `load`.
    """
    if name not in _loaded:
        load(name, object)
    top = sys.modules[name.partition(":")[0].partition(".")[0]]
    file = getattr(top, "__file__", None)
    paths = [Path(file)] if file else [Path(path) for path in getattr(top, "__path__", [])][:1]
    if not paths or any(paths[0].resolve().is_relative_to(folder) for folder in _installed()):
        return None
    return paths[0].parent if paths[0].name == "__init__.py" else paths[0]


def sources() -> list[Path]:
    """The `source` of every class that was loaded, for machines that do not have it."""
    return sorted({path for path in map(source, _loaded) if path})


def digest(name: str) -> str:
    """Identifies the code of a class: of all Python files of its `source`; empty for what is installed."""
    code = source(name)
    if code is None:
        return ""
    files = sorted(code.rglob("*.py")) if code.is_dir() else [code]
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file.relative_to(code.parent).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return sha.hexdigest()[:16]


def _installed() -> list[Path]:
    """Folders of Python's own modules and of installed packages."""
    paths = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    libraries = [Path(path).resolve() for path in paths if Path(path).name in ("site-packages", "dist-packages")]
    return [*libraries, Path(sysconfig.get_paths()["stdlib"]).resolve()]
