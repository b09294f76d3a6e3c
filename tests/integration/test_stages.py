"""The stages on a real Ray: what they leave, what they do again, and what one bad clip costs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

# isort: split
import psutil

from infoaug.models.training import Pairs
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster, epoch_queue
from infoaug.orchestrator.runtime.store import Store, arrays
from infoaug.orchestrator.stages import extract, pretrain, ray_training, score, shards
from infoaug.orchestrator.synthetic import scenes

pytestmark = pytest.mark.usefixtures("ray_cluster")


def on_clips(config: ExperimentConfig, folder: Path, **extract_settings: Any) -> ExperimentConfig:
    return config.model_copy(
        update={
            "clips": config.clips.model_copy(update={"path": str(folder)}),
            "extract": config.extract.model_copy(update=extract_settings),
        }
    )


@pytest.fixture(scope="module")
def rendered_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of two windows, one too short for a window, and two that are no video. Tests work on copies of it."""
    folder = tmp_path_factory.mktemp("rendered") / "clips"
    folder.mkdir()
    scenes.write(scenes.render(1, frames=100), folder / "good.avi")
    scenes.write(scenes.render(2, frames=20), folder / "short.avi")
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def clips_folder(rendered_clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered_clips, tmp_path / "clips"))


def test_a_tracker_of_the_users_own_runs_on_the_workers_and_its_failure_is_that_of_a_window(
    tiny: ExperimentConfig, clips_folder: Path
) -> None:
    own = "tests.integration.own_trackers"
    for name in ("short.avi", "broken.mp4", "empty.mp4"):
        (clips_folder / name).unlink()
    config = on_clips(tiny, clips_folder, tracker=f"{own}:still")
    done = extract.run(config, Store(config.store))
    folder = next(row["folder"] for row in done.ledger.to_pylist() if row["status"] == "ok")
    found = arrays(done.stage.store.read_table(extract.trajectory_path(done.stage, folder, 0)), "position")
    assert (found == found[:, :1]).all(), "by this tracker nothing moves"
    with pytest.raises(StageError, match=r"the tracker \S+:broken failed \(ZeroDivisionError: division by zero\)"):
        extract.run(on_clips(tiny, clips_folder, tracker=f"{own}:broken"), Store(config.store))


def test_bad_clips_become_ledger_rows_and_a_new_clip_is_extracted_without_redoing_the_others(
    tiny: ExperimentConfig, clips_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = on_clips(tiny, clips_folder)
    done = extract.run(config, Store(config.store))
    rows = {row["clip_id"]: row for row in done.ledger.to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good.avi": "ok",
        "short.avi": "failed",
        "broken.mp4": "failed",
        "empty.mp4": "failed",
    }
    assert rows["good.avi"]["first_frames"] == [0, 48]
    assert "20 frames" in rows["short.avi"]["reason"]
    assert all("\n" not in row["reason"] for row in rows.values())
    told = capsys.readouterr().err
    assert all(name in told for name in ("short.avi", "broken.mp4", "empty.mp4"))

    scenes.write(scenes.render(3, frames=48), clips_folder / "new.avi")
    again = extract.run(config, Store(config.store))
    assert (again.computed, again.resumed) == (1, 2)


def test_trajectories_have_the_columns_and_shapes_that_are_documented(tiny_scored: ExperimentConfig) -> None:
    store = Store(tiny_scored.store)
    done = extract.load(tiny_scored, store)
    _, folder, window = done.windows[0]
    table = store.read_table(extract.trajectory_path(done.stage, folder, window))
    patches = (240 // 40) * (320 // 40)
    names = ("position", "camera", "camera_map", "colour", "visible")
    shapes = {name: arrays(table, name) for name in names}
    assert {name: (a.shape, a.dtype.name) for name, a in shapes.items()} == {
        "position": ((patches, 48, 2), "float32"),
        "camera": ((patches, 48, 2), "float32"),
        "camera_map": ((patches, 48, 3, 3), "float32"),
        "colour": ((patches, 48, 3), "float32"),
        "visible": ((patches, 48), "bool"),
    }
    crops, at = extract.crops_of(table)
    assert crops.shape == ((at >= 0).sum(), 16, 16, 3) and crops.dtype == np.uint8
    assert at.shape == (patches, 4) and (at[:, 0] == 0).all()
    assert table["texture"].type == "float" and len(table["texture"]) == patches
    assert table["patch"].to_pylist() == list(range(patches))
    assert shapes["colour"].min() >= 0 and shapes["colour"].max() <= 1
    assert store.exists(done.stage.path("config.yaml"))


def test_stored_depth_maps_become_the_third_coordinate_of_the_right_frames(
    tiny: ExperimentConfig, clips_folder: Path, tmp_path: Path
) -> None:
    maps = tmp_path / "depth" / "good"
    maps.mkdir(parents=True)
    # Each frame has a scale and a shift of its own; one quarter of the picture comes nearer in the second window.
    for frame in range(100):
        depth = np.tile(np.linspace(1, 2, 32, dtype=np.float32), (24, 1))
        depth[:12, :16] += max(0, frame - 50) * 0.01
        np.save(maps / f"{frame}.npy", (1 + 0.1 * frame % 7) * depth + frame)
    store = Store(tiny.store)
    done = extract.run(on_clips(tiny, clips_folder, depth=str(maps.parent)), store)
    rows = {row["clip_id"]: row for row in done.ledger.to_pylist()}
    assert rows["good.avi"]["status"] == "ok"
    still, moving = (
        arrays(store.read_table(extract.trajectory_path(done.stage, rows["good.avi"]["folder"], w)), "position")
        for w in (0, 1)
    )
    assert still.shape == moving.shape == (48, 48, 3)
    quarter = (still[:, 0, 0] < 150) & (still[:, 0, 1] < 110)
    rest = (still[:, 0, 0] > 170) | (still[:, 0, 1] > 130)
    rise = [depth[:, -1, 2] - depth[:, 0, 2] for depth in (still, moving)]
    assert np.abs(np.median(rise[0][quarter])) < 0.02 and np.abs(np.median(rise[1][rest])) < 0.02
    assert np.median(rise[1][quarter]) > 0.3


def test_a_stage_run_again_does_only_what_is_missing_and_gives_the_same_bytes(tiny_scored: ExperimentConfig) -> None:
    store = Store(tiny_scored.store)
    first = score.load(tiny_scored, extract.load(tiny_scored, store))
    assert (first.extracted.resumed, first.resumed) == (2, 2)

    _, folder, window = first.extracted.windows[1]
    paths = [
        extract.trajectory_path(first.extracted.stage, folder, window),
        score.twins_path(first.stage, folder, window),
    ]
    before = [store.read_bytes(path) for path in paths]
    for path in paths:
        (Path(tiny_scored.store) / path).unlink()

    again = score.run(tiny_scored, extract.run(tiny_scored, store))
    assert (again.extracted.computed, again.extracted.resumed) == (1, 1)
    assert (again.computed, again.resumed) == (1, 1)
    assert [store.read_bytes(path) for path in paths] == before
    assert again.ledger.equals(first.ledger)


def test_clips_gone_through_a_few_at_a_time_leave_the_same(
    tiny_scored: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tiny_scored.store)
    whole = score.load(tiny_scored, extract.load(tiny_scored, store))
    # Without the clips' paths, which lie in the store that this one is a copy of.
    extracted = whole.extracted.ledger.drop_columns("path").to_pylist()
    for stage in ("extract", "score"):
        store.delete(stage)
    monkeypatch.setattr(extract, "CLIPS_AT_ONCE", 1)
    for computed in (2, 0):
        parts = score.run(tiny_scored, extract.run(tiny_scored, store))
        assert (parts.extracted.computed, parts.computed, parts.resumed) == (computed, computed, 2 - computed)
        assert parts.extracted.ledger.drop_columns("path").to_pylist() == extracted
        assert parts.ledger.to_pylist() == whole.ledger.to_pylist()
    assert "clips 2 to 2 of 2" in capsys.readouterr().err


def test_clips_without_a_window_are_an_error_that_says_why(tiny: ExperimentConfig, clips_folder: Path) -> None:
    with pytest.raises(StageError, match=r"none of 4 clips gave a window"):
        extract.run(on_clips(tiny, clips_folder, window=500), Store(tiny.store))


def test_a_store_that_cannot_be_written_to_is_no_clip_s_fault(tiny: ExperimentConfig, clips_folder: Path) -> None:
    config = on_clips(tiny, clips_folder)
    done = extract.run(config, Store(config.store))
    (folder,) = (row["folder"] for row in done.ledger.to_pylist() if row["status"] == "ok")
    place = Path(config.store) / done.stage.path("trajectories", folder)
    shutil.rmtree(place)
    (place / "00000.parquet").mkdir(parents=True)
    with pytest.raises(StageError, match=f"^cannot write '.*{folder}.*' of the store "):
        extract.run(config, Store(config.store))
    shutil.rmtree(place)
    place.write_bytes(b"")
    with pytest.raises(StageError, match=f"^cannot list '.*{folder}.*' of the store "):
        extract.run(config, Store(config.store))


def test_a_window_that_cannot_be_scored_is_left_out_until_it_can_be(
    tiny_scored: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_scored
    store = Store(tiny.store)
    store.delete("score")
    extracted = extract.load(tiny, store)
    bad, good = extracted.windows
    path = extract.trajectory_path(extracted.stage, *bad[1:])
    table = store.read_table(path)
    store.write_table(path, table.slice(0, 0))
    scored = score.run(tiny, extracted)
    assert [*scored.extracted.windows] == [good] and (scored.computed, scored.resumed) == (1, 0)
    assert f"failed {bad[0]}: window 0: not scored: " in capsys.readouterr().err
    assert {row["clip_id"]: row["status"] for row in scored.extracted.ledger.to_pylist()} == {
        bad[0]: "failed",
        good[0]: "ok",
    }
    assert scored.counts["patches"] == len(Pairs.from_windows(ray_training.windows(scored, store)).twin) == len(table)
    again = score.load(tiny, extract.load(tiny, store))
    assert again.extracted.ledger.equals(scored.extracted.ledger) and again.resumed == 1
    left_out = pretrain.stage(tiny, scored).hash

    store.write_table(extract.trajectory_path(extracted.stage, *good[1:]), table.slice(0, 0))
    Path(tiny.store, score.twins_path(scored.stage, *good[1:])).unlink()
    with pytest.raises(StageError, match="none of 2 clips gave a window, the first because: window 0: not scored"):
        score.run(tiny, extracted)

    store.delete(extracted.stage.path("trajectories"))
    whole = score.run(tiny, extract.run(tiny, store))
    assert (whole.computed, whole.resumed, len(whole.extracted.windows)) == (2, 0, 2)
    assert pretrain.stage(tiny, whole).hash != left_out, "trained on the window, too, it is another model"


def test_a_stage_before_which_nothing_was_done_says_what_to_run(tiny: ExperimentConfig) -> None:
    store = Store(tiny.store)
    with pytest.raises(StageError, match="infoaug extract"):
        extract.load(tiny, store)
    extracted = extract.run(tiny, store)
    with pytest.raises(StageError, match="infoaug score"):
        score.load(tiny, extracted)
    with pytest.raises(StageError, match="infoaug pretrain"):
        pretrain.load(tiny, score.run(tiny, extracted))


def test_a_row_that_kills_its_worker_is_given_up_and_the_others_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TASKS_PER_CPU", 1)
    monkeypatch.setattr(cluster, "CHUNK", 6)
    deaths = tmp_path / "deaths"

    def work(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["number"] == 2:
                with deaths.open("a") as file:
                    file.write("x")
                os._exit(1)
            yield {"square": row["number"] ** 2}

    came = list(cluster.map_rows([{"number": n} for n in range(8)], work, block=3))
    assert sorted(row["number"] for row, _ in came) == [0, 1, 3, 4, 5, 6, 7]
    assert all(status == {"square": row["number"] ** 2} for row, status in came)
    assert deaths.stat().st_size == cluster.DEATHS_OF_A_ROW, "with its neighbours first, then alone"


def test_a_row_whose_worker_died_gets_another_chance_when_all_others_are_done(
    ray_cluster: None, tmp_path: Path
) -> None:
    """A machine without memory kills small tasks too, and has some again when others have ended."""
    deaths = tmp_path / "deaths"
    deaths.touch()

    def work(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if rows[0]["number"] == 0 and deaths.stat().st_size <= cluster.RETRIES:
            with deaths.open("a") as file:
                file.write("x")
            os._exit(1)
        yield from rows

    came = [row["number"] for row, _ in cluster.map_rows([{"number": n} for n in range(2)], work, block=1)]
    assert came == [1, 0]


def test_a_task_that_fails_for_another_reason_than_a_dead_worker_is_no_row_s_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if rows[0]["number"] == 1:
            raise ImportError("no module of that name on this node")
        yield from rows

    came = []
    with pytest.raises(StageError, match="no module of that name on this node; running the same command again will"):
        came += cluster.map_rows([{"number": n} for n in range(2)], work, 1)
    assert [row["number"] for row, _ in came] == [0], "the other row is kept"
    assert "Traceback" in caplog.text and "no module of that name" in caplog.text, "the log has all of it"


def config_of(config: ExperimentConfig, policy: str, seed: int = 0) -> ExperimentConfig:
    return config.model_copy(update={"score": config.score.model_copy(update={"policy": policy}), "seed": seed})


def test_policies_give_the_same_patches_a_twin_and_differ_in_who_it_is(tiny_scored: ExperimentConfig) -> None:
    tiny = tiny_scored
    store = Store(tiny.store)
    extracted = extract.load(tiny, store)
    twins, scored = {}, {}
    controls = ("random", "nearest", "correlation", "shuffled", "same-clip", "other-clip")
    for policy in ("mutual-information", "none", *controls):
        scored[policy] = score.run(config_of(tiny, policy), extracted)
        twins[policy] = Pairs.from_windows(ray_training.windows(scored[policy], store)).twin.numpy()
    assert [done.resumed for done in scored.values()] == [2] * 8, "all policies share one scoring"
    assert len({pretrain.stage(tiny, done).hash for done in scored.values()}) == 8
    assert scored["none"].counts["twin"] == 0 < scored["random"].counts["twin"]
    assert (twins["none"] == -1).all()
    assert (twins["mutual-information"] >= 0).any()
    for control in controls:
        np.testing.assert_array_equal(twins["mutual-information"] >= 0, twins[control] >= 0)
        assert (twins["mutual-information"] != twins[control]).any()
    other = Pairs.from_windows(
        ray_training.windows(score.load(config_of(tiny, "random", seed=1), extracted), store)
    ).twin.numpy()
    np.testing.assert_array_equal(other >= 0, twins["random"] >= 0)
    assert (other != twins["random"]).any(), "every seed of the training has random twins of its own"


def listening() -> dict[str, set[str]]:
    """The addresses that this process and those below it listen on, by the name of the process."""
    found: dict[str, set[str]] = {}
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended
            at = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
            found.setdefault(process.cmdline()[0], set()).update(at)
    return found


def test_training_resumes_finished_epochs_and_two_workers_split_the_global_batch_unseen_from_outside(
    tiny_scored: ExperimentConfig,
) -> None:
    tiny = tiny_scored
    settings = tiny.pretrain.model_copy(update={"workers": 2, "cpus_per_worker": 1, "images_on_device": False})
    evaluation = tiny.evaluate.model_copy(update={"every": 2})
    config = tiny.model_copy(update={"pretrain": settings, "evaluate": evaluation})
    scored = score.load(config, extract.load(config, Store(config.store)))
    seen: list[pretrain.Epoch] = []
    addresses: list[dict[str, set[str]]] = []

    def receive(epoch: pretrain.Epoch) -> None:
        seen.append(epoch)
        addresses.append(listening())

    trained = pretrain.run(config, scored, receive)
    assert [epoch["epoch"] for epoch in trained.history] == [1, 2]
    assert trained.history == seen
    assert addresses[0]["ray::RayTrainWorker"], "a worker listens"
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not {name: outside for name, at in addresses[0].items() if (outside := at - loopback)}
    assert all(np.isfinite(list(epoch.values())).all() for epoch in seen)
    assert ["validation_knn" in epoch for epoch in seen] == [False, True]
    assert seen[0]["loss"] == pytest.approx(seen[0]["view_loss"] + 0.5 * seen[0]["twin_loss"], rel=1e-4)

    again = pretrain.run(config, scored, seen.append)
    assert (again.computed, again.resumed, len(seen)) == (0, 2, 2)


def test_a_streamed_training_whose_worker_dies_goes_on_within_the_epoch_and_ends_with_the_same_weights(
    tiny_scored: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = score.load(tiny_scored, extract.load(tiny_scored, Store(tiny_scored.store)))
    # Shards of a single window, and blocks of a shard.
    monkeypatch.setattr(shards, "BYTES", 1)
    shuffle = scored.patches // 2
    streamed = {"shuffle": shuffle, "checkpoint_minutes": 0.0, "checkpoint_every": 100, "epochs": 3, "batch_size": 4}
    weights, histories, steps = [], [], 2 * (scored.patches - 3) // 4
    for name in ("undisturbed", "dies"):
        marker = tmp_path / name
        settings = {"backbone": "tests.integration.own_backbones:Dying", "precision": "float32", **streamed}
        # The first block of the second epoch is complete, and the second begun.
        settings["backbone_settings"] = {"marker": str(marker), "at": steps * 3 // 4}
        if name == "undisturbed":
            marker.touch()
        config = tiny_scored.model_copy(update={"pretrain": tiny_scored.pretrain.model_copy(update=settings)})
        trained = pretrain.run(config, scored, lambda epoch: None)
        assert marker.exists()
        store, folder = trained.stage.store, trained.stage
        weights.append(store.read_bytes(folder.path("backbone.safetensors")))
        histories.append([(epoch["loss"], epoch["share_with_twin"]) for epoch in trained.history])
        assert [epoch["epoch"] for epoch in trained.history] == [1, 2, 3]
    assert histories[0] == histories[1]
    assert weights[0] == weights[1]
    assert len([*(tmp_path / "store" / "shards").iterdir()]) == 1, "both trainings read the same shards"


@pytest.mark.slow
def test_training_continues_when_the_queue_of_its_epochs_dies(
    tiny_scored: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = epoch_queue.create().queue
    received: list[pretrain.Epoch] = []

    def kill(epoch: pretrain.Epoch) -> None:
        received.append(epoch)
        ray.kill(queue.actor)

    scored = score.load(tiny_scored, extract.load(tiny_scored, Store(tiny_scored.store)))
    trained = pretrain.run(tiny_scored, scored, kill)
    assert len(received) == 1 and [epoch["epoch"] for epoch in trained.history] == [1, 2]
    assert "queue of epochs has died" in capsys.readouterr().err
    assert epoch_queue.create().queue.actor != queue.actor, "the next training has a queue of its own"


def test_more_workers_than_the_machine_has_cpus_for_is_refused_before_training(tiny_scored: ExperimentConfig) -> None:
    settings = tiny_scored.pretrain.model_copy(update={"workers": 8})
    config = tiny_scored.model_copy(update={"pretrain": settings})
    with pytest.raises(UsageError, match="8 training workers need 8 CPUs"):
        pretrain.run(config, score.load(config, extract.load(config, Store(config.store))), print)
