"""Typed settings of what is trained, in modules that import no PyTorch: a config is checked without it."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Views = Literal["augmented", "time", "both"]  # what the two views of a patch are, see `TrainingSettings`
TwinTime = Literal["own", "same", "nearest"]  # which crop of its track a twin shows
TwinChoice = Literal["uniform", "strength", "all"]  # which of its best partners a patch is shown with


class Numbers(BaseModel):
    """Settings whose numbers are no flags: pydantic would take `true` for 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if any(isinstance(each, bool) for each in given) and {int, float} & kinds and bool not in kinds:
            raise ValueError(f"input should be a number, not {str(value).lower()}")
        return value


class WrittenSettings(Numbers, frozen=True, extra="forbid"):
    """Typed settings that are stored as they were written.

    The attributes are validated and complete. Serialised, the settings are the mapping that was given: no defaults,
    and 1 stays 1 where the type is float. Hashes of a config therefore depend on what its author wrote, and not on the
    defaults of this version.
    """

    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_what_was_written(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if values is None:
            values = {}  # a section whose settings are all commented out
        settings = handler(values)
        if settings is not values:
            settings._written = _plain(values)
        return settings

    @model_serializer(mode="plain")
    def written(self) -> dict[str, Any]:
        """The settings that were given, as they were given; a copy."""
        return _plain(self._written)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Validated settings with other values; the others stay as they were written."""
        return type(self).model_validate(self.written() | dict(update or {}))


class AugmentSettings(WrittenSettings, frozen=True):
    """Random augmentation of one view; the defaults are SimCLR's for CIFAR (Chen et al. 2020, appendix B.9).

    `crop_scale`: share of the image's area (at least 0.2; the paper has 0.08); `crop_ratio`: width over height;
    `flip`, `jitter`, `grey`, `blur`, `solarise`: probabilities; `brightness`, `contrast`, `saturation`: factors are
    uniform in 1 ± strength (not below 0); `hue`: in turns, uniform in ± strength; `blur_sigma`: pixels; `blur=None`
    means 0.5 for images above 32 pixels and 0 for smaller ones.
    """

    crop_scale: tuple[Positive, Probability] = (0.2, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Probability = 0.2
    blur: Probability | None = None
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    solarise: Probability = 0.0

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (low, high) with low ≤ high, not ({low}, {high}).")
        return self


class Negatives(BaseModel, frozen=True, extra="forbid", strict=True):
    """Choice of negatives by similarity (Wu et al. 2020, arXiv 2005.13149 and 2010.02037).

    `kind`: `all`; `ball`, the `outer` share of an anchor's admissible negatives that is most similar to it; `ring`, the
    ball without its most similar ones. `outer`, `inner`: shares of all admissible negatives, 0–1: 0.1 and 0.01 keep the
    most similar 10 % without the top 1 % (the authors' code counts `inner` as a share of the ball: its 0.1 and 0.1).
    `anneal`: how the outer share goes from 1 to `outer` until the share `until` of training is done: `constant` (it is
    `outer` throughout), `linear`, or `step` (1 until then).

    Raises ValueError unless 0 < inner < outer ≤ 1 for a ring.
    """

    kind: Literal["all", "ball", "ring"] = "all"
    inner: Annotated[float, Field(ge=0, lt=1)] = 0.01
    outer: Share = 0.1
    anneal: Literal["constant", "linear", "step"] = "constant"
    until: Share = 0.5

    @model_validator(mode="after")
    def _ring_has_a_width(self) -> Self:
        if self.kind == "ring" and not 0 < self.inner < self.outer:
            raise ValueError(f"a ring needs 0 < inner < outer, not {self.inner} and {self.outer}")
        return self


class Momentum(BaseModel, frozen=True, extra="forbid", strict=True):
    """Momentum of the momentum encoder: m ← rate · m + (1 − rate) · trained.

    `base`: the rate, 0–1; `schedule`: `constant`, or `cosine`, from `base` at the start of training to 1 at its end
    (Grill et al. 2020, section 3.3: 1 − (1 − base) · (cos(π · progress) + 1) / 2).
    """

    base: Probability = 0.99
    schedule: Literal["constant", "cosine"] = "constant"

    def rate(self, progress: float) -> float:
        """Rate when the share `progress` of training (0–1) is done."""
        if self.schedule == "constant":
            return self.base
        return 1 - (1 - self.base) * (math.cos(math.pi * progress) + 1) / 2


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation} if isinstance(annotation, type) else set()


def _plain(value: Any) -> Any:
    """Settings as they are written in a file: mappings, lists and scalars; a deep copy."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
