"""Shards: the crops and twins of scored windows in few large files, for trainings that read them as a stream.

A shard holds whole windows, drawn at random from all clips, so that a few shards together are a sample of the data. The
file is an Arrow IPC file: workers map it, and decompress the crops that a step shows. The twins of all policies are in
it, so trials that differ in the policy share the shards.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infoaug.estimators.options import OTHER_WINDOWS
from infoaug.models.pixels import compress
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.runtime.store import StageFolder
from infoaug.orchestrator.stages import extract, score
from infoaug.orchestrator.stages.twin_table import DRAWN, ONE, PARTNERS, RANDOM_DRAWS, of_control, stored_partners

if TYPE_CHECKING:
    from infoaug.models.training.pairs import Pairs

VERSION = 1  # raised when the same windows would give other shards
BYTES = 128 << 20  # pixels of a shard, before compression
HELD_BYTES = 32 << 30  # of pixels, up to which a training holds all patches, by default
BLOCK = 1 << 18  # patches that are shuffled together beyond, by default
READERS = 8  # threads of a task that read windows
SHARDS_AT_ONCE = 256  # bounds this process's memory: the windows of a shard are named to its task

SCHEMA = pa.schema(
    [
        ("crops", pa.list_(pa.large_binary())),  # each compressed, see `models.training.encoded`
        ("frames", pa.list_(pa.int32())),  # of the crops
        ("partners", pa.list_(pa.int32())),  # best first, the twin is the first; rows of the shard, as all below
        ("strength", pa.list_(pa.float32())),  # of the dependence on each, nats
        *((name, pa.int32()) for name in ONE),
        *((name, pa.list_(pa.int32(), RANDOM_DRAWS)) for name in DRAWN),
    ]
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharded:
    """The shards of scored windows, and which of their twins to train with.

    Attributes:
        stage: their folder.
        counts: patches of each.
        policy, draw, twins: as of `score.Scored`.
    """

    stage: StageFolder
    counts: tuple[int, ...]
    policy: str
    draw: int
    twins: int

    def path(self, number: int) -> str:
        """The path of a shard in the store."""
        return self.stage.path(f"{number:06d}.arrow")

    def together(self, patches: int) -> int:
        """How many shards hold about so many patches, on average."""
        return max(1, round(patches * len(self.counts) / sum(self.counts)))


def block(config: ExperimentConfig, scored: score.Scored) -> int | None:
    """How many patches a streamed training shuffles together; None for a training that holds all of them.

    It depends on the data and the config alone, so that the same config is the same training on every machine.
    """
    asked, patches = config.pretrain.shuffle, scored.patches
    if asked == "auto":
        pixels = patches * config.extract.crops * 3 * config.extract.image_size**2
        asked = "all" if pixels <= HELD_BYTES else BLOCK
    return None if asked == "all" or asked >= patches else asked


def check(config: ExperimentConfig, scored: score.Scored) -> None:
    """Refuse twins that a stream cannot show. Raises UsageError."""
    if block(config, scored) and scored.policy in OTHER_WINDOWS:
        raise UsageError(
            f"score.policy {scored.policy} takes twins from other windows, which a streamed training has not at hand: "
            "set pretrain.shuffle to all"
        )


def sharded(config: ExperimentConfig, scored: score.Scored) -> tuple[Sharded, list[NDArray[np.integer]]]:
    """The shards that these windows have or will have, and the windows of each, numbers in `scored.extracted`."""
    key = {"version": VERSION, "score": scored.stage.hash, "windows": scored.extracted.windows.digest}
    patches = scored.in_windows("patches")
    each = BYTES // (config.extract.crops * 3 * config.extract.image_size**2)
    windows = planned(patches, max(1, each))
    counts = tuple(int(patches[own].sum()) for own in windows)
    stage = StageFolder(scored.stage.store, "shards", key)
    return Sharded(stage, counts, scored.policy, scored.draw, scored.twins), windows


def paired(scored: score.Scored, windows: Sequence[NDArray[np.integer]]) -> list[int]:
    """Patches with a twin in each shard, by the windows of each."""
    twins = scored.in_windows("twin")
    return [int(twins[own].sum()) for own in windows]


def planned(patches: NDArray[np.integer], each: int) -> list[NDArray[np.integer]]:
    """Deal windows with these numbers of patches, int[W], out to shards of about `each` patches, at random."""
    total = int(patches.sum())
    order = np.random.default_rng(0).permutation(len(patches))
    count = max(1, round(total / each))
    shard = np.minimum(np.cumsum(patches[order], dtype=np.int64) * count // max(1, total), count - 1)
    dealt = map(np.sort, np.split(order, np.searchsorted(shard, np.arange(1, count))))
    return [own for own in dealt if patches[own].any()]


def write(
    config: ExperimentConfig, scored: score.Scored, found: Sharded, windows: Sequence[NDArray[np.integer]]
) -> None:
    """Write those of the shards, as `sharded` gives them, that the store does not have yet.

    Raises:
        StageError: one of them cannot be written; those that are complete stay.
    """
    found.stage.record(config.to_yaml())
    present = found.stage.store.files(found.stage.folder)
    missing = [n for n in range(len(windows)) if found.path(n).rpartition("/")[2] not in present]
    console.say(f"shards: {len(windows)}, {len(windows) - len(missing)} already there")
    if missing:
        cluster.connect(config.ray)
    # Their key says how they were scored, which the partners depend on.
    work = partial(_write, found, scored.extracted.stage, scored.stage)
    for part in console.parts(len(missing), SHARDS_AT_ONCE, "shards"):
        todo: list[dict[str, Any]] = [
            {"number": number, "windows": [unit[1:] for unit in scored.extracted.windows[windows[number]]]}
            for number in missing[part]
        ]
        left = {row["number"] for row in todo}
        for row, status in console.track(cluster.map_rows(todo, work, 1), len(todo), "write shards"):
            if status["reason"]:
                raise StageError(f"a shard of the patches cannot be written: {status['reason']}")
            left.discard(row["number"])
        if left:
            raise StageError(f"{len(left)} shards of the patches were not written: {cluster.DIED}")


def open_shard(found: Sharded, file: Path) -> "Pairs":
    """Map a shard: its pairs with the twins of the policy, and images in the file.

    Raises:
        StageError: the file is damaged.
    """
    # Needed by the workers that train, and they import PyTorch.
    import torch

    from infoaug.models.training.encoded import Compressed, EncodedImages
    from infoaug.models.training.pairs import Pairs

    try:
        with pa.memory_map(str(file)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        crops, partners = batch["crops"], batch["partners"]
        images = crops.values
        content, offsets = images.buffers()[2], images.buffers()[1]
        count = pc.list_value_length(crops).to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StageError(
            f"the shard '{file}' is damaged ({error}): delete it, and run again to write it anew"
        ) from error
    paired = pc.list_value_length(partners).to_numpy() > 0
    twins, strength = _twins(found, batch, paired)
    size = json.loads(batch.schema.metadata[b"infoaug"])["size"]
    return Pairs(
        EncodedImages(
            [Compressed(np.frombuffer(content, np.uint8), np.frombuffer(offsets, np.int64)[: len(images) + 1])], size
        ),
        torch.from_numpy(twins[:, 0].astype(np.int64)),
        on_device=False,
        frames=torch.from_numpy(_padded(batch["frames"], int(count.max()), np.int32)),
        paired=torch.from_numpy(paired),
        others=torch.from_numpy(twins[:, 1:].astype(np.int64)),
        strength=torch.from_numpy(strength).float(),
    )


def _twins(
    found: Sharded, batch: pa.RecordBatch, paired: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """The partners of a shard's patches by the policy, int[N, k], −1 after the last, and their strengths f[N, k]."""
    chosen = of_control(found.policy, found.draw, batch.column, paired)
    if chosen is not None:
        return chosen[:, None], np.ones((len(paired), 1))
    partners = _padded(batch["partners"], found.twins, np.int32)
    alike = found.twins == 1
    return partners, np.ones(partners.shape) if alike else _padded(batch["strength"], found.twins, np.float32, 0)


def _padded(lists: pa.ListArray, width: int, dtype: type[np.generic], value: int = -1) -> NDArray[Any]:
    """The first values of N lists, [N, width], and `value` after the last."""
    length = pc.list_value_length(lists).to_numpy()
    first = lists.offsets.to_numpy()[:-1]
    values = lists.values.to_numpy(zero_copy_only=False)
    at = np.arange(width)
    there = at < length[:, None]
    padded = np.full(there.shape, value, dtype)
    padded[there] = values[(first[:, None] + at)[there]]
    return padded


def _write(
    found: Sharded, trajectories: StageFolder, twins: StageFolder, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """On a worker: read the windows of shards, and write these."""
    cv2.setNumThreads(1)  # a task has one CPU
    for row in rows:
        try:
            batch = _joined(trajectories, twins, row["windows"])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            found.stage.store.write_bytes(found.path(row["number"]), sink.getvalue().to_pybytes())
            yield {"reason": ""}
        except StageError:
            raise
        except Exception as error:  # any error of a file
            yield cluster.failure(error)


def _joined(trajectories: StageFolder, twins: StageFolder, windows: Sequence[tuple[str, int]]) -> pa.RecordBatch:
    """The rows of some windows, with the columns of `SCHEMA`."""
    asked, store = twins.key, trajectories.store
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    start, size = 0, 0

    def read(window: tuple[str, int]) -> tuple[pa.Table, pa.Table]:
        return (
            store.read_table(extract.trajectory_path(trajectories, *window), extract.CROPS),
            store.read_table(score.twins_path(twins, *window), sorted({*PARTNERS, *ONE, *DRAWN})),
        )

    with ThreadPoolExecutor(READERS) as pool:
        for crops, table in pool.map(read, windows):
            images, at = extract.crops_of(crops)
            size, ends = images.shape[1], (at >= 0).sum(axis=1).cumsum()
            encoded = compress(images.transpose(0, 3, 1, 2))
            columns["crops"] += [encoded[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            columns["frames"] += [own[own >= 0] for own in at]
            most = 1 + max(pc.list_value_length(table["candidates"]).to_pylist())
            partners, strength = stored_partners(
                table, most, asked["alpha"], asked["mutual"], tested=asked["surrogates"] > 0
            )
            columns["partners"] += [own[own >= 0] + start for own in partners]
            columns["strength"] += [weight[own >= 0] for own, weight in zip(partners, strength, strict=True)]
            for name in ONE:
                one = table[name].fill_null(-1).to_numpy()
                columns[name] += np.where(one >= 0, one + start, -1).tolist()
            for name in DRAWN:
                drawn = table[name].combine_chunks().flatten().to_numpy().reshape(-1, RANDOM_DRAWS)
                columns[name] += [*np.where(drawn >= 0, drawn + start, -1)]
            start += len(table)
    schema = SCHEMA.with_metadata({"infoaug": json.dumps({"size": size})})
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=schema)
