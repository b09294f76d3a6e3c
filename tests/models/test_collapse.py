import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.models.collapse import collapsed, feature_std, rank_me


def expected_rank(directions: int, of: int) -> float:
    """RankMe of equal singular values, with the paper's 1e-7 on each, those that are 0 too."""
    share = 1 / directions + 1e-7
    return math.exp(-directions * share * math.log(share) - (of - directions) * 1e-7 * math.log(1e-7))


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_features_of_so_many_equal_directions_have_that_rank(directions):
    torch.manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    features = torch.eye(directions, 8, dtype=torch.float64).repeat(8, 1) @ turn
    assert rank_me(features).item() == pytest.approx(expected_rank(directions, 8), rel=1e-9)
    assert rank_me(features).item() == pytest.approx(directions, rel=1e-4)


def test_a_weak_direction_counts_less_than_a_strong_one():
    features = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    entropy = -sum(p * math.log(p) for p in (0.75 + 1e-7, 0.25 + 1e-7))
    assert rank_me(features).item() == pytest.approx(math.exp(entropy), rel=1e-12)


def test_features_all_alike_have_no_spread_and_rank_one():
    features = torch.arange(1.0, 7.0).repeat(20, 1)
    assert feature_std(features).item() == pytest.approx(0, abs=1e-6)
    assert rank_me(features).item() == pytest.approx(1, abs=1e-4)
    assert feature_std(features[:1]).item() == 0


def test_features_of_zero_give_numbers():
    assert feature_std(torch.zeros(4, 6)).item() == 0
    assert rank_me(torch.zeros(4, 6)).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_directions_all_alike_have_a_spread_of_one_and_their_width_as_rank(width):
    features = torch.cat([torch.eye(width), -torch.eye(width)]) * torch.rand(2 * width, 1).add(0.5)
    assert feature_std(features).item() == pytest.approx(1, abs=1e-6)
    assert rank_me(torch.eye(width)).item() == pytest.approx(width, rel=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 9), width=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
def test_order_and_scale_do_not_matter_and_both_stay_in_their_ranges(seed, rows, width, scale):
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shuffled = features.flip(0) * scale
    torch.testing.assert_close(feature_std(shuffled), feature_std(features))
    torch.testing.assert_close(rank_me(shuffled), rank_me(features))
    assert 0 <= feature_std(features) <= 1 + 1e-9 and 1 - 1e-4 <= rank_me(features) <= min(rows, width) * 1.001


def test_they_compute_in_float32_and_take_no_gradient():
    features = torch.randn(6, 4).bfloat16().requires_grad_()
    for measure in (feature_std, rank_me):
        assert torch.equal(measure(features), measure(features.float()))
        assert measure(features).dtype == torch.float32 and not measure(features).requires_grad


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(4, 0), torch.zeros(2, 2, dtype=int)])
def test_what_are_no_features_is_refused(wrong):
    for measure in (feature_std, rank_me):
        with pytest.raises(ValueError, match=r"\[N, d\]"):
            measure(wrong)


@pytest.mark.parametrize(
    ("spread", "rank", "verdict"), [(0.5, 30.0, False), (0.09, 30.0, True), (0.5, 16.0, False), (0.5, 14.9, True)]
)
def test_little_spread_or_half_the_first_rank_is_collapse(spread, rank, verdict):
    assert collapsed(spread, rank, first_rank=30.0) is verdict
