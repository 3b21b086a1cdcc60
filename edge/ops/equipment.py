"""The equipment that calls: who it is, what it offers, and when it usually sends.

Manufacturer and model come from one of its objects, looked up in the spool once a day, beside the path: a scanner never
waits for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.config import LEARNED, Config
from edge.db import Connection
from edge.dicom import header, part10
from edge.errors import Unreadable
from edge.ops.facts import Modality, Usual
from edge.ops.rhythm import GONE_DAYS, WEEKS, YEAR_DAYS, days_of, usual
from edge.ops.words import printable

DAY = 86400.0
MANUFACTURER, STATION_NAME, MODEL_NAME = 0x00080070, 0x00081010, 0x00081090
WANTED = frozenset({MANUFACTURER, STATION_NAME, MODEL_NAME})
#: A peer's last object is looked for among so many of the latest instances.
LATEST = 20_000
LONGEST_NAME = 64
#: More are not told: a port scan must not swell every status.
MOST, MOST_STRANGERS = 1_000, 50


def modalities(conn: Connection, config: Config, rhythms: Mapping[str, Usual]) -> Iterator[Modality]:
    """Those who may send, heard last first, then the last strangers; archives that only report are left out."""
    reporting = config.destinations.keys() - config.modalities.keys()
    strangers = 0
    for row in conn.execute("SELECT * FROM peer ORDER BY admitted DESC, last_seen DESC LIMIT ?", (MOST,)):
        strangers += not row["admitted"]
        if row["modality"] in reporting or strangers > MOST_STRANGERS:
            continue
        known = rhythms.get(row["ae_title"], Usual())
        yield Modality(
            name=row["modality"],
            ae_title=row["ae_title"],
            address=row["address"],
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
            admitted=bool(row["admitted"]),
            stored=row["stored"],
            last_stored=row["last_stored"],
            manufacturer=row["manufacturer"],
            model=row["model"],
            contexts=tuple((abstract, tuple(syntaxes)) for abstract, syntaxes in json.loads(row["contexts"])),
            usual=known.text,
            missed_at=known.missed_at,
        )


def rhythms(conn: Connection, config: Config, margin: float, now: float) -> dict[str, Usual]:
    """The rhythm of every AE title that has stored something and is admitted."""
    found = {}
    back = YEAR_DAYS if config.calendar.holidays else WEEKS * 7 + GONE_DAYS + 1
    rows = conn.execute(
        "SELECT ae_title, max(modality) AS modality FROM peer WHERE admitted AND last_stored IS NOT NULL"
        " GROUP BY ae_title"
    ).fetchall()
    for row in rows:
        given = config.modalities.get(row["modality"])
        sends_by = given.sends_by if given else LEARNED
        hours = _heard(conn, row["ae_title"], now - back * DAY)
        if hours:
            last = _last_stored(conn, row["ae_title"])
            days = days_of(config.calendar, hours)
            found[row["ae_title"]] = usual(config.calendar, days, last, now, margin, sends_by)
    return found


def _heard(conn: Connection, ae_title: str, since: float) -> list[float]:
    rows = conn.execute(
        "SELECT first_at FROM heard WHERE ae_title = ? AND hour >= ? ORDER BY hour", (ae_title, since // 3600)
    )
    return [row[0] for row in rows]


def _last_stored(conn: Connection, ae_title: str) -> float:
    (last,) = conn.execute("SELECT max(last_stored) FROM peer WHERE ae_title = ?", (ae_title,)).fetchone()
    return float(last)


# -- from its objects --------------------------------------------------------------------------------------------------


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
    except (OSError, Unreadable):
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
