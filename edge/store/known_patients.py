"""Patients as the feeds know them: demographics, merges, and what has changed.

Functions of a connection; the caller owns the transaction, and undoes it where `Contradiction` is raised. Of a row of
`known_patient` that is merged, `survivor_id` names the end of the chain, so that resolving is one look-up
(edge.store.resolved_patients).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.identity.hl7_facts import Identifier, MergePair, PatientFacts
from edge.store import identity_findings
from edge.store.database import Transaction
from edge.store.patient_identifiers import KnownIdentifier, enter_identifiers, find_all_known
from edge.text import fold_name

MERGED_ID_USED, MERGE_REVERSED = "merged-id-used", "merge-reversed"
MERGE_CYCLE, IDENTIFIER_IN_USE = "merge-cycle", "identifier-in-use"


class Contradiction(Exception):
    """A message contradicts what is known: it is parked. `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class ChangeSource:
    """What brings a change."""

    at: float
    feed: str
    message_id: int


@dataclass(slots=True)
class Changes:
    """What one message has changed."""

    patients: set[int]  # survivors whose facts or identifiers have changed
    notes: list[str]
    is_changed: bool = False

    @classmethod
    def none(cls) -> Changes:
        return cls(set(), [])

    def add(self, patient: int) -> None:
        self.is_changed = True
        self.patients.add(patient)


# -- updates ----------------------------------------------------------------------------------------------------------


def update_patient(
    conn: Transaction, identifiers: Sequence[Identifier], facts: PatientFacts, source: ChangeSource
) -> Changes:
    """Enter or update the patient of these identifiers. Raises Contradiction.

    A message that names merged identifiers alone does not touch the survivor's facts.
    """
    changes = Changes.none()
    known = find_all_known(conn, identifiers)
    if len({each.survivor for each in known}) > 1:
        raise Contradiction(IDENTIFIER_IN_USE)
    if not known:
        changes.add(_create(conn, identifiers, facts, source))
        return changes
    patient = known[0].survivor
    if all(each.is_merged for each in known):
        identity_findings.note_finding(
            conn, MERGED_ID_USED, str(known[0].id), source.feed, source.message_id, source.at
        )
        changes.notes.append(MERGED_ID_USED)
        return changes
    if enter_identifiers(conn, patient, identifiers) | _set_facts(conn, patient, facts, source):
        changes.add(patient)
    return changes


def _create(
    conn: Transaction,
    identifiers: Iterable[Identifier],
    facts: PatientFacts,
    source: ChangeSource,
) -> int:
    (patient,) = conn.execute(
        "INSERT INTO known_patient (feed, changed_at, folded_name) VALUES (?, ?, '') RETURNING id",
        (source.feed, source.at),
    ).fetchone()
    enter_identifiers(conn, patient, identifiers)
    _set_facts(conn, patient, facts, source, "created")
    return int(patient)


_FACTS = ("name", "birth_date", "sex", "is_in_doubt")


def _set_facts(
    conn: Transaction, patient: int, facts: PatientFacts, source: ChangeSource, kind: str = "updated"
) -> bool:
    """Set what the facts say. Returns whether that changes anything."""
    row = conn.execute(f"SELECT {', '.join(_FACTS)} FROM known_patient WHERE id = ?", (patient,)).fetchone()
    before = dict(zip(_FACTS, row, strict=True))
    said = {name: getattr(facts, name) for name in ("name", "birth_date", "sex") if getattr(facts, name) is not None}
    if facts.name is not None:
        said["is_in_doubt"] = int(facts.is_in_doubt)
    after = {**before, **said}
    if after == before:
        return False
    conn.execute(
        "UPDATE known_patient SET name = :name, birth_date = :birth_date, sex = :sex, is_in_doubt = :is_in_doubt,"
        " name_message = CASE WHEN :has_name THEN :message ELSE name_message END, feed = :feed, changed_at = :at,"
        " folded_name = :folded"
        " WHERE id = :patient",
        {
            **after,
            "has_name": facts.name is not None,
            "folded": fold_name(str(after["name"])),
            "message": source.message_id,
            "feed": source.feed,
            "at": source.at,
            "patient": patient,
        },
    )
    _record(conn, patient, source, kind, before, after)
    return True


def correct_name(
    conn: Transaction, identifiers: Sequence[Identifier], facts: PatientFacts, source: ChangeSource
) -> set[int]:
    """Set the name of the patient of these identifiers that was in doubt, where this message still is its source."""
    patients = sorted({each.patient_key for each in find_all_known(conn, identifiers)})
    rows = conn.execute(
        "SELECT p.id FROM json_each(?) each JOIN known_patient p ON p.id = each.value"
        " WHERE p.name_message = ? AND p.is_in_doubt = 1",
        (json.dumps(patients), source.message_id),
    ).fetchall()
    only_name = replace(facts, birth_date=None, sex=None)
    return {row[0] for row in rows if _set_facts(conn, row[0], only_name, source)}


def _record(
    conn: Transaction, patient: int, source: ChangeSource, kind: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    conn.execute(
        "INSERT INTO patient_event (patient_key, message_id, at, kind, before, after) VALUES (?, ?, ?, ?, ?, ?)",
        (patient, source.message_id, source.at, kind, _json(before), _json(after)),
    )


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


# -- merges -----------------------------------------------------------------------------------------------------------


def merge_patients(conn: Transaction, pair: MergePair, source: ChangeSource, *, is_new_number: bool = False) -> Changes:
    """Have the old identifiers resolve to the patient of the new ones. Raises Contradiction.

    `is_new_number` (A47): the new number must be nobody's.
    """
    changes = Changes.none()
    retired = [each for each in pair.old if not any(each.is_same(new) for new in pair.new)]
    old, new = find_all_known(conn, retired), find_all_known(conn, pair.new)
    old_patients = {each.patient_key for each in old}
    new = [each for each in new if each.patient_key not in old_patients] or new
    if len({each.survivor for each in old}) > 1 or len({each.survivor for each in new}) > 1:
        raise Contradiction(IDENTIFIER_IN_USE)
    if is_new_number and old and new and old[0].survivor != new[0].survivor:
        raise Contradiction(IDENTIFIER_IN_USE)
    target = _target(conn, pair, old, new, source, is_new_number=is_new_number)
    gone = next((each for each in old if not each.is_merged), old[0]) if old else _enter_unknown(conn, retired, source)
    enter_identifiers(conn, gone.patient_key, retired)
    _join(conn, gone, target, source, changes)
    if not target.is_merged or changes.is_changed:
        survivor = _survivor_of(conn, target.patient_key)
        if survivor == target.patient_key and (
            enter_identifiers(conn, survivor, pair.new) | _set_facts(conn, survivor, pair.facts, source)
        ):
            changes.add(survivor)
    return changes


def _target(
    conn: Transaction,
    pair: MergePair,
    old: Sequence[KnownIdentifier],
    new: Sequence[KnownIdentifier],
    source: ChangeSource,
    *,
    is_new_number: bool,
) -> KnownIdentifier:
    """The identifier that remains; entered where nobody knows it. A new number takes the old one's facts along."""
    if new and old and new[0].patient_key == old[0].patient_key:  # both are numbers of one patient already
        return new[0]
    if new:
        return next((each for each in new if not each.is_merged), new[0])
    facts = pair.facts
    if old and is_new_number:
        sql = "SELECT name, birth_date, sex FROM known_patient WHERE id = ?"
        known = dict(conn.execute(sql, (old[0].survivor,)).fetchone())
        facts = replace(facts, **{name: value for name, value in known.items() if getattr(facts, name) is None})
    _create(conn, pair.new, facts, source)
    return find_all_known(conn, pair.new[:1])[0]


def _enter_unknown(conn: Transaction, retired: Sequence[Identifier], source: ChangeSource) -> KnownIdentifier:
    """An old number that nobody knows: what comes later with it resolves."""
    patient = _create(conn, retired, PatientFacts(), source)
    return replace(find_all_known(conn, retired[:1])[0], patient_key=patient)


def _survivor_of(conn: Transaction, patient: int) -> int:
    return int(
        conn.execute("SELECT coalesce(survivor_id, id) FROM known_patient WHERE id = ?", (patient,)).fetchone()[0]
    )


def _join(
    conn: Transaction, gone: KnownIdentifier, target: KnownIdentifier, source: ChangeSource, changes: Changes
) -> None:
    """Merge, reverse, leave as it is, or raise Contradiction."""
    if gone.survivor == target.survivor:
        if gone.patient_key == target.patient_key:
            return _retire_number(conn, gone, source, changes)
        if not target.is_merged or _has_edge(conn, gone.patient_key, target.patient_key):
            return None  # it is so already
        is_reverse = _has_edge(conn, target.patient_key, gone.patient_key)
        if not gone.is_merged and is_reverse:
            return _reverse(conn, gone, target, source, changes)
        if is_reverse or not gone.is_merged:
            raise Contradiction(MERGE_CYCLE)
        return None
    if gone.is_merged:
        raise Contradiction(IDENTIFIER_IN_USE)
    _set_survivor(conn, gone.patient_key, target.survivor)
    _note_edge(conn, gone, target, source)
    _record(conn, target.survivor, source, "merged", {"patient": gone.patient_key}, {"patient": target.survivor})
    changes.add(target.survivor)
    return None


def _retire_number(conn: Transaction, gone: KnownIdentifier, source: ChangeSource, changes: Changes) -> None:
    """Two numbers of one patient: the old one leaves as the new one from now on."""
    changed = conn.execute(
        "UPDATE patient_identifier SET valid_until = '19000101' WHERE id = ? AND valid_until <> '19000101'", (gone.id,)
    ).rowcount
    if changed:
        _record(conn, gone.survivor, source, "retired", {"identifier": gone.id}, {})
        changes.add(gone.survivor)


def _reverse(
    conn: Transaction, gone: KnownIdentifier, target: KnownIdentifier, source: ChangeSource, changes: Changes
) -> None:
    """The latest of a merge and its inverse wins."""
    conn.execute("UPDATE known_patient SET survivor_id = NULL WHERE id = ?", (target.patient_key,))
    _set_survivor(conn, gone.patient_key, target.patient_key)
    conn.execute(
        "UPDATE patient_merge SET is_current = 0 WHERE old_key = ? AND new_key = ?",
        (target.patient_key, gone.patient_key),
    )
    _note_edge(conn, gone, target, source)
    pair = sorted((gone.patient_key, target.patient_key))
    subject = f"{pair[0]}-{pair[1]}"
    identity_findings.note_finding(conn, MERGE_REVERSED, subject, source.feed, source.message_id, source.at)
    changes.notes.append(MERGE_REVERSED)
    changes.add(target.patient_key)


def _set_survivor(conn: Transaction, patient: int, survivor: int) -> None:
    """Have a patient, and all that were merged into it, end at a survivor."""
    conn.execute(
        "UPDATE known_patient SET survivor_id = :survivor WHERE (id = :patient OR survivor_id = :patient)"
        " AND id <> :survivor",
        {"survivor": survivor, "patient": patient},
    )


def _has_edge(conn: Transaction, old: int, new: int) -> bool:
    sql = "SELECT 1 FROM patient_merge WHERE old_key = ? AND new_key = ? AND is_current"
    return conn.execute(sql, (old, new)).fetchone() is not None


def _note_edge(conn: Transaction, gone: KnownIdentifier, target: KnownIdentifier, source: ChangeSource) -> None:
    conn.execute(
        "INSERT INTO patient_merge (old_id, new_id, old_key, new_key, is_current, merged_at, message_id)"
        " VALUES (?, ?, ?, ?, 1, ?, ?) ON CONFLICT (old_id, new_id) DO UPDATE SET is_current = 1,"
        " merged_at = excluded.merged_at, message_id = excluded.message_id",
        (gone.id, target.id, gone.patient_key, target.patient_key, source.at, source.message_id),
    )
