"""What numbers bear, in one sentence: a difference is stated as one only where its test or its interval shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from infoaug.orchestrator.reporting.statistics import Summary, points


class Outcome(Enum):
    """What is known of a difference, in the order in which a verdict says it."""

    BETTER = "raises"
    WORSE = "lowers"
    NOT_SHOWN = "no difference shown"
    UNTESTED = "not tested"


@dataclass(frozen=True)
class Finding:
    """A difference between two conditions, and whether it is shown.

    Attributes:
        measured: by which metric, on which data: `linear probe accuracy on cifar10`.
        reference: what is compared with: `no twins`.
        difference: treatment − reference, a difference of shares; the larger, the better.
        shown: whether it differs from 0; None where that cannot be tested.
        details: what the reader needs beside the difference: its p-value, numbers of seeds or images.
    """

    measured: str
    reference: str
    difference: Summary
    shown: bool | None
    details: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """What is known of the difference."""
        if self.shown is None:
            return Outcome.UNTESTED
        if not self.shown:
            return Outcome.NOT_SHOWN
        return Outcome.BETTER if self.difference.mean > 0 else Outcome.WORSE

    @property
    def numbers(self) -> str:
        """The difference in percentage points with its details."""
        return ", ".join([points(self.difference, "points"), *self.details])


def sentence(subject: str, findings: Sequence[Finding], scope: str = "", missing: str = "") -> str:
    """The verdict on a treatment in one sentence, in which findings of one outcome and measure stand together.

    Args:
        subject: the treatment: `the MI twin`.
        findings: its differences, the most important one first.
        scope: what they are of, before the verdict: `over 3 seeds`.
        missing: what is missing from the numbers, behind it: `2 of 9 trials failed`.
    """
    groups: dict[tuple[Outcome, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: [*Outcome].index(finding.outcome)):
        groups.setdefault((finding.outcome, finding.measured), []).append(finding)
    clauses = [_clause(subject, outcome, measured, group) for (outcome, measured), group in groups.items()]
    told = "; ".join(clauses) or f"no verdict on {subject}: there is nothing to compare it with"
    told = f"{scope}, {told}" if scope else told
    return f"{told[0].upper()}{told[1:]}{f' ({missing})' if missing else ''}."


def _clause(subject: str, outcome: Outcome, measured: str, group: Sequence[Finding]) -> str:
    references = [f"{each.reference} ({each.numbers})" for each in group]
    match outcome:
        case Outcome.NOT_SHOWN:
            return f"no difference in {measured} is shown between {subject} and {' or '.join(references)}"
        case Outcome.UNTESTED:
            return f"whether {subject} changes {measured} was not tested against {' and '.join(references)}"
        case _:
            return f"{subject} {outcome.value} {measured} compared with {' and '.join(references)}"
