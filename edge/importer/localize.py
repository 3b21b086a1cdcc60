"""The data set of an imported object with the local identity: only what differs changes, and is kept as it was.

Promise: UIDs, pixels and every other element go through as they are, byte for byte; what changes is written as a
correction on the way out is (edge.transform.correct), with an item of Original Attributes Sequence. The same object
with the same decision gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edge.dicom.elements import Form
from edge.errors import TransformError, Unreadable
from edge.importer.whose import LocalIdentity
from edge.transform.copying import PlainDataSet
from edge.transform.correct import read_first_level, write_correction
from edge.transform.corrections import (
    ISSUER_OF_PATIENT_ID,
    ISSUER_QUALIFIERS,
    PATIENT_ID_TAG,
    Attribute,
    AttributeCorrection,
    AttributeValues,
    modifying_system,
)
from edge.transform.editing import DeepEdit, Do, edited_pieces, form_of, holds_items, open_window

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


def localize(
    plain: PlainDataSet, transfer_syntax_uid: str, identity: LocalIdentity, decision: ImportDecision
) -> Iterator[bytes] | None:
    """Give the changed data set in pieces; None: nothing differs. Raises TransformError for what cannot be walked."""
    try:
        form = form_of(plain.read, transfer_syntax_uid)
        DeepEdit(open_window(plain.read, plain.length), form, _EveryElement(), {}).run()
        tags = {ISSUER_QUALIFIERS, *(tag for tag, _ in _CHANGED.values())}
        first = read_first_level(plain.read, plain.length, transfer_syntax_uid, tags)
        changes = find_changes(first.values, identity)
        if not changes:
            return None
        correction = AttributeCorrection(changes, (), decision.at)
        made = write_correction(first, correction, modifying_system(decision.site), decision.source)
    except Unreadable as error:
        raise TransformError(str(error)) from None
    return edited_pieces(plain.read, plain.length, made.edits)


class _EveryElement:
    """Visits all, and changes nothing: what was cut short, or has a wrong length, comes in by no import."""

    def open_item(self, _sequence: int, _context: None) -> None: ...

    def decide(
        self, tag: int, vr: bytes, size: int, _read_value: Callable[[], bytes], _form: Form, _context: None
    ) -> Do | bytes:
        return Do.ENTER if holds_items(tag, vr, size) else Do.KEEP


def find_changes(found: AttributeValues, identity: LocalIdentity) -> AttributeValues:
    """Return what differs; a text that nobody knows changes nothing."""
    changes = {}
    for field, (tag, vr) in _CHANGED.items():
        wanted, attribute = getattr(identity, field), found.get(tag, Attribute(vr, ()))
        if wanted and wanted != "\\".join(attribute.values or ()):
            changes[tag] = Attribute(attribute.vr, (wanted,))
    if not changes.keys().isdisjoint((PATIENT_ID_TAG, ISSUER_OF_PATIENT_ID)) and ISSUER_QUALIFIERS in found:
        changes[ISSUER_QUALIFIERS] = Attribute("SQ", None)
    return changes
