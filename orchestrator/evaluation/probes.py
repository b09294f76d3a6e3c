"""What frozen features are worth: weighted kNN and a linear probe, afterwards or while a backbone is trained."""

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


def accuracies(
    train: Labelled, test: Labelled, settings: EvaluateConfig, extract: Callable[[Tensor], NDArray[np.float32]]
) -> dict[str, float]:
    """What one backbone's features are worth on a data set; `extract` gives features f32[N, d] of images.

    Returns:
        `knn` and `probe`, accuracies (shares, 0–1) on the test images, fitted on all training images; `validation_knn`
        and `validation_probe`, on the held-out fifth of the training images, fitted on the others, for choosing between
        models; `rank_me` of the test images' features.
    """
    seen, unseen = extract(train.images), extract(test.images)
    labels, truth, held = train.labels.numpy(), test.labels.numpy(), held_out(train.labels).numpy()
    result = {"rank_me": rank_me(torch.from_numpy(unseen)).item()}
    for metric, accuracy in (("knn", knn_accuracy), ("probe", probe_accuracy)):
        result[metric] = accuracy(seen, labels, unseen, truth, settings)
        result[f"validation_{metric}"] = accuracy(seen[~held], labels[~held], seen[held], labels[held], settings)
    return result


class Validation:
    """Weighted kNN on the held-out fifth of the first data set's training images, for a backbone in training.

    A backbone of its own takes over the weights: mode, memory format, hooks, compiled code and random numbers of the
    one in training stay untouched. Raises UsageError if the data set is not to be had.
    """

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self.settings, self.device = config.evaluate, device
        size, settings = config.extract.image_size, config.pretrain
        self.train, _ = datasets.load(self.settings.datasets[0], self.settings, size)
        with torch.random.fork_rng(devices=[]):
            self.backbone = create_backbone(settings.backbone, size, **settings.backbone_settings).to(device)

    def knn(self, backbone: nn.Module) -> float:
        """Accuracy (a share, 0–1) with this backbone's weights, as `accuracies` has it in `validation_knn`."""
        self.backbone.load_state_dict(backbone.state_dict())
        found = features(self.backbone, self.train.images, self.settings.batch_size, self.device)
        labels, held = self.train.labels.numpy(), held_out(self.train.labels).numpy()
        return knn_accuracy(found[~held], labels[~held], found[held], labels[held], self.settings)
