"""A corrected copy of a data set: attributes are read, `corrections` decides, and the edits that make it so.

Text keeps the object's character set. Where that cannot hold a new value, the whole data set becomes ISO_IR 192, every
text at every depth with it. What an attribute had before goes into an item of Original Attributes Sequence (0400,0561):
as it was encoded, and in (0400,0551) where it was no legal value (PS3.3 section C.12.1.1.9).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from edge.config.legal_values import value_fault
from edge.dicom import charset as character_sets
from edge.dicom.elements import (
    CHARACTER_SET,
    LOCAL_TEXT,
    NUMBERS,
    OPAQUE,
    UNDEFINED,
    Form,
    encode_values,
    is_sequence,
    plain_syntax,
    resets_of,
    to_bytes,
    to_values,
)
from edge.dicom.header import MAX_VALUE, Read, read_from, scan
from edge.errors import TransformError
from edge.model import GuessedText, InstanceHeader, Values
from edge.transform.corrections import Attribute, AttributeCorrection, AttributeValues, CorrectionRules, TodayFacts
from edge.transform.editing import (
    DeepEdit,
    Do,
    Edit,
    FoundElement,
    TopLevel,
    edited_pieces,
    encode_element,
    encode_sequence,
    form_of,
    holds_items,
    open_window,
    read_top_level,
    top_level_edits,
    vr_name,
    written_vr,
)

_BEHIND_CORRECTED = 0x50000000  # no rule changes an attribute of this group or a later one
_ORIGINAL_ATTRIBUTES, MODIFIED, NONCONFORMING = 0x04000561, 0x04000550, 0x04000551
_NONCONFORMING_VALUE, _MODIFIED_AT, _SYSTEM, _SOURCE, _REASON = (
    0x04000552,
    0x04000562,
    0x04000563,
    0x04000564,
    0x04000565,
)
_SELECTOR, _SELECTOR_NUMBER = 0x00720026, 0x00720028
_ISSUER_OF_ACCESSION, _LOCAL_NAMESPACE = 0x00080051, 0x00400031
_CODE_VALUE, _CODE_SCHEME, _CODE_MEANING, _LONG_CODE_VALUE = 0x00080100, 0x00080102, 0x00080104, 0x00080119
_SHORT_CODE = 16  # characters of Code Value; a longer one is a Long Code Value
UTF_8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Corrected:
    """How an original becomes the copy that goes out."""

    edits: tuple[Edit, ...]
    correction: AttributeCorrection


@dataclass(frozen=True, slots=True)
class FirstLevel:
    """The attributes of a data set's first level that a correction may change, as they are.

    `charset`: in which texts are read; where the object declares none, that which a rule declares for it.
    """

    read: Read
    length: int
    top: TopLevel
    found: dict[int, FoundElement]
    charset: Values
    values: AttributeValues


def correct_data_set(
    read: Read,
    length: int,
    transfer_syntax_uid: str,
    header: InstanceHeader,
    rules: CorrectionRules,
    facts: TodayFacts,
    system: str,
) -> Corrected | None:
    """The edits that correct a data set, which is not deflated; None where nothing is to be corrected.

    `system`: for Modifying System (0400,0563). Raises RuleFailed, TransformError, and Unreadable for what cannot be
    walked.
    """
    first = read_first_level(read, length, transfer_syntax_uid, rules.tags)
    header = _with_nested(header, read, length, transfer_syntax_uid, rules, first.values)
    if declared := rules.declared_charset(header, first.values, facts):
        first = replace(first, charset=declared, values=_values_of(first.top, first.found, declared))
    correction = rules.correct(header, first.values, facts)
    return None if correction is None else write_correction(first, correction, system, header.origin.calling_ae)


def read_first_level(read: Read, length: int, transfer_syntax_uid: str, tags: Collection[int]) -> FirstLevel:
    """What a data set, which is not deflated, has of these attributes. Raises TransformError, Unreadable."""
    last = max((_ORIGINAL_ATTRIBUTES, *(tag for tag in tags if tag < _BEHIND_CORRECTED)))
    top = read_top_level(open_window(read, length), form_of(read, transfer_syntax_uid), last)
    found = {each.tag: each for each in reversed(top.elements) if each.tag in tags or each.tag == CHARACTER_SET}
    charset = top.charset()
    return FirstLevel(read, length, top, found, charset, _values_of(top, found, charset))


def write_correction(first: FirstLevel, correction: AttributeCorrection, system: str, source: str) -> Corrected:
    """The edits that make it so, and keep what was before.

    `system` and `source`: for Modifying System (0400,0563) and Source of Previous Values (0400,0564). Raises
    TransformError, and Unreadable for what cannot be walked.
    """
    top, found, charset = first.top, first.found, first.charset
    now = correction.attributes.get(CHARACTER_SET)
    encoded = _encode_all(correction, found, now.values or () if now is not None else charset, top.form)
    is_utf8 = encoded is None
    if encoded is None:
        into_utf8 = {CHARACTER_SET: Attribute("CS", (UTF_8,)), **_without_charset(correction.attributes)}
        correction = replace(correction, attributes=into_utf8)
        encoded = _encode_all(correction, found, (UTF_8,), top.form)
    if encoded is None:
        raise TransformError("cannot be corrected: a new value cannot be encoded")
    record = _record(correction, _originals(top, found, top.charset(), correction), system, source, top.form)
    if not is_utf8:
        edits = top_level_edits(top, encoded | {_ORIGINAL_ATTRIBUTES: _append_record(top, record)})
    else:
        record = _append_record(_sequence_in_utf8(top, charset), record)
        edits = _edits_into_utf8(first, encoded | {_ORIGINAL_ATTRIBUTES: record})
    return Corrected(tuple(edits), correction)


def _with_nested(
    header: InstanceHeader,
    read: Read,
    length: int,
    transfer_syntax_uid: str,
    rules: CorrectionRules,
    found: AttributeValues,
) -> InstanceHeader:
    """The facts, with what conditions ask for and only sequences have, as routes find it."""
    nested = {tag: keyword for tag, keyword in rules.nested_tags.items() if tag not in found}
    if not nested:
        return header
    inside = scan(read, length, plain_syntax(transfer_syntax_uid), frozenset(nested), frozenset(nested))
    return replace(
        header, attributes=header.attributes | {nested[tag]: values for tag, values in inside.items() if tag in nested}
    )


def _without_charset(attributes: AttributeValues) -> AttributeValues:
    return {tag: each for tag, each in attributes.items() if tag != CHARACTER_SET}


# -- reading -----------------------------------------------------------------------------------------------------------


def _values_of(top: TopLevel, found: Mapping[int, FoundElement], charset: Values) -> AttributeValues:
    return {tag: _attribute(top, each, charset) for tag, each in found.items()}


def _attribute(top: TopLevel, found: FoundElement, charset: Values) -> Attribute:
    vr = vr_name(found.tag, found.vr)
    if is_sequence(found.tag, found.vr) or found.size == UNDEFINED:
        return Attribute("SQ", OPAQUE if found.end > found.start else ())
    if found.size > MAX_VALUE and vr not in ("LT", "ST", "UT"):
        return Attribute(vr, OPAQUE)
    raw = top.value(found)
    order = "<" if found.vr == b"UN" else top.form.order
    values = to_values(vr, raw, order, charset) if raw else ()
    padding = (b"\0" if vr == "UI" else b" ") if len(raw.rstrip(b" \0")) & 1 else b""
    is_padded = vr not in NUMBERS and raw != raw.strip(b" \0") + padding
    return Attribute(vr, tuple(str(each) for each in values), is_padded)


# -- writing -----------------------------------------------------------------------------------------------------------


def _encode_all(
    correction: AttributeCorrection, found: Mapping[int, FoundElement], charset: Values, form: Form
) -> dict[int, bytes] | None:
    """The changed elements; None where the character set cannot hold one of them."""
    encoded: dict[int, bytes] = {}
    for tag, each in correction.attributes.items():
        if each.values is None:
            encoded[tag] = b""
        elif tag == _ISSUER_OF_ACCESSION:
            namespace = encode_element(_LOCAL_NAMESPACE, "UT", to_bytes("UT", each.values, "<", "utf-8"), form)
            encoded[tag] = encode_sequence(tag, [namespace], form)
        elif each.vr == "SQ":
            item = _encode_code(each.values, charset, form)
            if item is None:
                return None
            encoded[tag] = encode_sequence(tag, [item], form)
        else:
            raw = encode_values(each.vr, each.values, charset, form.order)
            if raw is None:
                return None
            encoded[tag] = encode_element(tag, written_vr(found[tag].vr if tag in found else b"", each.vr), raw, form)
    return encoded


def _encode_code(values: Values, charset: Values, form: Form) -> bytes | None:
    """An item of a code sequence: code, scheme, meaning (PS3.3 section 8.8); None where the text does not fit."""
    code, scheme, meaning = values
    number = (_CODE_VALUE, "SH", code) if len(code) <= _SHORT_CODE else (_LONG_CODE_VALUE, "UC", code)
    found = {}
    for tag, vr, text in (number, (_CODE_SCHEME, "SH", scheme), (_CODE_MEANING, "LO", meaning[:64])):
        raw = encode_values(vr, (text,), charset, form.order)
        if raw is None:
            return None
        found[tag] = encode_element(tag, vr, raw, form)
    return b"".join(found[tag] for tag in sorted(found))


# -- the record of what was before -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Original:
    tag: int
    vr: str
    raw: bytes
    is_legal: bool


def _originals(
    top: TopLevel, found: Mapping[int, FoundElement], charset: Values, correction: AttributeCorrection
) -> list[_Original]:
    """What the changed attributes had, in order of their tags; of zero length where they were absent."""
    made = []
    for tag, each in sorted(correction.attributes.items()):
        if (was := found.get(tag)) is None:
            if tag != CHARACTER_SET:  # it would be that of the item itself
                made.append(_Original(tag, each.vr, b"", True))
        else:
            vr, raw = vr_name(tag, was.vr), top.value(was)
            made.append(_Original(tag, vr, raw, _is_legal(vr, raw, charset, top.form)))
    return made


def _is_legal(vr: str, raw: bytes, charset: Values, form: Form) -> bool:
    if vr in NUMBERS or vr == "SQ":
        return True
    if len(raw) & 1:
        return False
    values = to_values(vr, raw, form.order, charset)
    return not any(isinstance(each, GuessedText) or value_fault(vr, each) for each in values)


def _record(correction: AttributeCorrection, originals: list[_Original], system: str, source: str, form: Form) -> bytes:
    """An item of Original Attributes Sequence, without its head."""

    def text(tag: int, vr: str, value: str) -> bytes:
        return encode_element(tag, vr, to_bytes(vr, (value,), form.order, "ascii"), form)

    legal = b"".join(encode_element(each.tag, each.vr, each.raw, form) for each in originals if each.is_legal)
    odd = [_nonconforming(each, form) for each in originals if not each.is_legal]
    moment = datetime.fromtimestamp(correction.at, timezone.utc).strftime("%Y%m%d%H%M%S.%f+0000")
    return b"".join(
        (
            encode_sequence(MODIFIED, [legal], form),
            encode_sequence(NONCONFORMING, odd, form) if odd else b"",
            text(_MODIFIED_AT, "DT", moment),
            text(_SYSTEM, "LO", system[:64]),
            text(_SOURCE, "LO", source[:64]),
            text(_REASON, "CS", correction.reason),
        )
    )


def _nonconforming(each: _Original, form: Form) -> bytes:
    """An item of Nonconforming Modified Attributes Sequence: the bytes as they came."""
    order = form.order
    number = encode_element(_SELECTOR_NUMBER, "US", struct.pack(f"{order}H", 1), form)
    where = encode_element(_SELECTOR, "AT", struct.pack(f"{order}HH", each.tag >> 16, each.tag & 0xFFFF), form)
    raw = each.raw + b"\0" * (len(each.raw) & 1)
    return where + number + encode_element(_NONCONFORMING_VALUE, "OB", raw, form)


def _append_record(top: TopLevel, record: bytes) -> bytes:
    """Original Attributes Sequence with one item more at its end."""
    found = top.find(_ORIGINAL_ATTRIBUTES)
    item = encode_element(0xFFFEE000, "", record, top.form)
    if found is None:
        return encode_element(_ORIGINAL_ATTRIBUTES, "SQ", item, top.form)
    raw = top.value(found)
    if found.size == UNDEFINED:  # before its delimiter, which is 8 bytes long
        head = encode_element(_ORIGINAL_ATTRIBUTES, written_vr(found.vr, "SQ"), b"", top.form)
        return head[:-4] + struct.pack("<I", UNDEFINED) + raw[:-8] + item + raw[-8:]
    return encode_element(_ORIGINAL_ATTRIBUTES, written_vr(found.vr, "SQ"), raw + item, top.form)


# -- the whole data set in ISO_IR 192 ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Item:
    charset: Values
    is_first_level: bool


class _IntoUtf8:
    """Encodes text at every level; `context` is an `_Item`."""

    def __init__(self, charset: Values, replaced: Collection[int] = ()) -> None:
        """`replaced`: the elements of the first level that others take the place of."""
        self._charset, self._replaced = charset, replaced

    def open_item(self, _sequence: int, context: _Item | None) -> _Item:
        return _Item(self._charset, True) if context is None else _Item(context.charset, False)

    def decide(
        self, tag: int, vr: bytes, size: int, read_value: Callable[[], bytes], form: Form, context: _Item
    ) -> Do | bytes:
        if context.is_first_level and tag in self._replaced:
            return Do.REMOVE
        if holds_items(tag, vr, size):
            return Do.ENTER
        if size in (0, UNDEFINED):
            return Do.KEEP
        name = vr_name(tag, vr)
        if tag == CHARACTER_SET:
            context.charset = to_values("CS", read_value(), form.order, ())
            return encode_element(tag, written_vr(vr, "CS"), UTF_8.encode(), form)
        if name not in LOCAL_TEXT or name == "UN":
            return Do.KEEP
        raw = read_value()
        if raw.isascii() and b"\x1b" not in raw:
            return Do.KEEP
        text, _ = character_sets.decode_bytes(raw, context.charset, resets_of(name))
        converted = text.rstrip(" \0").encode("utf-8")
        return encode_element(tag, written_vr(vr, name), converted + b" " * (len(converted) & 1), form)


def _edits_into_utf8(first: FirstLevel, elements: dict[int, bytes]) -> list[Edit]:
    """The edits of a data set that becomes ISO_IR 192 and gets these elements of the first level."""
    visitor = _IntoUtf8(first.charset, elements.keys())
    return DeepEdit(open_window(first.read, first.length), first.top.form, visitor, elements).run()


def _sequence_in_utf8(top: TopLevel, charset: Values) -> TopLevel:
    """Original Attributes Sequence alone, its text in ISO_IR 192."""
    found = top.find(_ORIGINAL_ATTRIBUTES)
    data = b"" if found is None else top.window.value(found.head, found.end - found.head)
    read = read_from(data)
    edits = DeepEdit(open_window(read, len(data)), top.form, _IntoUtf8(charset), {}).run()
    data = b"".join(edited_pieces(read, len(data), edits))
    return read_top_level(open_window(read_from(data), len(data)), top.form, _ORIGINAL_ATTRIBUTES)
