"""Identifiers of patients with the authorities that assigned them (HL7 v2 CX-1, CX-4).

Functions of a connection; the caller owns the transaction. An authority is known by its namespace, its universal ID, or
both; an identifier belongs to one row of `known_patient`, which edge.store.known_patients merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge.identity.hl7_facts import Authority, Identifier
from edge.store.database import Transaction


@dataclass(frozen=True, slots=True)
class KnownIdentifier:
    """A row of patient_identifier, with the end of its chain of merges."""

    id: int
    patient_key: int
    survivor: int

    @property
    def is_merged(self) -> bool:
        return self.survivor != self.patient_key


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


def find_all_known(conn: Transaction, identifiers: Iterable[Identifier]) -> list[KnownIdentifier]:
    found = (find_known_identifier(conn, each.number, enter_authority(conn, each.authority)) for each in identifiers)
    return [each for each in found if each is not None]


def find_first(conn: Transaction, identifiers: Sequence[Identifier]) -> KnownIdentifier:
    """The first of these identifiers that is known, one that is not merged before others. Raises IndexError."""
    found = find_all_known(conn, identifiers)
    return next((each for each in found if not each.is_merged), found[0])


def enter_identifiers(conn: Transaction, patient: int, identifiers: Iterable[Identifier]) -> bool:
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
