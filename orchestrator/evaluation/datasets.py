"""Images for evaluation and training: torchvision's data sets, image folders, .npz files, domains, rendered textures.

A data set is opened first, which tells its labels and what is wrong with it, and read after that.
"""

import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infoaug.orchestrator import settings
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import images, opening
from infoaug.orchestrator.evaluation.image_folder import HELD_OUT
from infoaug.orchestrator.evaluation.opening import TORCHVISION, Opened

_log = logging.getLogger(__name__)

MOST_UNREADABLE = 0.1  # share of the images: a set with more of them is refused
PROBED = 200  # images of a folder whose headers are looked at before anything is started
NAMED = 3  # files that a message names


@dataclass(frozen=True)
class Labelled:
    """One split: `images` u8[N, 3, S, S] and `labels` int64[N], 0 ≤ label < number of classes.

    Images that take more than a share of the memory are mapped from a file, see `scratch.array`.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set: its splits, the names of its classes by label, and sentences on what of it is not used."""

    train: Labelled
    test: Labelled
    names: list[str]
    notes: list[str]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)


@dataclass(frozen=True)
class Domains:
    """One task in several domains: `images` by domain, with the same labels; `left_out`: classes that some lack."""

    images: dict[str, Labelled]
    classes: list[str]
    left_out: list[str]
    notes: list[str]


def load(name: str, config: EvaluateConfig, image_size: int) -> Dataset:
    """Load a data set at the backbone's image size.

    Other sizes are resized by the shorter side (bilinear with anti-aliasing) and cropped at the centre. With
    `config.limit`, each split has the first images of a fixed shuffle, that many. Labels number the classes of the
    training images in order of their names or numbers. Images that cannot be read are left out, if they are few.

    Args:
        name: `scenes`, `cifar10`, `cifar100`, `stl10`; an image folder, see `image_folder.splits`; or an .npz with
            x_train, y_train, x_test, y_test.
        config: the folder of torchvision's data sets, and the limit.
        image_size: S, pixels.

    Raises:
        UsageError: the data set is unknown, or cannot be downloaded, used or read.
    """
    opened = opening.open_set(name, config, image_size, fetch=config.download)
    _check_splits(opened, config.limit)
    splits, unreadable = _read(opened, config.limit, image_size, fitted=("train",))
    train, test = splits["train"], splits["test"]
    _check_enough(opened.what, train.labels, test.labels, opened.notes + unreadable)
    _check_validation(opened.what, train.labels)
    _log.debug("%s: %d training and %d test images", opened.what, len(train.labels), len(test.labels))
    return Dataset(train, test, opened.classes, opened.notes + unreadable)


def load_domains(name: str, config: EvaluateConfig, image_size: int) -> Domains:
    """Load the images of a folder `DOMAIN/CLASS/…` by domain, prepared as by `load`; `config.limit` is per domain.

    Raises:
        UsageError: as `image_folder.domains`; or the images cannot be read, or a domain has too few.
    """
    opened = opening.open_domains(name)
    _check_domains(opened, config.limit)
    splits, unreadable = _read(opened, config.limit, image_size, fitted=tuple(opened.labels))
    for domain, split in splits.items():
        _check_validation(f"domain '{domain}' of {opened.what}", split.labels)
    return Domains(splits, opened.classes, opened.left_out, opened.notes + unreadable)


def check(name: str, config: EvaluateConfig, image_size: int, fetch: bool) -> list[str]:
    """Check a data set without reading its images: names, layout, labels, and the headers of some image files.

    Args:
        name: as for `load`.
        config: as for `load`.
        image_size: S, pixels.
        fetch: download a set of torchvision's that is missing, if the config allows it. False: only say that it will
            be downloaded.

    Returns:
        Sentences on what of it is not used.

    Raises:
        UsageError: `load` would refuse it.
    """
    if name in TORCHVISION and config.download and not fetch:
        try:
            opened = opening.open_set(name, config, image_size, fetch=False)
        except UsageError:
            return [_to_download(name, config)]
    else:
        opened = opening.open_set(name, config, image_size, fetch=fetch and config.download)
    _check_splits(opened, config.limit)
    _probe(opened)
    return opened.notes


def check_domains(name: str, config: EvaluateConfig) -> list[str]:
    """Check a folder `DOMAIN/CLASS/…` without reading its images, as `check` does."""
    opened = opening.open_domains(name)
    _check_domains(opened, config.limit)
    _probe(opened)
    notes = [*opened.notes]
    if opened.left_out:
        named = ", ".join(opened.left_out[:NAMED]) + (" …" if len(opened.left_out) > NAMED else "")
        notes.append(f"{len(opened.left_out)} classes are left out, not all domains have them: {named}")
    return notes


def check_images(name: str, config: EvaluateConfig, image_size: int, fetch: bool) -> tuple[int | None, list[str]]:
    """Check images to train on without reading them, as `check` does.

    Args:
        name: as for `opening.open_images`.
        config: the folder of torchvision's data sets; its limit does not apply.
        image_size: S, pixels.
        fetch: as for `check`.

    Returns:
        How many they are, None for a set that will be downloaded; and sentences on what is not used.

    Raises:
        UsageError: there are none, or too many of them cannot be read.
    """
    try:
        opened = opening.open_images(name, config, image_size, fetch=fetch and config.download)
    except UsageError:
        if name in TORCHVISION and config.download and not fetch:
            return None, [_to_download(name, config)]
        raise
    _probe(opened)
    return len(opened.labels["train"]), opened.notes


def image_blocks(opened: Opened, image_size: int) -> Iterator[Tensor]:
    """Read the split `train` in blocks u8[n, 3, S, S], prepared as by `load`. Large folders never fill the memory.

    Images that cannot be read are left out, if they are few.

    Raises:
        UsageError: too many cannot be read.
    """
    if not opened.files:
        for part in opened.pixels()["train"].split(images.BLOCK):
            yield images.fit(part, image_size)
        return
    files = opened.files["train"]
    failed = yield from images.blocks(files, image_size)
    for note in _unreadable(opened.what, files, failed):
        _log.warning("%s: %s", opened.what, note)


def held_out(labels: Tensor) -> Tensor:
    """The training images held out for validation: bool[N], a fixed fifth, stratified by the labels int64[N]."""
    by_class = _shuffled_by_class(labels)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class[HELD_OUT // 2 :: HELD_OUT]] = True
    return held


def few(labels: Tensor, share: float) -> Tensor:
    """A share 0–1 of the training images, with which low-shot probes are fitted: bool[N] of labels int64[N].

    Of each class the share is rounded, and at least 1 image. The choice is fixed, and a smaller share is part of a
    larger one.
    """
    by_class = _shuffled_by_class(labels)
    _, counts = labels.unique(return_counts=True)
    wanted = (share * counts + 0.5).long().clamp(min=1)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[rank < wanted.repeat_interleave(counts)]] = True
    return chosen


def _shuffled_by_class(labels: Tensor) -> Tensor:
    """Rows int64[N], class by class, each in the order of a fixed shuffle."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return shuffled[labels[shuffled].argsort(stable=True)]


# ---- what is wrong


def _to_download(name: str, config: EvaluateConfig) -> str:
    return f"data set '{name}' is not in '{config.data}' and will be downloaded"


def _check_splits(opened: Opened, limit: int | None) -> None:
    train, test = opened.labels["train"], opened.labels["test"]
    limited = train[_chosen(len(train), limit)]
    _check_enough(opened.what, limited, test, opened.notes)
    if unknown := set(test.tolist()) - set(train.tolist()):
        name = opened.classes[min(unknown)]
        others = [c for c in opened.classes if c != name and _folded(c) == _folded(name)]
        hint = f" (the training split has {others[0]!a})" if others else ""
        raise UsageError(
            settings.one_line(f"{opened.what}: class '{name}' is in the test split only{hint}: give it training images")
        )
    _check_validation(opened.what, limited)


def _folded(name: str) -> str:
    """A name without what is easily overlooked: case, spaces around it, and the way in which accents are stored."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _check_domains(opened: Opened, limit: int | None) -> None:
    for domain, labels in opened.labels.items():
        _check_validation(f"domain '{domain}' of {opened.what}", labels[_chosen(len(labels), limit)])


def _check_enough(what: str, train: Tensor, test: Tensor, notes: Sequence[str]) -> None:
    if not len(test) or train.unique().numel() < 2:
        raise UsageError("; ".join([f"{what} needs training and test images of at least two classes", *notes]))


def _check_validation(what: str, labels: Tensor) -> None:
    held = held_out(labels)
    if not held.any() or labels[~held].unique().numel() < 2:
        raise UsageError(f"{what} has too few images to train with ({len(labels)}): a fifth is held out for validation")


def _probe(opened: Opened) -> None:
    """Look at the headers of some image files; UsageError if too many cannot be read."""
    every = [file for files in opened.files.values() for file in files]
    some = every[:: max(1, len(every) // PROBED)]
    failed = {i: why for i, file in enumerate(some) if (why := images.complaint(file))}
    _unreadable(opened.what, some, failed)


def _unreadable(what: str, files: Sequence[Path], failed: Mapping[int, str]) -> list[str]:
    """The note on images that cannot be read; UsageError if they are too many to leave them out."""
    if not failed:
        return []
    named = ", ".join(f"'{files[i]}' ({why})" for i, why in [*failed.items()][:NAMED])
    note = settings.one_line(
        f"{len(failed)} of {len(files)} images cannot be read: {named}{', …' if len(failed) > NAMED else ''}"
    )
    if len(failed) > MOST_UNREADABLE * len(files):
        raise UsageError(f"{what}: {note}; replace or remove them")
    return [f"{note}; they are left out"]


# ---- reading


def _read(
    opened: Opened, limit: int | None, image_size: int, fitted: Sequence[str]
) -> tuple[dict[str, Labelled], list[str]]:
    """The images of each split within the limit, and the note on those that cannot be read.

    Raises:
        UsageError: too many cannot be read, or all of a class in a split that classifiers are fitted on.
    """
    rows = {split: _chosen(len(labels), limit) for split, labels in opened.labels.items()}
    if not opened.files:
        pixels = opened.pixels()
        return {
            split: Labelled(images.fit_rows(pixels[split], chosen, image_size), opened.labels[split][chosen])
            for split, chosen in rows.items()
        }, []
    files = [opened.files[split][i] for split, chosen in rows.items() for i in chosen.tolist()]
    found, failed = images.read(files, image_size)
    notes = _unreadable(opened.what, files, failed)
    readable = torch.ones(len(files), dtype=torch.bool)
    readable[[*failed]] = False
    kept = {
        split: chosen[good]
        for (split, chosen), good in zip(rows.items(), readable.split([*map(len, rows.values())]), strict=True)
    }
    for split in fitted:
        before, after = (set(opened.labels[split][chosen[split]].tolist()) for chosen in (rows, kept))
        if lost := before - after:
            raise UsageError(
                settings.one_line(
                    f"{opened.what}: no image of class '{opened.classes[min(lost)]}' in {split}: {notes[0]}"
                )
            )
    parts = found.split([*map(len, kept.values())])
    return {
        split: Labelled(part, opened.labels[split][kept[split]]) for split, part in zip(kept, parts, strict=True)
    }, notes


def _chosen(count: int, limit: int | None) -> Tensor:
    """The rows within a limit, in the order of a fixed shuffle; without a limit below `count`, all rows in order."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit]
