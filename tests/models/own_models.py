"""A backbone and a framework such as a user writes them, outside infoaug."""

from torch import Tensor, nn

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import FrameworkSettings


class Tiny(nn.Module):
    """A backbone of one convolution; `group_matcher` is what timm's have, for learning rates by layer."""

    def __init__(self, image_size: int, width: int = 8) -> None:
        super().__init__()
        self.num_features = width
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(images)).mean(dim=(2, 3)))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^stem|norm", "head": r"^head"}


class Nameless(nn.Module):
    """A backbone without the length of its features."""

    def __init__(self, image_size: int) -> None:
        super().__init__()


class AlignedSettings(FrameworkSettings, frozen=True):
    """`power` of the distance."""

    power: float = 2.0


class AlignedBranch(Branch):
    """The distance of the two sides, which collapses: for tests alone."""

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        distance = (pairs.first - pairs.second).abs().pow(self.power).mean(dim=1)
        valid = pairs.valid if pairs.valid is not None else distance.new_ones(len(distance))
        return {"loss": (distance * valid).mean()}

    def __init__(self, num_features: int, settings: FrameworkSettings) -> None:
        super().__init__(num_features, settings)
        assert isinstance(settings, AlignedSettings)
        self.power = settings.power


class Aligned(Framework):
    """A framework of the user's own."""

    branch_type = AlignedBranch
    settings_type = AlignedSettings
