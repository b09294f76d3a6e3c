from collections import deque

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.models.queue import Queue

batches = st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=6)


@settings(max_examples=60)
@given(size=st.integers(1, 8), batches=batches, seed=st.integers(0, 99))
def test_whatever_comes_in_it_holds_the_last_keys_in_their_order(size, batches, seed):
    torch.manual_seed(seed)
    queue = Queue(size, 3)
    expected = deque(zip(queue.keys.tolist(), queue.image.tolist(), strict=True), maxlen=size)
    for number, counts in enumerate(batches):
        keys, image = torch.randn(len(counts), 3), torch.arange(len(counts)) + 10 * number
        queue.push(keys, image, torch.tensor(counts))
        rows = zip(F.normalize(keys, dim=1).tolist(), image.tolist(), counts, strict=True)
        expected.extend((key, image) for key, image, counted in rows if counted)
        at = -int(queue.position)
        held = list(zip(queue.keys.roll(at, 0).tolist(), queue.image.roll(at).tolist(), strict=True))
        assert held == list(expected)


def test_it_starts_full_of_unit_vectors_of_no_known_image():
    queue = Queue(50, 4)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert (queue.image == -1).all() and len(queue.keys.unique(dim=0)) == 50


def test_its_whole_state_is_in_the_state_dict_and_takes_no_gradient():
    torch.manual_seed(0)
    queue = Queue(5, 2)
    queue.push(torch.randn(3, 2, requires_grad=True))
    other = Queue(5, 2)
    other.load_state_dict(queue.state_dict())
    more = torch.randn(4, 2)
    queue.push(more), other.push(more)
    assert all(torch.equal(part, other.state_dict()[name]) for name, part in queue.state_dict().items())
    assert not any(part.requires_grad for part in queue.buffers())


def test_the_nearest_key_is_the_one_of_the_greatest_cosine_under_autocast_too():
    torch.manual_seed(0)
    queue, embeddings = Queue(300, 3), 5 * torch.randn(20, 3, requires_grad=True)
    queue.image = torch.arange(300) + 7
    expected = torch.cosine_similarity(embeddings[:, None], queue.keys, dim=2).argmax(dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys, image = queue.nearest(embeddings)
    assert torch.equal(keys, queue.keys[expected]) and torch.equal(image, expected + 7) and not keys.requires_grad


def test_rows_that_do_not_go_in_may_hold_anything():
    queue = Queue(4, 2)
    queue.push(torch.tensor([[torch.nan, 1.0], [3.0, 4.0]]), valid=torch.tensor([False, True]))
    torch.testing.assert_close(queue.keys[0], torch.tensor([0.6, 0.8]))
    assert queue.keys.isfinite().all() and queue.position == 1


def test_what_was_read_before_a_push_stays_as_it_was():
    queue = Queue(3, 2)
    before = queue.keys
    copy = before.clone()
    queue.push(torch.randn(2, 2))
    assert torch.equal(before, copy) and not torch.equal(queue.keys, copy)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0)])
def test_a_queue_without_room_is_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Queue(*arguments)
