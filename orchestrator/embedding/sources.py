"""What is embedded: image files, or frames of clips, in an order in which reading can begin anywhere."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.estimators.video.clip_files import ClipError, is_folder, readable
from infoaug.estimators.video.clips import Reader
from infoaug.estimators.video.fingerprints import signature
from infoaug.estimators.video.frame_folders import frames_of
from infoaug.estimators.video.manifest import find_clips, is_url
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import image_folder, images
from infoaug.orchestrator.settings import one_line

BLOCK = 128  # image files that are decoded ahead

Position = tuple[int, int]  # number of a file or clip, and of the frame in it


@dataclass(frozen=True)
class Data:
    """The files of what is embedded, image files or clips.

    Attributes:
        what: as the user named it.
        names: of the files; `/` between folders, relative to what the user named.
        paths: the files, in the same order.
        every: of clips, which frames: every n-th; None for images.
        notes: sentences on what is left out.
        first, total: if these are some of the files of other data, the number of the first among them, and how many
            they are. Positions and shares are of all files.
    """

    what: str
    names: list[str]
    paths: list[Path]
    every: int | None
    notes: list[str]
    first: int = 0
    total: int | None = None

    def some(self, begin: int, end: int) -> "Data":
        """The files from number `begin` to before number `end`, by absolute paths, so that any process finds them."""
        paths = [path.absolute() for path in self.paths[begin:end]]
        return Data(self.what, self.names[begin:end], paths, self.every, [], begin, len(self.paths))

    def identity(self) -> str:
        """Digest of names, sizes and times of all files, and of which frames of them."""
        found = hashlib.sha256(repr(self.every).encode())
        for name, path in zip(self.names, self.paths, strict=True):
            try:
                state = path.stat()
                said = signature(path) if self.every else f"{state.st_size} {state.st_mtime_ns}"
            except (OSError, ClipError):  # what is wrong is said where it is read
                said = ""
            found.update(f"{name}\0{said}\0".encode())
        return found.hexdigest()[:16]


class Item(NamedTuple):
    """An image or a frame, or why it cannot be read.

    Attributes:
        name: of its file.
        frame: its number in the clip; None for an image file, and for a clip that cannot be opened.
        pixels: u8[3, S, S], or the reason.
        after: where reading goes on behind it.
        share: of all files, up to and with this item, 0–1.
    """

    name: str
    frame: int | None
    pixels: Tensor | str
    after: Position
    share: float


def find(what: str, every: int | None, out: Path | None = None) -> Data:
    """Find what is to be embedded.

    Args:
        what: an image file; a folder with images at any depth; or clips, as `manifest.find_clips` takes them. A folder
            with images is one of images, unless `every` is given.
        out: a folder whose content is left out, because it is written.
        every: take it as clips, and of them every n-th frame. None: images, or where there are none all frames.

    Raises:
        UsageError: there is nothing to embed.
    """

    def is_input(file: Path) -> bool:
        return out is None or not file.absolute().is_relative_to(out)

    if is_url(what):
        raise UsageError(one_line(f"'{what}' is a URL, and what is embedded must be on a disk: copy it first"))
    try:
        path = Path(what).expanduser()
        if every is None and path.is_file() and path.suffix.lower() in images.SUFFIXES:
            return Data(what, [_text(path.name)], [path], None, [])
        if every is None and path.is_dir():
            layout = image_folder.every(path)
            if files := [file for file in layout.groups["all"][""] if is_input(file)]:
                return Data(
                    what, [_text(file.relative_to(path).as_posix()) for file in files], files, None, layout.notes
                )
        clips = [clip for clip in find_clips(what) if is_input(Path(clip.path))]
        if not clips:
            raise ClipError(f"{what} contains no image and no clip")
    except (OSError, RuntimeError) as error:  # a folder that may not be read; a user who does not exist
        raise UsageError(one_line(f"'{what}' cannot be read: {error}: correct the path or its rights")) from None
    except ClipError as error:
        remedy = "give an image, a folder of images, or clips"
        raise UsageError(one_line(f"there is nothing to embed, {error}; {remedy}")) from None
    return Data(what, [clip.clip_id for clip in clips], [Path(clip.path) for clip in clips], every or 1, [])


def items(data: Data, size: int, start: Position = (0, 0), peak: int = 0) -> Iterator[Item]:
    """Read images and frames in order, resized as evaluation does (`images.fit`).

    Args:
        data: as `find` returns it.
        size: S, pixels.
        start: where to begin: an item's `after`.
        peak: of image files of more than 8 bits, see `images.peak`. Frames of a folder have that of their clip.
    """
    total = data.total or len(data.paths)
    files = range(start[0], data.first + len(data.paths))
    if data.every is None:
        for begin in files[::BLOCK]:
            paths = data.paths[begin - data.first : begin - data.first + BLOCK]
            for i, pixels in enumerate(images.each(paths, size, peak), begin):
                yield Item(data.names[i - data.first], None, pixels, (i + 1, 0), (i + 1) / total)
        return
    for i in files:
        name, path = data.names[i - data.first], data.paths[i - data.first]
        frame: int | None = None
        share = partial(_share, i, total)
        try:
            for frame, pixels, within in _frames(path, data.every, start[1] if i == start[0] else 0, size):
                yield Item(name, frame, pixels, (i, frame + data.every), share(within))
            if frame is None and (i, 0) >= start:
                yield Item(name, None, "it has no frame that can be decoded", (i + 1, 0), share(1))
        except ClipError as error:
            frame = None if frame is None else frame + data.every
            yield Item(name, frame, str(error), (i + 1, 0), share(1))


def again(data: Data, name: str, frame: int | None, size: int, peak: int = 0) -> NDArray[np.uint8]:
    """Read an image or a frame that `items` gave again: u8[S, S, 3] RGB; grey if it cannot be read any more."""
    path = data.paths[data.names.index(name)]
    found: Tensor | str
    try:
        if frame is None:
            found = next(images.each([path], size, peak))
        elif is_folder(path):
            files = frames_of(path)
            found = next(images.each([files[frame]], size, images.peak(files)))
        else:
            with Reader(path) as reader:
                found = _fitted(reader.read(frame, 1)[0], size)
    except (ClipError, IndexError) as error:  # it has changed meanwhile
        found = str(error)
    return np.full((size, size, 3), 128, np.uint8) if isinstance(found, str) else found.permute(1, 2, 0).numpy()


def _share(number: int, count: int, within: float) -> float:
    return (number + within) / count


def _frames(path: Path, every: int, first: int, size: int) -> Iterator[tuple[int, Tensor | str, float]]:
    """Every n-th frame of a clip from frame `first` on: its number, its pixels, and the share of the clip."""
    with readable(path):
        if is_folder(path):
            files = frames_of(path)
            peak = images.peak(files)
            for begin in range(first, len(files), every * BLOCK):
                numbers = range(begin, min(begin + every * BLOCK, len(files)), every)
                for number, pixels in zip(numbers, images.each([files[n] for n in numbers], size, peak), strict=True):
                    yield number, pixels, min(1.0, (number + every) / len(files))
            return
    with Reader(path) as reader:
        length = reader.announced
        for number, frame in reader.every(every, first):
            within = min(1.0, (number + every) / length) if length else 0.0
            if isinstance(frame, ClipError):
                yield number, str(frame), within
            else:
                yield number, _fitted(frame, size), within


def _fitted(frame: NDArray[np.uint8], size: int) -> Tensor:
    """A frame u8[H, W, 3] as u8[3, S, S]."""
    return images.fit(torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None], size)[0]


def _text(name: str) -> str:
    """A name as UTF-8, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
