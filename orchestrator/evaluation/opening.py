"""Data sets before their images are read: their labels, where their images are, and what identifies their content."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from infoaug.orchestrator import settings
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import arrays, image_folder
from infoaug.orchestrator.evaluation.image_folder import Layout
from infoaug.orchestrator.synthetic.textures import FAMILIES, class_labels, labelled_images

SCENES_TRAIN, SCENES_TEST = 2000, 1000


@dataclass(frozen=True)
class Opened:
    """A data set whose images are not read yet.

    Attributes:
        what: its kind and name, for messages.
        labels: int64[N] by split or domain; they number `classes`.
        classes: names of the classes.
        pixels: reads images u8[N, 3, H, W] by split.
        files: the image files by split, if each image is a file.
        left_out: classes that some domains lack.
        notes: sentences on what is not used.
    """

    what: str
    labels: dict[str, Tensor]
    classes: list[str]
    pixels: Callable[[], Mapping[str, Tensor]] = dict
    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_set(name: str, config: EvaluateConfig, image_size: int, fetch: bool) -> Opened:
    """Open a data set.

    Args:
        name: as the config names it, see `datasets.load`.
        config: the folder of torchvision's data sets.
        image_size: side of rendered scenes, pixels.
        fetch: download a set of torchvision's that is missing.

    Raises:
        UsageError: the data set is unknown or missing, or has no labels.
    """
    path = image_folder.located(name)
    if name == "scenes":
        return _open_scenes(image_size)
    if name in TORCHVISION:
        return _open_torchvision(name, config, fetch)
    if _is(Path.is_dir, path):
        with _sentence(name):
            return _of_layout(f"data set '{name}'", image_folder.splits(path))
    if path.suffix == ".npz" and _is(Path.is_file, path):
        with _sentence(name):
            return _of_arrays(f"data set '{name}'", arrays.labels(path), lambda: _channels_first(arrays.images(path)))
    known = ", ".join(["scenes", *TORCHVISION])
    raise UsageError(
        settings.one_line(f"no data set '{name:.300}': give one of {known}, an existing image folder, or an .npz file")
    )


def open_images(name: str, config: EvaluateConfig, image_size: int, fetch: bool) -> Opened:
    """Open images to train on, whose labels do not count and may be missing. They are the split `train`.

    Args:
        name: `cifar10`, `cifar100` or `scenes`: their training images. `stl10`: its unlabelled ones. A folder: see
            `image_folder.unlabelled`. An .npz: its array x_train, train_images or images.
        config: the folder of torchvision's data sets.
        image_size: side of rendered scenes, pixels.
        fetch: download a set of torchvision's that is missing.

    Raises:
        UsageError: there are no such images.
    """
    path, what = image_folder.located(name), f"data set '{name}'"
    if name == "stl10":
        return _open_unlabelled_stl10(config, fetch)
    if name not in ("scenes", *TORCHVISION):
        with _sentence(name):
            if _is(Path.is_dir, path):
                return _of_layout(what, image_folder.unlabelled(path))
            if path.suffix == ".npz" and _is(Path.is_file, path):
                return _without_labels(
                    what, arrays.count(path), lambda: _channels_first({"train": arrays.training_images(path)})
                )
    return open_set(name, config, image_size, fetch)


def open_domains(name: str) -> Opened:
    """Open a folder `DOMAIN/CLASS/…`.

    Raises:
        UsageError: as `image_folder.domains`; or there is no such folder.
    """
    path = image_folder.located(name)
    if not _is(Path.is_dir, path):
        raise UsageError(settings.one_line(f"evaluate.domains: there is no folder '{name:.300}'"))
    with _sentence(name):
        return _of_layout(f"'{name}'", image_folder.domains(path))


def _open_scenes(image_size: int) -> Opened:
    labels = {"train": class_labels(1, SCENES_TRAIN), "test": class_labels(2, SCENES_TEST)}
    return _of_arrays("data set 'scenes'", labels, lambda: _scenes(image_size), FAMILIES)


@lru_cache(maxsize=1)  # a worker that evaluates several models renders them once
def _scenes(image_size: int) -> dict[str, Tensor]:
    seeds = {"train": (1, SCENES_TRAIN), "test": (2, SCENES_TEST)}
    try:
        return _channels_first({split: labelled_images(*seed, image_size)[0] for split, seed in seeds.items()})
    except ValueError as error:
        raise UsageError(f"data set 'scenes' cannot be drawn: {error}") from None


def _open_torchvision(name: str, config: EvaluateConfig, fetch: bool) -> Opened:
    stored: dict[str, Any] = {split: _stored(name, split, config, fetch) for split in ("train", "test")}
    labels = {split: np.asarray(data.labels if name == "stl10" else data.targets) for split, data in stored.items()}
    pixels = {split: data.data for split, data in stored.items()}

    def tensors() -> dict[str, Tensor]:
        return {s: torch.as_tensor(p) for s, p in pixels.items()} if name == "stl10" else _channels_first(pixels)

    return _of_arrays(f"data set '{name}'", labels, tensors, getattr(stored["train"], "classes", None) or ())


def _open_unlabelled_stl10(config: EvaluateConfig, fetch: bool) -> Opened:
    """The 100,000 unlabelled images of STL-10, mapped from their file."""
    # Of the training split, torchvision checks the unlabelled images too; as a split of their own, it reads them all
    # into memory.
    found: Any = _stored("stl10", "train", config, fetch)
    file = Path(found.root, found.base_folder, found.train_list[2][0])
    stored = torch.from_numpy(np.memmap(file, np.uint8, "c").reshape(-1, 3, 96, 96)).transpose(2, 3)
    return _without_labels("data set 'stl10'", len(stored), lambda: {"train": stored})


def _stored(name: str, split: str, config: EvaluateConfig, fetch: bool) -> torchvision.datasets.VisionDataset:
    """A split of a set of torchvision's; UsageError if it is missing."""
    try:
        return TORCHVISION[name](config.data, split == "train", fetch)
    except (RuntimeError, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise UsageError(
            f"data set '{name}' is not in '{config.data}' and could not be fetched ({why}): put it there, or name "
            "another one"
        ) from None


TORCHVISION: dict[str, Callable[[str, bool, bool], torchvision.datasets.VisionDataset]] = {
    "cifar10": lambda root, train, fetch: torchvision.datasets.CIFAR10(root, train, download=fetch),
    "cifar100": lambda root, train, fetch: torchvision.datasets.CIFAR100(root, train, download=fetch),
    "stl10": lambda root, train, fetch: torchvision.datasets.STL10(root, "train" if train else "test", download=fetch),
}


def _of_layout(what: str, layout: Layout) -> Opened:
    classes = sorted(set().union(*layout.groups.values()))
    labels, files = {}, {}
    for folder, members in layout.groups.items():
        group = _readable(folder)
        labels[group] = torch.tensor([i for i, c in enumerate(classes) for _ in members.get(c, [])], dtype=torch.int64)
        files[group] = [file for c in classes for file in members.get(c, [])]
    left_out, notes = [*map(_readable, layout.left_out)], [*map(_readable, layout.notes)]
    return Opened(what, labels, [*map(_readable, classes)], files=files, left_out=left_out, notes=notes)


def _readable(name: str) -> str:
    """A name of a folder as text: bytes that are no UTF-8, which no page can show, as `\\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _of_arrays(
    what: str,
    labels: Mapping[str, NDArray[np.integer]],
    pixels: Callable[[], Mapping[str, Tensor]],
    names: Sequence[str] = (),
) -> Opened:
    """A data set in arrays. Its labels may be any integers: the classes are the distinct ones, which may have names."""
    distinct = np.unique(np.concatenate([*labels.values()]))
    numbered = {split: torch.from_numpy(np.searchsorted(distinct, of)) for split, of in labels.items()}
    return Opened(what, numbered, [names[label] if names else str(label) for label in distinct], pixels)


def _without_labels(what: str, count: int, pixels: Callable[[], Mapping[str, Tensor]]) -> Opened:
    return Opened(what, {"train": torch.zeros(count, dtype=torch.int64)}, [what], pixels)


def _channels_first(pixels: Mapping[str, NDArray[np.uint8]]) -> dict[str, Tensor]:
    return {split: torch.from_numpy(np.moveaxis(of, 3, 1)) for split, of in pixels.items()}


def identity(name: str) -> str:
    """Identifies images to train on wherever they lie: by the name of their set, or else by their content.

    Raises:
        UsageError: they cannot be read, or are not there.
    """
    if name in ("scenes", *TORCHVISION):
        return name
    if not _is(Path.exists, image_folder.located(name)):
        raise UsageError(
            settings.one_line(f"pretrain.images: there is no file or folder '{name:.300}': correct its path")
        )
    return fingerprint(name)


def fingerprint(name: str) -> str:
    """Identifies the content of a data set: of an image folder or a file. Sets that have a name never change."""
    path = image_folder.located(name)
    if name not in ("scenes", *TORCHVISION):
        with _sentence(name):
            if _is(Path.is_dir, path):
                return image_folder.fingerprint(path)
            if _is(Path.is_file, path):
                return arrays.fingerprint(path)
    return "0:0"


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a file or folder of that name exists; False for a text that cannot be a name."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


@contextmanager
def _sentence(name: str) -> Iterator[None]:
    """An error of the operating system as one sentence."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UsageError(settings.one_line(f"data set '{name}' cannot be read: {error.filename}: {why}")) from None
