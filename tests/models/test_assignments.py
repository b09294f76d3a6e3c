import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.models.assignments import sinkhorn, soft_cross_entropy

WORLD, ROWS, PROTOTYPES = 2, 5, 4
MASKS = {
    "none": None,
    "unequal": torch.tensor([1, 1, 0, 1, 1, 0, 0, 1, 0, 0], dtype=torch.bool),
    "one rank empty": torch.tensor([1, 1, 0, 1, 1, 0, 0, 0, 0, 0], dtype=torch.bool),
    "nothing": torch.zeros(WORLD * ROWS, dtype=torch.bool),
}


def cosines(rows: int = WORLD * ROWS, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, PROTOTYPES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50))
def test_in_the_end_rows_are_whole_and_prototypes_are_used_alike_whatever_is_added_to_all(seed, shift):
    codes = sinkhorn(cosines(seed=seed), epsilon=0.5, iterations=200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(WORLD * ROWS, dtype=torch.float64))
    used = torch.full((PROTOTYPES,), WORLD * ROWS / PROTOTYPES, dtype=torch.float64)
    torch.testing.assert_close(codes.sum(dim=0), used, rtol=1e-3, atol=0)
    torch.testing.assert_close(sinkhorn(cosines(seed=seed) + shift, epsilon=0.5, iterations=200), codes)


def test_rows_that_do_not_count_have_no_say_in_the_others():
    scores, valid = cosines(), MASKS["unequal"]
    alone = sinkhorn(scores[valid], epsilon=0.05, iterations=3)
    scores[~valid] = 1e6
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.05, iterations=3, valid=valid)[valid], alone)
    assert sinkhorn(scores, epsilon=0.05, iterations=3, valid=MASKS["nothing"]).isfinite().all()


def test_a_small_epsilon_gives_hard_codes_in_float32_under_autocast():
    scores = torch.eye(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sinkhorn(scores.bfloat16(), epsilon=1e-3, iterations=3)
    assert codes.dtype == torch.float32 and torch.equal(codes, torch.eye(4))


def test_the_cross_entropy_is_that_of_the_rows_that_count():
    logits, target, valid = cosines(), cosines(seed=1).softmax(dim=1), MASKS["unequal"]
    rows = [
        -sum(t * math.log(math.exp(s) / sum(map(math.exp, row))) for t, s in zip(codes, row, strict=True))
        for row, codes, counts in zip(logits.tolist(), target.tolist(), valid.tolist(), strict=True)
        if counts
    ]
    logits[~valid] = math.nan
    logits.requires_grad_()
    loss = soft_cross_entropy(logits, target, valid=valid)
    assert loss.item() == pytest.approx(sum(rows) / len(rows), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and not gradient[~valid].any()
    assert soft_cross_entropy(logits, target, valid=MASKS["nothing"]).item() == 0


def on_rank(rank: int) -> dict:
    """Runs in a process of its own."""
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    return {
        name: sinkhorn(cosines()[own], epsilon=0.05, iterations=3, valid=None if mask is None else mask[own])
        for name, mask in MASKS.items()
    }


def test_two_ranks_assign_as_one_process_with_the_global_batch(two_ranks):
    ranks = two_ranks(on_rank)
    for name, mask in MASKS.items():
        expected = sinkhorn(cosines(), epsilon=0.05, iterations=3, valid=mask)
        torch.testing.assert_close(torch.cat([found[name] for found in ranks]), expected)


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"iterations": 0}])
def test_settings_that_give_no_assignment_are_refused(wrong):
    with pytest.raises(ValueError, match="sinkhorn"):
        sinkhorn(cosines(), **({"epsilon": 0.05, "iterations": 3} | wrong))


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        soft_cross_entropy(cosines(), cosines()[:, :2])
