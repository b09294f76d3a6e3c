"""Soft assignments of embeddings to prototypes, and the loss of predicting them; exact across ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from infoaug.models.losses import check_pairs, counting
from infoaug.models.precision import without_autocast
from infoaug.models.ranks import gather_across_ranks, mean_over_ranks


@torch.no_grad()
def sinkhorn(
    scores: Tensor, *, epsilon: float, iterations: int, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Assign rows to prototypes softly and evenly by Sinkhorn–Knopp (Caron et al. 2020, eq. 3).

    It computes with logarithms in at least float32, so that a small epsilon does not overflow. Every rank must call it.

    Args:
        scores: float[B, K], similarity of row and prototype.
        epsilon: weight of the entropy; the higher, the softer the assignments.
        iterations: each normalises prototypes, then rows, to equal mass over the valid rows of all ranks.
        valid: bool[B]; invalid rows get an assignment, but do not influence any other.
        weight: float[B], the mass of the rows; None: all have the same. A row is thus assigned as its copies are that
            share its mass.

    Returns:
        [B, K], rows sum to 1.

    Raises:
        ValueError: epsilon is not above 0, or there is no iteration.
    """
    if not (epsilon > 0 and iterations >= 1):
        raise ValueError(f"sinkhorn needs an epsilon above 0 and an iteration at least, not {epsilon}, {iterations}.")
    plan = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    # Rows are hidden by a finite value: with −∞, a rank without valid rows would compute ∞ − ∞.
    hidden, hide = ~counting(scores, valid)[:, None], torch.finfo(plan.dtype).min / 2
    given = 0.0 if weight is None else weight.to(plan.dtype).log()[:, None]
    for _ in range(iterations):
        mass = gather_across_ranks((plan + given).masked_fill(hidden, hide).logsumexp(dim=0)).logsumexp(dim=0)
        plan = (plan - mass).log_softmax(dim=1)
    return plan.exp()


def swapped_prediction(
    logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean of `soft_cross_entropy` over all pairs of a target and another view than its own.

    Caron et al. 2020, eq. 6, without its sum over rows; Caron et al. 2021, eq. 3, whose sum is a mean in the authors'
    code.

    Args:
        logits: of the two full views, float[B, K] each, and, if there are any, of n small views of each row, one row
            after the other, float[B · n, K].
        targets: of the two full views, float[B, K] each.
        valid: bool[B], see `models.losses`.
        weight: float[B], see `models.losses`.
    """
    first, second, *small = logits
    rows = {"valid": valid, "weight": weight}
    loss = soft_cross_entropy(first, targets[1], **rows) + soft_cross_entropy(second, targets[0], **rows)
    if not small:
        return loss / 2
    # Cross entropy is linear in its target, so the sum over both targets is twice that of their mean.
    count = len(small[0]) // len(first)
    target = ((targets[0] + targets[1]) / 2).repeat_interleave(count, dim=0)
    rows = {name: None if part is None else part.repeat_interleave(count) for name, part in rows.items()}
    return (loss + 2 * count * soft_cross_entropy(small[0], target, **rows)) / (2 + 2 * count)


def soft_cross_entropy(
    logits: Tensor, target: Tensor, *, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Mean over the valid rows of all ranks of −Σₖ targetₖ · log softmax(logits)ₖ, both float[B, K].

    In at least float32; scaled over ranks like all losses in `models.losses`. Raises ValueError if shapes differ.
    """
    check_pairs(logits, target, valid)
    with without_autocast(logits):
        counts = counting(logits, valid)
        logits = torch.where(counts[:, None], logits.to(torch.promote_types(logits.dtype, torch.float32)), 0.0)
        return mean_over_ranks(-(target * logits.log_softmax(dim=1)).sum(dim=1), counts, weight)
