"""Looks into packets without decoding them: may the number of a frame be told by counting them?

It may where every packet holds one picture, where key frames are what they are called, and where the stream stays what
it is. Decoders give no frame for a damaged or an empty picture, containers call frames key frames that are not, and
after a change of parameters a decoder that starts between two of them uses the wrong ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from av.packet import Packet
from av.video.stream import VideoStream

_BY_FLAGS = frozenset({"ffv1", "flv1", "h263", "msmpeg4v2", "msmpeg4v3", "theora", "vc1", "wmv1", "wmv2", "wmv3"})
"""Codecs whose key frames are those that the container names, unless it names all of them."""

_NO_SEEKING = frozenset({"nut", "rm"})
"""Containers in which time stamps of appended recordings are not unique."""

_LEAST_MPEG4 = 16
"""Bytes. A smaller picture of MPEG-4 repeats the one before, and a decoder may leave it out."""

_START = b"\0\0\1"


class PacketCheck:
    """The packets of a stream, in their order."""

    def __init__(self, container: str, stream: VideoStream) -> None:
        self._codec = stream.codec_context.codec
        self._name = self._codec.canonical_name
        self._length_size = self._size_of_lengths(stream.codec_context.extradata or b"")
        self._parameters: set[bytes] = set()
        self._packets = self._keys = 0
        self.sure = container not in _NO_SEEKING
        """Whether counting packets tells the numbers of frames, so far."""

    def _size_of_lengths(self, extradata: bytes) -> int:
        """Bytes of the length before each unit of H.264 and HEVC; 0 for start codes."""
        at = {"h264": 4, "hevc": 21}.get(self._name)
        return 0 if at is None or len(extradata) <= at or extradata[0] != 1 else (extradata[at] & 3) + 1

    def add(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet into account."""
        self._packets += 1
        self._keys += packet.is_keyframe
        if self.sure:
            self.sure = not packet.has_sidedata("new_extradata") and self._holds(packet)

    def _holds(self, packet: Packet[VideoStream]) -> bool:
        data = bytes(packet)
        if self._name in ("h264", "hevc"):
            return self._units(data)
        if self._name in ("mpeg1video", "mpeg2video"):
            return self._mpeg2(data, packet.is_keyframe)
        if self._name == "mpeg4":
            place = data.find(_START + b"\xb6")
            return len(data) >= _LEAST_MPEG4 and place >= 0 and (not packet.is_keyframe or not data[place + 4] >> 6)
        if self._name == "vp8":
            return packet.is_keyframe == (not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a")
        known = self._name in ("vp9", "av1") or self._codec.intra_only or self._name in _BY_FLAGS
        return known and any(data[:16])

    def _mpeg2(self, data: bytes, is_key: bool) -> bool:
        sequence = data.find(_START + b"\xb3")
        if sequence >= 0 and not self._same(data[sequence : sequence + 8]):
            return False
        place = data.find(_START + b"\0")
        return 0 <= place < len(data) - 5 and (not is_key or data[place + 5] >> 3 & 7 == 1)

    def _units(self, data: bytes) -> bool:
        """Whether there is a slice, and before it no parameter set that differs from those at the start."""
        for unit in self._behind_lengths(data) if self._length_size else self._behind_start_codes(data):
            kind = self._kind(unit[0])
            if self._is_slice(kind):
                return True
            is_parameters = kind in ((32, 33, 34) if self._name == "hevc" else (7, 8))
            if is_parameters and not self._same(unit.rstrip(b"\0")):
                return False
        return False

    def _kind(self, first: int) -> int:
        return first >> 1 & 63 if self._name == "hevc" else first & 31

    def _is_slice(self, kind: int) -> bool:
        return kind <= 31 if self._name == "hevc" else 1 <= kind <= 5

    def _behind_lengths(self, data: bytes) -> Iterator[bytes]:
        """Units as MP4 has them; nothing more after one that does not fit."""
        end, size = 0, self._length_size
        while end + size < len(data):
            begin = end + size
            end = begin + int.from_bytes(data[end:begin], "big")
            if not begin < end <= len(data):
                return
            yield data[begin:end]

    def _behind_start_codes(self, data: bytes) -> Iterator[bytes]:
        """Units as streams have them. A slice is not searched for its end."""
        begin = data.find(_START) + 3
        while 3 <= begin < len(data):
            if self._is_slice(self._kind(data[begin])):
                yield data[begin:]
                return
            end = data.find(_START, begin)
            yield data[begin : end if end > 0 else len(data)]
            begin = end + 3

    def _same(self, parameters: bytes) -> bool:
        """Whether parameters were there in the first packet; all are, until it ends."""
        if self._packets == 1:
            self._parameters.add(parameters)
        return parameters in self._parameters

    def finish(self) -> bool:
        """Whether counting tells the numbers of all frames."""
        named = self._name in _BY_FLAGS and not self._codec.intra_only
        return self.sure and self._keys > 0 and not (named and self._keys == self._packets > 1)
