"""Full fine-tuning: a copy of the backbone and a linear head, trained together on labelled images.

The recipe is SimCLR's for few labels (Chen et al. 2020, appendix B.5): SGD with Nesterov's momentum 0.9, no weight
decay, no warm-up, random resized crops and flips. As in the fine-tuning of ViTs (Dosovitskiy et al. 2021, appendix
B.1.1), the head starts at 0, the learning rate falls as half a cosine, and gradients are clipped to a norm of 1.
"""

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from infoaug.models.augment import Augment
from infoaug.models.settings import AugmentSettings
from infoaug.models.training.optimisation import autocast, create_optimizer, create_schedule, memory_format
from infoaug.models.training.settings import TrainingSettings
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.evaluation.datasets import Labelled, few

AUGMENT = AugmentSettings(crop_scale=(0.08, 1.0), flip=0.5, jitter=0, grey=0, blur=0)
LONGEST_GRADIENT = 1.0
SEED = 0  # of order and augmentation, the same for all backbones

_log = logging.getLogger(__name__)


def accuracies(
    train: Labelled,
    test: Labelled,
    backbone: nn.Module,
    settings: EvaluateConfig,
    device: torch.device | str = "cpu",
    *,
    label_shares: Sequence[float] = (),
) -> dict[str, float]:
    """Top-1 accuracies (shares, 0–1) on the test images.

    Args:
        train: training images.
        test: test images.
        backbone: stays as it is.
        settings: `fine_tune`, `fine_tune_rate` and `fine_tune_batch`.
        device: where to train.
        label_shares: shares of the training labels, 0–1, with which the backbone is fine-tuned further times.

    Returns:
        `fine_tuned`: on all training images; `fine_tuned_1` for the label share 0.01, and so on: on `few` of them.

    Raises:
        StageError: the training diverges.
    """
    result = {}
    every = torch.ones(len(train.labels), dtype=torch.bool)
    for share in (1.0, *label_shares):
        rows = (every if share == 1 else few(train.labels, share)).nonzero()[:, 0]
        found = predicted(fine_tuned(backbone, train, rows, settings, device), test.images, settings, device)
        key = "fine_tuned" if share == 1 else f"fine_tuned_{100 * share:g}"
        result[key] = float(np.mean(found == test.labels.numpy()))
    return result


def fine_tuned(
    backbone: nn.Module, train: Labelled, rows: Tensor, settings: EvaluateConfig, device: torch.device | str = "cpu"
) -> nn.Sequential:
    """A copy of the backbone with a linear head, trained on the rows int64[N] of the images; raises as `accuracies`."""
    device = torch.device(device)
    augment = Augment.of(backbone, AUGMENT).to(device)
    batch = min(settings.fine_tune_batch, len(rows))
    epochs = settings.fine_tune or 1
    width: Any = backbone.num_features
    plan = TrainingSettings(
        epochs=epochs, batch_size=batch, learning_rate=settings.fine_tune_rate, warmup_epochs=0, weight_decay=0
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)  # what a backbone drops
        model = nn.Sequential(copy.deepcopy(backbone), nn.Linear(width, int(train.labels.max()) + 1))
        model.requires_grad_(True)
        for parameter in model[1].parameters():
            nn.init.zeros_(parameter)
        layout = memory_format(model, device)
        model = model.to(device).to(memory_format=layout).train()
        cast = autocast("auto", device, model[0], [train.images.shape[-1]])
        optimizer = create_optimizer(plan, model)
        steps = len(rows) // batch
        schedule = create_schedule(plan, optimizer, steps)
        order, drawn = (torch.Generator().manual_seed(SEED + number) for number in range(2))
        for epoch in range(epochs):
            shuffled = rows[torch.randperm(len(rows), generator=order)]
            total = torch.zeros((), device=device)
            for chosen in shuffled[: steps * batch].split(batch):
                views = augment(train.images[chosen].to(device), generator=drawn).contiguous(memory_format=layout)
                with cast:
                    logits = model(views)
                loss = F.cross_entropy(logits.float(), train.labels[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
                optimizer.step()
                schedule.step()
                total += loss.detach()
            mean = total.item() / steps
            _log.debug("fine-tuning, epoch %d of %d: loss %.4f", epoch + 1, epochs, mean)
            if not math.isfinite(mean):
                raise StageError(
                    f"fine-tuning diverged in epoch {epoch + 1}: set evaluate.fine_tune_rate lower", retry=False
                )
    return model.eval()


def predicted(
    model: nn.Sequential, images: Tensor, settings: EvaluateConfig, device: torch.device | str = "cpu"
) -> NDArray[np.int64]:
    """The classes int64[N] that a fine-tuned model finds in images u8[N, 3, S, S]."""
    features = probes.features(model[0], images, settings.batch_size, device)
    with torch.inference_mode():
        logits = [model[1](part.to(device)) for part in torch.from_numpy(features).split(settings.batch_size)]
    return torch.cat(logits).argmax(dim=1).cpu().numpy()
