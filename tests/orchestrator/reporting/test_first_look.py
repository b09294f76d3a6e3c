"""A first look at clips: what it says of them, and what it leaves out."""

import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from infoaug.estimators.video import shots
from infoaug.orchestrator import cli
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.reporting import first_look, inspection

SETTINGS = ("extract.window=14", "extract.spacing=16", "extract.patch_size=16", "score.surrogates=0")


def made_up(
    *counts: dict[str, int], windows: int = 100, strength: float = 1.0, frames: int = 900
) -> first_look.FirstLook:
    """A first look at windows with these numbers of patches."""
    seen = [
        first_look.Seen("a.mp4", n, Counter(of), 0, np.full(of.get("twin", 0), strength), 2, Path(f"{n}.html"))
        for n, of in enumerate(counts)
    ]
    clip = inspection.Clip("a.mp4", shots.Scan(frames, 25.0, 640, 480, [], []), list(range(windows)))
    return first_look.FirstLook(load(None), ["my a.mp4"], 1, {"a.mp4": clip}, seen)


@pytest.mark.parametrize(
    ("twins", "windows", "words"),
    [
        (0, 100, "not worth training on as it is. No patch has a twin."),
        (9, 100, "not worth training on as it is. Only 0.9 % of patches have a twin (less than 1 %)"),
        (
            10,
            100,
            "perhaps worth training on. 1.0 % of patches have a twin (1 % to 5 %), about 1,000 patches of this clip.",
        ),
        (
            50,
            20,
            "Verdict: worth training on. 5.0 % of patches have a twin (5 % or more), about 1,000 patches of this clip.",
        ),
        (50, 10, "about 500 patches of this clip; training wants some 1,000: add more clips like it."),
    ],
)
def test_the_verdict_follows_from_the_share_of_patches_with_a_twin_and_their_number(
    twins: int, windows: int, words: str
) -> None:
    assert words in first_look.verdict(made_up({"twin": twins, "static": 1000 - twins}, windows=windows))


def test_advice_is_on_the_two_commonest_reasons_and_names_settings_that_the_clip_allows() -> None:
    counts = {"static": 500, "lost": 300, "not significant": 200}
    static, lost = first_look.advice(made_up(counts))
    assert "Try longer windows (--set extract.window=96) or clips" in static
    assert "tracks end early. Try clips" in lost, "windows cannot be both longer and shorter"
    assert "extract.window=60" in first_look.advice(made_up(counts, frames=60))[0]
    assert "extract.window" not in first_look.advice(made_up(counts, frames=48))[0]
    assert "extract.window=24" in first_look.advice(made_up({"lost": 9}))[0]
    (train,) = first_look.advice(made_up({"static": 10, "twin": 90}))
    assert "infoaug run clips --set 'clips.path=my a.mp4' --set pretrain.twin_share=0.5" in train
    run = ["clips", "--set", "extract.window=90"]
    (train,) = first_look.advice(dataclasses.replace(made_up({"twin": 90}), run=run))
    assert "infoaug run clips --set extract.window=90 --set" in train, "the settings that were looked at"


def test_strength_is_put_as_a_correlation_and_windows_as_a_range() -> None:
    rho = 0.8
    strength = -np.log(1 - rho**2)  # of two coordinates, each with −½ log(1 − ρ²)
    told = " ".join(first_look.sentences(made_up({"twin": 1, "lost": 9}, {"twin": 3, "lost": 7}, strength=strength)))
    assert "correlate by 0.80" in told and "Between 10.0 % and 30.0 %" in told
    assert "Between" not in " ".join(first_look.sentences(made_up({"lost": 9}, {"static": 9})))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a clip of 30 frames, one of five, and one that is no video."""
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8), (96, 64))
    for name, frames in (("long", 30), ("short", 5)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for t in range(frames):
            cv2.imwrite(str(tmp_path / "clips" / name / f"{t}.png"), np.roll(texture, t % 3, axis=1))
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "clips"


def test_windows_are_spread_over_clips_and_what_cannot_be_looked_at_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "out"
    first = first_look.look([str(folder)], load(None, SETTINGS), 6, 60, out)
    assert [(seen.clip, seen.number) for seen in first.seen] == [("long", 0), ("long", 1)]
    assert first.windows == 2 and first.found == 3
    assert first.counts.total() == 2 * 24
    assert all(seen.page.parent == out and seen.page.stat().st_size > 10_000 for seen in first.seen)
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "no further window" not in told
        and "left out broken.mp4" in told
        and "5 frames in one shot, too few for a window of 14" in told
    )


def test_no_window_is_begun_that_would_end_too_late(folder: Path) -> None:
    first = first_look.look([str(folder / "long")], load(None, SETTINGS), 2, 0, folder.parent / "out")
    assert len(first.seen) == 1 and first.windows == 2


def test_clips_of_which_none_can_be_looked_at_are_refused_with_a_remedy(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"too few for a window of 48: try --set extract\.window=30"):
        first_look.look([str(folder / "long")], load(None), 4, 60, folder.parent / "out")
    with pytest.raises(UsageError, match="does not exist"):
        first_look.look([str(folder / "long"), "missing"], load(None), 4, 60, folder.parent / "out")
    assert not (folder.parent / "out").exists()


def test_the_commands_say_what_they_found_and_write_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    for command in (["try", "clips/long", "--windows", "1"], ["inspect", "clips/long", "--html", "pages/one.html"]):
        monkeypatch.setattr("sys.argv", ["infoaug", *command, *settings])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    told = capsys.readouterr().out
    assert "Looked at 1 of 2 windows" in told and "Verdict: " in told and "pages/one.html" in told
    (page,) = Path("try").iterdir()
    assert f"Open {page} in a browser" in told
    assert page.stat().st_size > 10_000 and Path("pages/one.html").stat().st_size > 10_000


def test_of_a_long_clip_the_first_frames_are_read(folder: Path) -> None:
    opened = inspection.read(folder / "long", load(None, SETTINGS), most=20)
    assert opened.scan.frames == 20 and opened.first_frames == [0]
    assert shots.scan(folder / "long").frames == 30
