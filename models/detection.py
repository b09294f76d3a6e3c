"""Detectors on a backbone: torchvision's Faster and Mask R-CNN (Ren et al. 2015, He et al. 2017) on a pyramid of maps.

A network of stages, such as a ResNet, gets a feature pyramid network (Lin et al. 2017). A plain one, such as a ViT,
gets the simple feature pyramid of its last map (Li et al. 2022, ViTDet, section 3).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from infoaug.models.augment import Augment
from infoaug.models.dense import any_size, layer_maps, maps

BatchNorm = Literal["train", "frozen"]
LEVELS = 4  # the last so many stages of a network
ANCHOR = 8  # side of a level's anchors, in strides: 32 pixels at stride 4
ASPECT_RATIOS = (0.5, 1.0, 2.0)
USUAL_STRIDE, USUAL_SIZE = 32, 800  # stride of the last stage of a usual network, shorter side of its images, pixels
# By how much the first levels of a simple pyramid are finer than its map, where that divides its stride.
FINER = (4, 2, 1)
LONGER = 5 / 3  # the most that the longer side of an image is, in shorter sides: 1333 of 800


class Pyramid(nn.Module):
    """Maps normalised images f32[B, 3, H, W] to maps f32[B, width, H / stride, W / stride] by level, finest first.

    The last level, `pool`, has every second cell of the one before (Lin et al. 2017, section 4.1). H and W must be
    multiples of `divisor`.

    Attributes:
        network: a copy of the backbone. If it is frozen, it stays in eval mode and gets no gradients.
        strides: of all levels, pixels.
        is_plain: whether all layers of the network have one stride, as those of a ViT.
        out_channels: the width of all maps.
    """

    def __init__(
        self, backbone: nn.Module, width: int = 256, frozen: bool = False, batch_norm: BatchNorm = "train"
    ) -> None:
        """`batch_norm`: of a backbone that is not frozen, whether its statistics are those of the batch or stay.

        Raises ValueError for a backbone that has no maps.
        """
        super().__init__()
        self.network = any_size(backbone)
        recipe: Any = backbone.recipe
        name = recipe.name
        self._frozen, self._keeps_statistics = frozen, batch_norm == "frozen"
        layers = {stride: (index, wide) for index, (stride, wide) in enumerate(layer_maps(self.network, name))}
        finest, *others = sorted(set(layers) - {0})[-LEVELS:] or [0]
        if not finest:
            raise ValueError(f"{name!r} gives no maps to detect on: choose a ResNet or a ViT of timm.")
        self.is_plain = not others
        if others:
            strides = [finest, *others]
            self._layers = [layers[stride][0] for stride in strides]
            self.fpn: nn.Module = _Fpn([layers[stride][1] for stride in strides], width)
        else:
            finer = [factor for factor in FINER if finest % factor == 0]
            strides = [*(finest // factor for factor in finer), 2 * finest]
            self._layers = [layers[finest][0]]
            self.fpn = _SimplePyramid(layers[finest][1], width, finer)
        self.strides = (*strides, 2 * strides[-1])
        self.out_channels = width
        self.network.requires_grad_(not frozen)
        self.train()

    @property
    def names(self) -> list[str]:
        """Of the levels in which objects are classified: all but the last."""
        return [str(level) for level in range(len(self.strides) - 1)]

    @property
    def divisor(self) -> int:
        """What the sides of images must be multiples of, pixels."""
        return self.strides[-1]

    def train(self, mode: bool = True) -> "Pyramid":
        """As of every module, but that what is frozen stays in eval mode."""
        super().train(mode)
        if self._frozen:
            self.network.eval()
        elif self._keeps_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps by level."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            found = maps(self.network, images, self._layers)
        levels: dict[str, Tensor] = self.fpn({str(level): each for level, each in enumerate(found)})
        return levels


class _Fpn(FeaturePyramidNetwork):
    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__([*channels], width, LastLevelMaxPool())


class _SimplePyramid(nn.Module):
    """Maps `finer` times as fine as one map, and one half as fine, each by two convolutions with norms of its own."""

    def __init__(self, channels: int, width: int, finer: Sequence[int]) -> None:
        super().__init__()
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        twice = nn.ConvTranspose2d(channels, half, 2, stride=2)
        scales = {
            4: (nn.Sequential(twice, _Norm(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, stride=2)), quarter),
            2: (nn.ConvTranspose2d(channels, half, 2, stride=2), half),
            1: (nn.Identity(), channels),
        }
        chosen = [*(scales[factor] for factor in finer), (nn.MaxPool2d(2), channels)]
        self.scales = nn.ModuleList(scale for scale, _ in chosen)
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, width, 1, bias=False),
                _Norm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                _Norm(width),
            )
            for _, wide in chosen
        )

    def forward(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        (last,) = found.values()
        levels = [project(scale(last)) for scale, project in zip(self.scales, self.projections, strict=True)]
        levels, names = LastLevelMaxPool()(levels, [], [str(level) for level in range(len(levels))])
        return dict(zip(names, levels, strict=True))


class _Norm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.movedim(1, -1)).movedim(-1, 1)


def detector(
    backbone: nn.Module,
    classes: int,
    masks: bool,
    *,
    size: int | None = None,
    width: int = 256,
    proposals: int = 512,
    frozen: bool = False,
    batch_norm: BatchNorm = "train",
) -> Any:
    """Faster R-CNN, or Mask R-CNN if there are masks, with new heads on a copy of a backbone.

    It is called as torchvision's are: on a list of images f32[3, H, W] in 0–1, and to train on a list of targets beside
    them, `boxes` f32[n, 4] (x0, y0, x1, y1), `labels` int64[n] from 1 on, and `masks` u8[n, H, W].

    Args:
        backbone: of `create_backbone` or `load_backbone`.
        classes: number of classes, without the background.
        masks: whether to find masks too.
        size: the shorter side of images, to which they are resized, pixels; None: `usual_size`. The longer one is at
            most 5/3 of it.
        width: channels of the pyramid and of the mask head; the box head has four times as many.
        proposals: regions of an image that the heads are trained on, sampled as in Faster R-CNN.
        frozen: whether the backbone is not trained.
        batch_norm: see `Pyramid`.

    Raises ValueError for a backbone that has no maps.
    """
    pyramid = Pyramid(backbone, width, frozen, batch_norm)
    size = size or usual_size(pyramid)
    normalise = Augment.of(backbone)
    hidden = 4 * width
    settings: dict[str, Any] = {
        "min_size": size,
        "max_size": round(LONGER * size),
        "size_divisible": pyramid.divisor,
        "image_mean": normalise.mean.flatten().tolist(),
        "image_std": normalise.std.flatten().tolist(),
        "rpn_anchor_generator": AnchorGenerator(
            tuple((ANCHOR * stride,) for stride in pyramid.strides), (ASPECT_RATIOS,) * len(pyramid.strides)
        ),
        "box_roi_pool": MultiScaleRoIAlign(pyramid.names, output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(width * 7**2, hidden),
        "box_predictor": FastRCNNPredictor(hidden, classes + 1),
        "box_batch_size_per_image": proposals,
    }
    if not masks:
        return FasterRCNN(pyramid, **settings)
    return MaskRCNN(
        pyramid,
        mask_roi_pool=MultiScaleRoIAlign(pyramid.names, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
        **settings,
    )


def usual_size(pyramid: Pyramid) -> int:
    """Shorter side of images at which a last stage has as many cells as a usual one of stride 32 has at 800 pixels."""
    return USUAL_SIZE * pyramid.strides[-2] // USUAL_STRIDE
