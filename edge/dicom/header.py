"""A bounded reading of the header of a data set: the few attributes that routing and the catalog need.

Promise: `scan` returns what was asked for, or raises `Unreadable` with the place and the cause; never anything else,
whatever the bytes are. It builds no Dataset, does not recurse, passes over long values without reading them, and reads
MAX_LOOK bytes at most (an element takes at least 8, so that bounds their number and the time too).

Limits: tags are taken to ascend, so nothing is looked for behind the greatest wanted tag, nor behind the pixel data;
of an attribute that occurs twice the first counts. The content of skipped values is not checked. In implicit VR a
private sequence of defined length cannot be distinguished from other bytes, and is not entered.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from edge.dicom.elements import (
    CHARACTER_SET,
    DEFLATED,
    EXPLICIT,
    FORMS,
    IMPLICIT,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    OPAQUE,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    Form,
    is_sequence,
    read_head,
    to_values,
    vr_of,
)
from edge.errors import Unreadable
from edge.model import ContextKey, InstanceHeader, Origin, Values

#: `read(offset, n)`: up to n bytes of the data set from offset on; fewer or none at its end.
Read = Callable[[int, int], bytes]


def read_at(fd: int, offset: int) -> Read:
    """Reads of a data set that begins at `offset` of an open file."""
    return lambda at, count: os.pread(fd, count, offset + at)


def read_from(data: bytes) -> Read:
    """Reads of a data set in memory."""
    return lambda at, count: data[at : at + count]


WINDOW = 16 * 1024  # bytes read at once; the header of most objects needs one window
MAX_LOOK = 2 * 1024 * 1024  # bytes of all windows, and of inflated data: half a second at worst
MAX_VALUE = 4 * 1024  # bytes of a value; a rule compares names and codes, never a text of pages
MAX_NESTED_VALUES = 64  # distinct values of one attribute found inside sequences

MAX_REFERENCES = 10_000  # SOP Instance UIDs that are taken from one object

_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_BEHIND_REFERENCES = 0x0040FFFF  # wanted so that the walk reaches (0040,A375) and (0040,A730)
PIXEL_DATA = 0x7FE00008  # Float; (7FE0,0009) Double Float and (7FE0,0010) follow
END_OF_DATA = 1 << 32  # stands for a tag, and is greater than all
UNKNOWN_END = sys.maxsize  # of a deflated data set, until it is reached


@dataclass(frozen=True)
class HeaderSearch:
    """What is read of every header."""

    wanted: dict[int, str]  # tag -> keyword
    nested: frozenset[int]  # of these, what may also be found inside sequences

    @cached_property
    def name(self) -> str:
        """Distinguishes one search from others."""
        said = repr((sorted(self.wanted), sorted(self.nested))).encode()
        return hashlib.sha256(said).hexdigest()[:16]


def read_header(
    read: Read, length: int, context_key: ContextKey, sop_instance_uid: str, origin: Origin, search: HeaderSearch
) -> InstanceHeader:
    """Read the facts of an object from its header, within bounds. Raises Unreadable."""
    found = scan(read, length, context_key.transfer_syntax_uid, frozenset(search.wanted), search.nested)
    attributes = {search.wanted[tag]: values for tag, values in found.items()}
    facts = InstanceHeader(
        context_key.sop_class_uid, sop_instance_uid, context_key.transfer_syntax_uid, origin, attributes
    )
    if facts.first("SOPInstanceUID") != sop_instance_uid:
        raise Unreadable("the SOP Instance UID of the data set is not that of the C-STORE request")
    if facts.first("SOPClassUID") != context_key.sop_class_uid:
        raise Unreadable("the SOP Class UID of the data set is not that of the C-STORE request")
    return facts


def scan(
    read: Read,
    length: int,
    transfer_syntax_uid: str,
    wanted: frozenset[int],
    nested: frozenset[int] = frozenset(),
    most_nested: int = MAX_NESTED_VALUES,
) -> dict[int, Values]:
    """Values of those of the `wanted` tags that the data set of `length` bytes has at its top level.

    The `nested` tags are looked for inside sequences too: where the top level has none, all the values met below count,
    `most_nested` of each, as far as MAX_LOOK reaches. That costs a walk to the pixel data for each object that lacks
    one of them. Zero length gives `()`, what is no text `OPAQUE`. Raises Unreadable.
    """
    form = FORMS.get(transfer_syntax_uid, EXPLICIT)
    if transfer_syntax_uid in DEFLATED:
        read, length = Inflated(read).read, UNKNOWN_END
    walk = Walk(Window(read, length, MAX_LOOK), wanted, nested, most_nested)
    try:
        walk.top_level(form)
    except _TooMuch:
        if not walk.has_wanted:
            raise
    return {tag: tuple(values) for tag, values in walk.below.items() if values} | walk.found


def references(read: Read, length: int, transfer_syntax_uid: str) -> tuple[str, ...]:
    """Every SOP Instance UID that a data set references (0008,1155), at any depth; MAX_REFERENCES at most."""
    tags = frozenset({_REFERENCED_SOP_INSTANCE_UID, _BEHIND_REFERENCES})
    return scan(read, length, transfer_syntax_uid, tags, frozenset({_REFERENCED_SOP_INSTANCE_UID}), MAX_REFERENCES).get(
        _REFERENCED_SOP_INSTANCE_UID, ()
    )


class _TooMuch(Unreadable):
    """MAX_LOOK is used up."""


def _unreadable(tag: int, offset: int, why: str) -> Unreadable:
    return Unreadable(f"the data set cannot be read at ({tag >> 16:04X},{tag & 0xFFFF:04X}), byte {offset}: {why}")


class Window:
    """The part of the data set that is in memory; it only moves forward."""

    __slots__ = ("_base", "_bytes", "_last", "_most", "_read", "_read_bytes", "end")

    def __init__(self, read: Read, end: int, most: int) -> None:
        """`most`: bytes that are read of all windows."""
        self._read, self._most = read, most
        self.end = end
        self._base, self._bytes, self._last, self._read_bytes = 0, b"", -1, 0

    def element(self, offset: int, form: Form) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty if not stated), offset and length of the value of the element at `offset`."""
        at = offset - self._base
        if at > self._last:
            if not self._move(offset):
                return END_OF_DATA, b"", offset, 0
            at = 0
        if form.explicit:
            group, number, vr, size = form.head(self._bytes, at)
            if vr in SHORT_VRS and group != 0xFFFE:
                return group << 16 | number, vr, offset + 8, size
            tag, vr, start, size = read_head(self._bytes, at, form)
            return tag, vr, start + self._base, size
        group, number, size = form.head(self._bytes, at)
        return group << 16 | number, b"", offset + 8, size

    def value(self, offset: int, size: int) -> bytes:
        """The bytes of a value, which are within the data set."""
        at = offset - self._base
        if 0 <= at <= len(self._bytes) - size:
            return self._bytes[at : at + size]
        return _read_fully(self._read, offset, size)

    def _move(self, offset: int) -> bool:
        """Let the window begin at `offset`; false if the data set ends there."""
        size = min(WINDOW, self.end - offset)
        self._read_bytes += max(size, 0)
        if self._read_bytes > self._most:
            raise _TooMuch(
                f"the header of the data set is too long: it goes on after {self._most} bytes, byte {offset}"
            )
        data = _read_fully(self._read, offset, size) if size > 0 else b""
        if len(data) < size:
            if self.end != UNKNOWN_END:
                raise Unreadable(f"only {offset + len(data)} of the {self.end} bytes of the data set can be read")
            self.end = offset + len(data)
        if data and len(data) < 8:
            raise Unreadable(f"the data set cannot be read at byte {offset}: it ends in the middle of an element")
        at_end = offset + len(data) >= self.end
        self._base, self._bytes = offset, data + bytes(4) if at_end else data
        self._last = len(self._bytes) - 12
        return bool(data)


def _read_fully(read: Read, offset: int, size: int) -> bytes:
    data = read(offset, size)
    while len(data) < size and (more := read(offset + len(data), size - len(data))):
        data += more
    return data


class Inflated:
    """Reads a deflated data set, inflating no further than it is asked for."""

    def __init__(self, read: Read) -> None:
        self._read, self._consumed = read, 0
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()

    def read(self, offset: int, size: int) -> bytes:
        if offset > MAX_LOOK:
            raise _TooMuch(f"the header of the data set is too long: over {MAX_LOOK} bytes when inflated")
        while len(self._data) < offset + size and not self._zlib.eof:
            self._inflate(offset + size - len(self._data))
        if offset > len(self._data):
            raise Unreadable(f"the deflated data set ends at byte {len(self._data)}, within a value")
        return bytes(self._data[offset : offset + size])

    def _inflate(self, size: int) -> None:
        deflated = self._zlib.unconsumed_tail
        if not deflated:
            deflated = self._read(self._consumed, WINDOW)
            self._consumed += len(deflated)
        try:
            inflated = self._zlib.decompress(deflated, size)
        except zlib.error as error:
            raise Unreadable(f"the data set cannot be inflated after byte {len(self._data)}: {error}") from None
        if not deflated and not inflated and not self._zlib.eof:
            raise Unreadable(f"the deflated data set is cut short after {self._consumed} bytes")
        self._data += inflated


class _Level(NamedTuple):
    """A sequence or an item that has been entered."""

    sequence: int  # its tag, for messages
    end: int  # where it ends, or must have been closed
    closed_by: int  # the delimiter of undefined length; 0 where the length is defined
    holds_items: bool  # a sequence, as against an item
    is_bulk: bool  # encapsulated fragments (PS3.5 section A.4): the items hold no elements
    form: Form
    charset: Values


class Walk:
    """One pass over the elements, in order, gathering what is looked for."""

    def __init__(self, window: Window, wanted: frozenset[int], nested: frozenset[int], most_nested: int) -> None:
        self.window, self.most_nested = window, most_nested
        self.keep = wanted | nested
        self.look = self.keep | {CHARACTER_SET}
        self.last = min(max(wanted, default=0), PIXEL_DATA - 1)
        self.has_wanted = False
        self.found: dict[int, Values] = {}
        #: Values met inside sequences, of the nested tags that the top level has not shown so far.
        self.below: dict[int, dict[str, None]] = {tag: {} for tag in nested}
        self.charset: Values = ()

    def top_level(self, form: Form) -> None:
        """The hot loop: most objects need no other."""
        window, look, below, last = self.window, self.look, self.below, self.last
        offset = 0
        while True:
            tag, vr, start, size = window.element(offset, form)
            if tag > last:
                self.has_wanted = True
                if tag >= PIXEL_DATA or not below:
                    return
            if size == UNDEFINED or (below and is_sequence(tag, vr)):
                offset = self.walk_sequence(offset, form)
            else:
                offset = start + size
                if offset > window.end:
                    raise _past_end(tag, start, size)
            if tag in look and tag not in self.found:
                self._take(tag, vr, start, size, form)

    def _take(self, tag: int, vr: bytes, start: int, size: int, form: Form) -> None:
        values = self._values(tag, vr, start, size, form, self.charset)
        if tag == CHARACTER_SET:
            self.charset = values
        if tag in self.keep:
            self.found[tag] = values
            self.below.pop(tag, None)

    def walk_sequence(self, offset: int, form: Form) -> int:
        """Walk through the sequence whose element is at `offset`; returns the offset behind it."""
        stack = [_Level(0, self.window.end, 0, False, False, form, self.charset)]
        while True:
            level = stack[-1]
            tag, vr, start, size = self.window.element(offset, level.form)
            offset = start
            if level.closed_by and tag == level.closed_by:
                stack.pop()
            else:
                inner = self._enter_level(level, tag, vr, start, size)
                if self.below:
                    stack[-1] = self._take_below(level, tag, vr, start, size)
                if inner is None:
                    offset += size
                elif len(stack) <= 2 * MAX_DEPTH:
                    stack.append(inner)
                else:
                    raise _unreadable(tag, start, f"sequences are nested more than {MAX_DEPTH} deep")
            while len(stack) > 1 and offset >= stack[-1].end and not stack[-1].closed_by:
                stack.pop()
            if len(stack) == 1:
                return offset

    def _enter_level(self, level: _Level, tag: int, vr: bytes, start: int, size: int) -> _Level | None:
        """What begins with this element of `level`; None if its value is to be passed over."""
        undefined = size == UNDEFINED
        end = level.end if undefined else start + size
        if tag == END_OF_DATA or start > level.end:
            raise _unreadable(level.sequence, start, "the sequence is not closed before the end")
        if level.holds_items and (tag != ITEM or (undefined and level.is_bulk)):
            raise _unreadable(level.sequence, start, "the sequence holds something else than items")
        if end > level.end:
            raise _past_end(tag, start, size)
        if level.holds_items:
            if level.is_bulk or size == 0 or not (undefined or self.below):
                return None
            closed_by = ITEM_END if undefined else 0
            return _Level(level.sequence, end, closed_by, False, False, level.form, level.charset)
        if not undefined and not (self.below and is_sequence(tag, vr)):
            return None
        if tag >> 16 == 0xFFFE:
            raise _unreadable(tag, start, "an item is outside of a sequence")
        is_bulk = vr not in (b"", b"SQ", b"UN") or tag >> 16 == 0x7FE0
        form = IMPLICIT if vr == b"UN" else level.form  # PS3.5 section 6.2.2
        return _Level(tag, end, SEQUENCE_END if undefined else 0, True, is_bulk, form, level.charset)

    def _take_below(self, level: _Level, tag: int, vr: bytes, start: int, size: int) -> _Level:
        """Note a value met inside a sequence; an item's own character set holds for the rest of that item."""
        if tag == CHARACTER_SET:
            return level._replace(charset=self._values(tag, vr, start, size, level.form, ()))
        values = self.below.get(tag)
        if values is not None and len(values) < self.most_nested:
            values.update(dict.fromkeys(self._values(tag, vr, start, size, level.form, level.charset)))
        return level

    def _values(self, tag: int, vr: bytes, start: int, size: int, form: Form, charset: Values) -> Values:
        if size == 0:
            return ()
        if size > MAX_VALUE:
            return OPAQUE
        raw = self.window.value(start, size)
        if vr in (b"", b"UN"):  # UN holds what implicit VR little endian would
            return to_values(vr_of(tag), raw, form.order if not vr else "<", charset)
        return to_values(vr.decode("ascii"), raw, form.order, charset)


def _past_end(tag: int, start: int, size: int) -> Unreadable:
    return _unreadable(tag, start, f"a value of {size} bytes runs past the end of what holds it")
