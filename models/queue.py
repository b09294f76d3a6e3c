"""A queue of embeddings from earlier steps, the same on all ranks (He et al. 2020, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infoaug.models.precision import without_autocast
from infoaug.models.ranks import gather_rows


class Queue(nn.Module):
    """The last `size` embeddings that were pushed, and the images that they show; all of it is in state_dict.

    Buffers: `keys` float[size, dim], unit vectors, initially random; `image` int64[size], −1 where unknown; `position`
    int64[], the slot of the next key. Raises ValueError for a size or width below 1.
    """

    keys: Tensor
    image: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"A queue needs a size and a width of at least 1, not {size} and {dim}.")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("image", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def nearest(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Each embedding's nearest key by cosine similarity, float[B, dim], and the image that it shows, int64[B]."""
        with without_autocast(embeddings):  # bfloat16 could not tell near neighbours apart
            index = (embeddings.to(self.keys.dtype) @ self.keys.T).argmax(dim=1)
        return self.keys[index], self.image[index]

    @torch.no_grad()
    def push(self, keys: Tensor, image: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Replace the oldest keys by the valid ones of all ranks, without waiting for the device.

        Keys enter in the order of the ranks, so one process with the global batch has the same queue. Of more than
        `size` keys the last ones stay. Buffers are replaced rather than written to: a loss that has read them can still
        be differentiated.

        Args:
            keys: float[B, dim], normalised here; B is independent of `size`.
            image: int64[B], the images that they show; None: unknown.
            valid: bool[B], which of them enter; None: all.
        """
        keys = gather_rows(F.normalize(keys.to(self.keys.dtype), dim=1))
        image = gather_rows(torch.full_like(keys[:, 0], -1, dtype=torch.int64) if image is None else image)
        valid = torch.ones_like(image, dtype=torch.bool) if valid is None else gather_rows(valid)
        # For every slot, find the key that lands in it. The number of keys is known to the device only, so no shape may
        # depend on it.
        size, number = len(self.image), valid.sum()
        arrival = valid.argsort(descending=True, stable=True)
        turn = (torch.arange(size, device=keys.device) - self.position) % size
        newest = turn + (number - 1 - turn).clamp(min=0) // size * size
        source = arrival[newest.clamp(max=len(arrival) - 1)]
        replaced = turn < number
        self.keys = torch.where(replaced[:, None], keys[source], self.keys)
        self.image = torch.where(replaced, image[source], self.image)
        self.position = (self.position + number) % size
