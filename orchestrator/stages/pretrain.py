"""Pretrain: two-branch training on the patches and their twins, on Ray Train, from checkpoint to checkpoint."""

import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty
from typing import Any

import ray
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from rich.markup import escape
from torch import nn

from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE
from infoaug.models.collapse import collapsed
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError, remedy, worth_retrying
from infoaug.orchestrator.runtime import cluster, console, epoch_queue
from infoaug.orchestrator.runtime.store import StageFolder, digest_of
from infoaug.orchestrator.stages import score, training
from infoaug.orchestrator.stages.training import Epoch

VERSION = 3  # of the numbers: raised when the same config would give others


@dataclass(frozen=True)
class Pretrained:
    """What the pretrain stage leaves: its folder with `backbone.safetensors` and `backbone.json`, and every epoch."""

    stage: StageFolder
    history: list[Epoch]
    resumed: int  # epochs that were there
    computed: int  # epochs trained now


def stage(config: ExperimentConfig, scored: score.Scored) -> StageFolder:
    """Where the model trained on these twins lives."""
    settings = config.pretrain.model_dump(exclude=RUNTIME["pretrain"])
    units = digest_of([(folder, window) for _, folder, window in scored.extracted.windows])
    data = {"score": scored.stage.hash, "policy": scored.policy, "windows": units}
    key = {"version": VERSION, **data, "seed": config.seed, **settings}
    return StageFolder(scored.stage.store, "pretrain", key)


def load(config: ExperimentConfig, scored: score.Scored) -> Pretrained:
    """Read what an earlier training on these patches left.

    Raises:
        StageError: no model was trained on them with this config.
    """
    place, store = stage(config, scored), scored.stage.store
    if not store.exists(place.path("history.json")):
        raise StageError("this model is not trained yet: run `infoaug pretrain` with the same config first")
    history = store.read_json(place.path("history.json"))
    return Pretrained(place, history, resumed=len(history), computed=0)


def run(
    config: ExperimentConfig, scored: score.Scored, on_epoch: Callable[[Epoch], None], resume: bool = True
) -> Pretrained:
    """Train, or go on from the last checkpoint, or find that it was done.

    Args:
        config: the experiment.
        scored: the patches and twins to train on.
        on_epoch: called in this process with every epoch's metrics as they come; after a failure some come twice.
        resume: False starts over and deletes what an earlier run of the same config left.

    Raises:
        UsageError: settings that do not fit each other, or this cluster.
        StageError: training failed more often than `pretrain.max_failures`, or so that trying again is of no use.
    """
    place, store = stage(config, scored), scored.stage.store
    if not resume:
        store.delete(place.folder)
    if store.exists(place.path("history.json")):
        return load(config, scored)
    check(config)
    place.record(config.to_yaml())
    cluster.connect(config.ray)
    resumed = store.exists(place.path("train"))
    patches, twins = scored.counts["patches"], scored.counts["twin"]
    if patches < config.pretrain.batch_size:
        raise UsageError(
            f"{patches} patches are fewer than a batch of {config.pretrain.batch_size}: "
            "give more clips, or set pretrain.batch_size lower"
        )
    console.say(f"pretrain: {patches} patches, {twins} with a twin; {'going on' if resumed else 'starting'}")

    computed: dict[float, Epoch] = {}

    def seen(metrics: Epoch) -> None:
        if warning := collapse_warning(metrics, [*computed.values()]):
            console.say(warning)
        computed[metrics["epoch"]] = metrics
        on_epoch(metrics)

    forwarded = epoch_queue.forward()
    trainer = ray.train.torch.TorchTrainer(
        # Bound, not given as the loop's config: that would be unpacked by the controller too, imports and all.
        partial(training.train, {"config": config.model_dump(), "place": place, "scored": scored}),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name="train",
            storage_path=store.url(place.folder),
            failure_config=FailureConfig(max_failures=config.pretrain.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[forwarded],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    outcome = cluster.in_background(trainer.fit)
    try:
        _listen(forwarded, outcome, seen)
        why = outcome.result().return_value
    except ray.train.TrainingFailedError as error:
        cause = _cause(error)
        raise StageError(f"training failed: {cause}; {remedy(cause)}", retry=worth_retrying(cause)) from error
    if why:
        raise StageError(f"training failed: {why}", retry=False)
    history = store.read_json(place.path("history.json"))
    return Pretrained(place, history, resumed=len(history) - len(computed), computed=len(computed))


def collapse_warning(metrics: Epoch, before: list[Epoch]) -> str:
    """A sentence where the features of this epoch have collapsed and those of the epoch before had not, else nothing.

    `before`: earlier epochs, the first of which is what the rank is compared with.
    """

    def has(epoch: Epoch) -> bool:
        return collapsed(epoch["feature_std"], epoch["rank_me"], (before or [metrics])[0]["rank_me"])

    if not has(metrics) or (before and has(before[-1])):
        return ""
    return (
        f"[yellow]epoch {metrics['epoch']:.0f}: the features have collapsed, spread {metrics['feature_std']:.2f}, "
        f"rank {metrics['rank_me']:.1f}: start over with a lower pretrain.learning_rate, or the framework's recipe[/]"
    )


def files(place: StageFolder) -> dict[str, bytes]:
    """The trained backbone's files: safetensors, and what timm needs to rebuild it.

    Raises:
        StageError: they are not there.
    """
    return {name: place.store.read_bytes(place.path(name)) for name in (WEIGHTS_FILE, RECIPE_FILE)}


def check(config: ExperimentConfig) -> None:
    """Find out before anything is started whether the training can be built.

    Raises:
        UsageError: unknown backbone, framework or augmentation settings, or sizes that do not fit.
    """
    settings = config.pretrain
    if settings.batch_size % settings.workers or settings.batch_size // settings.workers < 2:
        raise UsageError(
            f"pretrain.batch_size {settings.batch_size} is the global one: it must divide by {settings.workers} workers"
        )
    if settings.warmup_epochs >= settings.epochs:
        raise UsageError(f"pretrain.warmup_epochs {settings.warmup_epochs} must be below epochs {settings.epochs}")
    try:
        training.build(config)
        training.augmentations(config)
        training.optimizer_for(config, nn.Linear(1, 1))
    except (ValueError, AssertionError, TypeError) as error:
        raise UsageError(f"pretrain: {error}") from None


def _scaling(config: ExperimentConfig) -> ScalingConfig:
    settings, resources = config.pretrain, ray.cluster_resources()
    each, gpu = cluster.share(settings.workers, settings.cpus_per_worker, settings.gpu)
    # Another cluster may grow on demand; this machine will not.
    for what, needed in (("CPU", each * settings.workers), ("GPU", settings.workers if gpu else 0)):
        if needed > resources.get(what, 0) and cluster.address_of(config.ray) == "local":
            raise UsageError(
                f"{settings.workers} training workers need {needed} {what}s, there are {resources.get(what, 0):.0f}: "
                "set pretrain.workers, cpus_per_worker or gpu"
            )
    return ScalingConfig(num_workers=settings.workers, use_gpu=gpu, resources_per_worker={"CPU": each})


def _listen(forwarded: epoch_queue.EpochQueue, outcome: Future[Any], on_epoch: Callable[[Epoch], None]) -> None:
    """Hand on epochs as they come, until training has ended and none is left; the caller finds all in the result."""
    while True:
        ended = outcome.done()
        try:
            metrics = forwarded.get(timeout=0.5)
        except Empty:
            if ended:
                return
            continue
        except StageError as error:
            console.say(f"[yellow]{escape(str(error))}[/]")
            return
        try:
            if metrics:
                on_epoch(metrics)
        except StageError as error:  # training goes on
            console.say(f"[yellow]{escape(str(error))}[/]")


def _cause(error: BaseException) -> str:
    """The workers' own words, less the traceback; an error's number is what it means, which pyarrow does not say."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    cause = (named or lines or [type(error).__name__])[-1].partition(". ")[0]
    if found := re.search(r"\[Errno (\d+)\] ", cause):
        meaning = os.strerror(int(found[1]))
        cause = cause.replace(found[0], "" if meaning in cause else f"{meaning}: ")
    return cause[:300]
