"""What every framework shares: a branch (heads and loss), and the framework that makes branches."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
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
        momentum_first, momentum_second: features of the same images from the momentum backbone, without gradient.
        small: float[B, n, num_features], of n small views of what `first` shows; None where there are none.
        valid: bool[B], the valid rows (None: all); the others hold realistic features, for batch statistics.
        weight: float[B], of the rows in the loss; None: all have the same. It is given where `first` is paired with
            several partners, one a row: their weights sum to 1.
        repeated: bool[B], the rows of which `first` is that of an earlier valid row; None: none.
        first_identity, second_identity: int64[B, 2 or more], the image that a row shows, then its partners, −1 for
            none; none of them is a negative of the row. None: every row shows another image.

    Features that the branch does not name in `reads` are None.
    """

    first: Tensor
    second: Tensor = UNREAD
    momentum_first: Tensor = UNREAD
    momentum_second: Tensor = UNREAD
    small: Tensor | None = None
    valid: Tensor | None = None
    weight: Tensor | None = None
    repeated: Tensor | None = None
    first_identity: Tensor | None = None
    second_identity: Tensor | None = None

    def take(self, rows: Tensor) -> "Pairs":
        """These rows, int64[R], of all that is given."""
        every: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: value[rows] for name, value in every.items() if value is not None})

    @property
    def views(self) -> list[Tensor]:
        """`first`, `second` and, if there are any, the small views of all rows, one row after the other: [B · n, …]."""
        return [self.first, self.second] + ([] if self.small is None else [self.small.flatten(0, 1)])

    @property
    def first_image(self) -> Tensor | None:
        """The images that `first` shows, int64[B]; None where they are not given."""
        return None if self.first_identity is None else self.first_identity[:, 0]

    @property
    def second_image(self) -> Tensor | None:
        """The images that `second` shows, int64[B]; None where they are not given."""
        return None if self.second_identity is None else self.second_identity[:, 0]


class Branch(nn.Module, ABC):
    """Heads and loss of one of the two branches, independent of backbones, twins, devices and the training loop.

    `reads`: the features of `Pairs` that it needs; only those are computed, and without them there is no momentum
    backbone. `weighs`: whether its loss weighs rows by `Pairs.weight` and counts `Pairs.repeated` once; otherwise every
    row of it has one partner. `progress`: 0-dim buffer, the share of training that is complete.
    """

    reads: ClassVar[tuple[str, ...]] = ("first", "second")
    weighs: ClassVar[bool] = False
    progress: Tensor

    def __init__(self, num_features: int, settings: FrameworkSettings) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()))
        self._followed: list[tuple[nn.Module, nn.Module]] = []

    @abstractmethod
    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Compute the scalar `loss` of the valid rows, and scalars without gradient for the log.

        Without valid rows the loss is a differentiable 0. Every rank runs the same collectives, whatever `valid` is.
        The mean of every value over the ranks is that of the global batch (`mean_over_ranks`).
        """

    def momentum_copy(self, module: nn.Module) -> nn.Module:
        """Copy one of the branch's modules; the copy has no gradient and follows the module with momentum."""
        follower = copy.deepcopy(module).requires_grad_(False)
        self._followed.append((module, follower))
        return follower

    def followed(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """The modules of this branch that have a momentum copy, with that copy."""
        return iter(self._followed)

    def after_step(self, progress: float) -> None:
        """Called once after every optimiser step with the share of training that is complete; may be extended."""
        self.progress.fill_(progress)


class Framework(nn.Module):
    """A backbone and the recipe for branches; a subclass names its `branch_type` and its `settings_type`."""

    branch_type: ClassVar[type[Branch]]
    settings_type: ClassVar[type[FrameworkSettings]] = FrameworkSettings

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
        """Make a branch with its own parameters, drawn from torch's global random state."""
        return self.branch_type(self.num_features, self.settings)
