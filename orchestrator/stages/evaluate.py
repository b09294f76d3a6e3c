"""Evaluate: what the frozen backbone is worth on each data set, beside its baseline.

The baseline is the same backbone before training, with random weights or those of `pretrain.init`. Stored names call it
`floor`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor, nn

from infoaug.models.backbones import create_backbone, load_backbone
from infoaug.orchestrator.config import RUNTIME, EvaluateConfig, ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError, remedy, worth_retrying
from infoaug.orchestrator.evaluation import (
    datasets,
    davis,
    detection,
    domains,
    fine_tuning,
    image_folder,
    keypoint_files,
    keypoints,
    objects,
    opening,
    probes,
    propagation,
    segmentation,
)
from infoaug.orchestrator.evaluation import look as features
from infoaug.orchestrator.evaluation.dense import dense_features
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.runtime import cluster, console, scratch
from infoaug.orchestrator.runtime.store import StageFolder, Store, file_name
from infoaug.orchestrator.settings import one_line
from infoaug.orchestrator.stages import initial_weights, look, pretrain

VERSION = 3  # raised when the same config would give other numbers
MAX_CPUS = 8
DENSE = ("propagation", "keypoints", "segmentation")  # protocols of dense features

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """The output of the evaluate stage.

    Attributes:
        stage: the folder of the accuracies.
        results: what `measure` returns for every data set, cross-domain ones last.
        resumed: data sets that were in the store already.
    """

    stage: StageFolder
    results: list[dict[str, Any]]
    resumed: int

    @property
    def computed(self) -> int:
        """Data sets that were evaluated now."""
        return len(self.results) - self.resumed


def stage(config: ExperimentConfig, pretrained: StageFolder) -> StageFolder:
    """The folder of this model's accuracies."""
    settings = config.evaluate.model_dump(exclude=RUNTIME["evaluate"])
    return StageFolder(pretrained.store, "evaluate", {"version": VERSION, "pretrain": pretrained.hash, **settings})


def floor_stage(config: ExperimentConfig, store: Store) -> StageFolder:
    """The folder of the baseline's accuracies, shared by all models trained from the same weights."""
    key = config.evaluate.model_dump(exclude=RUNTIME["evaluate"])
    key |= {"backbone": config.pretrain.backbone, "backbone_settings": config.pretrain.backbone_settings}
    key |= {"version": VERSION, "image_size": config.extract.image_size, "seed": config.seed}
    key |= initial_weights.identity(config)
    return StageFolder(store, "floor", key)


def result_path(stage_folder: StageFolder, name: str, settings: EvaluateConfig) -> str:
    """The path of the accuracies on one data set in the store."""
    protocol = settings.protocol(name)
    kind = [] if protocol == "datasets" else [protocol]
    kind += [keypoint_files.fingerprint(image_folder.located(name))] if protocol == "keypoints" else []
    identity = objects.fingerprint if protocol == "detection" else opening.fingerprint
    return stage_folder.path(f"{file_name(name, identity(name), *kind)}.json")


def load(config: ExperimentConfig, pretrained: pretrain.Pretrained) -> Evaluated:
    """Read what an earlier evaluation of this model left.

    Raises:
        StageError: the model was not evaluated on all data sets of the config.
    """
    stage_folder, store = stage(config, pretrained.stage), pretrained.stage.store
    paths = _paths(config, stage_folder)
    if not all(map(store.exists, paths.values())):
        raise StageError("this model is not evaluated yet: run `infoaug evaluate` with the same config first")
    return Evaluated(stage_folder, [store.read_json(path) for path in paths.values()], resumed=len(paths))


def run(config: ExperimentConfig, pretrained: pretrain.Pretrained, seen: look.Seen | None = None) -> Evaluated:
    """Evaluate the model on every data set whose accuracies are not in the store.

    Args:
        config: the experiment.
        pretrained: its model.
        seen: patches and frames that the report is to show, if anything is evaluated.

    Raises:
        UsageError: a data set cannot be loaded; the accuracies on those before it are kept.
        StageError: an evaluation failed.
    """
    stage_folder, store = stage(config, pretrained.stage), pretrained.stage.store
    stage_folder.record(config.to_yaml())
    paths = _paths(config, stage_folder)
    todo = [name for name, path in paths.items() if not store.exists(path)]
    console.say(f"evaluate: {len(paths)} data sets, {len(paths) - len(todo)} done")
    if todo:
        import ray

        cluster.connect(config.ray)
        gpus = min(1, cluster.gpus())
        threads = cpus(config, cluster.most_cpus(gpu=bool(gpus)))
        # By default a task runs within the resources of the trial that starts it, and a trial of a sweep has none.
        options = {"max_retries": cluster.RETRIES, "scheduling_strategy": "DEFAULT"}
        task = ray.remote(num_cpus=threads, num_gpus=gpus, **options)(_measure)
        for name in console.track(todo, len(todo), "evaluate"):
            try:
                result = ray.get(task.remote(config, pretrained.stage, name, threads))
            except ray.exceptions.RayError as error:
                raise _as_ours(error, name) from error
            store.write_json(paths[name], result)
            accuracies = {
                key: result[key] for metric in METRICS for key in (metric, f"floor_{metric}") if key in result
            }
            _log.info("evaluated on %s: %s", name, accuracies)
        if seen:
            drawn = ray.remote(num_cpus=threads, num_gpus=gpus, **options)(_look)
            try:
                ray.get(drawn.remote(config, pretrained.stage, seen, threads))
            except ray.exceptions.RayError as error:  # no number depends on it
                why = cluster.reason(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)
                console.say(escape(one_line(f"evaluate: the report will show no patches and frames: {why}")))
    results = [store.read_json(path) for path in paths.values()]
    for result in results:
        _say(result["dataset"], result.get("notes", []))
    return Evaluated(stage_folder, results, resumed=len(paths) - len(todo))


def check(config: ExperimentConfig, fetch: bool = True) -> None:
    """Check before hours of training that the data sets can be used, and say what of them is not.

    A data set for validation during training is read as a whole, the others without their images.

    Args:
        config: the experiment.
        fetch: download the sets of torchvision's that are missing, if the config allows it.

    Raises:
        UsageError: a data set is missing or cannot be used.
    """
    settings, size = config.evaluate, config.extract.image_size
    for name in settings.datasets:
        _say(name, datasets.check(name, settings, size, fetch))
    if settings.every and fetch:
        _say(settings.datasets[0], datasets.load(settings.datasets[0], settings, size).notes)
    for name in settings.domains:
        _say(name, datasets.check_domains(name, settings))
    for name in settings.propagation:
        _say(name, propagation.load(image_folder.located(name))[1])
    for name in settings.keypoints:
        _say(name, keypoint_files.load(image_folder.located(name))[1])
    for name in settings.segmentation:
        _say(name, segmentation.check(name))
    for name in settings.detection:
        _say(name, detection.check(name, settings.limit))
    dense = [protocol for protocol in DENSE if getattr(settings, protocol)]
    if dense or settings.detection:
        with torch.random.fork_rng(devices=[]):  # a fraction of a second
            backbone = untrained_backbone(config)
        if dense:
            dense_features(backbone, f"evaluate.{dense[0]}")
        if settings.detection:
            detection.check_backbone(backbone)


def cpus(config: ExperimentConfig, available: int) -> int:
    """CPUs of an evaluation, at most `MAX_CPUS`.

    If the config sets the CPUs of a training, an evaluation takes as many, so that trials that train side by side are
    evaluated side by side.
    """
    settings = config.pretrain
    wanted = settings.workers * settings.cpus_per_worker if settings.cpus_per_worker else MAX_CPUS
    return min(wanted, MAX_CPUS, available)


def measure(config: ExperimentConfig, pretrained: StageFolder, name: str) -> dict[str, Any]:
    """Evaluate the trained backbone and its random-init baseline on one data set. The baseline is measured once.

    Of the first labelled and the first propagated set, what the report shows is written beside the results.

    Returns:
        `dataset`; `classes`, `train` and `test`, numbers of classes and images, where there are any; what the data
        set's protocol measures (`accuracies` of `probes`, `fine_tuning` and `domains`, `measure` of `propagation`,
        `keypoints`, `segmentation` and `detection`) for the trained backbone, and with the prefix `floor_` for the
        baseline. Its name in `baseline`, if training does not start from random weights. For cross-domain data sets
        also the names in `domains` and `left_out`. If something of the data set was not used, sentences in `notes`.

    Raises:
        UsageError: the data set cannot be loaded.
        StageError: the trained backbone is missing.
    """
    settings, store = config.evaluate, pretrained.store
    result, measured = _PROTOCOLS[settings.protocol(name)](name, settings, config.extract.image_size)
    result = {"dataset": name} | result
    result |= {"baseline": "initial weights"} if config.pretrain.init else {}
    trained = trained_backbone(pretrained, config.pretrain.backbone)
    baseline = floor_stage(config, store)
    path = result_path(baseline, name, settings)
    # First, because it is kept where the trained backbone's is interrupted.
    if not store.exists(path):  # two trials may measure it at the same time: they get and write the same numbers
        baseline.record(config.to_yaml())
        store.write_json(path, _numbers(measured(_baseline_backbone(config, pretrained)), store, path))
    own = result_path(stage(config, pretrained), name, settings)
    result |= _numbers(measured(trained), store, own)
    return result | {f"floor_{metric}": value for metric, value in store.read_json(path).items()}


def _numbers(measured: dict[str, Any], store: Store, path: str) -> dict[str, Any]:
    """What was measured. What the report shows of it is written beside the result, whose path this is."""
    if arrays := measured.pop("look", None):
        look.write(store, look.beside(path), arrays)
    return measured


def pictured(config: ExperimentConfig, pretrained: StageFolder, seen: look.Seen) -> list[dict[str, features.Arrays]]:
    """What of features the report shows, of `trained` and `baseline`, as `evaluation.look` gives it.

    What is not there, because it was evaluated before there were pictures, is left out.
    """
    settings, store = config.evaluate, pretrained.store
    places = {"trained": stage(config, pretrained), "baseline": floor_stage(config, store)}
    found = [{whose: look.read(store, seen.path(place)) for whose, place in places.items()}]
    for name in (*settings.datasets[:1], *settings.propagation[:1]):
        of = {whose: look.beside(result_path(place, name, settings)) for whose, place in places.items()}
        found.append({whose: look.read(store, path) for whose, path in of.items()})
    return found


Measure = Callable[[nn.Module], dict[str, Any]]  # what a backbone is worth, and in `look` what the report shows of it


def _classification(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    loaded = datasets.load(name, settings, size)
    counts = {"train": len(loaded.train.labels), "test": len(loaded.test.labels), "classes": loaded.classes}
    shares = [percent / 100 for percent in settings.low_shot]

    def accuracies(backbone: nn.Module) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        def keep(train: NDArray[np.float32], test: NDArray[np.float32]) -> None:
            if name in settings.datasets[:1]:
                shown["look"] = features.of_images(loaded, train, test)

        extract = _extract(backbone, settings)
        found = probes.accuracies(loaded.train, loaded.test, settings, extract, label_shares=shares, keep=keep)
        if settings.fine_tune:
            splits, device = (loaded.train, loaded.test), probes.fastest()
            found |= fine_tuning.accuracies(*splits, backbone, settings, device, label_shares=shares)
        return found | shown

    return counts | _noted(loaded.notes), accuracies


def _across_domains(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = datasets.load_domains(name, settings, size)
    labels = [domain.labels for domain in data.images.values()]
    count, held = sum(map(len, labels)), sum(int(datasets.held_out(of).sum()) for of in labels)
    result: dict[str, Any] = {"train": count - held, "test": count, "classes": len(data.classes)}
    result |= {"domains": [*data.images], "left_out": data.left_out}
    accuracies = partial(domains.accuracies, data.images, settings)
    return result | _noted(data.notes), lambda backbone: accuracies(_extract(backbone, settings))


def _propagation(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    videos, notes = propagation.load(image_folder.located(name))

    def measured(backbone: nn.Module) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        def keep(video: davis.Video, masks: list[NDArray[np.uint8]]) -> None:
            if not shown and name in settings.propagation[:1]:
                shown["look"] = look.masks(video, masks)

        return propagation.measure(videos, backbone, device=probes.fastest(), keep=keep) | shown

    return _noted(notes), measured


def _keypoints(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    sequences, notes = keypoint_files.load(image_folder.located(name))
    return _noted(notes), lambda backbone: keypoints.measure(sequences, backbone, device=probes.fastest())


def _segmentation(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = segmentation.load(name, settings)
    counts = {"train": len(data.images["train"]), "test": len(data.images["test"]), "classes": data.classes}
    return counts | _noted(data.notes), lambda backbone: segmentation.measure(
        data, backbone, settings, probes.fastest()
    )


def _detection(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = objects.load(name, settings.limit)
    counts = {split: len(of) for split, of in data.pictures.items()} | {"classes": len(data.classes)}
    return counts | _noted(data.notes), lambda backbone: detection.measure(
        data, backbone, settings.detector, probes.fastest()
    )


_PROTOCOLS: dict[str, Callable[[str, EvaluateConfig, int], tuple[dict[str, Any], Measure]]] = {
    "datasets": _classification,
    "domains": _across_domains,
    "propagation": _propagation,
    "keypoints": _keypoints,
    "segmentation": _segmentation,
    "detection": _detection,
}


def _extract(backbone: nn.Module, settings: EvaluateConfig) -> Callable[[Tensor], NDArray[np.float32]]:
    return lambda images: probes.features(backbone, images, settings.batch_size, probes.fastest())


def _noted(notes: Sequence[str]) -> dict[str, Any]:
    return {"notes": [*notes]} if notes else {}


def trained_backbone(pretrained: StageFolder, own: str = "") -> nn.Module:
    """The backbone of a pretrain stage, in eval mode on the CPU; `own` as in `load_backbone`."""
    with scratch.folder() as folder:
        for name, content in pretrain.files(pretrained).items():
            (folder / name).write_bytes(content)
        return load_backbone(folder, own=own)


def _baseline_backbone(config: ExperimentConfig, pretrained: StageFolder) -> nn.Module:
    """The backbone that training started from."""
    return initial_weights.stored(config, pretrained) or untrained_backbone(config)


def untrained_backbone(config: ExperimentConfig) -> nn.Module:
    """The backbone with the random weights that training starts from."""
    torch.manual_seed(config.seed)
    return create_backbone(config.pretrain.backbone, config.extract.image_size, **config.pretrain.backbone_settings)


def _paths(config: ExperimentConfig, stage_folder: StageFolder) -> dict[str, str]:
    """The path of the accuracies on each data set."""
    return {name: result_path(stage_folder, name, config.evaluate) for name in config.evaluate.names}


def _say(name: str, notes: Sequence[str]) -> None:
    for note in notes:
        console.say(escape(one_line(f"evaluate: '{name}': {note}")))


def _as_ours(error: Exception, name: str) -> UsageError | StageError:
    """An error of Ray, of the evaluation on a data set, as a sentence for the user."""
    import ray

    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, UsageError | StageError):
        return cause
    again = worth_retrying(cause)
    return StageError(f"evaluation on '{name}' failed: {cluster.reason(cause)}; {remedy(cause)}", retry=again)


def _measure(config: ExperimentConfig, pretrained: StageFolder, name: str, threads: int) -> dict[str, Any]:
    """On a worker: `measure` with this number of threads."""
    # Ray sets the number before torch is imported, and a worker that ran before has it imported already.
    torch.set_num_threads(threads)
    return measure(config, pretrained, name)


def _look(config: ExperimentConfig, pretrained: StageFolder, seen: look.Seen, threads: int) -> None:
    """On a worker: what the trained backbone and the baseline see in patches and frames, as far as it is missing."""
    torch.set_num_threads(threads)
    store = pretrained.store
    for place, backbone in (
        (stage(config, pretrained), lambda: trained_backbone(pretrained, config.pretrain.backbone)),
        (floor_stage(config, store), lambda: _baseline_backbone(config, pretrained)),
    ):
        if not store.exists(path := seen.path(place)):
            look.write(store, path, look.arrays(seen, store, backbone(), config))
