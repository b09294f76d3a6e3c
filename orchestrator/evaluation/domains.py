"""Cross-domain accuracy: kNN and probe fitted on the images of one domain, tested on every other one."""

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
    """Accuracies (shares, 0–1) of a backbone over all ordered pairs of D ≥ 2 domains.

    Args:
        domains: images and labels by name, the labels of the same classes.
        settings: of kNN and probe.
        extract: features f32[N, d] of images u8[N, 3, S, S].

    Returns:
        `knn_matrix` and `probe_matrix`, D rows fitted on four fifths of a domain, D columns tested on: another domain
        whole, or the domain's own other fifth. `knn`, `probe`: means off the diagonal; `validation_knn`,
        `validation_probe`: of the diagonal. `rank_me` of all images' features.
    """
    features = [extract(domain.images) for domain in domains.values()]
    labels = [domain.labels.numpy() for domain in domains.values()]
    held = [datasets.held_out(domain.labels).numpy() for domain in domains.values()]
    apart = ~np.eye(len(domains), dtype=bool)
    result: dict[str, Any] = {"rank_me": rank_me(torch.from_numpy(np.concatenate(features))).item()}
    for metric, fit in probes.FITS.items():
        matrix = np.zeros(apart.shape)
        for row in range(len(domains)):
            fitted = fit(features[row][~held[row]], labels[row][~held[row]], settings)
            for column in range(len(domains)):
                tested = held[row] if row == column else slice(None)
                matrix[row, column] = fitted.score(features[column][tested], labels[column][tested])
        result[metric], result[f"validation_{metric}"] = (float(matrix[of].mean()) for of in (apart, ~apart))
        result[f"{metric}_matrix"] = matrix.tolist()
    return result
