"""In which files should a stream find its crops? Arrow IPC (the shards of this project), Parquet, WebDataset and Lance.

    python benchmarks/containers.py CONFIG [SECTION.KEY=VALUE …] [--together 2] [--batches 100] [--json FILE]

The clips of the config must be extracted and scored; its shards are written if they are missing. The same compressed
crops of one block (`--together` shards) are written in each format. A process of its own then opens the block and takes
batches of 128 rows in random order: for each row two of its crops and one of its twin's, decompressed, as a step of a
training does. A twin is anywhere in the block, so a format that is read from its start is held in memory as a whole.

| column | what |
|---|---|
| bytes a crop | of the files |
| open | seconds of the CPU until the block can be read |
| read | µs of the CPU for one crop in random order, decompression included |
| own memory | growth of the process's memory, without pages of files, which the system can take back |

WebDataset and Lance (`pip install webdataset pylance`) are left out where they are not installed.
"""

import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from streaming import in_a_process, options, own_memory, written

from infoaug.models.pixels import decompress
from infoaug.models.training.encoded import Compressed, EncodedImages
from infoaug.orchestrator import config as configs

BATCH = 128
NEEDS = {"Arrow IPC": None, "Parquet": None, "WebDataset": "webdataset", "Lance": "lance"}
Read = Callable[[NDArray[np.integer]], object]  # decompresses the crops of these numbers in the block


def write(name: str, crops: Sequence[bytes], folder: Path, number: int) -> None:
    """Write the crops of a shard."""
    column = pa.array(crops, pa.large_binary())
    if name == "WebDataset":
        with tarfile.open(folder / f"{number:06d}.tar", "w") as tar:
            for i, crop in enumerate(crops):
                about = tarfile.TarInfo(f"{i:08d}.zst")
                about.size = len(crop)
                tar.addfile(about, BytesIO(crop))
    elif name == "Lance":
        import lance  # type: ignore[import-not-found]

        lance.write_dataset(pa.table({"crop": column}), str(folder / f"{number:06d}.lance"))
    elif name == "Parquet":
        pq.write_table(pa.table({"crop": column}), folder / f"{number:06d}.parquet", compression="NONE")
    else:
        with pa.OSFile(str(folder / f"{number:06d}.arrow"), "wb") as sink:
            batch = pa.record_batch({"crop": column})
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)


def opened(name: str, folder: Path, size: int) -> Read:
    """Open the files of a block as each format's reader does."""
    files = sorted(folder.iterdir())
    if name == "Arrow IPC":
        images = EncodedImages([_mapped(file) for file in files], size)
        return lambda numbers: images[torch.from_numpy(numbers)]
    if name == "WebDataset":
        import webdataset  # type: ignore[import-not-found]

        held = [sample["zst"] for sample in webdataset.WebDataset([*map(str, files)], shardshuffle=False)]
        return lambda numbers: _decompressed([held[number] for number in numbers], size)
    if name == "Lance":
        import lance

        sets = [lance.dataset(str(file)) for file in files]
        ends = np.cumsum([data.count_rows() for data in sets])

        def take(part: int, rows: NDArray[np.integer]) -> list[bytes]:
            crops: list[bytes] = sets[part].take(rows)["crop"].to_pylist()
            return crops
    else:
        tables = [pq.read_table(file)["crop"].combine_chunks() for file in files]
        ends = np.cumsum([len(table) for table in tables])

        def take(part: int, rows: NDArray[np.integer]) -> list[bytes]:
            crops: list[bytes] = tables[part].take(pa.array(rows)).to_pylist()
            return crops

    return lambda numbers: _decompressed(_taken(numbers, ends, take), size)


def _mapped(file: Path) -> Compressed:
    """The crops of a file, mapped as a streamed training maps a shard's."""
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_file(source).get_batch(0)["crop"]
    content, offsets = column.buffers()[2], column.buffers()[1]
    return Compressed(np.frombuffer(content, np.uint8), np.frombuffer(offsets, np.int64)[: len(column) + 1])


def _decompressed(crops: Sequence[bytes], size: int) -> NDArray[np.uint8]:
    pixels = np.empty((len(crops), 3 * size**2), np.uint8)
    for i, crop in enumerate(crops):
        pixels[i] = decompress(np.frombuffer(crop, np.uint8), pixels.shape[1])
    return pixels


def _taken(
    numbers: NDArray[np.integer], ends: NDArray[np.integer], take: Callable[[int, NDArray[np.integer]], list[bytes]]
) -> list[bytes]:
    """Crops of several files, in the order of their numbers."""
    part = np.searchsorted(ends, numbers, side="right")
    found: list[bytes] = [b""] * len(numbers)
    for one in np.unique(part):
        at = np.flatnonzero(part == one)
        start = ends[one - 1] if one else 0
        for i, crop in zip(at, take(int(one), numbers[at] - start), strict=True):
            found[i] = crop
    return found


def batches(starts: NDArray[np.integer], counts: NDArray[np.integer], many: int) -> Iterator[NDArray[np.integer]]:
    """The numbers of the crops of each batch: two of each row, and one of another row, for the twin."""
    random = np.random.default_rng(0)
    order = random.permutation(len(starts))
    for start in range(0, min(many * BATCH, len(order) - BATCH + 1), BATCH):
        rows = order[start : start + BATCH]
        shown = np.concatenate([rows, rows, random.permutation(order)[:BATCH]])
        yield starts[shown] + random.integers(counts[shown])


def measure(name: str, folder: Path, size: int, rows: tuple[Any, Any], many: int) -> dict[str, float]:
    """Open the block, and read its batches, in this process."""
    torch.set_num_threads(1)
    before, begun, many_read = own_memory(), time.process_time(), 0
    read = opened(name, folder, size)
    ready = time.process_time()
    for numbers in batches(*rows, many):
        read(numbers)
        many_read += len(numbers)
    done = time.process_time()
    return {
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "open": ready - begun,
        "read": 1e6 * (done - ready) / many_read,
        "memory": (own_memory() - before) / 2**20,
    }


def main() -> None:
    """Measure each format in turn, and print a table."""
    parser = options(__doc__)
    parser.add_argument("--together", type=int, default=2)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = configs.load(given.config, given.overrides)
    _, found = written(config)
    local = found.stage.store.local
    if local is None:
        raise SystemExit("the store must be a local folder")
    block = []
    for number in range(given.together):
        with pa.memory_map(str(local / found.path(number))) as source:
            block.append(pa.ipc.open_file(source).get_batch(0)["crops"])
    files = [crops.values.to_pylist() for crops in block]
    counts = np.concatenate([pc.list_value_length(crops).to_numpy() for crops in block])
    rows = np.cumsum(counts) - counts, counts
    print(f"{len(counts)} patches, {counts.sum()} crops of {config.extract.image_size} pixels")
    results = {}
    print("| format | bytes a crop | open | read | own memory |\n|---|---|---|---|---|")
    for name, needed in NEEDS.items():
        if needed and not find_spec(needed):
            print(f"{name} is left out: {needed} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            for number, crops in enumerate(files):
                write(name, crops, Path(folder), number)
            of = in_a_process(measure, name, Path(folder), config.extract.image_size, rows, given.batches)
        results[name] = of
        each = of["bytes"] / counts.sum()
        print(
            f"| {name} | {each:,.0f} | {of['open']:.2f} s | {of['read']:.1f} µs | {of['memory']:.0f} MiB |", flush=True
        )
    if given.json:
        given.json.write_text(json.dumps({"cpus": os.cpu_count(), "formats": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
