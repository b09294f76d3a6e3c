"""Manifests: which clips a path stands for, be it a video, a folder, a glob or a list."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from infoaug.estimators.video.clips import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ClipError, is_a

MANIFEST_SUFFIXES = frozenset((".txt", ".csv", ".parquet"))


@dataclass(frozen=True)
class Clip:
    """A clip and the name it is known by: unique, and the same wherever the data set lies."""

    clip_id: str
    path: str


def find_clips(path: str | Path) -> list[Clip]:
    """List the clips that `path` stands for, sorted by name.

    `path` is a video file; a folder of frames; a folder that holds either, at any depth; a glob; or a manifest: a
    `.txt` with a path per line (`#` starts a comment), or a `.csv` or `.parquet` with a column `path` and, if wanted,
    `clip_id`. A folder that directly holds images is one clip. Names are paths relative to the folder given (or the
    fixed part of the glob), suffix included; of a manifest, the paths as written, which are relative to the manifest
    and are not checked here, so that one missing clip does not stop the others. Links are followed; every folder is
    entered once. A name that is not UTF-8 is listed with `\\x..` for its bytes, a clip that does not exist. Raises
    ClipError where nothing is found, the manifest cannot be read, or two clips share a name.
    """
    given = Path(path)
    try:
        clips = [Clip(_as_text(clip.clip_id), _as_text(clip.path)) for clip in _found(given)]
    except ClipError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # of a name too long, a glob that is none, a circle of links
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ClipError(f"{_as_text(given)} cannot be searched for clips ({why}); check the path") from None
    if not clips:
        raise ClipError(f"{_as_text(given)} holds no clip; a clip is a video file or a folder of images")
    clips.sort(key=lambda clip: clip.clip_id)
    for one, next_one in pairwise(clips):
        if one.clip_id == next_one.clip_id:
            raise ClipError(
                f"{_as_text(given)} gives the name {one.clip_id!r:.300} to both {one.path} and {next_one.path}; make "
                "clip_id unique"
            )
    return clips


def _found(given: Path) -> list[Clip]:
    """What a path stands for; see `find_clips`."""
    if given.suffix.lower() in MANIFEST_SUFFIXES and given.is_file():
        return _listed(given)
    if given.is_dir():
        return [Clip(_name(found, given), str(found)) for found in _walk(given)]
    if given.is_file():
        if given.suffix.lower() in IMAGE_SUFFIXES:
            raise ClipError(f"{given} is a single image; give the folder that holds the clip's frames")
        return [Clip(given.name, str(given))]
    if any(sign in str(given) for sign in "*?["):
        return _matching(given)
    if given.exists():
        raise ClipError(
            f"{_as_text(given)} is neither a regular file nor a folder; give a clip, a folder or a manifest"
        )
    raise ClipError(
        f"{_as_text(given)} does not exist; give a video, a folder of frames or clips, a glob or a manifest"
    )


def _as_text(name: str | Path) -> str:
    """A name as text that can be stored, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(root: Path) -> Iterator[Path]:
    """Find videos and folders of frames under a folder; follows links, but enters every folder once."""
    entered: set[Path] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = Path(place).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(is_a(name, IMAGE_SUFFIXES) for name in files):
            yield Path(place)
        yield from (Path(place, name) for name in files if is_a(name, VIDEO_SUFFIXES))


def _name(found: Path, root: Path) -> str:
    """Name a clip by its path below the root; the root itself by its own name."""
    return found.relative_to(root).as_posix() if found != root else root.resolve().name


def _matching(pattern: Path) -> list[Clip]:
    """List the clips that a glob matches."""
    fixed = 0
    while not any(sign in pattern.parts[fixed] for sign in "*?["):
        fixed += 1
    root = Path(*pattern.parts[:fixed])
    found: set[Path] = set()
    for match in root.glob(str(Path(*pattern.parts[fixed:]))):
        if match.is_dir():
            found.update(_walk(match))
        elif is_a(match.name, VIDEO_SUFFIXES):
            found.add(match)
    return [Clip(_name(path, root), str(path)) for path in found]


def _listed(manifest: Path) -> list[Clip]:
    """Read the clips of a manifest."""
    try:
        rows = _rows(manifest)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no UTF-8, no Parquet
        raise ClipError(
            f"manifest {manifest} cannot be read ({error!s:.200}); save it as UTF-8, or as Parquet"
        ) from None
    clips = []
    for row in rows:
        path, name = row.get("path"), row.get("clip_id")
        if not path or not isinstance(path, str):
            raise ClipError(
                f"manifest {manifest} has a row without a path; give every clip one in the column 'path', as text"
            )
        clips.append(Clip(str(name or Path(path).as_posix()), str(manifest.parent / path)))
    return clips


def _rows(manifest: Path) -> list[dict[str, Any]]:
    """Read what a manifest says of every clip."""
    kind = manifest.suffix.lower()
    if kind == ".txt":
        lines = (line.strip() for line in manifest.read_text(encoding="utf-8-sig").splitlines())
        return [{"path": line} for line in lines if line and not line.startswith("#")]
    if kind == ".csv":
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet  # Only here: everything else in this package needs NumPy and OpenCV alone.

    names = [name for name in ("path", "clip_id") if name in pyarrow.parquet.read_schema(manifest).names]
    return pyarrow.parquet.read_table(manifest, columns=names).to_pylist()
