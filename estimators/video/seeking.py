"""Seeking: the frames of a video told apart by when they are shown, so that a jump is as exact as a sequential pass.

FFmpeg reads a video through OpenCV, which only seeks to a frame as numbered at a steady rate.
"""

import re
from array import array

import cv2
import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]

# OpenCV looks for a key frame this many frames before the one it is sent to.
_MARGIN = 16
_ATTEMPTS = 6
# A key packet of H.264 (Annex B) after which every picture is whole: one with an IDR slice, or with a recovery point of
# zero frames. Where the picture is refreshed bit by bit instead, a decoder that starts there shows a broken picture.
_CLEAN_START = re.compile(rb"\x00\x00\x01(?:[\x25\x45\x65]|\x06\x06.[\x80-\xff])", re.DOTALL)


def frame_times(video: cv2.VideoCapture, packets: cv2.VideoCapture) -> Times | None:
    """List when each frame is shown, by number: i64[T] microseconds; None if frames cannot be told by their times.

    `video` and `packets` are the same file opened anew, the second with `cv2.CAP_PROP_FORMAT` −1: it is read through,
    not decoded. Both are left somewhere.
    """
    is_h264 = int(packets.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").lower() in (b"h264", b"avc1", b"x264")
    listed = array("q")
    rounded = array("q")  # the same in frames of a steady rate
    while packets.grab():
        listed.append(_time(packets))
        rounded.append(int(packets.get(cv2.CAP_PROP_PTS)))
        is_key = is_h264 and packets.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME)
        if is_key and not _CLEAN_START.search(packets.retrieve()[1].tobytes()):
            return None
    times = np.sort(listed)
    if len(times) < 2 or (np.diff(times) <= 0).any() or not video.grab():
        return None
    first = frame_number(video, times)
    if first is None:
        return None
    times = times[first:]
    if np.ptp(np.diff(np.sort(rounded))) and _last_time(video, times) != times[-1]:
        # The frames are spaced unevenly and the file hides some (an edit list): it cannot be told which.
        return None
    times.setflags(write=False)
    return times


def frame_number(video: cv2.VideoCapture, times: Times) -> int | None:
    """Number of the frame just taken, by its time; None if no frame is to be shown then."""
    time = _time(video)
    number = int(np.searchsorted(times, time))
    return number if number < len(times) and times[number] == time else None


def seek(video: cv2.VideoCapture, times: Times, first: int, fps: float) -> int | None:
    """Jump to a frame before frame `first`, as near as can be, and take it: its number; None if that cannot be.

    `times` are those of the frames, `fps` their rate as OpenCV reports it.
    """
    # OpenCV counts frames at a steady rate, so it may come out after the frame: then it is sent back further.
    aim = int((times[first] - times[0]) * 1e-6 * fps) - 1
    for attempt in range(_ATTEMPTS):
        if aim < 2:
            break
        video.set(cv2.CAP_PROP_POS_FRAMES, aim)
        number = frame_number(video, times) if video.grab() else None
        if number is not None and number < first:
            return number
        aim -= max(0, (number or 0) - first) + (_MARGIN << attempt)
    return None


def _last_time(video: cv2.VideoCapture, times: Times) -> int:
    """Seek near the end and say when the last frame is shown."""
    video.set(cv2.CAP_PROP_POS_FRAMES, int((times[-1] - times[0]) * 1e-6 * video.get(cv2.CAP_PROP_FPS)) - _MARGIN)
    last = -1
    while video.grab():
        last = _time(video)
    return last


def _time(video: cv2.VideoCapture) -> int:
    """When the frame or packet just taken is shown, in microseconds."""
    return round(1000 * video.get(cv2.CAP_PROP_POS_MSEC))
