"""What an epoch adds up for its metrics, block by block; a checkpoint in the middle of an epoch keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from infoaug.models.training.pairs import Draws, Pairs
from infoaug.models.training.settings import TrainingSettings

Epoch = dict[str, float]  # the metrics of an epoch


@dataclass
class EpochSums:
    """Sums over the blocks of an epoch that are complete; see `Training.epoch` for the metrics.

    Attributes:
        blocks: how many.
        steps: how many these had.
        losses: sums over steps, of means over ranks, by name.
        learning_rate: that of the last step.
        seconds: time they took.
        waited: seconds of it in which the host waited for batches.
        without_twin_loss: steps whose twin loss is 0.
        rows: of all batches.
        with_twin: rows that were shown with a twin.
        twins: twins that rows were shown with.
        several: whether a row may be shown with several.
        patches: rows that hold patches.
        with_one_crop: of these, those of patches with a single crop.
        other_times: whether a crop of another time was asked for.
        with_partners: rows of patches that have a partner.
        partners: how many partners they have together.
        without_frame: rows of patches with a partner that were shown without one.
    """

    blocks: int = 0
    steps: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    learning_rate: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    without_twin_loss: int = 0
    rows: int = 0
    with_twin: int = 0
    twins: int = 0
    several: bool = False
    patches: int = 0
    with_one_crop: int = 0
    other_times: bool = False
    with_partners: int = 0
    partners: int = 0
    without_frame: int = 0

    def add_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Add the sums of a block."""
        self.losses = {name: value + self.losses.get(name, 0) for name, value in losses.items()}

    def means(self) -> Epoch:
        """The losses, as means over steps and ranks."""
        return {name: (value / self.steps).item() for name, value in self.losses.items()}

    def add_rows(self, data: Pairs, drawn: Draws, settings: TrainingSettings) -> None:
        """Count the rows of a block's batches: `drawn` of rows int64[steps, ranks, B / ranks] of `data`."""
        rows, shown = drawn.rows, drawn.twin >= 0
        self.rows += rows.numel()
        self.with_twin += int(shown.any(dim=-1).sum())
        self.twins += int(shown.sum())
        self.several |= drawn.twin.shape[-1] > 1
        patches = rows[rows < data.patches]
        self.patches += len(patches)
        self.with_one_crop += int((data.counts[patches] == 1).sum())
        again = settings.views != "augmented" or settings.later_share or (drawn.shown == rows[..., None]).any()
        self.other_times |= bool(again)
        has_partner = data.twin[rows] >= 0
        self.with_partners += int(has_partner.sum())
        self.partners += int((data.partners[rows] >= 0).sum())
        self.without_frame += int((~shown[has_partner].any(dim=-1)).sum())
