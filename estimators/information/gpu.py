"""Nearest-neighbour mutual information of all pairs on an NVIDIA GPU: the numbers of `kernels.py`, in PyTorch.

The distances [B, T, T] within each trajectory of a block stay on the device while the block is compared with all other
blocks. A sweep handles all samples of all pairs of two blocks at once and a stretch of candidates, the samples they are
compared with, at a time; torch.compile makes one pass over memory of a stretch. Nothing of the size N²·T² is stored.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import digamma
from torch import Tensor

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]

# Candidates of a compiled stretch: more would take long to compile, fewer would read the state too often.
_STRETCH = 16
# Samples of pairs handled at once: enough to use a whole GPU, and a few hundred MiB.
_IN_FLIGHT = 4 * 1024 * 1024


def all_pairs(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    seen_x: Bool,
    seen_y: Bool,
    *,
    estimator: str,
    k: int,
    least: int,
    theiler: int = 0,
    condition: NDArray[np.floating] | None = None,
    symmetric: bool = False,
    device: str | None = None,
) -> Float:
    """Estimate every pair; arguments and result as in `kernels.all_pairs`.

    Args:
        device: torch device, for tests; None: the GPU.

    Raises:
        ValueError: PyTorch finds no GPU.
    """
    if device is None:
        if not torch.cuda.is_available():
            raise ValueError("backend='cuda' needs an NVIDIA GPU, and PyTorch finds none: use backend='cpu'")
        device = "cuda"
    length = x.shape[1]
    a, b, shown_a, shown_b = (torch.from_numpy(np.ascontiguousarray(v)).to(device) for v in (x, y, seen_x, seen_y))
    z = None if condition is None else _distances(torch.from_numpy(condition).to(device)[None], theiler)
    psi = torch.from_numpy(digamma(np.maximum(np.arange(length + 2), 1))).to(device)
    block = max(1, int((_IN_FLIGHT / max(length, 1)) ** 0.5))
    block = max(1, min(block, 2**28 // max(1, length * length * x.dtype.itemsize)))
    result = torch.full((len(x), len(y)), torch.nan, dtype=torch.float64, device=device)
    for i in range(0, len(x), block):
        first = _Block(a[i : i + block], shown_a[i : i + block], theiler, z)
        for j in range(i if symmetric else 0, len(y), block):
            second = _Block(b[j : j + block], shown_b[j : j + block], theiler, z)
            values = _block_pairs(first, second, z, psi, estimator, k, theiler, max(least, k + 2))
            result[i : i + block, j : j + block] = values
    matrix = result.cpu().numpy()
    if symmetric:
        matrix[np.tril_indices(len(x))] = np.nan
        upper = np.triu_indices(len(x), 1)
        matrix.T[upper] = matrix[upper]
    return np.asarray(matrix)


class _Block:
    """Trajectories with their distances [B, T, T] (candidate, sample), infinite where samples are not compared."""

    def __init__(self, samples: Tensor, seen: Tensor, theiler: int, z: Tensor | None) -> None:
        self.seen, self.dimensions = seen, samples.shape[2]
        own = _distances(samples, theiler).masked_fill(~seen[:, :, None], torch.inf)
        self.distance = own if z is None else torch.maximum(own, z)


def _distances(samples: Tensor, theiler: int) -> Tensor:
    """L∞ distances [B, T, T] of samples [B, T, d], infinite within the Theiler window."""
    far = samples.new_zeros(len(samples), samples.shape[1], samples.shape[1])
    for axis in range(samples.shape[2]):
        line = samples[..., axis]
        far = torch.maximum(far, (line[:, :, None] - line[:, None, :]).abs())
    time = torch.arange(samples.shape[1], device=samples.device)
    return far.masked_fill((time[:, None] - time).abs() <= theiler, torch.inf)


def _block_pairs(
    first: _Block, second: _Block, z: Tensor | None, psi: Tensor, estimator: str, k: int, theiler: int, least: int
) -> Tensor:
    """All pairs of two blocks, f64[B, C]."""
    a, b = first.distance[:, None], second.distance[None]
    both = first.seen[:, None] & second.seen[None]  # [B, C, T]
    shape = both.shape
    compiled = a.is_cuda
    best = _swept(_smallest, [a, b], [torch.full(shape, torch.inf, dtype=a.dtype, device=a.device)] * k, compiled)
    radius = best[-1]
    zero = torch.zeros(shape, dtype=torch.int32, device=a.device)
    hide_a, hide_b = (_hidden(s, a.dtype) for s in (second.seen[None], first.seen[:, None]))
    if estimator == "3kl":
        empty = [torch.full(shape, torch.inf, dtype=a.dtype, device=a.device)] * k
        near = [_swept(_smallest, [d, h], empty, compiled)[-1] for d, h in ((a, hide_a), (b, hide_b))]
        logs = [r.double().log() for r in (*near, radius)]
        weights = first.dimensions, second.dimensions, -first.dimensions - second.dimensions
        terms = -sum(w * log for w, log in zip(weights, logs, strict=True))
    else:
        reach = [radius, radius]
        if estimator == "ksg2":
            nothing = torch.zeros_like(radius)
            wide = _swept(_widest, [a, b], [nothing, nothing], compiled, radius)
            reach = [torch.nextafter(r, torch.full_like(r, torch.inf)) for r in wide]
        n_x, n_y = (
            _swept(_count, [d, h], [zero], compiled, r)[0] for d, h, r in ((a, hide_a, reach[0]), (b, hide_b, reach[1]))
        )
        own = 0 if estimator == "ksg2" else 1
        terms = psi[n_x.long() + own] + psi[n_y.long() + own]
        if z is not None:
            common = _hidden(both, a.dtype)
            terms = terms - psi[_swept(_count, [z[None], common], [zero], compiled, radius)[0].long() + 1]
    common_samples = both.sum(-1)
    mean = torch.where(both, terms, 0.0).sum(-1) / common_samples
    time = torch.arange(shape[-1], device=a.device)
    before = F.pad(both.long().cumsum(-1), (1, 0))  # [B, C, T + 1]
    within = before[..., (time + theiler + 1).clamp(max=shape[-1])] - before[..., (time - theiler).clamp(min=0)]
    compared = common_samples[..., None] - within
    fewest = torch.where(both, compared, shape[-1]).amin(-1)
    mean_psi = torch.where(both, psi[compared + 1], 0.0).sum(-1) / common_samples
    if estimator == "3kl":
        value = mean_psi - psi[k] - mean
    elif z is not None:
        value = psi[k] - mean
    else:
        value = psi[k] - (1 / k if estimator == "ksg2" else 0.0) + mean_psi - mean
    return torch.where((common_samples >= least) & (fewest > k), value, torch.nan)


def _hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Visibility [..., T] as distances [..., T, 1] of candidates: 0 where visible, infinite where not."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.inf)[..., None]


def _swept(
    work: Callable[..., list[Tensor]], panels: list[Tensor], state: list[Tensor], compiled: bool, *more: Tensor
) -> list[Tensor]:
    """Update the state with all candidates, a stretch at a time."""
    step: Any = torch.compile(work) if compiled else work
    for start in range(0, panels[0].shape[-2], _STRETCH):
        state = step([panel[..., start : start + _STRETCH, :] for panel in panels], state, *more)
    return state


def _smallest(panels: list[Tensor], best: list[Tensor]) -> list[Tensor]:
    """Update the k smallest joint distances of every sample."""
    a, b = panels
    best = list(best)
    for u in range(a.shape[-2]):
        far = torch.maximum(a[..., u, :], b[..., u, :])
        for m in range(len(best) - 1, 0, -1):
            best[m] = torch.minimum(best[m], torch.maximum(best[m - 1], far))
        best[0] = torch.minimum(best[0], far)
    return best


def _widest(panels: list[Tensor], widest: list[Tensor], radius: Tensor) -> list[Tensor]:
    """Update the largest distance, in either panel, of the candidates within the joint radius."""
    a, b = panels
    for u in range(a.shape[-2]):
        near = torch.maximum(a[..., u, :], b[..., u, :]) <= radius
        widest = [torch.where(near, torch.maximum(w, d[..., u, :]), w) for w, d in zip(widest, panels, strict=True)]
    return widest


def _count(panels: list[Tensor], number: list[Tensor], radius: Tensor) -> list[Tensor]:
    """Update the number of distances smaller than the radius."""
    a, hidden = panels
    count = number[0]
    for u in range(a.shape[-2]):
        count = count + (torch.maximum(a[..., u, :], hidden[..., u, :]) < radius)
    return [count]
