"""What every framework shares: a branch (heads and loss), and the framework that makes branches."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from infoaug.models.frameworks.settings import FrameworkSettings

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
    """A backbone and the recipe for branches; a subclass names its `branch_type`."""

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
