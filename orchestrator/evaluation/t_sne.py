"""A map of features in two dimensions by t-SNE, computed exactly, for at most some thousand points."""

import torch
from torch import Tensor

PERPLEXITY = 30.0
ITERATIONS, EARLY = 750, 250  # in all, and with exaggeration
EXAGGERATION = 12.0  # of the similarities, early
SPREAD = 1e-4  # standard deviation of the first map along its longer side
HALVINGS = 50  # of the interval of a point's precision


def t_sne(features: Tensor, perplexity: float = PERPLEXITY, iterations: int = ITERATIONS) -> Tensor:
    """Points whose neighbours in the map are their neighbours among the features (van der Maaten and Hinton 2008).

    Distances between features are Euclidean. The first map is that of the first two principal components (Kobak and
    Berens 2019), and nothing is random. Steps, momentum and gains are those of the paper; the learning rate is N over
    the exaggeration and 4, at least 50 (Belkina et al. 2019), as scikit-learn has it.

    Args:
        features: f32[N, D], N ≥ 1.
        perplexity: effective number of neighbours of a point; at most (N − 1) / 3 is used.
        iterations: steps, of which the first `EARLY` exaggerate similarities.

    Returns:
        f32[N, 2], in arbitrary units. Sides and distances between groups say little.
    """
    count = len(features)
    found = _components(features.double())
    if count < 4:
        return found.float()
    similar = _similarities(features, min(perplexity, (count - 1) / 3))
    found = found * (SPREAD / found[:, 0].std().clamp(min=1e-30))
    rate = max(count / EXAGGERATION / 4, 50.0)
    found, gains, update = found.float(), torch.ones(count, 2), torch.zeros(count, 2)
    exaggerated = EXAGGERATION * similar
    for step in range(iterations):
        is_early = step < EARLY
        slope = _gradient(found, exaggerated if is_early else similar)
        gains = torch.where(slope * update < 0, gains + 0.2, gains * 0.8).clamp(min=0.01)
        update = (0.5 if is_early else 0.8) * update - rate * gains * slope
        found = found + update
    return found - found.mean(dim=0)


def _components(features: Tensor) -> Tensor:
    """The first two principal components f64[N, 2] of f64[N, D], with signs that are the same for the same features."""
    centred = features - features.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    found = centred @ (axes * largest.sign()).T
    return torch.nn.functional.pad(found, (0, 2 - found.shape[1]))


def _similarities(features: Tensor, perplexity: float) -> Tensor:
    """Symmetric similarities f32[N, N] that sum to 1: Gaussian, each point's of the precision of this perplexity."""
    count = len(features)
    squared = torch.cdist(features.double(), features.double()).square()
    squared = squared / squared.mean().clamp(min=1e-30)
    itself = torch.eye(count, dtype=torch.bool)
    nearest = squared.masked_fill(itself, torch.inf).amin(dim=1, keepdim=True)
    beyond = (squared - nearest).masked_fill(itself, torch.inf)  # a common factor of a row's weights cancels
    low, high = torch.zeros(count, 1, dtype=torch.float64), torch.full((count, 1), torch.inf, dtype=torch.float64)
    precision, wanted = torch.ones_like(low), torch.tensor(perplexity, dtype=torch.float64).log()
    for _ in range(HALVINGS):
        shares = (-beyond * precision).softmax(dim=1)
        is_wide = torch.special.entr(shares).sum(dim=1, keepdim=True) > wanted
        low, high = torch.where(is_wide, precision, low), torch.where(is_wide, high, precision)
        precision = torch.where(high.isinf(), 2 * precision, (low + high) / 2)
    shares = (-beyond * precision).softmax(dim=1)
    return ((shares + shares.T) / (2 * count)).float()


def _gradient(found: Tensor, similar: Tensor) -> Tensor:
    """The gradient f32[N, 2] of the Kullback–Leibler divergence (eq. 5)."""
    lengths = found.square().sum(dim=1)
    near = torch.addmm(1 + lengths[:, None] + lengths, found, found.T, alpha=-2).clamp_(min=1).reciprocal_()
    near.fill_diagonal_(0)
    pull = (similar - near / near.sum()).mul_(near)
    return 4 * (pull.sum(dim=1, keepdim=True) * found - pull @ found)
