"""kNN, linear probe and frozen features, without Ray."""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from infoaug.models.augment import CIFAR_MEAN, CIFAR_STD
from infoaug.models.backbones import create_backbone
from infoaug.models.collapse import rank_me
from infoaug.orchestrator.config import EvaluateConfig, load
from infoaug.orchestrator.evaluation import datasets
from infoaug.orchestrator.evaluation.datasets import Labelled, few, held_out
from infoaug.orchestrator.evaluation.probes import Validation, features, knn_accuracy, low_shot, probe_accuracy, rank
from infoaug.orchestrator.evaluation.probes import accuracies as accuracies_of
from infoaug.orchestrator.evaluation.rows import Rows
from infoaug.orchestrator.runtime import scratch

Split = tuple[NDArray[np.float32], NDArray[np.int64]]
Accuracy = Callable[..., float]
accuracies = pytest.mark.parametrize("accuracy", [knn_accuracy, probe_accuracy])


def settings(*overrides: str) -> EvaluateConfig:
    return load(None, [f"evaluate.{o}" for o in overrides]).evaluate


def blobs(seed: int, count: int, classes: int = 4, noise: float = 1.0, dimensions: int = 6) -> Split:
    """Features around one centre a class; the centres are the same for every seed."""
    centres = 3 * np.random.default_rng(99).normal(size=(classes, dimensions))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return (centres[labels] + noise * rng.normal(size=(count, dimensions))).astype(np.float32), labels


def wu(seen: np.ndarray, labels: np.ndarray, unseen: np.ndarray, k: int, temperature: float) -> NDArray[np.int64]:
    """Classes by the vote of Wu et al. 2018, section 3.4: w_c = Σ over the k nearest of class c of exp(s / τ)."""
    a, b = (v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (seen, unseen))
    votes = np.zeros((len(b), labels.max() + 1))
    for query, similarity in enumerate(b @ a.T):
        for neighbour in np.argsort(-similarity)[:k]:
            votes[query, labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
    return votes.argmax(1)


# ---- kNN


@pytest.mark.parametrize("k", [1, 7, 50, 200])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_knn_is_the_weighted_vote_of_the_paper(k: int, temperature: float) -> None:
    seen, labels = blobs(0, 250, noise=4)
    unseen, truth = blobs(1, 150, noise=4)
    expected = wu(seen, labels, unseen, k, temperature)
    chosen = settings(f"neighbours={k}", f"temperature={temperature}")
    assert knn_accuracy(seen, labels, unseen, expected, chosen) == 1.0, "every single vote is the same"
    found = knn_accuracy(seen, labels, unseen, truth, chosen)
    assert found == pytest.approx(np.mean(expected == truth))
    assert 0.3 < found < 0.95, "the case is neither trivial nor hopeless"


def test_weights_matter() -> None:
    # Two of class 1 at some angle outvote one of class 0 that is nearly the query, unless closeness weighs enough.
    seen = np.array([[1, 0.02], [1, 0.9], [1, -0.9]], np.float32)
    labels, query = np.array([0, 1, 1]), np.array([[1, 0]], np.float32)
    assert knn_accuracy(seen, labels, query, np.array([0]), settings("temperature=0.1")) == 1
    assert knn_accuracy(seen, labels, query, np.array([1]), settings("temperature=10")) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-6])
def test_a_very_low_temperature_is_the_nearest_neighbour(temperature: float) -> None:
    seen, labels = blobs(0, 100, noise=4)
    unseen, _ = blobs(1, 60, noise=4)
    nearest = wu(seen, labels, unseen, 1, 1.0)
    assert knn_accuracy(seen, labels, unseen, nearest, settings(f"temperature={temperature}")) == 1.0


def test_the_length_of_a_feature_does_not_matter_to_knn() -> None:
    seen, labels = blobs(0, 100, noise=4)
    unseen, truth = blobs(1, 60, noise=4)
    longer = seen * np.random.default_rng(2).uniform(0.1, 10, (100, 1)).astype(np.float32)
    chosen = settings("neighbours=20")
    assert knn_accuracy(longer, labels, unseen, truth, chosen) == knn_accuracy(seen, labels, unseen, truth, chosen)


def test_with_fewer_training_images_than_neighbours_all_of_them_vote() -> None:
    seen, labels = blobs(0, 12, noise=4)
    unseen, _ = blobs(1, 40, noise=4)
    expected = wu(seen, labels, unseen, 12, 0.1)
    assert knn_accuracy(seen, labels, unseen, expected, settings("neighbours=200")) == 1.0


# ---- both


@accuracies
def test_classes_that_lie_apart_are_told_apart(accuracy: Accuracy) -> None:
    assert accuracy(*blobs(0, 200, noise=0.1), *blobs(1, 100, noise=0.1), settings("neighbours=20")) == 1.0


@accuracies
def test_random_labels_are_guessed_at_chance(accuracy: Accuracy) -> None:
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(2, 1500, 8)).astype(np.float32)
    labels, truth = rng.integers(10, size=(2, 1500))
    assert accuracy(seen, labels, unseen, truth, settings()) == pytest.approx(0.1, abs=0.035)


@accuracies
def test_a_class_that_is_not_among_the_training_images_is_never_right(accuracy: Accuracy) -> None:
    (seen, labels), (unseen, truth) = blobs(0, 100, noise=0.1), blobs(1, 200, noise=0.1)
    rest = labels != 3
    found = accuracy(seen[rest], labels[rest], unseen, truth, settings("neighbours=10"))
    assert found == pytest.approx(np.mean(truth != 3))


# ---- probe


def test_the_probe_does_not_depend_on_scale_and_does_not_complain_when_out_of_iterations() -> None:
    seen, labels = blobs(0, 200, noise=3)
    unseen, truth = blobs(1, 100, noise=3)
    scale = np.array([1e4, 1, 1e-4, 1, 1, 1], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = probe_accuracy(seen, labels, unseen, truth, settings())
        scaled = probe_accuracy(seen * scale, labels, unseen * scale, truth, settings())
        probe_accuracy(seen, labels, unseen, truth, settings("probe_iterations=1"))
    assert plain == pytest.approx(scaled, abs=0.02)


def test_the_probe_is_linear() -> None:
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(2, 600, 2)).astype(np.float32)
    ring, exclusive = (lambda x: (np.hypot(*x.T) > 1.1).astype(int)), (lambda x: (x.prod(1) > 0).astype(int))
    for classes in (ring, exclusive):
        assert probe_accuracy(seen, classes(seen), unseen, classes(unseen), settings()) < 0.65
        assert knn_accuracy(seen + 3, classes(seen), unseen + 3, classes(unseen), settings("neighbours=5")) > 0.5


def test_a_smaller_c_holds_the_probe_back() -> None:
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(60, 50)).astype(np.float32)
    labels = (rng.random(60) < 0.8).astype(int)
    loose = probe_accuracy(seen, labels, seen, labels, settings("probe_c=100"))
    tight = probe_accuracy(seen, labels, seen, labels, settings("probe_c=1e-6"))
    assert loose == 1.0
    assert tight == pytest.approx(max(np.mean(labels), 1 - np.mean(labels)))


# ---- features


def test_features_are_of_normalised_pixels_without_augmentation() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = features(nn.Flatten(), images, batch_size=2)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (CIFAR_MEAN, CIFAR_STD))
    expected = (images.numpy() / 255 - mean) / std
    assert found.dtype == np.float32
    assert found == pytest.approx(expected.reshape(5, -1), abs=1e-5)


def test_features_do_not_depend_on_the_batch_and_leave_the_backbone_frozen() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16]).train()
    images = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = features(backbone, images, batch_size=4)
    assert found.shape == (11, backbone.num_features)
    assert found == pytest.approx(features(backbone, images, batch_size=11), abs=1e-5)
    assert found[3:4] == pytest.approx(features(backbone, images[3:4], batch_size=4), abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not backbone.training


def test_features_that_exceed_a_share_of_the_memory_are_in_a_file_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (11, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = features(nn.Flatten(), images, batch_size=4)
    assert not isinstance(expected, np.memmap)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    found = features(nn.Flatten(), images, batch_size=4)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, expected)
    assert Rows(found).count == 11


# ---- all that is said of a backbone


def pixels(images: torch.Tensor) -> NDArray[np.float32]:
    """Features that are the first six pixels."""
    return images.flatten(1)[:, :6].float().numpy()


def split(seed: int, count: int) -> Labelled:
    """Images whose first pixels tell their class, more or less."""
    found, labels = blobs(seed, count, noise=2)
    images = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    images.flatten(1)[:, :6] = torch.from_numpy(found * 4 + 128).clamp(0, 255).to(torch.uint8)
    return Labelled(images, torch.from_numpy(labels))


def test_validation_is_on_the_held_out_fifth_and_neither_sees_it_nor_the_test_images() -> None:
    train, test, chosen = split(0, 200), split(1, 100), settings("neighbours=10")
    found = accuracies_of(train, test, chosen, pixels)
    assert found.keys() == {"knn", "probe", "validation_knn", "validation_probe", "rank_me"}
    seen, labels, held = pixels(train.images), train.labels.numpy(), held_out(train.labels).numpy()
    for metric, accuracy in (("knn", knn_accuracy), ("probe", probe_accuracy)):
        assert found[metric] == accuracy(seen, labels, pixels(test.images), test.labels.numpy(), chosen)
        parts = seen[~held], labels[~held], seen[held], labels[held]
        assert found[f"validation_{metric}"] == accuracy(*parts, chosen)
        assert 0.3 < found[f"validation_{metric}"] < 1
    other = accuracies_of(train, split(2, 50), chosen, pixels)
    assert all(other[key] == found[key] for key in ("validation_knn", "validation_probe"))
    assert other["knn"] != found["knn"]


def test_what_is_kept_are_the_classes_that_the_probe_finds_in_the_test_images() -> None:
    train, test, kept = split(0, 200), split(1, 100), []
    found = accuracies_of(train, test, settings(), pixels, keep=lambda *of: kept.append(of))
    ((seen, unseen, classes),) = kept
    assert np.array_equal(seen, pixels(train.images))
    assert np.array_equal(unseen, pixels(test.images))
    assert np.mean(classes == test.labels.numpy()) == found["probe"] and found["probe"] != found["knn"]


@pytest.mark.parametrize("counts", [[500, 300, 4, 1], [7] * 30])
def test_few_labels_are_a_share_of_every_class_and_at_least_one_image(counts: list[int]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)) * 2
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    one, ten = few(labels, 0.01), few(labels, 0.1)
    assert torch.equal(ten, few(labels, 0.1))
    assert ten[one].all(), "a smaller share is part of a larger one"
    for label, count in enumerate(counts):
        for chosen, share in ((one, 0.01), (ten, 0.1)):
            assert chosen[labels == 2 * label].sum() == max(1, int(share * count + 0.5))


def test_low_shot_probes_are_fitted_on_few_labels_and_tested_on_all_test_images() -> None:
    train, test, chosen = split(0, 400), split(1, 100), settings()
    found = low_shot(train, test, chosen, pixels, [0.015, 0.1])
    assert found.keys() == {"probe_1.5", "probe_10"}
    for key, share in (("probe_1.5", 0.015), ("probe_10", 0.1)):
        seen = few(train.labels, share)
        parts = pixels(train.images[seen]), train.labels[seen].numpy(), pixels(test.images), test.labels.numpy()
        assert found[key] == probe_accuracy(*parts, chosen)
    assert found["probe_1.5"] < accuracies_of(train, test, chosen, pixels)["probe"]


def test_features_that_are_no_numbers_are_one_sentence() -> None:
    def broken(images: torch.Tensor) -> NDArray[np.float32]:
        return np.where(np.arange(len(images))[:, None] < 3, np.nan, pixels(images)).astype(np.float32)

    with pytest.raises(ValueError, match="features of 3 of 100 images are NaN or infinite"):
        accuracies_of(split(0, 200), split(1, 100), settings(), broken)


def test_rank_me_is_of_the_test_images_features() -> None:
    train, test = split(0, 100), split(1, 100)
    one = Labelled(torch.full_like(test.images, 7), test.labels)
    assert accuracies_of(train, one, settings(), pixels)["rank_me"] == pytest.approx(1, abs=1e-3)
    assert accuracies_of(one, test, settings(), pixels)["rank_me"] > 1.5


@pytest.mark.parametrize("counts", [(500, 300), (5, 3), (1, 20)])
def test_the_rank_of_blocks_is_that_of_all_features(counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infoaug.orchestrator.evaluation.rows.BLOCK", {"cpu": 200})
    parts = [blobs(seed, count, noise=2, dimensions=12)[0] for seed, count in enumerate(counts)]
    expected = rank_me(torch.from_numpy(np.concatenate(parts))).item()
    assert rank([Rows(part) for part in parts]) == pytest.approx(expected, rel=1e-4)


def test_validation_while_training_is_what_evaluation_finds_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["extract.image_size=16", "evaluate.limit=60", "evaluate.every=1"]
    config = load(None, [*overrides, "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"])
    torch.manual_seed(5)
    backbone = create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
    data = datasets.load("scenes", config.evaluate, 16)
    splits = data.train, data.test
    expected = accuracies_of(*splits, config.evaluate, lambda images: features(copy.deepcopy(backbone), images, 512))
    random = torch.get_rng_state()
    validation = Validation(config, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), random)
    assert validation.knn(backbone) == expected["validation_knn"]
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert validation.knn(backbone) != expected["validation_knn"], "it is of the weights as they are now"
