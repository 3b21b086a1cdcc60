"""Announcements of people at the sites: new equipment, storage, requirements."""

from __future__ import annotations

from collections.abc import Sequence

from edge.store.engine import EngineTransaction, Row, do, rows


def keep_announcement(
    conn: EngineTransaction,
    site: str,
    notice: str,
    kind: str,
    at: float,
    from_date: str,
    expected: int | None,
    said: str,
) -> None:
    """Keep one; the same again changes nothing."""
    do(
        conn,
        "INSERT INTO announcement (site, notice, kind, at, from_date, expected_bytes_per_month, said)"
        " VALUES (:site, :notice, :kind, :at, :from_date, :expected, :said) ON CONFLICT DO NOTHING",
        site=site,
        notice=notice,
        kind=kind,
        at=at,
        from_date=from_date,
        expected=expected,
        said=said,
    )


def list_since(conn: EngineTransaction, since: float) -> Sequence[Row]:
    """List those that were made since then, the latest first."""
    return rows(conn, "SELECT * FROM announcement WHERE at >= :since ORDER BY at DESC", since=since)
