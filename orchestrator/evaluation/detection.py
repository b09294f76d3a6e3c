"""Detection and instance segmentation: Faster or Mask R-CNN on a backbone, judged by mean average precision.

The recipe is that of torchvision's detection reference (SGD, 0.02 at 16 images a step, horizontal flips), with batch
norm as in He et al. 2020 (MoCo, section 4.2). Plain backbones are trained by AdamW, as in Li et al. 2022 (ViTDet).
"""

import importlib.util
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from infoaug.models.detection import Pyramid, detector
from infoaug.orchestrator.config import DetectorConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import average_precision, images, objects
from infoaug.orchestrator.evaluation.annotated import Picture
from infoaug.orchestrator.evaluation.average_precision import Labels
from infoaug.orchestrator.evaluation.objects import Objects
from infoaug.orchestrator.settings import one_line

REFERENCE_BATCH = 16  # images a step, at which the learning rate is `learning_rate`
WARMUP, WARMUP_FACTOR = 1000, 0.001  # most steps of the first epoch, and where they start
DROPS, DROP = (2 / 3, 11 / 12), 0.1  # after which share of the epochs the learning rate falls, and to what
# By whether the backbone is a plain one: the optimizer, its learning rate and weight decay.
_OPTIMIZERS: dict[bool, tuple[str, float, float]] = {False: ("momentum", 0.02, 1e-4), True: ("adamw", 1e-4, 0.1)}
_EXTRA = {"torchmetrics": "torchmetrics", "faster_coco_eval": "faster-coco-eval"}
_AHEAD = 2  # batches that are read beside the one that is used

_log = logging.getLogger(__name__)

Found = dict[str, Tensor]  # `boxes`, `labels`, and what else torchvision gives or takes of an image


def check(name: str, limit: int | None = None) -> list[str]:
    """Check a data set without opening its images, and that mean average precision can be computed.

    Returns:
        Sentences on what of it is not used.

    Raises:
        UsageError: as `objects.load`; or a package of the extra `detection` is not installed.
    """
    if missing := [package for module, package in _EXTRA.items() if importlib.util.find_spec(module) is None]:
        raise UsageError(
            f"evaluate.detection needs {' and '.join(missing)}: install the extra by pip install 'infoaug[detection]'"
        )
    return objects.load(name, limit).notes


def check_backbone(backbone: nn.Module) -> None:
    """Raise UsageError if nothing can be detected on the maps of a backbone."""
    try:
        Pyramid(backbone, width=8)
    except ValueError as error:
        raise UsageError(one_line(f"evaluate.detection: {error}").rstrip(".")) from None


def measure(data: Objects, backbone: nn.Module, settings: DetectorConfig, device: str) -> dict[str, Any]:
    """Train a detector on a copy of the backbone and find the objects of the test images.

    Everything random follows from `settings.seed`, so on a CPU the same call gives the same numbers.

    Returns:
        `map` and `map_50`, mean average precision of boxes over IoU 0.5 to 0.95 and at 0.5; with masks also `mask_map`
        and `mask_map_50`. All are shares, 0–1, over the classes of the test images. Each with `…_influence`, see
        `average_precision.influence`; missing if a class is in too few test images. `loss`: its mean over each epoch.

    Raises:
        UsageError: an image cannot be read, or the backbone has no maps.
        StageError: the loss is not finite, or the GPU's memory is too small.
    """
    try:
        return _measured(data, backbone, settings, device)
    except torch.OutOfMemoryError:
        raise StageError(
            one_line(
                f"the memory of the GPU is too small for the detector on '{data.name}': lower "
                "evaluate.detector.batch_size or evaluate.detector.size"
            ),
            retry=False,
        ) from None


def _measured(data: Objects, backbone: nn.Module, settings: DetectorConfig, device: str) -> dict[str, Any]:
    of_device = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=of_device):
        check_backbone(backbone)
        torch.manual_seed(settings.seed)
        model = detector(
            backbone,
            len(data.classes),
            data.masks,
            size=settings.size,
            width=settings.width,
            proposals=settings.proposals,
            frozen=settings.frozen,
            batch_norm=settings.batch_norm,
        ).to(device)
        losses = _train(model, data, settings, device)
    return mean_average_precision(_detections(model, data, settings, device), data.masks) | {"loss": losses}


def mean_average_precision(pairs: Iterable[tuple[Found, Found]], masks: bool) -> dict[str, Any]:
    """Mean average precision as COCO defines it, of at most 100 detections an image.

    Args:
        pairs: for each image what was found (`boxes`, `scores`, `labels`, bool `masks`), and its objects (`boxes`,
            `labels`, `iscrowd`, `masks`). A crowd is neither found nor missed.
        masks: whether they are judged too.

    Returns:
        `map` and `map_50` of boxes, and with masks `mask_map` and `mask_map_50`, with `…_influence`: see `measure`.
    """
    from torchmetrics.detection import MeanAveragePrecision  # an extra

    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it logs its whole table
    kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if masks else ("bbox",)
    metric = MeanAveragePrecision(iou_type=kinds, backend="faster_coco_eval", extended_summary=True)
    labels = []
    for found, known in pairs:
        metric.update([found], [known])
        of_both = found["labels"], found["scores"], known["labels"], known["iscrowd"].bool()
        labels.append(Labels(*(value.numpy() for value in of_both)))
    computed = metric.compute()
    thresholds, recalls = np.array(metric.iou_thresholds), np.array(metric.rec_thresholds)
    result: dict[str, Any] = {}
    for kind, name in zip(kinds, ("map", "mask_map"), strict=False):
        prefix = f"{kind}_" if masks else ""
        result |= {of: max(0.0, float(computed[f"{prefix}{m}"])) for of, m in ((name, "map"), (f"{name}_50", "map_50"))}
        ious = {pair: np.asarray(of, np.float64) for pair, of in computed[f"{prefix}ious"].items()}
        moved = average_precision.influence(average_precision.ranked(labels, ious, thresholds), recalls)
        if moved is not None:
            for of, values in zip((name, f"{name}_50"), moved.T, strict=True):
                result[f"{of}_influence"] = [float(f"{value:.4g}") for value in values]
    return result


def _train(model: Any, data: Objects, settings: DetectorConfig, device: str) -> list[float]:
    """Train a detector in place, and give the mean loss of each epoch."""
    pictures = data.pictures["train"]
    order = torch.Generator().manual_seed(settings.seed)
    name, rate, decay = _OPTIMIZERS[model.backbone.is_plain]
    rate = (settings.learning_rate or rate) * settings.batch_size / REFERENCE_BATCH
    optimizer = create_optimizer_v2(model, opt=name, lr=rate, weight_decay=decay, momentum=0.9)
    steps = math.ceil(len(pictures) / settings.batch_size)
    step, losses = 0, []
    model.train()
    for epoch in range(settings.epochs):
        shuffled = [pictures[number] for number in torch.randperm(len(pictures), generator=order)]
        total = 0.0
        for batch in _batches(data, shuffled, settings.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = rate * _factor(step, steps, settings.epochs)
            flips = torch.rand(len(batch), generator=order) < 0.5
            chosen = [_to_train(*each, bool(flip)) for each, flip in zip(batch, flips, strict=True)]
            loss = sum(model(*_on_device(chosen, device)).values())
            if not math.isfinite(value := float(loss.detach())):
                what = f"the loss of the detector on '{data.name}' is {value} after {step} steps"
                raise StageError(one_line(f"{what}: lower evaluate.detector.learning_rate"), retry=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += value
            step += 1
        losses.append(total / steps)
        _log.info("detector on %s: epoch %d of %d, loss %.3f", data.name, epoch + 1, settings.epochs, losses[-1])
    return losses


def _factor(step: int, steps: int, epochs: int) -> float:
    """What the learning rate is multiplied by in a step; `steps`: of an epoch."""
    warmup = min(WARMUP, steps - 1)
    if step < warmup:
        return WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / warmup
    return DROP ** sum(step // steps >= round(share * epochs) for share in DROPS)


def _to_train(image: Tensor, known: Found, flip: bool) -> tuple[Tensor, Found]:
    """An image and its objects without crowds, mirrored if asked."""
    single = known["iscrowd"] == 0
    target = {key: value[single] for key, value in known.items() if key != "iscrowd"}
    if flip:
        image = image.flip(-1)
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        width = image.shape[-1]
        target["boxes"] = torch.stack([width - x1, y0, width - x0, y1], dim=1)
        if "masks" in target:
            target["masks"] = target["masks"].flip(-1)
    return image, target


def _detections(model: Any, data: Objects, settings: DetectorConfig, device: str) -> Iterator[tuple[Found, Found]]:
    """What is found in every test image, and what is in it."""
    model.eval()
    for batch in _batches(data, data.pictures["test"], settings.batch_size):
        with torch.no_grad():
            every = model(_on_device(batch, device)[0])
        for found, (_, known) in zip(every, batch, strict=True):
            found = {key: value.cpu() for key, value in found.items()}
            if data.masks:
                found["masks"] = found["masks"][:, 0] >= 0.5
                known = known | {"masks": known["masks"].bool()}
            yield found, known


def _on_device(batch: Iterable[tuple[Tensor, Found]], device: str) -> tuple[list[Tensor], list[Found]]:
    images_there = [image.to(device).float().div(255) for image, _ in batch]
    return images_there, [{key: value.to(device) for key, value in known.items()} for _, known in batch]


def _batches(data: Objects, pictures: list[Picture], size: int) -> Iterator[list[tuple[Tensor, Found]]]:
    """Images and their objects in order, read by threads while the batch before is used."""
    with ThreadPoolExecutor(images.THREADS) as pool:
        waiting: deque[list[Any]] = deque()
        for start in range(0, len(pictures), size):
            waiting.append([pool.submit(data.read, picture) for picture in pictures[start : start + size]])
            if len(waiting) > _AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
