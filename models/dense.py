"""Dense features: a frozen backbone's feature map of images of any size, one vector a cell of some pixels."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AvgPool2dSame
from timm.models.resnet import ResNet
from torch import Tensor, nn

from infoaug.models import own_code
from infoaug.models.augment import Augment
from infoaug.models.backbones import Recipe, create_backbone, short, stem_reduction, takes

# Pixels that a network sees at once, which bounds its activations. A frame of 854×480 has 0.4 million.
_PIXELS_AT_ONCE = {"cpu": 1 << 19}
_PIXELS_ON_ACCELERATOR = 1 << 22
_REMEDY = "choose a ResNet or a ViT of timm."
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}  # how timm's families are told to take any size


class DenseFeatures:
    """Maps images u8[B, 3, H, W], or float in 0–1, to features f32[B, D, ⌈H / stride⌉, ⌈W / stride⌉].

    Cell (i, j) is of the pixels from (i, j)·`stride` on. Images are normalised as the backbone's recipe says; those
    whose sides are no multiple of the stride are continued at the right and lower border by their last pixels. The
    network is a copy in eval mode on the backbone's device, without gradients; the backbone stays as it is.

    Attributes:
        stride: side of a cell, pixels. A ResNet's last stages are dilated (atrous, the same weights) where its own
            stride is larger than the asked one, and maps of any network are averaged where theirs is smaller. So it
            is the asked one, or the next that can be reached: a ViT's is at least its patch size.
        layer: index of the layer, as timm's `forward_intermediates` counts: the stem 0 and the stages 1–4 of a ResNet,
            the blocks of a ViT from 0, the stages of other families from 0.
        num_features: D.
        device: of the network and of the features.
    """

    def __init__(self, backbone: nn.Module, layer: int | None = None, stride: int = 8) -> None:
        """`layer`: None for the last, negative from the last; `stride`: asked, pixels.

        A ViT's position embeddings are interpolated to the image's size, and its final norm is applied to every layer,
        as DINO does (Caron et al. 2021, `get_intermediate_layers`).

        Raises ValueError for a backbone of an own class or a family that has no dense features, for a layer that it
        lacks, and for a stride below 1.
        """
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise ValueError(f"stride must be an integer of at least 1 pixel, not {stride!r}.")
        network, name = any_size(backbone), _recipe(backbone).name
        if isinstance(network, ResNet):
            _dilate(network, stem_reduction(_recipe(backbone).image_size, _recipe(backbone).kwargs), stride)
        self.device = next(backbone.parameters()).device
        self._network = network.eval().requires_grad_(False)
        self._network.to(memory_format=torch.channels_last)
        self._augment = Augment.of(backbone).to(self.device)
        self._own_stride, self.num_features, self.layer = _chosen(layer_maps(self._network, name), name, layer)
        self._pool = max(1, stride // self._own_stride)
        self.stride = self._own_stride * self._pool

    def to(self, device: torch.device | str) -> "DenseFeatures":
        """Move the network, in place."""
        self.device = torch.device(device)
        self._network.to(self.device)
        self._augment.to(self.device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The features f32[B, D, h, w] on `device`; few images are in the network at once. See the class."""
        height, width = images.shape[-2:]
        pixels = _PIXELS_AT_ONCE.get(self.device.type, _PIXELS_ON_ACCELERATOR)
        return torch.cat([self._of(part) for part in images.split(max(1, pixels // (height * width)))])

    def _of(self, images: Tensor) -> Tensor:
        normalised = self._augment.normalise(images.to(self.device))
        height, width = normalised.shape[-2:]
        lacking = (0, -width % self.stride, 0, -height % self.stride)
        if any(lacking):
            normalised = F.pad(normalised, lacking, mode="replicate")
        found = maps(self._network, normalised.contiguous(memory_format=torch.channels_last), [self.layer])[0]
        return (F.avg_pool2d(found, self._pool) if self._pool > 1 else found).float().contiguous()


def any_size(backbone: nn.Module) -> nn.Module:
    """A copy of a backbone on its device that takes images of any size: a ViT interpolates its position embeddings.

    Raises ValueError for a backbone that is not of `create_backbone` or `load_backbone`, or of an own class.
    """
    recipe = _recipe(backbone)
    option = next(({name: value} for name, value in _ANY_SIZE.items() if takes(backbone, name)), None)
    if isinstance(backbone, ResNet) or option is None or option.items() <= recipe.kwargs.items():
        return deepcopy(backbone)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
        rebuilt = create_backbone(recipe.name, recipe.image_size, **{**recipe.kwargs, **option})
    rebuilt.load_state_dict(backbone.state_dict())
    return rebuilt.to(next(backbone.parameters()).device)


def maps(network: Any, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The maps of some layers, f32[B, D, h, w] each, of normalised images; see `DenseFeatures.layer`."""
    found: list[Tensor] = network.forward_intermediates(
        images, indices=[*layers], norm=True, stop_early=True, intermediates_only=True
    )
    return found


def layer_maps(network: Any, name: str) -> list[tuple[int, int]]:
    """Stride (pixels) and length D of the vectors of each layer's map; stride 0 where a layer has no regular map.

    They are read from the shapes of an image that is not square. Raises ValueError for a network without maps.
    """
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"{_none(name)}; {_REMEDY}")
    shapes = deepcopy(network).to("meta")  # shapes only: no memory and no arithmetic
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    unit = math.lcm(64, *(patch if isinstance(patch, tuple) else (patch,)))
    with torch.no_grad():
        try:
            found = shapes.forward_intermediates(
                torch.empty(1, 3, unit, 2 * unit, device="meta"), norm=True, intermediates_only=True
            )
        except Exception as error:  # any error that a network raises for a size that it does not expect
            raise ValueError(f"{_none(name)} ({short(error)}); {_REMEDY}") from error
    return [(_stride(each.shape, unit), each.shape[1]) for each in found]


def _recipe(backbone: nn.Module) -> Recipe:
    recipe = getattr(backbone, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError("Dense features need a backbone of create_backbone or load_backbone, unwrapped.")
    if own_code.is_own(recipe.name):
        raise ValueError(
            f"{recipe.name[:100]!r} has no dense features: its class gives one vector an image. Choose a ResNet or "
            "a ViT of timm."
        )
    return recipe


def _none(name: str) -> str:
    return f"{name!r} has no dense features that infoaug can read"


def _stride(shape: torch.Size, unit: int) -> int:
    """The stride of a map of an image of `unit` × 2 `unit` pixels; 0 if it is no map of both sides alike."""
    stride = unit // shape[-2] if len(shape) == 4 and shape[-2] else 0
    return stride if stride and shape[-2] * stride == unit and shape[-1] * stride == 2 * unit else 0


def _chosen(layers: list[tuple[int, int]], name: str, layer: int | None) -> tuple[int, int, int]:
    """Stride (pixels), length of the vectors and index of a layer."""
    index = len(layers) - 1 if layer is None else layer + len(layers) if layer < 0 else layer
    if not 0 <= index < len(layers):
        raise ValueError(
            f"{name!r} has no layer {layer}: its layers are 0 to {len(layers) - 1}, or -{len(layers)} to -1."
        )
    if not layers[index][0]:
        raise ValueError(f"{_none(name)}: layer {index} has no regular map; {_REMEDY}")
    return *layers[index], index


def _dilate(network: Any, stem: int, stride: int) -> None:
    """Take out, in place, the strides of the stages of a ResNet that would make its stride larger than the asked one.

    The layers behind a stride that is taken out read their input at twice the distance instead, so that every second
    cell has the features that it had (atrous convolution, Chen et al. 2018, DeepLab).
    """
    reached, dilation = stem, 1
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        reducing = [layer for layer in stage.modules() if _reduces(layer)]
        taken_out = bool(reducing) and 2 * reached > stride
        reached *= 2 if reducing and not taken_out else 1
        before, dilation = dilation, dilation * 2 if taken_out else dilation
        passed = not reducing
        for layer in stage.modules():
            passed |= layer in reducing
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                factor = before if layer in reducing or not passed else dilation
                layer.dilation = tuple(factor * distance for distance in layer.dilation)
                layer.padding = tuple(factor * int(border) for border in layer.padding)
        for layer in reducing if taken_out else ():
            layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
        if taken_out:
            _keep_size(stage)


def _reduces(layer: nn.Module) -> bool:
    """Whether a layer, which is no block of layers, has a stride."""
    return not any(layer.children()) and getattr(layer, "stride", 1) in (2, (2, 2))


def _keep_size(stage: nn.Module) -> None:
    """Averages of 2×2 cells without a stride would give a row and a column less."""
    for parent in stage.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, nn.AvgPool2d) and layer.kernel_size == 2:
                setattr(parent, name, AvgPool2dSame(2, stride=1, count_include_pad=False))
