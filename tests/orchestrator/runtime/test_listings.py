"""What a command lists once, and the next command anew."""

from pathlib import Path

import pytest

from infoaug.estimators.video import manifest
from infoaug.orchestrator import dry_run
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import listings
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, masks, remote_clips


def test_what_is_listed_is_kept_for_one_command_and_by_what_it_is() -> None:
    calls: list[int] = []

    def listed() -> int:
        calls.append(1)
        return len(calls)

    assert [listings.once("clips", "a", listed) for _ in range(2)] == [1, 2], "outside of a command"
    with listings.kept():
        assert [listings.once("clips", "a", listed) for _ in range(2)] == [3, 3]
        with listings.kept():
            assert listings.once("clips", "a", listed) == 3
        assert listings.once("clips", "b", listed) == 4
        assert listings.once("masks", "a", listed) == 5
        assert listings.take("clips", "a", listed) == 3
        assert listings.once("clips", "a", listed) == 6, "what was taken is listed anew"
    assert listings.once("clips", "a", listed) == 7


def test_a_failed_listing_is_not_kept() -> None:
    with listings.kept():
        with pytest.raises(ZeroDivisionError):
            listings.once("clips", "a", lambda: 1 // 0)
        assert listings.once("clips", "a", lambda: 2) == 2


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of which clips are listed."""
    paths: list[str] = []

    def find(path: str) -> list[manifest.Clip]:
        paths.append(path)
        return manifest.find_clips(path)

    monkeypatch.setattr(remote_clips, "find_clips", find)
    return paths


def test_clips_are_listed_once_for_the_check_and_the_extraction(tmp_path: Path, listed: list[str]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    config = load(None, [f"clips.path={tmp_path}", "score.policy=none"])
    with listings.kept():
        extract.check(config)
        assert extract.count(config) == 1
        assert [clip.clip_id for clip in extract.find(config, Store(str(tmp_path)))] == ["clip.mp4"]
    assert listed == [str(tmp_path)]
    (tmp_path / "other.mp4").write_bytes(b"")
    assert extract.count(config) == 2
    with pytest.raises(UsageError, match="absent"):
        extract.count(load(None, ["clips.path=absent"]))


def test_a_dry_run_lists_clips_once(tmp_path: Path, listed: list[str]) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/clip.mp4").write_bytes(b"")
    small = "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"
    config = load(None, [f"clips.path={tmp_path / 'clips'}", f"store={tmp_path / 'store'}", small])
    assert dict(dry_run.lines(config))["extract"].startswith("do: 1 clips")
    assert listed == [str(tmp_path / "clips")]


def test_the_order_of_masks_is_looked_up_once_in_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(masks, "_are_reordered", lambda path: bool(looked.append(path)))
    with listings.kept():
        assert [masks.are_reordered(str(tmp_path)) for _ in range(3)] == [False] * 3
    assert looked == [str(tmp_path)]
