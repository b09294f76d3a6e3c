"""Optimiser, learning-rate schedule, numerical precision and memory layout of a training."""

import inspect
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from infoaug.models import layers
from infoaug.models.training.settings import TrainingSettings

_GIVEN_ELSEWHERE = {
    "lr": "set learning_rate",
    "weight_decay": "set weight_decay beside it",
    "momentum": "set momentum beside it",
    "opt": "set optimizer",
    "layer_decay": "set layer_decay beside it",
    # They scale learning rates in a way that only timm's own schedules apply.
    "layer_decay_min_scale": "leave it out, it would have no effect",
    "layer_decay_no_opt_scale": "leave it out, it would have no effect",
}
REFERENCE_BATCH = 256  # at which the learning rate is `learning_rate`


def create_optimizer(settings: TrainingSettings, model: nn.Module) -> torch.optim.Optimizer:
    """Create timm's optimiser of that name, with no weight decay for biases and norms.

    The learning rate scales linearly with the global batch (Goyal et al. 2017). With `layer_decay`, the layers of the
    submodule `backbone` have learning rates of their own (`layers.scales`). The fused implementation is chosen, or else
    the one over lists of tensors, where the optimiser has it.

    Raises:
        ValueError, AssertionError, TypeError: timm knows no such optimiser, or it has no such setting,
            `optimizer_settings` has one that is given elsewhere or would have no effect, or the backbone does not name
            its layers.
    """
    for name, remedy in _GIVEN_ELSEWHERE.items():
        if name in settings.optimizer_settings:
            raise ValueError(f"optimizer_settings cannot have {name}: {remedy}")
    parameters = inspect.signature(get_optimizer_class(settings.optimizer)).parameters
    fastest = [name for name in ("fused", "foreach") if name in parameters][:1]
    rate = settings.learning_rate * settings.batch_size / REFERENCE_BATCH
    return create_optimizer_v2(
        model,
        opt=settings.optimizer,
        lr=rate,
        param_group_fn=partial(_by_layer, settings, rate) if settings.layer_decay else None,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        **dict.fromkeys(fastest, True) | settings.optimizer_settings,
    )


def _by_layer(settings: TrainingSettings, rate: float, model: nn.Module) -> list[dict[str, Any]]:
    """The parameter groups of a model whose backbone's learning rates fall from layer to layer towards its input."""
    factors = layers.scales(model.get_submodule("backbone"), settings.layer_decay or 1.0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner, _, rest = name.partition(".")
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((factors[rest] if owner == "backbone" else 1.0, decays), []).append(parameter)
    return [
        {"params": members, "lr": rate * factor, "weight_decay": settings.weight_decay * decays}
        for (factor, decays), members in groups.items()
    ]


def create_schedule(settings: TrainingSettings, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Warm up linearly, then follow half a cosine down to 0, step by step; `steps` is the number in an epoch."""
    warmup, total = (epochs * steps for epochs in (settings.warmup_epochs, settings.epochs))
    return LambdaLR(optimizer, partial(_warmup_cosine, warmup=warmup, total=total))


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Choose channels last, the faster layout, unless a CPU would crash in it.

    oneDNN writes past its workspace in the backward pass of a strided 1×1 convolution with fewer input channels than a
    SIMD register holds (github.com/uxlfoundation/oneDNN issue 6035).
    """
    narrow = any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels < 16
        for m in model.modules()
    )
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


def autocast(
    precision: str, device: torch.device, backbone: nn.Module, sizes: Iterable[int]
) -> AbstractContextManager[None]:
    """Cast to bfloat16 if `precision` says so, or if it is `auto` and the hardware multiplies bfloat16 natively.

    A CPU that multiplies it natively gets some gradients wrong (`_wrong_in_bfloat16`): `auto` does not cast there.

    Args:
        precision: `auto`, `float32` or `bfloat16`.
        device: that of the training.
        backbone: in whose layers maps are small or not.
        sizes: sides of its images, pixels.

    Raises:
        ValueError: `bfloat16` on a CPU that would get gradients wrong.
    """
    on_cpu = device.type == "cpu"
    native = torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()
    if precision == "float32" or not (native or precision == "bfloat16"):
        return nullcontext()
    if on_cpu and native and (layer := _wrong_in_bfloat16(backbone, sizes)):
        if precision == "bfloat16":
            raise ValueError(
                f"this CPU computes wrong gradients in bfloat16 where a map is as small as at {layer}: "
                "set precision to auto or float32, or take larger images"
            )
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _wrong_in_bfloat16(backbone: nn.Module, sizes: Iterable[int]) -> str:
    """Name the first layer whose bfloat16 gradients a CPU gets wrong, with its map size; empty if all are right.

    Where the map of a convolution is smaller than its stride or its padding, some of its weights see only the border.
    Their gradient is 0, but oneDNN leaves it as it was in memory.
    """
    small: list[str] = []

    def look(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sides = inputs[0].shape[-2:]
        paddings = layer.padding if isinstance(layer.padding, tuple) else [side // 2 for side in layer.kernel_size]
        for side, stride, padding in zip(sides, layer.stride, paddings, strict=True):
            if padding and side < max(stride, padding):
                small.append(f"{name} ({sides[0]}×{sides[1]})")

    hooks = [
        layer.register_forward_hook(partial(look, name))
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    modes = {module: module.training for module in backbone.modules()}
    try:
        backbone.eval()  # no statistics of these images are kept
        with torch.no_grad():
            for size in sizes:
                backbone(next(backbone.parameters()).new_zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return next(iter(small), "")


def _warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the peak learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
