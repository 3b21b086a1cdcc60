"""The equipment that calls: who it is, what it offers, and when it usually sends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from edge.config.sections import LEARNED, Config
from edge.monitor.snapshot_model import Modality, Usual
from edge.monitor.usual_hours import GONE_DAYS, WEEKS, YEAR_DAYS, days_of, usual
from edge.store.database import Connection

DAY = 86400.0
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
