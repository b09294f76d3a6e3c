"""What a GPU says: do the CUDA paths work, and how fast are mutual information and training?

    make gpu        # on a machine with an NVIDIA GPU, at most 9 minutes; writes benchmarks/results/gpu.json
    make gpu-dry    # the same at toy size on the CPU; writes nothing unless given --out
    python benchmarks/gpu.py --render    # docs/gpu.md from benchmarks/results/gpu.json

It needs PyTorch, timm, pydantic and this checkout, but neither Ray nor MLflow nor pytest. Three parts, each a list of
items:

1. `checks`: the mutual-information kernel against the CPU's, bfloat16, images on the device and mapped, resuming, a
   process group of one rank, two ranks that share the GPU (synchronised batch norm and DDP), and a step of every
   framework.
2. `information`: pairs per second of KSG on the GPU, by the CPU kernel and by NPEET, in the same run.
3. `training`: images (patches) per second of SimCLR with twins and without (baseline), in bfloat16 and channels last,
   compiled and not; forward and backward passes of the bare backbone on as many views; lightly's SimCLR where it is
   installed.

A worker process runs the items and appends a row for each to a file. If it crashes, or an item takes too long, that
item has failed, and another worker runs the rest: a CUDA error makes a process unusable. The results are written after
every worker.
"""

import argparse
import contextlib
import copy
import gc
import hashlib
import importlib.util
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "gpu.md"
BUDGET, HARD_LIMIT = 480.0, 510.0  # seconds after which no item starts, and after which the last one is stopped
PART_SECONDS = {"checks": 200.0, "information": 140.0, "training": 480.0}  # after which no more items of a part start
ITEM_SECONDS = {"checks": 120.0, "information": 100.0, "training": 170.0}  # an item that takes longer has failed
TIME_UP = "the time of the whole run was up"
UNUSABLE = 3  # exit status of a worker whose CUDA context is broken
BEGIN = time.time()  # before PyTorch is imported, which takes a while on a new machine
Row = dict[str, Any]

sys.path.insert(0, str(ROOT))
import infoaug  # noqa: E402

if not (ROOT / "infoaug" / "models").is_dir():
    # A checkout copied without symbolic links: the sub-packages are the top-level folders.
    infoaug.__path__.append(str(ROOT))


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        device: of torch.
        patches, lengths: of the windows whose mutual information is timed; lengths in frames.
        trainings: backbone, image size in pixels, and patches in a batch.
        backbone_settings: of all backbones but ViTs.
        check_batch: patches in a batch of the checks.
        window: seconds of one timing; the median of three counts.
        compiled: whether compiled backbones are measured as well.
        patience: factor of all time limits.
    """

    device: str
    patches: int
    lengths: tuple[int, ...]
    trainings: tuple[tuple[str, int, int], ...]
    backbone_settings: dict[str, Any]
    check_batch: int
    window: float
    compiled: bool
    patience: float


GPU = Scale(
    device="cuda",
    patches=196,
    lengths=(64, 128, 256),
    trainings=(
        ("resnet18", 32, 512),
        ("vit_small_patch16_224", 32, 512),
        ("resnet18", 224, 128),
        ("vit_small_patch16_224", 224, 128),
    ),
    backbone_settings={},
    check_batch=64,
    window=0.5,
    compiled=True,
    patience=1.0,
)
DRY = Scale(
    device="cpu",
    patches=6,
    lengths=(16,),
    trainings=(("resnet18", 16, 4),),
    backbone_settings={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    check_batch=4,
    window=0.01,
    compiled=False,
    patience=4.0,  # for machines that are busy with other tests
)


class Skipped(Exception):  # noqa: N818
    """Why an item cannot be measured here."""


# ---- items: what a worker does. They return figures, and raise where something is wrong.


def items(scale: Scale) -> list[tuple[str, str, Callable[[], Row]]]:
    """Part, name and function of every item, in order."""
    from infoaug.models import frameworks

    rows: list[tuple[str, str, Callable[[], Row]]] = []

    def add(part: str, name: str, function: Callable[..., Row], *arguments: Any) -> None:
        rows.append((part, name, partial(function, scale, *arguments)))

    add("checks", "the CPU kernel compiles", compile_kernel)
    add("checks", "bfloat16 trains like float32", check_bfloat16)
    add("checks", "images on the device and mapped train alike", check_mapped)
    add("checks", "a resumed training ends like an uninterrupted one", check_resume)
    for name in frameworks.available():
        add("checks", f"{name} trains", check_framework, name)
    add("checks", "process group of one rank with DDP", check_process_group)
    add("checks", "two ranks on one device: SyncBatchNorm and DDP", check_two_ranks)
    for estimator, given, frames in (("ksg", False, 50), ("ksg", True, 48), ("ksg2", False, 48), ("3kl", False, 48)):
        name = f"{estimator}{' given a third variable' if given else ''} equals the CPU kernel"
        add("checks", name, check_information, estimator, given, frames)
    add("checks", "float32 mutual information is near float64", check_single)
    for backbone, size, batch in scale.trainings:
        add("training", f"{backbone}, {size} px, eager", time_training, backbone, size, batch, False)
        add("training", f"{backbone}, {size} px, lightly", time_lightly, backbone, size, batch)
    # One length in float32 will do: the kernel is compiled for each, which takes up to a minute.
    for dtype, lengths in (("float64", scale.lengths), ("float32", scale.lengths[:1])):
        for length in lengths:
            add("information", f"{length} frames, {dtype}", time_information, length, dtype)
    # Last, as compiling takes longest.
    for backbone, size, batch in scale.trainings if scale.compiled else ():
        add("training", f"{backbone}, {size} px, compiled", time_training, backbone, size, batch, True)
    return rows


def compile_kernel(scale: Scale) -> Row:
    """Compile the CPU kernel, which is slow the first time, so that later items do not wait for it."""
    import numpy as np

    from infoaug.estimators.information import kernels

    for dtype in ("float64", "float32"):
        x, seen = np.random.default_rng(0).normal(size=(3, 16, 2)).astype(dtype), np.ones((3, 16), bool)
        kernels.all_pairs(x, x, seen, seen, estimator="ksg", k=3, least=0, symmetric=True)
    return {}


def check_information(scale: Scale, estimator: str, conditional: bool, frames: int) -> Row:
    """Every pair of a window by both kernels, with gaps, a Theiler window and dependent trajectories."""
    import numpy as np

    from infoaug.estimators.information import gpu, kernels

    forget_compiled(scale)
    rng = np.random.default_rng(0)
    x, visible = rng.normal(size=(7, frames, 2)), rng.random((7, frames)) < 0.8
    x[1] += x[0]
    z = rng.normal(size=(frames, 2)) if conditional else None
    options: Row = {"estimator": estimator, "k": 3, "least": 10, "theiler": 2, "condition": z, "symmetric": True}
    ours = gpu.all_pairs(x, x, visible, visible, device=scale.device, **options)
    expected = kernels.all_pairs(x, x, visible, visible, **options)
    require(bool((np.isnan(ours) == np.isnan(expected)).all()), "other pairs are NaN")
    off = float(np.nanmax(np.abs(ours - expected)))
    require(off < 1e-9, f"the kernels differ by {off:.2g} nats")
    return {"largest_difference": off}


def check_single(scale: Scale) -> Row:
    """The largest difference between float32 on the device and float64 on the CPU."""
    import numpy as np

    from infoaug.estimators.information import gpu, kernels

    forget_compiled(scale)
    x, seen = np.random.default_rng(3).normal(size=(30, 64, 2)), np.ones((30, 64), bool)
    options: Row = {"estimator": "ksg", "k": 3, "least": 0, "symmetric": True}
    single = x.astype(np.float32)
    off = gpu.all_pairs(single, single, seen, seen, device=scale.device, **options) - kernels.all_pairs(
        x, x, seen, seen, **options
    )
    require(float(np.nanmax(np.abs(off))) < 5e-3, f"they differ by {np.nanmax(np.abs(off)):.2g} nats")
    return {"largest_difference": float(np.nanmax(np.abs(off)))}


def check_bfloat16(scale: Scale) -> Row:
    """Losses of an epoch in both precisions, and whether `auto` takes bfloat16."""
    import torch

    losses = {name: small_training(scale, precision=name).epoch()["loss"] for name in ("float32", "bfloat16")}
    off = abs(losses["bfloat16"] / losses["float32"] - 1)
    require(off < 0.05, f"losses {losses} differ by {off:.1%}")
    model = small_training(scale, precision="auto")
    with model.autocast:
        product = torch.ones(8, 8, device=scale.device) @ torch.ones(8, 8, device=scale.device)
    return {"relative_difference": off, "auto": str(product.dtype).removeprefix("torch.")}


def check_mapped(scale: Scale) -> Row:
    """Weights after an epoch on images in the device's memory, and on a mapped file that is read ahead."""
    from infoaug.models.training.pairs import Pairs, Window, write_mapped

    data = patches(6 * scale.check_batch, 16)
    with tempfile.TemporaryDirectory() as folder:
        window = Window(data.images.numpy(), data.twin.numpy(), data.crop_frames.numpy())
        write_mapped(Path(folder), [window])
        mapped = Pairs.mapped(Path(folder))
    states = []
    with deterministic():
        for source in (data, mapped):
            training = small_training(scale, source)
            training.epoch()
            states.append(training.model.state_dict())
    return alike(*states)


def check_resume(scale: Scale) -> Row:
    """Weights after two epochs, without and with an interruption between them."""
    import torch

    with deterministic(), tempfile.TemporaryDirectory() as folder:
        whole, first = small_training(scale, framework="byol"), small_training(scale, framework="byol")
        for _ in range(2):
            whole.epoch()
        first.epoch()
        torch.save(first.state(), Path(folder) / "state.pt")
        second = small_training(scale, framework="byol")
        state = torch.load(Path(folder) / "state.pt", map_location=second.device, weights_only=True)
        second.load_state(state)
        second.epoch()
    require(len(second.history) == 2, f"{len(second.history)} epochs")
    return alike(whole.model.state_dict(), second.model.state_dict())


def check_framework(scale: Scale, name: str) -> Row:
    """An epoch in the default precision with the framework's default heads: finite losses, weights that change."""
    import torch

    training = small_training(scale, framework=name)
    # Matrices and kernels: the scales of norms may stay 1 in so few small steps.
    before = {n: p.detach().clone() for n, p in training.model.backbone.named_parameters() if p.ndim > 1}
    metrics = training.epoch()
    bad = [key for key, value in metrics.items() if not math.isfinite(value)]
    require(not bad, f"not finite: {bad}")
    weights = dict(training.model.backbone.named_parameters())
    unchanged = [key for key, value in before.items() if torch.equal(value, weights[key])]
    require(not unchanged, f"unchanged weights: {unchanged[:3]}")
    require(metrics["twin_loss"] != 0, "the twin branch has no loss")
    return {"loss": metrics["loss"], "peak_memory_mb": metrics["peak_memory_mb"]}


def check_process_group(scale: Scale) -> Row:
    """NCCL (gloo on a CPU) with one rank: a sum, and a backward pass through DDP and synchronised batch norm."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from infoaug.models.batch_norm import synchronise

    backend = "nccl" if scale.device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meet = f"file://{folder}/meet"
        dist.init_process_group(backend, init_method=meet, rank=0, world_size=1, timeout=timedelta(seconds=60))
        try:
            total = torch.ones(3, device=scale.device)
            dist.all_reduce(total)
            require(total.tolist() == [1, 1, 1], f"the sum over one rank is {total.tolist()}")
            layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(scale.device)
            model = DistributedDataParallel(synchronise(layers))
            model(torch.randn(8, 3, 8, 8, device=scale.device)).square().sum().backward()
            require(all(p.grad is not None for p in model.parameters()), "a gradient is missing")
        finally:
            dist.destroy_process_group()
    return {"backend": backend}


def check_two_ranks(scale: Scale) -> Row:
    """Two processes on one device, over gloo as NCCL wants a GPU for each: see `rank_process`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *(["--dry"] if scale is DRY else []), "--meet", folder, "--rank"]
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        try:
            ended = [rank.communicate(timeout=70 * scale.patience) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        for rank, (_, errors) in zip(ranks, ended, strict=True):
            require(rank.returncode == 0, f"a rank failed: {errors[-600:]}")
        one, other = (json.loads(output.splitlines()[-1]) for output, _ in ended)
    require(max(one["norm"], other["norm"]) < 1e-4, f"batch norm differs by {one['norm']:.2g} and {other['norm']:.2g}")
    require(one["weights"] == other["weights"], "the ranks have other weights")
    require(all(math.isfinite(rank["loss"]) for rank in (one, other)), "the loss is not finite")
    return {"batch_norm_difference": max(one["norm"], other["norm"]), "loss": one["loss"], "norm": one["kind"]}


def rank_process(scale: Scale, rank: int, folder: str) -> None:
    """Print, as JSON, this rank's weights, and how far its batch norm is from that of the whole batch."""
    import torch
    import torch.distributed as dist

    from infoaug.models.batch_norm import synchronise

    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    device = torch.device(scale.device, 0) if scale.device == "cuda" else torch.device("cpu")
    images = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(0)).to(device)
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).to(device)
    synchronised = synchronise(copy.deepcopy(plain))
    own = slice(8 * rank, 8 * rank + 8)
    off = (synchronised(images[own]) - plain(images)[own]).abs().max().item()
    training = small_training(scale, device=device)
    loss = training.epoch()["loss"]
    digest = hashlib.sha256()
    for value in training.model.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    kind = type(synchronised[0]).__name__
    print(json.dumps({"norm": off, "weights": digest.hexdigest(), "loss": loss, "kind": kind}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def time_information(scale: Scale, length: int, dtype: str) -> Row:
    """Pairs per second of one window by each kernel, and by NPEET on some of its pairs."""
    import numba
    import numpy as np

    from infoaug.estimators.information import gpu, kernels

    forget_compiled(scale)
    walks = np.random.default_rng(length).normal(size=(scale.patches, length, 2)).cumsum(1)
    x = ((walks - walks.mean(1, keepdims=True)) / walks.std(1, keepdims=True)).astype(dtype)
    seen, pairs = np.ones(x.shape[:2], bool), scale.patches * (scale.patches - 1) // 2
    options: Row = {"estimator": "ksg", "k": 3, "least": 0, "symmetric": True}
    on_device = partial(gpu.all_pairs, x, x, seen, seen, device=scale.device, **options)
    on_cpu = partial(kernels.all_pairs, x, x, seen, seen, **options)
    started = time.perf_counter()
    matrix = on_device()
    figures: Row = {"frames": length, "dtype": dtype, "patches": scale.patches, "threads": numba.get_num_threads()}
    figures["first_call_seconds"] = time.perf_counter() - started
    figures["largest_difference"] = off = float(np.nanmax(np.abs(matrix - on_cpu())))
    require(off < (1e-9 if dtype == "float64" else 0.05), f"the kernels differ by {off:.2g} nats")
    figures["gpu_pairs_per_second"] = pairs / seconds(on_device, scale)
    figures["cpu_pairs_per_second"] = pairs / seconds(on_cpu, scale)
    return figures | npeet_rate(x.astype(np.float64), scale)


def npeet_rate(x: Any, scale: Scale) -> Row:
    """Pairs per second of NPEET, here if it is installed, else as recorded by benchmarks/mutual_information.py."""
    from infoaug.estimators.information.mutual_information import npeet_mi

    if importlib.util.find_spec("npeet_plus"):
        chosen = [(i, j) for i in range(6) for j in range(i)]
        npeet_mi(x[0], x[1], None, 3)
        started, done = time.perf_counter(), 0
        for i, j in chosen:
            npeet_mi(x[i], x[j], None, 3)
            done += 1
            if time.perf_counter() - started > 4 * scale.window:
                break
        return {"npeet_pairs_per_second": done / (time.perf_counter() - started), "npeet_source": "this run"}
    recorded = RESULTS.with_name("mutual_information.json")
    if recorded.is_file():
        with contextlib.suppress(ValueError, LookupError, TypeError):
            content = json.loads(recorded.read_text(encoding="utf-8"))
            row = next(row for row in content["rows"] if row["d"] == 2 and row["frames"] == x.shape[1])
            return {
                "npeet_pairs_per_second": row["npeet_pairs_per_s"],
                "npeet_source": f"recorded on another machine: {content.get('machine', 'unknown')}",
            }
    return {"npeet_pairs_per_second": None, "npeet_source": "npeet-plus is not installed"}


def time_training(scale: Scale, backbone: str, size: int, batch: int, compiled: bool) -> Row:
    """Patches per second of SimCLR's step with twins and without, and of the bare backbone on as many views."""

    def measure(batch: int) -> Row:
        figures: Row = {"backbone": backbone, "image_size": size, "batch": batch, "compiled": compiled}
        for name, weight in (("twins", 0.5), ("baseline", 0.0)):
            forget_compiled(scale)  # else the second would be compiled for any number of views, which is slower
            training = full_training(scale, backbone, size, batch, compiled, weight)
            step = training_step(training)
            peak_reset(scale)
            started = time.perf_counter()
            step()
            wait(scale)
            figures[f"{name}_first_step_seconds"] = time.perf_counter() - started
            figures[f"{name}_images_per_second"] = batch / seconds(step, scale)
            figures[f"{name}_peak_memory_mb"] = peak(scale)
            if name == "twins":
                figures["bare_backbone_images_per_second"] = batch / seconds(bare_step(training), scale)
            del training, step
            free(scale)
        figures["of_bare_backbone"] = figures["twins_images_per_second"] / figures["bare_backbone_images_per_second"]
        figures["twins_to_baseline_time"] = figures["baseline_images_per_second"] / figures["twins_images_per_second"]
        return figures

    return smaller_if_needed(measure, batch, scale)


def time_lightly(scale: Scale, backbone: str, size: int, batch: int) -> Row:
    """Patches per second of SimCLR with lightly's head and loss in a plain loop, fed by our augmentation."""
    try:
        os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # some versions would ask a server
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
    except ImportError as error:
        raise Skipped(f"lightly is not installed ({error})") from None
    import torch

    from infoaug.models.augment import Augment
    from infoaug.models.backbones import create_backbone
    from infoaug.models.training.optimisation import autocast

    def measure(batch: int) -> Row:
        device = torch.device(scale.device)
        made: Any = create_backbone(backbone, size, **settings_of(scale, backbone))
        head = SimCLRProjectionHead(made.num_features, made.num_features, 128)
        model = torch.nn.Sequential(made, head).to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
        loss, augment, images = NTXentLoss(), Augment().to(device), patches(4 * batch, size).images.to(device)
        random, precision = torch.Generator(device).manual_seed(0), autocast("auto", device, size)

        def step() -> None:
            chosen = images[torch.randperm(len(images))[:batch].to(device)]
            views = [augment(chosen, generator=random).contiguous(memory_format=torch.channels_last) for _ in range(2)]
            with precision:
                embeddings = [model(view) for view in views]
            value = loss(*(embedding.float() for embedding in embeddings))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

        peak_reset(scale)
        figures = {"backbone": backbone, "image_size": size, "batch": batch}
        figures["lightly_images_per_second"] = batch / seconds(step, scale)
        return figures | {"lightly_peak_memory_mb": peak(scale)}

    return smaller_if_needed(measure, batch, scale)


# ---- what the items share


def require(holds: bool, otherwise: str) -> None:
    """Raise AssertionError unless it holds; also under `python -O`."""
    if not holds:
        raise AssertionError(otherwise)


def patches(count: int, size: int) -> Any:
    """Random images, each patch with a twin."""
    import torch

    from infoaug.models.training import Pairs

    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
    return Pairs(images, (torch.arange(count) + 1) % count)


def settings_of(scale: Scale, backbone: str) -> dict[str, Any]:
    """Settings of a backbone at this scale."""
    return {} if "vit" in backbone else scale.backbone_settings


def small_training(scale: Scale, data: Any = None, device: Any = None, **changes: Any) -> Any:
    """Two epochs of six steps at 16 pixels; `changes` of the settings."""
    import torch

    from infoaug.models.training import Training, TrainingSettings

    settings = {"backbone_settings": scale.backbone_settings, "image_size": 16, "epochs": 2, "warmup_epochs": 1}
    settings |= {"batch_size": scale.check_batch, "learning_rate": 0.03}
    data = data or patches(6 * scale.check_batch, 16)
    return Training(TrainingSettings(**settings | changes), data, device or torch.device(scale.device))


def full_training(scale: Scale, backbone: str, size: int, batch: int, compiled: bool, twin_weight: float) -> Any:
    """SimCLR in bfloat16 where the hardware has it."""
    import torch

    from infoaug.models.training import Training, TrainingSettings

    settings = TrainingSettings(
        backbone=backbone,
        backbone_settings=settings_of(scale, backbone),
        image_size=size,
        batch_size=batch,
        twin_weight=twin_weight,
        compile=compiled,
    )
    return Training(settings, patches(4 * batch, size), torch.device(scale.device))


def training_step(training: Any) -> Callable[[], None]:
    """A step of the training on a random batch, as a function."""
    import torch

    from infoaug.models.training.draws import draw

    training.model.train()
    random = torch.Generator(training.device).manual_seed(0)
    twins, count = training.model.twin_branch is not None, training.settings.batch_size

    def step() -> None:
        rows = torch.randperm(len(training.data.twin))[:count]
        drawn = draw(training.data, rows, training.settings, torch.default_generator)
        training.step(training.data.batch(drawn, training.device, twins), random, progress=0.5)

    return step


def bare_step(training: Any) -> Callable[[], None]:
    """Forward and backward passes of the training's backbone, compiled or not, on as many views as a step has."""
    import torch

    count, size, backbone = training.settings.batch_size, training.settings.image_size, training.model.backbone
    views = torch.randn(3 * count, 3, size, size, device=training.device).contiguous(memory_format=training.layout)

    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        with training.autocast:
            features = backbone(views)
        features.float().square().mean().backward()

    return step


def smaller_if_needed(measure: Callable[[int], Row], batch: int, scale: Scale) -> Row:
    """Halve the batch until it fits into the device's memory."""
    import torch

    while True:
        try:
            return measure(batch)
        except torch.OutOfMemoryError:
            if batch <= 16:
                raise
        # Outside of the handler, whose traceback would keep the tensors alive.
        batch //= 2
        free(scale)


def alike(one: dict[str, Any], other: dict[str, Any]) -> Row:
    """How far two states are from each other; kernels may add in another order, but only round."""
    import torch

    pairs = [(one[name].double(), other[name].double()) for name in one]
    off = max((a - b).abs().max().item() for a, b in pairs)
    identical = all(torch.equal(a, b) for a, b in pairs)
    require(off < 1e-2, f"weights differ by {off:.2g}")
    return {"identical": identical, "largest_difference": off}


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Let cuDNN choose only deterministic algorithms."""
    import torch

    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def seconds(work: Callable[[], Any], scale: Scale) -> float:
    """Time of one call: the median of three timings, each of as many calls as fill the window."""
    for _ in range(3):
        work()
    wait(scale)
    started = time.perf_counter()
    work()
    wait(scale)
    calls = max(1, round(scale.window / (time.perf_counter() - started)))
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        wait(scale)  # once: a step does not wait for the device
        taken.append((time.perf_counter() - started) / calls)
    return statistics.median(taken)


def forget_compiled(scale: Scale) -> None:
    """Start the compiler afresh: above a number of variants of a function it would stop compiling."""
    if scale.device == "cuda":
        import torch

        torch._dynamo.reset()


def wait(scale: Scale) -> None:
    """Wait for the device."""
    if scale.device == "cuda":
        import torch

        torch.cuda.synchronize()


def free(scale: Scale) -> None:
    """Return unused memory to the device."""
    gc.collect()
    if scale.device == "cuda":
        import torch

        torch.cuda.empty_cache()


def peak_reset(scale: Scale) -> None:
    """Forget the peak of the device's memory."""
    if scale.device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak(scale: Scale) -> float | None:
    """MiB that tensors took at most on the device; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if scale.device == "cuda" else None


# ---- the worker


def work(scale: Scale, file: Path, until: float) -> int:
    """Run the items that have no row in the file yet; append a row when one starts and when it ends.

    Args:
        scale: of the items.
        file: of rows, one JSON object a line.
        until: time as of `time.time()` after which no item starts.

    Returns:
        The exit status.
    """
    with file.open("a", encoding="utf-8") as opened:

        def emit(**row: Any) -> None:
            opened.write(json.dumps(row) + "\n")
            opened.flush()

        previous = rows_of(file)
        finished = {(row["part"], row["name"]) for row in previous}
        spent = dict.fromkeys(PART_SECONDS, 0.0)
        for row in previous:
            spent[row["part"]] = spent.get(row["part"], 0.0) + row.get("seconds", 0.0)
        emit(part="machine", name="machine", status="passed", figures=machine(scale))
        planned = items(scale)
        emit(part="plan", name="plan", status="passed", figures={"items": [(part, name) for part, name, _ in planned]})
        for part, name, function in planned:
            if (part, name) in finished:
                continue
            if time.time() > until or spent[part] > PART_SECONDS[part] * scale.patience:
                emit(part=part, name=name, status="skipped", error="no time left")
                continue
            emit(part=part, name=name, status="started", at=time.time())
            started, status, error, figures = time.perf_counter(), "passed", "", {}
            try:
                figures = function()
            except Skipped as reason:
                status, error = "skipped", str(reason)
            except Exception as raised:
                status, error = "failed", described(raised)
            taken = time.perf_counter() - started
            spent[part] += taken
            emit(part=part, name=name, status=status, seconds=taken, figures=figures, error=error)
            try:
                wait(scale)
                free(scale)
            except Exception:
                return UNUSABLE
    return 0


def machine(scale: Scale) -> Row:
    """Hardware and versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: Row = {"cpu": cpu, "cpus": cores, "gpu": None, "python": platform.python_version()}
    for package in ("torch", "triton", "timm", "numba", "numpy", "lightly", "npeet-plus"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["torch"] = torch.__version__
    if scale.device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def described(error: BaseException) -> str:
    """An error in one line with the places it came through, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:700]} ({places})"


def lines_of(file: Path) -> list[Row]:
    """All rows; a line that a killed worker left unfinished is ignored."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def rows_of(file: Path) -> list[Row]:
    """Rows of the items that have ended."""
    return [row for row in lines_of(file) if row["status"] != "started" and row["part"] in PART_SECONDS]


def running(file: Path) -> Row | None:
    """The item that has started and not ended, if any."""
    last = (lines_of(file) or [None])[-1]
    return last if last and last["status"] == "started" else None


# ---- the process that is started by hand


def run(scale: Scale, out: Path | None) -> Row:
    """Run all items in workers, one after the other, until none is left or the time is up; the results.

    Raises:
        RuntimeError: a worker ended before its first item.
    """
    dry, begin = scale is DRY, BEGIN
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [sys.executable, __file__, *(["--dry"] if dry else []), "--worker", str(file)]
        command += ["--until", str(begin + BUDGET * scale.patience)]
        while True:
            before = len(rows_of(file))
            status, reason = one_worker(command, file, begin + HARD_LIMIT * scale.patience, scale)
            if stopped := running(file):
                row = {"part": stopped["part"], "name": stopped["name"], "error": reason}
                row["status"] = "skipped" if reason == TIME_UP else "failed"
                row |= {"seconds": time.time() - stopped["at"], "figures": {}}
                with file.open("a", encoding="utf-8") as opened:
                    opened.write("\n" + json.dumps(row) + "\n")
            results = collected(file, dry, time.time() - begin)
            if out:
                out.parent.mkdir(parents=True, exist_ok=True)
                part = out.with_suffix(".part")
                part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                part.replace(out)
            after = len(rows_of(file))
            if after == 0:
                raise RuntimeError(f"the worker ended before its first item: {reason}")
            # A worker that has added no row would add none the next time either.
            if status == 0 or after == before or time.time() > begin + BUDGET * scale.patience:
                return results


def one_worker(command: list[str], file: Path, limit: float, scale: Scale) -> tuple[int, str]:
    """Wait for a worker, and stop it when an item takes too long or `limit` has come; its exit status, and why."""
    environment = dict(os.environ)
    if scale is DRY:  # tensors so small that more threads only wait for each other
        environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    if sys.platform == "linux":  # all ranks are on this machine, which may have no network
        environment = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} | environment
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    reason = ""
    try:
        while process.poll() is None:
            time.sleep(0.1)
            current = running(file)
            if time.time() > limit:
                reason = TIME_UP
            elif current and time.time() - current["at"] > ITEM_SECONDS[current["part"]] * scale.patience:
                reason = f"no answer within {ITEM_SECONDS[current['part']] * scale.patience:.0f} s"
            if reason:
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what the worker has started
    status = process.wait()
    return status, reason or f"its process ended with status {status}"


def collected(file: Path, dry: bool, taken: float) -> Row:
    """All results so far; items that no worker has reached are marked as skipped."""
    about = {row["part"]: row["figures"] for row in lines_of(file) if row["part"] not in PART_SECONDS}
    rows = rows_of(file)
    parts = {part: sum(row.get("seconds", 0.0) for row in rows if row["part"] == part) for part in PART_SECONDS}
    ended = {(row["part"], row["name"]) for row in rows}
    for part, name in about.get("plan", {"items": []})["items"]:
        if (part, name) not in ended:
            rows.append({"part": part, "name": name, "status": "skipped", "error": "not reached"})
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "dry": dry,
        "machine": about.get("machine", {}),
        "seconds": {**parts, "total": taken},
        "rows": rows,
    }


def commit() -> str | None:
    """The checkout's commit, with `+` if files differ from it; None where git does not say."""

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# ---- the page


def markdown(results: Row) -> str:
    """All figures as Markdown tables."""
    about, rows = results["machine"], results["rows"]
    of = {part: [row for row in rows if row["part"] == part] for part in PART_SECONDS}
    gpu = f"{about['gpu']}, {about['gpu_memory_gib']} GiB" if about.get("gpu") else "no GPU (toy sizes on the CPU)"
    names = ("python", "torch", "cuda", "triton", "timm", "numba")
    versions = ", ".join(f"{name} {about[name]}" for name in names if about.get(name))
    spent = ", ".join(f"{part} {value:.0f} s" for part, value in results["seconds"].items())
    lines = [
        f"{gpu}; {about.get('cpus')} CPUs ({about.get('cpu')}); {versions}.",
        f"Measured {results['date']} at commit {(results['commit'] or 'unknown')[:12]}; {spent}.",
    ]

    passed = sum(row["status"] == "passed" for row in of["checks"])
    lines += [
        "",
        f"## Checks: {passed} of {len(of['checks'])} passed",
        "",
        "| check | result | s | |",
        "|---|---|---:|---|",
    ]
    for row in of["checks"]:
        detail = row.get("error") or ", ".join(f"{k} {value(v)}" for k, v in row.get("figures", {}).items())
        lines.append(f"| {row['name']} | {row['status']} | {row.get('seconds', 0):.1f} | {cell(detail)} |")

    lines += ["", "## Mutual information, pairs per second (KSG, k = 3, two dimensions)", ""]
    lines += ["| frames | type | patches | GPU | CPU | NPEET | GPU : CPU | first call, s | NPEET measured |"]
    lines += ["|---:|---|---:|---:|---:|---:|---:|---:|---|"]
    for row in of["information"]:
        f = row.get("figures", {})
        if row["status"] != "passed":
            lines.append(f"| {row['name']} | {row['status']}: {cell(row.get('error', ''))} |")
            continue
        rates = [f[f"{kind}_pairs_per_second"] for kind in ("gpu", "cpu", "npeet")]
        lines.append(
            f"| {f['frames']} | {f['dtype']} | {f['patches']} | {' | '.join(map(value, rates))} "
            f"| {rates[0] / rates[1]:.2f} | {f['first_call_seconds']:.1f} | {cell(f['npeet_source'])} |"
        )

    lines += ["", "## Training, patches per second (SimCLR, automatic precision, channels last)", ""]
    lines += [
        "| run | batch | with twins | baseline | bare backbone, 3 views | with twins : bare | time, twins : baseline "
        "| peak MiB, twins, baseline | first step, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in of["training"]:
        f = row.get("figures", {})
        if row["status"] != "passed":
            lines.append(f"| {row['name']} | {row['status']}: {cell(row.get('error', ''))} |")
        elif "lightly_images_per_second" in f:
            memory = value(f["lightly_peak_memory_mb"])
            lines.append(
                f"| {row['name']} | {f['batch']} | | {value(f['lightly_images_per_second'])} | | | | {memory} | |"
            )
        else:
            rates = [f[f"{name}_images_per_second"] for name in ("twins", "baseline", "bare_backbone")]
            memory = ", ".join(value(f[f"{name}_peak_memory_mb"]) for name in ("twins", "baseline"))
            lines.append(
                f"| {row['name']} | {f['batch']} | {' | '.join(map(value, rates))} | {f['of_bare_backbone']:.2f} "
                f"| {f['twins_to_baseline_time']:.2f} | {memory} | {f['twins_first_step_seconds']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def page(results: Row) -> str:
    """docs/gpu.md. Raises ValueError for results that are not of a GPU."""
    if results["dry"] or not results["machine"].get("gpu"):
        raise ValueError("these results are not of a GPU: run `make gpu` on a machine that has one")
    text = "# On a GPU\n\n`make gpu` measures this; `python benchmarks/gpu.py --render` writes this page from "
    return text + "`benchmarks/results/gpu.json`.\n\n" + markdown(results)


def value(number: Any) -> str:
    """A figure, short."""
    if isinstance(number, bool) or number is None or isinstance(number, str):
        return {True: "yes", False: "no", None: "–"}.get(number, str(number))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def cell(text: str) -> str:
    """Text that stays within its cell."""
    return " ".join(text.split()).replace("|", "\\|")[:400]


def main() -> int:
    """Run, print the tables, write the JSON; or write the page. 1 if an item failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--out", type=Path, help="JSON file; default benchmarks/results/gpu.json, with --dry none")
    parser.add_argument("--render", action="store_true", help="write docs/gpu.md from the JSON and end")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scale = DRY if arguments.dry else GPU
    if arguments.rank is not None:
        rank_process(scale, arguments.rank, arguments.meet)
        return 0
    if arguments.worker:
        return work(scale, arguments.worker, arguments.until)
    out = arguments.out or (None if arguments.dry else RESULTS)
    if arguments.render:
        try:
            text = page(json.loads((out or RESULTS).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SystemExit(f"gpu.py: {error}") from None
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not arguments.dry:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("gpu.py: torch sees no NVIDIA GPU here; `make gpu-dry` runs toy sizes on the CPU")
    try:
        results = run(scale, out)
    except RuntimeError as error:
        raise SystemExit(f"gpu.py: {error}") from None
    print(markdown(results))
    return int(any(row["status"] == "failed" for row in results["rows"]))


if __name__ == "__main__":
    sys.exit(main())
