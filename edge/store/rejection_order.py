"""Rejection notes as conditions of statements: one never overtakes what it names, and what it rejects is not shown."""

from __future__ import annotations


def named_by(note: str, destination: str) -> str:
    """FROM and WHERE: instances `x` that a note names, with their deliveries `y` to a destination."""
    return (
        "FROM rejection_reference AS f JOIN instance AS x ON x.sop_instance_uid = f.sop_instance_uid"
        f" JOIN delivery AS y ON y.instance_id = x.id AND y.destination = {destination} WHERE f.note_id = {note}"
    )


#: Something that the note of a delivery `d` names has not got through to its destination.
WAITS_FOR = (
    f"EXISTS (SELECT 1 {named_by('d.instance_id', 'd.destination')}"
    " AND y.state IN ('pending', 'active', 'deferred', 'held'))"
)
#: Of a delivery `d`: it is no rejection note, or none of what the note names waits for the destination.
NOT_BEFORE = f"NOT (EXISTS (SELECT 1 FROM rejection_note AS n WHERE n.instance_id = d.instance_id) AND {WAITS_FOR})"
#: Of an instance `i`: no note rejects it, or only one that leaves it in use.
NOT_HIDDEN = (
    "NOT EXISTS (SELECT 1 FROM rejected_instance x WHERE x.sop_instance_uid = i.sop_instance_uid AND x.is_hidden = 1)"
)
