"""What the fuzzing tests share: how many examples, bytes that are nearly right, and what counts as one sentence."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Longer than any sentence for people; what a file holds may be quoted in it, but not all of it.
LONGEST_SENTENCE = 2000


# The fast suite tries this share of the examples of `make test-slow`.
FAST_SHARE = 0.3


def examples(full: int, *, of_many: float = 1.0) -> settings:
    """How many examples a test tries; the profile of Hypothesis decides.

    Args:
        full: number with the profile `full`, always the same examples. The default profile tries `FAST_SHARE` of them.
        of_many: share of the number of the profile `long`, whose examples are new in every run.
    """
    profile = settings.get_current_profile_name()
    if profile == "long":
        long = settings.get_profile("long")
        return settings(long, max_examples=max(1, int(long.max_examples * of_many)))
    return settings(
        max_examples=full if profile == "full" else max(1, int(full * FAST_SHARE)),
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


def check_sentence(error: BaseException | str, *named: Any) -> None:
    """It is one printable sentence, not too long, that names these things."""
    text = str(error)
    assert text.strip(), "says nothing"
    assert text.isprintable(), f"not one printable line: {text[:300]!r}"
    assert len(text) <= LONGEST_SENTENCE, f"{len(text)} characters: {text[:300]!r}"
    assert "Traceback" not in text
    for name in named:
        assert os.fspath(name) in text, f"does not name {name}: {text[:300]!r}"


@st.composite
def nearly(draw: Callable[[Any], Any], whole: bytes) -> bytes:
    """These bytes with a few things wrong: flipped, overwritten, cut out, put in, doubled, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "flip", "write", "write", "number", "cut out", "put in", "double", "end"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "write":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif kind == "number":  # as headers hold them: sizes and counts of either byte order
            size = draw(st.sampled_from([2, 4, 8]))
            number = draw(st.sampled_from([0, 1, 2, 3, 7, 64, 255, 1 << 14, (1 << 15) - 1, 1 << 16, (1 << 31) - 1, -1]))
            order: Any = draw(st.sampled_from(["little", "big"]))
            data[at : at + size] = (number % (1 << (8 * size))).to_bytes(size, order)
        elif kind == "cut out":
            del data[at : at + draw(st.integers(1, 4096))]
        elif kind == "put in":
            data[at:at] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "double":
            part = data[at : at + draw(st.integers(1, 512))]
            data[at:at] = part
        elif kind == "end":
            del data[at:]
    return bytes(data)
