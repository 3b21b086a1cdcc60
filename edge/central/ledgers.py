"""The custody ledgers of the sites, as far as the centre vouches for them.

The centre acknowledges the head of a site's ledger in its answer; each later heartbeat shows what the ledger says at
that entry now. Where that is the acknowledged head, the ledger is still the same up to there, and the head that came
with the proof is acknowledged next: so all acknowledged heads are on one chain. Where it is not, the past was
rewritten, cut off or exchanged: an incident names the site, and nothing more is acknowledged before a person has
closed it. From then on it counts as another ledger: the next era. Heads that were kept are never changed or deleted.

Limits: sites before version 0.2 prove nothing; of them only a step back shows. Who controls the gateway's program can
answer with a head that is not in its ledger; the heads kept here convict it (`edge ledger verify --head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.central.config import CentralConfig
from edge.central.heartbeat import Proof, ReceivedHeartbeat
from edge.central.sequence import LatestHeartbeat, SequenceResult, rewritten
from edge.store.central import incidents, ledgers
from edge.store.engine import EngineTransaction, Row
from edge.text import moment_text

#: One head for each such time is kept for good, beside the last of each era (seconds).
KEEP_EVERY = 86400.0
#: A site that reports and does not prove its ledger for this time is an incident (seconds).
UNPROVED_SECONDS = 3600.0
REWRITTEN, _UNPROVED = "ledger-rewritten", "ledger-unproved"


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


def is_unproved(heartbeat: ReceivedHeartbeat, asked: Asked) -> bool:
    """Has a site that can prove its ledger had the time for it?"""
    can = heartbeat.can_prove or asked.proved_at is not None
    return can and heartbeat.at - asked.at > UNPROVED_SECONDS and not is_proof(heartbeat.proof, asked)


# -- effects -----------------------------------------------------------------------------------------------------------


def check_ledger(
    conn: EngineTransaction,
    heartbeat: ReceivedHeartbeat,
    known: LatestHeartbeat | None,
    found: SequenceResult,
    now: float,
) -> None:
    """Compare the ledger of a new heartbeat with what was acknowledged, and acknowledge its head where all is well."""
    site, seq, head = heartbeat.site, heartbeat.seq, heartbeat.head
    reason = rewritten(heartbeat, known) if known is not None and found is SequenceResult.NEW else ""
    state = ledgers.find_ledger(conn, site) or ledgers.begin_era(conn, site, 1, seq, head, now)
    asked = Asked(state["era"], state["seq"], state["head"], state["at"], state["proved_at"])
    if state["incident"] is not None:
        incident = incidents.find_incident(conn, state["incident"])
        if incident is None or incident["closed_at"] is not None:
            _begin_next_era(conn, heartbeat, asked, now)
        return
    proof = heartbeat.proof
    kept = None if proof is None else ledgers.find_head(conn, site, proof.era, proof.seq)
    reason = reason or contradiction(proof, asked, kept)
    if reason:
        ledgers.keep_head(conn, site, asked.era, asked.seq, asked.head, asked.at, now)
        ledgers.set_incident(conn, site, _open(conn, REWRITTEN, site, now, reason, "critical"))
    elif found is SequenceResult.RESTARTED and not heartbeat.can_prove:
        _begin_next_era(conn, heartbeat, asked, now)
    else:
        _continue(conn, heartbeat, asked, state["head_at"], now)


def _begin_next_era(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, asked: Asked, now: float) -> None:
    ledgers.keep_head(conn, heartbeat.site, asked.era, asked.seq, asked.head, asked.at, now)
    ledgers.begin_era(conn, heartbeat.site, asked.era + 1, heartbeat.seq, heartbeat.head, now)


def _continue(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, asked: Asked, head_at: float, now: float) -> None:
    """Note what is proved, and acknowledge the next head: nothing contradicts."""
    site, seq, head = heartbeat.site, heartbeat.seq, heartbeat.head
    proved = is_proof(heartbeat.proof, asked)
    if proved:
        ledgers.set_proved(conn, site, now)
        incidents.close_open(conn, _UNPROVED, site, now, "The site has proved its ledger.")
    elif is_unproved(heartbeat, asked):
        text = f"the site does not prove its ledger's entry {asked.seq}, acknowledged at {moment_text(asked.at)}"
        _open(conn, _UNPROVED, site, now, text, "major")
    if (proved or (not heartbeat.can_prove and asked.proved_at is None)) and seq >= asked.seq:
        ledgers.set_acknowledged(conn, site, seq, head, now)
        if now - head_at >= KEEP_EVERY:
            ledgers.keep_head(conn, site, asked.era, seq, head, now, now)


_ADVICE = {
    REWRITTEN: {
        "means": "The site's custody ledger no longer has what it had before: evidence may have been changed.",
        "todo": "Keep the site's catalog.db as it is, run `edge ledger verify` there with the heads of `edge central"
        " heads`, and find out who had access. Closing this accepts the ledger as it is now, as another era.",
    },
    _UNPROVED: {
        "means": "Whether the site's custody ledger is unchanged is not known.",
        "todo": "Ask what has changed at the site's gateway: an older version, or another program that reports for it.",
    },
}


def _open(conn: EngineTransaction, kind: str, site: str, now: float, text: str, severity: str) -> int:
    return incidents.open_once(conn, kind, site, opened_at=now, severity=severity, text=text, **_ADVICE[kind])


# -- for people --------------------------------------------------------------------------------------------------------


def acknowledged_head(conn: EngineTransaction, site: str) -> dict[str, Any] | None:
    """What the answer to a heartbeat acknowledges: era, seq and head."""
    row = ledgers.find_ledger(conn, site)
    return {key: row[key] for key in ("era", "seq", "head")} if row else None


def ledger_state(row: Row, now: float) -> str:
    """A code of _ORDER: what is known of a ledger."""
    if row["incident"] is not None:
        return "contradicted"
    if row["proved_at"] is None:
        return "not proved"
    return "proved" if now - row["proved_at"] <= UNPROVED_SECONDS else "proved before"


def list_ledger_states(found: Sequence[Row], config: CentralConfig, now: float) -> list[dict[str, Any]]:
    """The ledger of every site that has reported; those that are contradicted first."""
    listed = [ledger_row(row, config, now) for row in found if row["site"] in config.sites]
    return sorted(listed, key=lambda each: _ORDER.index(each["state"]))


_ORDER = ("contradicted", "not proved", "proved before", "proved")


def ledger_row(row: Row, config: CentralConfig, now: float) -> dict[str, Any]:
    """The ledger of one site."""
    return {
        "site": row["site"],
        "name": config.name_of(row["site"], row["name"]),
        "state": ledger_state(row, now),
        "era": row["era"],
        "entries": row["ledger_seq"],
        "acknowledged_seq": row["seq"],
        "acknowledged_head": row["head"],
        "acknowledged_at": row["at"],
        "proved_seq": row["proved_seq"],
        "proved_at": row["proved_at"],
        "incident": row["incident"],
    }
