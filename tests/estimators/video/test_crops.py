import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoaug.estimators.video import crops, patches


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5), st.integers(1, 9))
def test_crops_are_at_visible_frames_the_first_at_the_start_and_the_last_where_the_track_is_last_seen(seen, count):
    visible = np.array(seen)
    chosen = crops.crop_frames(visible, count)
    assert chosen.shape == (len(visible), count)
    for row, own in zip(chosen, visible, strict=True):
        frames = row[row >= 0]
        known = {0, *np.flatnonzero(own)}
        assert (row[len(frames) :] == -1).all() and frames[0] == 0 and (np.diff(frames) > 0).all()
        assert set(frames) <= known and len(frames) == min(count, len(known))
        assert count == 1 or frames[-1] == max(known)


def test_crops_are_spread_evenly_over_the_frames_in_which_a_track_is_seen():
    visible = np.ones((3, 48), bool)
    visible[1, 20:] = False
    visible[2, 3:] = False
    assert crops.crop_frames(visible, 4).tolist() == [[0, 16, 31, 47], [0, 6, 13, 19], [0, 1, 2, -1]]


def test_every_crop_is_centred_on_the_point_in_its_frame_and_shifted_inwards_at_the_border():
    frames = noise(5, 40, 50, 3)
    position = np.cumsum(np.full((2, 5, 2), [4, 3], np.float32), axis=1) + np.array([[[3, 3]], [[22, 20]]], np.float32)
    at = np.array([[0, 2, 4], [0, 4, -1]])
    found = crops.cut(frames, position, at, 9, 9)
    assert found.shape == (2, 3, 9, 9, 3)
    for track, crop in np.argwhere(at >= 0):
        x, y = np.rint(position[track, at[track, crop]]).astype(int)
        left, top = min(max(x - 4, 0), 50 - 9), min(max(y - 4, 0), 40 - 9)
        assert np.array_equal(found[track, crop], frames[at[track, crop], top : top + 9, left : left + 9])
    assert not found[1, 2].any()
    boxes = patches.crop_boxes(position[:, 0], 40, 50, 9)
    assert np.array_equal(found[:, 0], patches.patch_images(frames[0], boxes, 9))


def test_crops_are_the_same_once_they_are_compressed_and_decompressed():
    images, at = noise(3, 4, 8, 8, 3), np.array([[0, 1, 2, 3], [0, -1, -1, -1], [0, 5, -1, -1]])
    decoded = crops.decode(crops.encode(images, at))
    assert np.array_equal(decoded, images[at >= 0])


@pytest.mark.parametrize("content", [b"", b"junk", cv2.imencode(".png", noise(9, 8, 3))[1].tobytes()])
def test_what_is_no_crops_is_refused(content):
    with pytest.raises(ValueError, match="crops"):
        crops.decode([content])
