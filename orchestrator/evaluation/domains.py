"""Cross-domain accuracy: kNN and probe fitted on the images of one domain and tested on every other one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.evaluation import datasets, probes
from infoaug.orchestrator.evaluation.datasets import Labelled
from infoaug.orchestrator.evaluation.rows import Rows


def accuracies(
    domains: Mapping[str, Labelled],
    settings: EvaluateConfig,
    extract: Callable[[Tensor], NDArray[np.float32]],
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Accuracies (shares, 0–1) of a backbone for all ordered pairs of D ≥ 2 domains.

    Args:
        domains: images and labels by name; all domains have the same classes.
        settings: of kNN and probe.
        extract: gives features f32[N, d] of images u8[N, 3, S, S].
        device: where the classifiers are fitted; None: on a GPU if there is one.

    Returns:
        `knn_matrix` and `probe_matrix`, D×D lists. Rows are the domains fitted on, always four fifths of a domain.
        Columns are the domains tested on: the whole domain, or on the diagonal the held-out fifth. `knn` and `probe`:
        means off the diagonal. `validation_knn` and `validation_probe`: means of the diagonal. `rank_me`: RankMe of all
        images' features.

    Raises:
        ValueError: features are NaN or infinite.
    """
    device = device or probes.fastest()
    features = [extract(domain.images) for domain in domains.values()]
    labels = [domain.labels.numpy() for domain in domains.values()]
    held = [datasets.held_out(domain.labels).numpy() for domain in domains.values()]
    off_diagonal = ~np.eye(len(domains), dtype=bool)
    result: dict[str, Any] = {}
    for metric, classifier in probes.CLASSIFIERS.items():
        matrix = np.zeros(off_diagonal.shape)
        for row in range(len(domains)):
            fitted = classifier(Rows(features[row], device, ~held[row]), labels[row][~held[row]], settings)
            for column in range(len(domains)):
                tested = held[row] if row == column else np.ones_like(held[column])
                unseen = Rows(features[column], device, tested)
                matrix[row, column] = probes.accuracy(fitted, unseen, labels[column][tested])
        result[metric] = float(matrix[off_diagonal].mean())
        result[f"validation_{metric}"] = float(matrix[~off_diagonal].mean())
        result[f"{metric}_matrix"] = matrix.tolist()
    return result | {"rank_me": probes.rank([Rows(of, device) for of in features])}
