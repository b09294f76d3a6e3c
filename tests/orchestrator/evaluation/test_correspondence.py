"""Labels carried by similarity, against a slow implementation over all pairs of cells."""

import math

import pytest
import torch
from torch import Tensor

from infoaug.orchestrator.evaluation import correspondence
from infoaug.orchestrator.evaluation.correspondence import Labelled, carry

pytestmark = pytest.mark.usefixtures("one_thread")


def _random(height: int, width: int, frames: int, labels: int, seed: int) -> tuple[Tensor, list[Labelled]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(frames + 1, height, width, 6, generator=generator), dim=-1)
    shares = torch.rand(frames, height, width, labels, generator=generator)
    shares /= shares.sum(dim=-1, keepdim=True)
    return features[0], [Labelled.of(*pair) for pair in zip(features[1:], shares, strict=True)]


def _slow(features: Tensor, sources: list[Labelled], neighbours: int, temperature: float, radius: int) -> Tensor:
    height, width, _ = features.shape
    found = torch.zeros_like(sources[0].labels)
    for y in range(height):
        for x in range(width):
            near = []
            for source in sources:
                for v in range(max(0, y - radius), min(height, y + radius + 1)):
                    for u in range(max(0, x - radius), min(width, x + radius + 1)):
                        near.append((float(features[y, x] @ source.features[v, u]), source.labels[v, u]))
            near.sort(key=lambda pair: -pair[0])
            weights = [math.exp(similarity / temperature) for similarity, _ in near[:neighbours]]
            for weight, (_, label) in zip(weights, near, strict=False):
                found[y, x] += weight / sum(weights) * label
    return found


@pytest.mark.parametrize(
    ("height", "width", "frames", "neighbours", "radius"),
    [(5, 7, 1, 3, 2), (9, 6, 3, 7, 3), (6, 9, 2, 5, 20), (4, 4, 1, 7, 0), (3, 3, 1, 50, 9)],
)
@pytest.mark.parametrize("block", [3, 12])
def test_labels_are_those_of_the_slow_implementation(monkeypatch, height, width, frames, neighbours, radius, block):
    monkeypatch.setattr(correspondence, "BLOCK", block)
    features, sources = _random(height, width, frames, labels=3, seed=height)
    settings = {"neighbours": neighbours, "temperature": 0.1, "radius": radius}
    torch.testing.assert_close(carry(features, sources, **settings), _slow(features, sources, **settings))


def test_cells_whose_surroundings_are_of_one_label_are_of_it_and_the_shortcut_changes_nothing(monkeypatch):
    features, sources = _random(12, 12, 2, labels=2, seed=0)
    for source in sources:
        source.labels[...] = torch.tensor([1.0, 0.0])
        source.labels[:3, :3] = torch.tensor([0.0, 1.0])
    sources = [Labelled.of(source.features, source.labels) for source in sources]
    monkeypatch.setattr(correspondence, "BLOCK", 2)
    settings = {"neighbours": 3, "temperature": 0.1, "radius": 2}
    found = carry(features, sources, **settings)
    torch.testing.assert_close(found, _slow(features, sources, **settings))
    assert torch.equal(found[5:], torch.tensor([1.0, 0.0]).expand(7, 12, 2))  # exactly, so that it can be skipped again


def test_labels_of_one_kind_are_found_again():
    labels = torch.zeros(4, 5, 3)
    labels[..., 2] = 1
    labels[1, 1] = torch.tensor([0.5, 0.5, 0])
    found = Labelled.of(torch.zeros(4, 5, 2), labels).certain
    assert (found == 2).sum() == 19 and found[1, 1] == -1
