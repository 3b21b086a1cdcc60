"""The acknowledged head of each site's custody ledger, and the heads that are kept: never changed, never deleted."""

from __future__ import annotations

from collections.abc import Sequence

from edge.store.engine import EngineTransaction, Row, do, find_value, first, rows

_BEGIN = """
INSERT INTO ledger (site, era, seq, head, at, head_at) VALUES (:site, :era, :seq, :head, :now, :now)
ON CONFLICT (site) DO UPDATE SET era = excluded.era, seq = excluded.seq, head = excluded.head, at = excluded.at,
    head_at = excluded.head_at, proved_seq = NULL, proved_at = NULL, incident = NULL
RETURNING *
"""
_KEEP = """
INSERT INTO head (site, era, seq, head, at) VALUES (:site, :era, :seq, :head, :at)
ON CONFLICT (site, era, seq) DO NOTHING
"""
_LEDGERS = """
SELECT ledger.*, site.name, site.ledger_seq FROM ledger JOIN site ON site.id = ledger.site
WHERE :site = '' OR ledger.site = :site
ORDER BY ledger.site
"""
_HEADS = "SELECT era, seq, head, at FROM head WHERE site = :site ORDER BY era DESC, seq DESC LIMIT :limit"


def find_ledger(conn: EngineTransaction, site: str) -> Row | None:
    """What was acknowledged of a site's ledger last."""
    return first(conn, "SELECT * FROM ledger WHERE site = :site", site=site)


def begin_era(conn: EngineTransaction, site: str, era: int, seq: int, head: str, now: float) -> Row:
    """Another ledger begins, and its first head is kept; there is nothing to compare it with."""
    row = first(conn, _BEGIN, site=site, era=era, seq=seq, head=head, now=now)
    assert row is not None
    keep_head(conn, site, era, seq, head, now, now)
    return row


def set_proved(conn: EngineTransaction, site: str, now: float) -> None:
    """Record that the site has shown that its ledger holds the acknowledged head."""
    do(conn, "UPDATE ledger SET proved_seq = seq, proved_at = :now WHERE site = :site", site=site, now=now)


def set_acknowledged(conn: EngineTransaction, site: str, seq: int, head: str, now: float) -> None:
    sql = "UPDATE ledger SET seq = :seq, head = :head, at = :now WHERE site = :site"
    do(conn, sql, site=site, seq=seq, head=head, now=now)


def set_incident(conn: EngineTransaction, site: str, incident: int) -> None:
    """Record that the ledger contradicts what was acknowledged."""
    do(conn, "UPDATE ledger SET incident = :incident WHERE site = :site", site=site, incident=incident)


def keep_head(conn: EngineTransaction, site: str, era: int, seq: int, head: str, at: float, now: float) -> None:
    """Keep the head of one entry, permanently."""
    do(conn, _KEEP, site=site, era=era, seq=seq, head=head, at=at)
    do(conn, "UPDATE ledger SET head_at = :now WHERE site = :site", site=site, now=now)


def find_head(conn: EngineTransaction, site: str, era: int, seq: int) -> str | None:
    """The head that is kept of one entry."""
    sql = "SELECT head FROM head WHERE site = :site AND era = :era AND seq = :seq"
    return find_value(conn, sql, str, site=site, era=era, seq=seq)


def list_heads(conn: EngineTransaction, site: str, limit: int = 1_000_000) -> Sequence[Row]:
    """All that are kept of a site's ledger, the latest first."""
    return rows(conn, _HEADS, site=site, limit=limit)


def list_ledgers(conn: EngineTransaction, site: str = "") -> Sequence[Row]:
    """The ledger of every site that has reported, with the site's name and entries; or of one."""
    return rows(conn, _LEDGERS, site=site)
