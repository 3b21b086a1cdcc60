"""The elements of a data set on disk: a flat walk through any encoding, and a writer in little endian.

No recursion, and no value is held: a data set of any depth and size takes the same memory. A false length ends it
in a TransformError, which names the element and never its value.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from struct import Struct
from typing import IO, NamedTuple, Protocol

from edge.dicom.elements import EXPLICIT, IMPLICIT, SHORT_VRS, write_head
from edge.errors import TransformError
from edge.model.dictionary import dictionary_vr
from edge.text import MIB
from edge.transform.syntaxes import BIG_ENDIAN

COPY_BYTES = MIB
_PIECE_BYTES = 8192
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM_TAG, _ITEM_END, SEQUENCE_DELIMITER = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA_TAG = 0x7FE00010

#: Value Representations (PS3.5 section 6.2) by the width of their length field in Explicit VR (section 7.1.2).
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_SHORT = frozenset(each.decode() for each in SHORT_VRS)
_LITTLE, _BIG = Struct("<HHL"), Struct(">HHL")  # tag, and length where VRs are implicit
_SHORT_HEAD, _BIG_SHORT_HEAD = Struct("<HH2sH"), Struct(">HH2sH")
_SHORT_BY_CODE, _LONG_BY_CODE = ({vr.encode(): vr for vr in vrs} for vrs in (_SHORT, LONG_VRS))
#: Bytes in a word, where byte order matters (PS3.5 section 7.3). UN is little endian everywhere (section 6.2.2).
WORD = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}


class ElementKind(Enum):
    ELEMENT = "element"
    FRAGMENTS = "fragments"  # encapsulated Pixel Data, its delimiter included (PS3.5 section A.4)
    SEQUENCE = "sequence"
    ITEM = "item"
    END = "end"  # of an item or a sequence; the tag is its delimiter


#: Asked of each element, several times: Python 3.11 takes ten times as long for a member of an enum as for a name.
ELEMENT, FRAGMENTS, SEQUENCE, ITEM_START, END = ElementKind


class WalkEvent(NamedTuple):
    kind: ElementKind
    tag: int
    vr: str = ""  # as sent, or the dictionary's, which may be ambiguous
    at: int = 0  # where the value begins
    length: int = 0
    little: bool = True
    data_set: int = 0  # where the data set begins that it belongs to
    head: int = 0  # bytes before the value, where they are as in Explicit VR Little Endian; else 0


class _Level(NamedTuple):
    """A data set or a sequence on the way down."""

    data_set: int
    end: int | None  # None: a delimiter ends it
    limit: int  # no value passes it
    explicit: bool
    little: bool
    sequence: bool = False


def element_fault(tag: int, what: str) -> TransformError:
    return TransformError(f"cannot convert: element ({tag >> 16:04X},{tag & 0xFFFF:04X}) {what}")


def read_bytes(file: IO[bytes], at: int, length: int, limit: int) -> bytes:
    if at + length <= limit:
        file.seek(at)
        if len(data := file.read(length)) == length:
            return data
    raise TransformError("cannot convert: the data set ends inside an element")


class _Heads:
    """Heads of elements, from a piece of the file in memory: most are neighbours, and a read costs more than one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._begin, self._piece = file, 0, b""

    def find(self, at: int, length: int, limit: int) -> tuple[bytes, int]:
        """A piece of the file, and where in it the `length` bytes begin that stand at `at`."""
        begin = at - self._begin
        if not 0 <= begin <= len(self._piece) - length:
            self._file.seek(at)
            self._begin, self._piece, begin = at, self._file.read(_PIECE_BYTES), 0
        if at + length > limit or len(self._piece) < length:
            raise TransformError("cannot convert: the data set ends inside an element")
        return self._piece, begin


@lru_cache(maxsize=8192)
def _dictionary_vr(tag: int) -> str:
    """The VR of an element that came in Implicit VR."""
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"  # Private Creator, PS3.5 section 7.8.1
    return dictionary_vr(tag) or "UN"


def is_explicit(file: IO[bytes], at: int) -> bool:
    """Inside UN it shall be Implicit VR (PS3.5 section 6.2.2), and some writers switch elsewhere: believe the bytes."""
    file.seek(at)
    return file.read(6)[4:].decode("latin-1") in LONG_VRS | _SHORT


def _head(heads: _Heads, at: int, level: _Level) -> tuple[int, str, int, int]:
    """Tag, VR, length and position of the value of the element at `at` (PS3.5 section 7.1)."""
    piece, begin = heads.find(at, 8, level.limit)
    group, element, code, short = (_SHORT_HEAD if level.little else _BIG_SHORT_HEAD).unpack_from(piece, begin)
    tag = group << 16 | element
    if level.explicit and group != 0xFFFE:
        if vr := _SHORT_BY_CODE.get(code):
            return tag, vr, short, at + 8
        if not (vr := _LONG_BY_CODE.get(code)):
            raise element_fault(tag, "has an unknown Value Representation")
        at += 4
        piece, begin = heads.find(at, 8, level.limit)
    else:
        vr = "" if group == 0xFFFE else _dictionary_vr(tag)
    _, _, length = (_LITTLE if level.little else _BIG).unpack_from(piece, begin)
    return tag, vr, length, at + 8


def _fragments_end(heads: _Heads, at: int, level: _Level) -> int:
    while True:
        tag, _, length, at = _head(heads, at, level)
        if tag == SEQUENCE_DELIMITER:
            return at
        if tag != ITEM_TAG or at + length > level.limit:
            raise element_fault(PIXEL_DATA_TAG, "is not made of whole fragments")
        at += length


def _kind(tag: int, vr: str, at: int, length: int, level: _Level) -> ElementKind:
    """What an element is whose value begins at `at`, or TransformError where it cannot stand."""
    if length != UNDEFINED_LENGTH and at + length > level.limit:
        raise element_fault(tag, "is longer than what holds it")
    if level.sequence or tag >> 16 == 0xFFFE:
        if level.end is None and tag == (SEQUENCE_DELIMITER if level.sequence else _ITEM_END):
            return END
        if not level.sequence or tag != ITEM_TAG:
            raise element_fault(tag, "is where it cannot be: a length before it is wrong")
        return ITEM_START
    if length != UNDEFINED_LENGTH:
        return SEQUENCE if vr == "SQ" and length else ELEMENT
    if tag == PIXEL_DATA_TAG:
        return FRAGMENTS
    if vr not in ("SQ", "UN"):
        raise element_fault(tag, f"has undefined length, which VR {vr} cannot have")
    return SEQUENCE


def _enter_level(file: IO[bytes], event: WalkEvent, level: _Level) -> _Level:
    """The level that a sequence or an item begins."""
    end = None if event.length == UNDEFINED_LENGTH else event.at + event.length
    limit = level.limit if end is None else end
    if event.kind is SEQUENCE:
        little = level.little or event.vr == "UN"
        return _Level(level.data_set, end, limit, level.explicit, little, sequence=True)
    return _Level(event.at, end, limit, level.explicit and is_explicit(file, event.at), level.little)


def walk(file: IO[bytes], start: int, end: int, explicit: bool, little: bool) -> Iterator[WalkEvent]:
    """The elements of a data set in their order, depth first, without recursion and without their values."""
    heads, stack, at = _Heads(file), [_Level(start, end, end, explicit, little)], start
    while stack:
        level = stack[-1]
        if at == level.end:
            stack.pop()
            if stack:
                yield WalkEvent(END, SEQUENCE_DELIMITER if level.sequence else _ITEM_END)
            continue
        begin = at
        tag, vr, length, at = _head(heads, at, level)
        head = at - begin if level.explicit and level.little else 0
        event = WalkEvent(_kind(tag, vr, at, length, level), tag, vr, at, length, level.little, level.data_set, head)
        if event.kind is END:
            stack.pop()
        elif event.kind in (SEQUENCE, ITEM_START):
            stack.append(_enter_level(file, event, level))
        else:
            at = _fragments_end(heads, at, level) if event.kind is FRAGMENTS else at + length
        yield event


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set on disk, not deflated."""

    file: IO[bytes]
    start: int
    end: int
    syntax: str

    def walk(self) -> Iterator[WalkEvent]:
        explicit = is_explicit(self.file, self.start)  # some writers name the other one
        return walk(self.file, self.start, self.end, explicit, self.syntax != BIG_ENDIAN)


def swap_bytes(data: bytes, word: int) -> bytes:
    if word == 1:
        return data
    words = array({2: "H", 4: "I", 8: "Q"}[word], data)
    words.byteswap()
    return words.tobytes()


class ByteSink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class ElementWriter:
    """Writes elements in little endian."""

    def __init__(self, out: ByteSink, explicit: bool) -> None:
        self._out, self._form = out, EXPLICIT if explicit else IMPLICIT
        self._gathers = False
        self._gathered: IO[bytes] | None = None  # the file of what is copied and not yet written
        self._begin = self._end = 0  # its place there

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Meanwhile elements that are copied as they are, with neighbours, are read and written together."""
        self._gathers = True
        yield
        self._flush()
        self._gathers = False

    def head(self, tag: int, vr: str, length: int) -> None:
        self._flush()
        self._out.write(write_head(tag, vr, length, self._form))

    def write(self, data: bytes) -> None:
        self._out.write(data)

    def element(self, tag: int, vr: str, value: bytes) -> None:
        """A whole element, its value padded to even length."""
        self.head(tag, vr, len(value) + len(value) % 2)
        self._out.write(value + (b"\0" if vr in ("OB", "UI") else b" ") * (len(value) % 2))

    def copy(self, file: IO[bytes], event: WalkEvent, vr: str) -> None:
        """An element as it came, but for its head and the order of its bytes."""
        if self._gathers and self._form.explicit and event.head and event.vr == vr:
            begin = event.at - event.head
            if not self._gathered or self._end != begin:
                self._flush()
                self._gathered, self._begin = file, begin
            self._end = event.at + event.length
            return
        word = 1 if event.little else WORD.get(event.vr, 1)
        if event.length % word:
            raise element_fault(event.tag, f"has {event.length} bytes, which VR {event.vr} cannot have")
        self.head(event.tag, vr, event.length)
        end = event.at + event.length
        for at in range(event.at, end, COPY_BYTES):
            self._out.write(swap_bytes(read_bytes(file, at, min(COPY_BYTES, end - at), end), word))

    def _flush(self) -> None:
        if file := self._gathered:
            self._gathered = None
            for at in range(self._begin, self._end, COPY_BYTES):
                self._out.write(read_bytes(file, at, min(COPY_BYTES, self._end - at), self._end))


def definite_vr(event: WalkEvent, signed: int) -> str:
    """The VR to write in Explicit VR (PS3.5 sections 6.2.2 and A.1)."""
    vr = event.vr
    if " or " in vr:
        vr = ("US", "SS")[signed == 1] if vr == "US or SS" else "OW"
    return vr if vr in LONG_VRS or event.length <= 0xFFFF else "UN"
