"""Training on Ray: windows from the store in, checkpoints and the trained backbone out.

Several workers are those of Ray Train. One worker is a task of Ray: Ray Train would start six processes for it, which
takes longer than a small training, and a task reuses a process that has PyTorch imported already. The training itself
is `infoaug.models.training`.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE, save_backbone
from infoaug.models.training import Epoch, Pairs, Stream, Training, TrainingSettings
from infoaug.models.training.pairs import Window, fits, write_mapped
from infoaug.orchestrator.config import RUNTIME, ExperimentConfig
from infoaug.orchestrator.errors import StageError, worth_retrying
from infoaug.orchestrator.evaluation import datasets, opening
from infoaug.orchestrator.runtime import scratch
from infoaug.orchestrator.runtime.cache import Cache
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, initial_weights, score, shards
from infoaug.orchestrator.stages.checkpoints import Checkpoints
from infoaug.orchestrator.stages.shards import Sharded

if TYPE_CHECKING:
    from infoaug.orchestrator.runtime.epoch_queue import EpochQueue

T = TypeVar("T")

READERS = 8  # threads that read windows
IMAGES = "images.json"  # what was trained on beside the video
VALIDATION, VALIDATED_ON = "validation_knn", "validated_on.json"  # a metric, and the file that says what it measures


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        config: the experiment.
        settings: its training.
        stage: where the trained backbone is written.
        sharded: the shards that patches and twins are streamed from; None: all are held, and their windows are listed
            in ledgers that workers read from the store.
        together: shards of a block; see `Stream`.
    """

    config: ExperimentConfig
    settings: TrainingSettings
    stage: StageFolder
    sharded: Sharded | None = None
    together: int = 1


@dataclass(frozen=True)
class Worker:
    """A process of a training, and how it reaches what surrounds it.

    Attributes:
        device: where it trains.
        tell: passes on the metrics of an epoch; called by all workers.
        leaving: whether a node of the training will be taken away soon.
        number: its number among the workers of its node.
        on_node: how many workers its node has.
    """

    device: torch.device
    tell: Callable[[Epoch], None]
    leaving: Callable[[], bool]
    number: int = 0
    on_node: int = 1


class RetryableError(Exception):
    """Of an error that another attempt may get past: a task is tried again after no other."""


def train_alone(job: Job, epochs: "EpochQueue", threads: int) -> str:
    """`train` as a task of Ray, the only worker.

    Args:
        job: what to train.
        epochs: takes the metrics of every epoch.
        threads: of PyTorch on the CPU.

    Raises:
        RetryableError: from an error that another attempt may get past.
    """
    import ray

    torch.set_num_threads(threads)  # those of a process that other tasks have used are theirs
    node = ray.get_runtime_context().get_node_id()
    worker = Worker(
        device=torch.device("cuda:0" if ray.get_gpu_ids() else "cpu"),
        tell=epochs.put,
        leaving=lambda: node in ray._private.state.state.get_draining_nodes(),
    )
    try:
        return train(job, worker)
    except Exception as error:
        if worth_retrying(error):
            raise RetryableError from error
        raise
    finally:
        if job.settings.compile:
            torch.compiler.reset()  # after some models a process compiles no further one


def train_together(job: Job) -> str:
    """`train` on a worker of Ray Train."""
    import ray.train.torch

    context = ray.train.get_context()
    worker = Worker(
        device=ray.train.torch.get_device(),
        tell=ray.train.report,
        leaving=lambda: ray.train.get_preemption_info() is not None,
        number=context.get_local_rank(),
        on_node=context.get_local_world_size(),
    )
    return train(job, worker)


def train(job: Job, worker: Worker) -> str:
    """Train on one worker, from the last checkpoint if there is one.

    Returns:
        Why training ended early, if another attempt would end in the same way; else nothing. Ray would try again after
        an exception.
    """
    config, settings, stage, device = job.config, job.settings, job.stage, worker.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    first = not dist.is_initialized() or dist.get_rank() == 0
    validate = _validation(config, device) if config.evaluate.every and first else None
    if job.sharded:
        data: Pairs | Stream = _stream(config, job.sharded, job.together, worker)
    else:
        data = _read(config, listed(config, stage), stage, worker)
    training = Training(settings, data, device, validate, initial_weights.stored(config, stage))
    with Checkpoints(stage) as checkpoints:
        if newest := _from_first(checkpoints.newest() if first else None):
            training.load_state(checkpoints.load(newest, device))
        if validate:
            training.history = current(training.history, config, stage)
            stage.store.write_json(stage.path(VALIDATED_ON), _validated_on(config))
        why = _epochs(training, checkpoints if first else None, config, worker)
    if first and not why:
        _keep(training, data, config, stage)
    return why


def _epochs(training: Training, checkpoints: Checkpoints | None, config: ExperimentConfig, worker: Worker) -> str:
    """Train all epochs that are left, and save checkpoints if given. Returns as `train`."""
    saved, epochs = time.monotonic(), training.settings.epochs

    def save(due: bool) -> None:
        nonlocal saved
        if checkpoints and (due or worker.leaving()):
            checkpoints.save(training.state())
            saved = time.monotonic()

    while len(training.history) < epochs:
        try:
            metrics = training.epoch(
                between=lambda: save(time.monotonic() - saved >= 60 * config.pretrain.checkpoint_minutes)
            )
        except FloatingPointError as error:  # the loss is the mean of all workers, so all of them return
            return str(error).replace("learning_rate", "pretrain.learning_rate")
        done = len(training.history)
        save(done % config.pretrain.checkpoint_every == 0 or done == epochs)
        worker.tell(dict(metrics))
    return ""


def _keep(training: Training, data: Pairs | Stream, config: ExperimentConfig, stage: StageFolder) -> None:
    """Write the trained backbone and the history of its epochs to the store."""
    with scratch.folder() as folder:
        mean, std = (values.flatten().tolist() for values in (training.augment.mean, training.augment.std))
        save_backbone(training.model.kept_backbone.cpu(), folder, mean=mean, std=std)
        for name in (WEIGHTS_FILE, RECIPE_FILE):
            stage.store.write_bytes(stage.path(name), (folder / name).read_bytes())
    if images := config.pretrain.stills:
        shown = training.settings.epochs * training.steps * int(training.is_still.sum())
        share = config.pretrain.image_share
        read = {"images": images, "count": data.stills, "share": share, "shown": shown}
        stage.store.write_json(stage.path(IMAGES), read)
    stage.store.write_json(stage.path("history.json"), training.history)


def listed(config: ExperimentConfig, stage: StageFolder) -> score.Scored:
    """The scored windows that a training was named by, from the ledgers in the store.

    Raises:
        StageError: another command has changed the ledgers since.
    """
    scored = score.load(config, extract.load(config, stage.store))
    if scored.extracted.windows.digest != stage.key["windows"]:
        raise StageError("another command has changed the set of windows meanwhile; run the same command again")
    return scored


def windows(scored: score.Scored, store: Store) -> Iterator[Window]:
    """Read the scored windows in the order clip, window; a few are read ahead.

    Raises:
        StageError: `score.twins_elsewhere` finds no twins, the store cannot be read, or crops cannot be decoded.
    """

    units, ahead = scored.extracted.windows, 4 * READERS
    elsewhere, start = score.twins_elsewhere(scored), 0

    def read(number: int) -> Window:
        _, folder, window = units[number]
        path = extract.trajectory_path(scored.extracted.stage, folder, window)
        try:
            crops, at = extract.crops_of(store.read_table(path, extract.CROPS))
        except ValueError as error:
            raise StageError(f"'{path}' of the store: {error}; delete it, and run again to compute it anew") from error
        images = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
        if elsewhere:
            return Window(images, elsewhere[number], at)
        if scored.twins > 1:
            partners, strength = score.partners_of(scored, folder, window)
            return Window(images, partners[:, 0], at, others=partners[:, 1:], strength=strength)
        twin, paired = score.twins_of(scored, folder, window)
        return Window(images, twin, at, paired)

    def among_all(window: Window, start: int) -> Window:
        """The window with its partners as rows among the patches of all windows, its own from `start` on."""
        twin, others = window.twin, window.others
        if others is not None:
            others = np.where(others >= 0, others + start, -1)
        return window._replace(twin=np.where(twin >= 0, twin + start, -1), others=others)

    with ThreadPoolExecutor(READERS) as pool:
        for begin in range(0, len(units), ahead):
            for window in pool.map(read, range(begin, min(begin + ahead, len(units)))):
                yield window if elsewhere else among_all(window, start)
                start += len(window.twin)


def _read(config: ExperimentConfig, scored: score.Scored, stage: StageFolder, worker: Worker) -> Pairs:
    """Read patches and images into the device's memory if asked to or if they fit, else into a file of this node."""
    on_device, size = config.pretrain.images_on_device, config.extract.image_size
    opened = _open_images(config, worker)
    images = (block.numpy() for block in (datasets.image_blocks(opened, size) if opened else ()))
    if on_device == "auto":
        stills = len(opened.labels["train"]) if opened else 0
        count = scored.counts["patches"] * config.extract.crops + stills  # at most
        on_device = _alike(fits(count, size, worker.device, worker.on_node), worker.device)
    return _on_node(lambda: windows(scored, stage.store), images, bool(on_device), worker)


def _alike(yes: bool, device: torch.device) -> bool:
    """Whether all workers say yes: unless they decide alike, some would wait at a barrier for ever."""
    answer = torch.tensor(yes, device=device).int()
    if dist.is_initialized():
        dist.all_reduce(answer, dist.ReduceOp.MIN)
    return bool(answer)


def _on_node(
    read: Callable[[], Iterator[Window]], images: Iterable[NDArray[np.uint8]], in_memory: bool, worker: Worker
) -> Pairs:
    """Read windows and images into memory, or into a file that the workers of this node share.

    The file lies where TMPDIR says. It is deleted as soon as all workers have mapped it, so none is left behind.
    """
    if in_memory:
        return Pairs.from_windows(read(), images)
    name = _from_first(uuid.uuid4().hex)
    if worker.number > 0:
        return _mapped(scratch.path_of(name))
    with scratch.folder(name) as folder:
        try:
            write_mapped(folder, read(), images)
        except OSError as error:
            where = f"TMPDIR, {tempfile.gettempdir()}, does not take the images of this training"
            raise OSError(error.errno, f"{where}: {os.strerror(error.errno or 0)}") from error
        return _mapped(folder)


def _stream(config: ExperimentConfig, sharded: Sharded, together: int, worker: Worker) -> Stream:
    """Open the shards for streaming, and read the still images that are shown beside them."""
    cache = Cache(sharded.stage.store, int(config.pretrain.cache * 2**30))

    def open_shard(number: int) -> Pairs:
        return shards.open_shard(sharded, cache.fetch(sharded.path(number)))

    stills = _still_images(config, worker)
    return Stream(sharded.counts, open_shard, together, config.extract.image_size, stills)


def _still_images(config: ExperimentConfig, worker: Worker) -> torch.Tensor | None:
    """The images from no video u8[n, 3, S, S], in the host's memory or in a file of this node; None: there are none."""
    if not (opened := _open_images(config, worker)):
        return None
    size = config.extract.image_size
    images = (block.numpy() for block in datasets.image_blocks(opened, size))
    in_memory = fits(len(opened.labels["train"]), size, torch.device("cpu"), worker.on_node)
    found = _on_node(lambda: iter(()), images, _alike(in_memory, worker.device), worker)
    assert isinstance(found.images, torch.Tensor)
    return found.images


def _open_images(config: ExperimentConfig, worker: Worker) -> opening.Opened | None:
    """Open the images that are trained on beside the video; the first worker of a node downloads what is missing."""
    if not (named := config.pretrain.stills):
        return None
    first, size = worker.number == 0, config.extract.image_size
    if not first:
        _barrier()
    opened = opening.open_images(named, config.evaluate, size, fetch=first and config.evaluate.download)
    if first:
        _barrier()
    return opened


def _mapped(folder: Path) -> Pairs:
    """Map the files of a node, once its first worker has written them; return when all workers have mapped theirs."""
    _barrier()
    data = Pairs.mapped(folder)
    _barrier()
    return data


def _from_first(value: T) -> T:
    """What the first worker passes."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def _barrier() -> None:
    """Wait for the other workers."""
    if dist.is_initialized():
        dist.barrier()


def current(history: list[Epoch], config: ExperimentConfig, stage: StageFolder) -> list[Epoch]:
    """The metrics of epochs without validations on other images or labels than those of this config today."""
    record = stage.path(VALIDATED_ON)
    if not any(VALIDATION in epoch for epoch in history) or not config.evaluate.datasets:
        return history
    # Models of earlier versions have no record, and are believed.
    if not stage.store.exists(record) or stage.store.read_json(record) == _validated_on(config):
        return history
    return [{name: value for name, value in epoch.items() if name != VALIDATION} for epoch in history]


def _validated_on(config: ExperimentConfig) -> dict[str, Any]:
    """Identifies what validations during training measure, which is no part of the model's identity."""
    name = config.evaluate.datasets[0]
    return {
        "dataset": name,
        "content": opening.fingerprint(name),
        **config.evaluate.model_dump(mode="json", exclude=RUNTIME["evaluate"]),
    }


def _validation(config: ExperimentConfig, device: torch.device) -> Callable[[nn.Module], Epoch]:
    """What `Training` calls between epochs."""
    from infoaug.orchestrator.evaluation import probes  # needed by the worker that validates only

    validation = probes.Validation(config, device)
    return lambda backbone: {VALIDATION: validation.knn(backbone)}
