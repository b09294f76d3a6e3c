"""Objects of patches from masks that are laid out as those of DAVIS: one image a frame, one colour an object."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.video.frame_folders import in_order
from infoaug.orchestrator import places
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import listings


def files_of(masks: str, clip_id: str) -> list[Path]:
    """The mask of every frame of a clip, in order; none where the clip has no masks.

    They are the PNG files of `Annotations/NAME` in the folder `masks`, or of `NAME` where it has no `Annotations`. NAME
    is the clip's name, or the last part of it where that is a path; each also without its suffix.
    """
    root = places.located(masks)
    root = root / "Annotations" if (root / "Annotations").is_dir() else root
    # Without the leading slash: an absolute name would lead to the clip itself.
    names = clip_id.lstrip("/"), Path(clip_id).name
    named = (root / form for name in names for form in (name, Path(name).with_suffix("")))
    folder = next((folder for folder in named if folder.is_dir()), None)
    return in_order(folder.glob("*.png")) if folder else []


def are_reordered(masks: str) -> bool:
    """Whether the masks of some clip are in another order than in versions that went by the alphabet: 10 before 2."""
    return listings.once("order of masks", masks, lambda: _are_reordered(masks))


def _are_reordered(masks: str) -> bool:
    root = Path(masks).expanduser()
    folders = {file.parent for file in root.rglob("*.png")}
    return any((files := sorted(folder.glob("*.png"))) != in_order(files) for folder in folders)


def check(masks: str, frames: dict[str, int]) -> None:
    """Check that masks belong to clips.

    Args:
        masks: the folder.
        frames: the number of frames of every clip, by name.

    Raises:
        UsageError: no clip has masks, or a clip has masks and another number of them than frames.
    """
    found = {clip_id: len(files_of(masks, clip_id)) for clip_id in frames}
    if not any(found.values()):
        name = next(iter(frames), "NAME")
        raise UsageError(
            f"clips.masks '{masks}' has no masks of any clip: the masks of clip {name!r:.80} belong into its folder "
            f"Annotations/{Path(name).stem}, one PNG image a frame"
        )
    for clip_id, count in found.items():
        if count not in (0, frames[clip_id]):
            raise UsageError(
                f"clips.masks '{masks}' has {count} masks for the {frames[clip_id]} frames of clip {clip_id!r:.80}: "
                "give one mask a frame, or leave this clip's folder out"
            )


def objects_at(mask: str, points: NDArray[np.floating], width: int, height: int) -> NDArray[np.int32]:
    """What is at the points f[N, 2], pixels of a frame of this size: int32[N], the mask's colour there, 0 for black.

    A mask may have another size than the frame, which it is stretched to. Two points are on the same object if their
    colours are equal; black is the background, which counts as one object.

    Raises:
        ValueError: the mask cannot be read.
    """
    colours = cv2.imread(mask, cv2.IMREAD_COLOR)
    if colours is None:
        raise ValueError(f"mask '{mask}' cannot be read as an image")
    own = np.array(colours.shape[1::-1])
    x, y = np.clip(np.rint((points + 0.5) * own / (width, height) - 0.5).astype(int), 0, own - 1).T
    return colours[y, x].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
