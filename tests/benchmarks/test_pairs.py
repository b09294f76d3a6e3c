"""What measures pairs gives the values computed by hand, pairs as the stage does, and goes on where it ended."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from infoaug.estimators.information import twins
from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
from infoaug.orchestrator.stages import extract
from infoaug.orchestrator.stages.window_scores import score_window

SIZE = 10  # of a crop, pixels
ON, OFF, NONE = 0, -1, -2
NAN = float("nan")
PLAIN: dict[str, Any] = {"rank": "samples", "mutual": 0}
NEAR = ScoreConfig(min_distance=0, **PLAIN)
NAMES = "pairs", "pairs_measures", "pairs_tables", "tracking_measures", "gpu"


@pytest.fixture
def pairs() -> Iterator[ModuleType]:
    """benchmarks/pairs.py, as it is when it runs as a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("pairs")
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def measures(pairs: ModuleType) -> ModuleType:
    """benchmarks/pairs_measures.py."""
    return sys.modules["pairs_measures"]


def window_of(measures: ModuleType, x: Sequence[float], point: Sequence[int], picture: Sequence[int]):
    """Patches on a line at x, all pairs significant: 0–3 share most, then 1–2, then 1–4; the last one is lost."""
    count = len(x)
    position = np.zeros((count, 4, 2), np.float32)
    position[..., 0] = np.array(x)[:, None]
    mi = np.full((count, count), 0.1)
    for i, j, value in ((0, 3, 1.0), (1, 2, 0.9), (1, 4, 0.5)):
        mi[i, j] = mi[j, i] = value
    np.fill_diagonal(mi, NAN)
    mi[-1] = mi[:, -1] = NAN
    return measures.Window(
        position=position,
        camera=position,
        visible=np.ones((count, 4), bool),
        mutual_information=mi,
        p_values=np.where(np.isnan(mi), NAN, 0.001),
        excluded=np.array([""] * (count - 1) + ["lost"]),
        point=np.array(point),
        picture=np.array(picture),
        last=np.array([ON, OFF, NONE, NONE, OFF, NONE]),
        seconds=np.array([1.0, 0.5]),
    )


@pytest.fixture
def window(measures: ModuleType):
    """Twins are 0→3, 1→2, 2→1, 3→0, 4→1, at 30, 4, 4, 30 and 30 pixels."""
    return window_of(measures, (0, 4, 8, 30, 34, 38), (ON, ON, OFF, ON, OFF, ON), (ON, OFF, OFF, ON, ON, NONE))


def test_labels_of_points_are_those_of_the_nearest_pixel(measures: ModuleType) -> None:
    labels = np.array([[OFF, ON], [7, OFF]])
    assert measures.labels_at(labels, np.array([[0.6, 0.4], [0.4, 0.6], [-3.0, 0.0]])).tolist() == [ON, 7, OFF]


def test_a_crop_shows_what_has_more_than_half_of_it(measures: ModuleType) -> None:
    labels = np.full((4, 8), OFF)
    labels[:, 4:] = ON
    labels[:, 6:] = 1
    boxes = np.array([[0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4], [3, 0, 6, 4], [4, 0, 8, 4]])
    assert measures.labels_of_crops(labels, boxes).tolist() == [OFF, OFF, NONE, ON, NONE]


def test_twins_are_judged_by_points_and_by_crops(measures: ModuleType, window) -> None:
    found = measures.pairs_of([window], NEAR, SIZE, 0)["mutual-information"]
    assert found["object"].tolist() == [True, True, False, True, False]
    assert found["distance"].tolist() == [30, 4, 4, 30, 30] and found["close"].tolist() == [0, 1, 1, 0, 0]
    assert found["point"].tolist() == [1, 0, 0, 1, 0]
    assert found["crop"].tolist() == [1, 1, 1, 1, 0]
    assert found["shown"].tolist() == [1, 0, 1, 1, 0]  # 1 is on the object, and its crop shows the background


def test_chance_is_that_of_the_other_patches_in_the_same_bin_of_distance(measures: ModuleType, window) -> None:
    found = measures.pairs_of([window], NEAR, SIZE, 0)["mutual-information"]
    # As far away as the twin: from 0 the patches 4 and 5, from 1 and 4 patch 0, from 2 and 3 none.
    assert np.array_equal(found["point_chance"], [0.5, 1, NAN, NAN, 0], equal_nan=True)
    assert np.array_equal(found["crop_chance"], [0.5, 0, NAN, NAN, 1], equal_nan=True)
    assert np.array_equal(found["shown_chance"], [0.5, 0, NAN, NAN, 0], equal_nan=True)
    assert np.array_equal(found["point_allowed"], [0, 1, NAN, NAN, 0], equal_nan=True)  # 5 is lost


def test_controls_give_the_same_patches_other_twins_at_the_same_smallest_distance(measures: ModuleType, window) -> None:
    found = measures.pairs_of([window], NEAR, SIZE, 1.5)
    assert found["mutual-information"]["distance"].tolist() == [30, 30, 22, 30, 30]
    assert found["mutual-information"]["point"].tolist() == [1, 0, 0, 1, 0]
    assert found["nearest"]["distance"].tolist() == [30, 26, 22, 22, 26]
    assert found["nearest"]["point"].tolist() == [1, 1, 0, 0, 1]
    assert all(0 < value < 1 for value in found["random"]["point"][[0, 1, 3, 4]])  # means of some draws
    assert found["random"]["distance"].min() >= 15


def test_the_smallest_distance_of_the_settings_holds_too(measures: ModuleType, window) -> None:
    assert measures.choose(window, ScoreConfig(**PLAIN), 0).index.tolist() == [3, 4, 3, 0, 1, -1]
    assert measures.choose(window, ScoreConfig(**PLAIN), 29).index.tolist() == [3, 4, -1, 0, 1, -1]


def test_a_twin_may_be_of_another_window(measures: ModuleType, window, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(windows, number: int, chosen: twins.Twins, draw: int):
        return np.full(len(chosen.index), measures.begin(windows, 1 - number))

    monkeypatch.setitem(measures.POLICIES, "other-window", measures.Policy(other))
    second = window_of(measures, (0, 4, 8, 30, 34, 38), [OFF] * 6, [OFF] * 6)
    found = measures.pairs_of([window, second], NEAR, SIZE, 0)["other-window"]
    assert found["point"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert np.isnan(found["distance"]).all() and np.isnan(found["point_chance"]).all()


def test_patches_are_counted_with_what_became_of_them(measures: ModuleType, window) -> None:
    count = measures.counts_of([window, window], NEAR, SIZE, 0, fps=2)
    expected = {"patches": 12, "twin": 10, "lost": 2, "object": 8, "object_twin": 6, "object_lost": 2, "seen": 4}
    expected |= {"pictured": 4, "stayed": 2, "video": 4, "frames": 8, "tracking": 2, "scoring": 1}
    assert count == expected
    row = measures.yields([count])
    assert (
        row["twins_a_second"][0] == 2.5
        and row["stayed"][0] == 0.5
        and row["object_lost"][0] == 0.25
        and row["pictured"][0] == 0.5
    )


def test_means_have_intervals_over_sequences(measures: ModuleType) -> None:
    # Of equally long sequences: the mean of .5, 1, 0 is .5, its standard error .5/√3, and t of two degrees 4.3027.
    value, low, high = measures.mean([np.array([0, 1]), np.array([1, 1]), np.array([0, NAN, 0])])
    assert value == 0.5 and high - value == pytest.approx(4.3027 * 0.5 / 3**0.5, rel=1e-4) == value - low
    value, low, high = measures.ratio([3, 1, 0], [4, 1, 0])  # sequences without such patches do not count
    assert value == 0.8 and np.isnan([low, high]).all()
    assert np.isnan(measures.ratio([], [])).all()


def test_a_policy_is_compared_with_mutual_information_on_the_same_patches(measures: ModuleType, window) -> None:
    pairs = [measures.pairs_of([window], NEAR, SIZE, 1.5)] * 3
    counts = [measures.counts_of([window], NEAR, SIZE, 1.5, fps=2)] * 3
    row = measures.judged(pairs, "nearest", False, counts)
    assert row["n"] == 15 and row["point"]["twin"][0] == pytest.approx(0.6)
    assert row["point"]["lead"] == pytest.approx([-0.2] * 3)  # every sequence says the same
    first = measures.judged(pairs, "mutual-information", True, counts)
    # Of the patches 0, 1 and 3 on the object, 0 and 3 have a right twin, in two seconds.
    assert first["n"] == 9 and first["point"]["twin"][0] == pytest.approx(2 / 3)
    assert first["shown"]["right_a_second"] == pytest.approx([1] * 3)


def test_twins_are_those_of_the_stage(measures: ModuleType) -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(12, 48, 2))
    steps[6:] = 0.9 * steps[:6] + 0.4 * steps[6:]
    start = np.stack([np.arange(12) * 20.0, np.zeros(12)], axis=-1)
    position = (start[:, None] + steps.cumsum(1)).astype(np.float32)
    camera, visible = np.repeat(start[:, None], 48, axis=1).astype(np.float32), np.ones((12, 48), bool)
    visible[3, 5:] = False
    found = score_window(position, camera, visible, ScoreConfig(surrogates=1000))
    excluded = np.array([r if r in ("lost", "static") else "" for r in found.twins.reason])
    nothing = np.zeros(12, int)
    matrices = found.mutual_information, found.p_values, excluded
    window = measures.Window(position, camera, visible, *matrices, nothing, nothing, nothing, np.zeros(2))
    for distance in (0.0, 30.0):
        stage = score_window(position, camera, visible, ScoreConfig(surrogates=1000, min_distance=distance)).twins
        settings = ScoreConfig(surrogates=1000, min_distance=0)
        assert measures.choose(window, settings, distance).index.tolist() == stage.index.tolist()
        assert (stage.index >= 0).any()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four sequences as DAVIS has them, of 20 frames, with a square that shakes."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (24, 36, 3), dtype=np.uint8), (144, 96))
    square = cv2.resize(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), (48, 48))
    for name in ("blackswan", "camel", "cows", "soapbox"):
        folders = [tmp_path / "davis" / kind / name for kind in ("JPEGImages", "Annotations")]
        for t in range(20):
            x, y = rng.integers(20, 28, 2)
            frame, mask = ground.copy(), np.zeros((96, 144), np.uint8)
            frame[y : y + 48, x : x + 48], mask[y : y + 48, x : x + 48] = square, 255
            for folder, image in zip(folders, (frame, mask), strict=True):
                folder.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(folder / f"{t:05d}.png"), image)
    return tmp_path


def test_an_interrupted_measurement_goes_on_where_it_ended(
    pairs: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked, whole = [], extract.extract_window

    def until(most: int):
        def track(frames, settings):
            if len(tracked) == most:
                raise KeyboardInterrupt
            tracked.append(settings.patch_size)
            return whole(frames, settings)

        monkeypatch.setattr(extract, "extract_window", track)

    out = data / "results" / "pairs.json"
    command = ["pairs.py", "score.min_frames=10", "extract.spacing=24", "--data", str(data), "--parts", "davis,vtest"]
    command += ["--sizes", "24", "--cache", str(data / "cache"), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    until(2)
    with pytest.raises(KeyboardInterrupt):
        pairs.main()
    assert not out.exists()
    until(4)
    pairs.main()
    printed = capsys.readouterr()
    assert (
        tracked == [24] * 4 and "4/4 davis soapbox from 0, 24 px" in printed.err and "vtest is left out" in printed.err
    )
    pairs.main()
    again = capsys.readouterr().out
    assert len(tracked) == 4 and again == printed.out

    results = json.loads(out.read_text())
    assert results["settings"] == ["score.min_frames=10", "extract.spacing=24"]
    rows = [row for row in results["rows"] if row["apart"] == 0]
    assert [(row["clips"], row["sequences"]) for row in rows] == [("choosing", 2), ("reporting", 2), ("all", 4)]
    assert {row["patches"] for row in rows} == {48, 96} and rows[-1]["object"] >= 4 * 4
    assert "## DAVIS, the half for reporting (sequences: 2)" in again

    page = data / "pairs.md"
    monkeypatch.setattr(pairs, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["pairs.py", "--render", "--json", str(out)])
    pairs.main()
    assert page.read_text().startswith("# What pairs are worth\n") and again.strip() in page.read_text()
    assert len(tracked) == 4


def test_pictures_are_judged_by_the_crops_around_the_points(pairs: ModuleType, data: Path) -> None:
    tracking = ExtractConfig(spacing=16, point="eigenvalue")
    window = pairs.scored(data, None, tracking, NEAR, pairs.Task("davis", "blackswan", 0, 8, 24))
    mask = cv2.imread(str(data / "davis/Annotations/blackswan/00000.png"), cv2.IMREAD_GRAYSCALE)
    assert len(window.first) == 6 * 9
    for (x, y), picture in zip(np.rint(window.first).astype(int), window.picture, strict=True):
        left, top = min(max(x - 11, 0), 144 - 24), min(max(y - 11, 0), 96 - 24)
        share = (mask[top : top + 24, left : left + 24] > 127).mean()
        assert picture == (ON if share > 0.5 else OFF if share < 0.5 else NONE)
    assert {ON, OFF} <= set(window.picture.tolist())


def test_other_settings_or_code_are_other_windows(
    pairs: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("blackswan", "camel", "cows"):
        shutil.rmtree(data / "davis/JPEGImages" / name)
    command = ["pairs.py", "--data", str(data), "--parts", "davis", "--cache", str(tmp_path / "cache")]
    command += ["--json", str(tmp_path / "pairs.json"), "--sizes", "24", "score.surrogates=1000"]
    code = tmp_path / "code.py"
    for text, settings, count in (
        ("a = 1", [], 1),
        ("a = 1", ["score.alpha=0.1"], 1),
        ("a = 1", ["score.min_frames=10"], 2),
        ("a = 2", [], 3),
    ):
        code.write_text(text)
        monkeypatch.setattr(pairs, "CODE", [code])
        monkeypatch.setattr(sys, "argv", [*command, *settings])
        pairs.main()
        assert len(list((tmp_path / "cache").glob("*.npz"))) == count
