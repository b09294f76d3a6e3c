"""The training of one worker: two branches, from epoch to epoch. `train` runs it under Ray Train, a test without."""

import inspect
import math
import resource
import shutil
import sys
import tempfile
import time
import uuid
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infoaug.models import frameworks
from infoaug.models.augment import Augment
from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE, create_backbone, save_backbone
from infoaug.models.batch_norm import synchronise
from infoaug.models.collapse import feature_std, rank_me
from infoaug.models.ranks import gather_rows, world
from infoaug.models.settings import AugmentSettings
from infoaug.models.two_branch import TwoBranch
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import pairs, score

Epoch = dict[str, float]


class Training:
    """Model, optimiser, schedule and augmentation of one worker; the other workers of the process group have the same.

    A run that goes on from a `state` ends with the weights of one that was not interrupted, bit for bit on CPUs with as
    many workers: all that is drawn at random is drawn anew in every epoch, from the seed and the epoch's number.

    Attributes:
        model: the trained model.
        history: metrics of every epoch that is done.
    """

    def __init__(self, config: ExperimentConfig, data: pairs.Pairs, device: torch.device) -> None:
        """`data`: all patches, the same for every worker."""
        self.config, self.settings, self.data, self.device = config, config.pretrain, data, device
        self.world, self.rank = world()
        self.steps = len(data.twin) // self.settings.batch_size  # of an epoch
        self.history: list[Epoch] = []
        torch.manual_seed(config.seed)
        model = build(config).to(device)
        self.layout = memory_format(model, device)
        model = model.to(memory_format=self.layout)
        self.model = synchronise(model) if self.world > 1 else model
        self.optimizer = optimizer_for(config, self.model)
        warmup, total = (count * self.steps for count in (self.settings.warmup_epochs, self.settings.epochs))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(_cosine, warmup=warmup, total=total))
        self.augment, self.augment_second = (Augment(part).to(device) for part in augmentations(config))
        self.autocast = _autocast(self.settings.precision, device)
        self.features = torch.empty(0)
        self.model.backbone.register_forward_hook(self._keep_features)
        if self.settings.compile:
            # The compiler would choose the layout by itself, also that in which a CPU crashes.
            keep = {"options": {"layout_optimization": False}} if self.layout == torch.contiguous_format else {}
            for backbone in filter(None, (self.model.backbone, self.model.momentum_backbone)):
                backbone.compile(dynamic=True, **keep)  # in place: names of the weights stay
        self.parallel: nn.Module = self.model
        if self.world > 1:
            # Buffers are the same on all ranks already: statistics are synchronised, queues take the keys of all ranks.
            ids = [device] if device.type == "cuda" else None
            self.parallel = DistributedDataParallel(
                self.model,
                device_ids=ids,
                broadcast_buffers=False,
                # Without it gradients change places after the first step, also the first of a resumed run, and with
                # them how gloo rounds their sums over more than two workers.
                find_unused_parameters=device.type == "cpu",
            )

    def epoch(self) -> Epoch:
        """Train for one epoch and give its metrics, means over steps and ranks.

        Beside losses and the learning rate: `images_per_second` of all workers; `data_wait_fraction`, the share of the
        time that this worker's host has waited for batches; `peak_memory_mb`, of the device, or on a CPU of the process
        since it began, the most of any worker; `feature_std` and `rank_me` of the backbone's features of the last
        global batch's first views (see models/collapse.py). Raises FloatingPointError where the loss is no number any
        more.
        """
        number, started, settings = len(self.history), time.perf_counter(), self.settings
        self._prepare(number)
        local = settings.batch_size // self.world
        order = torch.randperm(len(self.data.twin), generator=_generator(self.config.seed, number))
        parts = order[: self.steps * settings.batch_size].view(self.steps, self.world, local)[:, self.rank]
        batches = pairs.Batches(self.data, [*parts], self.device, twins=self.model.twin_branch is not None)
        random = _generator(self.config.seed, number, self.rank + 1, device=self.device)
        totals: dict[str, Tensor] = {}
        for step, batch in enumerate(batches):
            losses = self.step(batch, random, progress=(number + (step + 1) / self.steps) / settings.epochs)
            totals = {name: value + totals.get(name, 0) for name, value in losses.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        means = self._means(totals)
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} in epoch {number + 1}: set pretrain.learning_rate lower"
            )
        seconds, seen = time.perf_counter() - started, self.steps * settings.batch_size
        features = gather_rows(self.features[:local].float())
        metrics = {
            "epoch": number + 1,
            **means,
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "data_wait_fraction": batches.waited / seconds,
            "peak_memory_mb": self._peak_memory() / 2**20,
            "share_with_twin": (self.data.twin[order[:seen]] >= 0).double().mean().item(),
            "feature_std": feature_std(features).item(),
            "rank_me": rank_me(features).item(),
        }
        self.history = [*self.history, metrics]
        return metrics

    def step(self, batch: pairs.Batch, random: torch.Generator, progress: float) -> dict[str, Tensor]:
        """One step of the optimiser; the losses, detached. Nothing here waits for the device.

        `random`: of the augmentation; `progress`: the share of training that is done after this step.
        """
        first = self.augment(batch.images, generator=random).contiguous(memory_format=self.layout)
        others = self.augment_second(torch.cat([batch.images, batch.twins]), generator=random)
        others = others.contiguous(memory_format=self.layout)
        second, twin = others[: len(first)], others[len(first) :]
        with self.autocast:
            losses = self.parallel(first, second, twin, batch.twin_rows, batch.image, batch.twin_image)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if self.settings.clip_gradients:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradients)
        self.optimizer.step()
        self.schedule.step()
        self.model.after_step(progress)
        return {name: value.detach() for name, value in losses.items()}

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on after the last epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave of a training with the same config and patches."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]

    def _prepare(self, epoch: int) -> None:
        self.model.train()
        # Dropout, where a backbone has it, draws from torch's own state.
        torch.manual_seed(_seed(self.config.seed, epoch, self.rank + 1, 1))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _keep_features(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self.features = features.detach()

    def _means(self, totals: dict[str, Tensor]) -> Epoch:
        sums = torch.stack([*totals.values()])
        if self.world > 1:
            dist.all_reduce(sums)
        return dict(zip(totals, (sums / (self.steps * self.world)).tolist(), strict=True))

    def _peak_memory(self) -> float:
        if self.device.type == "cuda":
            own = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peak = torch.tensor(float(own), dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(peak, dist.ReduceOp.MAX)
        return peak.item()


def train(job: dict[str, Any]) -> str:
    """The training on every worker of Ray Train, from checkpoint to checkpoint.

    Returns:
        Why it ended early, if it would end there again: Ray Train tries again what is raised. Empty if it is done.
    """
    config = ExperimentConfig.model_validate(job["config"])
    settings, place = config.pretrain, job["place"]
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    training = Training(config, _data(config, job["scored"], place, device), device)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            training.load_state(torch.load(Path(folder) / "state.pt", map_location=device, weights_only=True))
    every = config.evaluate.every
    validation = None
    if every and training.rank == 0:
        from infoaug.orchestrator.evaluation import probes  # brings scikit-learn, which every worker would wait for

        validation = probes.Validation(config, device)

    while len(training.history) < settings.epochs:
        try:
            metrics = training.epoch()
        except FloatingPointError as error:  # of all workers' loss, so they all return
            return str(error)
        done = len(training.history)
        if validation and every and (done % every == 0 or done == settings.epochs):
            metrics["validation_knn"] = validation.knn(training.model.backbone)
        due = done % settings.checkpoint_every == 0 or done == settings.epochs
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if due and training.rank == 0:
                torch.save(training.state(), Path(folder) / "state.pt")
                saved = Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=saved)

    if training.rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            mean, std = (values.flatten().tolist() for values in (training.augment.mean, training.augment.std))
            save_backbone(training.model.backbone.cpu(), folder, mean=mean, std=std)
            for name in (WEIGHTS_FILE, RECIPE_FILE):
                place.store.write_bytes(place.path(name), (Path(folder) / name).read_bytes())
        place.store.write_json(place.path("history.json"), training.history)
    return ""


def _data(config: ExperimentConfig, scored: score.Scored, place: StageFolder, device: torch.device) -> pairs.Pairs:
    """The patches in the device's memory if asked for or if there is room, else in a file of this node's.

    The file lies where TMPDIR says, and is deleted as soon as all workers read it: the system keeps it until they end.
    """
    context, resident = ray.train.get_context(), config.pretrain.images_on_device
    if resident == "auto":
        count, workers = scored.counts["patches"], context.get_local_world_size()
        room = torch.tensor(pairs.fits(count, config.extract.image_size, device, workers), device=device).int()
        if dist.is_initialized():
            dist.all_reduce(room, dist.ReduceOp.MIN)  # or some would wait for the others below
        resident = bool(room)
    if resident:
        return pairs.load(scored, place.store).to(device)
    name = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(name)
    folder = Path(tempfile.gettempdir()) / f"infoaug-{name[0]}"
    first = context.get_local_rank() == 0
    if first:
        pairs.write(scored, place.store, folder)
    _wait()
    data = pairs.mapped(folder)
    _wait()
    if first:
        shutil.rmtree(folder)
    return data


def _wait() -> None:
    """Wait for the other workers."""
    if dist.is_initialized():
        dist.barrier()


def build(config: ExperimentConfig) -> TwoBranch:
    """The untrained model of a config, drawn from torch's global random state; see there for what is raised."""
    settings = config.pretrain
    backbone = create_backbone(settings.backbone, config.extract.image_size, **settings.backbone_settings)
    framework = frameworks.create(settings.framework, backbone, settings.framework_settings)
    return TwoBranch(framework, 0.0 if config.score.policy == "none" else settings.twin_weight)


def augmentations(config: ExperimentConfig) -> tuple[AugmentSettings, AugmentSettings]:
    """Settings for first views, and for second views and twins."""
    first, second = config.pretrain.augment, config.pretrain.augment_second
    return first, first.model_copy(update=second.written())


def optimizer_for(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, which leaves biases and norms without weight decay; the learning rate scales with the global batch.

    In one kernel for all parameters where the optimiser has that, or else by lists of them.
    """
    settings = config.pretrain
    takes = inspect.signature(get_optimizer_class(settings.optimizer)).parameters
    faster = [name for name in ("fused", "foreach") if name in takes][:1]
    return create_optimizer_v2(
        model,
        opt=settings.optimizer,
        lr=settings.learning_rate * settings.batch_size / 256,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        **dict.fromkeys(faster, True) | settings.optimizer_settings,
    )


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The faster layout, channels last, unless a CPU would crash in it.

    oneDNN writes past its workspace in the backward pass of a strided 1×1 convolution with fewer input channels than a
    SIMD register holds (github.com/uxlfoundation/oneDNN issue 6035).
    """
    narrow = any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels < 16
        for m in model.modules()
    )
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


def _cosine(step: int, warmup: int, total: int) -> float:
    """Share of the full learning rate: linear up over the warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _generator(*seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in one epoch, so that a resumed run draws what an undisturbed one would."""
    return torch.Generator(device=device).manual_seed(_seed(*seed))


def _autocast(precision: str, device: torch.device) -> Any:
    """bfloat16 where asked for, or where the hardware multiplies it faster than float32."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    use = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16) if use else nullcontext()
