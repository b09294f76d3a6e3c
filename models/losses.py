"""Losses on pairs of embeddings, exact across ranks; one function per loss.

- They compute in at least float32, also under autocast.
- `valid` bool[B] marks the valid rows (None: all). The others are neither anchors nor negatives, whatever they hold.
- `weight` float[B] weighs the rows in the mean (None: all alike): a row's partners share the weight of one row.
- A loss is the mean over the valid rows of all ranks, or a differentiable 0 if no row is valid. A rank's value is its
  share of that mean times the number of ranks (`mean_over_ranks`). The average over ranks, of values and of DDP's
  gradients, therefore equals that of one process with the global batch.
- Every rank must call them, with the same shapes. Wrong input raises ValueError.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from infoaug.models.negatives import Negatives, keep_negatives, valid_negatives
from infoaug.models.precision import without_autocast
from infoaug.models.ranks import gather_across_ranks, gather_rows, mean_over_ranks, row_numbers

ALL = Negatives()


def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
    repeated: Tensor | None = None,
    first_identity: Tensor | None = None,
    second_identity: Tensor | None = None,
    negatives: Negatives = ALL,
    progress: Tensor | float = 1.0,
    decoupled: bool = False,
) -> dict[str, Tensor]:
    """SimCLR's normalised, temperature-scaled cross entropy of positive pairs (Chen et al. 2020, eq. 1).

    The negatives of an anchor are the other embeddings of the global batch, except those that show the anchor's image
    or its twin, and except those that `negatives` leaves out.

    Args:
        first, second: float[B, D], normalised here; row i of both is a positive pair, and both rows are anchors.
        temperature: of the similarities, above 0.
        valid, weight: bool[B] and float[B], see above; of both anchors of a row.
        repeated: bool[B], rows of which `first` is another row's too, and no negative for a second time; None: none.
        first_identity, second_identity: int64[B, 2 or more], the image that a row shows and further images that are not
            its negatives, such as that image's twin, −1 for none; None: every row shows another image, and has no twin.
        negatives: which negatives an anchor keeps.
        progress: share of training that is complete, 0–1; `negatives` may depend on it.
        decoupled: leave the positive out of the denominator (Yeh et al. 2022, eq. 6), and anchors without negatives
            out of the mean.

    Returns:
        `loss`, and `mutual_information` (nats, no gradient): the mean of log(negatives + 1) − cross entropy, InfoNCE's
        lower bound, at most log(negatives + 1) (van den Oord et al. 2018, eq. 5). The negatives of a ball or ring are
        harder than random ones, which lowers the estimate (2010.02037); leaving twins out raises it.
    """
    check_pairs(first, second, valid, temperature)
    rows = len(first)
    with without_autocast(first):
        counts = counting(first, valid).expand(2, rows)
        own = unit(torch.stack([first, second]), counts)
        if first_identity is None or second_identity is None:
            numbers = row_numbers(rows, first.device)
            first_identity = second_identity = torch.stack([numbers, torch.full_like(numbers, -1)], dim=1)
        identity = torch.stack([first_identity, second_identity])
        once = counts if repeated is None else torch.stack([counts[0] & ~repeated, counts[1]])
        everyone, image, present = _everyone(own), _everyone(identity[..., 0]), _everyone(once)
        positive = (own[0] * own[1]).sum(dim=1).repeat(2) / temperature
        similarity = own.flatten(0, 1) @ everyone.T / temperature
        admissible = valid_negatives(identity.flatten(0, 1), image) & present
        keep = keep_negatives(similarity, admissible, negatives, progress)
        weights = None if weight is None else weight.repeat(2)
        return _contrast(positive, similarity, keep, counts.flatten(), weights, decoupled)


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    bank: Tensor | None = None,
    bank_image: Tensor | None = None,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
    repeated: Tensor | None = None,
    anchor_identity: Tensor | None = None,
    positive_image: Tensor | None = None,
    negatives: Negatives = ALL,
    progress: Tensor | float = 1.0,
) -> dict[str, Tensor]:
    """InfoNCE, the cross entropy of classifying an anchor's positive among negatives, in one direction.

    He et al. 2020, eq. 1. Negatives that show the anchor's image or its twin are left out, and those that `negatives`
    leaves out.

    Args:
        anchor, positive: float[B, D], normalised here; row i of both is a positive pair.
        temperature: of the similarities, above 0.
        bank: float[M, D], the negatives, unit vectors that are the same on all ranks; None: the positives of the global
            batch's other rows.
        bank_image: int64[M], the images that the bank shows, −1 where unknown.
        valid, weight: bool[B] and float[B], see above.
        repeated: bool[B], rows of which the positive is another row's too, and no negative for a second time.
        anchor_identity: int64[B, 2 or more], images that are not negatives of an anchor, as in `nt_xent`.
        positive_image: int64[B], the images that the positives show.
        negatives, progress: as in `nt_xent`.

    Returns:
        `loss` and `mutual_information`, as `nt_xent`.
    """
    check_pairs(anchor, positive, valid, temperature)
    with without_autocast(anchor):
        counts = counting(anchor, valid)
        own, other = unit(anchor, counts), unit(positive, counts)
        if bank is not None:
            candidates, image = bank.to(own.dtype), bank_image
            present = torch.ones(len(bank), dtype=torch.bool, device=own.device)
        else:
            numbers = row_numbers(len(anchor), anchor.device)
            if anchor_identity is None or positive_image is None:
                anchor_identity, positive_image = numbers[:, None], numbers
            once = counts if repeated is None else counts & ~repeated
            candidates, image, present = gather_rows(other), gather_rows(positive_image), gather_rows(once)
        similarity = own @ candidates.T / temperature
        admissible = present.expand_as(similarity)
        if anchor_identity is not None and image is not None:
            admissible = admissible & valid_negatives(anchor_identity, image)
        keep = keep_negatives(similarity, admissible, negatives, progress)
        return _contrast((own * other).sum(dim=1) / temperature, similarity, keep, counts, weight)


def cosine_distance(
    prediction: Tensor, target: Tensor, *, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Mean of 1 − cosine similarity of prediction and target, both float[B, D]; 0 to 2.

    Half of BYOL's squared distance of unit vectors (Grill et al. 2020, eq. 2), and SimSiam's D plus 1 (Chen & He 2021,
    eq. 1). The caller stops the target's gradient where the method does.
    """
    check_pairs(prediction, target, valid)
    with without_autocast(prediction):
        counts = counting(prediction, valid)
        cosine = (unit(prediction, counts) * unit(target, counts)).sum(dim=1)
        return mean_over_ranks(1 - cosine, counts, weight)


def _contrast(
    positive: Tensor,
    similarity: Tensor,
    keep: Tensor,
    counts: Tensor,
    weight: Tensor | None = None,
    decoupled: bool = False,
) -> dict[str, Tensor]:
    """Cross entropy of positive float[A] against the kept entries of similarity float[A, M], and its bound on MI."""
    # A large finite value instead of −∞: its exponential is 0 too, and rows without negatives have finite gradients.
    hide = torch.finfo(similarity.dtype).min / 2
    excess = similarity.masked_fill(~keep, hide).logsumexp(dim=1) - positive
    number = keep.sum(dim=1)
    entropy = torch.logaddexp(excess, torch.zeros_like(excess))  # log(1 + Σ exp(negative − positive))
    bound = mean_over_ranks((number + 1).to(entropy.dtype).log() - entropy.detach(), counts, weight)
    cost, costly = (excess, counts & (number > 0)) if decoupled else (entropy, counts)
    return {"loss": mean_over_ranks(cost, costly, weight), "mutual_information": bound}


def _everyone(part: Tensor) -> Tensor:
    """Gather [2, B, …] from all ranks to [2 · world · B, …], in the order of one process with the global batch."""
    return gather_across_ranks(part).transpose(0, 1).flatten(0, 2)


def counting(rows: Tensor, valid: Tensor | None) -> Tensor:
    """The valid rows as bool[B]; all of them if `valid` is None."""
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device) if valid is None else valid


def unit(embeddings: Tensor, counts: Tensor) -> Tensor:
    """Normalise embeddings to length 1 in at least float32; zeros in rows that are not valid."""
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    return F.normalize(torch.where(counts[..., None], embeddings, 0.0), dim=-1)  # not by multiplying: 0 · NaN is NaN


def check_pairs(first: Tensor, second: Tensor, valid: Tensor | None, temperature: float = 1.0) -> None:
    """Raise ValueError for wrong shapes, a mask that is not bool, or a temperature that is not above 0."""
    if first.ndim != 2 or first.shape != second.shape or first.shape[0] == 0:
        raise ValueError(
            f"Embeddings must have the same shape [B, D], not {list(first.shape)} and {list(second.shape)}."
        )
    if not (first.is_floating_point() and second.is_floating_point()):
        raise ValueError(f"Embeddings must be floating point, not {first.dtype} and {second.dtype}.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, not {temperature}.")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != first.shape[:1]):
        raise ValueError(f"valid must be bool[{len(first)}], not {valid.dtype} of shape {list(valid.shape)}.")
