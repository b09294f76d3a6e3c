"""Video files, decoded by PyAV (FFmpeg): one frame after the other, with exact seeks by time stamps."""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from infoaug.estimators.video.clip_files import ClipError

Frame = NDArray[np.uint8]

# Nothing but the file itself is opened: no network, and no format that reads other files (lists, HLS, image patterns).
_CONTAINERS = (
    "mov", "avi", "flv", "gif", "matroska", "mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "obu", "ivf", "ogg",
    "asf", "yuv4mpegpipe", "mxf", "dv", "nut", "rm",
)  # fmt: skip
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)}
# A text that starts like this lists other videos; a few lists of lists can stand for years of video.
_PLAYLIST = b"ffconcat"
# A damaged file may contain millions of packets without a frame.
_MAX_PACKETS_WITHOUT_FRAME = 4096
_SEEK_ATTEMPTS = 6
# A file is seeked in only if its first frames, this many, have the times of its packets.
_CHECKED_FRAMES = 8
# An aspect ratio this close to 1 comes from rounding in an encoder; resizing would only blur.
_SQUARE_WITHIN = 0.01
_MAX_PIXEL_ASPECT = 4
# Decoders that give a frame for every packet. With others, packets may hold a field, or a frame that is not shown.
_FRAME_PER_PACKET = ("hevc", "libdav1d")
# Of H.264: types of NAL units, and the type of an SEI message.
_IDR_SLICE, _SEI, _RECOVERY_POINT = 5, 6, 6
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True)
class FrameIndex:
    """When the frames of a video are shown, and where a decoder can start, in units of its stream's time base.

    Attributes:
        times: i64[T], presentation time of every frame, ascending.
        keys: i64[K, 2], presentation and decoding time of every packet that a decoder can start from, ascending.
    """

    times: NDArray[np.int64]
    keys: NDArray[np.int64]

    def number(self, time: int | None) -> int | None:
        """Return the number of the frame shown at `time`; None if there is no such frame."""
        if time is None:
            return None
        number = int(np.searchsorted(self.times, time))
        return number if number < len(self.times) and self.times[number] == time else None


class _Faults:
    """Follows damage from one frame to the next: from a packet with errors up to the next key frame."""

    def __init__(self, codec: str) -> None:
        self._first: int | None = None  # numbers of packets, in the order in which they are decoded
        self._last = 0
        # Times of the packets whose frames have not come yet, by number.
        self._awaited: dict[int, int] | None = {} if codec in _FRAME_PER_PACKET else None
        self._shown = False

    def read(self, packet: Any, number: int) -> None:
        """Note a packet that is decoded next."""
        if packet.is_corrupt:
            self.add(number)
        if self._awaited is not None and packet.pts is not None and not packet.is_discard:
            self._awaited[number] = packet.pts

    def add(self, number: int) -> None:
        """Note an error in a packet."""
        self._first = number if self._first is None else min(self._first, number)
        self._last = max(self._last, number)

    def reach(self, frame: VideoFrame, number: int) -> bool:
        """Say whether the next frame in the order of showing, which a packet gave, is damaged or follows a gap."""
        gap = False
        if self._awaited is not None and frame.pts is not None:
            missing = [other for other, time in self._awaited.items() if time < frame.pts]
            gap = self._shown and bool(missing)  # at the start, frames may lack what they were predicted from
            for other in (*missing, number):
                self._awaited.pop(other, None)
        self._shown = True
        damaged = gap or frame.is_corrupt or (self._first is not None and number >= self._first)
        if frame.is_corrupt or (gap and not frame.key_frame):
            self.add(number)
        elif frame.key_frame and number > self._last:
            self._first = None
        return damaged


class VideoFile:
    """An open video file.

    `grab` decodes the next frame, `image` converts it: upright, deinterlaced, with square pixels. Both work from
    wherever `seek` left the decoder, and give the same frames as a pass from the start.

    Attributes:
        fps: frames per second as the file announces them; 0.0 if it does not.
        time: presentation time of the grabbed frame in units of the stream's time base; None if the file has none.
        is_damaged: whether the grabbed frame was decoded with errors, or depends on one that was: no key frame has
            followed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open a video file.

        Args:
            path: a regular file.
            threads: threads of the decoder.

        Raises:
            ClipError: the file holds no video that can be decoded, or is a list of other videos.
            OSError: the file cannot be opened.
        """
        with path.open("rb") as file:
            if file.read(len(_PLAYLIST)) == _PLAYLIST:
                raise ClipError(f"clip {path} is a list of other videos, not one; list them in a manifest")
        self.time: int | None = None
        self.is_damaged = False
        self._convert = VideoReformatter()
        self._packets: Iterator[Any] = iter(())
        self._frames: Iterator[tuple[VideoFrame | None, bool]] = iter(())  # and whether it is damaged
        self._before: VideoFrame | None = None
        self._frame: VideoFrame | None = None
        self._ahead: deque[tuple[VideoFrame | None, bool]] = deque()  # decoded before it was asked for, to deinterlace
        try:
            # With the prefix a name such as `tcp:1` remains a file.
            self._container = av.open(f"file:{path.absolute()}", container_options=_OPTIONS, metadata_errors="replace")
        except (av.FFmpegError, ValueError, UnicodeError):
            raise _undecodable(path) from None
        try:
            self._stream = _video_stream(path, self._container)
            codec = self._stream.codec_context
            codec.flags |= Flags.copy_opaque
            codec.thread_count, codec.thread_type = threads, "AUTO" if threads > 1 else "NONE"
        except BaseException:
            self.close()
            raise
        rate = self._stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate <= 1000 else 0.0
        self._start()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free its frames."""
        # The generators refer to this object: without this the frames would wait for the garbage collector.
        self._packets = self._frames = iter(())
        self._before = self._frame = None
        self._ahead.clear()
        self._container.close()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the grabbed frame's image; before the first, as the file announces them."""
        if self._frame is None:
            codec = self._stream.codec_context
            return codec.height, self._square_width(codec.width)
        height, width = self._frame.height, self._square_width(self._frame.width)
        return (width, height) if self._frame.rotation % 180 == 90 else (height, width)

    @property
    def announced(self) -> int:
        """Number of frames as the file announces it or its duration suggests, which may be wrong; 0 if neither does."""
        if self._stream.frames:
            return self._stream.frames
        if self._stream.duration and self._stream.time_base:
            return round(float(self._stream.duration * self._stream.time_base) * self.fps)
        return round((self._container.duration or 0) / av.time_base * self.fps)

    @property
    def is_interlaced(self) -> bool:
        """Whether the grabbed frame holds two moments in time, in alternate lines."""
        return self._frame is not None and self._frame.interlaced_frame

    @property
    def stream(self) -> int:
        """Number of the decoded stream in the file."""
        return self._stream.index

    @property
    def is_unusual_stream(self) -> bool:
        """Whether FFmpeg would choose another stream of the file."""
        best = self._container.streams.best("video")
        return best is not None and best.index != self._stream.index

    @property
    def is_resized(self) -> bool:
        """Whether frames are resized because the file announces pixels that are not square."""
        width = self._stream.codec_context.width
        return self._square_width(width) != width

    def grab(self) -> bool:
        """Decode the next frame; False at the end of the video."""
        frame, damaged = self._ahead.popleft() if self._ahead else next(self._frames, (None, False))
        if frame is None:
            return False
        self.is_damaged = damaged
        self._before, self._frame, self.time = self._frame, frame, frame.pts
        return True

    def image(self) -> Frame:
        """Convert the grabbed frame: u8[H, W, 3] BGR."""
        frame = self._frame
        assert frame is not None
        if frame.interlaced_frame:
            if not self._ahead:
                self._ahead.append(next(self._frames, (None, False)))
            frame = _deinterlaced(self._before, frame, self._ahead[0][0])
        # OpenCV's VideoCapture converts with the same settings, so pixels are those of earlier versions.
        converted = self._convert.reformat(
            frame,
            width=self._square_width(frame.width),
            format="bgr24",
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        image: Any = converted.to_ndarray()
        turn = _ROTATIONS.get(self._frame.rotation % 360) if self._frame is not None else None
        return image if turn is None else cv2.rotate(image, turn)

    def seek(self, index: FrameIndex, first: int) -> int | None:
        """Grab a frame before frame `first`, as near as a decoder can start.

        Returns:
            The number of the grabbed frame; None if the container cannot be seeked in, and the decoder is anywhere.
        """
        # The frame before `first`, not `first` itself: deinterlacing needs it.
        target = index.times[first - 1]
        key = int(np.searchsorted(index.keys[:, 0], target, side="right")) - 1
        for attempt in range(_SEEK_ATTEMPTS):
            # Containers search by presentation or by decoding times; some land behind the key packet all the same.
            back = key - (0, 0, 1, 2, 4, 8)[attempt]
            if back < 0:
                return None
            try:
                self._container.seek(int(index.keys[back, min(attempt, 1)]), stream=self._stream)
            except av.FFmpegError:
                return None
            landed = self._start(index)
            if landed is not None and landed <= target:
                # Frames shown before the key packet, but stored behind it, lack what they were predicted from.
                while self.grab():
                    if self.time is not None and self.time >= landed:
                        number = index.number(self.time)
                        return number if number is not None and number < first else None
                return None
        return None

    @property
    def codec(self) -> VideoCodecContext:
        """The decoder."""
        return self._stream.codec_context

    def packets(self) -> Iterator[Any]:
        """List the packets of the video from where the file stands, without decoding them."""
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except av.FFmpegError:
            return  # the rest of a damaged container cannot be found

    def _start(self, index: FrameIndex | None = None) -> int | None:
        """Decode from the container's position; with an index, from its next key packet, whose time is returned."""
        self._packets = self.packets()
        self._before = self._frame = self.time = None
        self._ahead.clear()
        starts = set() if index is None else set(index.keys[:, 0].tolist())
        landed = None
        if index is not None:
            for packet in self._packets:
                if packet.is_keyframe and packet.pts in starts:
                    self._packets, landed = chain([packet], self._packets), packet.pts
                    break
        self._frames = self._decoded()
        return landed

    def _decoded(self) -> Iterator[tuple[VideoFrame, bool]]:
        """Decode the packets: each frame, and whether it is damaged."""
        without_frame = 0
        faulty = _Faults(self.codec.name)
        # Some decoders mark only the frame after the one with errors, so the one before a damaged frame counts as
        # damaged, too.
        held: tuple[VideoFrame, bool] | None = None
        for number, packet in enumerate(chain(self._packets, [None])):
            without_frame += 1
            try:
                if packet is None:
                    frames = self._stream.codec_context.decode(None)
                else:
                    packet.opaque = number  # the decoder, which gives frames late, passes it on to the packet's frame
                    faulty.read(packet, number)
                    frames = packet.decode()
            except av.FFmpegError:
                frames = []  # the decoder carries on with the next packet
                faulty.add(number)
            for frame in frames:
                source = frame.opaque if isinstance(frame.opaque, int) else number
                damaged = faulty.reach(frame, source)
                if held is not None:
                    yield held[0], held[1] or damaged
                held = frame, damaged
            if frames:
                without_frame = 0
            elif without_frame > _MAX_PACKETS_WITHOUT_FRAME:
                break
        if held is not None:
            yield held

    def _square_width(self, width: int) -> int:
        """Width in pixels of a frame once its pixels are square."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if abs(aspect - 1) <= _SQUARE_WITHIN or not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
            return width
        return max(1, round(width * aspect))


@lru_cache(maxsize=16)
def frame_index(path: str, size: int, modified: int) -> FrameIndex | None:
    """List when each frame of a video is shown, once for a file of this size and time of modification.

    The packets of the file are read, not decoded.

    Returns:
        None if the frames cannot be identified by their times: missing, repeated, or not those of the decoded frames.
    """
    with VideoFile(Path(path)) as video:
        shown = [video.time for _ in range(_CHECKED_FRAMES) if video.grab()]
    times, keys = array("q"), array("q")
    with VideoFile(Path(path)) as video:
        codec = video.codec
        for packet in video.packets():
            if packet.is_discard:
                continue  # hidden by an edit list
            if packet.pts is None or packet.is_corrupt or _is_hidden(packet, codec):
                return None
            times.append(packet.pts)
            if packet.is_keyframe and _is_clean_start(packet, codec):
                keys.extend((packet.pts, packet.pts if packet.dts is None else packet.dts))
    ordered = np.sort(times)
    if not shown or shown[0] is None or (np.diff(ordered) <= 0).any():
        return None
    ordered = ordered[np.searchsorted(ordered, shown[0]) :]
    if ordered[: len(shown)].tolist() != shown:
        return None
    starts = np.array(keys, np.int64).reshape(-1, 2)
    index = FrameIndex(ordered, starts[np.argsort(starts[:, 0])])
    index.times.setflags(write=False)
    index.keys.setflags(write=False)
    return index


def conversions(path: Path) -> list[str]:
    """Name what is special about the frames of a video: `deinterlaced`, `square pixels`, `stream 1`; often nothing.

    `stream N` is a stream that FFmpeg would not choose. Judged by the first frames. Raises ClipError as `VideoFile`
    does.
    """
    with VideoFile(path) as video:
        found = [f"stream {video.stream}"] if video.is_unusual_stream else []
        found += ["square pixels"] if video.is_resized else []
        interlaced = any(video.is_interlaced for _ in range(_CHECKED_FRAMES) if video.grab())
        return [*found, "deinterlaced"] if interlaced else found


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """Choose the stream to decode: of those that the file marks as default, or else of all, the one of most pixels.

    Raises ClipError if the file has no video.
    """
    # PyAV gives a stream without a decoder to a codec that it does not know.
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams:
        raise _undecodable(path)
    streams = [stream for stream in streams if not stream.disposition & _PICTURES]
    if not streams:
        raise ClipError(f"clip {path} is sound with a cover picture, not a video; leave it out")
    marked = [stream for stream in streams if stream.disposition & Disposition.default] or streams
    best = container.streams.best("video") or marked[0]
    return max(marked, key=lambda one: (one.codec_context.width * one.codec_context.height, one.index == best.index))


def _undecodable(path: Path) -> ClipError:
    return ClipError(f"clip {path} is no video that can be decoded; convert it or leave it out")


def _deinterlaced(before: VideoFrame | None, frame: VideoFrame, after: VideoFrame | None) -> VideoFrame:
    """Interpolate the lines of an interlaced frame that were recorded at another time than the rest.

    The neighbours in time tell still lines, which are kept, from moving ones. They are given to a new filter for every
    frame, so that the result does not depend on where decoding began.
    """
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame"), graph.add("buffersink")).configure()
    position = 0  # of the frame among those given to the filter
    for neighbour in (before, frame, after):
        if neighbour is not None and _alike(neighbour, frame):
            position += neighbour is before
            graph.vpush(neighbour)
    graph.vpush(None)
    for _ in range(position):
        graph.vpull()
    return graph.vpull()


def _alike(a: VideoFrame, b: VideoFrame) -> bool:
    return (a.width, a.height, a.format.name) == (b.width, b.height, b.format.name)


def _is_hidden(packet: Any, codec: VideoCodecContext) -> bool:
    """Tell a packet of VP8 that is only predicted from, and never shown."""
    return codec.name in ("vp8", "libvpx") and not bytes(packet)[0] >> 4 & 1


def _is_clean_start(packet: Any, codec: VideoCodecContext) -> bool:
    """Say whether every picture from a key packet on is complete.

    In H.264 it is if the packet holds a slice of an IDR picture, or announces a recovery after zero frames. Where the
    picture is refreshed part by part instead, FFmpeg shows broken pictures until the refresh is over.
    """
    if codec.name != "h264":
        return True
    for unit in _h264_units(bytes(packet), codec.extradata or b""):
        kind = unit[0] & 31 if unit else 0
        if kind == _IDR_SLICE:
            return True
        if kind == _SEI and any(number == _RECOVERY_POINT and body[:1] >= b"\x80" for number, body in _messages(unit)):
            return True
    return False


def _h264_units(packet: bytes, extradata: bytes) -> Iterator[bytes]:
    """Split a packet of H.264 into its NAL units, which start with a code or, as in MP4, with their length."""
    if extradata[:1] != b"\x01" or len(extradata) < 5:
        yield from packet.split(b"\x00\x00\x01")[1:]
        return
    width = (extradata[4] & 3) + 1
    while len(packet) > width:
        end = width + int.from_bytes(packet[:width], "big")
        yield packet[width:end]
        packet = packet[end:]


def _messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """List the messages of an SEI unit of H.264: type and content."""
    at = 1
    while at + 2 < len(unit):
        numbers = []
        for _ in range(2):  # type and size: bytes of 255, and one that is less, add up
            number = 0
            while unit[at : at + 1] == b"\xff":
                number, at = number + 255, at + 1
            number, at = number + int.from_bytes(unit[at : at + 1], "big"), at + 1
            numbers.append(number)
        yield numbers[0], unit[at : at + numbers[1]]
        at += numbers[1]
