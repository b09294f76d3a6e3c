"""Images in an .npz file: its shapes and labels without its pixels, its pixels, and what identifies it."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.models import memory
from infoaug.orchestrator import settings
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation.images import check_size
from infoaug.orchestrator.runtime.store import digest_of

NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
UNLABELLED = ("x_train", "train_images", "images")  # the first of them that a file has holds the images to train on


def labels(path: Path) -> dict[str, NDArray[np.int64]]:
    """The labels int64[N] of `train` and `test`, ≥ 0. Of the images, only type and shape are looked at.

    Raises:
        UsageError: the file cannot be read or does not hold images with a label each, or they do not fit the memory.
    """
    with _opened(path) as archive:
        names = _names(path, archive)
        _check_memory(archive, names)
        found = {}
        for split, images, numbers in (("train", *names[:2]), ("test", *names[2:])):
            shape, dtype = _header(archive, images)
            _check_images(path, shape, dtype)
            found[split] = _integers(path, archive[numbers])
            if len(found[split]) != shape[0]:
                raise UsageError(f"'{path}': {shape[0]} images have {len(found[split])} labels: give one an image")
    return found


def images(path: Path) -> dict[str, NDArray[np.uint8]]:
    """The images u8[N, H, W, 3] of `train` and `test`.

    Raises:
        UsageError: as `labels`.
    """
    with _opened(path) as archive:
        names = _names(path, archive)
        found = {}
        for split, name in (("train", names[0]), ("test", names[2])):
            found[split] = _colours(path, archive[name])
    return found


def count(path: Path) -> int:
    """How many images to train on a file holds, with labels or without; only their type and shape are looked at.

    Raises:
        UsageError: the file cannot be read or holds no images, or they do not fit the memory.
    """
    with _opened(path) as archive:
        name = _unlabelled(path, archive)
        _check_memory(archive, [name])
        shape, dtype = _header(archive, name)
        _check_images(path, shape, dtype)
        if not shape[0]:
            raise UsageError(f"'{path}' has no images in {name}")
        return shape[0]


def training_images(path: Path) -> NDArray[np.uint8]:
    """The images to train on, u8[N, H, W, 3].

    Raises:
        UsageError: as `count`.
    """
    with _opened(path) as archive:
        return _colours(path, archive[_unlabelled(path, archive)])


def fingerprint(path: Path) -> str:
    """Identifies the content of an .npz by the checksums that it holds of its arrays; of another file by its times."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = sorted((entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist())
    except Exception:  # no archive, or a damaged one: it will be refused
        state = path.stat()
        return f"{state.st_size}:{state.st_mtime_ns}"
    return digest_of(listed, 16)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The archive; an error of any kind within is one sentence."""
    try:
        if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
            raise UsageError(
                settings.one_line(
                    f"'{path}' cannot be read as .npz, it is no archive or a damaged one: write it by numpy.savez, or "
                    "copy it again"
                )
            )
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except UsageError:
        raise
    except Exception as error:  # of the archive, of its compression, of NumPy's headers, or no memory
        raise UsageError(settings.one_line(f"'{path}' cannot be read as .npz: {error!s:.300}")) from None


def _unlabelled(path: Path, archive: Any) -> str:
    """The name of the array of images to train on."""
    for name in UNLABELLED:
        if name in archive.files:
            return name
    held = ", ".join(archive.files)
    raise UsageError(settings.one_line(f"'{path}' must hold {' or '.join(UNLABELLED)}; it holds {held:.200}"))


def _check_memory(archive: Any, names: Sequence[str]) -> None:
    """Raise ValueError for arrays that do not fit: one can be a thousand times as large as its compressed file."""
    needed, available = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in names), memory.limit()
    if needed > available:
        raise ValueError(f"it takes {needed >> 20} MiB, this process may use {available >> 20}")


def _colours(path: Path, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Images as u8[N, H, W, 3]."""
    _check_images(path, pixels.shape, pixels.dtype)
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 3 else pixels


def _names(path: Path, archive: Any) -> tuple[str, str, str, str]:
    """The names of the four arrays."""
    for names in NAMES:
        if set(names) <= set(archive.files):
            return names
    held = ", ".join(archive.files)
    raise UsageError(settings.one_line(f"'{path}' must hold {', '.join(NAMES[0])}; it holds {held:.200}"))


def _header(archive: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array."""
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read: Callable[..., Any] = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape, _, dtype = read(file)
    return shape, dtype


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] != 3):
        raise UsageError(f"'{path}': images must be uint8 [N, H, W] or [N, H, W, 3], got {dtype} {shape}")
    if shape[0]:
        try:
            check_size(*shape[1:3])
        except ValueError as error:
            raise UsageError(f"'{path}': {error}") from None


def _integers(path: Path, found: NDArray[Any]) -> NDArray[np.int64]:
    flat = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer) or (flat.astype(np.int64) < 0).any():
        raise UsageError(f"'{path}': labels must be integers from 0, one an image, got {found.dtype} {found.shape}")
    return flat.astype(np.int64)
