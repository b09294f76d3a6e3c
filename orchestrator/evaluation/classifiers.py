"""Classifiers on frozen features, on a CPU or a GPU: weighted kNN and multinomial logistic regression.

Both read the features in blocks. Their memory beside the features does not grow with the number of images.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.evaluation.neighbours import search, unit
from infoaug.orchestrator.evaluation.rows import Rows

QUERIES = {"cpu": 1024, "cuda": 4096}  # images whose neighbours are searched at a time
SEARCHED = {"cpu": 16384, "cuda": 131072}  # among so many at a time
HISTORY = 10  # corrections that L-BFGS remembers
LEAST_CHANGE = 1e-6  # of the mean loss in an iteration, nats: with less, L-BFGS has converged
RIDGE = 0.01  # share of the mean curvature that is added to the preconditioner: it may be singular, or nearly so


class Classifier(Protocol):
    """A fitted classifier."""

    def predict(self, rows: Rows) -> NDArray[np.int64]:
        """The class of each row, int64[M]."""


class Knn:
    """Weighted kNN: cosine similarity s, weight exp(s / τ) (Wu et al. 2018, section 3.4).

    If there are fewer images than `settings.neighbours`, all of them vote. Of classes with equal votes, the one with
    the smallest number wins.

    Args:
        rows: features of the images that vote.
        labels: int64[N], their classes.
        settings: of kNN.
    """

    def __init__(self, rows: Rows, labels: NDArray[np.int64], settings: EvaluateConfig) -> None:
        self._rows, self._neighbours = rows, min(settings.neighbours, rows.count)
        self._temperature = settings.temperature
        self._classes, numbers = np.unique(labels, return_inverse=True)
        self._numbers = torch.from_numpy(numbers).to(rows.device)

    def predict(self, rows: Rows) -> NDArray[np.int64]:
        """The class of each row, int64[M]."""
        voted = [self._vote(unit(queries)) for _, queries in rows.blocks(QUERIES[rows.device.type])]
        return self._classes[torch.cat(voted).cpu().numpy()]

    def _vote(self, queries: Tensor) -> Tensor:
        blocks = self._rows.blocks(SEARCHED[queries.device.type])
        similarities, rows = search(queries, blocks, self._neighbours)
        # Weights relative to the nearest neighbour's: the votes' ratios are the same, and a small τ does not overflow.
        weights = ((similarities - similarities.amax(dim=1, keepdim=True)) / self._temperature).exp()
        votes = weights.new_zeros(len(queries), len(self._classes)).scatter_add_(1, self._numbers[rows], weights)
        return votes.argmax(dim=1)


class Probe:
    """Linear probe: multinomial logistic regression on standardised features.

    The objective is scikit-learn's: mean loss + ‖W‖² / (2 · C · N), intercepts are free; for two classes W is the
    difference of their weights. It is minimised by L-BFGS on all images, until the mean loss changes by less than
    `LEAST_CHANGE`, at most `settings.probe_iterations` times. Weights are preconditioned by the curvature at 0,
    X'X / (N · K), so that correlated features do not slow it down.

    Products of features and weights are float32, sums over blocks and the weights float64.

    Args:
        rows: features of the images to fit.
        labels: int64[N], their classes.
        settings: of the probe.

    Attributes:
        classes: int64[K], ascending.
        weights: float64[K, D] of standardised features, up to what all classes share.
        iterations: of L-BFGS.

    Raises:
        ValueError: all images are of one class.
    """

    def __init__(self, rows: Rows, labels: NDArray[np.int64], settings: EvaluateConfig) -> None:
        self.classes, numbers = np.unique(labels, return_inverse=True)
        count = len(self.classes)
        if count < 2:
            raise ValueError("a linear probe needs images of at least two classes")
        truth = torch.from_numpy(numbers).to(rows.device)
        penalty = (2 if count == 2 else 1) / (settings.probe_c * rows.count)  # ‖W₁ − W₂‖² = 2 · (‖W₁‖² + ‖W₂‖²)
        self._mean, scale = _standard(rows)
        inverse_root = _preconditioner(rows, self._mean, scale, count, penalty)
        weights = torch.zeros(count, rows.dimensions, dtype=torch.float64, device=rows.device)  # preconditioned
        intercept = torch.zeros(count, dtype=torch.float64, device=rows.device)
        root = count**0.5  # of an intercept's curvature at 0, inverse

        def closure() -> Tensor:
            plain = weights @ inverse_root.T
            loss, slope, shift = _loss(rows, truth, self._mean, (plain * scale).float(), (root * intercept).float())
            weights.grad = (slope * scale + penalty * plain) @ inverse_root
            intercept.grad = root * shift
            return loss + penalty / 2 * plain.square().sum()

        optimiser = torch.optim.LBFGS(
            [weights, intercept],
            max_iter=settings.probe_iterations,
            max_eval=25 * settings.probe_iterations,
            tolerance_grad=0,
            tolerance_change=LEAST_CHANGE,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(closure)
        self.iterations: int = optimiser.state[weights]["n_iter"]
        self.weights = weights.detach() @ inverse_root.T
        self._scaled, self._intercept = (self.weights * scale).float(), (root * intercept).float()

    def predict(self, rows: Rows) -> NDArray[np.int64]:
        """The class of each row, int64[M]."""
        found = [self.logits(block).argmax(dim=1) for _, block in rows.blocks(results=len(self.classes))]
        return self.classes[torch.cat(found).cpu().numpy()]

    def logits(self, features: Tensor) -> Tensor:
        """Logits f32[M, K] of features f32[M, D]."""
        return torch.addmm(self._intercept, features - self._mean, self._scaled.T)


def _loss(rows: Rows, truth: Tensor, mean: Tensor, weights: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy of softmax(weights · (x − mean) + intercept), nats, and its gradients.

    Args:
        rows: features x.
        truth: int64[N], classes.
        mean: f32[D].
        weights: f32[K, D].
        intercept: f32[K].

    Returns:
        The loss float64[], its gradients by the weights float64[K, D] and by the intercepts float64[K].
    """
    loss = torch.zeros((), dtype=torch.float64, device=rows.device)
    slope, shift = torch.zeros_like(weights, dtype=torch.float64), torch.zeros_like(intercept, dtype=torch.float64)
    centred = torch.empty(0, device=rows.device)  # its memory is used again: a new block's costs more than the block
    for begin, block in rows.blocks(results=len(weights)):
        centred = torch.sub(block, mean, out=centred[: len(block)])
        labels = truth[begin : begin + len(block), None]
        log_share = torch.addmm(intercept, centred, weights.T).log_softmax(dim=1)
        loss -= log_share.gather(1, labels).sum(dtype=torch.float64)
        error = log_share.exp_().scatter_add_(1, labels, torch.full_like(log_share[:, :1], -1))
        slope += error.T @ centred
        shift += error.sum(dim=0)
    return loss / rows.count, slope / rows.count, shift / rows.count


def _standard(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean f32[D] and inverse standard deviation float64[D] of each feature, 1 where it is constant."""
    total = torch.zeros(rows.dimensions, dtype=torch.float64, device=rows.device)
    for _, block in rows.blocks():
        total += block.sum(dim=0, dtype=torch.float64)
    mean = (total / rows.count).float()
    square = torch.zeros_like(total)
    for _, block in rows.blocks():
        square += (block - mean).square_().sum(dim=0, dtype=torch.float64)
    variance = square / rows.count
    # Constant up to the rounding of float64, as scikit-learn's StandardScaler has it.
    rounding = rows.count * torch.finfo(torch.float64).eps
    constant = variance <= rounding * variance + (rounding * mean.double()) ** 2
    return mean, torch.where(constant, 1, variance).rsqrt()


def _preconditioner(rows: Rows, mean: Tensor, scale: Tensor, classes: int, penalty: float) -> Tensor:
    """A matrix R float64[D, D], for which the loss has the same curvature in all directions of V at 0, W = V · R'.

    R · R' is the inverse of the curvature by W, X'X / (N · K) + penalty, X standardised.
    """
    curvature = torch.zeros(rows.dimensions, rows.dimensions, dtype=torch.float64, device=rows.device)
    narrow = scale.float()
    for _, block in rows.blocks():
        standard = (block - mean).mul_(narrow)
        curvature += standard.T @ standard
    curvature /= rows.count * classes
    curvature.diagonal().add_(penalty + RIDGE * curvature.diagonal().mean())
    root = torch.linalg.cholesky(curvature)
    return torch.linalg.solve_triangular(root, torch.eye(len(root), out=torch.empty_like(root)), upper=False).T
