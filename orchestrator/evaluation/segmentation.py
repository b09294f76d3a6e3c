"""Linear segmentation: one 1×1 convolution on frozen dense features, judged by mean intersection over union.

The convolution is fitted as a linear probe on positions of the feature map, each with the class of the pixel at its
centre. For a test image its logits are resized to the image (bilinear) and the largest is the class of a pixel
(Oquab et al. 2023, section 7.4, evaluate the same way with a layer trained on whole maps).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import image_folder, images, index_masks
from infoaug.orchestrator.evaluation.classifiers import Probe
from infoaug.orchestrator.evaluation.dense import dense_features
from infoaug.orchestrator.evaluation.rows import Rows

MOST_POSITIONS = 200_000  # of all training images, on which the convolution is fitted
# Test images that must show a class. Where the rarest is in 20, a 95 % interval over test images covers the mean IoU 90
# to 94 times in 100 (simulated, 5 to 100 classes); where it is in 10, as few as 85 times.
LEAST_IMAGES = 20


@dataclass(frozen=True)
class Scenes:
    """Images with masks of classes.

    Attributes:
        name: of the folder, for messages.
        images: files by split, `train` and `test`.
        masks: files of the same images.
        classes: number of classes, one more than the largest index in a mask that is not void.
        void: indices of pixels that do not count.
        notes: sentences on what is not used.
    """

    name: str
    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    classes: int
    void: tuple[int, ...]
    notes: list[str]


def check(name: str) -> list[str]:
    """Check the layout of a folder without reading its images.

    Returns:
        Sentences on what of it is not used.

    Raises:
        UsageError: it does not hold `images/SPLIT` and `masks/SPLIT` with a training and a test split, or an image has
            no mask.
    """
    return _layout(name)[2]


def test_images(name: str) -> list[Path]:
    """The images of a folder that are segmented. Raises UsageError as `check`."""
    return _layout(name)[0]["test"]


def load(name: str, config: EvaluateConfig) -> Scenes:
    """Open a folder; with `config.limit`, the first images of each split, that many.

    Raises:
        UsageError: as `check`; or a mask cannot be read, holds no class indices or no class, or has another size than
            its image.
    """
    pictures, masks, notes = _layout(name)
    pictures, masks = ({split: files[: config.limit] for split, files in of.items()} for of in (pictures, masks))
    void = tuple(config.void)
    present = {split: np.zeros(256, bool) for split in pictures}
    for split in pictures:
        for picture, mask in zip(pictures[split], masks[split], strict=True):
            found = _mask(mask)
            if (size := _read(picture, images.original_size)) != found.shape:
                sizes = f"{found.shape[1]}x{found.shape[0]} pixels, its image {size[1]}x{size[0]}"
                raise UsageError(settings.one_line(f"'{mask}' has {sizes}: make them the same"))
            present[split][np.unique(found)] = True
    for split, least in (("train", 2), ("test", 1)):
        present[split][list(void)] = False
        if (count := present[split].sum()) < least:
            raise UsageError(
                settings.one_line(
                    f"the {split} masks in '{name}' show {count} classes beside void ({', '.join(map(str, void))}): "
                    "give PNG files whose pixels are class indices, and set evaluate.void to those that do not count"
                )
            )
    if unknown := (present["test"] & ~present["train"]).sum():
        notes.append(f"{unknown} of {present['test'].sum()} classes of the test images are in no training image")
    classes = int(np.flatnonzero(present["train"] | present["test"])[-1]) + 1
    return Scenes(name, pictures, masks, classes, void, notes)


def measure(scenes: Scenes, backbone: nn.Module, config: EvaluateConfig, device: str = "cpu") -> dict[str, Any]:
    """Fit the convolution on the training images and segment the test images.

    Returns:
        `miou`: mean over the classes that a test image shows or is said to show. `pixel_accuracy`. `iou`: by class,
        None for those that are in neither. All are shares, 0–1. `miou_influence`, see `influence`: of each test image;
        missing if a class is in fewer than `LEAST_IMAGES` of them.
    """
    dense = dense_features(backbone.to(device), "evaluate.segmentation")
    most = max(1, MOST_POSITIONS // len(scenes.images["train"]))
    features, classes = map(np.concatenate, zip(*_positions(scenes, dense, most), strict=True))
    if len(shown := np.unique(classes)) < 2:
        raise UsageError(
            settings.one_line(
                f"the centres of the cells of {dense.stride} pixels show {len(shown)} classes in the training masks of "
                f"'{scenes.name}': give larger images, or more of them"
            )
        )
    probe = Probe(Rows(features, device), classes, config)
    confusion = np.zeros((scenes.classes, scenes.classes), np.int64)
    shown = np.zeros(scenes.classes, np.int64)  # the number of test images that show a class
    parts = []
    for picture, mask in zip(scenes.images["test"], scenes.masks["test"], strict=True):
        known = _mask(mask)
        found = _segmented(dense, probe, _read(picture, images.original))
        counts = ~np.isin(known, scenes.void)
        pairs = known[counts].astype(np.int64) * scenes.classes + found[counts]
        of_image = np.bincount(pairs, minlength=scenes.classes**2).reshape(confusion.shape)
        confusion += of_image
        shown += of_image.any(axis=1)
        parts.append(_both_and_union(of_image))
    iou = intersection_over_union(confusion)
    moved = influence(*np.stack(parts, axis=1)) if shown[~np.isnan(iou)].min() >= LEAST_IMAGES else None
    return {
        "miou": float(np.nanmean(iou)),
        "pixel_accuracy": float(confusion.trace() / max(1, confusion.sum())),
        "iou": [None if np.isnan(value) else float(value) for value in iou],
        **({} if moved is None else {"miou_influence": [float(f"{value:.4g}") for value in moved]}),
    }


def intersection_over_union(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, from counts of pixels [true class, found class]; NaN without any."""
    both, union = _both_and_union(confusion)
    return np.divide(both, union, out=np.full(len(union), np.nan), where=union > 0)


def influence(both: NDArray[np.int64], union: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much each of N images moves the mean IoU to first order (the delta method): float64[N], whose sum is 0.

    N / (N − 1) times the sum of their squares estimates the variance of the mean IoU over draws of the images.

    Args:
        both: int64[N, K], pixels of a class in which it is found.
        union: int64[N, K], pixels of a class, or in which it is found.
    """
    present = union.any(axis=0)
    both, union = both[:, present], union[:, present]
    total = union.sum(axis=0)
    moved: NDArray[np.float64] = ((both - both.sum(axis=0) / total * union) / total).mean(axis=1)
    return moved


def _both_and_union(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each class int64[K] its pixels in which it is found, and its pixels or those in which it is found."""
    both = confusion.diagonal()
    return both, confusion.sum(axis=1) + confusion.sum(axis=0) - both


def _positions(
    scenes: Scenes, dense: DenseFeatures, most: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Features f32[n, D] and classes int64[n] of at most so many positions of every training image, drawn evenly."""
    random = np.random.default_rng(0)
    for picture, mask in zip(scenes.images["train"], scenes.masks["train"], strict=True):
        found = dense(_read(picture, images.original)[None])[0].flatten(1).T.cpu().numpy()
        height, width = (known := _mask(mask)).shape
        rows, columns = (np.arange(dense.stride // 2, side + dense.stride // 2, dense.stride) for side in known.shape)
        at = known[np.minimum(rows, height - 1)][:, np.minimum(columns, width - 1)].ravel()
        usable = np.flatnonzero(~np.isin(at, scenes.void))
        chosen = np.sort(random.permutation(usable)[:most])
        yield found[chosen], at[chosen].astype(np.int64)


def _segmented(dense: DenseFeatures, probe: Probe, image: Tensor) -> NDArray[np.int64]:
    """The class of every pixel of an image u8[3, H, W]: int64[H, W]."""
    height, width = image.shape[1:]
    found = dense(image[None])
    logits = probe.logits(found[0].flatten(1).T).T.reshape(1, -1, *found.shape[2:])
    # Cells cover whole strides, so the map may reach beyond the image.
    sides = [count * dense.stride for count in found.shape[2:]]
    whole = F.interpolate(logits, sides, mode="bilinear", align_corners=False)[0, :, :height, :width]
    classes: NDArray[np.int64] = probe.classes[whole.argmax(dim=0).cpu().numpy()]
    return classes


def _layout(name: str) -> tuple[dict[str, list[Path]], dict[str, list[Path]], list[str]]:
    """Images and masks by split, and sentences on what is not used."""
    root = image_folder.located(name)
    splits = image_folder.split_folders(root / "images")
    held = splits.get("test") or splits.get("val")
    if "train" not in splits or held is None:
        raise UsageError(
            settings.one_line(
                f"evaluate.segmentation: '{name:.300}' must hold images/train and images/test (or val), and masks of "
                "the same images as PNG files in masks/train and masks/test"
            )
        )
    pictures, masks, notes = {}, {}, []
    for split, folder in (("train", splits["train"]), ("test", held)):
        files = image_folder.by_stem(folder, "evaluate.segmentation", "mask")
        beside = root / "masks" / folder.name
        lacking = [stem for stem in files if not (beside / f"{stem}.png").is_file()]
        if lacking:
            what = f"'{files[lacking[0]]}' has no mask '{beside / lacking[0]}.png'"
            more = f", nor have {len(lacking) - 1} others" if len(lacking) > 1 else ""
            raise UsageError(settings.one_line(f"evaluate.segmentation: {what}{more}: add them"))
        pictures[split] = [*files.values()]
        masks[split] = [beside / f"{stem}.png" for stem in files]
    if "test" in splits and "val" in splits:
        notes.append(f"the split '{splits['val'].name}' is not used")
    return pictures, masks, notes


def _mask(path: Path) -> NDArray[np.uint8]:
    """The class indices of a mask, u8[H, W]; those of 1 bit are 0 and 1. Raises UsageError for a file that has none."""
    try:
        return index_masks.read(path, white=1)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _read(picture: Path, reader: Callable[[Path], Any]) -> Any:
    """What a reader of `images` gives of an image. Raises UsageError if it cannot be read."""
    try:
        return reader(picture)
    except Exception as error:  # as in `index_masks.read`
        raise UsageError(settings.one_line(f"the image '{picture}' cannot be read ({error}): replace it")) from None
