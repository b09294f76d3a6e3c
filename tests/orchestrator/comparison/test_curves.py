"""Figures of all trials show every trial that has what they show, and nothing where it is too little."""

import dataclasses

import numpy as np

from infoaug.orchestrator.comparison import arms, curves
from infoaug.orchestrator.comparison.arms import MI
from tests.orchestrator.comparison.sweeps import SIMCLR, VICREG, rich_sweep, trials
from tests.orchestrator.conftest import decoded, words


def test_every_trial_is_a_line_by_epoch_in_the_row_of_its_framework() -> None:
    of = [*trials(SIMCLR), *trials(VICREG, "vicreg")]
    assert curves.draw_curves(arms.grouped(of)) is None, "trials of before their epochs were kept"
    kept = [dataclasses.replace(t, curves={"loss": [3.0, 2.0, t.seed], "rank_me": [1.0]}) for t in of]
    figure = curves.draw_curves(arms.grouped(kept))
    assert figure
    assert [len(axes.lines) for axes in figure.axes] == [len(trials(SIMCLR))] * 2 + [len(trials(VICREG))] * 2
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [3.0, 2.0, 1.0])
    assert {"loss", "RankMe", "none", "random", "MI twin"} <= set(words(figure).splitlines())
    assert decoded(figure).std() > 5


def test_every_trial_goes_through_its_settings_to_its_accuracy() -> None:
    of = trials({"none": [0.5, 0.6], MI: [0.55, 0.7]})
    figure = curves.draw_settings(arms.grouped(of), "cifar10", "probe")
    assert figure
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["twins", "weight", "seed", "linear probe"]
    lines = [np.asarray(line.get_ydata()) for line in axes.lines if len(np.asarray(line.get_xdata())) == 4]
    np.testing.assert_allclose([line[-1] for line in lines], [0, 0.25, 0.5, 1])
    assert decoded(figure).std() > 5


def test_without_two_settings_or_three_trials_there_is_nothing_to_see_by_lines() -> None:
    assert curves.draw_settings(arms.grouped(trials({MI: [0.5, 0.6, 0.7]})), "cifar10", "probe") is None
    assert curves.draw_settings(arms.grouped(trials({"none": [0.5], MI: [0.5]})), "cifar10", "probe") is None
    assert curves.draw_settings(arms.grouped(rich_sweep().trials), "nowhere", "probe") is None
