"""Pretrain: two-branch training on the patches and their twins, on Ray, with checkpoints.

Ray is imported by the functions that train: a dry run checks and loads without it.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import torch
from rich.markup import escape
from torch import nn

from infoaug.estimators.options import RANKED
from infoaug.models import own_code
from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE, create_backbone
from infoaug.models.settings import AugmentSettings
from infoaug.models.training import Epoch, Stream, TrainingSettings
from infoaug.models.training.loop import check_model
from infoaug.models.training.optimisation import create_optimizer
from infoaug.models.training.sampling import check_paired, paired_rows, still_rows
from infoaug.orchestrator import settings
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError, remedy, worth_retrying
from infoaug.orchestrator.evaluation import datasets, opening
from infoaug.orchestrator.masking import without_secrets
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import initial_weights, ray_training, score, shards, user_code

if TYPE_CHECKING:
    from infoaug.orchestrator.runtime.epoch_queue import EpochQueue

MUCH = 0.05  # of the patches, which an epoch leaves out without a word
# What every epoch has, and the report shows.
SHOWN = {"epoch", "loss", "view_loss", "twin_loss", "images_per_second", "share_with_twin"}
VERSION = 3  # raised when the same config would give other numbers


@dataclass(frozen=True)
class Pretrained:
    """The result of the pretrain stage.

    Attributes:
        stage: its folder holds `backbone.safetensors` and `backbone.json`.
        history: metrics of every epoch.
        resumed: epochs that an earlier run trained.
        computed: epochs that this run trained.
    """

    stage: StageFolder
    history: list[Epoch]
    resumed: int
    computed: int

    @property
    def folders(self) -> list[str]:
        """The folder of the outputs."""
        return [self.stage.folder]


def stage(config: ExperimentConfig, scored: score.Scored) -> StageFolder:
    """The stage that holds the model trained on these twins.

    Raises:
        UsageError: the weights or the code to start from cannot be read.
    """
    identifying = config.pretrain.model_dump(exclude={*RUNTIME["pretrain"], "init", "images", "image_share"})
    identifying |= initial_weights.identity(config)
    identifying |= user_code.identity(config.pretrain.framework, "framework_code", "pretrain.framework")
    data = {"score": scored.stage.hash, "policy": scored.policy, "windows": scored.extracted.windows.digest}
    key = {"version": VERSION, **data, "seed": config.seed, **identifying}
    # Stages of before there was a choice hold the trained backbone, so those of the momentum backbone have other names.
    if getattr(config.pretrain.framework_settings, "encoder", "trained") != "trained":
        key["encoder"] = "momentum"
    if images := config.pretrain.stills:
        key |= {"images": opening.identity(images), "image_share": config.pretrain.image_share}
    if (shuffled := shards.block(config, scored)) is not None:
        key |= {"shuffle": shuffled, "shards": shards.VERSION}
    return StageFolder(scored.stage.store, "pretrain", key)


def begun(trained: StageFolder) -> bool:
    """Whether the store has checkpoints or the result of a training, which `run` continues or loads."""
    return trained.store.exists(trained.path("train")) or trained.store.exists(trained.path("history.json"))


def load(config: ExperimentConfig, scored: score.Scored) -> Pretrained:
    """Load the result of a completed training on these patches.

    Raises:
        StageError: this config was not trained to the end.
    """
    trained, store = stage(config, scored), scored.stage.store
    if not store.exists(trained.path("history.json")):
        raise StageError("this model is not trained yet: run `infoaug pretrain` with the same config first")
    history = _history(config, trained)
    return Pretrained(trained, history, resumed=len(history), computed=0)


def _history(config: ExperimentConfig, trained: StageFolder) -> list[Epoch]:
    """The metrics of every epoch of a completed training."""

    def fits(stored: Any) -> bool:
        return (
            isinstance(stored, list)
            and bool(stored)
            and all(isinstance(of, dict) and of.keys() >= SHOWN for of in stored)
        )

    return ray_training.current(trained.store.read_json(trained.path("history.json"), fits), config, trained)


def run(
    config: ExperimentConfig, scored: score.Scored, on_epoch: Callable[[Epoch], None], resume: bool = True
) -> Pretrained:
    """Train, from the last checkpoint if there is one; load the result if training is complete.

    Args:
        config: the experiment.
        scored: the patches and twins to train on.
        on_epoch: called in this process with every epoch's metrics as they arrive. Epochs that a failed worker repeats
            arrive twice.
        resume: False deletes the results and checkpoints of the same config first.

    Raises:
        UsageError: settings that do not fit each other, or this cluster; or another command trains the same model.
        StageError: training failed more often than `pretrain.max_failures`, or for a reason that would recur.
    """
    trained, store = stage(config, scored), scored.stage.store
    if resume and store.exists(trained.path("history.json")):
        return load(config, scored)
    check_training(config)
    # Experiments of other names or evaluations have the same model, and so have trials of sweeps.
    with store.hold(f"locks/{trained.folder}", f"the model '{trained.folder}' of the store {store.uri}"):
        return _run(config, scored, trained, on_epoch, resume)


def _run(
    config: ExperimentConfig,
    scored: score.Scored,
    trained: StageFolder,
    on_epoch: Callable[[Epoch], None],
    resume: bool,
) -> Pretrained:
    """`run`, once no other command trains the same model."""
    import ray.train

    from infoaug.orchestrator.runtime import epoch_queue

    store = trained.store
    if not resume:
        store.delete(trained.folder)
    if store.exists(trained.path("history.json")):  # the other command has just ended
        return load(config, scored)
    trained.record(config.to_yaml())
    initial_weights.write(config, trained)
    cluster.connect(config.ray)
    resumed = store.exists(trained.path("train"))
    told = job(config, scored, trained, "resuming" if resumed else "starting")

    computed: dict[float, Epoch] = {}

    def receive(metrics: Epoch) -> None:
        for warning in warnings(metrics, [*computed.values()]):
            console.say(warning)
        computed[metrics["epoch"]] = metrics
        on_epoch(metrics)

    epochs, training = epoch_queue.create(), _alone if config.pretrain.workers == 1 else _together
    outcome = cluster.in_background(training(told, epochs))
    try:
        _listen(epochs, outcome, receive)
        why = outcome.result()
    except (ray.exceptions.RayError, ray.train.TrainingFailedError) as error:
        cause = _cause(error)
        raise StageError(f"training failed: {cause}; {remedy(cause)}", retry=worth_retrying(cause)) from error
    if why:
        raise StageError(f"training failed: {why}", retry=False)
    history = _history(config, trained)
    return Pretrained(trained, history, resumed=len(history) - len(computed), computed=len(computed))


def job(config: ExperimentConfig, scored: score.Scored, trained: StageFolder, doing: str) -> ray_training.Job:
    """The job of a training's workers. It says what is trained on, and writes the shards that training will stream.

    Args:
        config: the experiment.
        scored: the patches and twins to train on.
        trained: where the model goes.
        doing: what is being done, for the user.

    Raises:
        UsageError: settings that do not fit these patches.
        StageError: shards cannot be written.
    """
    check_patches(config, scored)
    patches, twins = scored.counts["patches"], scored.counts["twin"]
    beside, made = _paired(config, scored) + _beside(config, patches), training_settings(config)
    shuffled = shards.block(config, scored)
    if shuffled is not None:
        shards.check(config, scored)
        found, windows = shards.sharded(config, scored)
        beside += _in_blocks(config, found, shards.paired(scored, windows), shuffled)
    console.say(escape(f"pretrain: {patches} patches, {twins} with a twin{beside}; {doing}"))
    if shuffled is None:
        return ray_training.Job(config, made, trained)
    shards.write(config, scored, found, windows)
    return ray_training.Job(config, made, trained, found, found.together(shuffled))


def check_patches(config: ExperimentConfig, scored: score.Scored) -> None:
    """Check that there are enough patches for a batch. Raises UsageError if not."""
    if too_few := too_few_patches(config, scored.counts["patches"]):
        raise UsageError(too_few)


def too_few_patches(config: ExperimentConfig, patches: int) -> str:
    """What to say where so many patches are fewer than a batch; empty if they are not."""
    batch = config.pretrain.batch_size
    remedy = "give more clips, or set pretrain.batch_size lower"
    return f"{patches} patches are fewer than a batch of {batch}: {remedy}" if patches < batch else ""


def _paired(config: ExperimentConfig, scored: score.Scored) -> str:
    """How many rows of a batch have a twin if that is asked for, for the user.

    Raises:
        UsageError: there are too few such patches.
    """
    if config.pretrain.twin_share is None:
        return ""
    made, patches, batch = training_settings(config), scored.counts["patches"], config.pretrain.batch_size
    stills = still_rows(made) if config.pretrain.stills else 0
    try:
        check_paired(made, scored.paired, patches, stills)
    except ValueError as error:
        raise UsageError(f"pretrain.{error}") from None
    rows = paired_rows(made, stills=stills)
    times = config.pretrain.epochs * (patches // batch) * rows / scored.paired
    return (
        f"; {scored.paired} paired patches, {rows} of {batch} rows of a batch, each shown {times:.2g} times on average"
    )


def _in_blocks(config: ExperimentConfig, found: shards.Sharded, paired: Sequence[int], shuffled: int) -> str:
    """What an epoch of a streamed training leaves out, for the user, if it is much.

    Args:
        config: the experiment.
        found: its shards.
        paired: patches with a twin in each.
        shuffled: patches that are shuffled together.

    Raises:
        UsageError: its blocks cannot be trained on.
    """
    made, size = training_settings(config), config.extract.image_size
    stream = Stream(found.counts, lambda number: shards.open_shard(found, Path()), found.together(shuffled), size)
    try:
        stream.check_blocks(made, paired, still_rows(made) if config.pretrain.stills else 0)
    except ValueError as error:
        raise UsageError(re.sub(r"\b(twin_share|shuffle|batch_size)\b", r"pretrain.\1", str(error))) from None
    left_out = 1 - stream.steps(made.batch_size) * made.batch_size / stream.patches
    if left_out <= MUCH:
        return ""
    return (
        f"; {100 * left_out:.0f} % of them are left out of each epoch, because no batch takes patches of two blocks: "
        "set pretrain.shuffle higher"
    )


def _beside(config: ExperimentConfig, patches: int) -> str:
    """What is trained on beside so many patches, for the user, with how much of it training will show."""
    if not (images := config.pretrain.stills):
        return ""
    count, _ = datasets.check_images(images, config.evaluate, config.extract.image_size, fetch=True)
    rows, batch, epochs = still_rows(training_settings(config)), config.pretrain.batch_size, config.pretrain.epochs
    times = epochs * (patches // batch) * rows / (count or 1)
    return f"; {count} images of '{images}', {rows} of {batch} rows of a batch, each shown {times:.2g} times on average"


def training_settings(config: ExperimentConfig) -> TrainingSettings:
    """The training that a config describes, without what depends on Ray or the store.

    Raises:
        UsageError: settings out of range, named as in the config.
    """
    first, second = augmentations(config)
    names = TrainingSettings.model_fields.keys() - {"augment", "augment_second"}
    values = config.pretrain.model_dump(include=set(names))
    if config.score.policy == "none":
        values["twin_weight"] = 0.0
    if config.score.policy not in RANKED:
        values["twins"] = 1
    if config.score.policy == "later+mutual-information":
        values["later_share"] = 0.5
    values |= {"image_size": config.extract.image_size, "seed": config.seed, "augment": first, "augment_second": second}
    if config.evaluate.every:
        values["validate_every"] = config.evaluate.every
    return settings.checked(TrainingSettings, values, prefix="pretrain.")


def augmentations(config: ExperimentConfig) -> tuple[AugmentSettings, AugmentSettings]:
    """Settings for first views, and for second views and twins."""
    first, second = config.pretrain.augment, config.pretrain.augment_second
    return first, first.model_copy(update=second.written())


def warnings(metrics: Epoch, before: list[Epoch]) -> list[str]:
    """Sentences about what an epoch shows to be wrong with the training, each once.

    Args:
        metrics: of the epoch.
        before: metrics of the epochs that were trained before it, by this command.
    """
    found = []
    number = f"[yellow]epoch {metrics['epoch']:.0f}: "
    if metrics["collapsed"] and not (before and before[-1]["collapsed"]):
        found.append(
            f"{number}the features have collapsed, spread {metrics['feature_std']:.2f}, rank "
            f"{metrics['rank_me']:.1f}: start over with a lower pretrain.learning_rate, or the framework's recipe[/]"
        )
    empty = "steps_without_twin_loss"
    if metrics.get(empty) and not any(epoch.get(empty) for epoch in before):
        found.append(
            f"{number}{100 * metrics[empty]:.3g} % of the steps have no twin loss, because their batches have too few "
            f"patches with a twin ({100 * metrics['share_with_twin']:.3g} % of their rows): {_more_twins(metrics)}[/]"
        )
    if "partners" in metrics and not any("partners" in epoch for epoch in before):
        found.append(
            f"epoch {metrics['epoch']:.0f}: patches with a twin have {metrics['partners']:.2g} partners on average "
            "that count as twins"
        )
    alone = metrics.get("share_with_one_crop")
    if alone and not any(epoch.get("share_with_one_crop") for epoch in before):
        found.append(
            f"epoch {metrics['epoch']:.0f}: {100 * alone:.3g} % of the patches are seen in one frame only: where "
            "training asks for another time, it shows that one once more, augmented anew"
        )
    return found


def _more_twins(metrics: Epoch) -> str:
    """How to get more rows with a twin, for an epoch that had too few."""
    left_out = metrics.get("twins_without_frame", 0.0)
    fewer_images = ", pretrain.image_share lower" * bool(metrics.get("share_of_images"))
    rest = f"set pretrain.twin_share, or pretrain.batch_size higher{fewer_images}, or give clips with more motion"
    if not left_out:
        return rest
    other_time = (
        f"{100 * left_out:.3g} % of the twins have no crop of the first view's frame, so set pretrain.twin_time to "
        "nearest or own"
    )
    return other_time if left_out > 0.5 else f"{rest}; {other_time}"


def files(trained: StageFolder) -> dict[str, bytes]:
    """Read the trained backbone's files: safetensors, and what timm needs to rebuild it.

    Raises:
        StageError: they are missing.
    """
    return {name: trained.store.read_bytes(trained.path(name)) for name in (WEIGHTS_FILE, RECIPE_FILE)}


def images(trained: StageFolder) -> dict[str, Any]:
    """What a model was trained on beside the video; empty if nothing.

    `images`, their name; their `count`, without those that could not be read; their `share` of a batch; and `shown`,
    the number of rows that held one, over all batches.
    """
    path = trained.path(ray_training.IMAGES)
    return dict(trained.store.read_json(path)) if trained.store.exists(path) else {}


def check(config: ExperimentConfig, fetch: bool = True) -> None:
    """Check, before anything is started, that the training can be built and that its images can be used.

    Args:
        config: the experiment.
        fetch: download what is missing: a set of torchvision's, if the config allows it, and published weights to start
            from; False leaves those weights unchecked.

    Raises:
        UsageError: as `check_training`; or there are no such images as `pretrain.images` names.
    """
    check_training(config, fetch)
    if images := config.pretrain.stills:
        _, notes = datasets.check_images(images, config.evaluate, config.extract.image_size, fetch)
        for note in notes:
            console.say(escape(settings.one_line(f"pretrain: '{images}': {note}")))


def check_training(config: ExperimentConfig, fetch: bool = True) -> None:
    """Check that the training can be built.

    Args:
        config: the experiment.
        fetch: download published weights to start from that are not in the cache; False leaves them unchecked.

    Raises:
        UsageError: unknown backbone, framework or augmentation settings; weights to start from that do not fit; sizes
            that do not fit, such as a backbone that does not take `extract.image_size`; or a precision in which this
            machine's CPU gets gradients wrong, if that will train.
    """
    asked = config.pretrain
    if (asked.min_workers or 1) > asked.workers:
        raise UsageError(f"pretrain.min_workers {asked.min_workers} must be at most workers {asked.workers}")
    numbers = range(asked.min_workers or asked.workers, asked.workers + 1)
    for workers in numbers:
        if asked.batch_size % workers or asked.batch_size // workers < 2:
            raise UsageError(
                f"pretrain.batch_size {asked.batch_size} is that of all workers: it must be a multiple of the "
                f"{workers} workers, with at least 2 patches each"
            )
    if asked.views != "augmented" and config.extract.crops < 2:
        raise UsageError(f"pretrain.views {asked.views} needs two crops of a track: set extract.crops to 2 or more")
    _check_twins(config)
    if asked.warmup_epochs >= asked.epochs:
        raise UsageError(f"pretrain.warmup_epochs {asked.warmup_epochs} must be below epochs {asked.epochs}")
    try:
        built = training_settings(config)
        for workers in numbers:
            stills = still_rows(built, workers, twins=built.twin_weight > 0) if asked.stills else 0
            paired_rows(built, workers, stills)
        _check_model(built.model_dump_json(), _is_of_this_cpu(config))
        create_optimizer(built.model_copy(update={"layer_decay": None}), nn.Linear(1, 1))
    except (ValueError, AssertionError, TypeError) as error:
        raise UsageError(f"pretrain: {error}") from None
    if config.pretrain.init is not None and (fetch or initial_weights.is_known(config)):
        initial_weights.check(config)


def _check_twins(config: ExperimentConfig) -> None:
    """Raise UsageError for more twins than the policy or the scoring has."""
    asked, policy = config.pretrain, config.score.policy
    if asked.twins == 1 or not asked.twin_weight or policy in ("none", "later"):
        return
    if policy not in RANKED:
        raise UsageError(
            f"score.policy {policy} gives a patch one twin, not pretrain.twins {asked.twins}: set pretrain.twins to 1, "
            f"or score.policy to {' or '.join(RANKED)}"
        )
    if asked.twins > config.score.candidates:
        raise UsageError(
            f"pretrain.twins {asked.twins} are more partners than the {config.score.candidates} that are stored: set "
            "it lower, or score.candidates higher, which scores anew"
        )


def _is_of_this_cpu(config: ExperimentConfig) -> bool:
    """Whether this machine's CPU will train, and not another machine or a GPU."""
    here = cluster.address_of(config.ray) == "local"
    return here and not (torch.cuda.is_available() if config.pretrain.gpu is None else config.pretrain.gpu)


@cache
def _check_model(built: str, on_this_cpu: bool) -> None:
    """`check_model`, once in a process for the same settings: large models take seconds."""
    made = TrainingSettings.model_validate_json(built)
    settings = json.dumps(made.backbone_settings, sort_keys=True)
    own = own_code.is_own(made.framework)  # which may change its backbone
    checked = None if own else _checked_backbone(made.backbone, made.image_size, settings, made.freeze_layers)
    check_model(made, checked, torch.device("cpu") if on_this_cpu else None)


@lru_cache(maxsize=1)
def _checked_backbone(name: str, size: int, settings: str, frozen: int) -> nn.Module:
    """The backbone that the frameworks of a sweep are checked around, one after the other, with some layers frozen.

    `check_model` freezes `frozen` layers: a backbone with others frozen is another one.
    """
    with torch.random.fork_rng(devices=[]):
        return create_backbone(name, size, **json.loads(settings))


def _alone(job: ray_training.Job, epochs: "EpochQueue") -> Callable[[], str]:
    """How to train with one worker: a task of Ray, tried again if its process dies. Raises as `_resources`."""
    import ray

    cpus, gpu = _resources(job.config)
    task = ray.remote(
        num_cpus=cpus,
        num_gpus=int(gpu),
        max_retries=job.config.pretrain.max_failures,
        retry_exceptions=[ray_training.RetryableError],
        # By default a task runs within the resources of the trial that starts it, and a trial of a sweep has none.
        scheduling_strategy="DEFAULT",
    )(ray_training.train_alone)
    return lambda: ray.get(task.remote(job, epochs, cpus))


def _together(job: ray_training.Job, epochs: "EpochQueue") -> Callable[[], str]:
    """How to train with several workers, on Ray Train. Raises as `_resources`."""
    import ray.train.torch
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from infoaug.orchestrator.runtime import rendezvous

    cpus, gpu = _resources(job.config)
    settings = job.config.pretrain
    trainer = ray.train.torch.TorchTrainer(
        # Bound by `partial` rather than passed as `train_loop_config`: the controller would unpickle that too, and
        # would import PyTorch to do so.
        partial(ray_training.train_together, job),
        torch_config=rendezvous.torch_config(),
        scaling_config=ScalingConfig(
            num_workers=(settings.min_workers, settings.workers) if settings.min_workers else settings.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=job.stage.store.url(job.stage.folder),
            failure_config=FailureConfig(max_failures=settings.max_failures, controller_failure_limit=3),
            callbacks=[epochs],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    return lambda: str(trainer.fit().return_value)


def _resources(config: ExperimentConfig) -> tuple[int, bool]:
    """The CPUs of each worker, and whether each gets a GPU.

    Raises:
        UsageError: this machine has too few of them.
    """
    import ray

    asked, resources = config.pretrain, ray.cluster_resources()
    each, gpu = cluster.per_worker(asked.workers, asked.cpus_per_worker, asked.gpu)
    # A cluster may grow on demand; this machine will not.
    for what, needed in (("CPU", each * asked.workers), ("GPU", asked.workers if gpu else 0)):
        if needed > resources.get(what, 0) and cluster.address_of(config.ray) == "local":
            raise UsageError(
                f"{asked.workers} training workers need {needed} {what}s, there are {resources.get(what, 0):.0f}: "
                "set pretrain.workers, cpus_per_worker or gpu"
            )
    return each, gpu


def _listen(epochs: "EpochQueue", outcome: Future[Any], on_epoch: Callable[[Epoch], None]) -> None:
    """Pass epochs on until training has ended and the queue is empty.

    Errors of the queue and of `on_epoch` become warnings: training continues, and its result has all epochs.
    """
    begun, tick = False, console.waiting("pretrain: workers start, read the patches and train the first epoch")
    while True:
        ended = outcome.done()  # before the queue is read, so that no epoch can arrive after the last read
        try:
            metrics = epochs.get(timeout=0.5)
        except Empty:
            if ended:
                return
            if not begun:
                tick()
            continue
        except StageError as error:
            console.say(f"[yellow]{escape(str(error))}[/]")
            return
        begun = begun or metrics is not None
        try:
            if metrics:
                on_epoch(metrics)
        except StageError as error:
            console.say(f"[yellow]{escape(str(error))}[/]")


def _cause(error: BaseException) -> str:
    """The last error of a worker's traceback, in one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [
        line
        for line in lines
        if line.partition(":")[0].endswith(("Error", "Exception")) and not line.endswith("RetryableError")
    ]
    cause = (named or lines or [type(error).__name__])[-1].partition(". ")[0]
    if number := re.search(r"\[Errno (\d+)\] ", cause):
        meaning = os.strerror(int(number[1]))  # pyarrow gives only the number
        cause = cause.replace(number[0], "" if meaning in cause else f"{meaning}: ")
    return without_secrets(cause)[:300]
