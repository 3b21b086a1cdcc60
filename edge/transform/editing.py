"""Changes of single elements in a data set on disk: found by a flat walk, written as a copy of all other bytes.

An `Edit` replaces a stretch of the data set. What no edit covers is copied byte for byte. No Dataset is built, nothing
recurses, and no value is held but those that are asked for, so 2 GB take the memory of 2 KB. Every encoding of elements
that can be walked stays what it is: implicit and explicit VR, either byte order, lengths that are defined or not.
Around a change, the defined lengths of the sequences and items that hold it are corrected, and so are group lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from edge.dicom.elements import (
    CHARACTER_SET,
    EXPLICIT,
    FORMS,
    IMPLICIT,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    SEQUENCE_END,
    UNDEFINED,
    Form,
    is_sequence,
    to_values,
    vr_of,
    write_head,
)
from edge.dicom.header import END_OF_DATA, Read, Walk, Window
from edge.errors import TransformError
from edge.model import Values
from edge.text import MIB

PIECE_BYTES = MIB
#: Windows may cover a whole data set: only heads of elements are read.
_NO_BOUND = 1 << 62
#: VRs of what data sets begin with.
_FIRST_VRS = frozenset((b"UL", b"CS", b"UI", b"SH", b"DA", b"TM", b"LO", b"AE", b"DT", b"SQ", b"PN", b"AT", b"US"))
#: Of one object; each takes about 200 bytes of memory.
MAX_EDITS = 500_000


class Edit(NamedTuple):
    """`size` bytes at `at` become `data`."""

    at: int
    size: int
    data: bytes


class FoundElement(NamedTuple):
    """Where an element is; `end` is behind its value, and behind the delimiter of one of undefined length."""

    tag: int
    vr: bytes  # as encoded; empty in implicit VR
    head: int
    start: int  # of the value
    size: int  # UNDEFINED for a sequence that a delimiter ends
    end: int


def form_of(read: Read, transfer_syntax_uid: str) -> Form:
    """How the elements of a data set are encoded: some writers name the other VR, then the bytes are believed."""
    named = FORMS.get(transfer_syntax_uid, EXPLICIT)
    states_vr = read(4, 2) in _FIRST_VRS
    if named is EXPLICIT and not states_vr:
        return IMPLICIT
    return EXPLICIT if named is IMPLICIT and states_vr else named


def open_window(read: Read, length: int) -> Window:
    """The window on a data set that is not deflated."""
    return Window(read, length, _NO_BOUND)


@dataclass(slots=True)
class TopLevel:
    """The elements of a data set's first level up to a tag, in the order in which they came."""

    window: Window
    form: Form
    elements: list[FoundElement]
    stop: int  # where what was not walked begins

    def find(self, tag: int) -> FoundElement | None:
        return next((each for each in self.elements if each.tag == tag), None)

    def value(self, found: FoundElement) -> bytes:
        """The bytes of an element's value, its delimiter included where its length is undefined."""
        return self.window.value(found.start, found.end - found.start)

    def charset(self) -> Values:
        """What Specific Character Set (0008,0005) declares."""
        found = self.find(CHARACTER_SET)
        return () if found is None else to_values("CS", self.value(found), self.form.order, ())

    def place_for(self, tag: int) -> int:
        """Where an element of this tag belongs: before the first that is greater."""
        return next((each.head for each in self.elements if each.tag > tag), self.stop)


def read_top_level(window: Window, form: Form, last: int) -> TopLevel:
    """Walk the first level up to the first tag that is greater than `last`. Raises Unreadable, TransformError."""
    found: list[FoundElement] = []
    walk = Walk(window, frozenset(), frozenset(), 0)
    at = 0
    while True:
        tag, vr, start, size = window.element(at, form)
        if tag > last:
            return TopLevel(window, form, found, at)
        end = walk.walk_sequence(at, form) if size == UNDEFINED else start + size
        if end > window.end:
            raise damage(tag, "runs past the end of the data set")
        found.append(FoundElement(tag, vr, at, start, size, end))
        at = end


def damage(tag: int, what: str) -> TransformError:
    """Names the element, never its value."""
    return TransformError(f"cannot be changed: element ({tag >> 16:04X},{tag & 0xFFFF:04X}) {what}")


def encode_element(tag: int, vr: str, value: bytes, form: Form) -> bytes:
    """An element with its head. Raises TransformError where its length field is too short."""
    try:
        return write_head(tag, vr, len(value), form) + value
    except ValueError:
        raise damage(tag, f"would have {len(value)} bytes, more than its length field holds") from None


def encode_sequence(tag: int, items: Sequence[bytes], form: Form) -> bytes:
    """A sequence of encoded items, with defined lengths."""
    return encode_element(tag, "SQ", b"".join(encode_element(ITEM, "", each, form) for each in items), form)


def vr_name(tag: int, vr: bytes) -> str:
    """The VR of an element that has one, or the dictionary's."""
    return vr.decode("ascii") if vr not in (b"", b"UN") else vr_of(tag)


def holds_items(tag: int, vr: bytes, size: int) -> bool:
    """Is it a sequence, by what it says or as a delimiter ends it? Pixels in fragments are none."""
    return is_sequence(tag, vr) or (size == UNDEFINED and vr in (b"", b"UN") and tag >> 16 != 0x7FE0)


def written_vr(vr: bytes, otherwise: str) -> str:
    """The VR that a changed element is written with: its own, where it has one."""
    return vr.decode("ascii") if vr else otherwise


def top_level_edits(top: TopLevel, elements: dict[int, bytes]) -> list[Edit]:
    """The edits that put these encoded elements into the first level; empty bytes remove one."""
    edits: list[Edit] = []
    growth: dict[int, int] = {}
    there = {each.tag: each for each in reversed(top.elements)}
    for tag, data in sorted(elements.items()):
        found = there.get(tag)
        if found is None and not data:
            continue
        at, size = (found.head, found.end - found.head) if found is not None else (top.place_for(tag), 0)
        edits.append(Edit(at, size, data))
        growth[tag >> 16] = growth.get(tag >> 16, 0) + len(data) - size
    for group, grown in growth.items():
        length = there.get(group << 16)
        if grown and length is not None and length.size == 4:
            edits.append(_lengthen(top.window, length.start, grown, top.form))
    return sorted(edits, key=lambda edit: edit.at)


def _lengthen(window: Window, at: int, grown: int, form: Form) -> Edit:
    """A length of 32 bits, greater by `grown`."""
    number = struct.Struct(f"{form.order}I")
    try:
        return Edit(at, 4, number.pack(number.unpack(window.value(at, 4))[0] + grown))
    except struct.error:
        raise TransformError("cannot be changed: what holds the change grows beyond its length field") from None


# -- all levels --------------------------------------------------------------------------------------------------------


class Do(Enum):
    """What is done with an element that gets no other value."""

    KEEP = "keep"
    REMOVE = "remove"
    ENTER = "enter"  # a sequence: each of its elements is decided about


class DeepVisitor(Protocol):
    """Decides about each element at every level. `context` is that of its item: the visitor's own, never read here."""

    def open_item(self, sequence: int, context: Any) -> Any:
        """The context of an item of a sequence in an item of `context`."""

    def decide(
        self, tag: int, vr: bytes, size: int, read_value: Callable[[], bytes], form: Form, context: Any
    ) -> Do | bytes:
        """What is done with an element, or its new encoding, head included."""


@dataclass(slots=True)
class _Level:
    """A sequence (`is_sequence`) or an item that has been entered."""

    sequence: int  # its tag
    end: int  # where it ends, or must have been closed
    closed_by: int  # the delimiter of undefined length; 0 where the length is defined
    length_at: int  # of its 32-bit length field
    form: Form
    context: Any
    is_sequence: bool = False
    grown: int = 0  # bytes, by the edits inside
    groups: dict[int, tuple[int, int]] = field(default_factory=dict)  # group -> where its length is, bytes grown


class DeepEdit:
    """One pass over all levels of a data set, in order, without recursion."""

    def __init__(self, window: Window, form: Form, visitor: DeepVisitor, inserts: Mapping[int, bytes]) -> None:
        """`inserts`: encoded elements for the first level, which the visitor removes where they are there already."""
        self._window, self._visitor = window, visitor
        self._walk = Walk(window, frozenset(), frozenset(), 0)
        self._inserts = sorted(inserts.items(), reverse=True)
        self._stack = [_Level(0, window.end, 0, -1, form, visitor.open_item(0, None))]
        self.edits: list[Edit] = []

    def run(self) -> list[Edit]:
        """All edits, in order. Raises Unreadable for what cannot be walked, TransformError for what cannot be done."""
        at = 0
        while self._stack:
            level = self._stack[-1]
            if at >= level.end and not level.closed_by:
                self._leave(at)
                continue
            tag, vr, start, size = self._window.element(at, level.form)
            if tag == END_OF_DATA:
                if len(self._stack) > 1:
                    raise damage(level.sequence, "is not closed before the end of the data set")
                self._leave(at)
            elif level.closed_by and tag == level.closed_by:
                self._leave(start)
                at = start
            elif level.is_sequence:
                at = self._open_item(level, tag, at, start, size)
            else:
                at = self._element(level, tag, vr, at, start, size)
            if len(self.edits) > MAX_EDITS:
                raise TransformError(f"cannot be changed: more than {MAX_EDITS} places would change")
        return sorted(self.edits, key=lambda edit: edit.at)

    def _open_item(self, level: _Level, tag: int, at: int, start: int, size: int) -> int:
        end = level.end if size == UNDEFINED else start + size
        if tag != ITEM or end > level.end:
            raise damage(level.sequence, "holds something else than whole items")
        context = self._visitor.open_item(level.sequence, level.context)
        closed_by = ITEM_END if size == UNDEFINED else 0
        self._stack.append(_Level(level.sequence, end, closed_by, at + 4, level.form, context))
        return start

    def _element(self, level: _Level, tag: int, vr: bytes, at: int, start: int, size: int) -> int:
        if len(self._stack) == 1:
            self._insert_before(tag, at)
        if tag >> 16 == 0xFFFE:
            raise damage(tag, "is outside of a sequence")
        is_open = size == UNDEFINED
        decision = self._visitor.decide(
            tag, vr, size, lambda: self._value(level, tag, start, size), level.form, level.context
        )
        if decision is Do.ENTER:
            return self._enter(level, tag, vr, start, size)
        end = self._walk.walk_sequence(at, level.form) if is_open else start + size
        if end > level.end:
            raise damage(tag, "runs past the end of what holds it")
        if tag & 0xFFFF == 0 and size == 4 and decision is Do.KEEP:
            level.groups[tag >> 16] = (start, 0)
        if decision is not Do.KEEP:
            self._replace(level, tag, at, end, b"" if decision is Do.REMOVE else decision)
        return end

    def _value(self, level: _Level, tag: int, start: int, size: int) -> bytes:
        if size == UNDEFINED or start + size > level.end:
            raise damage(tag, "has no value of defined length")
        return self._window.value(start, size)

    def _enter(self, level: _Level, tag: int, vr: bytes, start: int, size: int) -> int:
        if len(self._stack) > 2 * MAX_DEPTH:
            raise damage(tag, f"is more than {MAX_DEPTH} sequences deep")
        is_open = size == UNDEFINED
        end = level.end if is_open else start + size
        if end > level.end:
            raise damage(tag, "runs past the end of what holds it")
        form = IMPLICIT if vr == b"UN" else level.form  # PS3.5 section 6.2.2
        closed_by = SEQUENCE_END if is_open else 0
        self._stack.append(_Level(tag, end, closed_by, start - 4, form, level.context, is_sequence=True))
        return start

    def _replace(self, level: _Level, tag: int, at: int, end: int, data: bytes) -> None:
        self.edits.append(Edit(at, end - at, data))
        grown = len(data) - (end - at)
        self._grow(level, tag, grown)

    def _grow(self, level: _Level, tag: int, grown: int) -> None:
        level.grown += grown
        if (group := level.groups.get(tag >> 16)) is not None:
            level.groups[tag >> 16] = (group[0], group[1] + grown)

    def _insert_before(self, tag: int, at: int) -> None:
        """Insert, on the first level, what belongs before this tag."""
        while self._inserts and self._inserts[-1][0] <= tag:
            number, data = self._inserts.pop()
            self.edits.append(Edit(at, 0, data))
            self._grow(self._stack[0], number, len(data))

    def _leave(self, at: int) -> None:
        if len(self._stack) == 1:
            self._insert_before(END_OF_DATA, at)
        level = self._stack.pop()
        for start, grown in level.groups.values():
            if grown:
                self.edits.append(_lengthen(self._window, start, grown, level.form))
        if not self._stack or not level.grown:
            return
        if not level.closed_by:
            self.edits.append(_lengthen(self._window, level.length_at, level.grown, level.form))
        if level.is_sequence:
            self._grow(self._stack[-1], level.sequence, level.grown)
        else:
            self._stack[-1].grown += level.grown


# -- writing -----------------------------------------------------------------------------------------------------------


def edited_length(length: int, edits: Iterable[Edit]) -> int:
    """Bytes of a data set of `length` bytes with these edits."""
    return length + sum(len(edit.data) - edit.size for edit in edits)


def edited_pieces(read: Read, length: int, edits: Iterable[Edit]) -> Iterator[bytes]:
    """The data set with these edits, which are in order and do not overlap, in pieces of at most PIECE_BYTES.

    Raises TransformError where fewer than `length` bytes can be read.
    """
    at = 0
    for edit in edits:
        yield from _stretch(read, at, edit.at)
        if edit.data:
            yield edit.data
        at = edit.at + edit.size
    yield from _stretch(read, at, length)


def _stretch(read: Read, at: int, end: int) -> Iterator[bytes]:
    while at < end:
        piece = read(at, min(PIECE_BYTES, end - at))
        if not piece:
            raise TransformError("cannot be changed: the data set is shorter than it was")
        yield piece
        at += len(piece)
