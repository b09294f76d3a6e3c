"""The configs that come with infoaug, by their names: `demo`, `laptop`, `recipes/simclr`."""

import difflib
import textwrap
from collections.abc import Callable
from pathlib import Path

import infoaug
from infoaug.orchestrator import places

FOLDER = Path(infoaug.__file__).parent / "configs"


def known() -> dict[str, Path]:
    """The files by their names, which are paths below `FOLDER` without `.yaml`."""
    files = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in files}


def summary(path: Path) -> str:
    """The first sentence of the comment on top of a config, cut to a line."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#  "):  # a command, or the settings
            break
        comment.append(line.removeprefix("#").strip())
    return textwrap.shorten(" ".join(comment).partition(". ")[0].rstrip("."), 100, placeholder=" …")


def find(name: str | Path) -> Path:
    """The config file that a user means: an existing file, else the config of this name, else the path as it is.

    Args:
        name: a path; or a name, with or without `configs/` before it and `.yaml` after it.
    """
    path = Path(name)
    return path if _is(Path.is_file, path) else known().get(_below(str(name)).removesuffix(".yaml"), path)


def folder(name: str) -> Path:
    """A folder of configs: one that `places` finds, else infoaug's folder of this name, else the path as it is."""
    path, own = places.located(name), FOLDER / _below(name)
    return own if not _is(Path.is_dir, path) and _is(Path.is_dir, own) else path


def hint(path: str | Path) -> str:
    """What to say of a config that does not exist: the nearest name, and how to list all."""
    names = [_below(str(path)).removesuffix(".yaml"), Path(path).stem]  # with its folder, and alone
    near = [match for name in names for match in difflib.get_close_matches(name[:200], known(), n=1)]
    suggestion = f"did you mean '{near[0]}'? " if near else ""
    return f"{suggestion}`infoaug configs` lists those that come with infoaug"


def _below(name: str) -> str:
    """A name as a path below `FOLDER`. In a clone, the folder is called `configs`."""
    return name.removeprefix("./").removeprefix("configs/")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path exists and is of a kind; False for what cannot be a path, such as a text with a NUL."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False
