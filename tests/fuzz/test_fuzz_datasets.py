"""Data sets to evaluate on: damaged archives, images and folders give two splits or one sentence."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation.datasets import Dataset, load, load_domains
from infoaug.orchestrator.evaluation.opening import fingerprint
from tests.fuzz.hostile import check_sentence, examples, nearly

SIZE = 16
pytestmark = pytest.mark.usefixtures("one_thread")


def packed(compress: bool = False, **changes: Any) -> bytes:
    """An .npz of ten training and five test images."""
    rng = np.random.default_rng(0)
    whole = {
        "x_train": rng.integers(0, 255, (10, 8, 8, 3), np.uint8),
        "y_train": np.arange(10) % 2,
        "x_test": rng.integers(0, 255, (5, 8, 8), np.uint8),
        "y_test": np.arange(5) % 2,
    }
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **{**whole, **changes})
    return file.getvalue()


ARCHIVES = [packed(), packed(compress=True)]


def pictures() -> list[tuple[str, bytes]]:
    found = []
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (12, 9, 3), np.uint8))
    for suffix, mode in [(".png", "RGB"), (".png", "P"), (".jpg", "RGB"), (".bmp", "RGB"), (".ppm", "RGB")]:
        file = io.BytesIO()
        picture.convert(mode).save(file, {".jpg": "JPEG", ".ppm": "PPM"}.get(suffix, suffix[1:].upper()))
        found.append((suffix, file.getvalue()))
    for suffix, kind in [(".tiff", "TIFF"), (".webp", "WEBP"), (".pgm", "PPM"), (".tif", "TIFF")]:
        file = io.BytesIO()
        picture.convert("L").save(file, kind)
        found.append((suffix, file.getvalue()))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def check(read: Callable[[], Any], *named: Any) -> bool:
    """Whether it was read; if not, one sentence said why."""
    try:
        splits = read()
    except UsageError as error:
        check_sentence(error, *named)
        return False
    for split in (splits.train, splits.test) if isinstance(splits, Dataset) else splits.images.values():
        assert split.images.shape[1:] == (3, SIZE, SIZE) and len(split.images) == len(split.labels)
        assert int(split.labels.min()) >= 0
    return True


def of_archive(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    fingerprint(str(path))
    return check(lambda: load(str(path), EvaluateConfig(), SIZE), path)


@examples(120)
@given(st.sampled_from(ARCHIVES).flatmap(nearly))
def test_a_damaged_archive_is_read_or_refused(folder: Path, content: bytes) -> None:
    of_archive(folder / "damaged.npz", content)


def member(header: bytes, version: bytes = b"\x01\x00", data: bytes = b"\0" * 64) -> bytes:
    """An .npz whose x_train has this header."""
    file = io.BytesIO(packed())
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(changed := io.BytesIO(), "w") as archive:
        for entry in whole.namelist():
            length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
            lie = b"\x93NUMPY" + version + length + header + data
            archive.writestr(entry, lie if entry == "x_train.npy" else whole.read(entry))
    return changed.getvalue()


@examples(60)
@given(st.text(max_size=80).map(str.encode) | st.binary(max_size=80))
@example(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }")
@example(b"{'descr': '|u1', 'fortran_order': False, 'shape': (10, 0, 8, 3), }")
@example(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3), }")
@example(b"{'descr': '|O', 'fortran_order': False, 'shape': (10,), }")
@example(b"{'descr': '|u1', 'fortran_order': False, 'shape': ((((((((10,),),),),),),), }")
@example(b"{'descr': '|u1', 'fortran_order': False, 'shape': (10L, 8L), }")
@example(b"'" * 40)
@example(b"(" * 9000)
@example(b"__import__('os').abort()")
def test_an_array_with_any_header_is_read_or_refused(folder: Path, header: bytes) -> None:
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"):
        of_archive(folder / "header.npz", member(header, version))


@examples(100)
@given(
    st.sampled_from(["x_train", "y_train", "x_test", "y_test"]),
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.unicode_string_dtypes(max_len=3) | st.just(np.dtype(np.uint8)),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
    ),
)
@example("x_train", np.zeros((10, 1, 60_000), np.uint8))
@example("x_train", np.zeros((10, 0, 5), np.uint8))
@example("y_train", np.full(10, 2**64 - 1, np.uint64))
@example("y_train", np.full(10, 2**63 - 1))
def test_any_array_is_taken_or_refused(folder: Path, name: str, array: np.ndarray) -> None:
    of_archive(folder / "array.npz", packed(**{name: array}))


@examples(100)
@given(st.data())
def test_a_folder_with_a_damaged_image_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    suffix, content = data.draw(st.sampled_from(pictures()))
    root = folder / f"images{suffix}"
    for number in range(6):
        place = root / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}{suffix}").write_bytes(content)
    (root / "a" / f"0{suffix}").write_bytes(data.draw(nearly(content)))
    check(lambda: load(str(root), EvaluateConfig(), SIZE), root)


@examples(40)
@given(
    st.text(max_size=60) | st.sampled_from(["x" * 5000, "\0", "~", "/", "..", ".npz", "a.npz/", "scenes/", "cifar10\0"])
)
def test_any_name_is_a_data_set_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    empty = tmp_path_factory.mktemp("empty")
    place = f"{empty}/{name}"
    fingerprint(place)
    check(lambda: load(place, EvaluateConfig(download=False), SIZE))
    check(lambda: load_domains(place, EvaluateConfig(), SIZE))
