"""The small elements of a header, verbatim: what later services answer from without opening the file.

Promise: `compact` copies every element before the pixel data whose value is not long, byte for byte and in order, so
the copy is read like the data set itself (`header.scan`). It raises Unreadable, never anything else.

Limits: an element longer than MOST_STANDARD (private: MOST_PRIVATE) bytes is left out, and everything behind
MOST_TOTAL; who needs such an element reads the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge.dicom import header, items
from edge.dicom.elements import DEFLATED, EXPLICIT, FORMS, UNDEFINED, Form, plain_syntax
from edge.dicom.header import MAX_LOOK, PIXEL_DATA, UNKNOWN_END, Inflated, Read, Walk, Window, read_from
from edge.errors import Unreadable
from edge.model import Values

MOST_STANDARD, MOST_PRIVATE, MOST_TOTAL = 4096, 256, 32 * 1024  # bytes; the last is what zlib can refer back to
_NOTHING: frozenset[int] = frozenset()


def compact(read: Read, length: int, transfer_syntax_uid: str) -> bytes:
    """The small elements of a data set of `length` bytes, in its own encoding. Raises Unreadable."""
    return compact_header(read, length, transfer_syntax_uid)[0]


def compact_header(read: Read, length: int, transfer_syntax_uid: str) -> tuple[bytes, bool]:
    """The same, and whether these are all that stand before the pixel data. Raises Unreadable."""
    is_whole = True
    if transfer_syntax_uid in DEFLATED:
        read, length = Inflated(read).read, UNKNOWN_END
    window, parts, total = Window(read, length, MAX_LOOK), list[bytes](), 0
    for tag, begin, end in _elements(window, FORMS.get(transfer_syntax_uid, EXPLICIT)):
        if end - begin <= (MOST_PRIVATE if tag >> 16 & 1 else MOST_STANDARD):
            total += end - begin
            if total > MOST_TOTAL:
                return b"".join(parts), False
            parts.append(window.value(begin, end - begin))
        else:
            is_whole = False
    return b"".join(parts), is_whole


def _elements(window: Window, form: Form) -> Iterator[tuple[int, int, int]]:
    """Each element before the pixel data: tag, where it begins, where the next one does."""
    walk, offset = Walk(window, _NOTHING, _NOTHING, 0), 0
    while True:
        tag, _, start, size = window.element(offset, form)
        if tag >= PIXEL_DATA:
            return
        end = walk.walk_sequence(offset, form) if size == UNDEFINED else start + size
        if end > window.end:
            raise Unreadable(f"a value of {size} bytes runs past the end of the data set, byte {start}")
        yield tag, offset, end
        offset = end


def top_values(small: bytes, transfer_syntax_uid: str, tags: frozenset[int]) -> dict[int, Values]:
    """Values of a compact header's elements. Raises Unreadable."""
    return header.scan(read_from(small), len(small), plain_syntax(transfer_syntax_uid), tags)


def item_values(small: bytes, transfer_syntax_uid: str, sequence: int, tags: frozenset[int]) -> dict[int, Values]:
    """Values in the first item of a sequence of a compact header; none where there is no such item."""
    found = items.decode_items(small, plain_syntax(transfer_syntax_uid)).items_of(sequence)
    return {tag: each.values for tag, each in found[0].items() if tag in tags} if found else {}
