"""The heat map of a cross-domain evaluation."""

from typing import Any

import pytest

from infoaug.orchestrator.reporting import domain_figure
from tests.orchestrator.conftest import decoded


def result(names: list[str], share: float = 0.5) -> dict[str, Any]:
    """Made-up accuracies that are different in every cell."""
    count = len(names)
    cells = [[share + (row * count + column) / 1000 for column in range(count)] for row in range(count)]
    floor = [[cell / 2 for cell in row] for row in cells]
    return {"domains": names, "probe_matrix": cells, "floor_probe_matrix": floor}


def test_every_cell_says_its_accuracy_and_the_floors_in_the_row_trained_on() -> None:
    figure = domain_figure.draw(result(["art", "photo", "sketch"]))
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(texts) == 9
    assert texts[(2, 1)] == "50.5\n(25.2)"  # trained on the second, tested on the third
    assert [label.get_text() for label in axes.get_yticklabels()] == ["art", "photo", "sketch"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tested on", "trained on")


@pytest.mark.parametrize("names", [["a", "b"], [f"domain ${i}" for i in range(6)], ["x" * 60, "[red]"]])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_any_domains_and_accuracies_make_a_picture_as_wide_as_the_others(names: list[str], share: float) -> None:
    image = decoded(domain_figure.draw(result(names, share)))
    assert image.std() > 10
    assert 500 < image.shape[1] < 800
