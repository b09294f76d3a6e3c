"""Which pictures a step shows. Pictures are numbered, so what is drawn can be read off."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from infoaug.models.training import Pairs, TrainingSettings
from infoaug.models.training.draws import Draws, draw

# Five tracks: crops 0 to 3, 4 to 7, 8 and 9, 10, and 11 to 13.
FRAMES = np.array([[0, 16, 31, 47], [0, 16, 31, 47], [0, 9, -1, -1], [0, -1, -1, -1], [0, 20, 40, -1]])
TWIN = np.array([1, 0, 4, 3, -1])  # the fourth is its own
OWN, MUTUAL = np.array([0, 1, 2, 3, -1]), np.array([1, 0, 4, 0, -1])
DRAWS = 400


def pairs(twin: np.ndarray = TWIN) -> Pairs:
    return Pairs.from_arrays(np.zeros((5, 4, 2, 2, 3), np.uint8), twin, frames=FRAMES)


def several(twin: np.ndarray = TWIN, strength: Any = None, **settings: Any) -> Draws:
    """Many draws of each of the five patches: int64[5, DRAWS], and int64[5, DRAWS, P] of partners."""
    rows = torch.arange(5)[:, None].expand(5, DRAWS)
    data = Pairs.from_arrays(np.zeros((5, 4, 2, 2, 3), np.uint8), twin, frames=FRAMES, strength=strength)
    return draw(data, rows, TrainingSettings(**settings), torch.Generator().manual_seed(0))


def drawn(twin: np.ndarray = TWIN, **settings: Any) -> Draws:
    """Those draws where one partner is shown: int64[5, DRAWS] of it too."""
    found = several(twin, **settings)
    assert found.twin.shape == found.shown.shape == found.weight.shape == (5, DRAWS, 1)
    assert torch.equal(found.weight, (found.twin >= 0).float())
    return replace(found, twin=found.twin[..., 0], shown=found.shown[..., 0])


def frame(pictures: torch.Tensor) -> torch.Tensor:
    return pairs().crop_frames[pairs().crop_frames >= 0][pictures]


def track(pictures: torch.Tensor) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(5), pairs().counts)[pictures]


def combinations(one: torch.Tensor, other: torch.Tensor) -> set[tuple[int, int]]:
    return set(zip(one.tolist(), other.tolist(), strict=True))


@pytest.mark.parametrize("views", ["augmented", "time", "both"])
def test_views_show_every_crop_of_their_patch_equally_often_whatever_the_views_are(views: Any) -> None:
    found = drawn(views=views)
    for pictures in (found.first, found.second):
        assert (track(pictures) == found.rows).all()
        for row, count in enumerate([4, 4, 2, 1, 3]):
            shares = torch.bincount(pictures[row] - pairs().starts[row], minlength=count) / DRAWS
            assert len(shares) == count and (shares - 1 / count).abs().max() < 0.1
    same = found.first == found.second
    assert same.all() if views == "augmented" else torch.equal(same, found.rows == 3), (
        "only one track has no other crop"
    )
    assert torch.equal(found.first, drawn(views="augmented").first)


def test_the_views_are_the_same_for_all_policies_of_a_comparison() -> None:
    one, other = drawn(TWIN, views="both", twin_time="nearest"), drawn(OWN, views="both", later_share=0.5)
    assert torch.equal(one.first, other.first) and torch.equal(one.second, other.second)


def test_a_patch_that_is_its_own_twin_is_shown_at_any_other_time() -> None:
    found = drawn(OWN, twin_time="same")  # which has no effect
    assert (found.twin[:4] == found.first[:4]).all(dim=1).tolist() == [False, False, False, True]
    assert torch.equal(found.shown[:4], found.rows[:4]) and (track(found.twin[:4]) == found.rows[:4]).all()
    for row, count in ((0, 4), (2, 2)):
        assert len(combinations(found.first[row], found.twin[row])) == count * (count - 1)
    assert (found.twin[4] == -1).all() and (found.shown[4] == -1).all()


def test_a_twin_at_a_time_of_its_own_is_any_of_its_crops() -> None:
    found = drawn()
    assert len(combinations(found.first[0], found.twin[0])) == 16
    assert len(combinations(found.first[2], found.twin[2])) == 6
    assert torch.equal(track(found.twin[:3]), found.shown[:3])
    assert torch.equal(found.shown[:3], torch.tensor([1, 0, 4])[:, None].expand(3, DRAWS))


def test_a_twin_at_the_same_time_is_there_only_if_it_has_a_crop_of_the_frame() -> None:
    found = drawn(twin_time="same")
    assert torch.equal(frame(found.twin[:2]), frame(found.first[:2]))
    common = frame(found.first[2]) == 0  # of frames 0 and 9 beside 0, 20 and 40
    assert torch.equal(found.twin[2] >= 0, common) and 0 < common.sum() < DRAWS
    assert (frame(found.twin[2][common]) == 0).all()
    assert torch.equal(found.shown >= 0, found.twin >= 0)


def test_the_nearest_crop_of_a_twin_is_nearest_in_time() -> None:
    found = drawn(np.array([4, 0, 4, 3, -1]), twin_time="nearest")
    near = {0: 0, 16: 20, 31: 40, 47: 40}
    assert frame(found.twin[0]).tolist() == [near[first] for first in frame(found.first[0]).tolist()]
    assert (found.twin[2] >= 0).all()


def test_a_share_of_twins_is_the_patch_itself_where_it_has_another_crop() -> None:
    found = drawn(MUTUAL, later_share=0.5)
    itself = found.shown == found.rows
    shares = itself.double().mean(dim=1)
    assert (shares[:3] - 0.5).abs().max() < 0.1 and shares[3] == 0 and shares[4] == 0
    assert (found.twin != found.first)[itself].all() and torch.equal(track(found.twin[:4]), found.shown[:4])
    assert not (drawn(MUTUAL, later_share=0).shown == found.rows).any()


def test_a_patch_with_one_picture_is_shown_as_it_always_was() -> None:
    data = Pairs(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), torch.from_numpy(MUTUAL))
    found = draw(data, torch.arange(5), TrainingSettings(views="both"), torch.Generator().manual_seed(0))
    assert found.first.tolist() == found.second.tolist() == [0, 1, 2, 3, 4]
    assert found.twin[:, 0].tolist() == found.shown[:, 0].tolist() == MUTUAL.tolist()


# Two, one, two, three and no partners.
PARTNERS = np.array([[1, 4, -1], [0, -1, -1], [4, 0, -1], [0, 1, 2], [-1, -1, -1]])
STRENGTH = np.array([[0.6, 0.2, 9], [0.1, 9, 9], [0, 0, 9], [0.5, 0.5, 0], [9, 9, 9]])


def shares(found: Draws, row: int) -> list[float]:
    """How often a row is shown with each of the five patches."""
    return (torch.bincount(found.shown[row].flatten(), minlength=5) / DRAWS).tolist()


def test_one_of_the_partners_is_drawn_with_equal_chance_or_by_strength() -> None:
    for choice, expected in (
        ("uniform", [[0, 0.5, 0, 0, 0.5], [1, 0, 0, 0, 0], [0.5, 0, 0, 0, 0.5], [1 / 3, 1 / 3, 1 / 3, 0, 0]]),
        ("strength", [[0, 0.75, 0, 0, 0.25], [1, 0, 0, 0, 0], [0.5, 0, 0, 0, 0.5], [0.5, 0.5, 0, 0, 0]]),
    ):
        found = several(PARTNERS, STRENGTH, twins=3, twin_choice=choice)
        assert found.twin.shape == (5, DRAWS, 1)
        for row in range(4):
            assert shares(found, row) == pytest.approx(expected[row], abs=0.08), (choice, row)
        assert torch.equal(track(found.twin[:4]), found.shown[:4]) and (found.weight[:4] == 1).all()
        assert not (found.twin[4] >= 0).any() and not found.weight[4].any()
        assert len(combinations(found.first[0], found.twin[0, :, 0])) == 4 * (4 + 3), "a time of its own for each"


def test_all_partners_are_shown_with_weights_in_proportion_to_their_strength() -> None:
    found = several(PARTNERS, STRENGTH, twins=3, twin_choice="all")
    expected = [[0.75, 0.25, 0], [1, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]]
    assert torch.equal(found.weight, torch.tensor(expected)[:, None].expand(5, DRAWS, 3))
    there = torch.tensor(expected)[:, None].expand(5, DRAWS, 3) > 0
    assert torch.equal(found.shown, torch.where(there, torch.from_numpy(PARTNERS)[:, None], -1))
    assert torch.equal(found.twin >= 0, there) and torch.equal(track(found.twin[there]), found.shown[there])
    assert len(combinations(found.twin[0, :, 0], found.twin[0, :, 1])) == 4 * 3, "their times differ"
    two = several(PARTNERS, STRENGTH, twins=2, twin_choice="all")
    assert torch.equal(two.shown, found.shown[..., :2]) and two.weight[3].unique().tolist() == [0.5]


def test_views_and_the_twins_own_crop_do_not_depend_on_the_number_of_partners() -> None:
    one = several(PARTNERS, STRENGTH)
    for choice in ("uniform", "strength", "all"):
        found = several(PARTNERS, STRENGTH, twins=3, twin_choice=choice, views="augmented")
        assert torch.equal(found.first, one.first) and torch.equal(found.second, one.second)
    assert torch.equal(found.twin[:2, :, :1], one.twin[:2])
    assert torch.equal(one.twin, several(PARTNERS[:, 0], twin_choice="all", twins=3).twin), "there is only one"


@pytest.mark.parametrize("choice", ["uniform", "strength", "all"])
def test_partners_without_a_crop_of_the_frame_are_not_chosen_from(choice: Any) -> None:
    found = several(PARTNERS, STRENGTH, twins=3, twin_choice=choice, twin_time="same")
    first = frame(found.first)
    for row in range(4):
        drawn_now = first[row, :50].tolist(), found.twin[row, :50], found.shown[row, :50], found.weight[row, :50]
        for at, pictures, patches, weights in zip(*drawn_now, strict=True):
            known = [p for p, s in zip(PARTNERS[row], STRENGTH[row], strict=True) if p >= 0 and at in FRAMES[p]
                     and (s > 0 or row == 2 or choice == "uniform")]  # fmt: skip
            given = patches[patches >= 0].tolist()
            assert set(given) <= set(known) and len(given) == (len(known) if choice == "all" else min(1, len(known)))
            assert (frame(pictures[pictures >= 0]) == at).all()
            assert weights.sum().item() == pytest.approx(float(bool(known)))


def test_a_patch_at_another_time_takes_the_place_of_all_its_partners() -> None:
    found = several(PARTNERS, STRENGTH, twins=3, twin_choice="all", later_share=0.5)
    itself = (found.shown == found.rows[..., None]).any(dim=-1)
    assert (itself.double().mean(dim=1) - torch.tensor([0.5, 0.5, 0.5, 0, 0])).abs().max() < 0.1
    assert torch.equal(found.weight[itself], torch.tensor([1.0, 0, 0]).expand(int(itself.sum()), 3))
    assert (found.twin[itself][:, 1:] == -1).all() and (found.twin[itself][:, 0] != found.first[itself]).all()
