"""The time of an estimate is measured for every estimator and length, and leaves no setting changed."""

import numba
import pytest

from infoaug.orchestrator.comparison import estimation_time


def test_every_estimator_is_timed_at_every_length() -> None:
    before = numba.get_num_threads()
    rows = estimation_time.estimation_times((16, 32), pairs=10, npeet_pairs=2, repeats=1)
    assert {(row["estimator"], row["observations"], row["pairs"]) for row in rows} == {
        (estimator, length, 2 if estimator == "npeet" else 10)
        for estimator in ("ksg", "3kl", "npeet")
        for length in (16, 32)
    }
    assert all(row["ms_per_pair"] > 0 and row["machine"] for row in rows)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"lengths": (4,)}, {"pairs": 0}, {"npeet_pairs": 0}, {"repeats": 0}])
def test_what_cannot_be_timed_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 5"):
        estimation_time.estimation_times(**wrong)  # type: ignore[arg-type]
