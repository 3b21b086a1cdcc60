"""Worklist items as people and programs read them: by `edge worklist list` and the console."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge.dicom import items
from edge.dicom.commitment import STUDY_INSTANCE_UID
from edge.dicom.elements import CHARACTER_SET
from edge.dicom.performed_step import ACCESSION_NUMBER, MODALITY, SCHEDULED_STEP_ID
from edge.errors import Unreadable
from edge.model.dictionary import keyword_for_tag
from edge.query import worklist as pure
from edge.query.matching import QUERY_LEVEL, is_universal
from edge.query.worklist import ENDED_STATUSES, WorklistItem
from edge.store import worklist
from edge.store.database import Transaction

#: Items of the worklist that are listed for people.
MOST_LISTED_ITEMS = 5_000


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item. `scheduled`: YYYYMMDDHHMMSS as far as it is known, local time of the source."""

    accession: str
    patient_id: str
    patient_name: str
    study_uid: str
    modality: str
    station_ae: str
    scheduled: str
    step_id: str
    procedure: str
    status: str

    @property
    def is_ended(self) -> bool:
        """Is the step over? Modalities are not served it any more."""
        return self.status in ENDED_STATUSES


def list_item(found: WorklistItem) -> ListedItem:
    """What people read of an item."""
    text, step = found.data.text, found.step.text
    procedure = text(0x00321060) or step(pure.STEP_DESCRIPTION)
    return ListedItem(
        text(ACCESSION_NUMBER),
        text(pure.PATIENT_ID),
        text(pure.PATIENT_NAME),
        text(STUDY_INSTANCE_UID),
        step(MODALITY),
        step(pure.SCHEDULED_STATION),
        step(pure.START_DATE) + step(pure.START_TIME).partition(".")[0],
        step(SCHEDULED_STEP_ID),
        procedure,
        step(pure.SCHEDULED_STATUS) or "SCHEDULED",
    )


def list_worklist(conn: Transaction, most: int = MOST_LISTED_ITEMS) -> tuple[list[ListedItem], bool]:
    """List the items of all sources, the earliest first, and whether there are more than `most`."""
    rows = worklist.read_items(conn, None, most + 1)
    found = [list_item(pure.decode_item(row.body, row.charset, row.performed)) for row in rows[:most]]
    return found, len(rows) > most


#: Characters of a question's keys that are shown.
_MOST_KEYS = 300


def describe_keys(identifier: bytes, syntax: str, *, with_values: bool = True) -> str:
    """What an identifier asks for: its keys that match something, with their values where these may be shown."""
    try:
        keys = items.decode_items(identifier, syntax)
    except Unreadable:
        return "cannot be shown"  # it is longer than what is kept
    found = list(_describe_items(keys, with_values=with_values))
    text = ", ".join(found) or "everything"
    return text if len(text) <= _MOST_KEYS else f"{text[:_MOST_KEYS]} ..."


def _describe_items(keys: items.Attributes, *, with_values: bool) -> Iterator[str]:
    for tag, key in keys.items():
        if is_universal(key) or tag == CHARACTER_SET:
            continue
        if key.vr == "SQ":
            for each in key.items:
                yield from _describe_items(each, with_values=with_values)
        else:
            name = keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
            yield f"{name}={chr(92).join(key.values)}" if with_values or tag == QUERY_LEVEL else name
