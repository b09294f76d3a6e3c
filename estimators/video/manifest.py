"""Manifests: list the clips that a path stands for: a video, a folder, a glob or a list of clips."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from infoaug.estimators.video.clips import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ClipError, is_a
from infoaug.estimators.video.frame_folders import series_of

MANIFEST_SUFFIXES = frozenset((".txt", ".lst", ".csv", ".tsv", ".jsonl", ".parquet"))
# What a list of clips or a data set is often called, and is not read.
_OTHER_SUFFIXES = frozenset((
    ".7z", ".arrow", ".feather", ".gz", ".hdf5", ".h5", ".json", ".m3u", ".m3u8", ".npy", ".npz", ".ods", ".pkl",
    ".rar", ".tar", ".tgz", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zip",
))  # fmt: skip
# Folders in which operating systems and disk stations keep previews and what was deleted.
_NO_CLIPS = frozenset(("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"))
# Fewer images beside videos are covers and previews, not frames.
_FEWEST_FRAMES = 3


@dataclass(frozen=True)
class Clip:
    """A clip of a data set.

    Attributes:
        clip_id: unique name that does not depend on where the data set is stored.
        path: the video file or folder of frames; or its URL.
        state: of a clip at a URL, what changes when its content does; empty if nobody has asked yet.
    """

    clip_id: str
    path: str
    state: str = ""


def is_url(path: str) -> bool:
    """Whether a clip lies at a URL such as `s3://bucket/clip.mp4`. The functions of this package read local files."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def find_clips(path: str | Path) -> list[Clip]:
    """List the clips that `path` stands for, sorted by name.

    Names are paths relative to the given folder, or to the fixed part of a glob, suffix included. The names of a
    manifest are its paths as written; they are URLs, or relative to the manifest, and not checked here, so that one
    missing clip does not stop the others. Links are followed; every folder is entered once. A clip whose name is not
    UTF-8 is listed with `\\x..` for such bytes, so that reading it reports the name.

    Args:
        path: one of

            - a video file;
            - a folder of frames: one that directly contains images is one clip;
            - a folder that contains either, at any depth;
            - a glob;
            - a manifest: a `.txt` or `.lst` with a path per line (`#` starts a comment); or a `.csv`, `.tsv`, `.jsonl`
              or `.parquet` with a column `path` and optionally `clip_id`. A repeated row counts once.

            `~` stands for the home folder, here and in manifests. Images beside videos are a clip only if they are
            numbered, at least three, and not named like one of the videos.

    Raises:
        ClipError: no clip is found, the manifest cannot be read, or two clips share a name.
    """
    given = Path(path)
    try:
        given = _at_home(given)
        clips = [Clip(_as_text(clip.clip_id), _as_text(clip.path)) for clip in _clips(given)]
    except ClipError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, an invalid glob, a circle of links
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ClipError(f"{_as_text(given)} cannot be searched for clips ({why}); check the path") from None
    return by_name(clips, _as_text(given))


def by_name(clips: Iterable[Clip], given: str) -> list[Clip]:
    """Sort clips by name; ClipError if there are none in `given`, or two share a name."""
    clips = sorted(set(clips), key=lambda clip: clip.clip_id)
    if not clips:
        raise ClipError(f"{given} contains no clip; a clip is a video file or a folder of images")
    for one, next_one in pairwise(clips):
        if one.clip_id == next_one.clip_id:
            raise ClipError(
                f"{given} gives the name {one.clip_id!r:.300} to both {one.path} and {next_one.path}; make "
                "clip_id unique"
            )
    return clips


def _clips(given: Path) -> list[Clip]:
    """List the clips of a path in any order; see `find_clips`."""
    if given.suffix.lower() in MANIFEST_SUFFIXES and given.is_file():
        return _listed(given)
    if given.is_dir():
        return [*_named(_walk(given), given)]
    if given.is_file():
        check_file(str(given), given.suffix)
        return [Clip(given.name, str(given))]
    if any(char in str(given) for char in "*?["):
        return _matching(given)
    if given.exists():
        raise ClipError(
            f"{_as_text(given)} is neither a regular file nor a folder; give a clip, a folder or a manifest"
        )
    raise ClipError(
        f"{_as_text(given)} does not exist; give a video, a folder of frames or clips, a glob or a manifest"
    )


def check_file(given: str, suffix: str) -> None:
    """Raise ClipError if a single file is, by its suffix, an image or an archive and no clip."""
    if suffix.lower() in IMAGE_SUFFIXES:
        raise ClipError(f"{given} is a single image; give the folder that holds the clip's frames")
    if suffix.lower() in _OTHER_SUFFIXES:
        raise ClipError(
            f"{given} is neither a video nor a list that can be read; unpack it, or list the clips in one of "
            f"{', '.join(sorted(MANIFEST_SUFFIXES))}"
        )


def _at_home(path: Path) -> Path:
    """Replace a leading `~` by the home folder, unless there is a file of that name. RuntimeError: no such user."""
    return path.expanduser() if path.parts[:1] and path.parts[0].startswith("~") and not path.exists() else path


def _as_text(name: str | Path) -> str:
    """Return a name as UTF-8 text, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(root: Path) -> Iterator[str]:
    """Find videos and folders of frames below a folder; follows links, but enters every folder once.

    Paths are texts: a `Path` takes longer to make than a file takes to find.
    """
    entered: set[Path] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not is_no_clip(name))
        start = _start(folder)
        yield from (start + name if name else str(Path(folder)) for name in clips_in(subfolders, files))


def clips_in(subfolders: Sequence[str], files: Sequence[str]) -> list[str]:
    """The clips directly in a folder, by the names of what is in it: names of videos, and "" for the folder itself."""
    images = [name for name in files if is_a(name, IMAGE_SUFFIXES)]
    videos = [name for name in files if is_a(name, VIDEO_SUFFIXES)]
    return [""] * _are_frames(images, videos, subfolders) + videos


def is_no_clip(folder: str) -> bool:
    """Say whether a folder is hidden, or holds previews and what was deleted."""
    return folder.startswith(".") or folder in _NO_CLIPS


def _are_frames(images: Sequence[str], videos: Sequence[str], subfolders: Sequence[str]) -> bool:
    """Say whether the images of a folder may be frames: not if they are the posters or previews of what is beside."""
    if not videos:
        return len(images) > (1 if subfolders else 0)
    if len(images) < _FEWEST_FRAMES:
        return False
    names = {Path(video).stem for video in videos}
    series = Counter(series_of(name) for name in images if Path(name).stem not in names and series_of(name) != name)
    return max(series.values(), default=0) >= _FEWEST_FRAMES


def _start(folder: str | Path) -> str:
    """What the paths of files in a folder begin with."""
    return str(Path(folder, "_"))[:-1]


def _named(paths: Iterable[str], root: Path) -> Iterator[Clip]:
    """Name each clip by its path below the root; the root itself by its name."""
    start = _start(root)
    for path in paths:
        named = path.removeprefix(start).replace(os.sep, "/") if path != str(root) else root.resolve().name
        yield Clip(named, path)


def _matching(pattern: Path) -> list[Clip]:
    """List the clips that a glob matches."""
    fixed = 0
    while not any(char in pattern.parts[fixed] for char in "*?["):
        fixed += 1
    root = Path(*pattern.parts[:fixed])
    clips: set[str] = set()
    for match in root.glob(str(Path(*pattern.parts[fixed:]))):
        if any(is_no_clip(part) and part not in pattern.parts for part in match.relative_to(root).parts):
            continue
        if match.is_dir():
            clips.update(_walk(match))
        elif is_a(match.name, VIDEO_SUFFIXES):
            clips.add(str(match))
    return [*_named(clips, root)]


def _listed(manifest: Path) -> list[Clip]:
    """List the clips of a manifest."""
    listed = named_in(manifest, str(manifest))
    return [Clip(n, path if is_url(path) else str(manifest.parent / _at_home(Path(path)))) for n, path in listed]


def named_in(manifest: Path, called: str) -> list[tuple[str, str]]:
    """The names and paths of the clips of a manifest, as written; `called`: what errors call it."""
    try:
        rows = _rows(manifest)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, or not Parquet
        raise ClipError(f"manifest {called} cannot be read ({error!s:.200}); save it as UTF-8, or as Parquet") from None
    named = []
    for row in rows:
        path, name = row.get("path"), row.get("clip_id")
        if "path" not in row:
            found = ", ".join(repr(column) for column in row if column is not None)
            raise ClipError(f"manifest {called} has no column 'path', only {found or 'empty ones'}; name it so")
        if not path or not isinstance(path, str):
            raise ClipError(
                f"manifest {called} has a row without a path; give every clip one in the column 'path', as text"
            )
        named.append((str(name or (path if is_url(path) else Path(path).as_posix())), path))
    return named


def _rows(manifest: Path) -> list[dict[str, Any]]:
    """Read the rows of a manifest."""
    kind = manifest.suffix.lower()
    if kind in (".txt", ".lst"):
        lines = (line.strip() for line in manifest.read_text(encoding="utf-8-sig").splitlines())
        return [{"path": line} for line in lines if line and not line.startswith("#")]
    if kind in (".csv", ".tsv"):
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
    if kind == ".jsonl":
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError('a line is not an object such as {"path": "a.mp4"}')
        return rows
    import pyarrow.parquet  # Only here: it is slow to import, and seldom needed.

    columns = pyarrow.parquet.read_schema(manifest).names
    wanted = [name for name in ("path", "clip_id") if name in columns] if "path" in columns else columns
    return pyarrow.parquet.read_table(manifest, columns=wanted).to_pylist()
