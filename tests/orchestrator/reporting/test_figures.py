"""Figures show the numbers they were given, and say why they are empty."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from infoaug.orchestrator.reporting import figures
from tests.orchestrator.conftest import decoded, words


def result(dataset: str = "cifar10", knn: float = 0.41, probe: float = 0.45) -> dict[str, object]:
    """Made-up accuracies."""
    return {"dataset": dataset, "train": 500, "test": 100, "classes": 10} | {
        "knn": knn,
        "probe": probe,
        "floor_knn": 0.3,
        "floor_probe": 0.35,
    }


def across(names: list[str], share: float = 0.5) -> dict[str, Any]:
    """Made-up cross-domain accuracies, different in every cell."""
    count = len(names)
    cells = [[share + (row * count + column) / 1000 for column in range(count)] for row in range(count)]
    halves = [[cell / 2 for cell in row] for row in cells]
    return {"domains": names, "probe_matrix": cells, "floor_probe_matrix": halves}


def epoch(number: int, loss: float = 2.0) -> dict[str, float]:
    """A made-up epoch."""
    return {"epoch": number, "loss": loss, "view_loss": 0.7 * loss, "twin_loss": 0.6 * loss, "images_per_second": 900.0}


DRAWS: dict[str, Callable[[], Figure]] = {
    "reasons": lambda: figures.draw_reasons({"twin": 5, "static": 3, "lost": 1}),
    "training": lambda: figures.draw_training([epoch(1, 3.0), epoch(2, 2.0)]),
    "accuracy": lambda: figures.draw_accuracy([result()]),
}
NOTHING = [
    (figures.draw_reasons, ({"patches": 0, "tracked": 0, "twin": 0},), "There are no patches"),
    (figures.draw_training, ([],), "No epoch was trained"),
    (figures.draw_accuracy, ([],), "No data set was evaluated"),
]


@pytest.mark.parametrize("kind", DRAWS)
def test_a_figure_becomes_a_png_that_is_not_blank(kind: str) -> None:
    image = decoded(DRAWS[kind]())
    assert image.std() > 10
    assert 500 < image.shape[1] < 800  # to be read on a phone, and alike


@pytest.mark.parametrize(("function", "given", "sentence"), NOTHING, ids=[sentence for *_, sentence in NOTHING])
def test_a_figure_without_data_says_why_it_is_empty(
    function: Callable[..., Figure], given: tuple[Any, ...], sentence: str
) -> None:
    figure = function(*given)
    assert sentence in words(figure)
    assert decoded(figure).std() > 1


def test_reasons_are_shares_of_all_patches_and_totals_are_not_drawn() -> None:
    figure = figures.draw_reasons(
        {"patches": 1000, "tracked": 900, "twin": 250, "static": 700, "lost": 50, "no candidate": 0}
    )
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["250  (25.0 %)", "50  (5.0 %)", "700  (70.0 %)"]
    assert "1,000 patches" in words(figure)


def test_training_curves_show_every_epoch_even_with_a_loss_of_nan() -> None:
    figure = figures.draw_training([epoch(1), epoch(2, np.nan), epoch(3, 1.0)])
    total = figure.axes[0].lines[0]
    assert list(np.asarray(total.get_xdata())) == [1, 2, 3]
    np.testing.assert_array_equal(total.get_ydata(), [2.0, np.nan, 1.0])
    assert decoded(figure).std() > 5


def test_training_shows_what_was_measured_by_epoch_and_nothing_else() -> None:
    assert [axes.get_ylabel() for axes in figures.draw_training([epoch(1)]).axes] == ["loss", "images/s"]
    all_of = {"learning_rate": 0.1, "rank_me": 30.0, "feature_std": 0.5}
    figure = figures.draw_training([epoch(1) | all_of, epoch(2) | all_of | {"validation_knn": 0.3}])
    labels = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]
    assert labels == ["loss", "kNN, validation", "RankMe", "feature spread", "learning rate", "images/s"]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [np.nan, 0.3])


def test_accuracy_of_one_seed_is_drawn_with_its_interval_over_the_test_images() -> None:
    figure = figures.draw_accuracy([result(), result("scenes")])
    assert "One seed; in brackets: 95 % intervals over the test images" in words(figure)
    # Wilson's interval of 45 and 41 of 100
    assert [t.get_text() for t in figure.axes[0].texts[:2]] == ["45.0 % (35.6–54.8)", "41.0 % (31.9–50.8)"]
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
    assert bars[0][:, 0] == pytest.approx([0.356, 0.548], abs=5e-4)


def test_accuracy_of_several_seeds_is_drawn_with_its_mean_and_interval() -> None:
    figure = figures.draw_accuracy([result(knn=0.40), result(knn=0.42), result(knn=0.44)])
    assert figure.axes[0].texts[1].get_text() == "42.0 % ± 5.0"  # t(0.975, 2) · 0.02 / √3
    assert "3 seeds" in words(figure)


def test_every_cell_has_its_accuracy_and_the_baselines_in_the_row_trained_on() -> None:
    figure = figures.draw_domains(across(["art", "photo", "sketch"]))
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(texts) == 9
    assert texts[(2, 1)] == "50.5\n(25.2)"  # trained on the second, tested on the third
    assert [label.get_text() for label in axes.get_yticklabels()] == ["art", "photo", "sketch"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tested on", "trained on")


@pytest.mark.parametrize("names", [["a", "b"], [f"domain ${i}" for i in range(6)], ["x" * 60, "[red]"]])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_any_domains_and_accuracies_give_a_figure_of_the_common_width(names: list[str], share: float) -> None:
    image = decoded(figures.draw_domains(across(names, share)))
    assert image.std() > 10
    assert 500 < image.shape[1] < 800


@pytest.mark.parametrize("name", ["$\\broken_{$ mathtext", "[red]markup", "a/long/path/to/images", "🚗", "قطة"])
@pytest.mark.filterwarnings("error")
def test_any_name_of_a_data_set_can_be_written_in_a_figure(name: str) -> None:
    figure = figures.draw_accuracy([result(name)])
    assert decoded(figure).std() > 5
    assert figures.svg(figure).startswith(b"<?xml")
    assert figure.axes[0].get_yticklabels()[1].get_text() == f"{name.rpartition('/')[2]}\nkNN"


def test_figures_leave_no_trace_in_matplotlibs_global_state() -> None:
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    for draw in DRAWS.values():
        figures.png(draw())
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs
