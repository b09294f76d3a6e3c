"""Numerical precision of what must not be rounded."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(of: Tensor) -> AbstractContextManager[None]:
    """Turn autocast off on a tensor's device. Tensors without values, on which operations are counted, have none."""
    return nullcontext() if of.is_meta else torch.autocast(of.device.type, enabled=False)
