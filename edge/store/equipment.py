"""Under which makes equipment has sent, and what people announce to the central office.

A make is manufacturer, model, serial number and software versions as the objects have them (PS3.3 C.7.5.1). The caller
owns the transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from edge.store.database import Transaction
from edge.store.gateway_values import recall, remember

_PLACE = "equipment"
#: Makes that are kept of one AE title at one address: beyond that it stands for many.
MOST_MAKES = 6


@dataclass(frozen=True, slots=True)
class Make:
    """What an object says of the equipment that made it. Empty: not said."""

    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class SeriesSender:
    """A series that has come since: who sent it, and what its first object says."""

    base_id: int
    ae_title: str
    address: str
    received_at: float
    facts: dict[str, object]


def list_new_series(conn: Transaction, limit: int) -> list[SeriesSender]:
    """The next series behind the place that was kept, in the order of their arrival."""
    rows = conn.execute(
        "SELECT f.base_id, i.calling_ae, i.address, i.received_at, f.facts"
        " FROM series_facts f JOIN instance i ON i.id = f.base_id"
        " WHERE f.base_id > ? ORDER BY f.base_id LIMIT ?",
        (int(recall(conn, _PLACE) or 0), limit),
    )
    return [SeriesSender(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]


def keep_equipment_place(conn: Transaction, base_id: int) -> None:
    """All series up to this one are known."""
    remember(conn, _PLACE, str(base_id))


def makes_of(conn: Transaction, ae_title: str, address: str) -> list[Make]:
    """The makes of one AE title at an address, in the order in which they came."""
    rows = conn.execute(
        "SELECT manufacturer, model, serial, software FROM equipment_make WHERE ae_title = ? AND address = ?"
        " ORDER BY first_at",
        (ae_title, address),
    )
    return [Make(*row) for row in rows]


def current_make(conn: Transaction, ae_title: str, address: str) -> Make | None:
    """What the peer is known as now; None where it is not known."""
    row = conn.execute(
        "SELECT manufacturer, model, serial, software FROM peer WHERE ae_title = ? AND address = ?",
        (ae_title, address),
    ).fetchone()
    return None if row is None else Make(*row)


def enter_make(conn: Transaction, ae_title: str, address: str, make: Make, at: float, before: Make | None) -> None:
    """Keep a make that first sent at that time, and the peer under it; `before`: what it replaces, None: nothing."""
    conn.execute(
        "INSERT INTO equipment_make VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (ae_title, address, *astuple(make), at),
    )
    keep_current(conn, ae_title, address, make)
    if before is not None:
        conn.execute(
            "UPDATE peer SET changed_at = ?, change = ? WHERE ae_title = ? AND address = ?",
            (at, json.dumps([*astuple(before), *astuple(make)]), ae_title, address),
        )


def keep_current(conn: Transaction, ae_title: str, address: str, make: Make) -> None:
    """Note which make sends now."""
    conn.execute(
        "UPDATE peer SET manufacturer = ?, model = ?, serial = ?, software = ? WHERE ae_title = ? AND address = ?",
        (*astuple(make), ae_title, address),
    )


def count_makes(conn: Transaction) -> dict[tuple[str, str], int]:
    """How many makes each (AE title, address) has that has several."""
    rows = conn.execute(
        "SELECT ae_title, address, count(*) FROM equipment_make GROUP BY ae_title, address HAVING count(*) > 1"
    )
    return {(row[0], row[1]): row[2] for row in rows}


# -- what people announce ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announcement:
    """A person's notice of what is to come. `said` is a person's words."""

    id: int
    kind: str
    at: float
    who: str
    from_date: str
    expected_bytes_per_month: int | None
    said: str


def enter_announcement(
    conn: Transaction, kind: str, at: float, who: str, from_date: str, expected: int | None, said: str
) -> Announcement:
    """Keep an announcement."""
    row = conn.execute(
        "INSERT INTO announcement (kind, at, who, from_date, expected_bytes_per_month, said)"
        " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (kind, at, who, from_date, expected, said),
    ).fetchone()
    return Announcement(int(row[0]), kind, at, who, from_date, expected, said)


def announcements(conn: Transaction) -> Iterator[Announcement]:
    """The latest fifty, the latest first."""
    rows = conn.execute(
        "SELECT id, kind, at, who, from_date, expected_bytes_per_month, said FROM announcement"
        " ORDER BY id DESC LIMIT 50"
    )
    return (Announcement(*row) for row in rows)
