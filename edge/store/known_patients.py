"""Patients as the feeds know them: identifiers with their authority, demographics, merges, and what has changed.

Functions of a connection; the caller owns the transaction, and undoes it where `Contradiction` is raised. An identifier
belongs to one row of `known_patient`; of one that is merged, `survivor_id` names the end of the chain, so that
resolving is one look-up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.identity.hl7_facts import Authority, Identifier, MergePair, PatientFacts
from edge.store import identity_findings
from edge.store.database import Transaction
from edge.store.identity import Likeness, Patient, compare_names
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


@dataclass(frozen=True, slots=True)
class KnownIdentifier:
    """A row of patient_identifier, with the end of its chain of merges."""

    id: int
    patient_key: int
    survivor: int

    @property
    def is_merged(self) -> bool:
        return self.survivor != self.patient_key


# -- authorities and identifiers --------------------------------------------------------------------------------------


def enter_authority(conn: Transaction, authority: Authority) -> int:
    """Find or enter an authority; a fuller one is learned, a poorer one overwrites nothing."""
    row = conn.execute(
        "SELECT id, namespace, universal_id, universal_type FROM assigning_authority"
        " WHERE namespace <> '' AND namespace = :namespace OR universal_id <> '' AND universal_id = :universal"
        " OR namespace = '' AND universal_id = '' AND :namespace = '' AND :universal = ''"
        " ORDER BY namespace = :namespace DESC, id LIMIT 1",
        {"namespace": authority.namespace, "universal": authority.universal_id},
    ).fetchone()
    if row is None:
        values = (authority.namespace, authority.universal_id, authority.universal_type)
        (number,) = conn.execute(
            "INSERT INTO assigning_authority (namespace, universal_id, universal_type) VALUES (?, ?, ?) RETURNING id",
            values,
        ).fetchone()
        return int(number)
    known = Authority(*tuple(row)[1:])
    if known.namespace and not known.universal_id and authority.universal_id:
        _join_unnamed(conn, int(row[0]), authority.universal_id)
    if fuller := _fuller(known, authority):
        conn.execute(
            "UPDATE assigning_authority SET namespace = ?, universal_id = ?, universal_type = ? WHERE id = ?",
            (fuller.namespace, fuller.universal_id, fuller.universal_type, row[0]),
        )
    return int(row[0])


def _join_unnamed(conn: Transaction, authority: int, universal_id: str) -> None:
    """Have the authority that was known by this universal ID alone be this one: a message names both.

    Where both have a number, it may be two patients': then they stay two authorities.
    """
    sql = "SELECT id FROM assigning_authority WHERE universal_id = ? AND namespace = ''"
    row = conn.execute(sql, (universal_id,)).fetchone()
    if row is None:
        return
    given = {"kept": authority, "gone": row[0]}
    shared = (
        "SELECT 1 FROM patient_identifier a JOIN patient_identifier b ON b.number = a.number"
        " AND b.authority_id = :gone WHERE a.authority_id = :kept LIMIT 1"
    )
    if conn.execute(shared, given).fetchone() is not None:
        return
    conn.execute("UPDATE patient_identifier SET authority_id = :kept WHERE authority_id = :gone", given)
    conn.execute(
        "UPDATE hl7_parked_identifier SET identifier = :kept || substr(identifier, instr(identifier, ':'))"
        " WHERE identifier LIKE :gone || ':%'",
        given,
    )
    conn.execute(
        "UPDATE hl7_relay SET identifiers = trim(replace(' ' || identifiers, ' ' || :gone || ':', ' ' || :kept || ':'))"
        " WHERE state IN ('waiting', 'held') AND ' ' || identifiers LIKE '% ' || :gone || ':%'",
        given,
    )
    conn.execute("DELETE FROM assigning_authority WHERE id = :gone", given)


def _fuller(known: Authority, said: Authority) -> Authority | None:
    found = Authority(
        known.namespace or said.namespace,
        known.universal_id or said.universal_id,
        known.universal_type or (said.universal_type if not known.universal_id or said.universal_id else ""),
    )
    return found if found != known else None


def identifier_keys(conn: Transaction, identifiers: Iterable[Identifier]) -> list[str]:
    """Name each identifier by its number and the row of its authority."""
    return [f"{enter_authority(conn, each.authority)}:{each.number}" for each in identifiers]


def find_known_identifier(conn: Transaction, number: str, authority_id: int) -> KnownIdentifier | None:
    row = conn.execute(
        "SELECT i.id, i.patient_key, coalesce(p.survivor_id, p.id) FROM patient_identifier i"
        " JOIN known_patient p ON p.id = i.patient_key WHERE i.number = ? AND i.authority_id = ?",
        (number, authority_id),
    ).fetchone()
    return KnownIdentifier(*row) if row else None


def _find(conn: Transaction, identifiers: Iterable[Identifier]) -> list[KnownIdentifier]:
    found = (find_known_identifier(conn, each.number, enter_authority(conn, each.authority)) for each in identifiers)
    return [each for each in found if each is not None]


def find_first(conn: Transaction, identifiers: Sequence[Identifier]) -> KnownIdentifier:
    """The first of these identifiers that is known, one that is not merged before others. Raises IndexError."""
    found = _find(conn, identifiers)
    return next((each for each in found if not each.is_merged), found[0])


def _enter_identifiers(conn: Transaction, patient: int, identifiers: Iterable[Identifier]) -> bool:
    """Give a patient the identifiers that nobody has; type and end of validity of its own. Returns what has changed."""
    changed = 0
    for each in identifiers:
        changed += conn.execute(
            "INSERT INTO patient_identifier (number, authority_id, patient_key, type, valid_until)"
            " VALUES (:number, :authority, :patient, :type, :until) ON CONFLICT (number, authority_id) DO UPDATE SET"
            " type = CASE :type WHEN '' THEN type ELSE :type END, valid_until = :until WHERE patient_key = :patient"
            " AND (:type NOT IN ('', type) OR valid_until <> :until)",
            {
                "number": each.number,
                "authority": enter_authority(conn, each.authority),
                "patient": patient,
                "type": each.type,
                "until": each.valid_until,
            },
        ).rowcount
    return changed > 0


# -- updates ----------------------------------------------------------------------------------------------------------


def update_patient(
    conn: Transaction, identifiers: Sequence[Identifier], facts: PatientFacts, source: ChangeSource
) -> Changes:
    """Enter or update the patient of these identifiers. Raises Contradiction.

    A message that names merged identifiers alone does not touch the survivor's facts.
    """
    changes = Changes.none()
    known = _find(conn, identifiers)
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
    if _enter_identifiers(conn, patient, identifiers) | _set_facts(conn, patient, facts, source):
        changes.add(patient)
    return changes


def _create(
    conn: Transaction,
    identifiers: Iterable[Identifier],
    facts: PatientFacts,
    source: ChangeSource,
    kind: str = "created",
) -> int:
    (patient,) = conn.execute(
        "INSERT INTO known_patient (feed, changed_at, folded_name) VALUES (?, ?, '') RETURNING id",
        (source.feed, source.at),
    ).fetchone()
    _enter_identifiers(conn, patient, identifiers)
    _set_facts(conn, patient, facts, source, kind)
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


def correct_name(conn: Transaction, facts: PatientFacts, source: ChangeSource) -> set[int]:
    """Read a name again whose character set was in doubt, where this message still is its source."""
    rows = conn.execute(
        "SELECT id FROM known_patient WHERE name_message = ? AND is_in_doubt = 1", (source.message_id,)
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
    old, new = _find(conn, retired), _find(conn, pair.new)
    old_patients = {each.patient_key for each in old}
    new = [each for each in new if each.patient_key not in old_patients] or new
    if len({each.survivor for each in old}) > 1 or len({each.survivor for each in new}) > 1:
        raise Contradiction(IDENTIFIER_IN_USE)
    if is_new_number and old and new and old[0].survivor != new[0].survivor:
        raise Contradiction(IDENTIFIER_IN_USE)
    target = _target(conn, pair, old, new, source, is_new_number=is_new_number)
    gone = old[0] if old else _enter_unknown(conn, retired, source)
    _enter_identifiers(conn, gone.patient_key, retired)
    _join(conn, gone, target, source, changes)
    if not target.is_merged or changes.is_changed:
        survivor = _survivor_of(conn, target.patient_key)
        if survivor == target.patient_key and (
            _enter_identifiers(conn, survivor, pair.new) | _set_facts(conn, survivor, pair.facts, source)
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
    direct = [each for each in new if not each.is_merged]
    if new and not (old and new[0].patient_key == old[0].patient_key):
        return (direct or list(new))[0]
    facts = pair.facts
    if old and is_new_number:
        row = conn.execute(
            "SELECT name, birth_date, sex FROM known_patient WHERE id = ?", (old[0].survivor,)
        ).fetchone()
        facts = replace(facts, **{n: getattr(facts, n) if getattr(facts, n) is not None else v for n, v in zip(
            ("name", "birth_date", "sex"), row, strict=True)})  # fmt: skip
    if new:  # both are numbers of one patient already
        return new[0]
    patient = _create(conn, pair.new, facts, source)
    return _find(conn, pair.new[:1])[0] if patient else new[0]


def _enter_unknown(conn: Transaction, retired: Sequence[Identifier], source: ChangeSource) -> KnownIdentifier:
    """An old number that nobody knows: what comes later with it resolves."""
    patient = _create(conn, retired, PatientFacts(), source)
    return replace(_find(conn, retired[:1])[0], patient_key=patient)


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
    _point(conn, gone.patient_key, target.survivor)
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
    _point(conn, gone.patient_key, target.patient_key)
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


def _point(conn: Transaction, patient: int, survivor: int) -> None:
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


# -- what leaves ------------------------------------------------------------------------------------------------------

_VALID = "(n.valid_until = '' OR n.valid_until >= :today)"
_TARGETS = "SELECT max(n.id) FROM patient_merge e JOIN patient_identifier n ON n.id = e.new_id WHERE e.is_current"
#: The identifier with which an image of identifier `mine` leaves, whose patient ends at `s`: the number itself while it
#: is valid, else one of its authority and type; of what is merged, the number that it was merged into.
#: It needs the parameter :today (YYYYMMDD).
LEAVING = f"""coalesce(
    CASE WHEN mine.patient_key = s.id AND (mine.valid_until = '' OR mine.valid_until >= :today) THEN mine.id END,
    ({_TARGETS} AND n.patient_key = s.id AND n.authority_id = mine.authority_id AND {_VALID}),
    (SELECT max(n.id) FROM patient_identifier n WHERE n.patient_key = s.id AND n.authority_id = mine.authority_id
     AND n.type = mine.type AND {_VALID}),
    CASE WHEN mine.patient_key = s.id THEN mine.id END,
    (SELECT max(n.id) FROM patient_identifier n WHERE n.patient_key = s.id AND n.authority_id = mine.authority_id
     AND {_VALID}),
    ({_TARGETS} AND n.patient_key = s.id),
    (SELECT min(n.id) FROM patient_identifier n WHERE n.patient_key = s.id), mine.id)"""
#: From an identifier `mine` to its patient `p`, the survivor `s`, and the identifier that leaves, `i` of authority `a`.
RESOLVE = f"""
JOIN known_patient p ON p.id = mine.patient_key JOIN known_patient s ON s.id = coalesce(p.survivor_id, p.id)
JOIN patient_identifier i ON i.id = {LEAVING} JOIN assigning_authority a ON a.id = i.authority_id
"""


@dataclass(frozen=True, slots=True)
class ResolvedPatient:
    """What an identifier resolves to today."""

    patient_key: int  # of the survivor
    patient_id: str  # that leaves
    issuer: str
    name: str
    birth_date: str
    sex: str
    is_in_doubt: bool
    feed: str
    changed_at: float


def resolve_identifier(conn: Transaction, number: str, issuer: str, today: str) -> list[ResolvedPatient]:
    """Resolve a Patient ID and its issuer (namespace or universal ID); several where authorities share the number.

    Without an issuer, every authority that knows the number counts.
    """
    rows = conn.execute(
        "SELECT DISTINCT s.id, i.number, a.namespace, s.name, s.birth_date, s.sex, s.is_in_doubt, s.feed,"
        " max(s.changed_at, coalesce((SELECT e.merged_at FROM patient_merge e WHERE e.old_key = p.id AND"
        " e.is_current ORDER BY e.merged_at DESC LIMIT 1), 0))"
        f" FROM patient_identifier mine JOIN assigning_authority own ON own.id = mine.authority_id {RESOLVE}"
        " WHERE mine.number = :number AND (:issuer = '' OR :issuer IN (own.namespace, own.universal_id))",
        {"number": number, "issuer": issuer, "today": today},
    ).fetchall()
    return [resolved_of(row) for row in rows]


def resolved_of(row: Sequence[Any]) -> ResolvedPatient:
    """From the columns of ResolvedPatient."""
    values = list(row)
    values[6] = bool(values[6])
    return ResolvedPatient(*values)


def list_numbers(conn: Transaction, patients: Iterable[int]) -> list[str]:
    """List every number that resolves to one of these patients."""
    rows = conn.execute(
        "SELECT DISTINCT i.number FROM json_each(?) each JOIN known_patient p ON p.id = each.value"
        " OR p.survivor_id = each.value JOIN patient_identifier i ON i.patient_key = p.id",
        (json.dumps(sorted(patients)),),
    )
    return [row[0] for row in rows]


# -- two spellings of one patient -------------------------------------------------------------------------------------


def is_same_patient(conn: Transaction, a: Patient, b: Patient) -> bool:
    """Do feeds say that two spellings are one patient: by a merge of their numbers, or by names that it has or had?"""
    if not (a.patient_id and b.patient_id):
        return False
    today = time.strftime("%Y%m%d")
    mine, theirs = (
        {each.patient_key for each in resolve_identifier(conn, one.patient_id, one.issuer, today)} for one in (a, b)
    )
    if len(mine) != 1 or mine != theirs:
        return False
    if a.patient_id != b.patient_id:
        return True
    names = _known_names(conn, next(iter(mine)))
    return all(any(compare_names(one.name, each) is Likeness.SAME for each in names) for one in (a, b) if one.name)


def _known_names(conn: Transaction, patient: int) -> set[str]:
    """Every name that a patient, or one that was merged into it, has or had."""
    sql = "SELECT id, name FROM known_patient WHERE id = :key OR survivor_id = :key"
    known = conn.execute(sql, {"key": patient}).fetchall()
    found = {row[1] for row in known}
    for row in known:
        events = conn.execute("SELECT before, after FROM patient_event WHERE patient_key = ?", (row[0],))
        found |= {json.loads(text).get("name", "") for event in events for text in event if text}
    return found - {""}
