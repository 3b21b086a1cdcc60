"""Callers: configured equipment and unknown callers. Functions of a connection: the caller owns the transaction."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edge.store.database import Transaction

#: Modality Worklist Information Model - FIND (PS3.4 annex K).
MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
#: Callers that were refused and have alerts of their own (edge.monitor.alerts.equipment).
ALERTED_CALLERS = 10

#: A caller that was refused before it said its name is the one that is admitted, once it was not refused for this time.
NAMELESS_SECONDS = 600.0


@dataclass(slots=True)
class Calls:
    """The calls of one (AE title, address) since they were last written down."""

    modality: str  # the configured name, or empty for a stranger
    first_seen: float
    last_seen: float
    calls: int = 0
    last_stored: float | None = None
    refused: str = ""  # what a caller that the configuration names lacked, where it was refused
    certificate_expires: float | None = None
    stored: int = 0  # objects
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (abstract syntax, transfer syntaxes), as proposed


def remember_peer(conn: Transaction, ae_title: str, address: str, heard: Calls) -> None:
    """Write down who called. `ae_title` is empty where a caller was refused before it said its name, or has none.

    Of a caller without a name that is admitted (a feed of HL7) nothing is kept: it ends what is kept of its refusals.
    """
    if heard.modality:
        conn.execute(
            "DELETE FROM peer WHERE ae_title = '' AND address = ? AND last_seen < ?",
            (address, heard.last_seen - NAMELESS_SECONDS),
        )
        if not ae_title:
            return
    contexts = json.dumps(heard.contexts, separators=(",", ":"))
    given = asdict(heard) | {"ae_title": ae_title, "address": address, "contexts": contexts}
    conn.execute(
        "INSERT INTO peer (ae_title, address, admitted, modality, first_seen, last_seen, calls, last_stored, stored,"
        " refused, certificate_expires) VALUES (:ae_title, :address, :modality <> '', :modality, :first_seen,"
        " :last_seen, :calls, :last_stored, :stored, :refused, :certificate_expires)"
        " ON CONFLICT DO UPDATE SET last_seen = excluded.last_seen, calls = calls + excluded.calls,"
        " admitted = excluded.admitted, modality = excluded.modality,"
        " last_stored = coalesce(excluded.last_stored, last_stored), stored = stored + excluded.stored,"
        " refused = excluded.refused, certificate_expires = excluded.certificate_expires",
        given,
    )
    if heard.contexts:
        conn.execute(
            "UPDATE peer SET contexts = :contexts"
            " WHERE ae_title = :ae_title AND address = :address AND contexts <> :contexts",
            given,
        )
    if any(abstract == MODALITY_WORKLIST for abstract, _ in heard.contexts):
        conn.execute(
            "UPDATE peer SET asked_worklist_at = :last_seen WHERE ae_title = :ae_title AND address = :address", given
        )
    if heard.last_stored is not None:
        hour = int(heard.last_stored // 3600)
        conn.execute("INSERT OR IGNORE INTO heard VALUES (?, ?, ?)", (ae_title, hour, heard.last_stored))


def forget_unknown_callers(conn: Transaction, before: float, most: int) -> None:
    """Keep the last `most` callers that were refused, and as many that were admitted and never stored anything.

    The first ALERTED_CALLERS stay, too, so that a flood does not keep raising alerts. Callers that were last seen
    before `before` are forgotten. Equipment that has stored something stays.
    """
    for admitted in (0, 1):
        conn.execute(
            "DELETE FROM peer WHERE admitted = ?1 AND last_stored IS NULL AND (last_seen < ?2 OR (ae_title, address) IN"
            " (SELECT ae_title, address FROM peer WHERE admitted = ?1 AND last_stored IS NULL"
            "  AND (ae_title, address) NOT IN (SELECT ae_title, address FROM peer WHERE admitted = ?1"
            "   AND last_stored IS NULL ORDER BY first_seen LIMIT ?4)"
            "  ORDER BY last_seen DESC LIMIT -1 OFFSET ?3))",
            (admitted, before, max(0, most - ALERTED_CALLERS), ALERTED_CALLERS),
        )
