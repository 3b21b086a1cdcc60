"""Copies that were sent under demographics that have changed since: for people. Nothing is sent again under its UID.

Functions of a connection. An archive learns of the change by HL7 (`[relay.NAME]`); what each relay has acknowledged of
the patient's messages since then is beside it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from edge.identity.today import is_same_name
from edge.store.database import Transaction
from edge.store.todays_facts import read_today

#: Studies of which something was sent before the patient's facts, or those of who it was merged into, last changed.
_SENT_BEFORE = """
SELECT s.id, s.study_uid, d.destination, count(*) AS images, min(i.id) AS instance, min(d.sent_at) AS first_sent,
       max(d.sent_at) AS last_sent, p.patient_id, p.name, p.birth_date, p.sex,
       max(coalesce(c.rules, '') LIKE '%"demographics"%') AS is_corrected,
       max(coalesce(c.sop_instance_uid, '') <> '') AS is_deidentified
FROM known_patient k
JOIN patient_identifier n ON n.patient_key = k.id
JOIN patient p ON p.patient_id = n.number
JOIN study_facts f ON f.patient_key = p.id
JOIN study s ON s.id = f.study_id
JOIN series r ON r.study_facts_id = f.id
JOIN instance i ON i.series_id = r.id
JOIN delivery d ON d.instance_id = i.id
LEFT JOIN sent_copy c ON c.delivery_id = d.id
LEFT JOIN known_patient v ON v.id = k.survivor_id
WHERE d.state IN ('sent', 'confirmed') AND d.sent_at < max(k.changed_at, coalesce(v.changed_at, 0),
      coalesce((SELECT max(m.merged_at) FROM patient_merge m WHERE m.old_key = k.id AND m.is_current = 1), 0))
  AND (:study IS NULL OR s.id = :study)
GROUP BY s.id, d.destination, p.id ORDER BY max(d.sent_at) DESC
"""


@dataclass(frozen=True, slots=True)
class OutdatedCopy:
    """Images of one study that a destination has under former demographics."""

    study_uid: str
    destination: str
    images: int
    sent_at: float  # the last of them
    changed_at: float
    source: str  # the feed that brought the change
    differs_in: tuple[str, ...]  # patient-id, name, birth-date, sex; or corrected: as they were corrected at that time
    updates: tuple[tuple[str, float], ...]  # relay, and when it acknowledged the last message since the images went


def list_outdated_copies(conn: Transaction, limit: int = 1000, study_id: int | None = None) -> list[OutdatedCopy]:
    """The latest first, at most `limit` studies and destinations; of one study alone where it is named."""
    updates = _read_updates(conn)
    found: list[OutdatedCopy] = []
    for row in conn.execute(_SENT_BEFORE, {"study": study_id}):
        if len(found) == limit:
            break
        today = read_today(conn, row["instance"]).patient
        if today is None or row["is_deidentified"]:
            continue
        pairs = {
            "patient-id": (row["patient_id"], today.patient_id),
            "name": (row["name"], "" if today.is_in_doubt else today.name),
            "birth-date": (row["birth_date"], today.birth_date),
            "sex": (row["sex"], today.sex),
        }
        differs = tuple(
            name
            for name, (was, now) in pairs.items()
            if now and not (is_same_name(was, now) if name == "name" else was == now)
        )
        if not differs and row["is_corrected"]:
            differs = ("corrected",)
        if differs:
            since = row["last_sent"]
            later = tuple((relay, at) for relay, at in updates.items() if at > since)
            found.append(
                OutdatedCopy(
                    row["study_uid"],
                    row["destination"],
                    row["images"],
                    since,
                    today.changed_at,
                    today.source,
                    differs,
                    later,
                )
            )
    return found


def _read_updates(conn: Transaction) -> dict[str, float]:
    """Read, by relay, when it last acknowledged a message about a patient."""
    found: dict[str, float] = defaultdict(float)
    rows = conn.execute(
        "SELECT r.relay, max(r.ended_at) FROM hl7_relay r JOIN hl7_message m ON m.id = r.message_id"
        " WHERE r.state = 'sent' AND m.event LIKE 'ADT%' GROUP BY r.relay"
    )
    found.update({row[0]: row[1] for row in rows if row[1] is not None})
    return found
