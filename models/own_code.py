"""Classes and functions of the user's own, named `module:Class`: their import, and the files that hold their code.

The module is looked for where Python looks, and in the current folder. Importing it runs its code, so a name is only
ever taken from what the user wrote: a config, or an argument.
"""

import difflib
import hashlib
import importlib
import re
import site
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

Kind = TypeVar("Kind")

_loaded: set[str] = set()
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_own(name: str) -> bool:
    """Whether a name is `module:Class` or `module:function` rather than one that infoaug or timm knows."""
    return ":" in name


def check_name(name: str) -> None:
    """Check the form of a name; nothing is imported. Raises ValueError unless it is `module:Class`."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not of the form module:Class, or module:function for a function.")


def load(name: str, base: type[Kind]) -> type[Kind]:
    """Import a class.

    Args:
        name: `module:Class`.
        base: what it must be a subclass of.

    Raises:
        ValueError: as `find`, or it is no such class.
    """
    found = find(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        wanted = f"{base.__module__}.{base.__qualname__}"
        raise ValueError(f"{name!r} is not a subclass of {wanted}: derive it from that class, or name another one.")
    return found


def find(name: str) -> Any:
    """Import a class or a function.

    Args:
        name: `module:Class`, or `module:function`.

    Raises:
        ValueError: the name is malformed, the module cannot be imported, or it has nothing of that name.
    """
    check_name(name)
    wanted = name.partition(":")[2]
    module = _imported(name)
    if not hasattr(module, wanted):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        near = difflib.get_close_matches(wanted, own, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"name one of {', '.join(own[:5]) or 'another module'}."
        raise ValueError(f"The module of {name!r} has no {wanted!r}: {remedy}")
    _loaded.add(name)
    return getattr(module, wanted)


def why(error: BaseException) -> str:
    """An error that code of the user's own raised, on one line, and where."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}{place(error)}"


def place(error: BaseException) -> str:
    """Where in the user's code an error arose: `, in FILE, line N`; empty if in none of it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", in {Path(error.filename).name}, line {error.lineno}"
    own = Path(__file__).resolve().parents[1]
    installed = [*_installed(), *(own / package for package in ("estimators", "models", "orchestrator"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.resolve().is_relative_to(folder) for folder in installed):
            return f", in {file.name}, line {frame.lineno}"
    return ""


def _imported(name: str) -> ModuleType:
    """The module of a class; ValueError if it cannot be imported."""
    module = name.partition(":")[0]
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file of the folder hides no other module
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # mostly ImportError, but importing may raise anything
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
        if not isinstance(error, ModuleNotFoundError) or not error.name:
            why, remedy = why + place(error), "correct it"
        elif f"{module}.".startswith(f"{error.name}."):
            remedy = "install it, or put it into the current folder"
        else:
            remedy = f"install {error.name!r}, which it needs"
        raise ValueError(f"The module of {name!r} cannot be imported ({why}): {remedy}.") from error


def source(name: str) -> Path | None:
    """The file, or the folder of the package, that holds a name's module; None for what is installed.

    Raises:
        ValueError: as `find`.
    """
    if name not in _loaded:
        find(name)
    top = sys.modules[name.partition(":")[0].partition(".")[0]]
    file = getattr(top, "__file__", None)
    paths = [Path(file)] if file else [Path(path) for path in getattr(top, "__path__", [])][:1]
    if not paths or any(paths[0].resolve().is_relative_to(folder) for folder in _installed()):
        return None
    return paths[0].parent if paths[0].name == "__init__.py" else paths[0]


def sources() -> list[Path]:
    """The `source` of every class and function that was loaded, for machines that do not have it."""
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
