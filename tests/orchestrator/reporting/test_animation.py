"""Animations show every frame with its patches, in files that decode to what was drawn."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from infoaug.estimators.video import clips, shots
from infoaug.orchestrator import cli
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import animation
from infoaug.orchestrator.reporting.pictures import SPREAD_COLOURS

T, HEIGHT, WIDTH = 16, 60, 80
CREAM, YELLOW, PURPLE = (np.array(to_rgb(c)) * 255 for c in ("white", SPREAD_COLOURS(1.0), SPREAD_COLOURS(0.0)))


def movie(length: int = T, **changes: Any) -> animation.Movie:
    """Two patches that go to the right over a grey clip, the lower one faster, and one that is static."""
    start = np.array([[8, 15], [8, 45], [40, 30]], np.float32)[:, None]
    steps = np.array([[1.5, 0], [3, 0], [0, 0]])[:, None] * np.arange(length)[:, None]
    made: dict[str, Any] = {
        "frames": np.full((length, HEIGHT, WIDTH, 3), 100, np.uint8),
        "fps": 10.0,
        "position": (start + steps).astype(np.float32),
        "visible": np.ones((3, length), bool),
        "spread": np.array([2.0, 20.0, 0.0]),
        "reason": ["no candidate", "no candidate", "static"],
        "twin": np.array([-1, -1, -1]),
    }
    return animation.Movie(**made | changes)


def around(picture: Any, x: float, y: float, reach: int = 1) -> Any:
    """Mean colour f64[3] around a point of the clip in a picture of which the frames are 640 px wide."""
    column, row = round((x + 0.5) * 640 / WIDTH - 0.5), round((y + 0.5) * 640 / WIDTH - 0.5)
    return picture[row - reach : row + reach + 1, column - reach : column + reach + 1].reshape(-1, 3).mean(0)


def drawn(frames: animation.Movie) -> list[Any]:
    """All its pictures, as large as in an MP4."""
    return list(animation.draw(frames, 640))


def same(a: Any, b: Any, within: float = 12) -> bool:
    """Whether two colours are nearly alike."""
    return bool(np.abs(np.asarray(a) - b).max() < within)


def test_every_frame_shows_each_patch_at_its_position_in_the_colour_of_its_spread() -> None:
    shown = movie()
    pictures = drawn(shown)
    assert len(pictures) == T
    assert {picture.shape for picture in pictures} == {(480 + animation.STRIP, 640, 3)}
    for t, picture in enumerate(pictures):
        assert same(around(picture, *shown.position[0, t]), PURPLE)
        assert same(around(picture, *shown.position[1, t]), YELLOW)


def test_a_trail_covers_the_last_frames_and_no_more() -> None:
    shown = movie(40, position=movie(40).position * [0.6, 1], twin=np.array([-1, -1, -1]))
    picture, plain = drawn(shown)[39], 100 * 0.55 + 114
    row = shown.position[1, 0, 1]
    assert same(around(picture, shown.position[1, 39 - animation.TRAIL + 1, 0], row, 0), YELLOW)
    assert same(around(picture, shown.position[1, 39 - animation.TRAIL - 1, 0], row), plain)


def test_a_hidden_patch_is_hollow_and_is_not_drawn_after_it_was_last_visible() -> None:
    visible = np.ones((3, T), bool)
    visible[0, 5:9] = visible[1, 5:] = False
    shown = movie(visible=visible)
    pictures = drawn(shown)
    at = shown.position[0]
    assert [same(around(pictures[t], *at[t]), CREAM, 25) for t in (4, 5, 8, 9)] == [False, True, True, False]
    assert same(around(pictures[4], *shown.position[1, 4]), YELLOW)
    assert not any(same(around(pictures[t], *shown.position[1, t]), YELLOW, 60) for t in range(5, T))


@pytest.mark.parametrize("twin", [[1, 0, -1], [1, -1, -1], [-1, 0, -1]], ids=["mutual", "one way", "the other way"])
def test_a_line_joins_a_patch_to_its_twin(twin: list[int]) -> None:
    without, joined = drawn(movie()), drawn(movie(twin=np.array(twin)))
    middle = movie().position[:2, 3].mean(0)
    assert same(around(without[3], *middle, 0), 100 * 0.55 + 114)
    assert around(joined[3], *middle, 2).mean() < around(without[3], *middle, 2).mean() - 5


def test_no_line_leads_to_a_twin_that_is_not_drawn() -> None:
    visible = np.ones((3, T), bool)
    visible[1, 5:] = False
    alone, joined = (drawn(movie(visible=visible, twin=np.array(twin))) for twin in ([-1] * 3, [1, 0, -1]))
    assert (alone[4] != joined[4])[:480].any()
    np.testing.assert_array_equal(alone[5][:480], joined[5][:480])


def test_the_frame_number_is_written_below_the_frame() -> None:
    strips = np.stack(drawn(movie()))[:, 480:]
    changed = (strips != strips[0]).any((0, 1, 3))
    assert changed.any()
    assert not changed[animation.COUNTER :].any(), "nothing else changes"
    assert len({strip.tobytes() for strip in strips}) == T


@pytest.mark.parametrize(("height", "width"), [(480, 854), (853, 480), (61, 81), (1080, 1920), (40, 640)])
@pytest.mark.parametrize("longest", animation.LONGER_SIDE.values())
def test_pictures_of_clips_of_any_shape_have_even_sides_and_room_for_the_strip(
    height: int, width: int, longest: int
) -> None:
    shown = movie(3, frames=np.zeros((3, height, width, 3), np.uint8))
    rows, columns, _ = next(animation.draw(shown, longest)).shape
    assert rows % 2 == columns % 2 == 0
    assert columns == max(480, round(longest * min(width / height, 1)))
    assert abs((rows - animation.STRIP) - longest * min(height / width, 1)) <= 1


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".GIF"])
def test_a_file_decodes_to_the_pictures_at_the_clips_frame_rate(suffix: str, tmp_path: Path) -> None:
    shown = movie(6)
    path = animation.save(shown, tmp_path / "new" / f"tracks{suffix}")
    expected = np.stack(list(animation.draw(shown, animation.LONGER_SIDE[suffix.lower()])))
    decoded = clips.read_clip(path)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(float) - expected).mean() < 4
    assert shots.scan(path).fps == pytest.approx(10, rel=0.02)


def test_a_gif_has_one_palette_that_holds_the_colours_of_the_tracks_and_loops_forever(tmp_path: Path) -> None:
    path = animation.save(movie(5), tmp_path / "tracks.gif")
    with Image.open(path) as image:
        assert image.n_frames == 5
        assert image.info["loop"] == 0
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for wanted in (PURPLE, YELLOW):
        assert np.abs(colours - wanted).max(1).min() < 4


@pytest.mark.parametrize(("fps", "milliseconds"), [(0.0, 70), (60.0, 70), (8.0, 120)])
def test_a_clip_of_unknown_or_high_frame_rate_is_shown_at_fifteen_a_second(
    fps: float, milliseconds: int, tmp_path: Path
) -> None:
    with Image.open(animation.save(movie(3, fps=fps), tmp_path / "tracks.gif")) as image:
        assert image.info["duration"] == pytest.approx(milliseconds, abs=10)  # a GIF counts hundredths of a second


def test_a_window_without_motion_or_without_known_positions_can_be_animated() -> None:
    still = movie(3, spread=np.full(3, np.nan), reason=["lost"] * 3, position=np.full((3, 3, 2), np.nan))
    nobody = {"position": np.zeros((0, 3, 2)), "visible": np.zeros((0, 3), bool), "spread": np.zeros(0)}
    none = movie(3, reason=[], twin=np.zeros(0, int), **nobody)
    for shown in (still, none):
        assert len(drawn(shown)) == 3


def test_positions_far_outside_the_picture_change_nothing() -> None:
    position = movie(4).position
    position[0] = 1e30
    pictures = drawn(movie(4, position=position, twin=np.array([-1, -1, -1])))
    assert same(pictures[3][:200, 320:].mean((0, 1)), 100 * 0.55 + 114, 4)


@pytest.mark.parametrize("name", ["tracks.webm", "tracks", "tracks.gif.zip"])
def test_another_suffix_is_refused_with_the_two_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.gif nor an \.mp4"):
        animation.checked(Path(name))
    with pytest.raises(UsageError, match=name):
        animation.save(movie(3), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_an_unwritable_path_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match=f"cannot write the animation .*tracks{suffix}"):
        animation.save(movie(3), tmp_path / "file" / f"tracks{suffix}")


def test_without_a_codec_the_error_suggests_a_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = cv2.utils.logging.getLogLevel()
    monkeypatch.setattr(animation, "CODECS", ("none",))
    with pytest.raises(StageError, match=r"name a \.gif file"):
        animation.save(movie(3), tmp_path / "tracks.mp4")
    assert cv2.utils.logging.getLogLevel() == level


def test_inspect_animates_the_same_window_that_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8), (96, 64))
    (tmp_path / "clip").mkdir()
    for t in range(12):
        cv2.imwrite(str(tmp_path / "clip" / f"{t}.png"), np.roll(texture, t % 3, axis=1))
    monkeypatch.chdir(tmp_path)
    settings = ("extract.window=5", "extract.spacing=16", "extract.patch_size=16", "score.surrogates=0")
    monkeypatch.setattr(
        "sys.argv",
        ["infoaug", "inspect", "clip", "--window", "1", "--out", "out", "--animate", "moving/tracks.gif"]
        + [word for setting in settings for word in ("--set", setting)],
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines()[-2] == "moving/tracks.gif"
    assert len(clips.read_clip("moving/tracks.gif")) == 5
    assert (tmp_path / "out" / "clip-1-tracks.png").exists()


def test_inspect_refuses_another_suffix_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["infoaug", "inspect", "missing.mp4", "--animate", "tracks.avi"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "tracks.avi" in capsys.readouterr().err
