"""The custody ledgers of the sites, as far as the centre vouches for them.

The centre acknowledges the head of a site's ledger in its answer; each later heartbeat shows what the ledger says at
that entry now. Where that is the acknowledged head, the ledger is still the same up to there, and the head that came
with the proof is acknowledged next: so all acknowledged heads lie on one chain. Where it is not, the past was
rewritten, cut off or exchanged: an incident names the site, and nothing more is acknowledged before a person has
closed it. From then on it counts as another ledger: the next era. Heads that were kept are never changed or deleted.

Limits: sites before version 0.2 prove nothing; of them only a step back shows. Who controls the gateway's program can
answer with a head that is not in its ledger; the heads kept here convict it (`edge ledger verify --head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.central import incidents
from edge.central.config import Config
from edge.central.heartbeat import Beat, Proof
from edge.central.sequence import Known, SequenceResult, rewritten
from edge.central.store import Connection, Row, do, first, rows, value
from edge.text import iso

#: One head for each such time is kept for good, beside the last of each era (seconds).
KEEP_EVERY = 86400.0
#: A site that reports and does not prove its ledger for so long is an incident (seconds).
UNPROVED_SECONDS = 3600.0
REWRITTEN, UNPROVED = "ledger-rewritten", "ledger-unproved"


@dataclass(frozen=True, slots=True)
class Asked:
    """The head that was acknowledged last."""

    era: int
    seq: int
    head: str
    at: float
    proved_at: float | None = None


# -- pure --------------------------------------------------------------------------------------------------------------


def is_proof(proof: Proof | None, asked: Asked) -> bool:
    """Does the site's ledger hold the head that was acknowledged last?"""
    return proof is not None and (proof.era, proof.seq, proof.head) == (asked.era, asked.seq, asked.head)


def contradiction(proof: Proof | None, asked: Asked, kept: str | None) -> str:
    """How what a site shows contradicts what was acknowledged; empty where it does not.

    `kept`: the head that is kept of the entry that the proof is about, None where there is none. A proof of an older
    entry is no contradiction: the heartbeat may have waited.
    """
    if proof is None:
        return ""
    if proof.era < asked.era and kept == proof.head:
        return f"the ledger is that of era {proof.era} again, which had ended"
    known = asked.head if (proof.era, proof.seq) == (asked.era, asked.seq) else kept
    if known is None or proof.head == known:
        return ""
    if not proof.head:
        return f"the ledger no longer has entry {proof.seq}, which was acknowledged"
    return f"the ledger's entry {proof.seq} has another head than the one that was acknowledged"


def is_unproved(beat: Beat, asked: Asked) -> bool:
    """Has a site that can prove its ledger had the time for it?"""
    can = beat.can_prove or asked.proved_at is not None
    return can and beat.at - asked.at > UNPROVED_SECONDS and not is_proof(beat.proof, asked)


# -- effects -----------------------------------------------------------------------------------------------------------


def judge(conn: Connection, beat: Beat, known: Known | None, found: SequenceResult, now: float) -> None:
    """Compare the ledger of a new heartbeat with what was acknowledged, and acknowledge its head where all is well."""
    state = first(conn, "SELECT * FROM ledger WHERE site = :site", site=beat.site)
    reason = rewritten(beat, known) if known is not None and found is SequenceResult.NEW else ""
    if state is None:
        state = _begin(conn, beat, now, 1, add=True)
    asked = Asked(state["era"], state["seq"], state["head"], state["at"], state["proved_at"])
    if state["incident"] is not None:
        if _is_closed(conn, state["incident"]):
            _keep(conn, beat.site, asked, now)
            _begin(conn, beat, now, asked.era + 1)
        return
    reason = reason or contradiction(beat.proof, asked, _kept(conn, beat))
    if reason:
        _keep(conn, beat.site, asked, now)
        incident = _open(conn, REWRITTEN, beat.site, now, reason, "critical")
        do(conn, "UPDATE ledger SET incident = :incident WHERE site = :site", site=beat.site, incident=incident)
    elif found is SequenceResult.RESTARTED and not beat.can_prove:
        _keep(conn, beat.site, asked, now)
        _begin(conn, beat, now, asked.era + 1)
    else:
        _go_on(conn, beat, asked, state["head_at"], now)


def _go_on(conn: Connection, beat: Beat, asked: Asked, head_at: float, now: float) -> None:
    """Nothing contradicts: what is proved is noted, and the next head is acknowledged."""
    proved = is_proof(beat.proof, asked)
    if proved:
        do(
            conn,
            "UPDATE ledger SET proved_seq = seq, proved_at = :now WHERE site = :site",
            site=beat.site,
            now=now,
        )
        if (wrong := incidents.standing(conn, UNPROVED, beat.site)) is not None:
            incidents.close(conn, wrong, now, "The site has proved its ledger.")
    elif is_unproved(beat, asked):
        text = f"the site does not prove its ledger's entry {asked.seq}, acknowledged at {iso(asked.at)}"
        _open(conn, UNPROVED, beat.site, now, text, "major")
    if (proved or (not beat.can_prove and asked.proved_at is None)) and beat.seq >= asked.seq:
        _acknowledge(conn, beat, now)
        if now - head_at >= KEEP_EVERY:
            _keep(conn, beat.site, Asked(asked.era, beat.seq, beat.head, now), now)


def _acknowledge(conn: Connection, beat: Beat, now: float) -> None:
    do(
        conn,
        "UPDATE ledger SET seq = :seq, head = :head, at = :now WHERE site = :site",
        site=beat.site,
        seq=beat.seq,
        head=beat.head,
        now=now,
    )


def _begin(conn: Connection, beat: Beat, now: float, era: int, add: bool = False) -> Row:
    """An era begins with this heartbeat's head; there is nothing to compare it with."""
    if add:
        sql = (
            "INSERT INTO ledger (site, era, seq, head, at, head_at) VALUES (:site, :era, :seq, :head, :now, :now)"
            " RETURNING *"
        )
    else:
        sql = (
            "UPDATE ledger SET era = :era, seq = :seq, head = :head, at = :now, head_at = :now, proved_seq = NULL,"
            " proved_at = NULL, incident = NULL WHERE site = :site RETURNING *"
        )
    row = first(conn, sql, site=beat.site, era=era, seq=beat.seq, head=beat.head, now=now)
    assert row is not None
    _keep(conn, beat.site, Asked(era, beat.seq, beat.head, now), now)
    return row


def _keep(conn: Connection, site: str, asked: Asked, now: float) -> None:
    """For good."""
    do(
        conn,
        """
        INSERT INTO head (site, era, seq, head, at) VALUES (:site, :era, :seq, :head, :at)
        ON CONFLICT (site, era, seq) DO NOTHING
        """,
        site=site,
        era=asked.era,
        seq=asked.seq,
        head=asked.head,
        at=asked.at,
    )
    do(conn, "UPDATE ledger SET head_at = :now WHERE site = :site", site=site, now=now)


def _kept(conn: Connection, beat: Beat) -> str | None:
    proof = beat.proof
    if proof is None:
        return None
    sql = "SELECT head FROM head WHERE site = :site AND era = :era AND seq = :seq"
    found = value(conn, sql, site=beat.site, era=proof.era, seq=proof.seq)
    return None if found is None else str(found)


def _is_closed(conn: Connection, incident: int) -> bool:
    return value(conn, "SELECT closed_at FROM incident WHERE id = :id", id=incident) is not None


_ADVICE = {
    REWRITTEN: {
        "means": "The site's custody ledger no longer says what it said before: evidence may have been changed.",
        "todo": "Keep the site's catalog.db as it is, run `edge ledger verify` there with the heads of `edge central"
        " heads`, and find out who had access. Closing this accepts the ledger as it is now, as another era.",
    },
    UNPROVED: {
        "means": "Whether the site's custody ledger is still what it was is not known.",
        "todo": "Ask what has changed at the site's gateway: an older version, or another program that reports for it.",
    },
}


def _open(conn: Connection, kind: str, site: str, now: float, text: str, severity: str) -> int:
    return incidents.open_once(conn, kind, site, opened_at=now, severity=severity, text=text, **_ADVICE[kind])


# -- for people --------------------------------------------------------------------------------------------------------


def acknowledged(conn: Connection, site: str) -> dict[str, Any] | None:
    """What the answer to a heartbeat asks for: era, seq and head."""
    row = first(conn, "SELECT era, seq, head FROM ledger WHERE site = :site", site=site)
    return dict(row) if row else None


def heads(conn: Connection, site: str, limit: int = 1_000_000) -> Sequence[Row]:
    """All that is kept of a site's ledger, the latest first."""
    return rows(
        conn,
        "SELECT era, seq, head, at FROM head WHERE site = :site ORDER BY era DESC, seq DESC LIMIT :limit",
        site=site,
        limit=limit,
    )


def standing(row: Row, now: float) -> str:
    """In words how a ledger stands."""
    if row["incident"] is not None:
        return "contradicted"
    if row["proved_at"] is None:
        return "not proved"
    return "proved" if now - row["proved_at"] <= UNPROVED_SECONDS else "proved before"


_LEDGERS = """
SELECT ledger.*, site.name, site.ledger_seq FROM ledger JOIN site ON site.id = ledger.site
WHERE :site = '' OR ledger.site = :site
ORDER BY ledger.site
"""


def of(conn: Connection, site: str, now: float) -> dict[str, Any] | None:
    """The ledger of one site, as far as it has ever reported."""
    row = first(conn, _LEDGERS, site=site)
    return _told(row, now) if row else None


def listing(conn: Connection, config: Config, now: float) -> list[dict[str, Any]]:
    """The ledger of every site that has reported; those that are contradicted first."""
    found = [_told(row, now) for row in rows(conn, _LEDGERS, site="") if row["site"] in config.sites]
    named = [{**each, "name": config.sites[each["site"]].name or each["name"]} for each in found]
    return sorted(named, key=lambda each: _ORDER.index(each["state"]))


_ORDER = ("contradicted", "not proved", "proved before", "proved")


def _told(row: Row, now: float) -> dict[str, Any]:
    return {
        "site": row["site"],
        "name": row["name"],
        "state": standing(row, now),
        "era": row["era"],
        "entries": row["ledger_seq"],
        "acknowledged_seq": row["seq"],
        "acknowledged_head": row["head"],
        "acknowledged_at": row["at"],
        "proved_seq": row["proved_seq"],
        "proved_at": row["proved_at"],
        "incident": row["incident"],
    }
