"""kNN and probe in blocks: the same as scikit-learn's, whatever the blocks are, and in bounded memory."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from infoaug.models import memory
from infoaug.orchestrator.config import EvaluateConfig, load
from infoaug.orchestrator.evaluation import classifiers, rows
from infoaug.orchestrator.evaluation.classifiers import Knn, Probe
from infoaug.orchestrator.evaluation.neighbours import nearest
from infoaug.orchestrator.evaluation.rows import Rows

MIB = 1 << 20
both = pytest.mark.parametrize("classifier", [Knn, Probe])


def settings(*overrides: str) -> EvaluateConfig:
    return load(None, [f"evaluate.{o}" for o in overrides]).evaluate


def correlated(seed: int, count: int, classes: int, dimensions: int = 12) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Features of overlapping classes whose scales span three decades, one of them constant; labels with gaps."""
    mixing = np.random.default_rng(7).normal(size=(dimensions, dimensions)) * np.logspace(-1, 2, dimensions)
    centres = np.random.default_rng(8).normal(size=(classes, dimensions))
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(count) % classes)
    features = (centres[numbers] + rng.normal(size=(count, dimensions))) @ mixing + 5
    features[:, 3] = 0.1
    return features.astype(np.float32), 3 * numbers + 2


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        (classifiers, "QUERIES", 7),
        (classifiers, "SEARCHED", 41),
        (rows, "BLOCK", 100),
    ):
        monkeypatch.setattr(module, name, {"cpu": size})


# ---- scikit-learn's


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_probe_has_the_weights_of_scikit_learn(classes: int, c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "LEAST_CHANGE", 1e-10)
    (seen, labels), (unseen, _) = correlated(0, 400, classes), correlated(1, 300, classes)
    scaler = StandardScaler().fit(seen.astype(np.float64))
    reference = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(scaler.transform(seen.astype(np.float64)), labels)
    found = Probe(Rows(seen), labels, settings(f"probe_c={c}"))
    weights = found.weights.numpy()
    if classes == 2:
        weights = weights[1:] - weights[:1]
    np.testing.assert_allclose(weights, reference.coef_, atol=2e-3)
    expected = reference.predict(scaler.transform(unseen.astype(np.float64)))
    assert np.mean(found.predict(Rows(unseen)) == expected) > 0.99


@pytest.mark.parametrize("k", [1, 10, 200])
def test_knn_predicts_what_scikit_learn_predicts_in_blocks_of_any_size(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen, labels), (unseen, _) = correlated(0, 500, 10), correlated(1, 300, 10)
    seen[5] = 0  # it has no direction
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.1)
    )
    expected = reference.fit(seen, labels).predict(unseen)
    assert np.array_equal(Knn(Rows(seen), labels, settings(f"neighbours={k}")).predict(Rows(unseen)), expected)
    small_blocks(monkeypatch)
    assert np.array_equal(Knn(Rows(seen), labels, settings(f"neighbours={k}")).predict(Rows(unseen)), expected)


def test_features_that_are_nearly_the_same_do_not_slow_the_probe_down() -> None:
    rng = np.random.default_rng(0)
    seen = (rng.normal(size=(2000, 1)) + 0.01 * rng.normal(size=(2000, 30))).astype(np.float32)
    labels = (seen[:, 0] - seen[:, 1] + 0.005 * rng.normal(size=2000) > 0).astype(int)
    standard = StandardScaler().fit_transform(seen)
    reference = LogisticRegression(C=1000, max_iter=5000, tol=1e-6).fit(standard, labels)
    found = Probe(Rows(seen), labels, settings("probe_c=1000"))
    assert found.iterations < reference.n_iter_[0] / 2
    assert np.mean(found.predict(Rows(seen)) == reference.predict(standard)) > 0.99


# ---- invariances


@given(
    st.integers(1, 5), st.integers(1, 300), st.integers(1, 40), st.sampled_from([3, 1 << 20]), st.integers(0, 2**32 - 1)
)
def test_the_nearest_are_the_largest(queries: int, count: int, k: int, distinct: int, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).integers(distinct, size=(queries, count)).astype(np.float32))
    found, at = nearest(values, k)
    assert torch.equal(found.sort(dim=1).values, values.topk(min(k, count)).values.flip(1))
    assert torch.equal(found, values.gather(1, at))
    assert all(len(row.unique()) == len(row) for row in at), "no column is taken twice"


@both
def test_neither_the_order_of_the_images_nor_the_blocks_matter(
    classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (seen, labels), (unseen, _) = correlated(0, 400, 5), correlated(1, 300, 5)
    expected = classifier(Rows(seen), labels, settings("neighbours=20")).predict(Rows(unseen))
    small_blocks(monkeypatch)
    order = np.random.default_rng(2).permutation(400)
    found = classifier(Rows(seen[order]), labels[order], settings("neighbours=20")).predict(Rows(unseen))
    assert np.mean(found == expected) > 0.99


@both
def test_chosen_rows_are_as_good_as_a_copy_of_them(classifier: Any) -> None:
    (seen, labels), (unseen, _) = correlated(0, 400, 5), correlated(1, 300, 5)
    chosen, tested = np.arange(400) % 3 > 0, np.arange(300) % 2 > 0
    copied = classifier(Rows(seen[chosen]), labels[chosen], settings()).predict(Rows(unseen[tested]))
    found = classifier(Rows(seen, chosen=chosen), labels[chosen], settings()).predict(Rows(unseen, chosen=tested))
    assert np.array_equal(found, copied)


# ---- degenerate cases


def test_of_classes_with_equal_votes_the_smallest_number_wins() -> None:
    seen = np.array([[1, 1], [1, -1], [1, 1], [1, -1]], np.float32)
    for labels in ([5, 2, 5, 2], [2, 5, 2, 5]):
        found = Knn(Rows(seen), np.array(labels), settings("neighbours=4")).predict(
            Rows(np.eye(2, dtype=np.float32)[:1])
        )
        assert found.tolist() == [2]


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused_wherever_they_are(classifier: Any, value: float) -> None:
    (seen, labels), (unseen, _) = correlated(0, 40, 2), correlated(1, 30, 2)
    broken = unseen.copy()
    broken[[3, 7], 2] = value
    fitted = classifier(Rows(seen), labels, settings())
    with pytest.raises(
        ValueError, match="the features of 2 of 30 images are NaN or infinite: the training has diverged"
    ):
        fitted.predict(Rows(broken))
    assert len(fitted.predict(Rows(broken, chosen=np.isfinite(broken).all(axis=1)))) == 28


def test_what_no_classifier_can_be_fitted_on_is_refused() -> None:
    seen, labels = correlated(0, 40, 2)
    with pytest.raises(ValueError, match="at least two classes"):
        Probe(Rows(seen), np.zeros_like(labels), settings())
    with pytest.raises(ValueError, match="there are no images"):
        Rows(seen, chosen=np.zeros(40, dtype=bool))


# ---- memory


def growth(work: Any) -> int:
    """Bytes by which a function's peak exceeds the memory held before it."""
    memory.reset_peak()
    before = memory.peak()
    work()
    return memory.peak() - before


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", {"cpu": 1 << 18})
    monkeypatch.setattr(classifiers, "SEARCHED", {"cpu": 1024})
    monkeypatch.setattr(classifiers, "QUERIES", {"cpu": 128})
    rng = np.random.default_rng(0)
    seen = np.zeros((1 << 18, 64), np.float32)  # 64 MiB
    seen[:, :2] = rng.normal(size=(len(seen), 2))
    labels = (seen[:, 0] > 0).astype(np.int64)
    some = Rows(seen[:256])
    Probe(some, labels[:256], settings("probe_iterations=2"))  # what is imported and started only once
    chosen = seen[:, 1] > 0
    assert growth(lambda: Probe(Rows(seen, chosen=chosen), labels[chosen], settings("probe_iterations=2"))) < 24 * MIB
    assert growth(lambda: Knn(Rows(seen), labels, settings("neighbours=5")).predict(some)) < 24 * MIB
    many, numbers = Rows(seen[:16384, :8]), np.arange(16384) % 2000  # 125 MiB of log-probabilities, twice
    assert growth(lambda: Probe(many, numbers, settings("probe_iterations=2")).predict(many)) < 96 * MIB
