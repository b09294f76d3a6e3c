"""Clips at URLs: listed once, and copied to the disk of the node whose task reads them."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from posixpath import normpath

from infoaug.estimators.video import manifest
from infoaug.estimators.video.clip_files import IMAGE_SUFFIXES, ClipError, is_a
from infoaug.estimators.video.manifest import Clip, is_url
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.masking import without_secrets
from infoaug.orchestrator.runtime.cache import Cache
from infoaug.orchestrator.runtime.remote import File, Remote, opened, patiently
from infoaug.orchestrator.runtime.store import digest_of

AT_THE_SAME_TIME = 16  # frames of a folder


def find_clips(path: str) -> list[Clip]:
    """List the clips of a local path or a URL, as `manifest.find_clips` does. A manifest may hold both.

    Raises:
        ClipError: no clip is found, the manifest cannot be read, two clips share a name, or a URL holds a secret.
        StageError: the storage does not answer.
        UsageError: pyarrow knows no such storage.
    """
    clips = manifest.by_name(_at(path), without_secrets(path)) if is_url(path) else manifest.find_clips(path)
    for clip in clips:
        if not clip.state and is_url(clip.path):  # a manifest names it
            opened(clip.path)
    return clips


def state(url: str) -> str:
    """What changes when the content of a clip does: a digest of the names, sizes and versions of its files.

    Raises:
        ClipError: there is no such clip, or it may not be read.
        StageError: the storage does not answer.
    """
    place, path = opened(url)
    return _state(place, path, patiently(lambda: _files(place, path)))


@contextmanager
def local_copy(path: str, state: str | None, most: float) -> Iterator[str]:
    """The path of a clip on this node's disk while the context lasts; a local clip is not copied.

    The copy, too, has the name of the clip in a folder of the name of its folder. Errors that leave the context name
    the URL in its place.

    Args:
        path: of the clip, or its URL.
        state: of a clip at a URL; None: as it is now.
        most: GiB of the disk (TMPDIR) that copies of clips may take.

    Raises:
        ClipError: there is no such clip, it is in another state, or it may not be read.
        StageError: the storage does not answer, or the disk does not take the copy.
    """
    if not is_url(path):
        yield path
        return
    place, inside = opened(path)
    wanted = _state(place, inside, _files(place, inside)) if state is None else state

    def files() -> list[File]:
        found = patiently(lambda: _files(place, inside))
        if _state(place, inside, found) != wanted:
            raise ClipError(f"{place.shown(inside)} was written to while it was read; run the same command again")
        return found

    def copy(path: str, to: Path) -> None:
        patiently(lambda: place.copy(path, to))

    def fetch() -> tuple[int, Callable[[Path], None]]:
        found = files()

        def write(folder: Path) -> None:
            to = _within(folder, inside)
            to.parent.mkdir(parents=True)
            if found[0].path == inside:
                copy(inside, to)
            else:
                to.mkdir()
                with ThreadPoolExecutor(AT_THE_SAME_TIME) as pool:
                    list(pool.map(lambda frame: copy(frame.path, to / PurePosixPath(frame.path).name), found))
            files()

        return sum(file.size for file in found), write

    cache = Cache(place, int(most * 2**30), name="clips", setting="extract")
    with cache.held(digest_of([inside, wanted], 24), fetch) as folder:
        clip = str(_within(folder, inside))
        try:
            yield clip
        except (ClipError, UsageError) as error:
            raise type(error)(str(error).replace(clip, place.shown(inside))) from None


def _within(folder: Path, path: str) -> Path:
    """Where in its folder the copy of a clip lies."""
    clip = PurePosixPath("clips", path)
    return folder / (clip.parent.name.lstrip(".") or "clips") / clip.name


def _files(place: Remote, path: str) -> list[File]:
    """A video, or the frames of a folder."""
    file = place.file(path)
    if file is not None:
        return [file]
    frames = [file for file in place.listed(path, recursive=False) if _is_frame(file)]
    if not frames:
        raise ClipError(f"{place.shown(path)} holds no images; give a video file or a folder of frames")
    return frames


def _is_frame(file: File) -> bool:
    return is_a(PurePosixPath(file.path).name, IMAGE_SUFFIXES)


def _state(place: Remote, path: str, files: Iterable[File]) -> str:
    return digest_of([place.shown(path), *sorted(files)], 16)


def _at(url: str) -> list[Clip]:
    """List the clips of a URL in any order; see `manifest.find_clips`."""
    place, path = opened(url)
    pattern = PurePosixPath(path).parts
    fixed = next((i for i, part in enumerate(pattern) if any(char in part for char in "*?[")), len(pattern))
    if fixed < len(pattern):
        return _below(place, "/".join(pattern[:fixed]), pattern[fixed:])
    file = place.file(path)
    if file is None:
        return _below(place, path)
    whole = PurePosixPath(path)
    if whole.suffix.lower() in manifest.MANIFEST_SUFFIXES:
        return _listed(place, whole)
    manifest.check_file(place.shown(path), whole.suffix)
    return [Clip(whole.name, place.url(path), _state(place, path, [file]))]


def _listed(place: Remote, path: PurePosixPath) -> list[Clip]:
    """List the clips of a manifest at a URL."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        place.copy(str(path), copy)
        named = manifest.named_in(copy, place.shown(str(path)))
    paths = (p if is_url(p) or p.startswith("/") else place.url(normpath(path.parent / p)) for _, p in named)
    return [Clip(name, clip) for (name, _), clip in zip(named, paths, strict=True)]


def _below(place: Remote, root: str, pattern: Sequence[str] = ()) -> list[Clip]:
    """List the clips in a folder, at any depth, and of them those that match a pattern or lie in what does."""
    clips = []
    for folder, subfolders, files in _walk(place, root):
        if any(manifest.is_no_clip(part) and part not in pattern for part in PurePosixPath(folder).parts):
            continue
        for name in manifest.clips_in([sub for sub in subfolders if not manifest.is_no_clip(sub)], list(files)):
            inside = "/".join(filter(None, (folder, name)))
            if not pattern or _matches(PurePosixPath(inside).parts, pattern):
                path = "/".join(filter(None, (root, inside)))
                own = [files[name]] if name else [file for file in files.values() if _is_frame(file)]
                clips.append(Clip(inside or PurePosixPath(root).name, place.url(path), _state(place, path, own)))
    return clips


def _walk(place: Remote, root: str) -> Iterator[tuple[str, set[str], dict[str, File]]]:
    """Every folder below one, from a single listing: its path, and by name its subfolders and its files."""
    files, subfolders = defaultdict[str, dict[str, File]](dict), defaultdict[str, set[str]](set)
    for file in place.listed(root):
        folder, _, name = file.path.removeprefix(root).lstrip("/").rpartition("/")
        files[folder][name] = file
    for path in files:
        while path:
            path, _, name = path.rpartition("/")
            subfolders[path].add(name)
    for folder in {*files, *subfolders}:
        yield folder, subfolders[folder], files[folder]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob matches a path or a folder that it is in."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
