"""The data set of an imported object with the local identity: only what differs changes, and is kept as it was.

Promise: UIDs, pixels and every other element go through as they are, byte for byte; what changes is appended as an item
to Original Attributes Sequence (0400,0561; PS3.3 section C.12.1.1.9). The same object with the same decision gives the
same bytes. Where the character set of the object cannot hold a new value, all its text becomes UTF-8 (ISO_IR 192).

Raises TransformError for a data set that cannot be walked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import pack
from typing import IO, NamedTuple

from edge.dicom.charset import decode_bytes
from edge.errors import TransformError
from edge.importer.whose import LocalIdentity
from edge.model.character_sets import CODECS
from edge.text import MIB
from edge.transform.elements import (
    LONG_VRS,
    UNDEFINED_LENGTH,
    DataSet,
    ElementKind,
    ElementWriter,
    definite_vr,
    is_explicit,
    read_bytes,
)
from edge.transform.syntaxes import BIG_ENDIAN

CHARSET_TAG, ORIGINAL_ATTRIBUTES = 0x00080005, 0x04000561
_MODIFIED, _MODIFIED_AT, _SYSTEM, _SOURCE, _REASON = 0x04000550, 0x04000562, 0x04000563, 0x04000564, 0x04000565
_ITEM, _TEXT_VRS = 0xFFFEE000, frozenset({"SH", "LO", "ST", "LT", "UT", "UC", "PN"})
_RESETS = {"PN": b"^=\\", "ST": b"", "LT": b"", "UT": b""}
#: What an identity changes: field -> (tag, VR).
_CHANGED: Mapping[str, tuple[int, str]] = {
    "accession": (0x00080050, "SH"),
    "patient_name": (0x00100010, "PN"),
    "patient_id": (0x00100020, "LO"),
    "issuer": (0x00100021, "LO"),
    "birth_date": (0x00100030, "DA"),
    "sex": (0x00100040, "CS"),
}


@dataclass(frozen=True, slots=True)
class ImportDecision:
    """Who decided whose an object is, for the record in the object."""

    site: str
    source: str  # of the values before: what was imported
    at: float  # when it was decided


class _Span(NamedTuple):
    """One element of the data set itself: where its head and its value begin, and where it ends."""

    tag: int
    vr: str
    head: int
    value: int
    end: int
    length: int


class Encoding(NamedTuple):
    """How elements are written."""

    explicit: bool
    little: bool

    def element(self, tag: int, vr: str, value: bytes) -> bytes:
        """A whole element, its value padded to even length."""
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        order = "<" if self.little else ">"
        where = pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit or tag == _ITEM:
            return where + pack(f"{order}L", len(value)) + value
        if vr in LONG_VRS:
            return where + vr.encode() + bytes(2) + pack(f"{order}L", len(value)) + value
        return where + vr.encode() + pack(f"{order}H", len(value)) + value


def localize(data_set: DataSet, identity: LocalIdentity, decision: ImportDecision) -> Iterator[bytes] | None:
    """Give the changed data set in parts; None: nothing differs, and the data set is as it should be."""
    encoding = Encoding(is_explicit(data_set.file, data_set.start), data_set.syntax != BIG_ENDIAN)
    spans = list(_spans(data_set, encoding.explicit))
    changes = find_changes(data_set, spans, identity)
    if not changes:
        return None
    codec = _codec_of(_read_charset(data_set, spans))
    if codec is None or any(not _can_encode(text, codec) for text in changes.values()):
        raise NeedsUtf8
    replaced = {tag: text.encode(codec) for tag, text in changes.items()}
    return _parts(data_set, spans, encoding, replaced, decision)


class NeedsUtf8(TransformError):
    """The object's character set cannot hold a new value: `to_utf8` comes first."""


def find_changes(data_set: DataSet, spans: list[_Span], identity: LocalIdentity) -> dict[int, str]:
    """Return {tag: new text} of what differs; a text that nobody knows changes nothing."""
    charset, texts = tuple(_read_charset(data_set, spans)), {each.tag: each for each in spans}
    changes = {}
    for field, (tag, _) in _CHANGED.items():
        wanted, span = getattr(identity, field), texts.get(tag)
        raw = read_bytes(data_set.file, span.value, span.length, data_set.end) if span else b""
        found = decode_bytes(raw, charset, b"^=\\")[0].strip(" \0")
        if wanted and wanted != found:
            changes[tag] = wanted
    return changes


def _spans(data_set: DataSet, explicit: bool) -> Iterator[_Span]:
    """List the elements of the data set itself; a sequence is one of them."""
    depth, last = 0, None
    for event in data_set.walk():
        if event.kind is ElementKind.END:
            depth -= 1
            continue
        if depth == 0:
            head = event.at - (12 if explicit and event.vr in LONG_VRS else 8)
            if last is not None:
                yield last._replace(end=head)
            length = 0 if event.length == UNDEFINED_LENGTH else event.length
            last = _Span(event.tag, event.vr, head, event.at, data_set.end, length)
        if event.kind in (ElementKind.SEQUENCE, ElementKind.ITEM):
            depth += 1
    if last is not None:
        yield last


def _read_charset(data_set: DataSet, spans: list[_Span]) -> list[str]:
    found = next((each for each in spans if each.tag == CHARSET_TAG), None)
    if found is None:
        return []
    text = read_bytes(data_set.file, found.value, found.length, data_set.end).decode("latin-1")
    return [term.strip(" \0") for term in text.split("\\")]


def _codec_of(charset: list[str]) -> str | None:
    """Python's name of a character set without code extensions; None: with."""
    if not charset or charset == [""]:
        return "ascii"
    return CODECS.get(charset[0]) if len(charset) == 1 and charset[0].startswith("ISO_IR") else None


def _can_encode(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _parts(
    data_set: DataSet, spans: list[_Span], encoding: Encoding, replaced: Mapping[int, bytes], decision: ImportDecision
) -> Iterator[bytes]:
    vrs = dict(_CHANGED.values())
    by_tag = {each.tag: each for each in spans}
    made = {tag: encoding.element(tag, vrs[tag], raw) for tag, raw in replaced.items()}
    made[ORIGINAL_ATTRIBUTES] = _original_attributes(data_set, by_tag, encoding, replaced, decision)
    waiting = sorted(made)
    for span in spans:
        while waiting and waiting[0] < span.tag:
            yield made[waiting.pop(0)]
        if waiting and waiting[0] == span.tag:
            yield made[waiting.pop(0)]
            continue
        yield from _copy(data_set.file, span.head, span.end)
    for tag in waiting:
        yield made[tag]


def _copy(file: IO[bytes], begin: int, end: int) -> Iterator[bytes]:
    for at in range(begin, end, MIB):
        yield read_bytes(file, at, min(MIB, end - at), end)


def _original_attributes(
    data_set: DataSet,
    spans: Mapping[int, _Span],
    encoding: Encoding,
    replaced: Mapping[int, bytes],
    decision: ImportDecision,
) -> bytes:
    """The sequence with one more item: the values before, when and by what they were changed."""
    vrs = dict(_CHANGED.values())
    before = b"".join(encoding.element(tag, vrs[tag], _value(data_set, spans.get(tag))) for tag in sorted(replaced))
    at = time.strftime("%Y%m%d%H%M%S+0000", time.gmtime(decision.at)).encode()
    item = b"".join(
        (
            encoding.element(_MODIFIED, "SQ", encoding.element(_ITEM, "", before)),
            encoding.element(_MODIFIED_AT, "DT", at),
            encoding.element(_SYSTEM, "LO", f"Edge {decision.site}"[:64].encode("ascii", "replace")),
            encoding.element(_SOURCE, "LO", decision.source[:64].encode("ascii", "replace")),
            encoding.element(_REASON, "CS", b"COERCE"),
        )
    )
    items = encoding.element(_ITEM, "", item)
    if (known := spans.get(ORIGINAL_ATTRIBUTES)) is not None:
        end = known.value + known.length if known.length else max(known.value, known.end - 8)
        items = read_bytes(data_set.file, known.value, end - known.value, data_set.end) + items
    return encoding.element(ORIGINAL_ATTRIBUTES, "SQ", items)


def _value(data_set: DataSet, span: _Span | None) -> bytes:
    return read_bytes(data_set.file, span.value, span.length, data_set.end) if span else b""


# -- another character set ---------------------------------------------------------------------------------------------


def to_utf8(data_set: DataSet, out: IO[bytes]) -> None:
    """Write the data set with all its text, at every depth, in UTF-8. Raises TransformError for big endian."""
    if data_set.syntax == BIG_ENDIAN:
        raise TransformError("its character set cannot hold the patient's name, and it is in big endian")
    explicit = is_explicit(data_set.file, data_set.start)
    writer, is_written = ElementWriter(out, explicit), False
    charsets: dict[int, tuple[str, ...]] = {data_set.start: ()}
    for event in data_set.walk():
        if not is_written and event.tag >= CHARSET_TAG and event.kind is not ElementKind.END:
            writer.element(CHARSET_TAG, "CS", b"ISO_IR 192")
            is_written = True
        if event.kind is ElementKind.END:
            writer.head(event.tag, "", 0)
        elif event.kind in (ElementKind.SEQUENCE, ElementKind.ITEM):
            writer.head(event.tag, "SQ" if event.kind is ElementKind.SEQUENCE else "", UNDEFINED_LENGTH)
            if event.kind is ElementKind.ITEM:  # until it says another one
                charsets[event.at] = charsets.get(event.data_set, ())
        elif event.kind is ElementKind.FRAGMENTS:
            writer.head(event.tag, event.vr, UNDEFINED_LENGTH)
            for part in _copy(data_set.file, event.at, _fragments_end(data_set, event.at)):
                writer.write(part)
        elif event.tag == CHARSET_TAG:
            raw = read_bytes(data_set.file, event.at, event.length, data_set.end)
            charsets[event.data_set] = tuple(each.strip(" \0") for each in raw.decode("latin-1").split("\\"))
        elif event.vr in _TEXT_VRS and event.length:
            raw = read_bytes(data_set.file, event.at, event.length, data_set.end)
            text = decode_bytes(raw, charsets.get(event.data_set, ()), _RESETS.get(event.vr, b"\\"))[0]
            writer.element(event.tag, definite_vr(event, 0), text.rstrip(" \0").encode())
        elif event.tag & 0xFFFF:
            writer.copy(data_set.file, event, definite_vr(event, 0))


def _fragments_end(data_set: DataSet, begin: int) -> int:
    """Where encapsulated Pixel Data ends, its delimiter included."""
    at = begin
    while True:
        head = read_bytes(data_set.file, at, 8, data_set.end)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"\xfe\xff\xdd\xe0":
            return at + 8
        at += 8 + length
