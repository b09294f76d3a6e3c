"""The map of features: neighbours stay neighbours, as in scikit-learn's exact t-SNE."""

import numpy as np
import pytest
import torch
from sklearn.manifold import TSNE, trustworthiness

from infoaug.orchestrator.evaluation import t_sne as module
from infoaug.orchestrator.evaluation.t_sne import t_sne

pytestmark = pytest.mark.usefixtures("one_thread")


def clusters(count: int, groups: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    """Features around some centres, and of which."""
    rng = np.random.default_rng(0)
    group = np.arange(count) % groups
    return torch.from_numpy(4 * rng.normal(size=(groups, 12))[group] + rng.normal(size=(count, 12))).float(), group


def divergence(features: torch.Tensor, points: torch.Tensor) -> float:
    """Kullback–Leibler divergence (van der Maaten and Hinton 2008, eq. 2) of a map."""
    similar = module._similarities(features, 10).double().numpy()
    near = 1 / (1 + torch.cdist(points.double(), points.double()).square().numpy())
    np.fill_diagonal(near, 0)
    there = similar > 0
    return float((similar[there] * np.log(similar[there] / (near / near.sum())[there])).sum())


def test_the_map_is_as_good_as_that_of_scikit_learn() -> None:
    features, _ = clusters(80)
    reference = TSNE(perplexity=10, init="pca", method="exact", max_iter=module.ITERATIONS, random_state=0)
    expected = torch.from_numpy(reference.fit_transform(features.numpy()))
    found = t_sne(features, perplexity=10)  # less is not converged, and differs between processors
    assert divergence(features, found) < divergence(features, expected) + 0.02
    assert trustworthiness(features.numpy(), found.numpy()) > trustworthiness(features.numpy(), expected.numpy()) - 0.01


def test_groups_stay_together_and_the_map_is_the_same_each_time() -> None:
    features, group = clusters(60)
    found = t_sne(features, 8, 400)
    distance = torch.cdist(found, found).fill_diagonal_(torch.inf)
    assert (group[distance.argmin(dim=1).numpy()] == group).mean() > 0.95
    assert torch.equal(found, t_sne(features, 8, 400))


def test_the_effective_number_of_neighbours_is_the_perplexity() -> None:
    features, _ = clusters(60)
    shares = module._similarities(features, 10).double()
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(shares, shares.T) and not shares.diagonal().any()
    own = shares / shares.sum(dim=1, keepdim=True)
    effective = torch.special.entr(own).sum(dim=1).exp()
    assert 9 < effective.median().item() < 20, "about 10, and more because similarities are made symmetric"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dimensions", [1, 2, 5])
@pytest.mark.parametrize("same", [True, False])
def test_few_and_equal_features_have_a_finite_map(count: int, dimensions: int, same: bool) -> None:
    torch.manual_seed(0)
    features = torch.ones(count, dimensions) if same else torch.randn(count, dimensions)
    found = t_sne(features, iterations=20)
    assert found.shape == (count, 2) and found.isfinite().all()
