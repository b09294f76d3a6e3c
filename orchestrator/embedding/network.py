"""The backbone that embeds: of a run, or the one that its training starts from, on the device, at an image size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from infoaug.models import initial
from infoaug.models.backbones import Recipe, short
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.evaluation.dense import dense_features
from infoaug.orchestrator.exporting import export
from infoaug.orchestrator.runtime.store import digest_of
from infoaug.orchestrator.settings import one_line
from infoaug.orchestrator.stages import evaluate, initial_weights, user_code


class Network:
    """A frozen backbone, on a GPU if there is one.

    Attributes:
        name: of the run.
        identity: digest of its weights, its normalisation and how it is built.
        image_size: S, pixels.
        shapes: of what it gives of an image, by name: `features` (D), and with a stride `patches` (h, w, D').
    """

    def __init__(
        self, run: str, image_size: int | None, stride: int | None, untrained: bool, overrides: Sequence[str]
    ) -> None:
        """Find the backbone.

        Args:
            run: as `export.find` takes it.
            image_size: S, pixels; None for the size that it was trained with.
            stride: side of a cell of dense features, pixels; None for pooled features only.
            untrained: that of before training, of a config.
            overrides: as `export.find` takes them.

        Raises:
            UsageError: there is no such run, its backbone cannot be used, or it takes no images of this size.
            StageError: its model is not trained yet.
        """
        self.name, found = _untrained(run, overrides) if untrained else export.find(run, overrides)
        self._backbone = cast(Any, found.eval())
        recipe: Recipe = self._backbone.recipe
        code = user_code.identity(recipe.name, "code", "pretrain.backbone")
        weights = initial.of_backbone(self._backbone, run).digest
        self.identity = digest_of({"weights": weights, "name": recipe.name, "kwargs": recipe.kwargs, **code}, 16)
        self._device = probes.fastest()
        self._dense = dense_features(self._backbone.to(self._device), "--patches", stride=stride) if stride else None
        self.image_size = image_size or recipe.image_size
        if self.image_size != recipe.image_size:
            _fit(self._backbone, self.image_size)
        self.shapes: dict[str, tuple[int, ...]] = {"features": (self._backbone.num_features,)}
        if self._dense is not None:
            _, channels, height, width = self._dense(torch.zeros(1, 3, self.image_size, self.image_size)).shape
            self.shapes["patches"] = (height, width, channels)

    def on(self, device: str) -> "Network":
        """The same network, moved to a device in place."""
        self._device = device
        self._backbone.to(device)
        if self._dense is not None:
            self._dense.to(device)
        return self

    def features(self, images: Tensor, batch_size: int) -> dict[str, NDArray[np.float32]]:
        """What it gives of images u8[B, 3, S, S], f32[B, …], by the names of `shapes`."""
        try:
            found = {"features": probes.features(self._backbone, images, batch_size, self._device)}
            if self._dense is not None:
                found["patches"] = self._dense(images).permute(0, 2, 3, 1).cpu().numpy()
        except torch.OutOfMemoryError:
            raise StageError("the GPU has too little memory: give a smaller --batch-size") from None
        return found


def _untrained(run: str, overrides: Sequence[str]) -> tuple[str, nn.Module]:
    if Path(run).is_dir():
        raise UsageError(f"'{run}' is no config, and only a config says what a training starts from: name one")
    config = load(run, overrides)
    return f"{config.name}-untrained", initial_weights.backbone(config) or evaluate.untrained_backbone(config)


def _fit(backbone: Any, size: int) -> None:
    """Prepare a backbone for another image size: position embeddings of ViTs are interpolated, by timm."""
    try:
        if hasattr(backbone, "set_input_size"):
            backbone.set_input_size(img_size=size)
        if isinstance(backbone, VisionTransformer) and (patch := backbone.patch_embed.patch_size[0]) and size % patch:
            raise ValueError(f"its patches of {patch} pixels do not divide it")
        with torch.no_grad():
            backbone(torch.zeros(1, 3, size, size, device=next(backbone.parameters()).device))
    except Exception as error:  # any error that a network raises for a size that it does not expect
        recipe, why = backbone.recipe, short(error)
        remedy = f"give another --image-size, or none for the {recipe.image_size} pixels of its training"
        raise UsageError(one_line(f"{recipe.name!r} takes no images of {size} pixels ({why}): {remedy}")) from None
