"""Image files as 8-bit RGB at the backbone's size: orientation, bit depth, transparency, and what cannot be read."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from infoaug.orchestrator.runtime import scratch

SUFFIXES = frozenset((
    ".avif", ".bmp", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
DEEP_SUFFIXES = SUFFIXES - {".avif", ".bmp", ".jfif", ".jpeg", ".jpg", ".webp"}  # may have more than 8 bits
MOST_PIXELS = 1 << 26  # of one image: a file of a few kilobytes can decode to more than the memory
MOST_LENGTH = 100  # the largest ratio of an image's sides
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners store in pixels of 16 bits
THREADS = 8
BLOCK = 1024  # images that are decoded or resized at a time

_ORIENTATION = 0x0112  # the tag of EXIF, and how an image of each value is turned upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[value] for value in (5, 6, 7, 8)}  # which swap the sides


class _Picture(NamedTuple):
    """A decoded image at size S. 8-bit: u8[3, S, S]. Deeper: f32[C, S, S] and its largest value before resizing."""

    pixels: Tensor
    peak: int = 0


def read(paths: Sequence[Path], size: int) -> tuple[Tensor, dict[int, str]]:
    """Read image files, the first picture of those that hold several.

    Images are turned upright by their EXIF orientation. Transparent pixels show white. Images of more than 8 bits are
    scaled by one factor for all `paths`: full scale is the smallest of 8, 10, 12, 14 or 16 bits that holds the
    largest value of them all. Float images are not read: their range is not known.

    Args:
        paths: the files.
        size: S, pixels; see `fit`.

    Returns:
        The images that could be read, u8[n, 3, S, S] in the order of the paths, in a `scratch.array`, and why the
        others could not, by their position.
    """
    images = torch.from_numpy(scratch.array((len(paths), 3, size, size), np.uint8))
    failed, deep, count = dict[int, str](), dict[int, _Picture](), 0
    for i, found in enumerate(_each(paths, size)):
        if isinstance(found, str):
            failed[i] = found
            continue
        if found.pixels.dtype == torch.uint8:
            images[count] = found.pixels
        else:
            deep[count] = found  # their full scale is known when all are read
        count += 1
    for at, pixels in zip(deep, _all_eight_bit([*deep.values()]), strict=True):
        images[at] = pixels
    return images[:count], failed


def blocks(paths: Sequence[Path], size: int) -> Generator[Tensor, None, dict[int, str]]:
    """Read image files as `read` does, but not all at once: images of more than 8 bits come last.

    Yields:
        Blocks of images u8[n, 3, S, S].

    Returns:
        Why the images that are missing could not be read, by their position.
    """
    failed, plain, deep = dict[int, str](), list[Tensor](), list[_Picture]()
    for i, found in enumerate(_each(paths, size)):
        if isinstance(found, str):
            failed[i] = found
        elif found.pixels.dtype == torch.uint8:
            plain.append(found.pixels)
        else:
            deep.append(found)  # their full scale is known when all are read
        if len(plain) == BLOCK:
            yield torch.stack(plain)
            plain = []
    if rest := plain + _all_eight_bit(deep):
        yield torch.stack(rest)
    return failed


def original(path: Path) -> Tensor:
    """One image of at most 8 bits at its own size, upright: u8[3, H, W].

    Raises:
        ValueError, OSError: it cannot be read, or has more bits.
    """
    with _opened(path) as stored:
        if stored.mode.startswith("I"):
            raise ValueError("it has more than 8 bits a colour: save it with 8")
        return F.pil_to_tensor(_opaque(_upright(stored, stored)))


def original_size(path: Path) -> tuple[int, int]:
    """Height and width of `original`, from the header: pixels. Raises as it does."""
    with _opened(path) as stored:
        width, height = stored.size
        return (width, height) if _turn(stored) in _SIDEWAYS else (height, width)


def each(paths: Sequence[Path], size: int, peak: int = 0) -> Iterator[Tensor | str]:
    """Read image files one after the other, in order: u8[3, S, S], or why one cannot be read.

    Args:
        paths: the files.
        size: S, pixels; see `fit`.
        peak: as of the function of that name, of all images that are to be on one scale; each is read on its own.
    """
    for found in _each(paths, size):
        if isinstance(found, _Picture):
            yield _eight_bit(found, _full_scale(max(found.peak, peak)))
        else:
            yield found


def peak(paths: Sequence[Path]) -> int:
    """The largest value in the images of more than 8 bits, which sets the scale of them all; 0 if there are none.

    Only formats that can have so many are opened, and only images that have are decoded.
    """

    def one(path: Path) -> int:
        try:
            with _opened(path) as stored:
                deep = _is_deep_colour(stored) or stored.mode.startswith("I")
            return _decoded(path, 1).peak if deep else 0
        except Exception:  # which is said where it is read
            return 0

    may = [path for path in paths if path.suffix.lower() in DEEP_SUFFIXES]
    with ThreadPoolExecutor(THREADS) as pool:
        blocks = (may[start : start + BLOCK] for start in range(0, len(may), BLOCK))
        return max((found for block in blocks for found in pool.map(one, block)), default=0)


def complaint(path: Path) -> str:
    """Why an image file cannot be read, as far as its header shows; empty if nothing is wrong with that."""
    try:
        with _opened(path):
            return ""
    except Exception as error:
        return _reason(error)


def fit(images: Tensor, size: int) -> Tensor:
    """Images [N, C, H, W], resized by the shorter side to `size` (bilinear, anti-aliased), cropped at the centre."""
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    return F.center_crop(F.resize(images, [size], antialias=True), [size, size])


def fit_rows(images: Tensor, rows: Tensor, size: int) -> Tensor:
    """The rows int64[n] of images u8[N, 3, H, W], as by `fit`, block by block: u8[n, 3, S, S] in a `scratch.array`."""
    fitted = torch.from_numpy(scratch.array((len(rows), 3, size, size), np.uint8))
    for into, chosen in zip(fitted.split(BLOCK), rows.split(BLOCK), strict=True):
        into[:] = fit(images[chosen], size)
    return fitted


def check_size(height: int, width: int) -> None:
    """Raise ValueError for an image that cannot be resized, or would take too much memory."""
    short, long = sorted((height, width))
    if short < 1 or long > MOST_LENGTH * short or height * width > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels are too few, too many (above {MOST_PIXELS}) or too long (above {MOST_LENGTH}:1)"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet."""
    if not path.exists():
        raise ValueError("it does not exist")
    if not path.is_file():  # a pipe would hang
        raise ValueError("it is no regular file")
    with Image.open(path) as image:
        check_size(*image.size[::-1])
        if image.mode == "F":
            raise ValueError("its pixels are floats, whose range is not known: save it with 8 or 16 bits")
        yield image


def _decoded(path: Path, size: int) -> _Picture:
    with _opened(path) as stored:
        is_deep_colour = _is_deep_colour(stored)  # as long as it is not loaded
        stored.load()  # before the orientation is asked for: TIFFs are turned when they are loaded
        if is_deep_colour and (channels := _deep_colour(path)):
            values = np.stack([np.asarray(_upright(channel, stored)) for channel in channels]).astype(np.int64)
        elif stored.mode.startswith("I"):
            values = np.asarray(_upright(stored, stored)).astype(np.int64)[None]
        else:
            return _Picture(fit(F.pil_to_tensor(_opaque(_upright(stored, stored)))[None], size)[0])
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << DEPTHS[-1]:
        raise ValueError(f"its pixels are integers from {low} to {high}: save it with 8 or 16 bits")
    return _Picture(fit(torch.from_numpy(values).float()[None], size)[0], high)


def _is_deep_colour(stored: Image.Image) -> bool:
    return stored.mode == "RGB" and any(";16" in str(tile[3]) for tile in getattr(stored, "tile", ()))


def _deep_colour(path: Path) -> list[Image.Image]:
    """The red, green and blue of an image of 16 bits a colour; nothing if OpenCV cannot read it.

    Pillow would keep the upper 8 bits only, and show a picture of 12 bits nearly black.
    """
    stored: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3:
        return []
    return [Image.fromarray(np.ascontiguousarray(stored[..., channel])) for channel in (2, 1, 0)]


def _upright(image: Image.Image, stored: Image.Image) -> Image.Image:
    """An image, turned as the EXIF orientation of the stored one says."""
    turn = _turn(stored)
    return image if turn is None else image.transpose(turn)


def _turn(stored: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(stored.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """An image of at most 8 bits as RGB, over white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _each(paths: Sequence[Path], size: int) -> Iterator[_Picture | str]:
    """Every image in order, or why it cannot be read; a block is decoded at a time."""

    def one(path: Path) -> _Picture | str:
        try:
            return _decoded(path, size)
        except Exception as error:  # Pillow raises errors of many kinds for a broken file
            return _reason(error)

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), BLOCK):
            yield from pool.map(one, paths[start : start + BLOCK])


def _all_eight_bit(pictures: Sequence[_Picture]) -> list[Tensor]:
    """Pixels of all images as u8[3, S, S]: those of more bits on one scale."""
    full_scale = _full_scale(max((picture.peak for picture in pictures), default=0))
    return [_eight_bit(picture, full_scale) for picture in pictures]


def _full_scale(peak: int) -> int:
    """The white of images of more than 8 bits with this largest value."""
    return next((1 << bits) - 1 for bits in DEPTHS if peak < 1 << bits)


def _eight_bit(picture: _Picture, full_scale: int) -> Tensor:
    """Pixels as u8[3, S, S]; `full_scale` is the white of deeper ones."""
    if picture.pixels.dtype == torch.uint8:
        return picture.pixels
    scaled = (picture.pixels * (255 / full_scale)).round().clamp(0, 255)
    return scaled.to(torch.uint8).expand(3, -1, -1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose message repeats the name
        return "it is no image of a known format"
    return f"{error!s:.200}" or type(error).__name__
