"""What frozen features are worth: weighted kNN and a linear probe."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from models.augment import Augment
from orchestrator.config import EvaluateConfig

CPU_BATCH = 64  # images; activations of more leave a CPU's caches, and every layer waits for memory


def features(
    backbone: nn.Module, images: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Frozen features f32[N, D] of images u8[N, 3, S, S], normalised as in training and not augmented.

    The backbone itself is put into eval mode, onto the device and into channels last. On a CPU a batch has `CPU_BATCH`
    images at most.
    """
    device = torch.device(device)
    backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
    normalise = Augment().to(device).normalise
    with torch.inference_mode():
        parts = [
            backbone(normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)).float().cpu()
            for batch in images.split(min(batch_size, CPU_BATCH) if device.type == "cpu" else batch_size)
        ]
    return torch.cat(parts).numpy()


def fit_knn(seen: NDArray[np.float32], labels: NDArray[np.int64], settings: EvaluateConfig) -> KNeighborsClassifier:
    """Weighted kNN on features f32[N, D]: cosine similarity s, weight exp(s / τ) (Wu et al. 2018, section 3.4).

    With fewer training images than `settings.neighbours`, all of them vote.
    """
    classifier = KNeighborsClassifier(
        n_neighbors=min(settings.neighbours, len(seen)),
        metric="cosine",
        algorithm="brute",
        # The nearest neighbour's weight is 1: votes stay in proportion, and no temperature overflows.
        weights=lambda distance: np.exp((distance.min(axis=1, keepdims=True) - distance) / settings.temperature),
    )
    return classifier.fit(seen, labels)


def fit_probe(seen: NDArray[np.float32], labels: NDArray[np.int64], settings: EvaluateConfig) -> Pipeline:
    """A linear probe of features f32[N, D]: multinomial logistic regression, standardised, by L-BFGS."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=settings.probe_c, max_iter=settings.probe_iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the budget of iterations is part of the protocol
        return probe.fit(seen, labels)


FITS = {"knn": fit_knn, "probe": fit_probe}


def knn_accuracy(
    seen: NDArray[np.float32],
    labels: NDArray[np.int64],
    unseen: NDArray[np.float32],
    truth: NDArray[np.int64],
    settings: EvaluateConfig,
) -> float:
    """Top-1 accuracy (a share, 0–1) on `unseen` of weighted kNN on `seen`; see `fit_knn`."""
    return float(fit_knn(seen, labels, settings).score(unseen, truth))


def probe_accuracy(
    seen: NDArray[np.float32],
    labels: NDArray[np.int64],
    unseen: NDArray[np.float32],
    truth: NDArray[np.int64],
    settings: EvaluateConfig,
) -> float:
    """Top-1 accuracy (a share, 0–1) on `unseen` of a linear probe on `seen`; see `fit_probe`."""
    return float(fit_probe(seen, labels, settings).score(unseen, truth))
