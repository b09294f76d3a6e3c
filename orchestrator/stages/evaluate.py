"""Evaluate: what the frozen backbone is worth on each data set, beside its baseline.

The baseline is the same backbone before training, with random weights or those of `pretrain.init`. Stored names call it
`floor`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor, nn

from infoaug.models.backbones import create_backbone, load_backbone
from infoaug.orchestrator.config import DEPENDS_ON, RUNTIME, EvaluateConfig, ExperimentConfig
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
        folders: of the results, in the store.
        results: what `measure` returns for every data set, in the order of `EvaluateConfig.names`.
        resumed: data sets all of whose results were in the store already.
    """

    folders: list[str]
    results: list[dict[str, Any]]
    resumed: int

    @property
    def computed(self) -> int:
        """Data sets of which something was measured now."""
        return len(self.results) - self.resumed


def stage(config: ExperimentConfig, pretrained: StageFolder, measured: str) -> StageFolder:
    """The folder of what one of `DEPENDS_ON` finds of this model."""
    return StageFolder(pretrained.store, "evaluate", {"pretrain": pretrained.hash, **_key(config, measured)})


def floor_stage(config: ExperimentConfig, store: Store, measured: str) -> StageFolder:
    """The folder of what it finds of the baseline, shared by all models trained from the same weights."""
    key: dict[str, Any] = {"backbone": config.pretrain.backbone}
    key |= {"backbone_settings": config.pretrain.backbone_settings}
    key |= {"image_size": config.extract.image_size, "seed": config.seed}
    return StageFolder(store, "floor", key | initial_weights.identity(config) | _key(config, measured))


def _key(config: ExperimentConfig, measured: str) -> dict[str, Any]:
    return {"version": VERSION, **config.evaluate.only(measured).model_dump(exclude=RUNTIME["evaluate"])}


def paths(config: ExperimentConfig, pretrained: StageFolder, name: str) -> dict[str, str]:
    """The paths in the store of this model's results on one data set, by what is measured."""
    files = _files(config.evaluate, name).items()
    return {measured: stage(config, pretrained, measured).path(file) for measured, file in files}


def floor_paths(config: ExperimentConfig, store: Store, name: str) -> dict[str, str]:
    """The paths of the baseline's results, as `paths`."""
    files = _files(config.evaluate, name).items()
    return {measured: floor_stage(config, store, measured).path(file) for measured, file in files}


def _files(settings: EvaluateConfig, name: str) -> dict[str, str]:
    """The names of the files of results on one data set, by what is measured."""
    protocol = settings.protocol(name)
    identity = objects.fingerprint(name) if protocol == "detection" else opening.fingerprint(name)
    of_joints = [keypoint_files.fingerprint(image_folder.located(name))] if protocol == "keypoints" else []
    kinds: dict[str, list[str]] = {
        measured: [] if measured == "datasets" else [measured] for measured in settings.measured(name)
    }
    return {measured: f"{file_name(name, identity, *kind, *of_joints)}.json" for measured, kind in kinds.items()}


def delete(config: ExperimentConfig, pretrained: StageFolder) -> None:
    """Delete what was found of this model with these settings, and keep what was found of its baseline."""
    for measured in DEPENDS_ON:
        pretrained.store.delete(stage(config, pretrained, measured).folder)


def load(config: ExperimentConfig, pretrained: pretrain.Pretrained) -> Evaluated:
    """Read what an earlier evaluation of this model left.

    Raises:
        StageError: the model was not evaluated on all data sets of the config.
    """
    store = pretrained.stage.store
    every = [paths(config, pretrained.stage, name) for name in config.evaluate.names]
    if not all(store.exists(path) for of in every for path in of.values()):
        raise StageError("this model is not evaluated yet: run `infoaug evaluate` with the same config first")
    results = [_together(store, of) for of in every]
    return Evaluated(_folders(config, pretrained.stage), results, resumed=len(results))


def run(config: ExperimentConfig, pretrained: pretrain.Pretrained, seen: look.Seen | None = None) -> Evaluated:
    """Evaluate the model on every data set of which a result is not in the store, and look at `seen` if it has not yet.

    Args:
        config: the experiment.
        pretrained: its model.
        seen: patches and frames that the report is to show.

    Raises:
        UsageError: a data set cannot be loaded; the accuracies on those before it are kept.
        StageError: an evaluation failed.
    """
    store = pretrained.stage.store
    every = {name: paths(config, pretrained.stage, name) for name in config.evaluate.names}
    todo = [name for name, of in every.items() if not all(map(store.exists, of.values()))]
    console.say(f"evaluate: {len(every)} data set{'s' * (len(every) != 1)}, {len(every) - len(todo)} done")
    unseen = seen is not None and not all(
        store.exists(seen.path(place)) for place in _look_places(config, pretrained.stage)
    )
    if todo or unseen:
        import ray

        cluster.connect(config.ray)
        gpus = min(1, cluster.gpus())
        threads = cpus(config, cluster.most_cpus(gpu=bool(gpus)))
        # By default a task runs within the resources of the trial that starts it, and a trial of a sweep has none.
        options = {"max_retries": cluster.RETRIES, "scheduling_strategy": "DEFAULT"}
        task = ray.remote(num_cpus=threads, num_gpus=gpus, **options)(_measure)
        for name in console.track(todo, len(todo), "evaluate"):
            try:
                result = ray.get(task.remote(config, pretrained.stage, name, every[name], threads))
            except ray.exceptions.RayError as error:
                raise _as_ours(error, name) from error
            accuracies = {
                key: result[key] for metric in METRICS for key in (metric, f"floor_{metric}") if key in result
            }
            _log.info("evaluated on %s: %s", name, accuracies)
        if unseen:  # also where an earlier command was interrupted once all was measured
            drawn = ray.remote(num_cpus=threads, num_gpus=gpus, **options)(_look)
            try:
                ray.get(drawn.remote(config, pretrained.stage, seen, threads))
            except ray.exceptions.RayError as error:  # no number depends on it
                why = cluster.reason(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)
                console.say(escape(one_line(f"evaluate: the report will show no patches and frames: {why}")))
    results = [_together(store, of) for of in every.values()]
    for result in results:
        _say(result["dataset"], result.get("notes", []))
    return Evaluated(_folders(config, pretrained.stage), results, resumed=len(every) - len(todo))


def _look_places(config: ExperimentConfig, pretrained: StageFolder) -> tuple[StageFolder, StageFolder]:
    """The folders of what the trained backbone and the baseline see in patches and frames."""
    return stage(config, pretrained, "look"), floor_stage(config, pretrained.store, "look")


def _together(store: Store, results: Mapping[str, str]) -> dict[str, Any]:
    """All results on one data set, by their paths, as one."""
    return {key: value for path in results.values() for key, value in store.read_json(path, _is_result).items()}


def _is_result(stored: Any) -> bool:
    """Whether this is what `measure` writes: a data set's name, and the numbers of both backbones."""
    measured = [metric for metric in METRICS if metric in stored] if isinstance(stored, dict) else []
    numbers = (stored.get(f"{whose}{metric}") for metric in measured for whose in ("", "floor_"))
    return bool(measured) and "dataset" in stored and all(isinstance(number, int | float) for number in numbers)


def _folders(config: ExperimentConfig, pretrained: StageFolder) -> list[str]:
    every = (of for name in config.evaluate.names for of in config.evaluate.measured(name))
    return [stage(config, pretrained, measured).folder for measured in dict.fromkeys(every)]


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


def measure(config: ExperimentConfig, pretrained: StageFolder, name: str, own: Mapping[str, str]) -> dict[str, Any]:
    """Evaluate the trained backbone and its baseline on one data set, as far as results are not in the store.

    What the report shows is written beside the results: of a labelled set, which classes the probe confuses, and
    pictures; of a propagated one pictures.

    Args:
        config: the experiment.
        pretrained: its model.
        name: of the data set.
        own: where the model's results lie, as `paths` finds them: on another machine it may find another copy of the
            data set.

    Returns:
        `dataset`; `classes`, `train` and `test`, numbers of classes and images, where there are any; what the data
        set's protocol measures (`accuracies` of `probes`, `fine_tuning` and `domains`, `low_shot` of `probes`,
        `measure` of `propagation`, `keypoints`, `segmentation` and `detection`) for the trained backbone, and with the
        prefix `floor_` for the baseline. Its name in `baseline`, if training does not start from random weights. For
        cross-domain data sets also the names in `domains` and `left_out`, and each domain's number of images in
        `domain_images`. If something of the data set was not used, sentences in `notes`.

    Raises:
        UsageError: the data set cannot be loaded.
        StageError: the trained backbone is missing.
    """
    settings, store = config.evaluate, pretrained.store
    floor = floor_paths(config, store, name)
    if missing := [measured for measured, path in own.items() if not store.exists(path)]:
        protocol = settings.protocol(name)
        described, measure_it = _PROTOCOLS[protocol](name, settings.only(protocol), config.extract.image_size)
        described = {"dataset": name} | described
        described |= {"baseline": "initial weights"} if config.pretrain.init else {}
        trained = trained_backbone(pretrained, config.pretrain.backbone)
        # First, because it is kept where the trained backbone's is interrupted. Two trials may measure it at the same
        # time: they get and write the same numbers.
        if lacking := [measured for measured in missing if not store.exists(floor[measured])]:
            baseline = _baseline_backbone(config, pretrained)
            for measured in lacking:
                floor_stage(config, store, measured).record(config.to_yaml())
                found = measure_it(measured, baseline, settings.only(measured))
                store.write_json(floor[measured], _numbers(found, store, floor[measured]))
        for measured in missing:
            stage(config, pretrained, measured).record(config.to_yaml())
            found = _numbers(measure_it(measured, trained, settings.only(measured)), store, own[measured])
            beside = {
                f"floor_{metric}": value
                for metric, value in store.read_json(floor[measured], lambda stored: isinstance(stored, dict)).items()
            }
            store.write_json(own[measured], described | found | beside)
    return _together(store, own)


def _numbers(measured: dict[str, Any], store: Store, path: str) -> dict[str, Any]:
    """What was measured. What the report shows of it is written beside the result, whose path this is."""
    if arrays := measured.pop("look", None):
        look.write(store, look.beside(path), arrays)
    return measured


def pictured(config: ExperimentConfig, pretrained: StageFolder, seen: look.Seen) -> list[dict[str, features.Arrays]]:
    """What of features the report shows, of `trained` and `baseline`, as `evaluation.look` gives it.

    What is not there, because it could not be drawn or was evaluated before there were pictures, is left out.
    """
    settings, store = config.evaluate, pretrained.store
    places = dict(zip(("trained", "baseline"), _look_places(config, pretrained), strict=True))
    found = [{whose: look.read(store, seen.path(place)) for whose, place in places.items()}]
    for name in (*settings.datasets[:1], *settings.propagation[:1]):
        protocol = settings.protocol(name)
        of = {"trained": paths(config, pretrained, name), "baseline": floor_paths(config, store, name)}
        found.append({whose: look.read(store, look.beside(results[protocol])) for whose, results in of.items()})
    return found


def confusions(config: ExperimentConfig, pretrained: StageFolder) -> dict[str, features.Arrays]:
    """Which classes the probe on the trained backbone confuses, by labelled set, see `evaluation.look.of_classes`.

    Sets that an earlier version evaluated are left out.
    """
    places = {name: paths(config, pretrained, name)["datasets"] for name in config.evaluate.datasets}
    found = {name: look.read(pretrained.store, look.beside(path)) for name, path in places.items()}
    return {name: arrays for name, arrays in found.items() if "confusion" in arrays}


# What one of `DEPENDS_ON` finds of a backbone with its own settings, and in `look` what the report shows of it.
Measure = Callable[[str, nn.Module, EvaluateConfig], dict[str, Any]]


def _classification(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    loaded = datasets.load(name, settings, size)
    counts = {"train": len(loaded.train.labels), "test": len(loaded.test.labels), "classes": loaded.classes}
    splits = loaded.train, loaded.test

    @lru_cache(maxsize=len(splits))  # of one backbone, for kNN and probe and for low_shot
    def extract(backbone: nn.Module, images: Tensor) -> NDArray[np.float32]:
        return probes.features(backbone, images, settings.batch_size, probes.fastest())

    def accuracies(measured: str, backbone: nn.Module, own: EvaluateConfig) -> dict[str, Any]:
        of_backbone, shares = partial(extract, backbone), [percent / 100 for percent in own.low_shot]
        if measured == "low_shot":
            return {**probes.low_shot(*splits, own, of_backbone, shares)}
        if measured == "fine_tune":
            return {**fine_tuning.accuracies(*splits, backbone, own, probes.fastest(), label_shares=shares)}
        shown: dict[str, Any] = {}

        def keep(train: NDArray[np.float32], test: NDArray[np.float32], found: NDArray[np.int64]) -> None:
            shown["look"] = features.of_classes(loaded.names, loaded.test.labels.numpy(), found)
            # Of every set, although the report shows the first: another run may have this one first.
            shown["look"] |= features.of_images(loaded, train, test)

        return probes.accuracies(*splits, own, of_backbone, keep=keep) | shown

    return counts | _noted(loaded.notes), accuracies


def _across_domains(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = datasets.load_domains(name, settings, size)
    labels = [domain.labels for domain in data.images.values()]
    count, held = sum(map(len, labels)), sum(int(datasets.held_out(of).sum()) for of in labels)
    result: dict[str, Any] = {"train": count - held, "test": count, "classes": len(data.classes)}
    result |= {"domains": [*data.images], "domain_images": [*map(len, labels)], "left_out": data.left_out}

    def accuracies(_: str, backbone: nn.Module, own: EvaluateConfig) -> dict[str, Any]:
        def extract(images: Tensor) -> NDArray[np.float32]:
            return probes.features(backbone, images, own.batch_size, probes.fastest())

        return domains.accuracies(data.images, own, extract)

    return result | _noted(data.notes), accuracies


def _propagation(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    videos, notes = propagation.load(image_folder.located(name))

    def measured(_: str, backbone: nn.Module, own: EvaluateConfig) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        def keep(video: davis.Video, masks: list[NDArray[np.uint8]]) -> None:
            if not shown:
                shown["look"] = look.masks(video, masks)

        return propagation.measure(videos, backbone, device=probes.fastest(), keep=keep) | shown

    return _noted(notes), measured


def _keypoints(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    sequences, notes = keypoint_files.load(image_folder.located(name))
    return _noted(notes), lambda _, backbone, own: keypoints.measure(sequences, backbone, device=probes.fastest())


def _segmentation(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = segmentation.load(name, settings)
    counts = {"train": len(data.images["train"]), "test": len(data.images["test"]), "classes": data.classes}
    return counts | _noted(data.notes), lambda _, backbone, own: segmentation.measure(
        data, backbone, own, probes.fastest()
    )


def _detection(name: str, settings: EvaluateConfig, size: int) -> tuple[dict[str, Any], Measure]:
    data = objects.load(name, settings.limit)
    counts = {split: len(of) for split, of in data.pictures.items()} | {"classes": len(data.classes)}
    return counts | _noted(data.notes), lambda _, backbone, own: detection.measure(
        data, backbone, own.detector, probes.fastest()
    )


_PROTOCOLS: dict[str, Callable[[str, EvaluateConfig, int], tuple[dict[str, Any], Measure]]] = {
    "datasets": _classification,
    "domains": _across_domains,
    "propagation": _propagation,
    "keypoints": _keypoints,
    "segmentation": _segmentation,
    "detection": _detection,
}


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


def _measure(
    config: ExperimentConfig, pretrained: StageFolder, name: str, own: Mapping[str, str], threads: int
) -> dict[str, Any]:
    """On a worker: `measure` with this number of threads."""
    # Ray sets the number before torch is imported, and a worker that ran before has it imported already.
    torch.set_num_threads(threads)
    return measure(config, pretrained, name, own)


def _look(config: ExperimentConfig, pretrained: StageFolder, seen: look.Seen, threads: int) -> None:
    """On a worker: what the trained backbone and the baseline see in patches and frames, as far as it is missing."""
    torch.set_num_threads(threads)
    store = pretrained.store
    own, floor = _look_places(config, pretrained)
    for place, backbone in (
        (own, lambda: trained_backbone(pretrained, config.pretrain.backbone)),
        (floor, lambda: _baseline_backbone(config, pretrained)),
    ):
        if not store.exists(path := seen.path(place)):
            look.write(store, path, look.arrays(seen, store, backbone(), config))
