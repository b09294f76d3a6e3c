import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infoaug.models.decorrelation import cross_correlation, variance_covariance

WORLD, ROWS, WIDTH = 2, 6, 4
MASKS = {
    "none": None,
    "unequal": torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool),
    "one rank empty": torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool),
    "one row": torch.tensor([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.bool),
    "nothing": torch.zeros(WORLD * ROWS, dtype=torch.bool),
}


def barlow(first: torch.Tensor, second: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    return cross_correlation(first, second, off_diagonal=0.1, valid=valid)


def vicreg(first: torch.Tensor, second: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    terms = variance_covariance(first, second, valid=valid)
    return 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]


def embeddings(rows: int = WORLD * ROWS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    first, other = torch.randn(2, rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return first, first + 0.5 * other


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.5, 1e3), shift=st.floats(-1e3, 1e3))
def test_a_correlation_does_not_see_scale_shift_or_order(seed, scale, shift):
    first, second = embeddings(seed=seed)
    moved = barlow(first.flip(0) * scale + shift, second.flip(0))
    torch.testing.assert_close(moved, barlow(first, second), rtol=1e-3, atol=1e-4)


def test_whitened_embeddings_that_agree_cost_nothing():
    white = math.sqrt(2) * torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
    white = white * math.sqrt(WIDTH / 2)  # variance 1 in every dimension
    assert barlow(white, white).item() == pytest.approx(0, abs=1e-9)
    terms = variance_covariance(white, white)
    assert [terms[name].item() for name in ("invariance", "variance", "covariance")] == [0, 0, 0]


def test_collapsed_embeddings_cost_what_they_lack_and_have_finite_gradients():
    same = torch.ones(8, WIDTH, requires_grad=True)
    loss = barlow(same, same)
    assert loss.item() == pytest.approx(WIDTH)
    terms = variance_covariance(same, same)
    assert terms["variance"].item() == pytest.approx(1 - 0.01) and terms["covariance"].item() == 0
    (loss + terms["variance"]).backward()
    assert same.grad.isfinite().all()


def test_a_shift_between_the_sides_is_a_difference_and_no_variance():
    first, _ = embeddings()
    plain, moved = variance_covariance(first, first), variance_covariance(first, first + 3)
    assert moved["invariance"].item() == pytest.approx(9)
    for name in ("variance", "covariance"):
        torch.testing.assert_close(moved[name], plain[name])


@pytest.mark.parametrize("loss", [barlow, vicreg])
@pytest.mark.parametrize("junk", [0.0, 1e30, math.nan, math.inf])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(loss, junk):
    first, second = embeddings()
    valid = MASKS["unequal"]
    alone = loss(first[valid], second[valid])
    first[~valid], second[~valid] = junk, junk
    first.requires_grad_()
    masked = loss(first, second, valid)
    torch.testing.assert_close(masked, alone)
    (gradient,) = torch.autograd.grad(masked, first)
    assert gradient.isfinite().all() and not gradient[~valid].any()


@pytest.mark.parametrize("loss", [barlow, vicreg])
def test_gradients_agree_with_finite_differences(loss):
    first, second = (part.requires_grad_() for part in embeddings(5))
    valid = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, valid), (first, second))


def test_fewer_than_two_rows_have_no_moments():
    first, second = (part.requires_grad_() for part in embeddings())
    assert barlow(first, second, MASKS["one row"]).item() == 0
    terms = variance_covariance(first, second, valid=MASKS["one row"])
    assert terms["variance"].item() == 0 == terms["covariance"].item()
    expected = (first[3] - second[3]).square().mean()
    torch.testing.assert_close(terms["invariance"], expected)
    for loss in (barlow, vicreg):
        gradients = torch.autograd.grad(loss(first, second, MASKS["nothing"]), (first, second))
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("loss", [barlow, vicreg])
def test_it_is_computed_in_float32_under_autocast_and_from_bfloat16(loss):
    first, second = (part.float() for part in embeddings())
    exact = loss(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(first, second), exact)
    first, second = first.bfloat16(), second.bfloat16()
    assert loss(first, second).dtype == torch.float32
    assert torch.equal(loss(first, second), loss(first.float(), second.float()))


def tiny_net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, 3).double()


def gradient_on_rank(rank: int) -> dict:
    """Runs in a process of its own: loss and gradients of this rank's half of the batch, averaged as DDP does."""
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    results = {}
    for kind, loss in (("barlow", barlow), ("vicreg", vicreg)):
        for name, mask in MASKS.items():
            net = tiny_net()
            value = loss(*(net(part[own]) for part in embeddings()), None if mask is None else mask[own])
            value.backward()
            results[kind, name] = [value.detach().clone(), net.weight.grad, net.bias.grad]
            for part in results[kind, name]:
                dist.all_reduce(part)
                part /= WORLD
    return results


def test_two_ranks_have_the_gradient_of_one_process_on_the_global_batch(two_ranks):
    results = two_ranks(gradient_on_rank)[0]
    for kind, loss in (("barlow", barlow), ("vicreg", vicreg)):
        for name, mask in MASKS.items():
            net = tiny_net()
            value = loss(*(net(part) for part in embeddings()), mask)
            value.backward()
            for got, expected in zip(results[kind, name], (value, net.weight.grad, net.bias.grad), strict=True):
                torch.testing.assert_close(got, expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [barlow, vicreg])
def test_wrong_input_is_refused(loss):
    with pytest.raises(ValueError, match="same shape"):
        loss(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="bool"):
        loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4))
