"""What every framework shares: typed settings, a branch (heads and loss), and the framework that makes branches."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from infoaug.models.negatives import Negatives

Width = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

UNREAD: Any = None  # in `Pairs`, the features that a branch does not read


@dataclass(frozen=True)
class Pairs:
    """What a branch sees of a step: B pairs, as features of the backbone.

    Attributes:
        first, second: float[B, num_features], the two sides of each pair.
        momentum_first, momentum_second: the same images' features by the momentum backbone; without gradient.
        valid: bool[B] or None (all), the rows that count; the others hold natural features, for batch statistics.
        first_identity, second_identity: int64[B, 2] or None, which image a row shows and which one is its twin, −1 for
            none. What shows either is no negative of the row. None: every row shows an image of its own.

    Only the features named in the branch's `reads` are there, the others are None.
    """

    first: Tensor
    second: Tensor = UNREAD
    momentum_first: Tensor = UNREAD
    momentum_second: Tensor = UNREAD
    valid: Tensor | None = None
    first_identity: Tensor | None = None
    second_identity: Tensor | None = None

    @property
    def first_image(self) -> Tensor | None:
        """Which image `first` shows: int64[B], or None where it was not said."""
        return None if self.first_identity is None else self.first_identity[:, 0]

    @property
    def second_image(self) -> Tensor | None:
        """Which image `second` shows: int64[B], or None where it was not said."""
        return None if self.second_identity is None else self.second_identity[:, 0]


class FrameworkSettings(BaseModel, frozen=True, extra="forbid", strict=True):
    """Settings of a framework; a subclass names its own, with types, limits and defaults."""


class ContrastiveSettings(FrameworkSettings, frozen=True):
    """`temperature` of the similarities, and which `negatives` an anchor keeps (see `Negatives`)."""

    temperature: Temperature = 0.1
    negatives: Negatives = Negatives()


class Momentum(BaseModel, frozen=True, extra="forbid", strict=True):
    """How slowly the momentum encoder follows: m ← rate · m + (1 − rate) · trained.

    `base`: the rate, 0–1; `schedule`: `constant`, or `cosine`, from `base` at the start of training to 1 at its end
    (Grill et al. 2020, section 3.3: 1 − (1 − base) · (cos(π · progress) + 1) / 2).
    """

    base: Annotated[float, Field(ge=0, le=1)] = 0.99
    schedule: Literal["constant", "cosine"] = "constant"

    def rate(self, progress: float) -> float:
        """Rate when the share `progress` of training (0–1) is done."""
        if self.schedule == "constant":
            return self.base
        return 1 - (1 - self.base) * (math.cos(math.pi * progress) + 1) / 2


class MomentumSettings(FrameworkSettings, frozen=True):
    """`momentum`: how the momentum encoder follows the trained one."""

    momentum: Momentum = Momentum()


class Branch(nn.Module, ABC):
    """Heads and loss of one of the two branches; it knows nothing of backbones, twins, devices or the training loop.

    `reads`: the features of `Pairs` that it needs; the momentum backbone exists, and an image passes through a
    backbone, only where a feature is read. `progress`: 0-dim buffer, the share of training that is done.
    """

    reads: ClassVar[tuple[str, ...]] = ("first", "second")
    progress: Tensor

    def __init__(self, num_features: int, settings: FrameworkSettings) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()))
        self._followed: list[tuple[nn.Module, nn.Module]] = []

    @abstractmethod
    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Give `loss`, a scalar, and whatever scalars without gradient are worth logging; only `valid` rows count.

        With no row that counts the loss is a differentiable 0. Every rank runs the same collectives whatever `valid`
        says, and all values are such that their mean over the ranks is that of the global batch (`mean_over_ranks`).
        """

    def momentum_copy(self, module: nn.Module) -> nn.Module:
        """Copy one of the branch's modules; the copy takes no gradient and follows it from step to step."""
        follower = copy.deepcopy(module).requires_grad_(False)
        self._followed.append((module, follower))
        return follower

    def followed(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Modules of this branch, each with its momentum copy."""
        return iter(self._followed)

    def after_step(self, progress: float) -> None:
        """Called once after every optimiser step with the share of training that is done; extend where needed."""
        self.progress.fill_(progress)


class Framework(nn.Module):
    """A backbone and the recipe for branches; a subclass names its `settings_type` and its `branch_type`."""

    settings_type: ClassVar[type[FrameworkSettings]]
    branch_type: ClassVar[type[Branch]]

    def __init__(self, backbone: nn.Module, settings: FrameworkSettings) -> None:
        """`backbone` maps images to float[B, backbone.num_features]. Raises ValueError without `num_features`."""
        super().__init__()
        num_features = getattr(backbone, "num_features", None)
        if not isinstance(num_features, int) or num_features < 1:
            raise ValueError(f"The backbone needs an integer num_features above 0, not {num_features!r}.")
        self.backbone = backbone
        self.num_features = num_features
        self.settings = settings

    def make_branch(self) -> Branch:
        """Give a fresh branch: parameters of its own, drawn anew from torch's global random state."""
        return self.branch_type(self.num_features, self.settings)
