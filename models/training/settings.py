"""The settings of a training."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from infoaug.models.settings import AugmentSettings, Numbers, TwinChoice, TwinTime, Views

Count = Annotated[int, Field(ge=1)]


class TrainingSettings(Numbers, BaseModel, frozen=True, extra="forbid"):
    """Model, data augmentation, optimiser and schedule of a training.

    Attributes:
        framework: one of `models.frameworks.available()`.
        framework_settings: the framework's own settings, checked when the model is built.
        backbone: timm's name of the architecture.
        backbone_settings: passed on to `timm.create_model`.
        image_size: side of the images, pixels.
        twin_weight: λ in L = L_view + λ · L_twin; 0 trains without a twin branch, which is the baseline.
        epochs: length of the training; the learning rate's schedule depends on it.
        batch_size: rows of a step, over all ranks together.
        image_share: share of these rows that are still images from no video, where the data has any; the others are
            patches.
        twin_share: share of these rows that are patches with a twin, the same in every step; None: as they come.
        learning_rate: peak learning rate at a batch of 256; it scales linearly with the batch.
        optimizer: as `timm.optim` names it; `sgd` is with Nesterov's momentum, `momentum` without.
        optimizer_settings: passed on to the optimiser, such as `trust_coeff` of `lars`.
        warmup_epochs: epochs over which the learning rate rises linearly; fewer than `epochs`.
        momentum: of the optimiser, 0–1.
        weight_decay: applied neither to biases nor to norms.
        layer_decay: factor from the learning rate of each layer of the backbone to that of the layer before; None: all
            layers have the same.
        freeze_layers: layers of the backbone, from its stem on, that are not trained, and whose statistics stay.
        clip_gradients: largest norm of all gradients together; None: no clipping.
        precision: `auto` takes bfloat16 where the hardware multiplies it natively.
        views: what the two views of a patch are: two augmentations of one crop of its track (`augmented`); two crops of
            it, not augmented, as the twins' (`time`); or two crops, augmented (`both`). A patch that has one crop only
            gets two augmentations of it.
        twin_time: which crop of its track a twin shows: any (`own`), the one of the first view's frame (`same`; without
            it there is no twin in this step), or the `nearest` in time. It has no effect on a patch that is its own
            twin, which is shown at any other time.
        twins: how many of a patch's best partners count, where the data has so many; a patch with fewer has those.
        twin_choice: one of them is drawn in every step, all with the same chance (`uniform`) or in proportion to the
            strength of the dependence (`strength`); or the patch is paired with `all` of them in every step, and the
            losses of these pairs are weighted by that strength, with weights that sum to 1. Partners without a crop of
            the frame that `twin_time` asks for are not chosen from.
        later_share: share of the twins that are replaced by the patch itself at another time, drawn in every step.
        augment: augmentation of first views.
        augment_second: augmentation of second views and of twins; None: as of first views.
        compile: whether `torch.compile` compiles the backbone.
        seed: determines initial weights, order of the patches and augmentations.
        validate_every: epochs between two calls of the `validate` that `Training` is given; it is also called after the
            last epoch.
    """

    framework: str = "simclr"
    framework_settings: dict[str, Any] = {}
    backbone: str = "resnet18"
    backbone_settings: dict[str, Any] = {}
    image_size: Annotated[int, Field(ge=8)] = 32
    twin_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    image_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    twin_share: Annotated[float, Field(gt=0, le=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.12
    optimizer: str = "sgd"
    optimizer_settings: dict[str, Any] = {}
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    clip_gradients: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    views: Views = "augmented"
    twin_time: TwinTime = "own"
    twins: Count = 1
    twin_choice: TwinChoice = "uniform"
    later_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    augment: AugmentSettings = AugmentSettings()
    augment_second: AugmentSettings | None = None
    compile: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    validate_every: Count = 1

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainingSettings":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be below epochs {self.epochs}")
        return self
