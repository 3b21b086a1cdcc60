"""The place of a header's value, also inside the items of sequences: as addresses of bulk data name it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edge.dicom.elements import IMPLICIT, ITEM, ITEM_END, UNDEFINED, Form, read_head
from edge.dicom.header import MAX_LOOK, Walk, Window
from edge.dicom.pixel_data import ByteRange
from edge.errors import Unreadable


def locate_value(header: bytes, form: Form, place: Sequence[int]) -> ByteRange:
    """Where a value of a header is: a tag, or tags and numbers of items before it. Raises Unreadable."""
    at, end = 0, len(header)
    for depth in range(0, len(place), 2):
        begin, stop, vr = _find_element(header, at, end, form, place[depth])
        if depth == len(place) - 1:
            return ByteRange(begin, stop - begin)
        form = IMPLICIT if vr == b"UN" else form  # PS3.5 section 6.2.2
        at, end = _find_item(header, begin, stop, form, place[depth + 1])
    raise Unreadable("there is no such value")


def _walk_over(header: bytes) -> Walk:
    window = Window(lambda at, n: header[at : at + n], len(header), MAX_LOOK)
    return Walk(window, frozenset(), frozenset(), 0)


def _find_element(header: bytes, at: int, end: int, form: Form, wanted: int) -> tuple[int, int, bytes]:
    """Where the value of an element begins and ends, and its VR."""
    padded = header + bytes(12)
    walk = _walk_over(header)
    while at < end:
        tag, vr, start, size = read_head(padded, at, form)
        if tag == ITEM_END:
            break
        stop = start + size if size != UNDEFINED else walk.walk_sequence(at, form)
        if tag == wanted:
            return start, stop, vr
        at = stop
    raise Unreadable("there is no such value")


def _find_item(header: bytes, at: int, end: int, form: Form, wanted: int) -> tuple[int, int]:
    """Where the data set of an item begins, and where it ends at most."""
    padded, number = header + bytes(12), 0
    while at < end:
        tag, _, start, size = read_head(padded, at, form)
        if tag != ITEM:
            break
        number += 1
        stop = start + size if size != UNDEFINED else _end_of_item(padded, start, end, form)
        if number == wanted:
            return start, stop
        at = stop + (8 if size == UNDEFINED else 0)
    raise Unreadable("there is no such item")


def _end_of_item(padded: bytes, at: int, end: int, form: Form) -> int:
    """The offset of the delimiter of an item of undefined length, in bytes."""
    walk = _walk_over(padded)
    while at < end:
        tag, _, start, size = read_head(padded, at, form)
        if tag == ITEM_END:
            return at
        at = start + size if size != UNDEFINED else walk.walk_sequence(at, form)
    raise Unreadable("an item is not closed")
