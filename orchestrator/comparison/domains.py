"""Cross-domain accuracy of a comparison: trained on one domain, tested on another, with the MI twin and without."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import METRICS, MI, Arm, Arms, Sweep

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Crossing:
    """One setting's accuracies, f64[D, D] shares; rows trained on, columns tested on.

    Attributes:
        name: of the setting, or of all together.
        twin: with the MI twin, mean over seeds; where `none` is there, over those that both have.
        none: without twins, over the same seeds; None where no seed has both.
        seeds: how many; of several settings, in that with the fewest.
    """

    name: str
    twin: Float
    none: Float | None
    seeds: int

    def cell(self, row: int, column: int) -> str:
        """An accuracy in percent, and in brackets what the MI twin changes, in points."""
        return self._text(self.twin[row, column], None if self.none is None else self.none[row, column])

    def mean(self, within: bool) -> str:
        """The same for the mean of the diagonal, or of all beside it."""
        chosen = np.eye(len(self.twin), dtype=bool) == within
        if not chosen.any():
            return "–"
        return self._text(self.twin[chosen].mean(), None if self.none is None else self.none[chosen].mean())

    def caption(self) -> str:
        """Whose it is, and the means."""
        return (
            f"{self.name}, {self.seeds} seed{'' if self.seeds == 1 else 's'}. Trained and tested on the same domain "
            f"{self.mean(True)}, on different ones {self.mean(False)}."
        )

    @staticmethod
    def _text(twin: float, none: float | None) -> str:
        if not np.isfinite(twin):
            return "–"
        change = "" if none is None or not np.isfinite(none) else f" ({100 * (twin - none):+.1f})".replace("-", "−")
        return f"{100 * twin:.1f}{change}"


@dataclass(frozen=True)
class Domains:
    """The cross-domain accuracies of one data set and metric, the mean over all settings first if there are several."""

    title: str
    metric: str
    domains: Sequence[str]
    crossings: Sequence[Crossing]


def domains(sweep: Sweep) -> list[Domains]:
    """All cross-domain accuracies of a sweep at the weight of its tables.

    Raises:
        ValueError: a matrix is not of its domains, or two trials are of the same arm and seed.
    """
    trials = arms.grouped(sweep.trials)
    titles, made = arms.dataset_titles(arms.datasets(trials)), []
    for dataset, title in titles.items():
        listed = (tuple(trial.results.get(dataset, {}).get("domains", ())) for trial in arms.all_trials(trials))
        for names in dict.fromkeys(found for found in listed if found):
            for metric in METRICS:
                crossings = _crossings(trials, dataset, names, metric, sweep.twin_weight)
                if crossings:
                    made.append(Domains(title, metric, names, crossings))
    return made


def _crossings(trials: Arms, dataset: str, names: tuple[str, ...], metric: str, twin_weight: float) -> list[Crossing]:
    found = []
    for setting, name in arms.setting_names(trials).items():
        ours, theirs = (
            _matrices(trials, arms.at_weight(setting, policy, twin_weight), dataset, names, metric)
            for policy in (MI, "none")
        )
        both = [seed for seed in ours if seed in theirs]
        if ours:
            seeds = both or list(ours)
            without = np.mean([theirs[seed] for seed in both], axis=0) if both else None
            found.append(Crossing(name, np.mean([ours[seed] for seed in seeds], axis=0), without, len(seeds)))
    paired = [(crossing.twin, crossing.none) for crossing in found if crossing.none is not None]
    if len(paired) > 1:
        twin, none = np.mean(paired, axis=0)
        fewest = min(crossing.seeds for crossing in found if crossing.none is not None)
        found.insert(0, Crossing(f"Mean of {len(paired)} frameworks or settings", twin, none, fewest))
    return found


def _matrices(trials: Arms, arm: Arm, dataset: str, names: tuple[str, ...], metric: str) -> dict[int, Float]:
    """An arm's matrices by seed."""
    found = {}
    for seed, trial in trials.get(arm, {}).items():
        result = trial.results.get(dataset, {})
        if tuple(result.get("domains", ())) == names and result.get(f"{metric}_matrix") is not None:
            matrix = np.array(result[f"{metric}_matrix"], np.float64)
            if matrix.shape != (len(names), len(names)):
                shape = " × ".join(str(length) for length in matrix.shape)
                raise ValueError(
                    f"the {metric}_matrix of {arms.describe(arm)}, seed {seed}, is {shape}: it must have a row and a "
                    f"column for each of its {len(names)} domains"
                )
            found[seed] = matrix
    return found
