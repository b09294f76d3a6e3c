"""The explorer of a window: what the page holds, and what it does in a browser."""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infoaug.estimators.information import twins
from infoaug.orchestrator.config import load
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.reporting import explorer
from infoaug.orchestrator.reporting.inspection import Window
from infoaug.orchestrator.stages.twin_table import ScoredWindow
from tests.browser import Browser, found

T, HEIGHT, WIDTH = 12, 120, 160
# Two pairs of twins, 0–1 and 2–3, of which the second is weaker and has little texture; 4 moves alone, 5 is static.
PAIRS = {(0, 1): 1.5, (2, 3): 0.5}
START = np.array([[20, 20], [140, 20], [20, 100], [140, 100], [80, 60], [80, 100]], float)


def window(clip: str = "street.mp4", tested: bool = True) -> Window:
    """A made-up window in which all patches but the last go 2 pixels to the right in each frame."""
    rng, count = np.random.default_rng(0), len(START)
    mi = np.full((count, count), 0.03)
    for (a, b), value in PAIRS.items():
        mi[a, b] = mi[b, a] = value
    mi[5] = mi[:, 5] = mi[np.arange(count), np.arange(count)] = np.nan
    p = np.where(mi > 0.1, 1e-4, 0.7) if tested else None
    excluded = [""] * 5 + ["static"]
    chosen = twins.find_twins(mi, p_values=p, position=START, excluded=excluded, mutual=1)
    position = np.repeat(START[:, None], T, axis=1)
    position[:5, :, 0] += 2 * np.arange(T)
    visible = np.ones((count, T), bool)
    visible[4, 6:] = False
    frames = rng.integers(0, 255, (T, HEIGHT, WIDTH, 3), np.uint8)
    one = np.ones(count)
    scored = ScoredWindow(mi, p, mi, mi, position, 3 * one, one, 0 * one, chosen)
    texture = np.array([50, 50, 3, 50, 50, 50], np.float32)
    crops, at = np.zeros((count, 8, 8, 3), np.uint8), np.zeros((count, 1), np.int32)
    paths = (position.astype(np.float32), visible, position.astype(np.float32))
    config = load(None, ["extract.patch_size=16"])
    return Window(clip, 3, config, frames, 10.0, 144, *paths, crops, at, texture, scored)


def content(page: str) -> dict[str, Any]:
    """What a page gives to its script."""
    (packed,) = re.findall(r'<script id="data" type="application/octet-stream">([^<]*)</script>', page)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_a_page_holds_the_tracks_the_matrix_and_the_twins() -> None:
    made = window()
    held = content(explorer.page(made))
    x = np.cumsum(held["x"], axis=1) / held["step"]
    np.testing.assert_allclose(x, made.position[..., 0], atol=0.5 / held["step"])
    assert held["state"][4] == "111111000000"
    assert held["twin"] == [1, 0, 3, 2, -1, -1]
    assert held["reason"][4:] == ["not significant", "static"]
    assert held["estimated"] == [0, 1, 2, 3, 4]
    upper = np.array(held["matrix"]["mi"]) / held["miStep"]
    np.testing.assert_allclose(upper, [1.5, *[0.03] * 6, 0.5, *[0.03] * 2])
    assert 10 ** (-held["matrix"]["p"][0] / held["decade"]) == pytest.approx(1e-4, rel=0.03)
    assert held["partners"][2][0] == [3, 0.5, 0.5, 1e-4, 120, 1]
    assert held["doubt"] == ["", "", *["one of the two has little texture"] * 2, "", ""]
    assert held["tested"]
    assert not content(explorer.page(window(tested=False)))["tested"]


def test_a_matrix_too_large_for_a_page_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_COMPARED", 4)
    held = content(explorer.page(window()))
    assert held["matrix"] is None and held["partners"][0][0][0] == 1


def test_a_page_fetches_nothing_and_runs_no_script_of_a_clips_name() -> None:
    page = explorer.page(window("</title><script>alert(1)</script>.mp4"))
    assert page.count("<script") == 2 and "alert(1)</script>" not in page
    assert "default-src 'none'" in page and "script-src 'sha256-" in page
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)""", page)


def test_frames_are_smaller_the_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "FRAME_BYTES", 40_000)
    frames = np.random.default_rng(0).integers(0, 255, (24, 6, 8, 3), np.uint8).repeat(60, 1).repeat(60, 2)
    found = {count: explorer._frames(frames[:count]) for count in (4, 24)}
    assert all(0.75 * sum(map(len, urls)) < 1.1 * 40_000 for urls, _ in found.values())
    assert found[4][1][0] > found[24][1][0] and all(4 * height == 3 * width for _, (width, height) in found.values())


def test_a_page_that_cannot_be_written_ends_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StageError, match="cannot write the page"):
        explorer.save(window(), tmp_path / "file" / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = found()
    if program is None:
        pytest.skip("no Chromium on this machine")
    shown = Browser(program, tmp_path_factory.mktemp("profile"))
    yield shown
    shown.close()


def at(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """A point of the clip, in pixels of the browser's window."""
    left, top, width = box(browser, "view")
    return left + (x + 0.5) * width / WIDTH, top + (y + 0.5) * width / WIDTH


def box(browser: Browser, name: str) -> list[float]:
    """Left, top and width of an element, which is scrolled into the browser's window."""
    return browser.value(
        f"it = document.getElementById('{name}'); it.scrollIntoView({{block: 'nearest'}}); "
        "rectangle = it.getBoundingClientRect(); [rectangle.left, rectangle.top, rectangle.width]"
    )


def text(browser: Browser, name: str) -> str:
    """What an element shows."""
    return str(browser.value(f"document.getElementById('{name}').innerText"))


@pytest.mark.parametrize("dark", [False, True])
def test_patches_are_pointed_at_filtered_and_stepped_through(browser: Browser, tmp_path: Path, dark: bool) -> None:
    page = explorer.save(window(), tmp_path / "page.html")
    browser.open(page, width=390 if dark else 1280, dark=dark)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    assert "Twin: patch 1" in text(browser, "about"), "the strongest twin at first"
    assert "MI" in text(browser, "partners") and "1·10⁻⁴" in text(browser, "partners")

    browser.mouse(*at(browser, 20, 100))
    assert "Twin: patch 3, 0.50 nats" in text(browser, "about") and "little texture" in text(browser, "about")
    browser.mouse(*at(browser, 80, 100))
    assert "No twin: static" in text(browser, "about") and "not compared" in text(browser, "bar")
    browser.mouse(*at(browser, 20, 100), "click")
    browser.mouse(*at(browser, 60, 5))
    assert "Twin: patch 3" in text(browser, "about"), "a patch that was clicked stays"

    left, top, width = box(browser, "row")
    browser.mouse(left + 0.7 * width, top + 20)  # the fourth of five bars
    assert "Patch 2 with 3: MI 0.50, p 1·10⁻⁴, significant." in text(browser, "bar")
    assert "patch 3: MI 0.50" in text(browser, "tip")

    browser.value("document.getElementById('picture').focus()")
    for _ in range(5):
        browser.key("ArrowRight")
    assert text(browser, "clock") == "frame 6/12"
    browser.mouse(*at(browser, 30, 20))
    assert "Twin: patch 1" in text(browser, "about"), "patch 0 has moved by 10 pixels"
    browser.mouse(*at(browser, 60, 5))
    browser.key("t")
    assert "Twin: patch 2" in text(browser, "about")
    browser.key("ArrowDown")
    assert "No twin" in text(browser, "about") and "No twin: static" not in text(browser, "about"), "patch 4"

    browser.value("least = document.getElementById('least'); least.value = 50; least.dispatchEvent(new Event('input'))")
    assert text(browser, "level") == "0.75 nats: 2 of 4"
    browser.value("document.querySelector('#reasons input[value=static]').click()")
    for hidden in ((30, 100), (80, 100)):
        browser.mouse(*at(browser, *hidden))
        assert "No twin: no significant pair" in text(browser, "about"), "hidden patches are not pointed at"
    assert browser.faults == []
