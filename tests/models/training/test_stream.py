"""Patches in blocks of shards: the same steps as in memory, each row once, and a resume in the middle of an epoch."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.models.pixels import compress
from infoaug.models.training import Pairs, Stream, Training
from infoaug.models.training.encoded import Compressed, EncodedImages
from tests.models.training.trainings import (
    CPU,
    PARTS,
    pairs_with_stills,
    random_pairs,
    random_tracks,
    same,
    several_partners,
    small_settings,
)

pytestmark = pytest.mark.usefixtures("one_thread")
WINDOW = 7  # patches, within which a twin lies


def within_windows(pairs: Pairs) -> Pairs:
    """The same pairs with twins of their own window."""
    rows = torch.arange(pairs.patches)
    start = rows // WINDOW * WINDOW

    def moved(partner: torch.Tensor) -> torch.Tensor:
        own = start.view(-1, *[1] * (partner.ndim - 1)) + partner % WINDOW
        return torch.where(partner >= 0, own, -1)

    twin = torch.cat([moved(pairs.twin[: pairs.patches]), pairs.twin[pairs.patches :]])
    others = pairs.others if pairs.others is None or not pairs.others.numel() else moved(pairs.others)
    return replace(pairs, twin=twin, others=others)


def compressed(images: torch.Tensor) -> EncodedImages:
    files = compress(images.numpy())
    content = np.frombuffer(b"".join(files), np.uint8)
    return EncodedImages([Compressed(content, np.cumsum([0, *map(len, files)]))], images.shape[-1])


def streamed(pairs: Pairs, together: int, windows: int = 1) -> Stream:
    """The same patches in shards of so many windows, compressed."""
    images = pairs.images
    assert isinstance(images, torch.Tensor)
    each = WINDOW * windows
    counts = [min(each, pairs.patches - start) for start in range(0, pairs.patches, each)]
    ends = pairs.starts + pairs.counts

    def open_shard(number: int) -> Pairs:
        first, last = number * each, number * each + counts[number]
        crops = images[int(pairs.starts[first]) : int(ends[last - 1])]
        rows: dict[str, Any] = {
            name: None if part is None else part[first:last]
            for name, part in (("frames", pairs.frames), ("paired", pairs.paired), ("strength", pairs.strength))
        }
        twin, others = (
            None if part is None else torch.where(part >= 0, part - first, -1)[first:last]
            for part in (pairs.twin, pairs.others)
        )
        assert twin is not None
        return Pairs(compressed(crops), twin, on_device=False, others=others, **rows)

    stills = images[int(ends[pairs.patches - 1]) :] if pairs.stills else None
    return Stream(counts, open_shard, together, images.shape[-1], stills)


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (random_pairs(), {}),
        (random_tracks(), {"views": "both", "twin_time": "same"}),
        (several_partners(), {"twins": 3, "twin_choice": "all"}),
        (pairs_with_stills(), {"framework": "moco"}),
        (random_tracks(), {"twin_share": 0.5}),
    ],
)
def test_one_block_trains_like_patches_in_memory_to_the_last_bit(data: Pairs, changes: dict[str, Any]) -> None:
    settings, pairs = small_settings(**changes), within_windows(data)
    states = []
    for source in (pairs, streamed(pairs, together=4)):
        training = Training(settings, source, CPU)
        states.append(training.state() | {"metrics": [training.epoch() for _ in range(2)], **training.state()})
    assert all(same(states[0][part], states[1][part]) for part in PARTS)
    timed = ("seconds", "images_per_second", "data_wait_fraction", "peak_memory_mb")
    one, other = ([{k: v for k, v in m.items() if k not in timed} for m in state["metrics"]] for state in states)
    assert one == other


def test_an_epoch_of_blocks_shows_each_patch_at_most_once_in_another_order_each_time() -> None:
    stream, batch = streamed(within_windows(random_pairs(70)), together=3), 8
    settings = small_settings(batch_size=batch)
    orders = [stream.shards_of(epoch, seed=0) for epoch in range(4)]
    assert all(sorted(chain(*order)) == list(range(10)) for order in orders)
    assert len({str(order) for order in orders}) == 4 and stream.shards_of(1, 0) != stream.shards_of(1, 1)
    training = Training(settings, stream, CPU)
    assert training.steps == stream.steps(batch) <= 70 // batch
    seen = _rows_seen(training)
    training.epoch()
    assert len(seen) == training.steps * batch == len(set(seen)) and max(seen) < 70


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 12), st.integers(2, 16), st.integers(0, 99)
)
def test_every_order_of_the_shards_has_as_many_steps_as_an_epoch_takes(
    counts: list[int], together: int, batch: int, epoch: int
) -> None:
    stream = Stream(counts, lambda shard: pytest.fail("opened"), together, 16)
    in_blocks = [sum(counts[shard] for shard in block) // batch for block in stream.shards_of(epoch, 0)]
    assert stream.steps(batch) <= sum(in_blocks)
    assert len(in_blocks) == stream.blocks
    if stream.blocks == 1:
        assert stream.steps(batch) == sum(counts) // batch


def test_a_twin_is_the_picture_that_it_is_in_memory_and_numbers_are_those_among_all_patches() -> None:
    pairs = within_windows(random_pairs(70))
    assert isinstance(pairs.images, torch.Tensor)
    seen = []
    stream = streamed(pairs, together=3)
    training = Training(small_settings(), stream, CPU)
    whole = training.step
    training.step = lambda batch, *given, **named: seen.append(batch) or whole(batch, *given, **named)  # type: ignore[method-assign, func-returns-value, assignment]
    training.epoch()
    assert sum(len(batch.twin_rows) for batch in seen) > 10
    for batch in seen:
        assert torch.equal(batch.images, pairs.images[batch.image])
        assert torch.equal(batch.twin_image[:, 0], pairs.twin[batch.image])
        assert torch.equal(batch.twins, pairs.images[pairs.twin[batch.image[batch.twin_rows]]])
        assert torch.equal(batch.shown[:, 0], batch.twin_image[:, 0])


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (random_tracks(70), {"framework": "moco", "views": "both"}),
        (pairs_with_stills(70), {"twin_share": 0.25}),
    ],
)
def test_resumed_in_the_middle_of_an_epoch_it_ends_like_an_uninterrupted_one(
    data: Pairs, changes: dict[str, Any]
) -> None:
    settings, stream = small_settings(**changes), streamed(within_windows(data), together=2)
    states: list[dict[str, Any]] = []
    undisturbed = Training(settings, stream, CPU)
    undisturbed.epoch()
    metrics = undisturbed.epoch(lambda: states.append(copy.deepcopy(undisturbed.state())))
    assert len(states) > 1
    for state in states:
        resumed = Training(settings, stream, CPU)
        resumed.load_state(state)
        seen = _rows_seen(resumed)
        again = resumed.epoch()
        assert len(seen) < resumed.steps * settings.batch_size
        assert all(same(undisturbed.state()[part], resumed.state()[part]) for part in PARTS)
        for name in ("loss", "twin_loss", "share_with_twin", "steps_without_twin_loss", "learning_rate", "rank_me"):
            assert again[name] == metrics[name]


class CutOffError(Exception):
    """A training is cut off."""


def stream_on_rank(rank: int, file: Path, stop: int | None = None) -> tuple[dict[str, Any], list[int]]:
    """Train two epochs, from the state in `file` if there is one; give the state and the rows of this rank.

    It ends after `stop` more blocks, in the middle of an epoch, and rank 0 writes the state into the file.
    """
    steady = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "drop_rate": 0.0}
    settings = small_settings("moco", backbone_settings=steady, learning_rate=0.01, twin_share=0.25)
    run = Training(settings, streamed(within_windows(random_pairs(70)), together=2), CPU)
    if file.exists():
        run.load_state(torch.load(file, weights_only=True))
    seen, blocks = _rows_seen(run), 0

    def between() -> None:
        nonlocal blocks
        blocks += 1
        if blocks == stop:
            raise CutOffError

    with contextlib.suppress(CutOffError):
        while len(run.history) < 2:
            run.epoch(between)
    if rank == 0:
        torch.save(run.state(), file)
    return run.state(), seen


def test_an_epoch_goes_on_with_another_number_of_ranks_and_shows_no_row_twice(
    two_ranks: Callable[[Callable[[int], Any]], list[Any]], tmp_path: Path
) -> None:
    alone, rows = stream_on_rank(0, tmp_path / "alone")
    file = tmp_path / "changing"
    begun = two_ranks(partial(stream_on_rank, file=file, stop=1))
    fewer = stream_on_rank(0, file, stop=1)
    assert not fewer[0]["history"]  # both stops are in the first epoch
    more = two_ranks(partial(stream_on_rank, file=file))
    parts = [of[1] for of in (*begun, fewer, *more)]
    assert all(parts)
    first = sorted(rows[: len(rows) // 2])
    assert len(set(first)) == len(first)
    assert sorted(chain(*parts)) == sorted(rows)
    assert sorted([*chain(*parts[:3]), *(row for own in parts[3:] for row in own[: -len(first) // 2])]) == first
    assert [epoch["loss"] for epoch in more[0][0]["history"]] == pytest.approx(
        [epoch["loss"] for epoch in alone["history"]], rel=1e-4
    )
    for name, value in alone["model"].items():  # sums over ranks are rounded in another order
        torch.testing.assert_close(more[0][0]["model"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_still_images_go_on_from_block_to_block() -> None:
    stream = streamed(within_windows(pairs_with_stills(70, 40)), together=2)
    training = Training(small_settings(), stream, CPU)
    seen = _rows_seen(training)
    training.epoch()
    stills = [row for row in seen if row >= 70]
    assert len(stills) == training.steps * 4
    assert len(set(stills[:40])) == min(40, len(stills))


def test_blocks_open_one_ahead_and_only_what_is_left_after_a_resume() -> None:
    stream, opened = streamed(within_windows(random_pairs(70)), together=3), []
    watched = replace(stream, open_shard=lambda shard: opened.append(shard) or stream.open_shard(shard))  # type: ignore[func-returns-value]
    blocks = watched.epoch(0, seed=0)
    next(blocks)
    next(blocks)
    assert set(opened) <= {*chain(*stream.shards_of(0, 0)[:3])}
    blocks.close()
    opened.clear()
    assert [number for number, _ in watched.epoch(0, seed=0, first=2)] == [2, 3]
    assert sorted(opened) == sorted(chain(*stream.shards_of(0, 0)[2:]))


def test_a_block_with_too_few_patches_with_a_twin_is_refused_with_what_to_set() -> None:
    pairs = random_pairs(70)
    twin = torch.where(torch.arange(70) < 7, 0, -1)
    stream = streamed(replace(pairs, twin=twin), together=2)
    with pytest.raises(ValueError, match="twin_share"):
        Training(small_settings(twin_share=0.5), stream, CPU).epoch()


def test_compressed_images_are_those_that_were_compressed_in_any_order() -> None:
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    stills = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    found = EncodedImages([*compressed(images[:100]).parts, *compressed(images[100:]).parts, stills], 16)
    assert len(found) == 305 and found.shape == (305, 3, 16, 16)
    rows = torch.randperm(305)
    assert torch.equal(found[rows], torch.cat([images, stills])[rows])
    assert found[rows[:0]].shape == (0, 3, 16, 16)


def test_several_threads_decompress_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(compressed(images)[torch.arange(300)], images)


def test_a_damaged_image_is_named_as_such() -> None:
    found = EncodedImages([Compressed(np.zeros(50, np.uint8), np.array([0, 50]))], 16)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        found[torch.tensor([0])]


def _rows_seen(training: Training) -> list[int]:
    """The rows of the batches that a training takes from now on."""
    seen: list[int] = []
    whole = training.step

    def step(batch: Any, *given: Any, **named: Any) -> Any:
        seen.extend(batch.image.tolist())
        return whole(batch, *given, **named)

    training.step = step  # type: ignore[method-assign]
    return seen


def test_blocks_without_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="too small for batches of 8"):
        Training(small_settings(batch_size=8), streamed(within_windows(random_pairs()), together=1), CPU)
