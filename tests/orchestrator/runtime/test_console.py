"""Progress of a command."""

from itertools import count

import pytest

from infoaug.orchestrator.runtime import console


def test_progress_by_share_tells_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half was done by an earlier command; the time left is predicted from the speed of this one."""
    seconds = count(0, 20)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))
    with console.rate("embed", "images", begun=0.5) as progress:
        progress(1000, 0.6)
        progress(1500, 0.75)
        progress(2500, 1.0)
    assert [line.rstrip() for line in capsys.readouterr().err.splitlines()] == [
        "embed 60 %  1,000 images  50 images/s  80 s left",
        "embed 75 %  2,500 images  62 images/s  40 s left",
        "embed 100 %  5,000 images  83 images/s  0 s left",
    ]


def test_who_waits_is_told_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 4.0, 11.0, 13.0, 22.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    tick = console.waiting("pretrain: workers start")
    for _ in range(4):
        tick()
    assert capsys.readouterr().err.splitlines() == ["pretrain: workers start, 11 s", "pretrain: workers start, 22 s"]
