"""The windows of a ledger: columns that are read as the tuples that they stand for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.orchestrator.runtime.store import digest_of, digest_of_list
from infoaug.orchestrator.stages import windows
from infoaug.orchestrator.stages.windows import Windows

CLIPS = st.lists(st.lists(st.integers(0, 99), unique=True, max_size=4), max_size=5)


def ledger(numbers: list[list[int]]) -> pa.Table:
    names = [f"clip-{n}" for n in range(len(numbers))]
    lists = pa.array(numbers, pa.list_(pa.int32()))
    return pa.table(
        {"clip_id": pa.array([f"{name}.mp4" for name in names], pa.string()), "windows": lists}
    ).append_column("folder", pa.array(names, pa.string()))


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 20_000])
def test_a_long_list_has_the_digest_of_the_list(count: int) -> None:
    values = [[f'clip "{n}" ä', n] for n in range(count)]
    assert digest_of_list(iter(values)) == digest_of(values)


@settings(max_examples=30)
@given(CLIPS)
def test_windows_are_those_of_the_ledger_in_its_order(numbers: list[list[int]]) -> None:
    expected = [(f"clip-{n}.mp4", f"clip-{n}", window) for n, own in enumerate(numbers) for window in own]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_AT_ONCE", 3)
        found = Windows.of(ledger(numbers))
        assert [*found] == [found[row] for row in range(len(found))] == expected
        assert [*found[1:4]] == expected[1:4]
        assert [*found[np.arange(len(found))[::-1]]] == expected[::-1]
        assert found.digest == digest_of([[folder, window] for _, folder, window in expected])


@settings(max_examples=30)
@given(CLIPS, st.data())
def test_each_window_finds_its_row_in_another_table(numbers: list[list[int]], data: st.DataObject) -> None:
    found = Windows.of(ledger(numbers))
    known = [(folder, window) for _, folder, window in found] + [("gone", 0), ("clip-0", 100)]
    kept = data.draw(st.lists(st.sampled_from(known), unique=True))
    table = pa.table(
        {"folder": pa.array([f for f, _ in kept], pa.string()), "window": pa.array([w for _, w in kept], pa.int32())}
    )
    place = {unit: row for row, unit in enumerate(kept)}
    assert found.rows_of(table).tolist() == [place.get((folder, window), -1) for _, folder, window in found]
