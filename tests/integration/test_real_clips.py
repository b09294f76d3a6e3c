"""The stages on real video, where it is at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infoaug.estimators.video import clips, shots
from infoaug.orchestrator.config import load
from infoaug.orchestrator.reporting import inspection


@pytest.mark.parametrize("name", ["clips/vtest.avi", "davis/JPEGImages/dog"])
def test_a_real_clip_gives_tracks_and_twins_and_their_pictures(
    name: str, test_data: Callable[[str], Path], tmp_path: Path
) -> None:
    inspected = inspection.inspect_window(str(test_data(name)), 0, load(None))
    assert inspected.reasons["twin"] > 0
    assert inspected.reasons["lost"] < sum(inspected.reasons.values())
    paths = inspection.save(inspection.draw(inspected), tmp_path, "window")
    assert [path.stat().st_size > 2000 for path in paths] == [True] * 4


def test_windows_read_by_seeking_equal_those_read_in_one_pass(test_data: Callable[[str], Path]) -> None:
    path = test_data("clips/one-by-one-person-detection.mp4")
    with clips.Reader(path) as reader:
        late = reader.read(900, 3)
        early = reader.read(10, 3)
    np.testing.assert_array_equal(clips.read_clip(path)[900:903], late)
    np.testing.assert_array_equal(clips.read_clip(path, 10, 3), early)


def test_single_shot_clips_have_no_cut_and_the_header_is_not_believed(test_data: Callable[[str], Path]) -> None:
    scan = shots.scan(test_data("clips/box.mp4"))
    assert (scan.frames, scan.cuts) == (455, [])  # the header says 456
