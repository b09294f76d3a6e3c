"""Figures of a comparison show the numbers of its tables, and are left out where there is nothing to draw."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from infoaug.orchestrator.comparison import arms, plots
from infoaug.orchestrator.comparison.arms import MI
from infoaug.orchestrator.comparison.effects import effect_tables
from infoaug.orchestrator.reporting import figures
from tests.orchestrator.comparison.sweeps import MALICIOUS, rich_sweep, sweep, three_frameworks, trial, trials
from tests.orchestrator.conftest import decoded, words

RICH = arms.grouped(rich_sweep().trials)
DRAWS: dict[str, Callable[[], Figure]] = {
    "accuracy": lambda: present(plots.draw_accuracy(effect_tables(rich_sweep())[:2])),
    "weights": lambda: present(plots.draw_weights(RICH, "cifar10", "probe", 0.5)),
    "time": lambda: present(plots.draw_time(RICH, "cifar10", "probe", 0.5)),
    "quality": lambda: present(plots.draw_quality(RICH, "cifar10")),
}
ALONE = arms.grouped([trial(results={"x": {"validation_probe": 0.5}})])
NOTHING: list[Callable[[], Figure | None]] = [
    lambda: plots.draw_accuracy([]),
    lambda: plots.draw_weights(ALONE, "x", "probe", 0.5),
    lambda: plots.draw_time(ALONE, "x", "probe", 0.5),
    lambda: plots.draw_quality(ALONE, "x"),
]


def present(figure: Figure | None) -> Figure:
    """The figure, which there is."""
    assert figure
    return figure


@pytest.mark.parametrize("kind", DRAWS)
def test_a_figure_becomes_a_png_and_an_svg_that_are_always_the_same(kind: str) -> None:
    image = decoded(DRAWS[kind]())
    assert image.std() > 10
    assert 500 < image.shape[1] < 850  # to be read on a phone
    vector = figures.svg(DRAWS[kind]())
    assert vector.rstrip().endswith(b"</svg>")
    assert vector == figures.svg(DRAWS[kind]())


@pytest.mark.parametrize("draw", NOTHING)
def test_where_there_is_nothing_to_draw_there_is_no_figure(draw: Callable[[], Figure | None]) -> None:
    assert draw() is None


def test_no_axis_of_accuracies_goes_below_zero_or_above_a_hundred() -> None:
    of = trials({"none": [0.06, 0.25], MI: [0.10, 0.06]})  # intervals of some hundred points
    of += trials({MI: [0.97, 1.0]}, twin_weight=1.0)
    found = arms.grouped(of)
    (accuracy, _), (weight,) = (
        present(plots.draw_accuracy(effect_tables(sweep(of)))).axes,
        present(plots.draw_weights(found, "cifar10", "probe", 0.5)).axes,
    )
    limits = [accuracy.get_xlim(), weight.get_ylim()]
    limits += [axes.get_ylim() for axes in present(plots.draw_time(found, "cifar10", "probe", 0.5)).axes]
    assert all(0 <= low < high <= 100 for low, high in limits)


def test_accuracies_stand_at_their_means_a_panel_a_metric() -> None:
    figure = present(plots.draw_accuracy([three_frameworks()]))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SimCLR", "MoCo v2", "VICReg"]
    drawn = {container.get_label(): np.asarray(container[0].get_xdata(), float) for container in axes.containers}  # type: ignore[index, attr-defined]
    np.testing.assert_allclose(drawn["MI twin"], [54.0, 100 * (0.61 + 0.63 + 0.64) / 3, 100 * 1.3 / 3])
    assert len(drawn["random"]) == 2  # VICReg was not trained with random twins
    assert "random-init baseline" in words(figure)


def test_policies_differ_by_marker_and_not_by_colour_alone() -> None:
    markers = [style["marker"] for style in plots.STYLES.values()]
    assert len(set(markers)) == len(markers)


def test_weights_have_a_panel_a_setting_of_the_same_height_with_their_means() -> None:
    figure = present(plots.draw_weights(RICH, "cifar10", "probe", 0.5))
    assert [axes.get_title("left") for axes in figure.axes] == ["SimCLR, all", "SimCLR, ring", "VICReg", "mine"]
    spans = [np.ptp(axes.get_ylim()) for axes in figure.axes]
    assert spans == pytest.approx([spans[0]] * 4)
    setting = arms.settings(RICH)[0]
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "MI twin"]
    for weight, shown in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True):
        expected = np.mean(list(arms.values(RICH, arms.Arm(setting, MI, weight), "cifar10", "probe").values()))
        assert shown == pytest.approx(100 * expected)
    assert {"none", "random", "MI twin"} <= set(words(figure).splitlines())


def test_time_has_a_mark_an_arm_and_a_line_from_none_to_the_mi_twin() -> None:
    axes = present(plots.draw_time(RICH, "cifar10", "probe", 0.5)).axes[0]
    lengths = [len(np.asarray(line.get_xdata())) for line in axes.lines]
    assert lengths.count(1) == len(RICH)
    assert lengths.count(2) == 4


def test_the_rank_correlation_is_spearmans_and_owns_up_to_too_few_or_constant_values() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [0.2, 0.1, 0.4, 0.3, 0.5]
    found = stats.spearmanr(x, y)
    assert plots.rank_correlation(x, y) == (
        f"Spearman’s ρ = {1 - 6 * 4 / (5 * 24):.2f}, p = {f'{found.pvalue:.3f}'[1:]}, 5 arms"
    )
    assert plots.rank_correlation(x, y[::-1]).startswith("Spearman’s ρ = −")
    assert "too few" in plots.rank_correlation(x[:2], y[:2])
    assert "does not vary" in plots.rank_correlation(x, [0.5] * 5)


def test_any_name_can_be_written_in_a_figure_and_one_seed_has_no_interval() -> None:
    of = [
        *trials({"none": [0.5], MI: [0.6]}, MALICIOUS),
        *trials({MI: [0.5], "$\\broken_{$": [0.4]}, MALICIOUS, twin_weight=1.0),
    ]
    found = arms.grouped(of)
    for figure in (
        plots.draw_accuracy(effect_tables(sweep(of))),
        plots.draw_weights(found, "cifar10", "probe", 0.5),
        plots.draw_time(found, "cifar10", "probe", 0.5),
    ):
        assert decoded(present(figure)).std() > 5
    (label, *_) = present(plots.draw_accuracy(effect_tables(sweep(of)))).axes[0].get_yticklabels()
    assert "".join(label.get_text().split()) == "".join(MALICIOUS.split())


def test_long_names_are_wrapped_and_cut_so_that_there_is_room_for_the_data() -> None:
    of = trials({"none": [0.5], MI: [0.6]}, "unbroken" * 20)
    label = present(plots.draw_accuracy(effect_tables(sweep(of)))).axes[0].get_yticklabels()[0].get_text()
    assert max(len(line) for line in label.splitlines()) <= 22
    assert len(label.splitlines()) == 3
    assert label.endswith("…")
