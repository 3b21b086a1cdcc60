"""The encoding of data elements (PS3.5 sections 6.2 and 7): heads and values, read and written.

`header` walks large data sets with this, `items` holds small ones. Values are text, as people write them (`Values`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edge.dicom import charset as character_sets
from edge.model import GuessedText, Values
from edge.model.dictionary import dictionary_vr

MAX_DEPTH = 64  # sequences inside sequences; DCMTK's limit too

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
CHARACTER_SET = 0x00080005

#: A value that is there but is no text for a rule: a sequence, bulk data, or too long.
OPAQUE: Values = ("",)


@dataclass(frozen=True, slots=True)
class Form:
    """How elements are encoded (PS3.5 section 7.1)."""

    explicit: bool
    order: str  # of bytes, as in `struct`
    head: Callable[[bytes, int], tuple[Any, ...]]  # group, number, VR, 16-bit length; or group, number, length
    length: Callable[[bytes, int], tuple[int]]  # of 32 bits


def _form(explicit: bool, order: str) -> Form:
    head = struct.Struct(order + ("HH2sH" if explicit else "HHI"))
    return Form(explicit, order, head.unpack_from, struct.Struct(order + "I").unpack_from)


IMPLICIT = _form(False, "<")
EXPLICIT = _form(True, "<")
EXPLICIT_BIG = _form(True, ">")

#: Every other transfer syntax is explicit little endian (PS3.5 Annex A), unknown and private ones presumably.
FORMS = {
    "1.2.840.10008.1.2": IMPLICIT,
    "1.2.840.10008.1.20": IMPLICIT,  # Papyrus 3, retired
    "1.2.840.113619.5.2": IMPLICIT,  # GE private: big endian in the pixel data alone
    "1.2.840.10008.1.2.2": EXPLICIT_BIG,
}
#: The whole data set is deflated (PS3.5 Annex A); Deflated Image Frame Compression is not among them.
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})


def plain_syntax(transfer_syntax_uid: str) -> str:
    """How the elements of a data set are encoded once it is inflated (PS3.5 section A.5)."""
    return "1.2.840.10008.1.2.1" if transfer_syntax_uid in DEFLATED else transfer_syntax_uid


#: VRs with a 16-bit length (PS3.5 table 7.1-2); all others, those of the future included, have 32 bits.
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
#: VRs whose text obeys Specific Character Set (PS3.5 section 6.1.2.3).
LOCAL_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT", "UN"})
ASCII_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
#: VRs of one value, in which a backslash is a character and leading spaces count.
SINGLE_TEXT = frozenset({"LT", "ST", "UR", "UT"})
#: Binary VRs: the letter for `struct`, and how people write the number (AT as in PS3.18 section F.2).
NUMBERS: dict[str, tuple[str, str]] = {
    "US": ("H", "d"),
    "SS": ("h", "d"),
    "UL": ("I", "d"),
    "SL": ("i", "d"),
    "UV": ("Q", "d"),
    "SV": ("q", "d"),
    "FL": ("f", ".7g"),
    "FD": ("d", ".15g"),
    "AT": ("HH", "04X"),
}


def read_head(data: bytes, at: int, form: Form) -> tuple[int, bytes, int, int]:
    """Tag, VR (empty if not stated), offset and length of the value, of the element at `at`: 12 bytes can be read."""
    if not form.explicit:
        group, number, size = form.head(data, at)
        return group << 16 | number, b"", at + 8, size
    group, number, vr, size = form.head(data, at)
    tag = group << 16 | number
    if vr in SHORT_VRS and group != 0xFFFE:
        return tag, vr, at + 8, size
    (implicit_size,) = form.length(data, at + 4)
    if group == 0xFFFE:
        return tag, b"", at + 8, implicit_size
    if vr.isalpha() and vr.isupper():
        return tag, vr, at + 12, form.length(data, at + 8)[0]
    # Some writers fall into implicit VR within an explicit data set, some put odd bytes before a 16-bit length.
    if size == 0 or implicit_size == UNDEFINED:
        size = implicit_size
    return tag, b"", at + 8, size


def write_head(tag: int, vr: str, size: int, form: Form) -> bytes:
    """The head of an element or item with a value of `size` bytes; ValueError where its length field is too short."""
    begin, length = _head_parts(tag, vr, form.explicit, form.order)
    try:
        return begin + length.pack(size)
    except struct.error:
        raise ValueError(f"a value of {size} bytes is too long for ({tag >> 16:04X},{tag & 0xFFFF:04X}) {vr}") from None


@lru_cache(maxsize=8192)
def _head_parts(tag: int, vr: str, explicit: bool, order: str) -> tuple[bytes, struct.Struct]:
    """What a head begins with, and the field of its length."""
    group, number, code = tag >> 16, tag & 0xFFFF, vr.encode("ascii")
    begin = struct.pack(order + "HH", group, number)
    if not explicit or group == 0xFFFE:
        return begin, struct.Struct(order + "I")
    if code in SHORT_VRS:
        return begin + code, struct.Struct(order + "H")
    return begin + code + bytes(2), struct.Struct(order + "I")


@lru_cache(maxsize=8192)
def vr_of(tag: int) -> str:
    """The dictionary's VR of a tag, the first where there is a choice; UN if it has none."""
    return dictionary_vr(tag).split(" ")[0] or "UN"


def is_sequence(tag: int, vr: bytes) -> bool:
    """Is it a sequence, by its VR, or by the dictionary where that says nothing?"""
    return vr == b"SQ" or (vr in (b"", b"UN") and vr_of(tag) == "SQ")


def to_values(vr: str, raw: bytes, order: str, charset: Values) -> Values:
    """The values of an element as text; `OPAQUE` for VRs that hold none."""
    if vr in NUMBERS:
        return _numbers(vr, raw, order)
    is_guess = False
    if vr in LOCAL_TEXT:
        text, is_guess = character_sets.decode_bytes(raw, charset, resets_of(vr))
    elif vr in ASCII_TEXT:
        text, is_guess = raw.decode("latin_1"), not raw.isascii()
    else:
        return OPAQUE
    values = (text.rstrip(" \0"),) if vr in SINGLE_TEXT else tuple([v.strip(" \0") for v in text.split("\\")])
    if is_guess:
        values = tuple([each if each.isascii() else GuessedText(each) for each in values])
    return () if values == ("",) else values


def _numbers(vr: str, raw: bytes, order: str) -> Values:
    letters, style = NUMBERS[vr]
    item = struct.Struct(order + letters)
    whole = len(raw) - len(raw) % item.size
    return tuple("".join(format(part, style) for part in number) for number in item.iter_unpack(raw[:whole]))


def resets_of(vr: str) -> bytes:
    """Bytes that end a code extension (PS3.5 section 6.1.2.5.3)."""
    return b"\\^=" if vr == "PN" else b"\\\t\n\f\r"


def to_bytes(vr: str, values: Values, order: str, encoding: str) -> bytes:
    """The value of an element, padded to even length (PS3.5 section 6.2)."""
    if vr in NUMBERS:
        letters = NUMBERS[vr][0]
        if vr == "AT":
            parts = [part for each in values for part in (int(each[:4], 16), int(each[4:], 16))]
            return struct.pack(order + "H" * len(parts), *parts)
        return struct.pack(order + letters * len(values), *(float(v) if vr in ("FL", "FD") else int(v) for v in values))
    raw = "\\".join(values).encode(encoding, "replace")
    return raw if not len(raw) & 1 else raw + (b"\0" if vr == "UI" else b" ")


def encode_values(vr: str, values: Values, charset: Values, order: str) -> bytes | None:
    """The value of an element, padded to even length; None where the character set cannot hold it."""
    if vr not in LOCAL_TEXT:
        return to_bytes(vr, values, order, "ascii")
    raw = character_sets.encode_text("\\".join(values), charset, resets_of(vr))
    return None if raw is None else raw + b" " * (len(raw) & 1)
