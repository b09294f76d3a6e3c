"""Cross-domain accuracy: kNN and probe fitted on the images of one domain and tested on every other one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infoaug.models.collapse import rank_me
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.evaluation import datasets, probes
from infoaug.orchestrator.evaluation.datasets import Labelled


def accuracies(
    domains: Mapping[str, Labelled], settings: EvaluateConfig, extract: Callable[[Tensor], NDArray[np.float32]]
) -> dict[str, Any]:
    """Accuracies (shares, 0–1) of a backbone for all ordered pairs of D ≥ 2 domains.

    Args:
        domains: images and labels by name; all domains have the same classes.
        settings: of kNN and probe.
        extract: gives features f32[N, d] of images u8[N, 3, S, S].

    Returns:
        `knn_matrix` and `probe_matrix`, D×D lists. Rows are the domains fitted on, always four fifths of a domain.
        Columns are the domains tested on: the whole domain, or on the diagonal the held-out fifth. `knn` and `probe`:
        means off the diagonal. `validation_knn` and `validation_probe`: means of the diagonal. `rank_me`: RankMe of all
        images' features.
    """
    features = [extract(domain.images) for domain in domains.values()]
    labels = [domain.labels.numpy() for domain in domains.values()]
    held = [datasets.held_out(domain.labels).numpy() for domain in domains.values()]
    off_diagonal = ~np.eye(len(domains), dtype=bool)
    result: dict[str, Any] = {"rank_me": rank_me(torch.from_numpy(np.concatenate(features))).item()}
    for metric, fit in probes.FITS.items():
        matrix = np.zeros(off_diagonal.shape)
        for row in range(len(domains)):
            fitted = fit(features[row][~held[row]], labels[row][~held[row]], settings)
            for column in range(len(domains)):
                tested = held[row] if row == column else slice(None)
                matrix[row, column] = fitted.score(features[column][tested], labels[column][tested])
        result[metric] = float(matrix[off_diagonal].mean())
        result[f"validation_{metric}"] = float(matrix[~off_diagonal].mean())
        result[f"{metric}_matrix"] = matrix.tolist()
    return result
