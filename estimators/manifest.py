"""Manifests: which clips a path stands for, be it a video, a folder, a glob or a list."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from estimators.clips import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ClipError, is_a

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
    and are not checked here, so that one missing clip does not stop the others. Raises ClipError where nothing is found
    or two clips share a name.
    """
    given = Path(path)
    if given.suffix.lower() in MANIFEST_SUFFIXES and given.is_file():
        clips = _listed(given)
    elif given.is_dir():
        clips = [Clip(_name(found, given), str(found)) for found in _walk(given)]
    elif given.is_file():
        if given.suffix.lower() in IMAGE_SUFFIXES:
            raise ClipError(f"{given} is a single image; give the folder that holds the clip's frames")
        clips = [Clip(given.name, str(given))]
    elif any(sign in str(path) for sign in "*?["):
        clips = _matching(given)
    else:
        raise ClipError(f"{given} does not exist; give a video, a folder of frames or clips, a glob or a manifest")
    if not clips:
        raise ClipError(f"{given} holds no clip; a clip is a video file or a folder of images")
    clips.sort(key=lambda clip: clip.clip_id)
    for one, next_one in pairwise(clips):
        if one.clip_id == next_one.clip_id:
            raise ClipError(
                f"{given} gives the name {one.clip_id!r} to both {one.path} and {next_one.path}; make clip_id unique"
            )
    return clips


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
    kind = manifest.suffix.lower()
    rows: list[dict[str, str | None]]
    if kind == ".txt":
        lines = (line.strip() for line in manifest.read_text(encoding="utf-8-sig").splitlines())
        rows = [{"path": line} for line in lines if line and not line.startswith("#")]
    elif kind == ".csv":
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    else:
        import pyarrow.parquet  # Only here: everything else in this package needs NumPy and OpenCV alone.

        rows = pyarrow.parquet.read_table(manifest).to_pylist()
    clips = []
    for row in rows:
        path = row.get("path")
        if not path:
            raise ClipError(f"manifest {manifest} has a row without a path; give every clip one in the column 'path'")
        clips.append(Clip(str(row.get("clip_id") or Path(path).as_posix()), str(manifest.parent / path)))
    return clips
