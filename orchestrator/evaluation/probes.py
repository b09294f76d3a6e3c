"""Weighted kNN and a linear probe on frozen features, after training or during it."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone
from infoaug.models.collapse import rank_me
from infoaug.orchestrator.config import EvaluateConfig, ExperimentConfig
from infoaug.orchestrator.evaluation import datasets
from infoaug.orchestrator.evaluation.datasets import Labelled, held_out

CPU_BATCH = 64  # images; with more, activations leave a CPU's caches and a small ResNet takes up to twice as long


def features(
    backbone: nn.Module, images: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Frozen features f32[N, D] of images u8[N, 3, S, S], normalised as the backbone's recipe says, not augmented.

    The backbone itself is put into eval mode, onto the device and into channels last. On a CPU a batch has at most
    `CPU_BATCH` images.
    """
    device = torch.device(device)
    backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
    normalise = Augment.of(backbone).to(device).normalise
    with torch.inference_mode():
        parts = [
            backbone(normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)).float().cpu()
            for batch in images.split(min(batch_size, CPU_BATCH) if device.type == "cpu" else batch_size)
        ]
    return torch.cat(parts).numpy()


def fit_knn(X_train: NDArray[np.float32], y_train: NDArray[np.int64], settings: EvaluateConfig) -> KNeighborsClassifier:
    """Fit weighted kNN to features f32[N, D]: cosine similarity s, weight exp(s / τ) (Wu et al. 2018, section 3.4).

    If there are fewer training images than `settings.neighbours`, all of them vote.
    """
    classifier = KNeighborsClassifier(
        n_neighbors=min(settings.neighbours, len(X_train)),
        metric="cosine",
        algorithm="brute",
        # Weights relative to the nearest neighbour's: the votes' ratios are the same, and a small τ does not overflow.
        weights=lambda distance: np.exp((distance.min(axis=1, keepdims=True) - distance) / settings.temperature),
    )
    return classifier.fit(X_train, y_train)


def fit_probe(X_train: NDArray[np.float32], y_train: NDArray[np.int64], settings: EvaluateConfig) -> Pipeline:
    """Fit a linear probe to features f32[N, D]: multinomial logistic regression on standardised features, by L-BFGS."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=settings.probe_c, max_iter=settings.probe_iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the budget of iterations is part of the protocol
        return probe.fit(X_train, y_train)


FITS = {"knn": fit_knn, "probe": fit_probe}


def knn_accuracy(
    X_train: NDArray[np.float32],
    y_train: NDArray[np.int64],
    X_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
    settings: EvaluateConfig,
) -> float:
    """Top-1 accuracy (a share, 0–1) of weighted kNN; see `fit_knn`."""
    return float(fit_knn(X_train, y_train, settings).score(X_test, y_test))


def probe_accuracy(
    X_train: NDArray[np.float32],
    y_train: NDArray[np.int64],
    X_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
    settings: EvaluateConfig,
) -> float:
    """Top-1 accuracy (a share, 0–1) of a linear probe; see `fit_probe`."""
    return float(fit_probe(X_train, y_train, settings).score(X_test, y_test))


def accuracies(
    train: Labelled, test: Labelled, settings: EvaluateConfig, extract: Callable[[Tensor], NDArray[np.float32]]
) -> dict[str, float]:
    """Accuracies of one backbone on a data set.

    Args:
        train: training images.
        test: test images.
        settings: of kNN and probe.
        extract: gives features f32[N, D] of images u8[N, 3, S, S].

    Returns:
        Accuracies are shares, 0–1. `knn` and `probe`: fitted on all training images, on the test images.
        `validation_knn` and `validation_probe`, for model selection: fitted on four fifths of the training images, on
        the held-out fifth. `rank_me`: RankMe of the test images' features.
    """
    X_train, X_test = extract(train.images), extract(test.images)
    y_train, y_test = train.labels.numpy(), test.labels.numpy()
    held = held_out(train.labels).numpy()
    validation = X_train[~held], y_train[~held], X_train[held], y_train[held]
    result = {"rank_me": rank_me(torch.from_numpy(X_test)).item()}
    for metric, accuracy in (("knn", knn_accuracy), ("probe", probe_accuracy)):
        result[metric] = accuracy(X_train, y_train, X_test, y_test, settings)
        result[f"validation_{metric}"] = accuracy(*validation, settings)
    return result


class Validation:
    """Weighted kNN on the held-out fifth of the first data set's training images, for a backbone in training.

    The weights are copied into a second backbone, so that the mode, memory format, hooks, compiled code and random
    numbers of the one in training stay untouched. Raises UsageError if the data set cannot be loaded.
    """

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self.settings, self.device = config.evaluate, device
        size, settings = config.extract.image_size, config.pretrain
        self.train = datasets.load(self.settings.datasets[0], self.settings, size).train
        with torch.random.fork_rng(devices=[]):
            self.backbone = create_backbone(settings.backbone, size, **settings.backbone_settings).to(device)

    def knn(self, backbone: nn.Module) -> float:
        """Accuracy (a share, 0–1) with this backbone's weights: `validation_knn` of `accuracies`."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.backbone.recipe = backbone.recipe
        X = features(self.backbone, self.train.images, self.settings.batch_size, self.device)
        y, held = self.train.labels.numpy(), held_out(self.train.labels).numpy()
        return knn_accuracy(X[~held], y[~held], X[held], y[held], self.settings)
