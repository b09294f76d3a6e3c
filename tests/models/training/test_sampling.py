"""The rows of every step: exact shares, equal for any number of ranks, and cycles of still images over epochs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from infoaug.models.training import Pairs, Training
from infoaug.models.training.sampling import Sampler, generator, paired_rows, still_rows
from tests.models.training.trainings import CPU, PARTS, pairs_with_stills, random_pairs, same, small_settings, trained


def sampler(patches: int = 40, stills: int = 7, pairs: int = 12, **settings: float) -> Sampler:
    values = {"batch_size": 8, "image_share": 0.25, **settings}
    return Sampler(small_settings(**values), sampler_pairs(patches, pairs), stills)


def sampler_pairs(patches: int, pairs: int) -> Tensor:
    """Mark so many patches: every third one first."""
    marked = torch.zeros(patches, dtype=torch.bool)
    marked[(torch.arange(patches) % 3).argsort(stable=True)[:pairs]] = True
    return marked


@given(st.integers(2, 40), st.floats(0, 1), st.integers(1, 5))
def test_every_batch_has_the_share_of_still_images_asked_for_spread_evenly(
    batch: int, share: float, steps: int
) -> None:
    assume(share == 0 or round(share * batch))
    patches = batch * steps + batch // 2
    made = sampler(patches, 30, pairs=0, batch_size=batch, image_share=share)
    rows = made.epoch(0)
    assert rows.shape == (steps, batch) == (made.steps, batch)
    stills = round(share * batch)
    assert ((rows >= patches).sum(dim=1) == stills).all()
    assert ((rows >= patches) == made.is_still).all()
    for ranks in (ranks for ranks in range(1, batch + 1) if batch % ranks == 0 and stills % ranks == 0):
        assert (made.is_still.view(ranks, -1).sum(dim=1) == stills // ranks).all()
    drawn = rows[rows < patches]
    assert len(drawn.unique()) == len(drawn), "an epoch shows a patch once"


def test_without_still_images_an_epoch_is_a_shuffle_of_the_patches() -> None:
    shuffled = torch.randperm(44, generator=generator(0, 3))
    assert torch.equal(sampler(44, stills=0).epoch(3), shuffled[:40].view(5, 8))


def test_still_images_are_cycled_over_epochs_and_shown_equally_often() -> None:
    made = sampler(stills=7)  # ten in an epoch
    shown = torch.cat([made.epoch(number)[:, made.is_still].flatten() for number in range(7)]) - 40
    cycles = shown.view(10, 7)
    assert (cycles.sort(dim=1).values == torch.arange(7)).all()
    assert len({tuple(cycle.tolist()) for cycle in cycles}) > 5, "every cycle has an order of its own"
    assert torch.equal(made.epoch(4), sampler(stills=7).epoch(4)), "whatever was drawn before"


def test_the_number_of_steps_does_not_depend_on_the_share() -> None:
    assert {sampler(image_share=share).steps for share in (0, 0.25, 0.5, 1)} == {sampler(stills=0).steps} == {5}


@given(st.integers(2, 40), st.floats(0, 0.5), st.floats(0.01, 1), st.integers(1, 4))
def test_every_batch_has_the_share_of_patches_with_a_twin_asked_for_spread_evenly(
    batch: int, images: float, twins: float, steps: int
) -> None:
    stills, paired = round(images * batch), round(twins * batch)
    assume(paired and (stills or not images) and stills + paired <= batch)
    patches = 2 * batch * steps
    made = sampler(patches, 30, patches // 2, batch_size=batch, image_share=images, twin_share=twins)
    rows = made.epoch(1)
    assert rows.shape == (2 * steps, batch)
    assert made.is_paired is not None and not (made.is_paired & made.is_still).any()
    has_twin = torch.cat([sampler_pairs(patches, patches // 2), torch.zeros(30, dtype=torch.bool)])
    assert (has_twin[rows] == made.is_paired).all()
    assert ((rows >= patches) == made.is_still).all()
    assert (has_twin[rows].sum(dim=1) == paired).all()
    for ranks in (r for r in range(1, batch + 1) if batch % r == 0 and stills % r == 0 and paired % r == 0):
        assert (made.is_paired.view(ranks, -1).sum(dim=1) == paired // ranks).all()


@given(st.integers(4, 14), st.integers(0, 3))
def test_no_batch_holds_a_patch_twice_at_the_end_of_a_cycle(pairs: int, epoch: int) -> None:
    patches = sampler(40, 0, pairs, twin_share=0.5).epoch(epoch)
    assert all(len(batch.unique()) == 8 for batch in patches)


def test_patches_with_a_twin_and_those_without_are_cycled_and_each_shown_equally_often() -> None:
    made = sampler(twin_share=0.5)  # 5 steps of 4 rows of 12 patches, 2 rows of 28, 2 of 7 images
    rows = torch.cat([made.epoch(number) for number in range(21)])
    counts = rows.flatten().bincount(minlength=47)
    paired = sampler_pairs(40, 12)
    assert (counts[:40][paired] == 35).all()  # 420 rows
    assert sorted(counts[:40][~paired].unique().tolist()) == [7, 8]  # 210 rows
    assert (counts[40:] == 30).all()
    assert torch.equal(made.epoch(4), sampler(twin_share=0.5).epoch(4)), "whatever was drawn before"


def test_a_share_of_twins_that_a_batch_cannot_have_is_refused() -> None:
    for settings, ranks, stills, named in (
        ({"twin_share": 0.01}, 1, 0, "is 0 patches with a twin: set it or batch_size higher"),
        ({"twin_share": 0.375}, 2, 0, "3 patches with a twin, which 2 workers cannot share"),
        ({"twin_share": 0.5}, 1, 6, "image_share leaves 2 rows for patches"),
    ):
        with pytest.raises(ValueError, match=named):
            paired_rows(small_settings(**settings), ranks, stills)
    with pytest.raises(ValueError, match="takes 8 patches with a twin, and there are 7: set it lower"):
        sampler(pairs=7, twin_share=1.0, image_share=0.0)
    with pytest.raises(ValueError, match="and there are 0: set it null, or give clips"):
        sampler(pairs=0, twin_share=0.5)
    with pytest.raises(ValueError, match="takes 4 patches without a twin, and there are 3: set it higher"):
        sampler(pairs=37, twin_share=0.25)


def test_trainings_of_all_policies_see_the_same_rows() -> None:
    settings = small_settings(twin_share=0.5)
    paired = torch.arange(28) % 3 == 0
    seen = []
    for twin in (random_pairs().twin, torch.full((28,), -1), torch.where(paired, torch.arange(28), -1)):
        data = Pairs.from_arrays(random_pairs().images, twin, paired=paired)
        seen.append(Sampler(settings, data.is_paired).epoch(2))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_a_batch_has_as_many_twins_as_asked_for_with_still_images_beside_them() -> None:
    run = Training(small_settings(twin_share=0.25), pairs_with_stills(), CPU)
    metrics = run.epoch()
    assert metrics["share_with_twin"] == 0.25 and metrics["share_of_images"] == 0.5


@pytest.mark.parametrize(
    ("share", "ranks", "twins", "named"),
    [
        (0.01, 1, True, "is 0 images"),
        (0.375, 2, True, "3 images, which 2 workers cannot share: set it to a multiple of 0.25"),
        (1.0, 1, True, "fewer than 2 patches .*: set it lower, or twin_weight to 0"),
        (0.75, 2, True, "fewer than 2 patches"),
    ],
)
def test_a_share_that_a_batch_cannot_have_is_refused(share: float, ranks: int, twins: bool, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        still_rows(small_settings(image_share=share), ranks, twins)


def test_a_batch_of_still_images_alone_is_for_trainings_without_twins() -> None:
    assert still_rows(small_settings(image_share=1.0), 2, twins=False) == 8
    run = Training(small_settings(image_share=1.0, twin_weight=0.0), pairs_with_stills(), CPU)
    assert run.epoch()["share_of_images"] == 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("framework", "share"), [("moco", None), ("byol", 0.25)])
def test_a_training_with_still_images_resumed_ends_with_the_same_weights_to_the_last_bit(
    framework: str, share: float | None
) -> None:
    settings, data = small_settings(framework, twin_share=share), pairs_with_stills()
    whole = trained(settings, data, 3)
    state = trained(settings, data, 1).state()
    resumed = Training(settings, data, CPU)
    resumed.load_state(state)
    while len(resumed.history) < 3:
        resumed.epoch()
    assert all(same(resumed.state()[part], whole.state()[part]) for part in PARTS)
    metrics = whole.history[-1]
    assert metrics["share_of_images"] == 0.5 and 0 < metrics["share_with_twin"] < 0.5
    assert not same(trained(settings, random_pairs(), 3).state()["model"], whole.state()["model"])


def rows_on_rank(rank: int) -> list[tuple[list[int], list[int]]]:
    """The images of this rank's part of every batch of two epochs, and those of them that its twin branch sees."""
    run = Training(small_settings(twin_share=0.25), pairs_with_stills(), CPU)
    seen = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        image, video_rows = inputs[4], inputs[6]
        seen.append((image.tolist(), image[video_rows].tolist()))

    run.model.register_forward_pre_hook(keep)
    run.epoch()
    run.epoch()
    return seen


def test_two_ranks_take_the_rows_that_one_process_takes_in_their_order(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]],
) -> None:
    first, second = two_ranks(rows_on_rank)
    for one, *parts in zip(rows_on_rank(0), first, second, strict=True):
        assert one[0] == parts[0][0] + parts[1][0]
        assert one[1] == parts[0][1] + parts[1][1] == [row for row in one[0] if row < 28]
        assert [len(video) for _, video in parts] == [2, 2]
