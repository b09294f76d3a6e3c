"""Cross-domain accuracy in a comparison: the probe is trained on one domain and tested on another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import MI, Arm, Arms, Sweep
from infoaug.orchestrator.evaluation.metrics import METRICS

Float = NDArray[np.float64]


@dataclass(frozen=True)
class DomainMatrix:
    """Accuracies of one setting on D domains, shares f64[D, D]; rows are trained on, columns tested on.

    Attributes:
        name: the setting's name, or `Mean of …`.
        twin: with the MI twin, mean over seeds: those shared with `none`, or all if `none` is None.
        none: without twins, mean over the same seeds; None if they share no seed.
        seeds: number of seeds; for a mean of settings the smallest among them.
    """

    name: str
    twin: Float
    none: Float | None
    seeds: int

    def cell(self, row: int, column: int) -> str:
        """An accuracy in percent, and in brackets the effect of the MI twin in percentage points."""
        return self._text(self.twin[row, column], None if self.none is None else self.none[row, column])

    def mean(self, within: bool) -> str:
        """The same for the mean within domains (the diagonal), or across domains (all other cells)."""
        chosen = np.eye(len(self.twin), dtype=bool) == within
        if not chosen.any():
            return "–"
        return self._text(self.twin[chosen].mean(), None if self.none is None else self.none[chosen].mean())

    def caption(self) -> str:
        """The setting, its number of seeds, and the means within and across domains."""
        return (
            f"{self.name}, {self.seeds} seed{'' if self.seeds == 1 else 's'}. Mean within domains {self.mean(True)}, "
            f"across domains {self.mean(False)}."
        )

    @staticmethod
    def _text(twin: float, none: float | None) -> str:
        if not np.isfinite(twin):
            return "–"
        change = "" if none is None or not np.isfinite(none) else f" ({100 * (twin - none):+.1f})".replace("-", "−")
        return f"{100 * twin:.1f}{change}"


@dataclass(frozen=True)
class CrossDomainTable:
    """Cross-domain accuracies of one data set and metric; with several settings their mean comes first."""

    title: str
    metric: str
    domains: Sequence[str]
    matrices: Sequence[DomainMatrix]


def cross_domain_tables(sweep: Sweep) -> list[CrossDomainTable]:
    """All cross-domain accuracies of a sweep, at the twin weight of its tables.

    Raises:
        ValueError: a matrix does not fit its domains, or two trials have the same arm and seed.
    """
    trials = arms.grouped(sweep.trials)
    titles, tables = arms.dataset_titles(arms.datasets(trials)), []
    for dataset, title in titles.items():
        listed = (tuple(trial.results.get(dataset, {}).get("domains", ())) for trial in arms.all_trials(trials))
        for names in dict.fromkeys(names for names in listed if names):
            for metric in METRICS:
                matrices = _matrices_by_setting(trials, dataset, names, metric, sweep.twin_weight)
                if matrices:
                    tables.append(CrossDomainTable(title, metric, names, matrices))
    return tables


def _matrices_by_setting(
    trials: Arms, dataset: str, names: tuple[str, ...], metric: str, twin_weight: float
) -> list[DomainMatrix]:
    """The accuracies of each setting, after the mean of those with a reference if there are several."""
    listed = []
    for setting, name in arms.setting_names(trials).items():
        twin, none = (
            _matrices(trials, arms.at_weight(setting, policy, twin_weight), dataset, names, metric)
            for policy in (MI, "none")
        )
        both = [seed for seed in twin if seed in none]
        if twin:
            seeds = both or list(twin)
            without = np.mean([none[seed] for seed in both], axis=0) if both else None
            listed.append(DomainMatrix(name, np.mean([twin[seed] for seed in seeds], axis=0), without, len(seeds)))
    paired = [(accuracies.twin, accuracies.none) for accuracies in listed if accuracies.none is not None]
    if len(paired) > 1:
        mean_twin, mean_none = np.mean(paired, axis=0)
        fewest = min(accuracies.seeds for accuracies in listed if accuracies.none is not None)
        listed.insert(0, DomainMatrix(f"Mean of {len(paired)} frameworks or settings", mean_twin, mean_none, fewest))
    return listed


def _matrices(trials: Arms, arm: Arm, dataset: str, names: tuple[str, ...], metric: str) -> dict[int, Float]:
    """The accuracy matrices of an arm, by seed."""
    by_seed = {}
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
            by_seed[seed] = matrix
    return by_seed
