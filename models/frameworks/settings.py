"""Typed settings of every framework, with limits and defaults; no PyTorch, so that a config is checked without it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from infoaug.models.settings import Momentum, Negatives, Positive, Probability, WrittenSettings

Width = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"it must be (low, high) with low ≤ high, not {limits}")
    return limits


# Not strict: YAML and JSON have lists.
CropScale = Annotated[tuple[Positive, Probability], Field(strict=False), AfterValidator(_ascending)]


class FrameworkSettings(WrittenSettings, frozen=True, strict=True):
    """Settings of a framework; a subclass names its own, with types, limits and defaults."""


class ContrastiveSettings(FrameworkSettings, frozen=True):
    """`temperature` of the similarities, and which `negatives` an anchor keeps (see `Negatives`)."""

    temperature: Temperature = 0.1
    negatives: Negatives = Negatives()


class MomentumSettings(FrameworkSettings, frozen=True):
    """`momentum`: how the momentum encoder follows the trained one; `encoder`: whose backbone is kept after training.

    The kept backbone is what is validated, saved and exported. By default it is the one that the paper evaluates: the
    trained one in MoCo (the query encoder) and BYOL (the online network), the momentum one in DINO (the teacher);
    docs/method.md, section 8, gives the sources.
    """

    momentum: Momentum = Momentum()
    encoder: Literal["trained", "momentum"] = "trained"


class MultiCropSettings(FrameworkSettings, frozen=True):
    """Multi-crop (Caron et al. 2020, section 3.2): every row has `small_views` more views of its first view's picture.

    They are crops of `small_scale` of the picture's area, resized to `small_size` pixels (None: half of the image
    size), and otherwise augmented as first views. They predict the targets that the two full views give, and give none
    themselves. Only the view branch has them.
    """

    small_views: Annotated[int, Field(ge=0, le=64)] = 0
    small_size: Annotated[int, Field(ge=8)] | None = None
    small_scale: CropScale = (0.05, 0.4)

    def small_pixels(self, image_size: int) -> int:
        """Side of the small views, beside full ones of `image_size` pixels.

        Raises:
            ValueError: `small_size` is not below `image_size`, or no crop of `small_scale` has a pixel of it.
        """
        if self.small_scale[1] * image_size**2 < 1:
            raise ValueError(
                f"framework_settings.small_scale {list(self.small_scale)} of an image of {image_size} pixels is less "
                "than a pixel: set it higher"
            )
        if self.small_size is None:
            return image_size // 2
        if self.small_size >= image_size:
            raise ValueError(f"framework_settings.small_size {self.small_size} must be below image_size {image_size}")
        return self.small_size


def views_of_a_row(settings: FrameworkSettings, image_size: int) -> float:
    """How many full views the views of a row amount to, by their pixels: two, and the share of the small ones.

    Raises ValueError as `MultiCropSettings.small_pixels`.
    """
    if not isinstance(settings, MultiCropSettings) or not settings.small_views:
        return 2.0
    return 2 + settings.small_views * (settings.small_pixels(image_size) / image_size) ** 2


class SimCLRSettings(ContrastiveSettings, frozen=True):
    """Widths of the projection head (`hidden_dim=None`: as the backbone's features), temperature and negatives.

    128 outputs are the paper's (section 4.2), the temperature is the one it found best on CIFAR-10 (appendix B.9).
    """

    hidden_dim: Width | None = None
    output_dim: Width = 128
    temperature: Temperature = 0.5


class DCLSettings(SimCLRSettings, frozen=True):
    """As SimCLR's; the temperature is the default of lightly's DCL loss."""

    temperature: Temperature = 0.1


class MoCoSettings(ContrastiveSettings, MomentumSettings, frozen=True):
    """Head (`hidden_dim=None`: as the backbone's features), temperature, negatives, momentum, `queue_size` in keys.

    128 outputs are the paper's; temperature 0.1, momentum 0.99 and 4096 keys those of the authors' CIFAR-10 demo.
    """

    hidden_dim: Width | None = None
    output_dim: Width = 128
    queue_size: Width = 4096


class NNCLRSettings(ContrastiveSettings, frozen=True):
    """Widths of projector (`projection_layers` of them) and predictor, `queue_size` of the support set, temperature.

    2048, 256, 4096, three layers and temperature 0.1 are the paper's (section 4.1), as in solo-learn's recipe for
    CIFAR-10 but for its temperature, 0.2. 4096 neighbours are those of lightly's CIFAR-10 benchmark; the paper has
    98304 for ImageNet, solo-learn 65536 for CIFAR-10.
    """

    hidden_dim: Width = 2048
    output_dim: Width = 256
    projection_layers: Count = 3
    predictor_dim: Width = 4096
    queue_size: Width = 4096


class BYOLSettings(MomentumSettings, frozen=True):
    """Widths of projector and predictor, both Linear–BatchNorm–ReLU–Linear, and the momentum.

    The paper has 4096 and 256 for ResNet-50 (section 3.3); 1024 hidden units are lightly's for ResNet-18. The momentum
    starts at the paper's 0.99 for up to 300 epochs (0.996 for 1000) and rises to 1.
    """

    hidden_dim: Width = 1024
    output_dim: Width = 256
    momentum: Momentum = Momentum(base=0.99, schedule="cosine")


class DINOSettings(MomentumSettings, MultiCropSettings, frozen=True):
    """Head, temperatures, centre, momentum and small views.

    Head: `projection_layers` up to `bottleneck_dim`, then `output_dim` prototypes: three layers, 2048 and 256 are the
    paper's (appendix C), 4096 is solo-learn's for CIFAR-10 (the paper: 65536); batch norm in the head, as in lightly's
    benchmarks of convolutional networks. The teacher's temperature rises from `warmup_teacher_temperature` until the
    share `warmup_share` of training is done, the paper's 30 epochs of 300 (section 3.2). Momentum rises from 0.996 to
    1; the authors' code advises 0.9995 for batches of 256. The last layer is fixed until `frozen_share` is done: the
    authors' first epoch of a hundred. The teacher's backbone is kept, which is better than the student's throughout the
    training (section 3.1) and is what the authors evaluate. Their code has 8 or 10 small views of 96 pixels beside
    full ones of 224, of 0.05 to 0.4 of the area; full ones are then crops of 0.4 to 1 (`augment.crop_scale`).
    """

    hidden_dim: Width = 2048
    bottleneck_dim: Width = 256
    output_dim: Width = 4096
    projection_layers: Count = 3
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    warmup_teacher_temperature: Temperature = 0.04
    warmup_share: Share = 0.1
    center_momentum: Share = 0.9
    frozen_share: Share = 0.01
    momentum: Momentum = Momentum(base=0.996, schedule="cosine")
    encoder: Literal["trained", "momentum"] = "momentum"


class SimSiamSettings(FrameworkSettings, frozen=True):
    """Width and number of `projection_layers` of the projector, and hidden width of the predictor, a bottleneck.

    2048 and 512 are the paper's (section 3), as are two layers of projection for CIFAR-10 (appendix D; ImageNet: 3).
    """

    output_dim: Width = 2048
    projection_layers: Count = 2
    predictor_dim: Width = 512


class SwAVSettings(MultiCropSettings, frozen=True):
    """Head (`hidden_dim=None`: as the backbone's features), `prototypes`, how rows are assigned to them, small views.

    128 outputs, temperature 0.1, `epsilon` and `iterations` of Sinkhorn–Knopp are the paper's (appendix A); 512
    prototypes are those of lightly's CIFAR-10 benchmark (the paper's 3000 need its batches of 4096). The prototypes are
    fixed until the share `frozen_share` of training is done: the authors' first epoch of a hundred. Their code has 6
    small views of 96 pixels beside full ones of 224, of 0.05 to 0.14 of the area; full ones are then crops of 0.14 to 1
    (`augment.crop_scale`).
    """

    hidden_dim: Width | None = None
    output_dim: Width = 128
    prototypes: Width = 512
    temperature: Temperature = 0.1
    epsilon: Temperature = 0.05
    iterations: Count = 3
    frozen_share: Share = 0.01
    small_scale: CropScale = (0.05, 0.14)


class BarlowTwinsSettings(FrameworkSettings, frozen=True):
    """Widths and number of `projection_layers` of the projector, and λ, the weight `off_diagonal`.

    Three layers and λ are the paper's (section 2.2: 0.005; 0.0051 in the authors' code); 2048 units, where ImageNet has
    8192, are those of solo-learn's recipe for CIFAR-10.
    """

    hidden_dim: Width = 2048
    output_dim: Width = 2048
    projection_layers: Count = 3
    off_diagonal: Weight = 0.0051


class VICRegSettings(FrameworkSettings, frozen=True):
    """Widths and number of `projection_layers` of the projector (the paper's expander), weights of the three terms.

    Three layers and the weights 25, 25, 1 are the paper's (section 4.2); 2048 units, where ImageNet has 8192, are those
    of solo-learn's recipe for CIFAR-10.
    """

    hidden_dim: Width = 2048
    output_dim: Width = 2048
    projection_layers: Count = 3
    invariance: Weight = 25.0
    variance: Weight = 25.0
    covariance: Weight = 1.0
