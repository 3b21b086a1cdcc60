"""Frames of MLLP (HL7 v2.x transport, release 1): VT, message, FS, CR; as senders really write them. Pure.

A frame ends at FS CR, at FS VT, and at FS with silence behind it (`end_pending`). VT inside a frame starts the frame
again. Bytes outside frames are skipped and counted; line ends between frames count as nothing.
"""

from __future__ import annotations

import re

VT, FS, CR = 0x0B, 0x1C, 0x0D
FRAME_START, FRAME_END = b"\x0b", b"\x1c\r"
_MARKS = re.compile(rb"[\x0b\x1c]")
_LINE_ENDS = b"\r\n"


def frame(message: bytes) -> bytes:
    """Put a message into a frame."""
    return FRAME_START + message + FRAME_END


class FrameTooLong(Exception):
    """A frame has more bytes than one may have."""


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer: bytearray | None = None  # of the frame that has begun
        self._has_fs = False  # the last byte was FS
        self.junk_bytes = 0  # outside frames, and of frames that were given up; in all
        self.outside_bytes = 0  # outside frames since the last frame, with line ends

    @property
    def is_inside(self) -> bool:
        """Has a frame begun?"""
        return self._buffer is not None

    @property
    def is_pending(self) -> bool:
        """Is a frame whole but for the CR behind its FS?"""
        return self._has_fs

    @property
    def held_bytes(self) -> int:
        return len(self._buffer or b"")

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the frames that end in them. Raises FrameTooLong."""
        found: list[bytes] = []
        at = 0
        while at < len(data):
            if self._buffer is None:
                at = self._skip(data, at)
            elif self._has_fs:
                at = self._end_or_go_on(data, at, found)
            else:
                at = self._take(data, at)
        return found

    def end_pending(self) -> list[bytes]:
        """There is silence behind FS: that was the end of the frame."""
        return [self._finish()] if self._has_fs else []

    def _skip(self, data: bytes, at: int) -> int:
        start = data.find(FRAME_START, at)
        end = len(data) if start < 0 else start
        self.outside_bytes += end - at
        self.junk_bytes += len(data[at:end].translate(None, _LINE_ENDS))
        if start < 0:
            return end
        self._buffer, self.outside_bytes = bytearray(), 0
        return start + 1

    def _take(self, data: bytes, at: int) -> int:
        assert self._buffer is not None
        mark = _MARKS.search(data, at)
        end = len(data) if mark is None else mark.start()
        self._buffer += data[at:end]
        if len(self._buffer) > self._most_bytes:
            raise FrameTooLong
        if mark is None:
            return end
        if data[end] == FS:
            self._has_fs = True
        else:
            self.junk_bytes += len(self._buffer)
            self._buffer = bytearray()
        return end + 1

    def _end_or_go_on(self, data: bytes, at: int, found: list[bytes]) -> int:
        """The byte behind FS."""
        if data[at] == CR:
            found.append(self._finish())
            return at + 1
        if data[at] == VT:
            found.append(self._finish())
            return at
        assert self._buffer is not None
        self._buffer.append(FS)
        self._has_fs = False
        return at

    def _finish(self) -> bytes:
        message = bytes(self._buffer or b"")
        self._buffer, self._has_fs = None, False
        return message
