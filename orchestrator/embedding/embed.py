"""Embed images and clips: features of the backbone of a run, as Parquet files. An interrupted command continues."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from infoaug.orchestrator.config import RayConfig, load
from infoaug.orchestrator.embedding import filling, look, sources
from infoaug.orchestrator.embedding import parts as on_disk
from infoaug.orchestrator.embedding.filling import Work
from infoaug.orchestrator.embedding.network import Network
from infoaug.orchestrator.embedding.parts import FOLDER, Parts
from infoaug.orchestrator.embedding.sources import Data
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import image_folder, images
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.runtime.store import Store, digest_of
from infoaug.orchestrator.settings import one_line

VERSION = 1  # raised when the same settings would give other numbers, or other parts
BATCH_SIZE, STRIDE = 256, 8
PART_BYTES, PART_ROWS = 64 << 20, 4096  # the most of a part, which is held in memory, and lost by an interruption
NAMED = 3  # unreadable files that a message names
SHOWN = 96  # pixels, the least of an image in a picture
DESCRIPTION, UNREADABLE = "embed.json", "unreadable.csv"
NEIGHBOURS, COMPONENTS = "neighbours.png", "components.png"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """The features of images or frames.

    Attributes:
        folder: where they lie.
        rows: N, of images and frames.
        shapes: of a row of each column: `features` (D), with patches also `patches` (h, w, D').
        unreadable: name, frame and reason of what was left out.
        files: the folder of Parquet files, and the other files.
        what: `images` or `frames`.
    """

    folder: Path
    rows: int
    shapes: dict[str, tuple[int, ...]]
    unreadable: list[tuple[str, int | None, str]]
    files: list[Path]
    what: str

    @property
    def loading(self) -> list[str]:
        """Lines of Python that load the features, without infoaug."""
        return [
            "import pyarrow.parquet",
            f"table = pyarrow.parquet.read_table({json.dumps(str(self.folder / FOLDER))})",
            'features = table["features"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)',
        ]


def embed(
    run: str,
    data: str,
    out: Path | None = None,
    *,
    image_size: int | None = None,
    every: int | None = None,
    stride: int | None = None,
    untrained: bool = False,
    batch_size: int = BATCH_SIZE,
    neighbours: int = 0,
    components: int = 0,
    npy: bool = False,
    force: bool = False,
    cluster: str | None = None,
    overrides: Sequence[str] = (),
) -> Embedded:
    """Compute features of images, or of frames of clips, by the backbone of a run.

    `OUT/features/part-*.parquet` has the columns `path` (relative to `data`), `frame` (null for images), `features`
    (fixed-size list of D floats), and with a stride `patches` (h·w·D' floats, row by row) and `patches_shape`
    (h, w, D'). Images are resized by the shorter side and cropped at the centre, as for evaluation.

    Args:
        run: as `export.find` takes it.
        data: an image, a folder of images, or clips.
        out: by default `embed/NAME`, with the name of the run.
        image_size: S, pixels; None for that of the training.
        every: take clips, and of them every n-th frame.
        stride: side of the cells of dense features, pixels; None for pooled features only.
        untrained: the backbone that the training of a config starts from.
        batch_size: on a GPU; smaller on a CPU.
        neighbours: also draw the nearest neighbours of so many images, which are drawn at random.
        components: also draw the first three principal components of the patches of so many images.
        npy: also write arrays, `features.npy`, `patches.npy` and `names.csv`.
        force: replace another embedding in that folder.
        cluster: address of a Ray cluster whose nodes share the work, and see data and folder under the same names;
            `local` starts one on this machine. None: `ray.address` of the config, if it is set, else this process.
        overrides: settings of the run.

    Raises:
        UsageError: run or data do not exist, the size does not fit, or the folder holds another embedding.
        StageError: nothing can be read, or the folder cannot be written.
    """
    if components and stride is None:
        raise UsageError("--components draws the features of --patches: give both")
    network = Network(run, image_size, stride, untrained, overrides)
    folder = (out or Path("embed") / network.name).absolute()
    if folder.is_file():
        raise UsageError(f"--out '{out}' is a file: name a folder")
    if folder.resolve() == image_folder.located(data).resolve():
        raise UsageError(f"--out is the folder of the data, '{data}': name another one, which may lie in it")
    found = sources.find(data, every, folder)
    store = Store(str(folder))
    with store.hold("", f"the folder '{folder}'"):
        for note in found.notes:
            console.say(escape(one_line(f"embed: {note}")))
        key = _key(network, found, stride)
        described = _described(store, key, folder, force)
        if "peak" not in described:
            described |= key | {"peak": 0 if found.every else images.peak(found.paths)}
            described["read"] = {"run": run, "data": data}  # for people
            store.write_json(DESCRIPTION, described)
        _log.info("embedding %s by %s into %s", data, run, folder)
        parts = Parts(store, digest_of(key), network.shapes)
        if not _is_complete(described, parts):
            row_bytes = 4 * sum(int(np.prod(shape)) for shape in network.shapes.values())
            work = Work(network, described["peak"], batch_size, min(PART_ROWS, max(1, PART_BYTES // row_bytes)))
            if ray := _ray(run, cluster, overrides):
                described["parts"] = filling.on_cluster(parts, work, found, ray)
            else:
                described["parts"] = filling.here(parts, work, found)
            store.write_json(DESCRIPTION, described)
        count, peak = described["parts"], described["peak"]
        return _result(parts, count, found, peak, network, store, folder, neighbours, components, npy)


def _ray(run: str, cluster: str | None, overrides: Sequence[str]) -> RayConfig | None:
    """The cluster to compute on, if there is to be one."""
    if cluster:
        return RayConfig(address=cluster)
    ray = load(run if Path(run).is_file() else None, overrides).ray
    return ray if ray.address else None


def _key(network: Network, data: Data, stride: int | None) -> dict[str, Any]:
    """What the numbers of an embedding depend on, in the words of the messages."""
    settings = {"image_size": network.image_size, "stride": stride, "every": data.every}
    return {
        "run": network.identity,
        "data": data.identity(),
        "settings": settings,
        "version": VERSION,
    }


def _described(store: Store, key: dict[str, Any], folder: Path, force: bool) -> dict[str, Any]:
    """The description of this embedding that an earlier command wrote; empty without one.

    Raises:
        UsageError: the folder holds another one, unless it is to be replaced: then that is deleted.
    """
    if not store.exists(DESCRIPTION):
        return {}
    described: dict[str, Any] = store.read_json(DESCRIPTION)
    others = [name for name, value in key.items() if described.get(name) != value]
    if not others:
        return described
    if not force:
        read = described.get("read", {})
        what = " and ".join("another " + name if name in ("run", "version") else "other " + name for name in others)
        raise UsageError(
            one_line(
                f"'{folder}' holds features of {what} (of '{read.get('data')}' by '{read.get('run')}'): give another "
                "folder in --out, or replace them with --force"
            )
        )
    arrays = ("names.csv", "features.npy", "patches.npy")
    for path in (FOLDER, UNREADABLE, NEIGHBOURS, COMPONENTS, *arrays):
        store.delete(path)
    return {}


def _is_complete(described: dict[str, Any], parts: Parts) -> bool:
    return "parts" in described and all(parts.state(number) for number in range(described["parts"]))


def _result(
    parts: Parts, count: int, data: Data, peak: int, network: Network, store: Store, folder: Path, neighbours: int,
    components: int, npy: bool,
) -> Embedded:  # fmt: skip
    """Write the list of what could not be read, pictures and the arrays; say what there is."""
    states = [state for number in range(count) if (state := parts.state(number))]
    rows, unreadable = sum(state.rows for state in states), [one for state in states for one in state.unreadable]
    files, what = [folder / FOLDER], "frames" if data.every else "images"
    if unreadable:
        named = ", ".join(f"'{name}'{_at(frame)} ({why})" for name, frame, why in unreadable[:NAMED])
        more = ", …" if len(unreadable) > NAMED else ""
        sentence = one_line(f"{len(unreadable)} of {rows + len(unreadable)} {what} cannot be read: {named}{more}")
        store.write_bytes(UNREADABLE, on_disk.table_of(unreadable, ("path", "frame", "reason")))
        if not rows:
            raise StageError(f"{sentence}; replace them, and give --force")
        console.say(escape(f"embed: {sentence}; they are left out, '{folder / UNREADABLE}' lists them"))
        files.append(folder / UNREADABLE)
    for file, number, draw in ((NEIGHBOURS, neighbours, look.neighbours), (COMPONENTS, components, look.components)):
        if number:
            figure = draw(parts, count, data, number, max(network.image_size, SHOWN), peak)
            store.write_bytes(file, figures.png(figure))
            files.append(folder / file)
    if npy:
        files += on_disk.write_arrays(parts, count, rows, network.shapes, folder)
    return Embedded(folder, rows, network.shapes, unreadable, files, what)


def _at(frame: int | None) -> str:
    return "" if frame is None else f" at frame {frame}"
