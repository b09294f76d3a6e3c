"""Labelled images for evaluation: torchvision's data sets, image folders, .npz files, domains, rendered textures."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from infoaug.models import memory
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.synthetic.textures import labelled_images

_log = logging.getLogger(__name__)

SCENES_TRAIN, SCENES_TEST = 2000, 1000
MOST_PIXELS = 1 << 26  # of one image: a file of a few kilobytes can decode to more than the memory
MOST_LENGTH = 100  # the largest ratio of an image's sides
HELD_OUT = 5  # every fifth image: for testing if a folder has no test split, and for validation
NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


@dataclass(frozen=True)
class Labelled:
    """One split: `images` u8[N, 3, S, S] and `labels` int64[N], 0 ≤ label < number of classes."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Domains:
    """One task in several domains: `images` by domain, with the same labels; `left_out`: classes that some lack."""

    images: dict[str, Labelled]
    classes: list[str]
    left_out: list[str]


def load(name: str, config: EvaluateConfig, image_size: int) -> tuple[Labelled, Labelled]:
    """Load the training and test split of a data set, at the backbone's image size.

    Other sizes are resized by the shorter side (bilinear with anti-aliasing) and cropped at the centre. With
    `config.limit`, each split has the first images of a fixed shuffle, that many.

    Args:
        name: `scenes`, `cifar10`, `cifar100`, `stl10`; a folder `train/CLASS/…` with `test/CLASS/…` (or `val`); a
            folder `CLASS/…` (every fifth image is for testing); or an .npz with x_train, y_train, x_test, y_test.
        config: the folder of torchvision's data sets, and the limit.
        image_size: S, pixels.

    Raises:
        UsageError: the data set is unknown, or cannot be downloaded or read.
    """
    if name == "scenes":
        splits = _scenes(image_size)
    elif name in TORCHVISION:
        splits = [_torchvision(name, train, config, image_size) for train in (True, False)]
    elif _is(Path.is_dir, name):
        splits = _folder(Path(name), image_size, config.limit)
    elif Path(name).suffix == ".npz" and _is(Path.is_file, name):
        splits = _npz(Path(name), image_size)
    else:
        known = ", ".join(["scenes", *TORCHVISION])
        raise UsageError(
            settings.one_line(
                f"no data set '{name:.300}': give one of {known}, an existing image folder, or an .npz file"
            )
        )
    train, test = (_limited(split, config.limit) for split in splits)
    if not len(train.labels) or not len(test.labels) or train.labels.unique().numel() < 2:
        raise UsageError(f"data set '{name}' needs training and test images of at least two classes")
    _check_validation(f"data set '{name}'", train.labels)
    _log.debug("data set '%s': %d training and %d test images", name, len(train.labels), len(test.labels))
    return train, test


def load_domains(name: str, config: EvaluateConfig, image_size: int) -> Domains:
    """Load the images of a folder `DOMAIN/CLASS/…` by domain, prepared as by `load`; `config.limit` is per domain.

    Raises:
        UsageError: as `domain_files`; or an image cannot be read, or a domain has too few images.
    """
    files, left_out = domain_files(name)
    classes = sorted(next(iter(files.values())))
    images = {}
    for domain, members in files.items():
        images[domain] = _read({i: members[c] for i, c in enumerate(classes)}, image_size, config.limit)
        _check_validation(f"domain '{domain}' of '{name}'", images[domain].labels)
    return Domains(images, classes, left_out)


def domain_files(name: str) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """The image files of a folder `DOMAIN/CLASS/…` by domain and class, and the classes that not all domains have.

    Raises:
        UsageError: there is no such folder, or it has fewer than two domains, or fewer than two common classes.
    """
    if not _is(Path.is_dir, name):
        raise UsageError(settings.one_line(f"evaluate.domains: there is no folder '{name:.300}'"))
    folders = {p.name: _files(p) for p in sorted(Path(name).iterdir()) if p.is_dir()}
    domains = {domain: {c: files for c, files in classes.items() if files} for domain, classes in folders.items()}
    domains = {domain: classes for domain, classes in domains.items() if classes}
    if len(domains) < 2:
        raise UsageError(
            f"'{name}' must hold images of at least two domains, as DOMAIN/CLASS/image; it has {len(domains)}"
        )
    common = set.intersection(*map(set, domains.values()))
    if len(common) < 2:
        raise UsageError(f"the domains of '{name}' ({', '.join(domains)}) must have at least two classes in common")
    kept = {domain: {c: classes[c] for c in sorted(common)} for domain, classes in domains.items()}
    return kept, sorted(set().union(*domains.values()) - common)


def held_out(labels: Tensor) -> Tensor:
    """The training images held out for validation: bool[N], a fixed fifth, stratified by the labels int64[N]."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class[HELD_OUT // 2 :: HELD_OUT]] = True
    return held


def _check_validation(what: str, labels: Tensor) -> None:
    held = held_out(labels)
    if not held.any() or labels[~held].unique().numel() < 2:
        raise UsageError(f"{what} has too few images to train with ({len(labels)}): a fifth is held out for validation")


def fingerprint(name: str) -> str:
    """Identifies a data set's content without reading it: the numbers of files and bytes of a folder or an .npz."""
    path = Path(name)
    files = [path] if _is(Path.is_file, name) else []
    if _is(Path.is_dir, name):
        files = sorted(f for f in path.rglob("*") if f.is_file())
    return f"{len(files)}:{sum(f.stat().st_size for f in files)}"


def _is(kind: Callable[[Path], bool], name: str) -> bool:
    """Whether a file or folder of that name exists; False for a text that cannot be a name."""
    try:
        return kind(Path(name))
    except (OSError, ValueError):
        return False


def _torchvision(name: str, train: bool, config: EvaluateConfig, image_size: int) -> Labelled:
    try:
        data = TORCHVISION[name](config.data, train, config.download)
    except (RuntimeError, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise UsageError(
            f"data set '{name}' is not in '{config.data}' and could not be fetched ({why}): put it there "
            "or name another in evaluate.datasets"
        ) from None
    images, labels = data.data, data.labels if name == "stl10" else data.targets
    stacked = torch.as_tensor(images if name == "stl10" else np.moveaxis(images, 3, 1))
    return Labelled(_fit(stacked, image_size), torch.as_tensor(labels, dtype=torch.int64))


TORCHVISION: dict[str, Callable[[str, bool, bool], torchvision.datasets.VisionDataset]] = {
    "cifar10": lambda root, train, fetch: torchvision.datasets.CIFAR10(root, train, download=fetch),
    "cifar100": lambda root, train, fetch: torchvision.datasets.CIFAR100(root, train, download=fetch),
    "stl10": lambda root, train, fetch: torchvision.datasets.STL10(root, "train" if train else "test", download=fetch),
}


def _folder(path: Path, image_size: int, limit: int | None) -> list[Labelled]:
    """Training and test split of an image folder. Labels number the sorted names of the class folders."""
    folders = {p.name: p for p in path.iterdir() if p.is_dir()}
    test_folder = folders.get("test") or folders.get("val")
    if "train" in folders and test_folder:
        train, test = _files(folders["train"]), _files(test_folder)
        if unknown := sorted(set(test) - set(train)):
            raise UsageError(f"image folder '{path}': class '{unknown[0]}' is in the test split only")
    else:
        every = _files(path)
        train = {name: [f for i, f in enumerate(files) if i % HELD_OUT] for name, files in every.items()}
        test = {name: files[::HELD_OUT] for name, files in every.items()}
    number = {name: i for i, name in enumerate(sorted(train))}
    return [_read({number[name]: files for name, files in split.items()}, image_size, limit) for split in (train, test)]


def _files(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    return {c.name: sorted(f for f in c.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS) for c in classes}


def _read(files: dict[int, list[Path]], image_size: int, limit: int | None) -> Labelled:
    def one(path: Path) -> Tensor:
        try:
            if not path.is_file():  # a pipe would hang
                raise ValueError("it is no regular file")
            with Image.open(path) as opened:
                _check_size(*opened.size[::-1])
                image = F.pil_to_tensor(opened.convert("RGB"))
            return _fit(image[None], image_size)[0]
        except Exception as error:  # Pillow raises errors of many kinds for a broken file
            raise UsageError(
                settings.one_line(f"image '{path}' cannot be read: {error!s:.200}; replace or remove it")
            ) from None

    paths = [(path, label) for label, members in files.items() for path in members]
    paths = [paths[i] for i in _chosen(len(paths), limit)]
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(one, (path for path, _ in paths)))
    stacked = torch.stack(images) if images else torch.zeros(0, 3, image_size, image_size, dtype=torch.uint8)
    return Labelled(stacked, torch.tensor([label for _, label in paths], dtype=torch.int64))


def _npz(path: Path, image_size: int) -> list[Labelled]:
    try:
        with np.load(path, allow_pickle=False) as content:
            names = next((n for n in NPZ_NAMES if set(n) <= set(content.files)), None)
            if names is None:
                held = ", ".join(content.files)
                raise UsageError(
                    settings.one_line(f"'{path}' must hold {', '.join(NPZ_NAMES[0])}; it holds {held:.200}")
                )
            # An array can be a thousand times as large as its compressed file.
            needed, available = (sum(content.zip.getinfo(f"{name}.npy").file_size for name in names), memory.limit())
            if needed > available:
                raise ValueError(f"it takes {needed >> 20} MiB, this process may use {available >> 20}")
            parts = [content[name] for name in names]
    except UsageError:
        raise
    except Exception as error:  # of the archive, of its compression, of NumPy's headers, or no memory
        raise UsageError(settings.one_line(f"'{path}' cannot be read as .npz: {error!s:.300}")) from None
    splits = []
    for images, labels in (parts[:2], parts[2:]):
        pixels = np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise UsageError(
                f"'{path}': images must be uint8 [N, H, W] or [N, H, W, 3], got {images.dtype} {images.shape}"
            )
        if len(pixels):
            try:
                _check_size(*pixels.shape[1:3])
            except ValueError as error:
                raise UsageError(f"'{path}': {error}") from None
        if len(labels := _integers(path, labels)) != len(pixels):
            raise UsageError(f"'{path}': {len(pixels)} images have {len(labels)} labels: give one an image")
        splits.append(Labelled(_fit(torch.from_numpy(np.moveaxis(pixels, 3, 1)), image_size), labels))
    return splits


def _integers(path: Path, labels: np.ndarray) -> Tensor:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer) or (flat.astype(np.int64) < 0).any():
        raise UsageError(f"'{path}': labels must be integers from 0, one an image, got {labels.dtype} {labels.shape}")
    return torch.from_numpy(flat.astype(np.int64))


@lru_cache(maxsize=1)  # a worker that evaluates several models renders them once
def _scenes(image_size: int) -> list[Labelled]:
    try:
        drawn = [labelled_images(seed, count, image_size) for seed, count in ((1, SCENES_TRAIN), (2, SCENES_TEST))]
    except ValueError as error:
        raise UsageError(f"data set 'scenes' cannot be drawn: {error}") from None
    return [
        Labelled(torch.from_numpy(np.moveaxis(images, 3, 1).copy()), torch.from_numpy(labels))
        for images, labels in drawn
    ]


def _check_size(height: int, width: int) -> None:
    """Raise ValueError for an image that cannot be resized, or would take too much memory."""
    short, long = sorted((height, width))
    if short < 1 or long > MOST_LENGTH * short or height * width > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels are too few, too many (above {MOST_PIXELS}) or too long (above {MOST_LENGTH}:1)"
        )


def _fit(images: Tensor, size: int) -> Tensor:
    """Images u8[N, 3, H, W], resized by the shorter side to `size` and cropped at the centre."""
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    return F.center_crop(F.resize(images, [size], antialias=True), [size, size])


def _limited(split: Labelled, limit: int | None) -> Labelled:
    if limit is None or limit >= len(split.labels):
        return split
    chosen = _chosen(len(split.labels), limit)
    return Labelled(split.images[chosen], split.labels[chosen])


def _chosen(count: int, limit: int | None) -> Tensor:
    """The rows within a limit, in the order of a fixed shuffle; without a limit below `count`, all rows in order."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit]
