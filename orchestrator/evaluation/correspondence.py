"""Labels carried from frames to the next frame by the similarity of dense features, in blocks of cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 12  # cells: side of the squares of a frame that are compared with their surroundings at once


@dataclass(frozen=True)
class Labelled:
    """A frame: features f32[h, w, D] of length 1, labels f32[h, w, C] that sum to 1, and int64[h, w], the label of
    cells that are wholly of one label, −1 elsewhere."""

    features: Tensor
    labels: Tensor
    certain: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> "Labelled":
        """`features` f32[h, w, D] of length 1, `labels` f32[h, w, C]."""
        largest, label = labels.max(dim=-1)
        return cls(features, labels, torch.where(largest == 1, label, -1))


def unit(features: Tensor) -> Tensor:
    """Features f32[1, D, h, w] as vectors of length 1, f32[h, w, D]."""
    return F.normalize(features[0], dim=0).permute(1, 2, 0).contiguous()


def carry(features: Tensor, sources: Sequence[Labelled], *, neighbours: int, temperature: float, radius: int) -> Tensor:
    """Labels f32[h, w, C] of a frame, from frames whose labels are known.

    A cell takes the mean label of its `neighbours` most similar cells of all sources together (cosine similarity s),
    weighted by exp(s / `temperature`). Only cells at most `radius` rows and columns away count.

    Args:
        features: f32[h, w, D] of length 1.
        sources: frames of the same size.
    """
    height, width, _ = features.shape
    known = torch.stack([source.features for source in sources])
    labels = torch.stack([source.labels for source in sources])
    certain = torch.stack([source.certain for source in sources])
    found = torch.empty_like(labels[0])
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            block = slice(top, min(top + BLOCK, height)), slice(left, min(left + BLOCK, width))
            around = tuple(
                slice(max(0, part.start - radius), min(part.stop + radius, side))
                for part, side in zip(block, (height, width), strict=True)
            )
            near = certain[:, *around]
            if near.min() == near.max() and near[0, 0, 0] >= 0:  # whatever is similar, the label is this one
                found[block] = labels[0, around[0].start, around[1].start]
                continue
            penalty = _distance_penalty(block, around, radius, features)
            score, cell = _most_similar(features[block].flatten(0, 1), known[:, *around], penalty, neighbours)
            weight = torch.softmax(score / temperature, dim=1)
            mean = (weight[..., None] * labels[:, *around].flatten(0, 2)[cell]).sum(dim=1)
            # Rounding must not make a cell that is wholly of one label a little less so.
            found[block] = (mean / mean.sum(dim=1, keepdim=True)).view(found[block].shape)
    return found


def _distance_penalty(block: tuple[slice, ...], around: tuple[slice, ...], radius: int, like: Tensor) -> Tensor:
    """f32[cells of the block, rows · columns around]: −∞ for cells too far away, else 0."""
    far = []
    for inner, outer in zip(block, around, strict=True):
        own = torch.arange(inner.start, inner.stop, device=like.device)
        other = torch.arange(outer.start, outer.stop, device=like.device)
        far.append((own[:, None] - other).abs() > radius)
    rows, columns = far
    either = rows[:, None, :, None] | columns[None, :, None, :]
    return torch.zeros(either.shape, device=like.device).masked_fill_(either, -torch.inf).flatten(2).flatten(0, 1)


def _most_similar(features: Tensor, known: Tensor, penalty: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Similarities f32[m, count] and indices int64[m, count] of the most similar of the cells `known` f32[n, y, x, D].

    `features`: f32[m, D]; `penalty`: f32[m, y · x]. Only those columns of a frame can hold one of the `count` largest
    whose own largest is among the `count` largest of all columns, so that few similarities have to be sorted.
    """
    frames, rows, columns, _ = known.shape
    similarity = torch.baddbmm(
        penalty.expand(frames, -1, -1), features.expand(frames, -1, -1), known.flatten(1, 2).transpose(1, 2)
    )
    by_column = similarity.view(frames, -1, rows, columns).permute(1, 0, 3, 2)  # [m, frames, columns, rows]
    largest = by_column.amax(dim=3).flatten(1)
    count = min(count, frames * rows * columns)
    column = largest.topk(min(count, largest.shape[1]), dim=1, sorted=False).indices
    frame, across = column // columns, column % columns
    m = torch.arange(len(features), device=features.device)[:, None]
    candidates = by_column[m, frame, across]  # [m, count, rows]
    score, place = candidates.flatten(1).topk(count, dim=1)
    chosen, row = place // rows, place % rows
    frame, across = frame.gather(1, chosen), across.gather(1, chosen)
    return score, (frame * rows + row) * columns + across
