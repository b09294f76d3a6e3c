"""Two branches on one backbone: views of the same patch, and a patch with its twin."""

import math

import torch
from torch import Tensor, nn

from models.frameworks.base import Branch, Framework


class TwoBranch(nn.Module):
    """One backbone f, two independent branches of the same framework, one loss (InfoAug, arXiv 2511.00028).

    L = L_view(f(t₁x), f(t₂x)) + twin_weight · L_twin(f(t₁x), f(t₃ twin(x))), where the branches hold the heads and the
    framework's loss. With `twin_weight=0` there is no twin branch (`twin_branch` is None): the baseline.

    Raises ValueError if twin_weight is negative or not finite.
    """

    def __init__(self, framework: Framework, twin_weight: float = 0.5) -> None:
        super().__init__()
        if not (math.isfinite(twin_weight) and twin_weight >= 0):
            raise ValueError(f"twin_weight must be finite and at least 0, not {twin_weight}.")
        self.twin_weight = float(twin_weight)
        self.backbone = framework.backbone
        self.view_branch: Branch = framework.make_branch()
        self.twin_branch: Branch | None = framework.make_branch() if twin_weight > 0 else None

    def forward(
        self, first: Tensor, second: Tensor, twin: Tensor | None = None, twin_rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch, as scalars with gradients: `loss`, `view_loss`, `twin_loss`; no wait for the device.

        first, second: views float[B, C, S, S] of the same patches; twin: views float[M, C, S, S] of the twins there
        are, 0 ≤ M ≤ B; twin_rows: int64[M], distinct, row i of `twin` is the twin of row twin_rows[i] of `first`. Leave
        both out for M = 0. All images go through the backbone once and together, so its batch statistics are those of
        the whole step, however few twins there are. M may differ between ranks (0 included), B may not: every rank runs
        the same collectives, and every parameter gets a gradient. Without a twin branch, twins are not looked at.

        Raises ValueError for shapes, dtypes or rows that do not fit.
        """
        twin, rows = self._check(first, second, twin, twin_rows)
        if self.twin_branch is None:
            first_features, second_features = self._features(first, second)
            view_loss = self.view_branch(first_features, second_features)
            return {"loss": view_loss, "view_loss": view_loss, "twin_loss": torch.zeros_like(view_loss)}

        first_features, second_features, twin_features = self._features(first, second, twin)
        view_loss = self.view_branch(first_features, second_features)
        # Rows without a twin hold the second view: natural values for a head's batch statistics, no gradient.
        paired = second_features.detach().index_copy(0, rows, twin_features)
        valid = torch.zeros(len(first), dtype=torch.bool, device=first.device).index_fill(0, rows, True)
        twin_loss = self.twin_branch(first_features, paired, valid)
        return {"loss": view_loss + self.twin_weight * twin_loss, "view_loss": view_loss, "twin_loss": twin_loss}

    def _features(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Pass all images through the backbone together and part the features again."""
        features = self.backbone(torch.cat(images))
        if features.ndim != 2:
            raise ValueError(
                f"The backbone must give [rows, num_features], not {list(features.shape)}: pool its output."
            )
        return features.split([len(part) for part in images])

    def _check(
        self, first: Tensor, second: Tensor, twin: Tensor | None, twin_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Check a batch; give twins and their rows, empty if there are none."""
        if first.ndim != 4 or first.shape != second.shape or len(first) == 0:
            raise ValueError(
                f"first and second must be [B, C, S, S] alike, not {list(first.shape)} and {list(second.shape)}."
            )
        if not (first.is_floating_point() and second.is_floating_point()):
            raise ValueError(f"Views must be floating point, not {first.dtype} and {second.dtype}: augment them first.")
        if (twin is None) != (twin_rows is None):
            raise ValueError("twin and twin_rows go together: pass both or neither.")
        if twin is None or twin_rows is None:
            return first[:0], torch.empty(0, dtype=torch.int64, device=first.device)
        if twin.shape[1:] != first.shape[1:] or twin.dtype != first.dtype:
            raise ValueError(
                f"twin must be [M, {', '.join(map(str, first.shape[1:]))}] of {first.dtype}, "
                f"not {list(twin.shape)} of {twin.dtype}."
            )
        if twin_rows.dtype != torch.int64 or twin_rows.shape != twin.shape[:1]:
            raise ValueError(f"twin_rows must be int64[{len(twin)}], not {twin_rows.dtype} {list(twin_rows.shape)}.")
        if twin_rows.device.type == "cpu":  # on an accelerator, looking at the values would wait for it
            if len(twin_rows) and not (int(twin_rows.min()) >= 0 and int(twin_rows.max()) < len(first)):
                raise ValueError(f"twin_rows must lie in 0…{len(first) - 1}, the rows of first.")
            if len(twin_rows.unique()) < len(twin_rows):
                raise ValueError("twin_rows names a row twice: a patch has one twin.")
        return twin, twin_rows.to(first.device, non_blocking=True)
