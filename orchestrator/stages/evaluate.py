"""Evaluate: the frozen backbone by weighted kNN and a linear probe, always beside the same backbone untrained."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from rich.markup import escape
from torch import nn

from infoaug.models.backbones import create_backbone, load_backbone
from infoaug.orchestrator.config import RUNTIME, EvaluateConfig, ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import datasets, domains, probes
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import Stage, Store, file_name
from infoaug.orchestrator.stages import pretrain

VERSION = 2  # of the numbers: raised when the same config would give others
MAX_CPUS = 8


@dataclass(frozen=True)
class Evaluated:
    """What the evaluate stage leaves: for every data set what `measure` found, cross-domain ones last."""

    stage: Stage
    results: list[dict[str, Any]]
    resumed: int

    @property
    def computed(self) -> int:
        """Data sets evaluated now."""
        return len(self.results) - self.resumed


def stage(config: ExperimentConfig, pretrained: Stage) -> Stage:
    """Where the accuracies of this model live."""
    settings = config.evaluate.model_dump(exclude=RUNTIME["evaluate"])
    return Stage(pretrained.store, "evaluate", {"version": VERSION, "pretrain": pretrained.hash, **settings})


def floor_stage(config: ExperimentConfig, store: Store) -> Stage:
    """Where the accuracies of the untrained backbone live, for all models that were trained from it."""
    key = config.evaluate.model_dump(exclude=RUNTIME["evaluate"])
    key |= {"backbone": config.pretrain.backbone, "backbone_settings": config.pretrain.backbone_settings}
    key |= {"version": VERSION, "image_size": config.extract.image_size, "seed": config.seed}
    return Stage(store, "floor", key)


def result_path(place: Stage, name: str, settings: EvaluateConfig) -> str:
    """Where the accuracies on one data set lie on the store."""
    kind = ["domains"] if name in settings.domains else []
    return place.path(f"{file_name(name, datasets.fingerprint(name), *kind)}.json")


def load(config: ExperimentConfig, store: Store) -> Evaluated:
    """What an earlier evaluation left.

    Raises:
        StageError: there was none for this config.
    """
    place = stage(config, pretrain.load(config, store).stage)
    paths = _paths(config, place)
    if not all(map(store.exists, paths.values())):
        raise StageError("this model is not evaluated yet: run `infoaug evaluate` with the same config first")
    return Evaluated(place, [store.read_json(path) for path in paths.values()], resumed=len(paths))


def run(config: ExperimentConfig, pretrained: pretrain.Pretrained) -> Evaluated:
    """Evaluate on every data set that is not done yet.

    Raises:
        UsageError: a data set is not to be had; those before it are kept.
    """
    place, store = stage(config, pretrained.stage), pretrained.stage.store
    place.record(config.to_yaml())
    paths = _paths(config, place)
    todo = [name for name, path in paths.items() if not store.exists(path)]
    console.say(f"evaluate: {len(paths)} data sets, {len(paths) - len(todo)} done")
    if todo:
        cluster.connect(config.ray)
        gpus = min(1, cluster.gpus())
        threads = cpus(config, cluster.largest(gpu=bool(gpus)))
        # Not among the resources of whoever asks: a trial of a sweep has none of its own.
        options = {"max_retries": cluster.RETRIES, "scheduling_strategy": "DEFAULT"}
        task = ray.remote(num_cpus=threads, num_gpus=gpus, **options)(_measure)
        for name in console.track(todo, len(todo), "evaluate"):
            try:
                result = ray.get(task.remote(config, pretrained.stage, name, threads))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError | StageError):
                    raise error.cause from None
                raise StageError(f"evaluation on '{name}' failed: {cluster.reason(error.cause)}") from error
            store.write_json(paths[name], result)
    return Evaluated(place, [store.read_json(path) for path in paths.values()], resumed=len(paths) - len(todo))


def check(config: ExperimentConfig) -> None:
    """Find out before hours of training whether the data sets are there; torchvision's are fetched if they may be.

    What is validated on while training is read whole. Classes that not all domains have are told of.

    Raises:
        UsageError: one is not there, or cannot be used.
    """
    settings = config.evaluate
    validated = settings.datasets[:1] if settings.every else []
    for name in settings.datasets:
        if name in datasets.TORCHVISION or name in validated or not (name == "scenes" or Path(name).exists()):
            datasets.load(name, settings, config.extract.image_size)
    for name in settings.domains:
        _, left_out = datasets.domain_files(name)
        if left_out:
            named = ", ".join(left_out[:3]) + (" …" if len(left_out) > 3 else "")
            told = f"evaluate: {len(left_out)} classes of '{name}' are left out, not all domains have them: {named}"
            console.say(escape(told))


def cpus(config: ExperimentConfig, there: int) -> int:
    """CPUs that evaluation takes of those that are `there`, `MAX_CPUS` at most.

    As many as the training took, where that is set: trials that train side by side are then evaluated side by side.
    """
    settings = config.pretrain
    wanted = settings.workers * settings.cpus_per_worker if settings.cpus_per_worker else MAX_CPUS
    return min(wanted, MAX_CPUS, there)


def measure(config: ExperimentConfig, pretrained: Stage, name: str) -> dict[str, Any]:
    """One data set, the trained backbone and the untrained one, which is measured once for all that share it.

    Returns:
        `dataset`, `classes`, `train` and `test` (images), and what `probes.accuracies` or `domains.accuracies` gives of
        the trained backbone, and as `floor_…` of the untrained one; cross-domain also `domains` and `left_out`, names.

    Raises:
        UsageError: the data set is not to be had.
        StageError: there is no trained backbone.
    """
    settings, size, store = config.evaluate, config.extract.image_size, pretrained.store
    measured: Callable[..., dict[str, Any]]
    if name in settings.domains:
        data = datasets.load_domains(name, settings, size)
        labels = [domain.labels for domain in data.images.values()]
        held = sum(int(datasets.held_out(of).sum()) for of in labels)
        count = sum(map(len, labels))
        result = {"dataset": name, "train": count - held, "test": count, "classes": len(data.classes)}
        result |= {"domains": [*data.images], "left_out": data.left_out}
        measured = partial(domains.accuracies, data.images, settings)
    else:
        train, test = datasets.load(name, settings, size)
        result = {"dataset": name, "train": len(train.labels), "test": len(test.labels)}
        result["classes"] = int(train.labels.max()) + 1
        measured = partial(probes.accuracies, train, test, settings)

    def of(backbone: nn.Module) -> dict[str, Any]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return measured(lambda images: probes.features(backbone, images, settings.batch_size, device))

    result |= of(trained_backbone(pretrained))
    floor = floor_stage(config, store)
    path = result_path(floor, name, settings)
    if not store.exists(path):  # two trials may both measure it, and either may write first: their numbers agree
        floor.record(config.to_yaml())
        store.write_json(path, of(untrained_backbone(config)))
    return result | {f"floor_{metric}": value for metric, value in store.read_json(path).items()}


def trained_backbone(pretrained: Stage) -> nn.Module:
    """The backbone that a pretrain stage left, in eval mode on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pretrain.files(pretrained).items():
            (Path(folder) / name).write_bytes(content)
        return load_backbone(folder)


def untrained_backbone(config: ExperimentConfig) -> nn.Module:
    """The very backbone that training starts from."""
    torch.manual_seed(config.seed)
    return create_backbone(config.pretrain.backbone, config.extract.image_size, **config.pretrain.backbone_settings)


def _paths(config: ExperimentConfig, place: Stage) -> dict[str, str]:
    """Where the accuracies on each data set lie."""
    settings = config.evaluate
    return {name: result_path(place, name, settings) for name in (*settings.datasets, *settings.domains)}


def _measure(config: ExperimentConfig, pretrained: Stage, name: str, threads: int) -> dict[str, Any]:
    """On a worker. Ray tells libraries of `threads` before they are loaded; a worker that is used again has them."""
    torch.set_num_threads(threads)
    return measure(config, pretrained, name)
