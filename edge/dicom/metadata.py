"""Headers of instances as DICOM JSON (PS3.18 annex F), from their bytes: what WADO-RS answers as metadata.

Slices of a series say most things alike, in the same order: where the bytes of some elements are those that stood in
their place before, so is their JSON. Recursion is bounded by MAX_DEPTH. Small binary values are inline, long ones are
named by their address (BulkDataURI). Raises Unreadable for damage.
"""

from __future__ import annotations

import array
import base64
import json
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from edge.dicom.elements import (
    CHARACTER_SET,
    EXPLICIT,
    FORMS,
    IMPLICIT,
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    OPAQUE,
    SEQUENCE_END,
    UNDEFINED,
    Form,
    is_sequence,
    read_head,
    to_values,
    vr_of,
)
from edge.dicom.json import values_to_json
from edge.errors import Unreadable
from edge.model import Values

#: Of a binary value that is inline, in bytes.
MOST_INLINE = 4096
_PIXEL_GROUP = 0x7FE00000
_WORD = {"OW": "H", "OF": "I", "OL": "I", "OD": "Q", "OV": "Q"}  # big endian data sets: what is swapped
_CHARACTER_SET_JSON = '"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
_DUMP = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

#: The address of a long value, by where it is: its tag; in a sequence the tags and numbers of items before it, as in
#: "52009230/1/00289145".
BulkAddress = Callable[[str], str]


class _Known(NamedTuple):
    """An element as it was met, or some in a row: short ones, so that no address is in their JSON."""

    raw: bytes
    tag: int  # of the last one
    text: str  # empty: nothing of it is shown
    charset: Values  # that holds behind it

    def join(self, next_one: _Known) -> _Known:
        text = ",".join(filter(None, (self.text, next_one.text)))
        return _Known(self.raw + next_one.raw, next_one.tag, text, next_one.charset)


_NOTHING = _Known(b"", 0, "", ())


class MetadataWriter:
    """Makes the JSON of the headers of one answer."""

    def __init__(self) -> None:
        #: By how they are encoded: what stood behind an element of this tag the last time.
        self._followers: defaultdict[tuple[Form, Values], dict[int, _Known]] = defaultdict(dict)

    def write_elements(self, data: bytes, transfer_syntax_uid: str, address: BulkAddress) -> tuple[list[str], int]:
        """What stands before the pixel data (group 7FE0) as JSON, in parts; and where it ends. Raises Unreadable."""
        form, charset = FORMS.get(transfer_syntax_uid, EXPLICIT), Values()
        followers, found = self._followers[form, charset], list[str]()
        tag, at, end, padded = 0, 0, len(data), data + bytes(12)
        run, run_follows = _NOTHING, 0  # what is as it was before, up to here; the tag in front of that
        while at < end:
            known = followers.get(tag)
            if known is None or not data.startswith(known.raw, at):
                if read_head(padded, at, form)[0] >= _PIXEL_GROUP:
                    break
                known, run = _read_element(padded, at, end, form, charset, address), _NOTHING
                if len(known.raw) <= MOST_INLINE:
                    followers[tag] = known
            elif run.raw and len(run.raw) <= MOST_INLINE:
                run = followers[run_follows] = run.join(known)
            else:
                run, run_follows = known, tag
            raw, tag, text, behind = known
            if text:
                found.append(text)
            if behind is not charset:
                charset, followers, run = behind, self._followers[form, behind], _NOTHING
            at += len(raw)
        return found, at


def bulk_element(tag: int, vr: str, address: BulkAddress) -> str:
    """An element whose value has an address, as JSON."""
    return f'"{tag:08X}":{{"vr":"{vr}","BulkDataURI":{_DUMP(address(f"{tag:08X}"))}}}'


def _read_element(data: bytes, at: int, end: int, form: Form, charset: Values, address: BulkAddress) -> _Known:
    tag, vr, start, size = read_head(data, at, form)
    stop = start + size if size != UNDEFINED else _end_of_sequence(data, at, end, form)
    if stop > end:
        raise _damage_at(tag, at)
    text = _element(data, tag, vr, start, stop, form, charset, "", address) if tag & 0xFFFF else ""
    behind = to_values("CS", data[start:stop], form.order, ()) if tag == CHARACTER_SET else charset
    return _Known(data[at:stop], tag, text, behind)


def _element(
    data: bytes,
    tag: int,
    vr: bytes,
    start: int,
    stop: int,
    form: Form,
    charset: Values,
    path: str,
    address: BulkAddress,
) -> str:
    """`"TAG":{...}` of one element. `path`: of the item that has it, with a slash; empty at the top."""
    if tag == CHARACTER_SET:
        return _CHARACTER_SET_JSON  # JSON is UTF-8
    name = vr_of(tag) if vr in (b"", b"UN") else vr.decode("ascii")
    if is_sequence(tag, vr) or name == "SQ":
        inner = IMPLICIT if vr == b"UN" else form  # PS3.5 section 6.2.2
        items = _items(data, start, stop, inner, charset, f"{path}{tag:08X}/", address)
        value = f',"Value":[{",".join(items)}]' if items else ""
        return f'"{tag:08X}":{{"vr":"SQ"{value}}}'
    raw = data[start:stop]
    order = "<" if vr == b"UN" else form.order
    values = to_values(name, raw, order, charset) if raw else ()
    if values is OPAQUE:
        return f'"{tag:08X}":{{"vr":"{name}"{_binary(name, raw, order, f"{path}{tag:08X}", address)}}}'
    try:
        found = values_to_json(name, values)
    except ValueError:
        found = [str(each) for each in values]
    return f'"{tag:08X}":{_DUMP({"vr": name, "Value": found} if found else {"vr": name})}'


def _binary(vr: str, raw: bytes, order: str, place: str, address: BulkAddress) -> str:
    if len(raw) > MOST_INLINE:
        return f',"BulkDataURI":{_DUMP(address(place))}'
    if order == ">" and vr in _WORD:
        words = array.array(_WORD[vr], raw[: len(raw) // 8 * 8])
        words.byteswap()
        raw = words.tobytes()
    return f',"InlineBinary":"{base64.b64encode(raw).decode()}"' if raw else ""


def _items(data: bytes, at: int, end: int, form: Form, charset: Values, path: str, address: BulkAddress) -> list[str]:
    """The items of a sequence, whose delimiter may stand at its end."""
    if path.count("/") > 2 * MAX_DEPTH:
        raise Unreadable(f"sequences are nested more than {MAX_DEPTH} deep")
    found: list[str] = []
    while at < end:
        tag, _, start, size = read_head(data, at, form)
        if tag == SEQUENCE_END:
            break
        if tag != ITEM:
            raise _damage_at(tag, at)
        stop = start + size if size != UNDEFINED else end
        if stop > end:
            raise _damage_at(tag, at)
        within = f"{path}{len(found) + 1}/"
        text, at = _item(data, start, stop, form, charset, within, address, is_open=size == UNDEFINED)
        found.append(text)
    return found


def _item(
    data: bytes, at: int, end: int, form: Form, charset: Values, path: str, address: BulkAddress, *, is_open: bool
) -> tuple[str, int]:
    """One item, and where the next one begins."""
    found: list[str] = []
    while at < end:
        tag, vr, start, size = read_head(data, at, form)
        if tag == ITEM_END:
            at = start
            break
        stop = start + size if size != UNDEFINED else _end_of_sequence(data, at, end, form)
        if stop > end:
            raise _damage_at(tag, at)
        if tag & 0xFFFF:
            found.append(_element(data, tag, vr, start, stop, form, charset, path, address))
        if tag == CHARACTER_SET:
            charset = to_values("CS", data[start:stop], form.order, ())
        at = stop
    else:
        if is_open:
            raise _damage_at(ITEM, at)
    return "{" + ",".join(found) + "}", at


def _end_of_sequence(data: bytes, at: int, end: int, form: Form) -> int:
    """Where the element behind a sequence of undefined length begins. Not recursive."""
    _, vr, at, _ = read_head(data, at, form)
    forms, closers = [IMPLICIT if vr == b"UN" else form], [SEQUENCE_END]
    while at < end:
        tag, vr, start, size = read_head(data, at, forms[-1])
        at = start
        if tag == closers[-1]:
            closers.pop()
            forms.pop()
            if not closers:
                return at
        elif tag == ITEM and size == UNDEFINED:
            closers.append(ITEM_END)
            forms.append(forms[-1])
        elif size == UNDEFINED:
            closers.append(SEQUENCE_END)
            forms.append(IMPLICIT if vr == b"UN" else forms[-1])
        else:
            at += size
        if len(closers) > 2 * MAX_DEPTH:
            break
    raise Unreadable(f"a sequence is not closed, byte {at}")


def _damage_at(tag: int, at: int) -> Unreadable:
    return Unreadable(f"the header cannot be read at ({tag >> 16:04X},{tag & 0xFFFF:04X}), byte {at}")
