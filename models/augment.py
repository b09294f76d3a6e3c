"""Augmentation of a batch of images on their device, with independent random numbers for every image.

One `grid_sample` does crop, resize and flip; one 3×3 matrix and one offset per image do brightness, contrast,
saturation, hue and grey. Two deliberate differences from torchvision: the colour steps run in a fixed order without
clamping in between, and hue is a rotation about the grey axis in YIQ instead of a shift in HSV. Where crops may be
larger than their views, they are sampled more finely and averaged, against aliasing; elsewhere they are only enlarged.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infoaug.models.precision import without_autocast
from infoaug.models.settings import AugmentSettings

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)

# NTSC's YIQ: its first row is the luma of ITU-R BT.601; the other two vanish on grey.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_CROP_TRIES = 10
_SHAPE = "Images must be [B, 3, S, S], not {}; permute [B, S, S, 3] with permute(0, 3, 1, 2)."


class Augment(nn.Module):
    """Random view of every image of a batch: crop, flip, colour, blur, solarise, then normalised by `mean` and `std`.

    `augment(images, generator=g)` maps images u8[B, 3, S, S], or float[B, 3, S, S] in 0–1, to f32[B, 3, S, S] on the
    same device, or to f32[B, 3, size, size]. The same generator state gives the same views. A CPU generator also works
    for images on an accelerator.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        settings: AugmentSettings | None = None,
        *,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
        size: int | None = None,
    ) -> None:
        """`size`: side of the views, pixels, at most that of the images; None: that of the images."""
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three values each, std above 0, not {tuple(mean)} and {tuple(std)}.")
        self.settings, self.size = settings or AugmentSettings(), size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    @classmethod
    def of(cls, backbone: nn.Module, settings: AugmentSettings | None = None, size: int | None = None) -> "Augment":
        """Augmentation with the normalisation that a backbone's recipe names; CIFAR's where it names none."""
        recipe = getattr(backbone, "recipe", None)
        mean, std = getattr(recipe, "mean", None), getattr(recipe, "std", None)
        return cls(settings, mean=mean or CIFAR_MEAN, std=std or CIFAR_STD, size=size)

    @torch.no_grad()
    def forward(self, images: Tensor, *, generator: torch.Generator, among: tuple[Tensor, int] | None = None) -> Tensor:
        """Draw one view per image; see the class.

        Args:
            images: of which views are drawn.
            generator: of the random numbers.
            among: places int64[B] of these images in a batch of so many, of which other ranks augment the rest: all
                ranks draw for the whole batch, so that each image gets the view that it gets on one rank. None: the
                images are the whole batch.

        Raises:
            ValueError: a wrong shape or dtype.
        """
        images = _as_float(images)
        batch, _, pixels, width = images.shape
        if pixels != width:
            raise ValueError(_SHAPE.format(list(images.shape)))
        settings, size = self.settings, self.size or pixels
        blur = settings.blur if settings.blur is not None else 0.5 * (size > 32)
        # One draw for everything: one row per sample, one column per random choice.
        places, rows = among or (None, batch)
        draws = torch.rand(rows, 2 * _CROP_TRIES + 13, generator=generator, device=generator.device).to(images.device)
        draws = draws if places is None else draws[places]
        crop, spare = draws.split([2 * _CROP_TRIES + 2, 11], dim=1)
        u = spare.unbind(1)

        with without_autocast(images):
            boxes = random_crops(crop, pixels, scale=settings.crop_scale, ratio=settings.crop_ratio)
            finer = math.ceil(largest_side(pixels, scale=settings.crop_scale, ratio=settings.crop_ratio) / size)
            views = crop_resize(images, boxes, flip=u[0] < settings.flip, size=finer * size)
            views = F.avg_pool2d(views, finer) if finer > 1 else views
            jitter = u[1] < settings.jitter
            views = adjust_colour(
                views,
                brightness=_factor(u[2], settings.brightness, jitter),
                contrast=_factor(u[3], settings.contrast, jitter),
                saturation=_factor(u[4], settings.saturation, jitter) * (u[6] >= settings.grey),  # grey: saturation 0
                hue=(2 * u[5] - 1) * settings.hue * jitter,
            )
            if blur > 0:
                low, high = settings.blur_sigma
                views = gaussian_blur(views, torch.where(u[7] < blur, low + (high - low) * u[8], 0.0))
            if settings.solarise > 0:
                chosen = (u[9] < settings.solarise).view(-1, 1, 1, 1)
                views = torch.where(chosen & (views >= 0.5), 1 - views, views)
            return views.sub_(self.mean).div_(self.std)

    @torch.no_grad()
    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images u8[B, 3, H, W] or float in 0–1 without augmenting them: f32[B, 3, H, W], for evaluation."""
        return _as_float(images).sub(self.mean).div_(self.std)


def random_crops(draws: Tensor, size: int, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Turn uniform draws f32[B, 22] into boxes f32[B, 4] of whole pixels: left, top, width, height.

    Distributed as torchvision's RandomResizedCrop on a square image: ten tries at an area uniform in `scale` and a
    log-uniform aspect ratio, the first that fits is taken; if none fits, the whole image.
    """
    area_draws, ratio_draws, corner_draws = draws.split([_CROP_TRIES, _CROP_TRIES, 2], dim=1)
    area = size * size * (scale[0] + (scale[1] - scale[0]) * area_draws)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draws)
    sides = torch.stack([torch.sqrt(area * aspect), torch.sqrt(area / aspect)], dim=-1).round()  # [B, tries, 2]
    fits = ((sides > 0) & (sides <= size)).all(dim=-1)
    first = fits.to(torch.uint8).argmax(dim=1).view(-1, 1, 1).expand(-1, 1, 2)
    chosen = torch.where(fits.any(dim=1, keepdim=True), sides.gather(1, first).squeeze(1), float(size))
    corner = torch.minimum(torch.floor(corner_draws * (size - chosen + 1)), size - chosen)
    return torch.cat([corner, chosen], dim=1)


def largest_side(size: int, *, scale: tuple[float, float], ratio: tuple[float, float]) -> float:
    """Bound of the sides of `random_crops`, up to their rounding, pixels."""
    return size * min(1.0, math.sqrt(scale[1] * max(ratio[1], 1 / ratio[0])))


def crop_resize(images: Tensor, boxes: Tensor, *, flip: Tensor, size: int | None = None) -> Tensor:
    """Cut a box from each image, resize it to `size` (None: the image's size), flip it where asked.

    images f32[B, 3, S, S]; boxes f32[B, 4] in whole pixels: left, top, width, height; flip bool[B]: left–right.
    Bilinear, and as torchvision's `resized_crop` never looking outside the box.
    """
    pixels = images.shape[-1]
    size = size or pixels
    steps = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    left, top, width, height = boxes.unsqueeze(-1).unbind(1)  # each [B, 1]
    across = torch.where(flip[:, None], steps.flip(0), steps)
    x = torch.clamp(left + across * width - 0.5, left, left + width - 1)
    y = torch.clamp(top + steps * height - 0.5, top, top + height - 1)
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    grid = (2 * grid + 1) / pixels - 1  # pixel centres to grid_sample's −1…1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust_colour(images: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue in this order, as one matrix and offset per image; the result lies in 0–1.

    images f32[B, 3, S, S] in 0–1; the others f32[B]: factors (1 leaves the image alone, saturation 0 makes it grey) and
    the hue's shift in turns. Contrast scales about the image's mean luma. Rotation H and saturation fix the grey axis,
    so with w the luma weights all folds into contrast·brightness·(saturation·H + (1 − saturation)·1wᵀ) x + offset.
    """
    batch, channels, height, width = images.shape
    flat = images.reshape(batch, channels, height * width)
    yiq, inverse = _colour_spaces(images.device)
    luma = yiq[0]
    # Rotation in the IQ plane; hue grows red → green → blue, which is clockwise there.
    cos, sin = torch.cos(2 * math.pi * hue), torch.sin(2 * math.pi * hue)
    one, zero = torch.ones_like(hue), torch.zeros_like(hue)
    rotation = torch.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], dim=1).view(batch, 3, 3)
    turned = inverse @ rotation @ yiq

    keep = saturation.view(-1, 1, 1)
    matrix = (brightness * contrast).view(-1, 1, 1) * (keep * turned + (1 - keep) * luma)
    mean_luma = flat.mean(dim=2) @ luma
    offset = ((1 - contrast) * brightness * mean_luma).view(-1, 1, 1)
    return torch.baddbmm(offset, matrix, flat).clamp_(0, 1).view_as(images)


@cache
def _colour_spaces(device: torch.device) -> tuple[Tensor, Tensor]:
    """RGB to YIQ and back, f32[3, 3] each, kept on the device so that a step copies nothing to it."""
    yiq = torch.tensor(_YIQ, dtype=torch.float64)
    return yiq.to(device, torch.float32), torch.linalg.inv(yiq).to(device, torch.float32)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image f32[B, 3, S, S] by its own sigma f32[B] in pixels (0: not at all).

    The blur is separable, so it is one S×S matrix per image, applied to columns and rows; weights sum to 1 also at the
    border.
    """
    position = torch.arange(images.shape[-1], device=images.device, dtype=torch.float32)
    distance = (position[:, None] - position).square()
    spread = sigma.clamp(min=1e-3).view(-1, 1, 1, 1)  # so narrow that only the pixel itself has weight
    kernel = torch.softmax(-distance / (2 * spread.square()), dim=-1)  # [B, 1, S, S]
    return kernel @ images @ kernel.transpose(-1, -2)


def _factor(uniform: Tensor, strength: float, chosen: Tensor) -> Tensor:
    """Factors uniform in [max(0, 1 − strength), 1 + strength] where chosen, else 1."""
    low = max(0.0, 1.0 - strength)
    return torch.where(chosen, low + (1.0 + strength - low) * uniform, 1.0)


def _as_float(images: Tensor) -> Tensor:
    """Check a batch of RGB images and give it as f32 in 0–1."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(_SHAPE.format(list(images.shape)))
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    if images.is_floating_point():
        return images.to(torch.float32)
    raise ValueError(f"Images must be uint8 or floating point in 0–1, not {images.dtype}.")
