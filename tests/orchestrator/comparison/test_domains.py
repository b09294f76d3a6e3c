"""Cross-domain accuracies are means over shared seeds, with the effect of the MI twin in brackets."""

import re
from typing import Any

import numpy as np
import pytest

from infoaug.orchestrator.comparison import domains
from infoaug.orchestrator.comparison.arms import MI, TrialResult
from tests.orchestrator.comparison.sweeps import rich_sweep, sweep, trial


def crossed(policy: str, seed: int, matrix: Any, names: tuple[str, ...] = ("a", "b"), **changes: Any) -> TrialResult:
    """A trial with cross-domain accuracies."""
    return trial(policy, seed, results={"x": {"domains": list(names), "knn_matrix": matrix}}, **changes)


def test_a_cell_has_the_accuracy_and_the_change_over_the_seeds_that_both_have() -> None:
    of = [
        crossed("none", 0, [[0.5, 0.2], [0.3, 0.6]]),
        crossed(MI, 0, [[0.6, 0.1], [0.3, 0.7]]),
        crossed(MI, 1, [[0.9, 0.9], [0.9, 0.9]]),
    ]
    (table,) = domains.cross_domain_tables(sweep(of))
    (accuracies,) = table.matrices
    assert (table.metric, table.domains, accuracies.seeds) == ("knn", ("a", "b"), 1)
    assert [accuracies.cell(0, 0), accuracies.cell(0, 1), accuracies.cell(1, 0)] == [
        "60.0 (+10.0)",
        "10.0 (−10.0)",
        "30.0 (+0.0)",
    ]
    assert accuracies.mean(within=True) == "65.0 (+10.0)"
    assert accuracies.mean(within=False) == "20.0 (−5.0)"


def test_without_a_reference_there_is_no_change_and_nan_is_a_dash() -> None:
    ((accuracies,),) = (
        t.matrices for t in domains.cross_domain_tables(sweep([crossed(MI, 0, [[0.5, np.nan], [0, 0]])]))
    )
    assert (accuracies.cell(0, 0), accuracies.cell(0, 1)) == ("50.0", "–")
    (single,) = domains.cross_domain_tables(sweep([crossed(MI, 0, [[0.5]], ("a",))]))[0].matrices
    assert single.mean(within=False) == "–"


def test_several_frameworks_have_their_mean_first() -> None:
    (table,) = domains.cross_domain_tables(rich_sweep())
    assert [accuracies.name for accuracies in table.matrices[1:]] == ["SimCLR, all", "SimCLR, ring", "VICReg", "mine"]
    first, *each = table.matrices
    np.testing.assert_allclose(first.twin, np.mean([accuracies.twin for accuracies in each], axis=0))
    assert first.name == "Mean of 4 frameworks or settings"


def test_a_matrix_that_does_not_fit_its_domains_is_refused_by_name() -> None:
    said = re.escape("knn_matrix of SimCLR, twins mutual-information at weight 0.5, seed 4, is 1 × 2: it must have")
    with pytest.raises(ValueError, match=said):
        domains.cross_domain_tables(sweep([crossed(MI, 4, [[0.5, 0.5]])]))


def test_a_sweep_without_domains_has_none() -> None:
    assert domains.cross_domain_tables(sweep([trial(MI), trial("none")])) == []
