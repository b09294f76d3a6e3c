"""The compiled kernel gives the numbers of NPEET and of the readable form, for any window."""

import importlib.util

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from infoaug.estimators.information import kernels
from infoaug.estimators.information.kernels import all_pairs
from infoaug.estimators.information.mutual_information import pairwise_mutual_information
from infoaug.estimators.options import LARGEST_K

# numba compiles a kernel for every k and dtype, which takes many seconds: the fast suite keeps to few of them.
slow = pytest.mark.slow
some = settings(derandomize=True, max_examples=40)


def window(seed: int, count: int, frames: int, dimensions: int) -> np.ndarray:
    """Trajectories f64[count, frames, dimensions], some of which share what moves them."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(2, count, frames, dimensions))
    return own + rng.uniform(0, 2, (count, 1, 1)) * shared[:1]


def all_seen(x: np.ndarray) -> np.ndarray:
    return np.ones(x.shape[:2], bool)


@pytest.mark.parametrize(
    "k", [pytest.param(1, marks=slow), 3, pytest.param(4, marks=slow), pytest.param(5, marks=slow)]
)
@some
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(12, 140), dimensions=st.integers(1, 4))
def test_every_pair_is_npeet_s_number(seed: int, frames: int, dimensions: int, k: int) -> None:
    x = window(seed, 4, frames, dimensions)
    found, expected = (
        pairwise_mutual_information(x, estimator=estimator, k=k, backend=backend)
        for estimator, backend in (("ksg", "cpu"), ("npeet", "reference"))
    )
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@some
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(12, 100), share=st.floats(0.3, 1.0))
def test_hidden_samples_are_left_out_of_a_pair_whatever_they_hold(seed: int, frames: int, share: float) -> None:
    x = window(seed, 5, frames, 2)
    visible = np.random.default_rng(seed).random((5, frames)) < share
    x[~visible] = np.nan
    found, expected = (
        pairwise_mutual_information(x, k=3, visible=visible, min_samples=8, backend=backend)
        for backend in ("cpu", "reference")
    )
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("estimator", "conditional"), [("ksg", False), ("ksg", True), ("ksg2", False), ("3kl", False)])
@settings(derandomize=True, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(9, 80), theiler=st.integers(0, 3), share=st.floats(0.6, 1.2))
def test_every_estimator_is_its_readable_form(
    estimator: str, conditional: bool, seed: int, frames: int, theiler: int, share: float
) -> None:
    x, rng = window(seed, 5, frames, 2), np.random.default_rng(seed)
    visible, z = rng.random((5, frames)) < share, rng.normal(size=(frames, 2))
    found, expected = (
        pairwise_mutual_information(
            x, estimator=estimator, theiler=theiler, condition_on=z if conditional else None, visible=visible,
            backend=backend,
        )
        for backend in ("cpu", "reference")
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("k", [pytest.param(1, marks=slow), 3, pytest.param(LARGEST_K, marks=slow)])
def test_any_number_of_neighbours_and_trajectories_is_served(k: int) -> None:
    x = window(k, 21, 40, 2)  # more than two blocks
    found = pairwise_mutual_information(x, k=k, backend="cpu")
    assert found == pytest.approx(pairwise_mutual_information(x, k=k, backend="reference"), abs=1e-9, nan_ok=True)
    assert np.array_equal(found, found.T, equal_nan=True) and np.isnan(np.diag(found)).all()


def test_two_sets_are_compared_each_with_each() -> None:
    x = window(1, 14, 50, 2)
    a, b = x[:5], x[5:]
    both = pairwise_mutual_information(x, k=3, backend="reference")
    found = all_pairs(a, b, all_seen(a), all_seen(b), estimator="ksg", k=3, least=0)
    assert found == pytest.approx(both[:5, 5:], abs=1e-9)


def test_the_result_does_not_depend_on_threads() -> None:
    x = window(2, 40, 48, 2)
    results = []
    before = numba.get_num_threads()
    for threads in {1, before}:
        numba.set_num_threads(threads)
        results.append(pairwise_mutual_information(x, k=3, backend="cpu"))
    numba.set_num_threads(before)
    assert all(np.array_equal(results[0], result, equal_nan=True) for result in results)


def test_single_precision_is_near() -> None:
    x = window(3, 30, 64, 2)
    single, double = (pairwise_mutual_information(x, k=3, dtype=dtype) for dtype in ("float32", "float64"))
    assert np.nanmax(np.abs(single - double)) < 5e-3
    assert np.sqrt(np.nanmean((single - double) ** 2)) < 3e-4


def test_ties_are_counted_as_the_readable_form_counts_them() -> None:
    x = np.round(window(4, 6, 60, 2))
    found = pairwise_mutual_information(x, k=3, backend="cpu")
    assert found == pytest.approx(pairwise_mutual_information(x, k=3, backend="reference"), abs=1e-9, nan_ok=True)


def test_pairs_with_too_few_samples_have_no_number() -> None:
    x = window(5, 3, 5, 2)
    assert np.isnan(pairwise_mutual_information(x, k=5, backend="cpu")).all()
    assert pairwise_mutual_information(np.zeros((0, 9, 2)), backend="cpu").shape == (0, 0)


def test_what_the_kernel_does_not_know_is_said() -> None:
    x = window(6, 3, 20, 2)
    with pytest.raises(ValueError, match="not 'npeet'"):
        pairwise_mutual_information(x, estimator="npeet", backend="cpu")
    with pytest.raises(ValueError, match="k up to 10"):
        pairwise_mutual_information(x, k=11, backend="cpu")
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        pairwise_mutual_information(x, backend="gpu")
    with pytest.raises(ValueError, match="float16"):
        pairwise_mutual_information(x, dtype="float16")
    assert np.isfinite(pairwise_mutual_information(x, k=11)[0, 1]), "auto takes the readable form"


def test_where_numba_may_write_nowhere_the_kernel_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # a package of root's, and no home
    spec = importlib.util.spec_from_file_location("uncached", kernels.__file__)
    assert spec and spec.loader
    uncached = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(uncached)
    assert uncached._candidates(np.ones(4, bool), 0, np.arange(9.0)) == (4, 3, 4.0)
