"""The equipment that calls, as the catalog knows it: one row for each AE title at each address."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edge.store.database import CatalogRow, Transaction


def all_peers(conn: Transaction, limit: int) -> list[CatalogRow]:
    """List all peers: those that may send first, each group by its last call."""
    return conn.execute("SELECT * FROM peer ORDER BY admitted DESC, last_seen DESC LIMIT ?", (limit,)).fetchall()


def refused_since(conn: Transaction, since: float) -> list[tuple[str, str, float, str, str]]:
    """(AE title, address, first seen, what it lacks, who is admitted from there) of those not admitted, the last first.

    The title is empty where a caller had not said it. What it lacks is empty where the configuration does not name it.
    """
    rows = conn.execute(
        "SELECT ae_title, address, first_seen, refused, coalesce((SELECT other.ae_title FROM peer AS other"
        "  WHERE other.address = peer.address AND other.last_stored IS NOT NULL"
        "  ORDER BY other.last_stored DESC LIMIT 1), '')"
        " FROM peer WHERE admitted = 0 AND last_seen >= ? ORDER BY last_seen DESC",
        (since,),
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


def admitted_senders(conn: Transaction) -> list[tuple[str, str, float]]:
    """(AE title, [modality], last stored) of all that are admitted and have stored something."""
    rows = conn.execute(
        "SELECT ae_title, max(CASE WHEN admitted AND last_stored IS NOT NULL THEN modality END), max(last_stored)"
        " FROM peer"
        " WHERE ae_title IN (SELECT ae_title FROM peer WHERE admitted AND last_stored IS NOT NULL) GROUP BY ae_title"
    )
    return [(row[0], row[1], float(row[2])) for row in rows]


def senders(conn: Transaction) -> set[str]:
    """AE titles, and names of modalities, that have ever stored something."""
    rows = conn.execute("SELECT ae_title, modality FROM peer WHERE last_stored IS NOT NULL")
    return {name for row in rows for name in row if name}


def admitted_callers(conn: Transaction) -> set[str]:
    """AE titles, and names of modalities, that were admitted when they called last."""
    rows = conn.execute("SELECT ae_title, modality FROM peer WHERE admitted")
    return {name for row in rows for name in row if name}


def list_certificate_ends(conn: Transaction, configured: Collection[str], since: float) -> Mapping[str, float]:
    """When the certificate ends that each configured caller has shown last, of those that have called since then.

    Of several machines under one name the earliest counts.
    """
    rows = conn.execute(
        "SELECT modality, ae_title, certificate_expires FROM peer"
        " WHERE modality <> '' AND certificate_expires IS NOT NULL AND last_seen >= ? ORDER BY last_seen",
        (since,),
    )
    shown = {(row[0], row[1]): float(row[2]) for row in rows if row[0] in configured}
    found: dict[str, float] = {}
    for (name, _), expires in shown.items():
        found[name] = min(expires, found.get(name, expires))
    return found


def calling_hours(conn: Transaction, ae_title: str, since: float) -> list[float]:
    """When an AE title was first heard in each hour in which it stored something."""
    rows = conn.execute(
        "SELECT first_at FROM heard WHERE ae_title = ? AND hour >= ? ORDER BY hour", (ae_title, since // 3600)
    )
    return [row[0] for row in rows]
