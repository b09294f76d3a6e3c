"""Cross-domain accuracies are means within seeds, with what the MI twin changes in brackets."""

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
    (table,) = domains.domains(sweep(of))
    (crossing,) = table.crossings
    assert (table.metric, table.domains, crossing.seeds) == ("knn", ("a", "b"), 1)
    assert [crossing.cell(0, 0), crossing.cell(0, 1), crossing.cell(1, 0)] == [
        "60.0 (+10.0)",
        "10.0 (−10.0)",
        "30.0 (+0.0)",
    ]
    assert crossing.mean(within=True) == "65.0 (+10.0)"
    assert crossing.mean(within=False) == "20.0 (−5.0)"


def test_without_a_reference_there_is_no_change_and_what_is_no_number_is_a_dash() -> None:
    ((crossing,),) = (t.crossings for t in domains.domains(sweep([crossed(MI, 0, [[0.5, np.nan], [0, 0]])])))
    assert (crossing.cell(0, 0), crossing.cell(0, 1)) == ("50.0", "–")
    (single,) = domains.domains(sweep([crossed(MI, 0, [[0.5]], ("a",))]))[0].crossings
    assert single.mean(within=False) == "–"


def test_several_frameworks_have_their_mean_first() -> None:
    (table,) = domains.domains(rich_sweep())
    assert [crossing.name for crossing in table.crossings[1:]] == ["SimCLR, all", "SimCLR, ring", "VICReg", "mine"]
    first, *each = table.crossings
    np.testing.assert_allclose(first.twin, np.mean([crossing.twin for crossing in each], axis=0))
    assert first.name == "Mean of 4 frameworks or settings"


def test_a_matrix_that_is_not_of_its_domains_is_refused_by_name() -> None:
    said = re.escape("knn_matrix of SimCLR, twins mutual-information at weight 0.5, seed 4, is 1 × 2: it must have")
    with pytest.raises(ValueError, match=said):
        domains.domains(sweep([crossed(MI, 4, [[0.5, 0.5]])]))


def test_a_sweep_without_domains_has_none() -> None:
    assert domains.domains(sweep([trial(MI), trial("none")])) == []
