"""The equipment that calls, as the catalog knows it: one row for each AE title at each address."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from edge.store.database import CatalogRow, Transaction

#: A peer's last object is looked for among this number of the latest instances.
LATEST = 20_000


def all_peers(conn: Transaction, limit: int) -> list[CatalogRow]:
    """Those that may send first, each group by when it was heard last."""
    return conn.execute("SELECT * FROM peer ORDER BY admitted DESC, last_seen DESC LIMIT ?", (limit,)).fetchall()


def refused_since(conn: Transaction, since: float) -> list[tuple[str, str, float, str]]:
    """(AE title, address, first seen, why) of those that were not let in and called since then, the last first."""
    rows = conn.execute(
        "SELECT ae_title, address, first_seen, refused FROM peer WHERE admitted = 0 AND last_seen >= ?"
        " ORDER BY last_seen DESC",
        (since,),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def admitted_senders(conn: Transaction) -> list[tuple[str, str, float]]:
    """(AE title, [modality], last stored) of all that are let in and have stored something."""
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


def calling_hours(conn: Transaction, ae_title: str, since: float) -> list[float]:
    """When an AE title was first heard in each hour in which it stored something."""
    rows = conn.execute(
        "SELECT first_at FROM heard WHERE ae_title = ? AND hour >= ? ORDER BY hour", (ae_title, since // 3600)
    )
    return [row[0] for row in rows]


def to_describe(conn: Transaction, described_before: float) -> list[tuple[str, str]]:
    """(AE title, address) of those that have stored something since they were described, or never were."""
    rows = conn.execute(
        "SELECT ae_title, address FROM peer WHERE last_stored IS NOT NULL"
        " AND (described_at IS NULL OR (described_at < ? AND last_stored > described_at))",
        (described_before,),
    )
    return [(row[0], row[1]) for row in rows]


def last_facts(conn: Transaction, ae_title: str, address: str) -> dict[str, Any] | None:
    """What the last object of a peer says of its series, by keyword; None while its header is not read yet.

    Empty where the object is not one of the latest of all.
    """
    row = conn.execute(
        "SELECT f.facts FROM instance i LEFT JOIN series_facts f ON f.series_id = i.series_id"
        " WHERE i.id > (SELECT max(id) FROM instance) - :latest AND i.calling_ae = :ae_title"
        " AND i.address = :address AND i.state = 'stored' ORDER BY i.id DESC LIMIT 1",
        {"latest": LATEST, "ae_title": ae_title, "address": address},
    ).fetchone()
    if row is None:
        return {}
    return None if row[0] is None else dict(json.loads(row[0]))


def enter_descriptions(conn: Transaction, found: Iterable[Mapping[str, str]], now: float) -> None:
    """Keep manufacturer, model and station name of peers; an empty name replaces none that is known."""
    conn.executemany(
        "UPDATE peer SET manufacturer = coalesce(nullif(:manufacturer, ''), manufacturer),"
        " model = coalesce(nullif(:model, ''), model), station = coalesce(nullif(:station, ''), station),"
        " described_at = :now WHERE ae_title = :ae_title AND address = :address",
        [{**each, "now": now} for each in found],
    )
