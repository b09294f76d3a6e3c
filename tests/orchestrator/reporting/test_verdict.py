"""A verdict states a difference only where it is shown, and says what is not tested."""

import pytest

from infoaug.orchestrator.reporting.statistics import Summary
from infoaug.orchestrator.reporting.verdict import Finding, Outcome, sentence

NONE, RANDOM = "no twins", "random twins"


def finding(mean: float, shown: bool | None, reference: str = NONE, on: str = "accuracy on a") -> Finding:
    """A made-up difference over three seeds."""
    return Finding(on, reference, Summary(mean, 0.286, 3), shown, ["p = .5"])


@pytest.mark.parametrize(
    ("findings", "told"),
    [
        ([finding(0.02, True)], "the twin raises accuracy on a compared with no twins (+2.0 ± 28.6 points, p = .5)"),
        ([finding(-0.02, True)], "the twin lowers accuracy on a compared with no twins (−2.0 ± 28.6 points, p = .5)"),
        ([finding(-0.005, False)],
         "no difference in accuracy on a is shown between the twin and no twins (−0.5 ± 28.6 points, p = .5)"),
        ([finding(0.02, None)],
         "whether the twin changes accuracy on a was not tested against no twins (+2.0 ± 28.6 points, p = .5)"),
        ([finding(0.01, False, RANDOM), finding(0.02, True)],  # what is shown comes first
         "the twin raises accuracy on a compared with no twins (+2.0 ± 28.6 points, p = .5); no difference in accuracy "
         "on a is shown between the twin and random twins (+1.0 ± 28.6 points, p = .5)"),
        ([finding(0.01, False), finding(0.02, False, RANDOM)],  # of one outcome and measure, together
         "no difference in accuracy on a is shown between the twin and no twins (+1.0 ± 28.6 points, p = .5) or random "
         "twins (+2.0 ± 28.6 points, p = .5)"),
        ([finding(0.01, True), finding(0.02, True, on="accuracy on b")],
         "the twin raises accuracy on a compared with no twins (+1.0 ± 28.6 points, p = .5); the twin raises accuracy "
         "on b compared with no twins (+2.0 ± 28.6 points, p = .5)"),
        ([], "no verdict on the twin: there is nothing to compare it with"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_is_shown_and_what_is_not(findings: list[Finding], told: str) -> None:
    assert sentence("the twin", findings) == f"{told[0].upper()}{told[1:]}."
    whole = sentence("the twin", findings, "over 3 seeds", "2 of 9 trials failed")
    assert whole == f"Over 3 seeds, {told} (2 of 9 trials failed)."


def test_a_difference_of_one_seed_is_told_with_the_interval_over_test_images() -> None:
    one = Finding("accuracy on a", NONE, Summary(0.02, None, 1, (-0.023, 0.063)), False, ["300 test images"])
    assert one.outcome is Outcome.NOT_SHOWN
    assert one.numbers == "+2.0 points, −2.3 to +6.3, 300 test images"
