"""`infoaug embed`: right features under the right names, resumed after any interruption, other ones refused."""

import csv
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from infoaug.models.backbones import load_backbone
from infoaug.orchestrator import cli
from infoaug.orchestrator.config import load
from infoaug.orchestrator.embedding import embed as embedding
from infoaug.orchestrator.embedding import filling, look, sources
from infoaug.orchestrator.embedding.embed import embed
from infoaug.orchestrator.embedding.network import Network
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import images, probes
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(embedding, "PART_ROWS", 8)
    monkeypatch.setattr(look, "COLUMNS", 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each call of the network was given."""
    counts: list[int] = []
    features = Network.features

    def counting(self: Network, pixels: Any, batch_size: int) -> Any:
        counts.append(len(pixels))
        return features(self, pixels, batch_size)

    monkeypatch.setattr(Network, "features", counting)
    return counts


def table(out: Path) -> pa.Table:
    return pq.read_table(out / "features")


def column(found: pa.Table, name: str = "features") -> NDArray[np.float32]:
    return found[name].combine_chunks().flatten().to_numpy().reshape(len(found), -1)


def expected(backbone: Path, files: list[Path], size: int = 32) -> NDArray[np.float32]:
    return probes.features(load_backbone(backbone), images.read(files, size)[0], 64)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["infoaug", "embed", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# ---- on other machines


def test_some_files_of_data_give_the_items_that_they_give_among_all(
    folder: Path, write_clip: Callable[[str, int], Path]
) -> None:
    for number in range(4):
        clips = write_clip(f"{number}.avi", 3 + number).parent
    for what, every, cut in ((folder, None, 9), (clips, 2, 2)):
        data = sources.find(str(what), every)
        every_item = [*sources.items(data, 32)]
        first, rest = data.some(0, cut), data.some(cut, len(data.paths))
        found = [*sources.items(first, 32), *sources.items(rest, 32, (cut, 0))]
        assert len(found) == len(every_item) and all(path.is_absolute() for path in rest.paths)
        for one, other in zip(found, every_item, strict=True):
            assert (one.name, one.frame, one.after, one.share) == (other.name, other.frame, other.after, other.share)
            assert np.array_equal(one.pixels, other.pixels)


def test_a_file_that_a_worker_does_not_see_is_an_error_and_not_unreadable(folder: Path) -> None:
    data = sources.find(str(folder), None)
    row = filling._files(data, (0, 0), (5, 0))
    assert filling._data(row, None).paths == data.paths[:5]
    data.paths[3].unlink()
    with pytest.raises(StageError, match=r"does not see '.*03\.png': give data that lies under the same name"):
        filling._data(row, None)


def test_a_cluster_is_used_only_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (tmp_path / "run.yaml").write_text("ray: {address: 'auto'}")
    named = [embedding._ray(str(tmp_path / "run.yaml"), given, ()) for given in (None, "other:1")]
    assert [ray.address for ray in named if ray] == ["auto", "other:1"]
    assert embedding._ray(str(tmp_path), None, ()) is None
    ray = embedding._ray(str(tmp_path), None, ["ray.address=a:1"])
    assert ray and ray.address == "a:1"


# ---- the numbers


def test_images_at_any_depth_get_the_features_that_evaluation_computes(
    backbone: Path, folder: Path, tmp_path: Path
) -> None:
    result = embed(str(backbone), str(folder), tmp_path / "out", batch_size=5)
    found, files = table(tmp_path / "out"), sorted(folder.rglob("*.png"))
    assert found["path"].to_pylist() == [file.relative_to(folder).as_posix() for file in files]
    assert found["frame"].null_count == len(files) == result.rows
    assert found.schema.field("features").type == pa.list_(pa.float32(), 16)
    assert np.allclose(column(found), expected(backbone, files), atol=1e-5)
    assert [file.name for file in sorted((tmp_path / "out/features").iterdir())] == [
        f"part-0000{n}.parquet" for n in range(3)
    ]


def test_a_single_image_and_another_size(backbone: Path, folder: Path, tmp_path: Path) -> None:
    file = folder / "c" / "20.png"
    embed(str(backbone), str(file), tmp_path / "out", image_size=48)
    found = table(tmp_path / "out")
    assert found["path"].to_pylist() == ["20.png"]
    assert np.allclose(column(found), expected(backbone, [file], 48), atol=1e-5)


def test_every_nth_frame_of_videos_and_frame_folders(
    backbone: Path, write_clip: Callable[[str, int], Path], tmp_path: Path
) -> None:
    write_clip("one.avi", 11)
    for number in range(4):
        path = tmp_path / "clips/two" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((32, 48, 3), 10 * number, np.uint8))
    embed(str(backbone), str(tmp_path / "clips"), tmp_path / "out", every=3)
    found = table(tmp_path / "out")
    rows = list(zip(found["path"].to_pylist(), found["frame"].to_pylist(), strict=True))
    assert rows == [("one.avi", n) for n in (0, 3, 6, 9)] + [("two", n) for n in (0, 3)]
    features = column(found)
    assert np.allclose(features[:2], features[4:], atol=1e-5)  # the same pixels
    assert np.abs(np.diff(features[:4], axis=0)).max(axis=1).min() > 1e-4  # each frame its own


def test_a_folder_of_videos_without_images_gives_all_frames(
    backbone: Path, write_clip: Callable[[str, int], Path], tmp_path: Path
) -> None:
    path = write_clip("one.avi", 11)
    assert embed(str(backbone), str(path.parent), tmp_path / "out").rows == 11


def test_patches_are_a_grid_row_by_row(backbone: Path, tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 255  # left and right differ, top and bottom do not
    cv2.imwrite(str(tmp_path / "half.png"), picture)
    result = embed(str(backbone), str(tmp_path / "half.png"), tmp_path / "out", stride=8, npy=True)
    assert result.shapes == {"features": (16,), "patches": (4, 4, 16)}
    found = table(tmp_path / "out")
    grid = column(found, "patches").reshape(*found["patches_shape"][0].as_py())
    assert np.array_equal(np.load(tmp_path / "out/patches.npy")[0], grid)
    across, down = np.abs(np.diff(grid, axis=1)).mean(), np.abs(np.diff(grid, axis=0)).mean()
    assert across > 2 * down


def test_a_vit_takes_another_size_and_refuses_one_that_its_patches_do_not_divide(
    vit: Path, folder: Path, tmp_path: Path
) -> None:
    assert embed(str(vit), str(folder), tmp_path / "out", image_size=48, stride=8).shapes["patches"] == (6, 6, 24)
    with pytest.raises(UsageError, match=r"takes no images of 50 pixels.*--image-size.*32 pixels of its training"):
        embed(str(vit), str(folder), tmp_path / "other", image_size=50)


def test_npy_and_csv_have_the_rows_of_the_table(backbone: Path, folder: Path, tmp_path: Path) -> None:
    embed(str(backbone), str(folder), tmp_path / "out", npy=True)
    found = table(tmp_path / "out")
    assert np.array_equal(np.load(tmp_path / "out/features.npy"), column(found))
    with (tmp_path / "out/names.csv").open(encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == found["path"].to_pylist()


def test_the_untrained_backbone_of_a_config(folder: Path, tmp_path: Path) -> None:
    settings = ["pretrain.backbone=resnet18", "pretrain.backbone_settings={layers: [1, 1, 1, 1]}"]
    for seed in (0, 1):
        embed("demo", str(folder), tmp_path / f"{seed}", untrained=True, overrides=[*settings, f"seed={seed}"])
    first, second = (column(table(tmp_path / f"{seed}")) for seed in (0, 1))
    config = load("demo", [*settings, "seed=1"])
    pictures = images.read(sorted(folder.rglob("*.png")), config.extract.image_size)[0]
    assert np.allclose(second, probes.features(evaluate.untrained_backbone(config), pictures, 64), atol=1e-5)
    assert np.abs(first - second).max() > 1e-3


def test_the_initial_weights_of_a_config_are_those_that_training_starts_from(
    backbone: Path, folder: Path, tmp_path: Path
) -> None:
    settings = ["pretrain.backbone=resnet18", f"pretrain.init={backbone}", "extract.image_size=32"]
    settings += ["pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"]
    embed("demo", str(folder), tmp_path / "out", untrained=True, overrides=settings)
    files = sorted(folder.rglob("*.png"))
    assert np.allclose(column(table(tmp_path / "out")), expected(backbone, files), atol=1e-5)


def test_images_of_more_bits_are_on_one_scale_wherever_a_part_begins(backbone: Path, tmp_path: Path) -> None:
    tops = [300 + 300 * n for n in range(12)]
    (tmp_path / "deep").mkdir()
    for n, top in enumerate(tops):
        ramp = np.repeat(np.linspace(0, top, 32).round()[None], 32, axis=0).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"deep/{n:02d}.png"), ramp)
    embed(str(backbone), str(tmp_path / "deep"), tmp_path / "out")
    (tmp_path / "out/features/part-00001.parquet").unlink()
    embed(str(backbone), str(tmp_path / "deep"), tmp_path / "out")
    files = sorted((tmp_path / "deep").iterdir())
    assert np.allclose(column(table(tmp_path / "out")), expected(backbone, files), atol=1e-5)


def test_a_name_that_is_not_utf_8_is_written_with_its_bytes(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    written = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    try:
        Path(os.fsdecode(bytes(tmp_path / "images") + b"/caf\xe9.png")).write_bytes(written)
    except OSError:
        pytest.skip("this file system takes no such names")
    embed(str(backbone), str(tmp_path / "images"), tmp_path / "out", npy=True, neighbours=1)
    assert table(tmp_path / "out")["path"].to_pylist() == ["caf\\xe9.png"]


# ---- what cannot be read


def test_unreadable_files_are_listed_and_left_out(
    backbone: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c" / "11.png").write_bytes(b"no picture")
    result = embed(str(backbone), str(folder), tmp_path / "out", npy=True)
    assert result.rows == 22 and "c/11.png" not in table(tmp_path / "out")["path"].to_pylist()
    assert len(np.load(tmp_path / "out/features.npy")) == 22
    with (tmp_path / "out/unreadable.csv").open(encoding="utf-8") as file:
        assert [*csv.DictReader(file)] == [
            {"path": "c/11.png", "frame": "", "reason": "it is no image of a known format"}
        ]
    assert "1 of 23 images cannot be read: 'c/11.png'" in capsys.readouterr().err


def test_a_clip_that_cannot_be_opened_does_not_stop_the_others(
    backbone: Path, write_clip: Callable[[str, int], Path], tmp_path: Path
) -> None:
    write_clip("b.avi", 5)
    for name in ("a.avi", "c.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"no video")
    result = embed(str(backbone), str(tmp_path / "clips"), tmp_path / "out")
    assert result.rows == 5 and [name for name, *_ in result.unreadable] == ["a.avi", "c.mp4"]


def test_nothing_readable_is_an_error_that_names_a_file(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(StageError, match=r"1 of 1 images cannot be read: 'one.png'"):
        embed(str(backbone), str(tmp_path / "one.png"), tmp_path / "out")


# ---- resuming


def test_a_complete_embedding_is_not_computed_again(
    backbone: Path, folder: Path, tmp_path: Path, asked: list[int]
) -> None:
    embed(str(backbone), str(folder), tmp_path / "out")
    count = len(asked)
    assert embed(str(backbone), str(folder), tmp_path / "out", npy=True).rows == 23
    assert len(asked) == count and (tmp_path / "out/features.npy").exists()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_same_command_computes_only_what_is_missing(
    number: signal.Signals, backbone: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    asked, features, threads = list[int](), Network.features, threading.active_count()

    def interrupted(self: Network, pixels: Any, batch_size: int) -> Any:
        asked.append(len(pixels))
        if sum(asked) == 20:
            os.kill(os.getpid(), number)
        return features(self, pixels, batch_size)

    monkeypatch.setattr(Network, "features", interrupted)
    arguments = backbone, folder, "--out", "out", "--batch-size", 4
    assert command(monkeypatch, *arguments) == 128 + number
    assert "the same command continues" in capsys.readouterr().err
    assert [path.name for path in sorted((tmp_path / "out/features").iterdir())] == [
        "part-00000.parquet", "part-00001.parquet",
    ]  # fmt: skip
    asked.clear()
    assert command(monkeypatch, *arguments) == 0
    assert sum(asked) == 7
    files = sorted(folder.rglob("*.png"))
    assert table(tmp_path / "out")["path"].to_pylist() == [file.relative_to(folder).as_posix() for file in files]
    assert np.allclose(column(table(tmp_path / "out")), expected(backbone, files), atol=1e-5)
    assert threading.active_count() <= threads


def test_frames_go_on_within_a_clip(
    backbone: Path, write_clip: Callable[[str, int], Path], tmp_path: Path, asked: list[int]
) -> None:
    clips = write_clip("a.avi", 3).parent
    write_clip("b.avi", 24)
    embed(str(backbone), str(clips), tmp_path / "whole")
    embed(str(backbone), str(clips), tmp_path / "out")
    for number in (2, 3):
        (tmp_path / f"out/features/part-0000{number}.parquet").unlink()
    asked.clear()
    embed(str(backbone), str(clips), tmp_path / "out")
    assert sum(asked) == 27 - 16
    assert table(tmp_path / "out").equals(table(tmp_path / "whole"))


def test_a_damaged_part_is_computed_again(backbone: Path, folder: Path, tmp_path: Path) -> None:
    embed(str(backbone), str(folder), tmp_path / "out")
    whole = table(tmp_path / "out")
    (tmp_path / "out/features/part-00001.parquet").write_bytes(b"PAR1")
    embed(str(backbone), str(folder), tmp_path / "out")
    assert table(tmp_path / "out").equals(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 40}, "other settings"),
        ({"stride": 8}, "other settings"),
        ({"run": "vit"}, "another run"),
        ({"data": "c"}, "other data"),
    ],
)
def test_other_features_in_the_folder_are_refused_and_replaced_only_when_asked(
    change: dict[str, Any], words: str, backbone: Path, vit: Path, folder: Path, tmp_path: Path
) -> None:
    embed(str(backbone), str(folder), tmp_path / "out", npy=True)
    before = (tmp_path / "out/features.npy").read_bytes()
    run = str(vit if change.pop("run", "") else backbone)
    data = str(folder / change.pop("data", ""))
    with pytest.raises(UsageError, match=rf"holds features of {words} .*--out.*--force"):
        embed(run, data, tmp_path / "out", **change)
    assert (tmp_path / "out/features.npy").read_bytes() == before
    rows = embed(run, data, tmp_path / "out", force=True, **change).rows
    assert len(table(tmp_path / "out")) == rows and not (tmp_path / "out/features.npy").exists()


def test_an_image_that_has_changed_is_other_data(backbone: Path, folder: Path, tmp_path: Path) -> None:
    embed(str(backbone), str(folder), tmp_path / "out")
    cv2.imwrite(str(folder / "c" / "new.png"), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UsageError, match="features of other data"):
        embed(str(backbone), str(folder), tmp_path / "out")


def test_a_folder_within_the_data_is_no_data(backbone: Path, folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert embed(str(backbone), str(folder), folder / "out", neighbours=1).rows == 23


def test_another_command_in_the_same_folder_is_named(backbone: Path, folder: Path, tmp_path: Path) -> None:
    with Store(str(tmp_path / "out")).hold("", "the folder"), pytest.raises(UsageError, match="out' is in use by"):
        embed(str(backbone), str(folder), tmp_path / "out")


# ---- memory and pictures


def test_only_a_part_and_a_few_batches_are_in_memory(
    backbone: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, computed, most = [0], [0], [0]
    each, features = images.each, Network.features

    def counted(*arguments: Any) -> Iterator[Any]:
        for pixels in each(*arguments):
            read[0] += 1
            most[0] = max(most[0], read[0] - computed[0])
            yield pixels

    def computing(self: Network, pixels: Any, batch_size: int) -> Any:
        computed[0] += len(pixels)
        return features(self, pixels, batch_size)

    monkeypatch.setattr(images, "each", counted)
    monkeypatch.setattr(Network, "features", computing)
    embed(str(backbone), str(folder), tmp_path / "out", batch_size=2)
    assert most[0] <= 3 * 2


def test_pictures_of_neighbours_and_components(
    backbone: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--out", "out", "--patches", "--neighbours", 2, "--components", 1
    assert command(monkeypatch, backbone, folder, *options) == 0
    told = capsys.readouterr().out
    assert all(str(tmp_path / "out" / name) in told for name in ("features", "neighbours.png", "components.png"))
    assert "23 images: features 16, patches 4 × 4 × 16" in told
    lines = [line.strip() for line in told.partition("Load them:")[2].splitlines() if line.strip()]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    assert np.array_equal(scope["features"], column(table(tmp_path / "out")))
    assert all(cv2.imread(str(tmp_path / "out" / name)) is not None for name in ("neighbours.png", "components.png"))


# ---- wrong usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{net}", "missing"], ["missing", "does not exist"]),
        (["{net}", "empty"], ["empty", "nothing to embed"]),
        (["missing", "{data}"], ["missing", "no config file and no folder"]),
        (["{net}", "{data}", "--untrained"], ["only a config says"]),
        (["{net}", "{data}", "--stride", "4"], ["--patches"]),
        (["{net}", "{data}", "--components", "4"], ["--patches"]),
        (["{net}", "{data}", "--every", "0"], ["--every"]),
        (["{net}", "{data}", "--out", "{data}"], ["--out is the folder of the data"]),
        (["{net}", "{data}", "--out", "{data}/a/b/00.png"], ["--out", "is a file"]),
        (["{net}", "{data}/a/b/00.png", "--every", "2"], ["single image"]),
    ],
)
def test_wrong_usage_ends_with_code_2_and_a_sentence(
    arguments: list[str], words: list[str], backbone: Path, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "here/empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    given = [one.replace("{net}", str(backbone)).replace("{data}", str(folder)) for one in arguments]
    assert command(monkeypatch, *given) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert "Traceback" not in told and not (tmp_path / "here/embed").exists()


def test_the_description_says_what_was_embedded(backbone: Path, folder: Path, tmp_path: Path) -> None:
    embed(str(backbone), str(folder), tmp_path / "out")
    said = json.loads((tmp_path / "out/embed.json").read_text())
    assert said["read"] == {"run": str(backbone), "data": str(folder)} and said["settings"]["image_size"] == 32
