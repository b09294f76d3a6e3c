"""Evaluate: the frozen backbone by weighted kNN and a linear probe, always beside the same backbone untrained."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn

from models.backbones import create_backbone, load_backbone
from orchestrator import cluster, datasets, pretrain, probes, progress
from orchestrator.config import RUNTIME, ExperimentConfig
from orchestrator.errors import StageError, UsageError
from orchestrator.store import Stage, Store, file_name

VERSION = 1  # of the numbers: raised when the same config would give others
MAX_CPUS = 8


@dataclass(frozen=True)
class Evaluated:
    """What the evaluate stage leaves: for every data set its accuracies (shares, 0–1) and sizes."""

    stage: Stage
    results: list[dict[str, Any]]
    resumed: int

    @property
    def computed(self) -> int:
        """Data sets evaluated now."""
        return len(self.results) - self.resumed


def stage(config: ExperimentConfig, pretrained: pretrain.Pretrained) -> Stage:
    """Where the accuracies of this model live."""
    settings = config.evaluate.model_dump(exclude=RUNTIME["evaluate"])
    return Stage(
        pretrained.stage.store, "evaluate", {"version": VERSION, "pretrain": pretrained.stage.hash, **settings}
    )


def result_path(place: Stage, name: str) -> str:
    """Where the accuracies on one data set lie on the store."""
    return place.path(f"{file_name(name, datasets.fingerprint(name))}.json")


def load(config: ExperimentConfig, store: Store) -> Evaluated:
    """What an earlier evaluation left.

    Raises:
        StageError: there was none for this config.
    """
    place = stage(config, pretrain.load(config, store))
    paths = [result_path(place, name) for name in dict.fromkeys(config.evaluate.datasets)]
    if not all(map(store.exists, paths)):
        raise StageError("this model is not evaluated yet: run `infoaug evaluate` with the same config first")
    return Evaluated(place, [store.read_json(path) for path in paths], resumed=len(paths))


def run(config: ExperimentConfig, pretrained: pretrain.Pretrained) -> Evaluated:
    """Evaluate on every data set that is not done yet.

    Raises:
        UsageError: a data set is not to be had; those before it are kept.
    """
    place, store = stage(config, pretrained), pretrained.stage.store
    place.record(config.to_yaml())
    paths = {name: result_path(place, name) for name in config.evaluate.datasets}
    todo = [name for name, path in paths.items() if not store.exists(path)]
    progress.say(f"evaluate: {len(paths)} data sets, {len(paths) - len(todo)} done")
    if todo:
        cluster.connect(config.ray)
        gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
        task = ray.remote(num_cpus=min(MAX_CPUS, cluster.cpus()), num_gpus=gpus, max_retries=cluster.RETRIES)(_evaluate)
        for name in progress.track(todo, len(todo), "evaluate"):
            try:
                result = ray.get(task.remote(config, pretrained.stage, name))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError | StageError):
                    raise error.cause from None
                raise StageError(f"evaluation on '{name}' failed: {cluster.reason(error.cause)}") from error
            store.write_json(paths[name], result)
    return Evaluated(place, [store.read_json(path) for path in paths.values()], resumed=len(paths) - len(todo))


def check(config: ExperimentConfig) -> None:
    """Find out before hours of training whether the data sets are there; torchvision's are fetched if they may be.

    Raises:
        UsageError: one is not.
    """
    for name in config.evaluate.datasets:
        if name in datasets.TORCHVISION or not (name == "scenes" or Path(name).exists()):
            datasets.load(name, config.evaluate, config.extract.image_size)


def _evaluate(config: ExperimentConfig, pretrained: Stage, name: str) -> dict[str, Any]:
    """On a worker: one data set, the trained backbone and the untrained one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, size = config.evaluate, config.extract.image_size
    train, test = datasets.load(name, settings, size)
    torch.manual_seed(config.seed)  # the floor is the very backbone that training started from
    floor = create_backbone(config.pretrain.backbone, size, **config.pretrain.backbone_settings)
    result: dict[str, Any] = {"dataset": name, "train": len(train.labels), "test": len(test.labels)}
    result["classes"] = int(train.labels.max()) + 1
    for prefix, backbone in (("", trained_backbone(pretrained)), ("floor_", floor)):
        seen, unseen = (probes.features(backbone, split.images, settings.batch_size, device) for split in (train, test))
        labels, truth = train.labels.numpy(), test.labels.numpy()
        result[f"{prefix}knn"] = probes.knn_accuracy(seen, labels, unseen, truth, settings)
        result[f"{prefix}probe"] = probes.probe_accuracy(seen, labels, unseen, truth, settings)
    return result


def trained_backbone(pretrained: Stage) -> nn.Module:
    """The backbone that a pretrain stage left, in eval mode on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pretrain.files(pretrained).items():
            (Path(folder) / name).write_bytes(content)
        return load_backbone(folder)
