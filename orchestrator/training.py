"""The training loop that runs on every worker of Ray Train: two branches, from checkpoint to checkpoint."""

import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from models import frameworks
from models.augment import Augment, AugmentSettings
from models.backbones import RECIPE_FILE, WEIGHTS_FILE, create_backbone, save_backbone
from models.batch_norm import synchronise
from models.two_branch import TwoBranch
from orchestrator import extract, score
from orchestrator.config import ExperimentConfig
from orchestrator.store import Store, arrays

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
    model: nn.Module = build(config).to(device)
    layout = memory_format(model, device)
    model = model.to(memory_format=layout)
    if world > 1:
        model = synchronise(model)
    optimizer = optimizer_for(config, model)
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
    trained: Any = model
    # Buffers are the same on all ranks already: statistics are synchronised, and queues take the keys of all ranks.
    model = ray.train.torch.prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False})
    augment = Augment(AugmentSettings(**settings.augment)).to(device)
    local = settings.batch_size // world

    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(images), generator=_generator(config.seed, epoch)).to(device)
        random = _generator(config.seed, epoch, rank + 1, device=device)
        totals: dict[str, Tensor] = {}
        paired = torch.zeros((), dtype=torch.int64, device=device)
        for step in range(steps):
            rows = order[step * settings.batch_size :][rank * local : (rank + 1) * local]
            partner = twin_of[rows]
            twin_rows = (partner >= 0).nonzero()[:, 0]
            batch = images[rows]
            views = [augment(x, generator=random) for x in (batch, batch, images[partner[twin_rows]])]
            first, second, twin = (view.contiguous(memory_format=layout) for view in views)
            with autocast:
                losses = model(first, second, twin, twin_rows, rows, partner)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
            schedule.step()
            trained.after_step((epoch * steps + step + 1) / (settings.epochs * steps))
            totals = {name: value.detach() + totals.get(name, 0) for name, value in losses.items()}
            paired += len(twin_rows)
        sums = torch.stack([*totals.values()])
        if world > 1:
            dist.all_reduce(sums)
            dist.all_reduce(paired)
        means = dict(zip(totals, (sums / (steps * world)).tolist(), strict=True))
        seconds = time.perf_counter() - started
        seen = steps * settings.batch_size
        metrics: Epoch = {
            "epoch": epoch + 1,
            **means,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "share_with_twin": paired.item() / seen,
        }
        history = [*history, metrics]
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} in epoch {epoch + 1}: set pretrain.learning_rate lower"
            )
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


def build(config: ExperimentConfig) -> TwoBranch:
    """The untrained model of a config, drawn from torch's global random state; see there for what is raised."""
    settings = config.pretrain
    backbone = create_backbone(settings.backbone, config.extract.image_size, **settings.backbone_settings)
    framework = frameworks.create(settings.framework, backbone, **settings.framework_settings)
    return TwoBranch(framework, 0.0 if config.score.policy == "none" else settings.twin_weight)


def optimizer_for(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, which leaves biases and norms without weight decay; the learning rate scales with the global batch."""
    settings = config.pretrain
    rate = settings.learning_rate * settings.batch_size / 256
    return create_optimizer_v2(
        model, opt=settings.optimizer, lr=rate, weight_decay=settings.weight_decay, momentum=settings.momentum
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


def _generator(*seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose in one epoch, so that a resumed run draws what an undisturbed one would."""
    return torch.Generator(device=device).manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def _autocast(precision: str, device: torch.device) -> Any:
    """bfloat16 where asked for, or where the hardware multiplies it faster than float32."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    use = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16) if use else nullcontext()
