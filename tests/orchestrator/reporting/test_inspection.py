"""One window of a clip, computed and drawn."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from infoaug.estimators.video import clips
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import inspection
from infoaug.orchestrator.stages import extract

SETTINGS = ("extract.window=5", "extract.spacing=16", "extract.patch_size=16", "score.surrogates=0")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A folder of 12 frames of 96 × 64 pixels, whose texture moves to and fro."""
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8), (96, 64))
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(12):
        cv2.imwrite(str(folder / f"{t}.png"), np.roll(texture, t % 3, axis=1))
    return folder


def test_a_window_holds_its_frames_and_the_arrays_of_its_patches(clip: Path) -> None:
    window = inspection.inspect_window(clip, 1, load(None, SETTINGS))
    count = len(window.images)
    assert window.frames.shape == (5, 64, 96, 3)
    assert window.first == 5
    assert window.position.shape[:2] == window.visible.shape == window.camera.shape[:2] == (count, 5)
    assert window.mutual_information.shape == (count, count)
    assert window.p_values is None
    assert window.twins.index.shape == (count,)
    assert sum(window.reasons.values()) == count
    assert window.reasons["twin"] == (window.twins.index >= 0).sum()


def test_a_window_leaves_out_frames_that_are_shown_again(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for t, number in enumerate((0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8)):
        shutil.copy(clip / f"{number}.png", tmp_path / "again" / f"{t}.png")
    once, again = (inspection.inspect_window(p, 0, load(None, SETTINGS)) for p in (clip, tmp_path / "again"))
    np.testing.assert_array_equal(again.frames, once.frames)
    np.testing.assert_array_equal(again.position, once.position)
    assert inspection.inspect_window(tmp_path / "again", 0, load(None, ["extract.window=11", *SETTINGS[1:]])).first == 0


def test_a_window_that_the_clip_lacks_is_refused_with_the_number_of_windows(clip: Path) -> None:
    with pytest.raises(UsageError, match=r"2 windows of 5 frames.* window 2"):
        inspection.inspect_window(clip, 2, load(None, SETTINGS))


@pytest.mark.parametrize("policy", inspection.ELSEWHERE)
def test_policies_that_need_more_than_a_window_are_refused(clip: Path, policy: str) -> None:
    with pytest.raises(UsageError, match=f"score.policy {policy} needs more"):
        inspection.inspect_window(clip, 0, load(None, [*SETTINGS, f"score.policy={policy}"]))


@pytest.mark.parametrize("policy", inspection.ELSEWHERE)
def test_a_report_on_such_a_policy_draws_the_twins_of_mutual_information(clip: Path, policy: str) -> None:
    config = load(None, [*SETTINGS, f"score.policy={policy}", f"clips.path={clip}", f"clips.masks={clip}"])
    columns = extract.extract_window(clips.read_clip(clip, 0, 5), config.extract)
    table = extract.trajectories_table("clip", 0, columns)
    row = {"clip_id": "clip", "folder": "clip", "path": str(clip), "fps": 25.0, "windows": [0], "first_frames": [0]}
    row |= {"frames": 12, "cuts": [], "repeats": []}
    store = SimpleNamespace(read_table=lambda path: table)
    stage = SimpleNamespace(store=store, path=lambda *parts: "/".join(parts))
    extracted = SimpleNamespace(stage=stage, clip=lambda clip_id: row)
    scored: Any = SimpleNamespace(stage=stage, extracted=extracted)
    found = inspection.stored_window(scored, config, "clip", 0)
    plain = config.model_copy(update={"score": config.score.model_copy(update={"policy": "mutual-information"})})
    expected = inspection.stored_window(scored, plain, "clip", 0)
    assert np.array_equal(found.scored.twins.index, expected.scored.twins.index)
    assert inspection.draw(found)
    np.testing.assert_array_equal(found.frames, inspection.inspect_window(clip, 0, plain).frames)


def test_pictures_are_saved_under_their_names(clip: Path, tmp_path: Path) -> None:
    drawn = inspection.draw(inspection.inspect_window(clip, 0, load(None, SETTINGS)))
    paths = inspection.save(drawn, tmp_path / "out", "first")
    names = ("tracks", "mutual-information", "twins", "reasons")
    assert [path.name for path in paths] == [f"first-{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_pictures_in_a_folder_that_cannot_be_made_end_as_a_stage_error(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    drawn = inspection.draw(inspection.inspect_window(clip, 0, load(None, SETTINGS)))
    with pytest.raises(StageError, match="file"):
        inspection.save(drawn, tmp_path / "file" / "out", "first")


def test_a_twin_is_doubtful_if_its_pair_is_not_significant_or_one_of_the_two_has_little_texture(clip: Path) -> None:
    window = inspection.inspect_window(clip, 0, load(None, SETTINGS))
    count = len(window.images)
    significant = np.zeros((count, count), bool)
    significant[0, 1] = significant[1, 0] = significant[2, 3] = True
    texture = np.full(count, 50, np.float32)
    texture[3] = 3.0
    index = np.full(count, -1)
    index[:5] = [1, 0, 3, -1, 0]
    twins = dataclasses.replace(window.twins, index=index, significant=significant)
    scored = dataclasses.replace(window.scored, twins=twins)
    doubts = dataclasses.replace(window, scored=scored, texture=texture).doubts
    words = ["", "", "little texture", "", "not significant"]
    assert all(bool(doubt) == bool(word) and word in doubt for doubt, word in zip(doubts[:5], words, strict=True))
    assert not any(doubts[5:])
