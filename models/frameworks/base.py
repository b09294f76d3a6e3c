"""What every framework shares: typed settings, a branch (heads and loss), and the framework that makes branches."""

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import BaseModel
from torch import Tensor, nn


class FrameworkSettings(BaseModel, frozen=True, extra="forbid", strict=True):
    """Settings of a framework; a subclass names its own, with types, limits and defaults."""


class Branch(nn.Module, ABC):
    """Heads and loss of one of the two branches; it knows nothing of backbones, twins, devices or the training loop."""

    def __init__(self, num_features: int, settings: FrameworkSettings) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, first_features: Tensor, second_features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss, a scalar, of the pairs in features float[B, num_features]; only rows with `valid` bool[B] count.

        Rows that do not count still hold natural features, so that batch statistics of a head stay sound. With no row
        that counts the loss is a differentiable 0. Every rank runs the same collectives whatever `valid` says.
        """


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
