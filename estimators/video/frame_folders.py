"""Folders of frames: their order, whole images, and what tells them from other folders of images."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.video.clip_files import IMAGE_SUFFIXES, ClipError, is_a

Frame = NDArray[np.uint8]

# A number in a file's name, with the fraction of one that counts seconds.
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(?:\.(\d+))?(\D*)")
# Two series of names are interleaved if this share of the smaller one's numbers are in the other, too.
_SHARED_NUMBERS = 0.5
# Of JPEG: start of the picture's data, and end of the file.
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xff\xd9"
# Neighbours whose change of look is this large have nothing in common, on a scale from 0 to 1. The median change of 30
# clips reaches 0.23, that of 77 sets of unrelated pictures starts at 0.88 (docs/method.md).
_UNRELATED = 0.8
_FEWEST_TO_JUDGE = 8
# A mask has at most this many colours at the points of a coarse grid, in areas of one colour each. Of a folder's images
# at least this share are masks: half of them are if it holds the frames, too.
_MASK_COLOURS, _MASK_FLAT, _MASK_SHARE = 32, 0.9, 0.4
_GRID = (64, 36)


def frames_of(folder: Path) -> list[Path]:
    """List the images of a folder in order.

    Raises:
        ClipError: the folder has no image, one is not a regular file, or the names are of two interleaved series.
    """
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_a(entry.name, IMAGE_SUFFIXES):
                if not _is_regular(entry):  # a pipe would block, a broken link has no content
                    raise ClipError(f"frame {entry.path} is not a regular file; remove it or leave the clip out")
                images.append(folder / entry.name)
    if not images:
        raise ClipError(f"clip {folder} holds no images; give a video file or a folder of frames")
    images = in_order(images)
    if series := _interleaved([image.name for image in images]):
        raise ClipError(
            f"clip {folder} holds two series of images with the same numbers, such as {series[0]} and {series[1]}; "
            "move one of them (masks, another camera) into a folder of its own"
        )
    return images


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circle of links
        return False


def in_order(files: Iterable[Path]) -> list[Path]:
    """Sort files by the numbers in their names: `2.png` comes before `10.png`, and `0.25.png` before `0.5.png`.

    Digits after a dot are a fraction if their number varies and none of several ends in 0, as programs print seconds.
    Otherwise they are a number of their own: `1.9.png` comes before `1.10.png`.
    """
    files = list(files)
    parts = [_LAST_NUMBER.fullmatch(file.stem) for file in files]
    found = [(part[1], int(part[2]), part[3] or "", part[4]) for part in parts if part]
    fractions = [fraction for _, _, fraction, _ in found]
    around = {(before, after) for before, _, _, after in found}
    varies = len({len(fraction) for fraction in fractions if fraction}) > 1
    if len(found) < len(files) or len(around) > 1 or not varies or any(f[1:].endswith("0") for f in fractions):
        return sorted(files, key=_natural)
    seconds = [(whole, fraction) for _, whole, fraction, _ in found]
    return [file for _, file in sorted(zip(seconds, files, strict=True))]


def _natural(file: Path) -> list[tuple[int, str]]:
    # The suffix comes last, so that `1.jpg` is before `1.5.jpg`.
    parts = [*re.split(r"(\d+)", file.stem), file.suffix]
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def series_of(name: str) -> str:
    """The series that a file belongs to by its name: `frame_#.png` for `frame_012.png`."""
    return _NUMBER.sub("#", name)


def _interleaved(names: Sequence[str]) -> tuple[str, str] | None:
    """Find two series of names whose members alternate, such as frames and their masks: one name of each."""
    series = [series_of(name) for name in names]
    (main, _), *others = Counter(series).most_common()
    alternations = Counter(pair for pair in pairwise(series) if pair[0] != pair[1])
    numbers: dict[str, list[tuple[str, ...]]] = {}
    for name, own in zip(names, series, strict=True):
        numbers.setdefault(own, []).append(tuple(number.lstrip("0") for number in _NUMBER.findall(name)))
    for other, count in others:
        # A mask may have a number more, its object's.
        length = min(len(numbers[main][0]), len(numbers[other][0]))
        first, second = ({number[:length] for number in numbers[one]} for one in (main, other))
        shared = len(first & second) if length else 0
        # Series that follow one another, as of two cameras in one folder, meet only once.
        often = alternations[main, other] + alternations[other, main] > count / 2
        if count > 1 and often and shared >= _SHARED_NUMBERS * min(len(first), len(second)) > 0:
            return names[series.index(main)], names[series.index(other)]
    return None


def read_frame(image: Path) -> Frame:
    """Decode an image file: u8[H, W, 3] BGR.

    Raises:
        ClipError: it cannot be decoded, or ends before its picture does.
    """
    content = image.read_bytes()
    if _is_cut_off(content):
        raise ClipError(f"frame {image} ends before its picture does; copy it again or leave the clip out")
    # Not imread, which fills the missing part of a picture with grey.
    frame: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if frame is None:
        raise ClipError(f"frame {image} cannot be decoded; replace it or leave the clip out")
    return frame


def _is_cut_off(content: bytes) -> bool:
    """Say whether a JPEG has no end. Decoders of other formats fail by themselves when data are missing."""
    if content[:2] != b"\xff\xd8":
        return False
    at = 2
    # Segments before the picture's data are skipped: a small preview in one of them has an end of its own.
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != _START_OF_SCAN:
        filled = content[at + 1 : at + 2] == b"\xff"
        at += 1 if filled else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content.find(_END_OF_IMAGE, at) < 0


class FolderLook:
    """Collects, frame by frame, what tells a clip from other folders of images."""

    def __init__(self) -> None:
        self._masks: list[bool] = []

    def add(self, frame: Frame) -> None:
        """Look at the next frame, u8[H, W, 3]."""
        coarse = cv2.resize(frame, _GRID, interpolation=cv2.INTER_NEAREST).reshape(-1, 3).astype(np.uint32)
        colours = len(np.unique(coarse @ np.array([1, 1 << 8, 1 << 16], np.uint32)))
        rows = frame[:: max(1, len(frame) // _GRID[1])]
        flat = (rows[:, 1:] == rows[:, :-1]).all(axis=2).mean() if frame.shape[1] > 1 else 0.0
        # A picture of a single colour may be a fade, and an empty mask is one of many.
        self._masks.append(1 < colours <= _MASK_COLOURS and bool(flat >= _MASK_FLAT))

    def why_no_clip(self, changes: NDArray[np.float32]) -> str | None:
        """Say why the images are not the frames of a clip; None if they may be.

        Args:
            changes: f32[T], the change of look to each frame from the one before, 0 to 1.
        """
        if np.mean(self._masks) >= _MASK_SHARE:
            return "its images are masks, of a few colours in flat areas"
        if len(changes) >= _FEWEST_TO_JUDGE and np.median(changes[1:]) >= _UNRELATED:
            return "its images have nothing in common with their neighbours, so they are no frames of one clip"
        return None
