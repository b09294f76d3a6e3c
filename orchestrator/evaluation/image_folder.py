"""Folders of labelled images: which folders are splits, domains and classes, and what identifies their content.

Everything is judged by names, so it takes no longer than listing the files.
"""

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from infoaug.orchestrator import places, settings
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation.images import SUFFIXES

HELD_OUT = 5  # every fifth image of a class is for testing if a folder has no test split
# A folder of up to so many images and bytes is identified by the images' bytes, a larger one by names, sizes and times.
MOST_HASHED, MOST_HASHED_BYTES = 2000, 64 << 20
MOST_KINDS = 8  # suffixes that a note names
MOST_TABLE_BYTES = 64 << 20  # of a table of labels

_ROLES = {"train": "train(?:ing)?", "test": "test(?:ing)?", "val": "val(?:id(?:ation)?)?|dev|eval(?:uation)?"}
_SPLIT = re.compile(rf"(?:{'|'.join(_ROLES.values())})(?:[-_ ]?(?:set|data|images|split))?(?:\d{{4}})?")
# What systems leave in folders, beside names that begin with a dot.
_LITTER = frozenset((
    "__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "desktop.ini", "ehthumbs.db", "lost+found",
    "system volume information", "thumbs.db",
))  # fmt: skip

_TABLE = "_annotations.txt"  # behind the name of a split

Classes = dict[str, list[Path]]


@dataclass(frozen=True)
class Layout:
    """The image files of a folder.

    Attributes:
        groups: images by split (`train` and `test`) or domain, and class. No class is empty.
        left_out: classes that some domains lack.
        notes: sentences on what is not used.
    """

    groups: dict[str, Classes]
    left_out: list[str]
    notes: list[str]


def splits(root: Path) -> Layout:
    """The splits of a folder `train/CLASS/…` with `test/CLASS/…` or `val/CLASS/…`, or of a folder `CLASS/…`.

    Splits may have their usual other names (`training`, `validation`, `valid`, `test_set`, `val2017`), in any case. A
    test split without class folders is unlabelled, and the validation split is used instead. In place of class folders,
    a held-out split may have `images/` and a table SPLIT_annotations.txt (file, tab, class), as Tiny-ImageNet's does.

    Raises:
        UsageError: it cannot be told which folders are splits and which are classes, or no held-out split has labels.
    """
    found = _Finder(root)
    named = _by_role(found.folders(root))
    if "train" in named and len(named) > 1:
        train = found.classes(_only(root, named["train"]))
        return Layout({"train": train, "test": _held_out(found, named, train)}, [], found.notes())
    every = found.classes(root)
    train = {name: [f for i, f in enumerate(files) if i % HELD_OUT] for name, files in every.items()}
    test = {name: files[::HELD_OUT] for name, files in every.items()}
    return Layout({"train": {c: files for c, files in train.items() if files}, "test": test}, [], found.notes())


def unlabelled(root: Path) -> Layout:
    """The images of a folder to train on without labels, as one class of the split `train`; never its test images.

    Of a folder with a training split, these are all images of that split, in class folders or not. Of a folder
    `CLASS/…`, they are the training images that `splits` gives. Of any other folder, they are all images in it.

    Raises:
        UsageError: there are no such images, or only test images.
    """
    found = _Finder(root)
    named = [name for name in found.folders(root) if split_role(name)]
    training = [name for name in named if split_role(name) == "train"]
    if named and not training:
        raise UsageError(
            settings.one_line(
                f"image folder '{root}': '{named[0]}' is a split and there is no training split: name a folder of "
                "images to train on"
            )
        )
    files = found.below(_only(root, training) if training else root)
    if not training:
        with suppress(UsageError):  # these are no classes
            split = splits(root)
            if len(split.groups["train"]) > 1:
                kept = sorted(file for of in split.groups["train"].values() for file in of)
                held = sum(map(len, split.groups["test"].values()))
                notes = [f"every fifth image of a class is for testing and left out: {held}", *split.notes]
                return Layout({"train": {"": kept}}, [], notes)
    if not files:
        remedy = "put images such as .png or .jpg into it, or name another"
        raise UsageError(
            settings.one_line("; ".join([f"image folder '{root}' has no images", *found.notes()]) + f": {remedy}")
        )
    return Layout({"train": {"": files}}, [], found.notes())


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits in a folder, by role: `train`, `test` and `val`, those that there are.

    Raises:
        UsageError: a split has two folders.
    """
    named = _by_role(_Finder(root).folders(root)) if root.is_dir() else {}
    return {role: _only(root, names) for role, names in named.items()}


def split_role(name: str) -> str:
    """`train`, `test` or `val` for the name of a split, else empty."""
    low = name.lower()
    if not _SPLIT.fullmatch(low):
        return ""
    return next(role for role, pattern in _ROLES.items() if re.match(pattern, low))


def every(root: Path) -> Layout:
    """All images of a folder at any depth, whatever its folders stand for, as one class of the group `all`."""
    found = _Finder(root)
    return Layout({"all": {"": found.below(root)}}, [], found.notes())


def domains(root: Path) -> Layout:
    """The domains of a folder `DOMAIN/CLASS/…`, with the classes that all of them have.

    Raises:
        UsageError: it has fewer than two domains, or fewer than two common classes; or the classes of a domain are
            splits or hold only folders.
    """
    found = _Finder(root)
    every = {name: found.classes(root / name) for name in found.folders(root)}
    every = {name: classes for name, classes in every.items() if classes}
    if len(every) < 2:
        raise UsageError(
            settings.one_line(
                f"'{root}' must hold images of at least two domains, as DOMAIN/CLASS/image; it has {len(every)}"
                + "".join(f"; {note}" for note in found.notes())
            )
        )
    if same := [(a, b) for a, b in combinations(every, 2) if (root / a).samefile(root / b)]:
        raise UsageError(settings.one_line(f"the domains '{same[0][0]}' and '{same[0][1]}' of '{root}' are one folder"))
    common = set.intersection(*map(set, every.values()))
    if len(common) < 2:
        raise UsageError(f"the domains of '{root}' ({', '.join(every)}) must have at least two classes in common")
    kept = {domain: {c: classes[c] for c in sorted(common)} for domain, classes in every.items()}
    return Layout(kept, sorted(set().union(*every.values()) - common), found.notes())


def fingerprint(root: Path, also: tuple[str, ...] = ()) -> str:
    """Identifies the images of a folder: names and bytes, of a large folder names, sizes and times of change.

    `also`: further suffixes of files that count, such as those of annotations.
    """
    files = sorted(_files_with_stat(root, (_TABLE, *also)))
    hashed = len(files) <= MOST_HASHED and sum(size for _, _, size, *_ in files) <= MOST_HASHED_BYTES
    whole = hashlib.sha256()
    for name, path, size, changed, *state in files:
        content = _digest(path, size, changed, *state) if hashed or name.endswith(_TABLE) else changed
        whole.update(json.dumps([name, size, content]).encode())
    return whole.hexdigest()[:16]


class _Finder:
    """Lists the images below a folder, and keeps count of what is left out."""

    def __init__(self, root: Path) -> None:
        self.root, self._said = root, list[str]()
        self._others: Counter[str] = Counter()
        self._loose = self._links = 0

    def folders(self, folder: Path) -> list[str]:
        """The names of the folders in a folder."""
        return [entry.name for entry in _visible(folder) if _is_folder(entry)]

    def classes(self, folder: Path) -> Classes:
        """The images of the folders in a folder, by their names. Empty folders are no classes."""
        self._loose += sum(_is_image(entry.name) for entry in _visible(folder) if not _is_folder(entry))
        found = {name: self.below(folder / name) for name in self.folders(folder)}
        found = {name: files for name, files in found.items() if files}
        _check_classes(folder, found)
        return found

    def say(self, note: str) -> None:
        """Add a note."""
        self._said.append(note)

    def notes(self) -> list[str]:
        """Sentences on what was left out so far."""
        kinds = sorted(self._others.items(), key=lambda kind: (-kind[1], kind[0]))
        more = " …" if len(kinds) > MOST_KINDS else ""
        counts = {
            "images outside class folders are left out": str(self._loose or ""),
            "linked folders below a class are not followed": str(self._links or ""),
            "files are left out by their suffix": ", ".join(f"{n} {kind}" for kind, n in kinds[:MOST_KINDS]) + more,
        }
        counted = [settings.one_line(f"{what}: {count}") for what, count in counts.items() if count]
        return [*self._said, *counted]

    def below(self, folder: Path) -> list[Path]:
        """All images below a folder, in order. Links to folders there may be circles, and are not followed."""
        found, folders = [], [folder]
        while folders:
            for entry in _visible(folders.pop()):
                if not _is_folder(entry):
                    if _is_image(entry.name):
                        found.append(Path(entry.path))
                    else:
                        self._others[Path(entry.name).suffix.lower() or "without a suffix"] += 1
                elif entry.is_symlink():
                    self._links += 1
                else:
                    folders.append(Path(entry.path))
        return sorted(found)


def _held_out(found: _Finder, named: Mapping[str, list[str]], train: Classes) -> Classes:
    """The test split, or where that has no labels the validation split."""
    root, unlabelled = found.root, list[str]()
    for role in ("test", "val"):
        if role not in named:
            continue
        folder = _only(root, named[role])
        training = _only(root, named["train"])
        if folder.samefile(training):
            raise UsageError(f"image folder '{root}': '{folder.name}' is the same folder as the training split")
        classes = _annotated(folder) or found.classes(folder)
        if same := [c for c in classes.keys() & train.keys() if _is_same(folder / c, training / c)]:
            raise UsageError(
                settings.one_line(
                    f"image folder '{root}': '{folder.name}/{min(same)}' is the same folder as in the training split"
                )
            )
        if len(classes) > 1 or classes.keys() & train.keys():
            for name in unlabelled:
                found.say(f"'{name}' has no class folders, so '{folder.name}' is the test split")
            return classes
        unlabelled.append(folder.name)
    raise UsageError(
        settings.one_line(
            f"image folder '{root}' needs class folders in a test split ({' and '.join(unlabelled)} has none): sort "
            "its images into folders as in the training split" + "".join(f"; {note}" for note in found.notes())
        )
    )


def located(name: str) -> Path:
    """The path of the data set that a setting names, see `places.located`."""
    return places.located(name)


def by_stem(folder: Path, asked: str, beside: str) -> dict[str, Path]:
    """The images of a folder by their names without the suffix, by which files beside them are named.

    Args:
        folder: of the images.
        asked: the setting that names the data set, for messages.
        beside: what such a file is, for messages.

    Raises:
        UsageError: there are no images, or two have one name.
    """
    found: dict[str, Path] = {}
    files = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    for file in files:
        if found.setdefault(file.stem, file) is not file:
            other = found[file.stem].name
            raise UsageError(
                settings.one_line(f"{asked}: '{file}' and '{other}' have one {beside}: rename or remove one")
            )
    if not found:
        raise UsageError(settings.one_line(f"{asked}: '{folder}' has no images: put them there"))
    return found


def _annotated(folder: Path) -> Classes:
    """The images of a split by the classes in its table; nothing if it has no table."""
    table, labels, found = folder / f"{folder.name}{_TABLE}", dict[str, str](), dict[str, list[Path]]()
    if not table.is_file() or table.stat().st_size > MOST_TABLE_BYTES:
        return found
    for line in table.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        name, label, *_ = (*line.split("\t"), "")
        if label and _is_image(name) and "/" not in name and labels.setdefault(name, label) != label:
            raise UsageError(settings.one_line(f"'{table}' gives '{name}' two classes, '{labels[name]}' and '{label}'"))
    for name in sorted(labels):
        found.setdefault(labels[name], []).append(folder / "images" / name)
    return found


def _check_classes(folder: Path, classes: Classes) -> None:
    """Raise UsageError for classes that are splits or domains."""
    depth = len(folder.parts) + 1
    direct = {name for name, files in classes.items() if any(len(file.parts) == depth + 1 for file in files)}
    split = [name for name in classes if split_role(name)]
    if split and (len(split) == len(classes) or not direct.issuperset(split)):
        raise UsageError(
            settings.one_line(
                f"image folder '{folder}': '{split[0]}' is a split and no class: give train/CLASS/image with "
                "test/CLASS/image or val/CLASS/image, or a folder CLASS/image"
            )
        )
    # A class may keep its images in one folder of its own, as Tiny-ImageNet's do.
    several = next((c for c, files in classes.items() if _holds_folders_only(files, depth)), "")
    if not direct and several:
        raise UsageError(
            settings.one_line(
                f"image folder '{folder}': '{several}' and the others hold folders and no images, so they are no "
                "classes: name the folder that holds the class folders, or give DOMAIN/CLASS/image as evaluate.domains"
            )
        )


def _holds_folders_only(files: list[Path], depth: int) -> bool:
    """Whether the images of a class, which has none of its own, lie in several folders of one folder.

    `depth`: number of the path's part below the class. Archives wrap a folder in another one, so the several folders
    may lie deeper: `seg_train/seg_train/CLASS`.
    """
    deepest = min(len(file.parts) for file in files) - 1
    return any(len({file.parts[level] for file in files}) > 1 for level in range(depth, deepest))


def _only(root: Path, names: list[str]) -> Path:
    """The folder of a split; UsageError if there are several."""
    if len(names) > 1:
        raise UsageError(
            settings.one_line(f"image folder '{root}' has one split twice ({', '.join(names)}): remove or rename one")
        )
    return root / names[0]


def _by_role(names: Iterable[str]) -> dict[str, list[str]]:
    """The names that are those of splits, by role."""
    named: dict[str, list[str]] = {}
    for name in names:
        if role := split_role(name):
            named.setdefault(role, []).append(name)
    return named


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, without hidden files and what systems leave behind."""
    with os.scandir(folder) as entries:
        shown = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _LITTER]
    return sorted(shown, key=lambda entry: entry.name)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES  # a million times: `Path` takes five times as long


def _files_with_stat(root: Path, also: tuple[str, ...]) -> Iterator[tuple[str, str, int, int, int, int]]:
    """(name below the root, path, size, times of change of content and inode, inode) of images and others.

    `also`: what the names of other files end with.

    Links to folders are followed in the first two levels, where splits and classes lie.
    """
    folders = [(str(root), "", 0)]
    while folders:
        folder, above, depth = folders.pop()
        for entry in _visible(folder):
            name = above + entry.name
            if _is_folder(entry):
                if depth < 2 or not entry.is_symlink():
                    folders.append((entry.path, f"{name}/", depth + 1))
            elif _is_image(entry.name) or entry.name.endswith(also):
                try:
                    found = entry.stat()
                except OSError:  # a link to nothing
                    found = None
                if found and stat.S_ISREG(found.st_mode):
                    yield name, entry.path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
                else:
                    yield name, "", 0, 0, 0, 0


@lru_cache(maxsize=2 * MOST_HASHED)  # a sweep asks for each of its trials
def _digest(path: str, *state: int) -> str:
    """Hash of a file's bytes; `state` changes whenever the file does."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
