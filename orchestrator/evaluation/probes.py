"""Weighted kNN and a linear probe on frozen features, after training or during it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone
from infoaug.models.collapse import rank_me
from infoaug.orchestrator.config import EvaluateConfig, ExperimentConfig
from infoaug.orchestrator.evaluation import datasets
from infoaug.orchestrator.evaluation.classifiers import Classifier, Knn, Probe
from infoaug.orchestrator.evaluation.datasets import Labelled, few, held_out
from infoaug.orchestrator.evaluation.rows import Rows
from infoaug.orchestrator.runtime import scratch

CPU_BATCH = 64  # images; with more, activations leave a CPU's caches and a small ResNet takes up to twice as long
CLASSIFIERS: dict[str, Callable[[Rows, NDArray[np.int64], EvaluateConfig], Classifier]] = {"knn": Knn, "probe": Probe}


def features(
    backbone: nn.Module, images: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Frozen features f32[N, D] of images u8[N, 3, S, S], normalised as the backbone's recipe says, not augmented.

    The backbone itself is put into eval mode, onto the device and into channels last. On a CPU a batch has at most
    `CPU_BATCH` images. Features that take more than a share of the memory are mapped from a file, see `scratch.array`.
    """
    device = torch.device(device)
    backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
    normalise = Augment.of(backbone).to(device).normalise
    size = min(batch_size, CPU_BATCH) if device.type == "cpu" else batch_size
    found: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for number, batch in enumerate(images.split(size)):
            part = backbone(normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)).float().cpu()
            if found is None:
                found = scratch.array((len(images), part.shape[1]), np.float32)
            found[number * size : number * size + len(part)] = part.numpy()
    assert found is not None, "a split has a batch, be it empty"
    return found


def knn_accuracy(
    X_train: NDArray[np.float32],
    y_train: NDArray[np.int64],
    X_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
    settings: EvaluateConfig,
    device: torch.device | str = "cpu",
) -> float:
    """Top-1 accuracy (a share, 0–1) of weighted kNN on features f32[N, D]; see `Knn`.

    Raises:
        ValueError: there are no features, or they are NaN or infinite.
    """
    return accuracy(Knn(Rows(X_train, device), y_train, settings), Rows(X_test, device), y_test)


def probe_accuracy(
    X_train: NDArray[np.float32],
    y_train: NDArray[np.int64],
    X_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
    settings: EvaluateConfig,
    device: torch.device | str = "cpu",
) -> float:
    """Top-1 accuracy (a share, 0–1) of a linear probe on features f32[N, D]; see `Probe`.

    Raises:
        ValueError: as `knn_accuracy`; or the training images are of one class.
    """
    return accuracy(Probe(Rows(X_train, device), y_train, settings), Rows(X_test, device), y_test)


def accuracy(classifier: Classifier, rows: Rows, labels: NDArray[np.int64]) -> float:
    """The share of rows whose class, in int64[N], the classifier finds."""
    return float(np.mean(classifier.predict(rows) == labels))


def accuracies(
    train: Labelled,
    test: Labelled,
    settings: EvaluateConfig,
    extract: Callable[[Tensor], NDArray[np.float32]],
    device: torch.device | str | None = None,
    keep: Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], None] | None = None,
) -> dict[str, float]:
    """Accuracies of one backbone on a data set.

    Args:
        train: training images.
        test: test images.
        settings: of kNN and probe.
        extract: gives features f32[N, D] of images u8[N, 3, S, S].
        device: where the classifiers are fitted; None: on a GPU if there is one.
        keep: called with the features of training and test images, and with the classes int64[M] that the probe
            finds in the test images.

    Returns:
        Accuracies are shares, 0–1. `knn` and `probe`: fitted on all training images, on the test images.
        `validation_knn` and `validation_probe`, for model selection: fitted on four fifths of the training images, on
        the held-out fifth. `rank_me`: RankMe of the test images' features.

    Raises:
        ValueError: features are NaN or infinite.
    """
    device = device or fastest()
    X_train, X_test = extract(train.images), extract(test.images)
    y_train, y_test = train.labels.numpy(), test.labels.numpy()
    every = np.ones(len(y_train), dtype=bool)
    held = held_out(train.labels).numpy()
    tested = Rows(X_test, device)

    def fitted(metric: str, chosen: NDArray[np.bool_]) -> Classifier:
        return CLASSIFIERS[metric](Rows(X_train, device, chosen), y_train[chosen], settings)

    result, found = {}, {}
    for metric in CLASSIFIERS:
        found[metric] = fitted(metric, every).predict(tested)
        result[metric] = float(np.mean(found[metric] == y_test))
        result[f"validation_{metric}"] = accuracy(fitted(metric, ~held), Rows(X_train, device, held), y_train[held])
    if keep:
        keep(X_train, X_test, found["probe"])
    return result | {"rank_me": rank([tested])}


def low_shot(
    train: Labelled,
    test: Labelled,
    settings: EvaluateConfig,
    extract: Callable[[Tensor], NDArray[np.float32]],
    label_shares: Sequence[float],
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Accuracies (shares, 0–1) on the test images of linear probes fitted on `few` of the training images.

    Args:
        train, test, settings, extract, device: as of `accuracies`.
        label_shares: shares of the training labels, 0–1.

    Returns:
        `probe_1` for the label share 0.01, `probe_10` for 0.1, and so on.

    Raises:
        ValueError: features are NaN or infinite.
    """
    device = device or fastest()
    X, y = extract(train.images), train.labels.numpy()
    tested, y_test = Rows(extract(test.images), device), test.labels.numpy()
    result = {}
    for share in label_shares:
        chosen = few(train.labels, share).numpy()
        result[low_shot_key(share)] = accuracy(Probe(Rows(X, device, chosen), y[chosen], settings), tested, y_test)
    return result


def rank(parts: Sequence[Rows]) -> float:
    """RankMe of all features together, see `rank_me`: of a triangular matrix with the same singular values."""
    triangle = torch.zeros(0, parts[0].dimensions, device=parts[0].device)
    for part in parts:
        for _, block in part.blocks():
            triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    return rank_me(triangle).item()


def low_shot_key(share: float) -> str:
    """What `low_shot` calls the probe fitted on a share of the labels, 0–1: `probe_1` for 0.01."""
    return f"probe_{100 * share:g}"


def fastest() -> str:
    """The device of features and classifiers by default: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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
        classifier = Knn(Rows(X, self.device, ~held), y[~held], self.settings)
        return accuracy(classifier, Rows(X, self.device, held), y[held])
