from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.models.training import Pairs, TrainingSettings, pairs
from infoaug.models.training.draws import draw
from infoaug.models.training.pairs import Batches, Draws, Window, write_mapped
from tests.models.training.trainings import same

CPU = torch.device("cpu")


def some_pairs(on_device: bool = True) -> Pairs:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2).contiguous()
    return Pairs(images, torch.tensor([3, -1, 5, 0, -1, 2]), on_device)


def windows() -> list[Window]:
    """Three windows of three patches; image number n is n everywhere."""
    images = np.broadcast_to(np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1, 1), (3, 3, 3, 4, 4))
    twins = np.array([[1, -1, 5], [5, 3, -1], [-1, -1, 7]])  # one is of another window
    return [Window(*parts, np.zeros((3, 1), int)) for parts in zip(images, twins, strict=True)]


def of_tracks() -> list[Window]:
    """Two windows of patches with 1 to 3 crops; image number n is n everywhere."""
    images = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None], (9, 3, 4, 4))
    first = Window(images[:4], np.array([1, 0]), np.array([[0, 5, 9], [0, -1, -1]]))
    return [first, Window(images[4:], np.array([1, -1, 2]), np.array([[0, 7], [0, -1], [0, 3]]))]


def with_partners() -> list[Window]:
    """Those windows, with the strengths of up to three partners."""
    partners = np.array([[[1, 2, 7], [-1, -1, -1], [0, -1, -1]], [[5, 4, -1]] * 3, [[7, 8, -1]] * 3])
    strength = np.arange(27).reshape(3, 3, 3) / 8
    return [
        window._replace(twin=p[:, 0], others=p[:, 1:], strength=s)
        for window, p, s in zip(windows(), partners, strength, strict=True)
    ]


def draws(data: Pairs, rows: torch.Tensor, **settings: Any) -> Draws:
    return draw(data, rows, TrainingSettings(**settings), torch.Generator().manual_seed(0))


def numbers(images: torch.Tensor) -> list[int]:
    return images[:, 1, 0, 0].tolist()


def test_windows_are_concatenated() -> None:
    loaded = Pairs.from_windows(windows())
    assert (loaded.images.shape, loaded.images.dtype) == ((9, 3, 4, 4), torch.uint8)
    assert numbers(loaded.images) == list(range(9))
    assert loaded.twin.tolist() == [1, -1, 5, 5, 3, -1, -1, -1, 7]


def test_crops_of_patches_follow_each_other_whatever_their_number() -> None:
    loaded = Pairs.from_windows(of_tracks())
    assert numbers(loaded.images) == list(range(9))
    assert (loaded.starts.tolist(), loaded.counts.tolist()) == ([0, 3, 4, 6, 7], [3, 1, 2, 1, 2])
    frames = [[0, 5, 9], [0, -1, -1], [0, 7, -1], [0, -1, -1], [0, 3, -1]]
    assert loaded.crop_frames.tolist() == frames
    images = np.zeros((5, 3, 4, 4, 3), np.uint8)
    images[np.array(frames) >= 0] = np.arange(9)[:, None, None, None]
    given = Pairs.from_arrays(images, loaded.twin, frames=np.array(frames))
    assert torch.equal(given.images, loaded.images) and torch.equal(given.crop_frames, loaded.crop_frames)
    assert Pairs.from_arrays(images, loaded.twin).crop_frames.tolist() == [[0, 1, 2]] * 5


def test_partners_follow_the_twin_with_their_strengths_and_still_images_have_none(tmp_path: Path) -> None:
    stills = np.full((2, 3, 4, 4), 100, np.uint8)
    write_mapped(tmp_path, with_partners(), [stills])
    joined = np.concatenate([np.column_stack([w.twin, w.others]) for w in with_partners()])
    strength = np.arange(27).reshape(9, 3) / 8
    images = torch.from_numpy(np.concatenate([w.images for w in windows()]))
    given = Pairs.from_arrays(images, joined, torch.from_numpy(stills), strength=strength)
    for loaded in (Pairs.from_windows(with_partners(), [stills]), Pairs.mapped(tmp_path), given):
        assert loaded.partners.tolist() == [*joined.tolist(), [-1] * 3, [-1] * 3]
        assert loaded.strengths.tolist() == [*strength.tolist(), [0] * 3, [0] * 3]
        assert loaded.twin.tolist() == loaded.partners[:, 0].tolist() and loaded.is_paired.sum() == 8
    alone = Pairs.from_windows(windows())
    assert (alone.partners.tolist(), alone.strengths.unique().tolist()) == (alone.twin[:, None].tolist(), [1])


def test_a_batch_has_the_images_of_all_partners_that_are_shown_with_their_weights() -> None:
    loaded = Pairs.from_windows(with_partners())
    batch = loaded.batch(draws(loaded, torch.tensor([3, 1, 0]), twins=3, twin_choice="all"), CPU)
    assert (numbers(batch.twins), batch.twin_rows.tolist()) == ([5, 4, 2, 7], [0, 1, 7, 8])
    assert batch.shown.tolist() == [[5, 4, -1], [-1, -1, -1], [-1, 2, 7]], "a partner of strength 0 counts nothing"
    assert batch.twin_image.tolist() == [[5, 4, -1], [-1, -1, -1], [1, 2, 7]], "and is no negative"
    assert batch.weight is not None
    torch.testing.assert_close(batch.weight, torch.tensor([[9 / 19, 10 / 19, 0], [0] * 3, [0, 1 / 3, 2 / 3]]))


@pytest.mark.parametrize("given", [windows, of_tracks, with_partners])
def test_a_mapped_file_has_the_same_patches_and_may_be_deleted_once_it_is_mapped(given: Any, tmp_path: Path) -> None:
    loaded = Pairs.from_windows(given())
    write_mapped(tmp_path / "scratch", given())
    mapped = Pairs.mapped(tmp_path / "scratch")
    for file in (tmp_path / "scratch").iterdir():
        file.unlink()
    assert not mapped.on_device
    assert torch.equal(mapped.images, loaded.images) and torch.equal(mapped.twin, loaded.twin)
    assert torch.equal(mapped.crop_frames, loaded.crop_frames) and torch.equal(mapped.partners, loaded.partners)
    assert torch.equal(mapped.is_paired, loaded.is_paired) and torch.equal(loaded.is_paired, loaded.twin >= 0)


def test_which_patches_are_paired_does_not_depend_on_the_twins_that_are_trained_with(tmp_path: Path) -> None:
    paired = np.array([True, False, True])
    given = [window._replace(paired=paired, twin=np.full(3, -1)) for window in windows()]
    write_mapped(tmp_path, given, [np.zeros((2, 3, 4, 4), np.uint8)])
    arrays = Pairs.from_arrays(IMAGES, TWINS, IMAGES[:2], paired=np.arange(len(IMAGES)) == 1)
    for loaded in (Pairs.from_windows(given, [np.zeros((2, 3, 4, 4), np.uint8)]), Pairs.mapped(tmp_path)):
        assert loaded.is_paired.tolist() == paired.tolist() * 3
    assert arrays.is_paired.nonzero().tolist() == [[1]]
    with pytest.raises(ValueError, match="paired must be bool"):
        Pairs.from_arrays(IMAGES, TWINS, paired=TWINS)


def test_still_images_follow_the_patches_and_have_no_twin_in_memory_and_mapped(tmp_path: Path) -> None:
    blocks = [np.full((count, 3, 4, 4), 100 + count, np.uint8) for count in (2, 1)]
    write_mapped(tmp_path, windows(), iter(blocks))
    for loaded in (Pairs.from_windows(windows(), iter(blocks)), Pairs.mapped(tmp_path)):
        assert (loaded.patches, loaded.stills) == (9, 3)
        assert numbers(loaded.images) == [*range(9), 102, 102, 101]
        assert loaded.twin.tolist() == [1, -1, 5, 5, 3, -1, -1, -1, 7, -1, -1, -1]
        batch = loaded.batch(draws(loaded, torch.tensor([9, 3, 11])), CPU)
        assert (numbers(batch.images), batch.twin_rows.tolist()) == ([102, 3, 101], [1])
    assert Pairs.from_arrays(IMAGES, TWINS, IMAGES[:2]).to(CPU).stills == 2
    with pytest.raises(ValueError, match="still images must have the patches' 4 pixels, not 5"):
        Pairs.from_arrays(IMAGES, TWINS, np.zeros((2, 5, 5, 3), np.uint8))


def test_still_images_beside_tracks_have_one_picture_each(tmp_path: Path) -> None:
    stills = np.full((2, 3, 4, 4), 100, np.uint8)
    write_mapped(tmp_path, of_tracks(), [stills])
    tracks = Pairs.from_windows(of_tracks())
    images = np.zeros((5, 3, 3, 4, 4), np.uint8)
    images[tracks.crop_frames >= 0] = tracks.images
    given = Pairs.from_arrays(torch.from_numpy(images), tracks.twin, torch.from_numpy(stills), tracks.crop_frames)
    for loaded in (Pairs.from_windows(of_tracks(), [stills]), Pairs.mapped(tmp_path), given):
        assert (loaded.patches, loaded.stills) == (5, 2)
        assert loaded.counts.tolist() == [3, 1, 2, 1, 2, 1, 1] and numbers(loaded.images) == [*range(9), 100, 100]
        drawn = draws(loaded, torch.arange(7), views="both", later_share=1.0)
        assert drawn.first[5:].tolist() == drawn.second[5:].tolist() == [9, 10]
        assert drawn.twin[5:].tolist() == drawn.shown[5:].tolist() == [[-1], [-1]]


def test_numpy_images_have_channels_last_and_tensors_channels_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    twins = np.array([1, 0, -1, 4, 3], np.int32)
    one = Pairs.from_arrays(images, twins)
    other = Pairs.from_arrays(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(twins))
    assert one.images.shape == (5, 3, 4, 4) and torch.equal(one.images, other.images)
    assert one.twin.dtype == torch.int64 and one.twin.tolist() == other.twin.tolist() == twins.tolist()
    assert one.images[2, 0, 1, 3] == images[2, 1, 3, 0]


IMAGES, TWINS = np.zeros((3, 4, 4, 3), np.uint8), np.array([1, 0, -1])


@pytest.mark.parametrize(
    ("images", "twins", "named"),
    [
        (IMAGES.transpose(0, 3, 1, 2), TWINS, r"\[N, S, S, 3\]"),
        (IMAGES[0], TWINS, r"\[N, K, S, S, 3\]"),
        (torch.from_numpy(IMAGES), TWINS, r"\[N, 3, S, S\]"),
        (IMAGES / 255, TWINS, "uint8"),
        (IMAGES, TWINS[:2], r"int\[3\]"),
        (IMAGES, TWINS.astype(float), r"int\[3\]"),
        (IMAGES, TWINS > 0, r"int\[3\]"),
        (IMAGES, TWINS[None], r"int\[3, k\]"),
        (IMAGES, np.zeros((3, 0), int), r"int\[3, k\]"),
        (IMAGES, np.array([[1, 2], [-1, 2], [0, -1]]), "-1 only after the last"),
        (IMAGES, np.array([1, 3, -1]), "0 to 2"),
        (IMAGES, np.array([1, -2, -1]), "0 to 2"),
    ],
)
def test_arrays_of_a_wrong_shape_dtype_or_range_are_refused(images: Any, twins: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pairs.from_arrays(images, twins)


@pytest.mark.parametrize("strength", [[[0.5], [1], [-0.1]], [[0.5], [1], [np.nan]], [0.5, 1, 1], [[np.inf]] * 3])
def test_strengths_that_do_not_fit_the_twins_are_refused(strength: Any) -> None:
    with pytest.raises(ValueError, match=r"strength must be float\[3, 1\], finite and at least 0"):
        Pairs.from_arrays(IMAGES, TWINS, strength=np.array(strength))


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        (np.zeros((3, 1), int), r"int\[3, 2\]"),
        (np.zeros((3, 2)), r"int\[3, 2\]"),
        (np.array([[0, 1], [-1, 2], [0, 1]]), "after the last"),
        (np.array([[0, 1], [-1, -1], [0, 1]]), "every patch needs a crop"),
        (np.array([[0, 1], [4, 4], [0, -1]]), "the frames of a patch must differ"),
    ],
)
def test_frames_of_crops_that_do_not_fit_the_images_are_refused(frames: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pairs.from_arrays(np.zeros((3, 2, 4, 4, 3), np.uint8), TWINS, frames=frames)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"twins": np.array([[1, 1], [0, 2], [0, 1]])}, "the partners of a patch must differ"),
        ({"twins": np.array([1, 2, 0], object)}, r"twins must be int\[3\] or int\[3, k\], not object"),
        ({"twins": None}, "twins must be .* not NoneType"),
        ({"strength": np.full((3, 1), "a")}, "strength must be"),
        ({"strength": np.ones((3, 1)) * 1j}, "strength must be .* not torch.complex"),
        ({"frames": np.array([[0, 3_000_000_000]] * 3)}, "frames are numbers of frames, below 2³¹, not 3000000000"),
    ],
)
def test_what_is_no_array_of_patches_is_refused_in_a_sentence(wrong: dict[str, Any], named: str) -> None:
    images = np.zeros((3, 2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=named):
        Pairs.from_arrays(images, **({"twins": np.array([1, 2, 0])} | wrong))


def test_the_crops_of_a_patch_may_come_in_any_order_of_time() -> None:
    images = np.arange(6, dtype=np.uint8).repeat(48).reshape(3, 2, 4, 4, 3)
    data = Pairs.from_arrays(images, TWINS, frames=np.array([[9, 4], [3, 8], [5, -1]]))
    drawn = draws(data, torch.tensor([0, 1] * 50), twin_time="nearest")
    near = {0: 3, 1: 2, 2: 1, 3: 0}  # frame 9 is shown beside 8, and 4 beside 3
    assert drawn.twin[:, 0].tolist() == [near[crop] for crop in drawn.first.tolist()]


def test_a_batch_has_the_images_asked_for_and_those_of_their_twins() -> None:
    batch = some_pairs().batch(draws(some_pairs(), torch.tensor([5, 1, 0])), CPU)
    assert batch.second is batch.images and batch.alone.all() and batch.shown.tolist() == [[2], [-1], [3]]
    assert numbers(batch.images) == [5, 1, 0]
    assert (numbers(batch.twins), batch.twin_rows.tolist()) == ([2, 3], [0, 2])
    assert (batch.image.tolist(), batch.twin_image.tolist()) == ([5, 1, 0], [[2], [-1], [3]])
    assert batch.weight is None


def test_a_batch_without_images_of_twins_still_says_which_they_are() -> None:
    batch = some_pairs().batch(draws(some_pairs(), torch.tensor([5, 1, 0])), CPU, twins=False)
    assert batch.twins.shape == (0, 3, 2, 2) and batch.twin_rows.shape == (0,)
    assert batch.twin_image.tolist() == [[2], [-1], [3]]


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=5))
def test_reading_ahead_gives_the_batches_of_images_in_memory_in_the_same_order(rows: list[list[int]]) -> None:
    parts = [draws(some_pairs(), torch.tensor(part)) for part in rows]
    in_memory, ahead = (list(Batches(some_pairs(kind), parts, CPU)) for kind in (True, False))
    assert len(in_memory) == len(rows) == len(ahead)
    for one, other, part in zip(in_memory, ahead, rows, strict=True):
        assert numbers(one.images) == part
        assert all(same(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_time_waited_for_batches_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("infoaug.models.training.pairs.time.perf_counter", lambda: next(now))
    batches = Batches(some_pairs(), [draws(some_pairs(), torch.tensor([0]))] * 3, CPU)
    assert len(list(batches)) == 3
    assert batches.waited == 4  # three batches, and the end


def test_images_fit_while_all_workers_copies_take_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infoaug.models.memory.limit", lambda: 4 * 1000 * 3 * 32 * 32)
    assert pairs.fits(1000, 32, CPU, workers=1)
    assert not pairs.fits(1001, 32, CPU, workers=1)
    assert not pairs.fits(600, 32, CPU, workers=2)
