"""The score stage: what it stores of a window, reads back, and refuses. No Ray."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, score
from infoaug.orchestrator.stages.score import _score
from infoaug.orchestrator.stages.twin_table import COUNTED, TWINS, column
from tests.orchestrator.stages.windows import FRAMES, LOST, STATIC, SURROGATES, A, B, settings, window


def test_a_row_of_the_twins_table_says_what_was_found(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    whole = window().table("clip.mp4", 0)
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), whole)
    store.write_table(extracted.path("trajectories", "clip", "00001.parquet"), whole.slice(0, 0))
    rows = [{"folder": "clip", "window": w, "present": present} for w, present in ((0, False), (1, False), (0, True))]
    done = list(_score(place, extracted, settings(), FRAMES, rows))
    assert done[1]["reason"], "a window that cannot be scored does not stop the others"
    assert done[0] == done[2], "a window that was scored before is summed up alike"
    table = store.read_table(place.path("twins", "clip", "00000.parquet"))
    assert (
        done[0]["summary"]["patches"] == len(table) and done[0]["summary"]["twin"] == table["twin"].drop_null().length()
    )
    assert table.schema.equals(TWINS)
    found = table.to_pylist()
    assert (found[A]["twin"], found[A]["candidates"][0], found[A]["reason"]) == (B, B, "")
    assert found[A]["p_value"] == pytest.approx(1 / (1 + SURROGATES))
    for name in ("mutual_information", "p_value", "strength", "distance"):
        assert found[A][name] == pytest.approx(found[A][f"candidate_{name}"][0])
    scored = window().score()
    assert found[A]["strength"] == pytest.approx(scored.strength[A, B], rel=1e-5)
    assert found[A]["distance"] == pytest.approx(np.hypot(40, 40), rel=1e-5)
    assert len(found[A]["candidates"]) == 5 and found[A]["candidate_strength"] == sorted(
        found[A]["candidate_strength"], reverse=True
    )
    assert (found[STATIC]["twin"], found[STATIC]["p_value"], found[STATIC]["candidates"]) == (None, None, [])
    assert found[LOST]["visible_frames"] == 10
    assert found[LOST]["entropy"] is None


def test_controls_are_stored_beside_the_twins(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    w = window()
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), w.table("clip.mp4", 0))
    mask = np.zeros((80, 160, 3), np.uint8)
    mask[:40, :120] = 0, 0, 9  # patches 0, 1 and 2; 2 is static
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    row = {"folder": "clip", "window": 0, "present": False}
    for known in ({}, {"mask": str(tmp_path / "mask.png"), "width": 160, "height": 80}):
        list(_score(place, extracted, settings(), FRAMES, [row | known]))
        table = store.read_table(place.path("twins", "clip", "00000.parquet"))
        found = {name: table[name].to_pylist() for name in ("twin", "correlation", "shuffled", "oracle", "object")}
        paired = np.array([twin is not None for twin in found["twin"]])
        assert paired.sum() >= 2 and table["reason"].to_pylist()[A] == ""
        assert ((np.array(found["shuffled"]) >= 0) == paired[:, None]).all()
        assert [twin is not None for twin in found["correlation"]] == paired.tolist()
        alike = w.score().correlation[A]
        others = [p for p in range(8) if p not in (A, STATIC, LOST)]
        assert found["correlation"][A] == max(others, key=lambda p: alike[p])
        assert found["object"] == ([9 << 16] * 3 + [0] * 5 if known else [None] * 8)
        assert set(found["oracle"][A]) == ({0} if known else {-1}), "the only other moving patch on its object"
    scored = score.Scored(place, None, pa.table({}), 0, 0, "oracle", 3)  # type: ignore[arg-type]
    assert score.twins_of(scored, "clip", 0)[0].tolist() == [row[3] for row in found["oracle"]]
    twin = [-1 if partner is None else partner for partner in found["twin"]]
    for policy, expected in (
        ("none", [-1] * 8),
        ("later", [patch if paired[patch] else -1 for patch in range(8)]),
        ("later+mutual-information", twin),
        ("mutual-information", twin),
        ("correlation", [-1 if partner is None else partner for partner in found["correlation"]]),
    ):
        got, among = score.twins_of(replace(scored, policy=policy), "clip", 0)
        assert (got.tolist(), among.tolist()) == (expected, paired.tolist()), policy


@pytest.mark.parametrize("change", ["mutual=0", "mutual=2", "surrogates=0"])
def test_partners_read_from_the_store_are_eligible_and_begin_with_the_twin(change: str, tmp_path: Path) -> None:
    store, asked = Store(str(tmp_path)), settings(change, "alpha=0.5", "candidates=8")
    key = asked.model_dump()
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", key)
    w = window()
    store.write_table(extracted.path("trajectories", "clip", "00000.parquet"), w.table("clip.mp4", 0))
    list(_score(place, extracted, asked, FRAMES, [{"folder": "clip", "window": 0, "present": False}]))
    found = store.read_table(place.path("twins", "clip", "00000.parquet")).to_pylist()
    scored = score.Scored(place, None, pa.table({}), 0, 0, twins=7)  # type: ignore[arg-type]
    partners, strength = score.partners_of(scored, "clip", 0)
    assert partners.shape == strength.shape == (8, 7)
    several = 0
    for patch, row in enumerate(found):
        given = [p for p in partners[patch].tolist() if p >= 0]
        assert given[:1] == ([] if row["twin"] is None else [row["twin"]])
        at = [row["candidates"].index(p) for p in given]
        assert at == sorted(at) and all((row["candidate_p_value"][i] or 0) <= 0.5 for i in at)
        assert strength[patch, : len(at)].tolist() == [max(0, row["candidate_strength"][i]) for i in at]
        if asked.mutual:
            assert len(given) <= asked.mutual and all(patch in found[p]["candidates"] for p in given)
        several += len(given) > 1
    assert several


def test_a_policy_without_twins_in_these_clips_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set clips\.masks"):
        score.check(load(None, ["score.policy=oracle"]))
    with pytest.raises(UsageError, match=r"clips.masks 'nowhere' is no folder"):
        score.check(load(None, ["clips.path=clips", "clips.masks=nowhere"]))
    with pytest.raises(UsageError, match="needs at least two clips"):
        score.check(load(None, ["score.policy=other-clip", "scenes.count=1"]))
    with pytest.raises(UsageError, match="masks are those of clips: set path too"):
        load(None, [f"clips.masks={tmp_path}"])
    score.check(load(None, ["score.policy=other-clip"]))
    for policy in ("later", "later+mutual-information"):
        with pytest.raises(UsageError, match=r"policy later.* another time: set extract\.crops to 2 or more"):
            score.check(load(None, [f"score.policy={policy}", "extract.crops=1"]))
        score.check(load(None, [f"score.policy={policy}"]))


def test_masks_belong_to_the_identity_of_twins_and_to_nothing_else(tmp_path: Path) -> None:
    extracted = extract.Extracted(StageFolder(Store(str(tmp_path)), "extract", {}), pa.table({}), 0, 0)
    given = ["clips.path=/v"], ["clips.path=/v", "clips.masks=/m"]
    assert len({score.stage(load(None, overrides), extracted).hash for overrides in given}) == 2
    assert len({extract.clips_digest(load(None, overrides)) for overrides in given}) == 1


def test_the_mask_of_a_window_is_that_of_its_first_frame(tmp_path: Path) -> None:
    (tmp_path / "bear").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"bear/{number}.png"), np.zeros((2, 2, 3), np.uint8))
    clip = {"clip_id": "bear.mp4", "folder": "b", "frames": 5, "width": 64, "height": 48, "status": "ok"}
    rows = [clip | {"windows": [0, 2], "first_frames": [0, 3]}, clip | {"clip_id": "x", "folder": "x", "windows": []}]
    found = score._first_frames(pa.Table.from_pylist(rows, schema=extract.LEDGER), str(tmp_path))
    assert {key: Path(row["mask"]).stem for key, row in found.items()} == {("b", 0): "0", ("b", 2): "3"}


def test_a_store_that_cannot_be_read_is_no_window_s_fault(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = [{"folder": "clip", "window": 0, "present": False}]
    with pytest.raises(StageError, match=r"^cannot read '.*/trajectories/clip/00000\.parquet' of the store "):
        list(_score(StageFolder(store, "score", {}), StageFolder(store, "extract", {}), settings(), FRAMES, rows))


@pytest.mark.parametrize("damaged", ["trajectories", "twins"])
@pytest.mark.parametrize("content", [b"", b"junk" * 20, None], ids=["empty", "junk", "cut off"])
def test_a_damaged_file_costs_its_window_and_is_computed_anew_next_time(
    tmp_path: Path, damaged: str, content: bytes | None
) -> None:
    store = Store(str(tmp_path))
    extracted, place = StageFolder(store, "extract", {}), StageFolder(store, "score", {})
    for number in range(2):
        store.write_table(extracted.path("trajectories", "clip", f"{number:05d}.parquet"), window().table("c.mp4", 0))
    rows = [{"folder": "clip", "window": number, "present": False} for number in range(2)]
    work = partial(_score, place, extracted, settings(), FRAMES)
    whole = list(work(rows))
    assert [row["reason"] for row in whole] == ["", ""]
    path = {"trajectories": extracted, "twins": place}[damaged].path(damaged, "clip", "00000.parquet")
    store.write_bytes(path, store.read_bytes(path)[:-9] if content is None else content)
    again = list(work([row | {"present": damaged == "twins"} for row in rows]))
    assert again[0]["reason"].startswith(f"'{path}' of the store was damaged and is deleted")
    assert again[1]["reason"] == ""
    assert not store.exists(path), "the next run finds it missing, and computes it"
    if damaged == "twins":
        assert [row["summary"] for row in work(rows)] == [row["summary"] for row in whole]


def test_the_cuda_backend_is_refused_where_the_cluster_has_too_few_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "connect", lambda config: None)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    monkeypatch.setattr(cluster, "map_windows", lambda *given: pytest.fail("Ray would wait for a GPU"))
    config = load(None, ["score.backend=cuda", "score.gpus_per_task=0.5"])
    stages = (StageFolder(Store(str(tmp_path)), name, {}) for name in ("score", "extract"))
    clips = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0]]})
    with pytest.raises(UsageError, match=r"score\.backend.*0\.5 GPUs.*has 0"):
        score._score_clips(config, *stages, clips, score.LEDGER.empty_table())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["score.k=11"], True),
        (["score.estimator=npeet"], True),
        (["score.k=10"], False),
        (["score.k=11", "score.backend=reference"], False),  # as asked for
    ],
)
def test_an_estimate_without_a_compiled_kernel_is_said_to_be_slow(
    overrides: list[str],
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "connect", lambda config: None)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    summary = dict.fromkeys(map(column, COUNTED), 0)
    monkeypatch.setattr(cluster, "map_windows", lambda *given: ({("a-1", 0): {"summary": summary}}, {}))
    stages = [StageFolder(Store(str(tmp_path)), name, {}) for name in ("score", "extract")]
    clips = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0]]})
    score._score_clips(load(None, overrides), *stages, clips, score.LEDGER.empty_table())
    assert ("has no compiled kernel" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["score.surrogates=18"], True),
        (["score.surrogates=19"], False),
        (["score.surrogates=500", "score.alpha=0.001"], True),
        (["score.alpha=0"], True),
        (["score.surrogates=0"], False),
        (["score.surrogates=5", "score.policy=none"], False),
        ([], False),
    ],
)
def test_a_test_that_no_pair_can_pass_is_refused_before_the_start(overrides: list[str], refused: bool) -> None:
    config = load(None, overrides)
    if refused:
        with pytest.raises(UsageError, match=r"no patch would have a twin: set score\.surrogates"):
            score.check(config)
    else:
        score.check(config)
