"""The parts of an embedding that are missing, computed in this process or side by side on a Ray cluster.

Both write the same parts: a part begins where the one before ends, and batches begin with it.
"""

import os
import socket
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from infoaug.orchestrator.config import RayConfig
from infoaug.orchestrator.embedding import sources
from infoaug.orchestrator.embedding.network import Network
from infoaug.orchestrator.embedding.parts import Part, Parts
from infoaug.orchestrator.embedding.sources import Data, Item, Position
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.runtime import cluster, console
from infoaug.orchestrator.settings import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """How features are computed.

    Attributes:
        network: what computes them.
        peak: of the images, see `sources.items`.
        batch_size: see `Network.features`.
        limit: images and frames of a part, read or not.
    """

    network: Network
    peak: int
    batch_size: int
    limit: int

    def parts(self, data: Data, start: Position) -> Generator[tuple[Part, int, bool]]:
        """The parts from a position on: after every batch the part so far, the batch's size, and if it is whole."""
        part = Part(start, start)
        items = sources.items(data, self.network.image_size, start, self.peak)
        with closing(_ahead(_batches(items, min(self.batch_size, self.limit), self.limit))) as read:
            for batch in read:
                if part.attempts == self.limit:
                    part = Part(part.after, part.after)
                self._add(part, batch)
                yield part, len(batch), part.attempts == self.limit

    def _add(self, part: Part, batch: Sequence[Item]) -> None:
        """Add the features of a batch to a part."""
        pixels = [item.pixels for item in batch if isinstance(item.pixels, torch.Tensor)]
        if pixels:
            for name, values in self.network.features(torch.stack(pixels), self.batch_size).items():
                part.columns.setdefault(name, []).append(values)
        for item in batch:
            if isinstance(item.pixels, str):
                part.unreadable.append((item.name, item.frame, item.pixels))
            else:
                part.names.append(item.name)
                part.frames.append(item.frame)
        part.after, part.share = batch[-1].after, batch[-1].share


def here(parts: Parts, work: Work, data: Data) -> int:
    """Compute the parts that are missing in this process; the number of parts."""
    number, start, begun = 0, (0, 0), 0.0
    while (kept := parts.state(number)) and kept.start == start:
        number, start, begun = number + 1, kept.after, kept.share
    if number:
        console.say(f"embed: {100 * begun:.0f} % is complete, going on from there")
    unit, rest = "frames" if data.every else "images", None
    with console.rate("embed", unit, begun) as progress, closing(work.parts(data, start)) as computed:
        for part, count, is_whole in computed:
            progress(count, part.share)
            if is_whole:
                parts.write(number, part)
                number += 1
            rest = None if is_whole else part
    if rest is not None:
        parts.write(number, rest)
        number += 1
    parts.delete_from(number)
    return number


def on_cluster(parts: Parts, work: Work, data: Data, ray: RayConfig) -> int:
    """Compute the parts that are missing on a cluster, one a task, written by its worker; the number of parts.

    Clips are read twice, at first to count their frames: where a part begins depends on all clips before it.

    Raises:
        UsageError: no cluster answers, or its nodes do not see the folder.
        StageError: a part cannot be computed; the others are kept.
    """
    with cluster.session(ray):
        cluster.connect(ray)
        cluster.check_shared(parts.store)
        starts = _starts(work, data)
        kept = [parts.state(number) for number in range(len(starts))]
        todo = [n for n, part in enumerate(kept) if part is None or part.start != starts[n]]
        console.say(f"embed: {len(starts)} parts, {len(starts) - len(todo)} already there")
        last = (len(data.paths), 0)
        rows = [{"number": n, "start": starts[n], **_files(data, starts[n], [*starts, last][n + 1])} for n in todo]
        gpu = min(1, cluster.gpus())
        device = probes.fastest()
        work.network.on("cpu")  # a worker may have no GPU
        try:
            done = cluster.map_rows(rows, partial(_compute, parts, work, data.every), 1, gpu)
            written = {row["number"] for row, _ in console.track(done, len(rows), "embed")}
        finally:
            work.network.on(device)
    if lost := len(set(todo) - written):
        raise StageError(f"{lost} of {len(starts)} parts are missing: {cluster.DIED}")
    parts.delete_from(len(starts))
    return len(starts)


def _starts(work: Work, data: Data) -> list[Position]:
    """Where each part begins."""
    if data.every is None:
        return [(i, 0) for i in range(0, len(data.paths), work.limit)]
    rows = [{"clip": i, **_files(data, (i, 0), (i + 1, 0))} for i in range(len(data.paths))]
    count = partial(_positions, work.network.image_size, data.every)
    found = {row["clip"]: status["after"] for row, status in cluster.map_rows(rows, count, 1)}
    if lost := [data.names[i] for i in range(len(data.paths)) if i not in found]:
        raise StageError(one_line(f"'{lost[0]}' cannot be counted: {cluster.DIED}"))
    after = [(clip, frame) for clip in sorted(found) for clip, frame in found[clip]]
    return [(0, 0), *after[work.limit - 1 : -1 : work.limit]]


def _files(data: Data, start: Position, end: Position) -> dict[str, Any]:
    """The files of a part as a row for Ray Data."""
    some = data.some(start[0], end[0] + (end[1] > 0))
    return {"names": some.names, "paths": [*map(str, some.paths)], "first": some.first, "total": some.total}


def _data(row: dict[str, Any], every: int | None) -> Data:
    """On a worker: the files of a row.

    Raises:
        StageError: a file is not there. It would be taken for one that cannot be read.
    """
    if unseen := next((path for path in row["paths"] if not os.path.lexists(path)), None):
        raise StageError(
            one_line(
                f"node '{socket.gethostname()}' does not see '{unseen}': give data that lies under the same name on "
                "all nodes, such as on a network disk"
            ),
            retry=False,
        )
    return Data("", row["names"], [*map(Path, row["paths"])], every, [], row["first"], row["total"])


def _positions(size: int, every: int, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """On a worker: where reading goes on behind each frame of clips."""
    for row in rows:
        data = _data(row, every)
        yield {"after": [item.after for item in sources.items(data, size, (data.first, 0))]}


def _compute(parts: Parts, work: Work, every: int | None, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """On a worker: compute and write parts."""
    torch.set_num_threads(1)  # a task has one CPU
    work.network.on(probes.fastest())
    for row in rows:
        start = (row["start"][0], row["start"][1])
        whole = Part(start, start)
        with closing(work.parts(_data(row, every), start)) as computed:
            for whole, _, is_whole in computed:  # noqa: B007
                if is_whole:
                    break
        parts.write(row["number"], whole)
        yield {"reason": ""}


def _batches(items: Iterator[Item], size: int, limit: int) -> Iterator[list[Item]]:
    """Items in batches of at most `size`, of which none goes over a multiple of `limit`."""
    while True:
        for begin in range(0, limit, size):
            batch = list(islice(items, min(size, limit - begin)))
            if not batch:
                return
            yield batch


def _ahead(values: Iterator[T]) -> Generator[T]:
    """The same values; the next one is made in a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = pool.submit(next, values, None)
            yield value
