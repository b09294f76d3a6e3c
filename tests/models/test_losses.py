import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infoaug.models import losses
from infoaug.models.losses import cosine_distance, info_nce
from infoaug.models.negatives import Negatives

WORLD, ROWS, WIDTH = 2, 6, 5
# Rank 0 counts five rows, rank 1 only two; then one rank with none at all.
MASKS = {
    "none": None,
    "unequal": torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool),
    "one rank empty": torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool),
    "nothing": torch.zeros(WORLD * ROWS, dtype=torch.bool),
}


def embeddings(rows: int, width: int = WIDTH, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return first, second


def nt_xent(first: torch.Tensor, second: torch.Tensor, **settings) -> torch.Tensor:
    return losses.nt_xent(first, second, **settings)["loss"]


def literal(first: torch.Tensor, second: torch.Tensor, temperature: float, valid: torch.Tensor) -> float:
    """Equation 1 of Chen et al. (2020), number by number, with 2k−1 and 2k as the places of a pair."""
    z = []
    for a, b, counts in zip(first.tolist(), second.tolist(), valid.tolist(), strict=True):
        if counts:
            z += [a, b]

    def sim(u: list[float], v: list[float]) -> float:
        return sum(p * q for p, q in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))

    def pair(i: int, j: int) -> float:
        below = sum(math.exp(sim(z[i], z[k]) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(sim(z[i], z[j]) / temperature) / below)

    return sum(pair(k, k + 1) + pair(k + 1, k) for k in range(0, len(z), 2)) / len(z)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("mask", ["none", "unequal"])
def test_it_is_the_papers_equation_written_out(temperature, mask):
    first, second = embeddings(WORLD * ROWS)
    valid = MASKS[mask]
    expected = literal(first, second, temperature, torch.ones(len(first)) if valid is None else valid)
    assert nt_xent(first, second, temperature=temperature, valid=valid).item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 8), scale=st.floats(1e-3, 1e3))
def test_order_swap_and_length_of_the_embeddings_do_not_matter(seed, rows, scale):
    first, second = embeddings(rows, seed=seed)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    loss = nt_xent(first, second, temperature=0.5)
    torch.testing.assert_close(nt_xent(second[order], first[order], temperature=0.5), loss)
    torch.testing.assert_close(nt_xent(first * scale, second, temperature=0.5), loss)


@pytest.mark.parametrize("junk", [0.0, 1e30, math.nan, math.inf])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(junk):
    first, second = embeddings(7)
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    kept = [first[valid].clone().requires_grad_(), second[valid].clone().requires_grad_()]
    alone = nt_xent(*kept, temperature=0.2)
    alone.backward()
    first[~valid], second[~valid] = junk, junk
    first.requires_grad_(), second.requires_grad_()
    masked = nt_xent(first, second, temperature=0.2, valid=valid)
    masked.backward()
    torch.testing.assert_close(masked, alone)
    for full, part in ((first, kept[0]), (second, kept[1])):
        torch.testing.assert_close(full.grad[valid], part.grad)
        assert torch.equal(full.grad[~valid], torch.zeros_like(full.grad[~valid]))


def test_with_no_row_that_counts_it_is_a_zero_with_zero_gradients():
    first, second = embeddings(4)
    first.requires_grad_()
    loss = nt_xent(first, second, temperature=0.1, valid=torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and torch.equal(first.grad, torch.zeros_like(first))


def test_a_pair_without_negatives_costs_nothing():
    first, second = embeddings(3)
    assert nt_xent(first[:1], second[:1], temperature=0.5).item() == pytest.approx(0, abs=1e-12)
    one = torch.tensor([False, True, False])
    assert nt_xent(first, second, temperature=0.5, valid=one).item() == pytest.approx(0, abs=1e-12)


def test_gradients_agree_with_finite_differences():
    first, second = (part.requires_grad_() for part in embeddings(4))
    valid = torch.tensor([True, True, False, True])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3, valid=valid), (first, second))


def test_it_is_computed_in_float32_under_autocast_and_from_bfloat16():
    first, second = (part.float() for part in embeddings(8))
    exact = nt_xent(first, second, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(first, second, temperature=0.05), exact)
    rounded = nt_xent(first.bfloat16(), second.bfloat16(), temperature=0.05)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, nt_xent(first.bfloat16().float(), second.bfloat16().float(), temperature=0.05))


def test_without_a_bank_the_other_rows_positives_are_the_negatives():
    anchor, positive = embeddings(6)
    valid = torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool)
    image, twin = torch.tensor([0, 1, 2, 3, 1, 5]), torch.tensor([3, -1, 0, 7, -1, -1])
    unnamed = info_nce(anchor, positive, temperature=0.3, valid=valid)
    names = {"anchor_identity": torch.stack([image, twin], dim=1), "positive_image": image}
    named = info_nce(anchor, positive, temperature=0.3, valid=valid, **names)
    for output, near in ((unnamed, lambda i, k: i == k), (named, lambda i, k: image[k] in (image[i], twin[i]))):
        similarity = (torch.cosine_similarity(anchor[:, None], positive, dim=2) / 0.3).exp()
        expected, bound = [], []
        for i in valid.nonzero().flatten().tolist():
            negatives = [similarity[i, k] for k in valid.nonzero().flatten().tolist() if not near(i, k)]
            expected.append(-(similarity[i, i] / (similarity[i, i] + sum(negatives))).log())
            bound.append(math.log(len(negatives) + 1) - expected[-1])
        torch.testing.assert_close(output["loss"], sum(expected) / 5)
        torch.testing.assert_close(output["mutual_information"], sum(bound) / 5)


def test_the_bound_reaches_the_logarithm_of_the_choices_when_pairs_are_plain_to_see():
    alike = torch.eye(8)
    bound = losses.nt_xent(alike, alike, temperature=0.01)["mutual_information"]
    assert bound.item() == pytest.approx(math.log(15), abs=1e-5)


def test_harder_negatives_give_a_lower_bound():
    first, second = embeddings(40)
    bounds = [
        losses.nt_xent(first, first + second, temperature=0.5, negatives=choice)["mutual_information"].item()
        for choice in (Negatives(), Negatives(kind="ring", inner=0.1, outer=0.3), Negatives(kind="ball", outer=0.2))
    ]
    assert bounds == sorted(bounds, reverse=True)


def test_decoupled_a_pair_without_negatives_does_not_count():
    first, second = (part.requires_grad_() for part in embeddings(3))
    one = torch.tensor([False, True, False])
    loss = nt_xent(first, second, temperature=0.5, valid=one, decoupled=True)
    loss.backward()
    assert loss.item() == 0 and not first.grad.any()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_the_cosine_distance_is_half_the_squared_distance_of_unit_vectors(seed, scale):
    first, second = embeddings(5, seed=seed)
    valid = torch.tensor([True, False, True, True, False])
    units = [part[valid] / part[valid].norm(dim=1, keepdim=True) for part in (first, second)]
    expected = (units[0] - units[1]).square().sum(dim=1).mean() / 2
    first[~valid] = math.nan
    torch.testing.assert_close(cosine_distance(first * scale, second, valid=valid), expected)
    assert cosine_distance(first, second, valid=torch.zeros(5, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": torch.zeros(3, 5)}, r"\[B, D\]"),
        ({"first": torch.zeros(4), "second": torch.zeros(4)}, r"\[B, D\]"),
        ({"first": torch.zeros(0, 5), "second": torch.zeros(0, 5)}, r"\[B, D\]"),
        ({"first": torch.zeros(4, 5, dtype=torch.int64)}, "floating point"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"valid": torch.ones(4)}, "bool"),
        ({"valid": torch.ones(3, dtype=torch.bool)}, "bool"),
    ],
)
def test_wrong_input_is_refused(changes, message):
    arguments = {"first": torch.zeros(4, 5), "second": torch.zeros(4, 5), "temperature": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        nt_xent(**arguments)


def tiny_net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, 4)


def gradient_on_rank(rank: int) -> dict:
    """Runs in a process of its own: loss and gradients of this rank's half of the batch, averaged as DDP does."""
    first, second = (part.float()[rank * ROWS : (rank + 1) * ROWS] for part in embeddings(WORLD * ROWS))
    results = {}
    for name, mask in MASKS.items():
        net = tiny_net()
        valid = None if mask is None else mask[rank * ROWS : (rank + 1) * ROWS]
        loss = nt_xent(*net(torch.cat([first, second])).chunk(2), temperature=0.2, valid=valid)
        loss.backward()
        results[name] = {"loss": loss.detach().clone(), "weight": net.weight.grad, "bias": net.bias.grad}
        for value in results[name].values():
            dist.all_reduce(value)
            value /= WORLD
    return results


def test_two_ranks_have_the_gradient_of_one_process_on_the_global_batch(two_ranks):
    results = two_ranks(gradient_on_rank)[0]
    first, second = (part.float() for part in embeddings(WORLD * ROWS))
    for name, valid in MASKS.items():
        net = tiny_net()
        loss = nt_xent(*net(torch.cat([first, second])).chunk(2), temperature=0.2, valid=valid)
        loss.backward()
        for key, expected in (("loss", loss.detach()), ("weight", net.weight.grad), ("bias", net.bias.grad)):
            difference = (results[name][key] - expected).norm()
            assert difference <= 1e-5 * expected.norm(), (name, key)
        assert (net.weight.grad.norm() > 0) == (name != "nothing")


def tied(rows: slice) -> torch.Tensor:
    """Gradient of embeddings many of which are alike, with some of the negatives that are equally hard left out."""
    first, second = (part[rows].round().requires_grad_() for part in embeddings(WORLD * ROWS, width=2))
    nt_xent(first, second, temperature=0.5, negatives=Negatives(kind="ball", outer=0.4)).backward()
    return torch.stack([first.grad, second.grad])


def tied_on_rank(rank: int) -> torch.Tensor:
    """Runs in a process of its own."""
    return tied(slice(rank * ROWS, (rank + 1) * ROWS)) / WORLD


def test_of_equally_hard_negatives_two_ranks_keep_those_that_one_process_keeps(two_ranks):
    torch.testing.assert_close(torch.cat(two_ranks(tied_on_rank), dim=1), tied(slice(None)))
