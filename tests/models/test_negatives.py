import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.models.negatives import Negatives, keep_negatives, valid_negatives

seeds = st.integers(0, 2**31)


def table(seed: int, anchors: int, candidates: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(anchors, candidates, generator=generator)
    return similarity.round() if ties else similarity, torch.rand(anchors, candidates, generator=generator) < 0.7


def literal(similarity: list[float], admissible: list[bool], inner: float, outer: float) -> list[bool]:
    """One anchor: sort its admissible candidates, hardest first, and cut out a slice."""
    ranked = sorted((c for c, good in enumerate(admissible) if good), key=lambda c: -similarity[c])
    last = max(1, round(outer * len(ranked)))
    kept = ranked[min(round(inner * len(ranked)), last - 1) : last]
    return [c in kept for c in range(len(similarity))]


@settings(max_examples=60)
@given(
    seed=seeds, candidates=st.integers(1, 40), ties=st.booleans(),
    shares=st.sampled_from([(0.0, 0.25), (0.125, 0.5), (0.25, 1.0), (0.0, 1.0)]),
)  # fmt: skip
def test_it_keeps_the_slice_of_the_candidates_sorted_by_similarity(seed, candidates, ties, shares):
    similarity, admissible = table(seed, 5, candidates, ties)
    inner, outer = shares
    choice = Negatives(kind="ring" if inner else "ball", inner=inner, outer=outer)
    kept = keep_negatives(similarity, admissible, choice)
    rows = zip(similarity.tolist(), admissible.tolist(), strict=True)
    assert kept.tolist() == [literal(row, good, inner, outer) for row, good in rows]


@settings(max_examples=30)
@given(seed=seeds)
def test_the_order_of_the_candidates_and_a_rising_transform_of_similarity_do_not_matter(seed):
    similarity, admissible = table(seed, 4, 30, ties=False)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    choice = Negatives(kind="ring", inner=0.1, outer=0.4)
    kept = keep_negatives(similarity, admissible, choice)
    assert torch.equal(keep_negatives(similarity[:, order], admissible[:, order], choice), kept[:, order])
    assert torch.equal(keep_negatives(similarity.double().exp(), admissible, choice), kept)


def test_all_keeps_what_is_admissible():
    similarity, admissible = table(0, 3, 9, ties=False)
    assert torch.equal(keep_negatives(similarity, admissible, Negatives()), admissible)


def test_the_papers_ring_keeps_the_hardest_tenth_without_the_hardest_hundredth():
    similarity = torch.arange(1000.0).flip(0)[None]
    kept = keep_negatives(similarity, torch.ones(1, 1000, dtype=torch.bool), Negatives(kind="ring"))
    assert kept[0].nonzero().flatten().tolist() == list(range(10, 100))


@pytest.mark.parametrize(
    ("anneal", "share"),
    [
        ("constant", {0.0: 0.2, 0.25: 0.2, 1.0: 0.2}),
        ("linear", {0.0: 1.0, 0.125: 0.8, 0.25: 0.6, 0.5: 0.2, 1.0: 0.2}),
        ("step", {0.0: 1.0, 0.49: 1.0, 0.5: 0.2, 1.0: 0.2}),
    ],
)
def test_the_outer_share_shrinks_as_training_goes_on(anneal, share):
    similarity, admissible = table(1, 2, 50, ties=False)
    admissible[:] = True
    choice = Negatives(kind="ball", outer=0.2, anneal=anneal, until=0.5)
    for progress, expected in share.items():
        kept = keep_negatives(similarity, admissible, choice, torch.tensor(progress))
        assert kept.sum(dim=1).tolist() == [50 * expected] * 2, progress


def test_an_anchor_with_few_candidates_keeps_one_and_one_with_none_keeps_none():
    admissible = torch.zeros(2, 6, dtype=torch.bool)
    admissible[0, 2:5] = True
    for choice in (Negatives(kind="ball", outer=0.01), Negatives(kind="ring", inner=0.4, outer=0.41)):
        kept = keep_negatives(table(0, 2, 6, ties=False)[0], admissible, choice)
        assert kept.sum(dim=1).tolist() == [1, 0] and not (kept & ~admissible).any()


def test_what_is_not_admissible_may_hold_anything():
    similarity, admissible = table(3, 4, 20, ties=False)
    choice = Negatives(kind="ring", inner=0.1, outer=0.5)
    kept = keep_negatives(similarity, admissible, choice)
    junk = similarity.masked_fill(~admissible, torch.nan)
    assert torch.equal(keep_negatives(junk, admissible, choice), kept)


def test_it_never_waits_for_values_on_the_device():
    similarity = torch.empty(3, 8, device="meta")
    for anneal in ("constant", "linear", "step"):
        choice = Negatives(kind="ring", anneal=anneal)
        kept = keep_negatives(similarity, similarity > 0, choice, torch.empty((), device="meta"))
        assert kept.device.type == "meta"


def test_strangers_show_neither_the_anchors_image_nor_its_twin():
    identity = torch.tensor([[3, 5], [4, -1]])
    image = torch.tensor([3, 4, 5, 6, -1])
    assert valid_negatives(identity, image).tolist() == [
        [False, True, False, True, True],
        [True, False, True, True, True],
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "rnig"}, {"kind": "ring", "inner": 0.2, "outer": 0.1}, {"kind": "ring", "inner": 0.0}, {"outer": 0.0},
     {"outer": 1.1}, {"until": 0.0}, {"anneal": "cosine"}, {"iner": 0.1}],
)  # fmt: skip
def test_a_choice_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        Negatives(**wrong)
