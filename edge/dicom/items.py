"""Small data sets held in memory: identifiers, requests, reports, worklist items (PS3.5 section 7).

`decode_items` and `encode_items` are bounded and do not recurse. The former raises Unreadable for any damage, whatever
the bytes are; bulk values are not kept. The latter makes sequences of defined length, and UTF-8 where ASCII is not
enough.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.dicom import charset as character_sets
from edge.dicom.elements import (
    CHARACTER_SET,
    DEFLATED,
    EXPLICIT,
    FORMS,
    IMPLICIT,
    ITEM,
    ITEM_END,
    LOCAL_TEXT,
    MAX_DEPTH,
    OPAQUE,
    SEQUENCE_END,
    UNDEFINED,
    Form,
    encode_values,
    is_sequence,
    read_head,
    to_bytes,
    to_values,
    vr_of,
    write_head,
)
from edge.errors import Unreadable
from edge.model import Values

#: Bytes of one data set, unless a caller takes more. A report of 10,000 instances has 1.4 MB.
MAX_DATA_SET = 4 << 20
#: As many bytes of what is taken allow an element, or an item of a sequence.
_BYTES_AN_ELEMENT = 20
MAX_ELEMENTS = MAX_DATA_SET // _BYTES_AN_ELEMENT
_UTF_8 = "ISO_IR 192"


class ElementValue(NamedTuple):
    """A value representation with its values, or with the items of a sequence."""

    vr: str
    values: Values = ()
    items: Sequence[Attributes] = ()


class Attributes(dict[int, ElementValue]):
    """A data set, or an item of a sequence: tag -> element."""

    __slots__ = ()

    def text(self, tag: int) -> str:
        """The values of an element in one text; empty where it is absent or empty."""
        found = self.get(tag)
        return "\\".join(found.values) if found is not None else ""

    def items_of(self, tag: int) -> Sequence[Attributes]:
        found = self.get(tag)
        return found.items if found is not None else ()


def item(values: Mapping[int, str | int | Sequence[Attributes]]) -> Attributes:
    """A data set of these values, with the VRs of the dictionary; a text may hold several (PS3.5 section 6.4)."""
    made = Attributes()
    for tag, value in values.items():
        if isinstance(value, (str, int)):
            made[tag] = ElementValue(vr_of(tag), tuple(str(value).split("\\")) if value != "" else ())
        else:
            made[tag] = ElementValue("SQ", (), value)
    return made


@dataclass(slots=True)
class _Level:
    """A sequence (`items`) or an item that has been entered."""

    end: int  # where it ends, or must have been closed
    closed_by: int  # the delimiter of undefined length; 0 where the length is defined
    form: Form
    item: Attributes
    items: list[Attributes] | None = None
    charset: Values = ()


def decode_items(data: bytes, transfer_syntax_uid: str, most: int = MAX_DATA_SET) -> Attributes:
    """Read a data set of `most` bytes at most. Raises Unreadable for damage, and for more than its bounds."""
    if transfer_syntax_uid in DEFLATED or len(data) > most:
        raise Unreadable(f"a data set that is deflated, or longer than {most} bytes")
    padded, at, left = data + bytes(4), 0, most // _BYTES_AN_ELEMENT
    stack = [_Level(len(data), 0, FORMS.get(transfer_syntax_uid, EXPLICIT), Attributes())]
    while True:
        level = stack[-1]
        if at >= level.end and not level.closed_by:
            if len(stack) == 1:
                return level.item
            stack.pop()
            continue
        left -= 1
        if level.end - at < 8 or left < 0:
            raise _damage(at)
        tag, vr, start, size = read_head(padded, at, level.form)
        if level.closed_by and tag == level.closed_by:
            stack.pop()
            at = start
            continue
        end = level.end if size == UNDEFINED else start + size
        if max(start, end) > level.end:
            raise _damage(at)
        inner = _enter(level, tag, vr, end, size == UNDEFINED, at)
        if inner is None:
            _keep(level, tag, vr, data[start:end])
            at = end
        elif len(stack) > 2 * MAX_DEPTH:
            raise _damage(at)
        else:
            stack.append(inner)
            at = start


def _enter(level: _Level, tag: int, vr: bytes, end: int, is_open: bool, at: int) -> _Level | None:
    """What begins with this element of `level`; None where it has a value."""
    if level.items is not None:
        if tag != ITEM:
            raise _damage(at)
        level.items.append(Attributes())
        return _Level(end, ITEM_END if is_open else 0, level.form, level.items[-1], charset=level.charset)
    if tag >> 16 == 0xFFFE:
        raise _damage(at)
    if not is_open and not is_sequence(tag, vr):
        return None
    if vr not in (b"", b"SQ", b"UN"):
        raise _damage(at)  # fragments (PS3.5 section A.4): no small data set has them
    items: list[Attributes] = []
    level.item[tag] = ElementValue("SQ", (), items)
    form = IMPLICIT if vr == b"UN" else level.form  # PS3.5 section 6.2.2
    return _Level(end, SEQUENCE_END if is_open else 0, form, level.item, items, level.charset)


def _keep(level: _Level, tag: int, vr: bytes, raw: bytes) -> None:
    if not tag & 0xFFFF:
        return  # a group length (PS3.5 section 7.2) is of this encoding, and no attribute
    name = vr_of(tag) if vr in (b"", b"UN") else vr.decode("ascii")
    order = "<" if vr == b"UN" else level.form.order
    values = to_values(name, raw, order, level.charset) if raw else ()
    if values is OPAQUE:
        return
    level.item[tag] = ElementValue(name, values)
    if tag == CHARACTER_SET:
        level.charset = values


def _damage(offset: int) -> Unreadable:
    return Unreadable(f"a data set that is damaged, or has too many elements, at byte {offset}")


def encode_items(data_set: Attributes, transfer_syntax_uid: str, charset: Values = ()) -> bytes:
    """Write a data set. Raises ValueError for a value that its VR cannot hold.

    `charset`: a Specific Character Set, perhaps with code extensions, that is kept where it can hold all texts; else
    they are UTF-8.
    """
    form = FORMS.get(transfer_syntax_uid, EXPLICIT)
    texts, encode = _texts(data_set), "ascii"
    extended: Values = ()
    if not "".join(texts).isascii():
        extended = charset if len(charset) > 1 and _fits(data_set, charset) else ()
        encode = character_sets.encoding_for(charset, texts) or "utf-8"
        declared = extended or ((_UTF_8,) if encode == "utf-8" else charset)
        data_set = Attributes({**data_set, CHARACTER_SET: ElementValue("CS", declared)})
    out = bytearray()
    todo: list[tuple[int, ElementValue | Attributes | int]] = _in_order(data_set)
    while todo:
        tag, what = todo.pop()
        if isinstance(what, int):  # the length of a sequence or item that is complete now
            struct.pack_into(form.order + "I", out, what, len(out) - what - 4)
        elif isinstance(what, Attributes) or what.vr == "SQ":
            out += write_head(tag, "SQ", 0, form)
            todo.append((tag, len(out) - 4))
            todo += _in_order(what) if isinstance(what, Attributes) else [(ITEM, each) for each in reversed(what.items)]
        elif what.values:
            value = encode_values(what.vr, what.values, extended, form.order) if extended else None
            if value is None:
                value = to_bytes(what.vr, what.values, form.order, encode)
            out += write_head(tag, what.vr, len(value), form)
            out += value
        else:
            out += write_head(tag, what.vr, 0, form)
    return bytes(out)


def _fits(data_set: Attributes, charset: Values) -> bool:
    """Can this character set hold all texts, with its code extensions (PS3.5 section 6.1.2.5)?"""
    texts = (each for each in _elements(data_set) if each.vr in LOCAL_TEXT)
    return all(encode_values(each.vr, each.values, charset, "<") is not None for each in texts)


def _in_order(data_set: Attributes) -> list[tuple[int, ElementValue | Attributes | int]]:
    """The elements as `encode_items` takes them: the least tag last."""
    return [(tag, data_set[tag]) for tag in sorted(data_set, reverse=True)]


def _texts(data_set: Attributes) -> list[str]:
    """Every value, those of nested items among them."""
    return [value for element in _elements(data_set) for value in element.values]


def _elements(data_set: Attributes) -> Iterator[ElementValue]:
    """Every element, those of nested items among them."""
    todo = [data_set]
    while todo:
        for element in todo.pop().values():
            yield element
            todo += element.items
