"""Pretrain: two-branch training on the patches and their twins, on Ray Train, from checkpoint to checkpoint."""

import math
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from pydantic import ValidationError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.util.queue import Queue
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from models import frameworks
from models.augment import Augment, AugmentSettings
from models.backbones import RECIPE_FILE, WEIGHTS_FILE, create_backbone, save_backbone
from models.two_branch import TwoBranch
from orchestrator import cluster, extract, progress, score
from orchestrator.config import ExperimentConfig
from orchestrator.errors import StageError, UsageError
from orchestrator.store import Stage, Store, arrays, digest_of

VERSION = 1  # of the numbers: raised when the same config would give others
RUNTIME_SETTINGS = {"workers", "cpus_per_worker", "gpu", "max_failures", "checkpoint_every"}  # change no number's meaning

Epoch = dict[str, float]


@dataclass(frozen=True)
class Pairs:
    """All patches of the windows, resident.

    Attributes:
        images: u8[N, 3, S, S].
        twin: int64[N], the row of each patch's twin, −1 where it has none.
    """

    images: Tensor
    twin: Tensor


@dataclass(frozen=True)
class Pretrained:
    """What the pretrain stage leaves: its folder with `backbone.safetensors` and `backbone.json`, and every epoch."""

    stage: Stage
    history: list[Epoch]
    resumed: int  # epochs that were there
    computed: int  # epochs trained now


def stage(config: ExperimentConfig, scored: score.Scored) -> Stage:
    """Where the model trained on these twins lives."""
    settings = config.pretrain.model_dump(exclude=RUNTIME_SETTINGS)
    units = digest_of([(folder, window) for _, folder, window in scored.extracted.windows])
    key = {"version": VERSION, "score": scored.stage.hash, "windows": units, "seed": config.seed, **settings}
    return Stage(scored.stage.store, "pretrain", key)


def load(config: ExperimentConfig, store: Store) -> Pretrained:
    """What an earlier training left.

    Raises:
        StageError: there was none for this config.
    """
    place = stage(config, score.load(config, store))
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
        StageError: training failed more often than `pretrain.max_failures`.
    """
    place, store = stage(config, scored), scored.stage.store
    if not resume:
        store.delete(place.folder)
    if store.exists(place.path("history.json")):
        return load(config, store)
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
    progress.say(f"pretrain: {patches} patches, {twins} with a twin; {'going on' if resumed else 'starting'}")

    computed: set[float] = set()

    def seen(metrics: Epoch) -> None:
        computed.add(metrics["epoch"])
        on_epoch(metrics)

    queue = Queue(actor_options={"num_cpus": 0})
    trainer = ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"config": config.model_dump(), "place": place, "scored": scored},
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name="train",
            storage_path=store.url(place.folder),
            failure_config=FailureConfig(max_failures=config.pretrain.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[_Forward(queue)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    finished = threading.Event()
    listener = threading.Thread(target=_listen, args=(queue, finished, seen), daemon=True)
    listener.start()
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise StageError(f"training failed: {_cause(error)}; run the same command again to go on") from error
    finally:
        finished.set()
        listener.join(timeout=30)
        queue.shutdown()
    history = store.read_json(place.path("history.json"))
    return Pretrained(place, history, resumed=len(history) - len(computed), computed=len(computed))


def files(place: Stage) -> dict[str, bytes]:
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
            f"pretrain.batch_size {settings.batch_size} is the global batch: it must divide by {settings.workers} workers"
        )
    if settings.warmup_epochs >= settings.epochs:
        raise UsageError(f"pretrain.warmup_epochs {settings.warmup_epochs} must be below epochs {settings.epochs}")
    try:
        _model(config)
        AugmentSettings(**settings.augment)
        _optimizer(config, nn.Linear(1, 1))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"pretrain.augment.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, AssertionError) as error:
        raise UsageError(f"pretrain: {error}") from None


def train(job: dict[str, Any]) -> None:
    """The training loop, on every worker."""
    config = ExperimentConfig.model_validate(job["config"])
    settings, place = config.pretrain, job["place"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    autocast = _autocast(settings.precision, device)

    pairs = load_pairs(job["scored"], place.store)
    images, twin_of = pairs.images.to(device), pairs.twin.to(device)
    torch.manual_seed(config.seed)
    model: nn.Module = _model(config).to(device, memory_format=torch.channels_last)
    if device.type == "cuda" and world > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = _optimizer(config, model)
    steps = len(images) // settings.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(_cosine, warmup=settings.warmup_epochs * steps, total=settings.epochs * steps)
    )
    history: list[Epoch] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history = state["history"]
    trained = model
    model = ray.train.torch.prepare_model(model)
    augment = Augment(AugmentSettings(**settings.augment)).to(device)
    local = settings.batch_size // world

    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(images), generator=_generator(config.seed, epoch)).to(device)
        random = _generator(config.seed, epoch, rank + 1, device=device)
        totals = torch.zeros(3, device=device)
        paired = torch.zeros((), dtype=torch.int64, device=device)
        for step in range(steps):
            rows = order[step * settings.batch_size :][rank * local : (rank + 1) * local]
            partner = twin_of[rows]
            twin_rows = (partner >= 0).nonzero()[:, 0]
            batch = images[rows]
            views = [augment(x, generator=random) for x in (batch, batch, images[partner[twin_rows]])]
            first, second, twin = (view.contiguous(memory_format=torch.channels_last) for view in views)
            with autocast:
                losses = model(first, second, twin, twin_rows)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
            schedule.step()
            totals += torch.stack([losses["loss"], losses["view_loss"], losses["twin_loss"]]).detach()
            paired += len(twin_rows)
        if world > 1:
            dist.all_reduce(totals)
            dist.all_reduce(paired)
        loss, view_loss, twin_loss = (totals / (steps * world)).tolist()
        seconds = time.perf_counter() - started
        seen = steps * settings.batch_size
        metrics: Epoch = {
            "epoch": epoch + 1,
            "loss": loss,
            "view_loss": view_loss,
            "twin_loss": twin_loss,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "share_with_twin": paired.item() / seen,
        }
        history = [*history, metrics]
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch + 1}: set pretrain.learning_rate lower")
        due = (epoch + 1) % settings.checkpoint_every == 0 or epoch + 1 == settings.epochs
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if due and rank == 0:
                state = {"model": trained.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"schedule": schedule.state_dict(), "history": history}
                torch.save(state, Path(folder) / "state.pt")
                saved = Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=saved)

    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            backbone = trained.get_submodule("backbone").cpu()
            save_backbone(backbone, folder, mean=augment.mean.flatten().tolist(), std=augment.std.flatten().tolist())
            for name in (WEIGHTS_FILE, RECIPE_FILE):
                place.store.write_bytes(place.path(name), (Path(folder) / name).read_bytes())
        place.store.write_json(place.path("history.json"), history)


def load_pairs(scored: score.Scored, store: Store) -> Pairs:
    """Every patch of the scored windows, and the row of its twin, in the order clip, window, patch."""

    def window(unit: tuple[str, str, int]) -> tuple[np.ndarray, np.ndarray]:
        _, folder, number = unit
        trajectories = store.read_table(extract.trajectory_path(scored.extracted.stage, folder, number), ["image"])
        found = store.read_table(score.twins_path(scored.stage, folder, number), ["twin"])
        return arrays(trajectories, "image"), found["twin"].fill_null(-1).to_numpy()

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(window, scored.extracted.windows))
    starts = np.cumsum([0, *(len(images) for images, _ in parts)])
    twin = np.concatenate([np.where(t >= 0, t + start, -1) for (_, t), start in zip(parts, starts, strict=False)])
    images = np.concatenate([images for images, _ in parts]).transpose(0, 3, 1, 2)
    return Pairs(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(twin.astype(np.int64)))


def _model(config: ExperimentConfig) -> TwoBranch:
    settings = config.pretrain
    backbone = create_backbone(settings.backbone, config.extract.image_size, **settings.backbone_settings)
    framework = frameworks.create(settings.framework, backbone, **settings.framework_settings)
    return TwoBranch(framework, 0.0 if config.score.policy == "none" else settings.twin_weight)


def _optimizer(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, which leaves biases and norms without weight decay; the learning rate scales with the global batch."""
    settings = config.pretrain
    rate = settings.learning_rate * settings.batch_size / 256
    return create_optimizer_v2(
        model, opt=settings.optimizer, lr=rate, weight_decay=settings.weight_decay, momentum=settings.momentum
    )


def _cosine(step: int, warmup: int, total: int) -> float:
    """Share of the full learning rate: linear up over the warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _generator(*seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in one epoch, so that a resumed run draws what an undisturbed one would."""
    return torch.Generator(device=device).manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def _autocast(precision: str, device: torch.device) -> Any:
    """bfloat16 where asked for, or where the hardware multiplies it faster than float32."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    use = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16) if use else nullcontext()


def _scaling(config: ExperimentConfig) -> ScalingConfig:
    settings, resources = config.pretrain, ray.cluster_resources()
    gpu = settings.gpu if settings.gpu is not None else resources.get("GPU", 0) >= settings.workers
    each = settings.cpus_per_worker or max(1, cluster.cpus() // settings.workers)
    for what, needed in (("CPU", each * settings.workers), ("GPU", settings.workers if gpu else 0)):
        if needed > resources.get(what, 0) and not config.ray.address:
            raise UsageError(
                f"{settings.workers} training workers need {needed} {what}s and there are {resources.get(what, 0):.0f}: "
                "set pretrain.workers, cpus_per_worker or gpu"
            )
    return ScalingConfig(num_workers=settings.workers, use_gpu=gpu, resources_per_worker={"CPU": each})


class _Forward(UserCallback):
    """Hands every epoch's metrics from Ray Train's controller to the process that started the training."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.queue.put(metrics[0])


def _listen(queue: Queue, finished: threading.Event, on_epoch: Callable[[Epoch], None]) -> None:
    while True:
        last = finished.is_set()
        try:
            on_epoch(queue.get(timeout=0.5))
        except Empty:
            if last:
                return


def _cause(error: BaseException) -> str:
    """The workers' own words, less the traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (named or lines or [type(error).__name__])[-1]
