"""A result that came back without identity gets its patient and study back, on the copy that goes on.

References to the copies that were sent become references to the originals, at every depth; its own series and instance
UIDs stay. What it says of patient and study is replaced, and so is on record as every correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.config.coercion import read_change
from edge.dicom.elements import UNDEFINED, Form
from edge.dicom.header import Read
from edge.transform.corrections import Attribute, AttributeValues, CompiledCoercion, TodayFacts
from edge.transform.editing import (
    DeepEdit,
    Do,
    Edit,
    encode_element,
    form_of,
    holds_items,
    open_window,
    vr_name,
    written_vr,
)

#: The name under which the patient that a result gets back is on record, beside the names of rules.
RESULT = "result"
_OWN_UIDS = frozenset({0x00080018, 0x0020000E})
_REMOVED = (0x00120062, 0x00120063, 0x00120064, 0x00280303)


def restore_uids(read: Read, length: int, transfer_syntax_uid: str, uids: Mapping[str, str]) -> list[Edit]:
    """The edits that put the original UIDs in place of those that were sent."""
    form = form_of(read, transfer_syntax_uid)
    return DeepEdit(open_window(read, length), form, _UidRestorer(uids), {}).run()


class _UidRestorer:
    """Replaces UIDs at every level; a context says whether it is the first."""

    def __init__(self, uids: Mapping[str, str]) -> None:
        self._uids = uids

    def open_item(self, _sequence: int, context: bool | None) -> bool:
        return context is None

    def decide(
        self, tag: int, vr: bytes, size: int, read_value: Callable[[], bytes], form: Form, context: bool
    ) -> Do | bytes:
        if holds_items(tag, vr, size):
            return Do.ENTER
        if size in (0, UNDEFINED) or vr_name(tag, vr) != "UI" or (context and tag in _OWN_UIDS):
            return Do.KEEP
        before = read_value().decode("latin-1").strip("\0 ").split("\\")
        after = [self._uids.get(each, each) for each in before]
        if after == before:
            return Do.KEEP
        raw = "\\".join(after).encode("ascii")
        return encode_element(tag, written_vr(vr, "UI"), raw + b"\0" * (len(raw) & 1), form)


def result_rule(attributes: Mapping[str, str], at: float) -> CompiledCoercion:
    """The rule that gives a result its patient and study back; `at`: when it came."""
    changes = [(read_change(keyword), value) for keyword, value in attributes.items()]

    def step(now: AttributeValues, _: TodayFacts) -> None:
        for change, value in changes:
            values = (value,) if value else ()
            found = now.get(change.tag)
            if found is None and not values:
                continue
            if found is None or found.values != values:
                now[change.tag] = Attribute(change.vr if found is None else found.vr, values)
        for tag in _REMOVED:
            if (there := now.get(tag)) is not None and there.values is not None:
                now[tag] = Attribute(there.vr, None)

    touched = frozenset({*(change.tag for change, _ in changes), *_REMOVED})
    return CompiledCoercion(RESULT, (), (step,), touched, False, at)
