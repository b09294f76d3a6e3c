"""What every stage offers: the modules extract, score, pretrain and evaluate each have these functions."""

from typing import Any, Protocol

from infoaug.orchestrator.config import ExperimentConfig


class Output(Protocol):
    """What a stage gives to the next one; the data itself lies in the store."""

    @property
    def folders(self) -> list[str]:
        """The folders of the stage's outputs, in the store."""

    @property
    def resumed(self) -> int:
        """Units (windows, epochs or data sets) that were in the store already."""

    @property
    def computed(self) -> int:
        """Units that were computed now."""


class Stage(Protocol):
    """One step of an experiment. `previous` is the output of the stage before; for the first stage, the store."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise UsageError, before anything is started, if the stage cannot do its work with this config."""

    def load(self, config: ExperimentConfig, previous: Any, /) -> Output:
        """Read what an earlier run left. Raises StageError if it is missing or incomplete."""

    def run(self, config: ExperimentConfig, previous: Any, /) -> Output:
        """Compute what is missing in the store. Raises StageError if it fails."""
