"""De-identification of an outgoing copy: the Basic Application Level Confidentiality Profile of PS3.15 annex E.

Every element at every depth is decided about: by Table E.1-1 (`confidentiality`), else by what it is. Curves, overlays,
elements that no dictionary knows and private elements go; of these, a project may keep what the standard calls safe.
UIDs and pseudonyms are made with the project's key, so that they are the same for all instances, references and years,
and for nobody without the key. Beyond the table: a text that has the patient's name, number or accession number in it
is replaced wherever it is, and so is a link. No original attribute is recorded: on such a route that would say who the
patient is.

Limits: pixels are not searched; `pixel_risk` names objects that a person has to inspect. Free text that the options
keep is cleaned of what the object itself names, of dates and of long numbers, not of what only a reader understands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from edge.dicom import charset as character_sets
from edge.dicom.elements import (
    CHARACTER_SET,
    LOCAL_TEXT,
    NUMBERS,
    UNDEFINED,
    Form,
    encode_values,
    is_sequence,
    resets_of,
    to_values,
    vr_of,
)
from edge.dicom.header import Read
from edge.model import Values
from edge.text import MIB
from edge.transform.confidentiality import METHOD_CODES, Deidentification, safe_private, table_actions
from edge.transform.corrections import keyword_tag
from edge.transform.editing import (
    DeepEdit,
    Do,
    Edit,
    TopLevel,
    encode_element,
    encode_sequence,
    form_of,
    open_window,
    read_top_level,
    vr_name,
    written_vr,
)

_SOP_INSTANCE, _STUDY_UID, _SERIES = 0x00080018, 0x0020000D, 0x0020000E
_NAME_TAG, _ID_TAG, _ISSUER, _STUDY_ID = 0x00100010, 0x00100020, 0x00100021, 0x00200010
_SCHEME, _CODE_MEANING = 0x00080102, 0x00080104
_MODALITY, _ROWS, _BURNED_IN, _BEFORE_PIXELS = 0x00080060, 0x00280010, 0x00280301, 0x7FDFFFFF
#: What the copy says of itself (PS3.15 section E.1.1).
_REMOVED, _METHOD, _METHOD_CODES, _LONGITUDINAL = 0x00120062, 0x00120063, 0x00120064, 0x00280303
_DOCUMENT = 0x00420011
#: Attributes of the first level whose values name the patient or the study; they are looked for in all texts.
_NAMING = (
    *(_NAME_TAG, _ID_TAG, 0x00100030, 0x00101000, 0x00101001, 0x00101005, 0x00101060, 0x00101040, 0x00102154),
    *(0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081070, 0x00401001, 0x00321032, 0x00080080, 0x00081040),
)
_SHORTEST = 4  # characters of such a value, or of a part of a name
#: UIDs that name no instance.
_KEPT_UIDS = frozenset({0x0008010C, 0x00080117, 0x00080118, 0x00020010, 0x00020002, 0x00080016, 0x00081150})
#: Coding schemes whose meanings are published.
_PUBLIC_SCHEMES = frozenset(
    ("DCM", "SCT", "SRT", "SNM3", "LN", "UCUM", "FMA", "RADLEX", "NCIt", "UMLS", "I10", "I10C", "I10P", "I9C", "BI")
)
#: Modalities whose pixels often hold text.
_RISKY = frozenset({"US", "SC", "XC", "ES", "OT"})
_DUMMY = {"AE": "ANON", "AS": "000D", "CS": "ANON", "DA": "19000101", "DT": "19000101000000", "TM": "000000"}
_DUMMY |= {"DS": "0", "IS": "0", "UR": "urn:anonymized", "PN": "Anonymized"}
_LARGEST_TEXT = MIB
_DATES, _LONG_NUMBERS = re.compile(r"\b\d{1,4}[./-]\d{1,2}[./-]\d{2,4}\b"), re.compile(r"\d{5,}")
_REMOVED_TEXT = "REMOVED"
_LONGEST_CREATOR = 64
#: What a value that is safe by the standard never has.
_BULK_VRS = frozenset({b"SQ", b"OB", b"OW", b"OD", b"OF", b"OL", b"OV"})


# -- one object --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeidentifiedEdits:
    """How a data set becomes one without identity, and the UIDs that it then has."""

    edits: tuple[Edit, ...]
    sop_instance_uid: str
    study_uid: str
    series_uid: str


def deidentify(
    read: Read,
    length: int,
    transfer_syntax_uid: str,
    project: Deidentification,
    *,
    is_masked: bool = False,
    is_approved: bool = False,
) -> DeidentifiedEdits:
    """The edits of a data set, which is not deflated. Raises TransformError, Unreadable for what cannot be walked.

    `is_masked`: what its pixels say is set to black. `is_approved`: a person has inspected pixels or document.
    """
    form = form_of(read, transfer_syntax_uid)
    first = _FirstLevel(read_top_level(open_window(read, length), form, _BEFORE_PIXELS))
    own = _own_elements(project, form, is_masked=is_masked)
    visitor = _Deidentifier(project, first, frozenset(own), keeps_document=is_approved)
    edits = DeepEdit(open_window(read, length), form, visitor, own).run()
    uids = (project.map_uid(first.text(tag)) for tag in (_SOP_INSTANCE, _STUDY_UID, _SERIES))
    return DeidentifiedEdits(tuple(edits), *uids)


def pixel_risk(read: Read, length: int, transfer_syntax_uid: str) -> str:
    """Why the pixels of an object may name its patient; empty where they should not."""
    top = read_top_level(open_window(read, length), form_of(read, transfer_syntax_uid), _BEFORE_PIXELS)
    first = _FirstLevel(top)
    if first.has(_DOCUMENT):
        return "an encapsulated document"
    if not first.has(_ROWS):
        return ""
    if (modality := first.text(_MODALITY)) in _RISKY:
        return f"modality {modality}"
    if (burned_in := first.text(_BURNED_IN)) != "NO":
        return f"Burned In Annotation is {burned_in[:16] or 'absent'}"
    for group in range(0x6000, 0x6020, 2):
        if first.number(group << 16 | 0x0102) > 0 and first.number(group << 16 | 0x0100) > 1:
            return "an overlay in unused bits of the pixels"
    return ""


class _FirstLevel:
    """Values of the first level of a data set, above its pixels."""

    def __init__(self, top: TopLevel) -> None:
        self._top = top
        self._there = {each.tag: each for each in reversed(top.elements)}
        self.charset = top.charset()

    def text(self, tag: int) -> str:
        """The first value; empty where there is none."""
        return (self.values(tag) or ("",))[0]

    def values(self, tag: int) -> Values:
        found = self._there.get(tag)
        if found is None or found.size in (0, UNDEFINED) or found.size > _LARGEST_TEXT:
            return ()
        return to_values(vr_name(tag, found.vr), self._top.value(found), self._top.form.order, self.charset)

    def number(self, tag: int) -> int:
        text = self.text(tag)
        return int(text) if text.isdigit() else 0

    def has(self, tag: int) -> bool:
        return tag in self._there

    def tokens(self) -> frozenset[str]:
        """What names the patient and the study, in lower case: whole values and the parts of names."""
        found: set[str] = set()
        for tag in _NAMING:
            for value in self.values(tag):
                found.update((value, *re.split(r"[\^= ,;]+", value)))
        return frozenset(each.casefold() for each in found if len(each) >= _SHORTEST and not each.isspace())


def _own_elements(project: Deidentification, form: Form, *, is_masked: bool) -> dict[int, bytes]:
    """What the copy says of how it was made."""

    def text(tag: int, vr: str, value: str) -> bytes:
        raw = value.encode("ascii")
        return encode_element(tag, vr, raw + b" " * (len(raw) & 1), form)

    codes = [
        text(0x00080100, "SH", code) + text(_SCHEME, "SH", "DCM") + text(_CODE_MEANING, "LO", meaning[:64])
        for name, (code, meaning) in METHOD_CODES.items()
        if name == "basic" or name in project.options or (name == "pixels" and is_masked)
    ]
    dates = project.options & {"dates", "modified-dates"}
    longitudinal = "REMOVED" if not dates else "UNMODIFIED" if "dates" in dates else "MODIFIED"
    masked = {_BURNED_IN: text(_BURNED_IN, "CS", "NO")} if is_masked else {}
    return masked | {
        _REMOVED: text(_REMOVED, "CS", "YES"),
        _METHOD: text(_METHOD, "LO", "Edge: PS3.15 Basic Profile"),
        _METHOD_CODES: encode_sequence(_METHOD_CODES, codes, form),
        _LONGITUDINAL: text(_LONGITUDINAL, "CS", longitudinal),
    }


@dataclass(slots=True)
class _ItemContext:
    """What is known of the item that an element is in."""

    charset: Values
    is_first_level: bool = False
    action: str = ""  # of the sequences that hold it: every text in it is replaced (D) or cleaned (C)
    scheme: str = ""  # Coding Scheme Designator, of a code
    #: What is safe in each block of private elements: (group, block) -> last byte of the element -> VR.
    blocks: dict[tuple[int, int], Mapping[int, str]] = field(default_factory=dict)


_Read = Callable[[], bytes]


class _Deidentifier:
    """Decides about each element of one object; see the module's docstring."""

    def __init__(
        self, project: Deidentification, first: _FirstLevel, own: frozenset[int], *, keeps_document: bool
    ) -> None:
        self._project, self._first, self._own = project, first, own
        self._actions = table_actions(project.options)
        if keeps_document:
            self._actions = {**self._actions, _DOCUMENT: "K"}
        self._tokens = first.tokens()
        patient, issuer = first.text(_ID_TAG), first.text(_ISSUER)
        self._patient = f"{patient}\0{issuer}" if patient else first.text(_STUDY_UID)

    def open_item(self, sequence: int, context: _ItemContext | None) -> _ItemContext:
        if context is None:
            return _ItemContext(self._first.charset, is_first_level=True)
        action = self._actions.get(sequence, "")
        is_stronger = action == "D" or (action == "C" and context.action != "D")
        return _ItemContext(context.charset, action=action if is_stronger else context.action)

    def decide(
        self, tag: int, vr: bytes, size: int, read_value: _Read, form: Form, context: _ItemContext
    ) -> Do | bytes:
        group = tag >> 16
        if group & 1:
            return self._decide_private(tag, vr, size, read_value, form, context)
        if 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:
            return Do.REMOVE
        if tag & 0xFFFF == 0:
            return Do.KEEP if size == 4 else Do.REMOVE  # the length of its group, which is corrected
        if context.is_first_level and tag in self._own:
            return Do.REMOVE
        if vr_of(tag) == "UN" or tag in (0xFFFCFFFC, 0x00080001):
            return Do.REMOVE
        action = self._actions.get(tag, "")
        if action == "X":
            return Do.REMOVE
        if is_sequence(tag, vr) or (size == UNDEFINED and group != 0x7FE0):
            return encode_element(tag, written_vr(vr, "SQ"), b"", form) if action == "Z" else Do.ENTER
        if size in (0, UNDEFINED):
            return Do.KEEP
        return self._keep_or_replace(tag, vr, size, action, read_value, form, context)

    def _decide_private(
        self, tag: int, vr: bytes, size: int, read_value: _Read, form: Form, context: _ItemContext
    ) -> Do | bytes:
        """What the standard calls safe stays, with the name of its creator (PS3.5 section 7.8), where that is asked."""
        group, block, number = tag >> 16, tag >> 8 & 0xFF, tag & 0xFF
        if "safe-private" not in self._project.options:
            return Do.REMOVE
        if block == 0 and number >= 0x10 and size <= _LONGEST_CREATOR:
            safe = safe_private(group, read_value().decode("latin-1").strip(" \0"))
            context.blocks[group, number] = safe
            return Do.KEEP if safe else Do.REMOVE
        kind = context.blocks.get((group, block), {}).get(number)
        if kind == "SQ":
            return Do.ENTER
        if kind is None or size == UNDEFINED or vr in _BULK_VRS:
            return Do.REMOVE
        return self._keep_or_replace(tag, vr, size, "", read_value, form, context)

    def _keep_or_replace(
        self, tag: int, vr: bytes, size: int, action: str, read_value: _Read, form: Form, context: _ItemContext
    ) -> Do | bytes:
        value = self._value(tag, vr_name(tag, vr), size, action, read_value, form, context)
        return Do.KEEP if value is None else encode_element(tag, written_vr(vr, vr_name(tag, vr)), value, form)

    def _value(
        self, tag: int, vr: str, size: int, action: str, read_value: _Read, form: Form, context: _ItemContext
    ) -> bytes | None:
        """The bytes that an element has instead of its own; None: it keeps them."""
        if tag == CHARACTER_SET:
            context.charset = to_values("CS", read_value(), form.order, ())
            return None
        if tag in (_NAME_TAG, _ID_TAG):
            return _pad(vr, self._project.pseudonym(self._person(tag, vr, read_value, form, context)))
        if tag == _STUDY_ID:
            return _pad(vr, self._project.study_id(self._first.text(_STUDY_UID)))
        if vr == "UI":
            return None if action == "K" or tag in _KEPT_UIDS else self._mapped_uids(read_value())
        if action == "Z":
            return b""
        if action in ("D", "U"):
            return _dummy(vr, size)
        if action == "K":
            return None
        if vr in ("DA", "DT", "TM"):
            return self._moment(vr, action, read_value())
        return self._text(tag, vr, size, action, read_value, context)

    def _person(self, tag: int, vr: str, read_value: _Read, form: Form, context: _ItemContext) -> str:
        """Who is meant by a name or number: the patient, or of an item another one."""
        if context.is_first_level:
            return self._patient
        values = to_values(vr, read_value(), form.order, context.charset)
        return self._patient if values and values[0] == self._first.text(tag) else "\\".join(values)

    def _mapped_uids(self, raw: bytes) -> bytes:
        uids = raw.decode("latin-1").rstrip("\0 ").split("\\")
        return _pad("UI", "\\".join(self._project.map_uid(each.strip("\0 ")) for each in uids))

    def _moment(self, vr: str, action: str, raw: bytes) -> bytes | None:
        """Change a date or time that is not to be kept: shifted by whole days, or removed."""
        if action == "C" and vr in ("DA", "DT"):
            return _shift(raw, self._project.shift_days(self._patient))
        return None if action == "C" else b""

    def _text(
        self, tag: int, vr: str, size: int, action: str, read_value: _Read, context: _ItemContext
    ) -> bytes | None:
        if vr == "PN":
            return _pad(vr, _DUMMY["PN"])
        if vr not in LOCAL_TEXT | {"AE", "AS", "CS", "UR"}:
            return None
        if size > _LARGEST_TEXT:
            return _dummy(vr, size)
        raw = read_value()
        text, _ = character_sets.decode_bytes(raw, context.charset, resets_of(vr))
        if tag == _SCHEME:
            context.scheme = text.strip(" \0")
        if action == "C":
            return self._clean(vr, text, context)
        is_code = tag in (0x00080100, _SCHEME, 0x00080119, 0x00080120)
        if tag == _CODE_MEANING and context.scheme in _PUBLIC_SCHEMES:
            is_code = True
        is_free = vr != "CS" and not is_code
        is_link = vr == "UR" and not is_code  # it leads to the original
        if is_link or (context.action == "D" and is_free):
            return _dummy(vr, size)
        if context.action == "C" and is_free:
            return self._clean(vr, text, context)
        return _dummy(vr, size) if self._names_patient(text) else None

    def _names_patient(self, text: str) -> bool:
        lower = text.casefold()
        return any(each in lower for each in self._tokens)

    def _clean(self, vr: str, text: str, context: _ItemContext) -> bytes:
        """A text without what names the patient, dates and long numbers."""
        cleaned = _LONG_NUMBERS.sub("", _DATES.sub("", _remove_tokens(self._tokens, text))).strip(" \0")
        return encode_values(vr, (cleaned,), context.charset, "<") or _pad(
            vr, cleaned.encode("ascii", "ignore").decode()
        )


def _remove_tokens(tokens: Iterable[str], text: str) -> str:
    """Remove from a text what is one of these, which are casefolded: "weiss" is "Weiß"."""
    places = [at for at, each in enumerate(text) for _ in each.casefold()]
    folded, gone = text.casefold(), set[int]()
    for token in tokens:
        at = folded.find(token)
        while at >= 0:
            gone.update(places[at : at + len(token)])
            at = folded.find(token, at + 1)
    return "".join(each for at, each in enumerate(text) if at not in gone)


def _pad(vr: str, text: str) -> bytes:
    raw = text.strip(" \0").encode("ascii", "replace")
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) & 1)


def _dummy(vr: str, size: int) -> bytes:
    """A value that says nothing."""
    if vr in NUMBERS:
        return bytes(size)
    if vr in ("OB", "UN", "OW", "OD", "OF", "OL", "OV"):
        return bytes(8)
    return _pad(vr, _DUMMY.get(vr, _REMOVED_TEXT))


def _shift(raw: bytes, days: int) -> bytes:
    """Dates and date-times that many days earlier; what is none becomes empty."""
    found = []
    for each in raw.decode("latin-1").strip(" \0").split("\\"):
        try:
            day = date(int(each[:4]), int(each[4:6]), int(each[6:8])) - timedelta(days=days)
        except (ValueError, OverflowError):  # no date, or such as 00010101
            return b""
        found.append(f"{day:%Y%m%d}{each[8:]}")
    return _pad("DA", "\\".join(found))


def read_header_values(
    read: Read, length: int, transfer_syntax_uid: str, keywords: Collection[str]
) -> dict[str, Values]:
    """Values of the first level above the pixels, by keyword; what is absent is left out."""
    first = _FirstLevel(read_top_level(open_window(read, length), form_of(read, transfer_syntax_uid), _BEFORE_PIXELS))
    return {each: first.values(tag) for each in keywords if (tag := keyword_tag(each)) and first.has(tag)}
