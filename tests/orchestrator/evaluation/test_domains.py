"""Cross-domain accuracies: who is trained on, who is tested on, and what is made of it."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infoaug.orchestrator.config import load
from infoaug.orchestrator.evaluation import datasets, domains, probes
from infoaug.orchestrator.evaluation.datasets import Labelled
from tests.orchestrator.conftest import write_domains

SETTINGS = load(None, ["evaluate.neighbours=10"]).evaluate


def plain(images: torch.Tensor) -> NDArray[np.float32]:
    """Features that are the image's first column of pixels."""
    return images[:, :, :, 0].flatten(1).float().numpy()


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labelled]:
    root = tmp_path_factory.mktemp("domains")
    write_domains(root)
    return datasets.load_domains(str(root), SETTINGS, 16).images


def test_a_cell_is_fitted_on_four_fifths_of_a_domain_and_tested_on_another_whole_or_on_its_own_fifth(
    textures: dict[str, Labelled],
) -> None:
    found = domains.accuracies(textures, SETTINGS, plain)
    names = list(textures)
    assert names == ["grey", "inverted", "plain"]
    for metric, accuracy in (("knn", probes.knn_accuracy), ("probe", probes.probe_accuracy)):
        for a, row in zip(names, found[f"{metric}_matrix"], strict=True):
            for b, cell in zip(names, row, strict=True):
                held, tested = datasets.held_out(textures[a].labels), torch.ones(120, dtype=torch.bool)
                if a == b:
                    tested = held
                seen, unseen = plain(textures[a].images[~held]), plain(textures[b].images[tested])
                labels, truth = textures[a].labels[~held].numpy(), textures[b].labels[tested].numpy()
                assert cell == accuracy(seen, labels, unseen, truth, SETTINGS), (a, b)
        matrix = np.array(found[f"{metric}_matrix"])
        assert found[f"validation_{metric}"] == pytest.approx(np.trace(matrix) / 3)
        assert found[metric] == pytest.approx((matrix.sum() - np.trace(matrix)) / 6)
    assert 1 < found["rank_me"] < 48


def test_what_holds_in_one_domain_only_does_not_carry_over() -> None:
    bright = torch.arange(100) % 2
    images = (200 * bright).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    images = images + torch.randint(0, 20, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    apart = {"plain": Labelled(images, bright), "inverted": Labelled(255 - images, bright)}
    found = domains.accuracies(apart, SETTINGS, plain)
    assert found["probe_matrix"] == [[1, 0], [0, 1]]
    assert (found["probe"], found["validation_probe"]) == (0, 1)


def test_every_image_goes_through_the_backbone_once(textures: dict[str, Labelled]) -> None:
    asked = []

    def extract(images: torch.Tensor) -> NDArray[np.float32]:
        asked.append(len(images))
        return plain(images)

    domains.accuracies(textures, SETTINGS, extract)
    assert asked == [120, 120, 120]
