"""The torch form gives the numbers of the compiled kernel, on any device."""

import numpy as np
import pytest
import torch

from infoaug.estimators.information import gpu, kernels
from infoaug.estimators.information.mutual_information import pairwise_mutual_information

CASES = [("ksg", False), ("ksg", True), ("ksg2", False), ("3kl", False)]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


@pytest.mark.parametrize(("estimator", "conditional"), CASES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize(("frames", "theiler", "share"), [(20, 0, 2.0), (50, 2, 0.8), (33, 0, 0.7)])
def test_every_pair_is_the_kernel_s_number(
    estimator: str, conditional: bool, device: str, frames: int, theiler: int, share: float
) -> None:
    rng = np.random.default_rng(frames)
    x, visible = rng.normal(size=(7, frames, 2)), rng.random((7, frames)) < share
    x[1] += x[0]
    z = rng.normal(size=(frames, 2)) if conditional else None
    options = {"estimator": estimator, "k": 3, "least": 10, "theiler": theiler, "condition": z, "symmetric": True}
    found = gpu.all_pairs(x, x, visible, visible, device=device, **options)
    assert found == pytest.approx(kernels.all_pairs(x, x, visible, visible, **options), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch, symmetric: bool) -> None:
    x = np.random.default_rng(0).normal(size=(7, 24, 2))
    y, seen = x if symmetric else x[::-1][:5], np.ones((7, 24), bool)
    options = {"estimator": "ksg", "k": 3, "least": 0, "symmetric": symmetric}
    whole = gpu.all_pairs(x, y, seen, seen[: len(y)], device="cpu", **options)
    monkeypatch.setattr(gpu, "_IN_FLIGHT", 4 * 24)
    assert np.array_equal(gpu.all_pairs(x, y, seen, seen[: len(y)], device="cpu", **options), whole, equal_nan=True)


@on_gpu
def test_single_precision_is_near_on_the_gpu() -> None:
    x = np.random.default_rng(3).normal(size=(30, 64, 2))
    single, double = (
        pairwise_mutual_information(x, dtype=dtype, backend=b) for dtype, b in (("float32", "cuda"), ("float64", "cpu"))
    )
    assert np.nanmax(np.abs(single - double)) < 5e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_remedy_is_named() -> None:
    with pytest.raises(ValueError, match="backend='cpu'"):
        pairwise_mutual_information(np.random.default_rng(0).normal(size=(3, 20, 2)), backend="cuda")
