"""Who made the equipment that calls: manufacturer and model, from one of its objects.

Looked up in the spool once a day, beside the path: a scanner never waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge import hindrance
from edge.dicom import header, part10
from edge.errors import Unreadable
from edge.store.database import Connection
from edge.text import printable

DAY = 86400.0
MANUFACTURER, STATION_NAME, MODEL_NAME = 0x00080070, 0x00081010, 0x00081090
WANTED = frozenset({MANUFACTURER, STATION_NAME, MODEL_NAME})
#: A peer's last object is looked for among so many of the latest instances.
LATEST = 20_000
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Described:
    """What a peer's object says of it."""

    ae_title: str
    address: str
    manufacturer: str = ""
    model: str = ""
    station: str = ""


def describe(conn: Connection, path_of: Callable[[str], Path], now: float) -> list[Described]:
    """A look at the last object of everyone who has sent since it was last looked at, a day ago or more."""
    rows = conn.execute(
        "SELECT ae_title, address FROM peer WHERE last_stored IS NOT NULL"
        " AND (described_at IS NULL OR (described_at < ? AND last_stored > described_at))",
        (now - DAY,),
    ).fetchall()
    return [_described(row["ae_title"], row["address"], _last_object(conn, row, path_of)) for row in rows]


def _last_object(conn: Connection, peer: Mapping[str, str], path_of: Callable[[str], Path]) -> Path | None:
    row = conn.execute(
        "SELECT path FROM instance WHERE id > (SELECT max(id) FROM instance) - ? AND calling_ae = ? AND address = ?"
        " AND state = 'stored' ORDER BY id DESC LIMIT 1",
        (LATEST, peer["ae_title"], peer["address"]),
    ).fetchone()
    return path_of(row["path"]) if row else None


def _described(ae_title: str, address: str, path: Path | None) -> Described:
    try:
        told = look(path) if path else {}
    except OSError as error:
        hindrance.raise_passing(error)  # else it would be of unknown make for a shortage of ours
        told = {}
    except Unreadable:
        told = {}
    names = (told.get(tag, "") for tag in (MANUFACTURER, MODEL_NAME, STATION_NAME))
    return Described(ae_title, address, *names)


def look(path: Path) -> dict[int, str]:
    """Manufacturer, model and station name of one Part 10 file. Raises OSError, or Unreadable."""
    with path.open("rb") as file:
        meta = part10.parse_meta(file.read(part10.MAX_META))
        offset = meta.dataset_offset
        length = os.fstat(file.fileno()).st_size - offset
        found = header.scan(
            lambda at, n: os.pread(file.fileno(), n, offset + at), length, meta.kind.transfer_syntax_uid, WANTED
        )
    return {tag: printable(values[0])[:LONGEST_NAME] for tag, values in found.items() if values}


def remember(conn: Connection, found: list[Described], now: float) -> None:
    """Write down what the objects said; an object without a name takes none away."""
    conn.executemany(
        "UPDATE peer SET manufacturer = coalesce(nullif(?, ''), manufacturer), model = coalesce(nullif(?, ''), model),"
        " station = coalesce(nullif(?, ''), station), described_at = ? WHERE ae_title = ? AND address = ?",
        [(each.manufacturer, each.model, each.station, now, each.ae_title, each.address) for each in found],
    )
