"""How each site stands, worst first: the fleet page, `edge central sites` and the digest tell the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.central.config import Config, Site
from edge.central.reports import WEEK
from edge.central.store import Connection, Row, first, rows
from edge.text import counted, printable, span

#: From well to worst; also the word for the shape and colour of a page.
GOOD, IDLE, WARN, BAD = "good", "idle", "warn", "bad"
_RANK = {BAD: 0, WARN: 1, IDLE: 2, GOOD: 3}


@dataclass(frozen=True, slots=True)
class Standing:
    """One site. `since`: since when it is so, where that is known."""

    id: str
    name: str
    provider: str
    region: str
    level: str
    word: str
    reason: str
    since: float | None
    heard_at: float | None
    version: str
    used_fraction: float | None
    full_in: float | None
    backlog: int | None
    incident: int | None


_FLEET = """
SELECT site.*, outage.silent_from, outage.incident
FROM site LEFT JOIN outage ON outage.site = site.id AND outage.returned_at IS NULL
"""


def standings(conn: Connection, config: Config, now: float) -> list[Standing]:
    """Every configured site, worst first."""
    known = {row["id"]: row for row in rows(conn, _FLEET)}
    found = [standing(site, known.get(site.id), now) for site in config.sites.values()]
    return sorted(found, key=lambda each: (_RANK[each.level], each.word != "silent", each.since or now, each.id))


def one(conn: Connection, site: Site, now: float) -> tuple[Standing, Row | None]:
    """One site, and its row as far as it was ever heard."""
    row = first(conn, f"{_FLEET} WHERE site.id = :id", id=site.id)
    return standing(site, row, now), row


def standing(site: Site, row: Row | None, now: float) -> Standing:
    """How a site stands by what it told last."""
    if row is None:
        told: tuple[str, str, str, float | None] = (IDLE, "never heard", "no heartbeat has come yet", None)
    else:
        told = judged(row, now)
    level, word, reason, since = told
    return Standing(
        id=site.id,
        name=site.name or (row["name"] if row else ""),
        provider=site.provider,
        region=site.region,
        level=level,
        word=word,
        reason=reason,
        since=since,
        heard_at=row["heard_at"] if row else None,
        version=row["version"] if row else "",
        used_fraction=row["used_fraction"] if row else None,
        full_in=row["full_in"] if row else None,
        backlog=row["backlog"] if row else None,
        incident=row["incident"] if row else None,
    )


def judged(row: Row, now: float) -> tuple[str, str, str, float | None]:
    """(level, word, reason, since) of a site that was heard once."""
    if row["silent_from"] is not None:
        return BAD, "silent", f"nothing heard for {span(now - row['silent_from'])}", row["silent_from"]
    if row["state"] in ("refusing", "down"):
        return BAD, row["state"], _worst(row) or f"the gateway is {row['state']}", None
    if row["severity"] in ("major", "critical"):
        return BAD, row["severity"], _worst(row), None
    if row["severity"]:
        return WARN, row["severity"], _worst(row), None
    if row["full_in"] is not None and row["full_in"] < WEEK:
        return WARN, "filling", f"full in {span(row['full_in'])}", None
    if row["links_down"]:
        return WARN, "link down", counted(row["links_down"], "destination") + " down", None
    if row["state"] != "running":
        return WARN, row["state"], f"the gateway is {row['state']}", None
    return GOOD, "well", "", None


def _worst(row: Row) -> str:
    """The text of the worst alert of the last status."""
    order = {"critical": 0, "major": 1, "minor": 2}
    alerts: Sequence[Mapping[str, Any]] = json.loads(row["status"]).get("alerts") or []
    told = min(alerts, key=lambda each: order.get(str(each.get("severity")), 3), default={})
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    return printable(str(told.get("text", ""))) + more


def verdict(found: Sequence[Standing]) -> tuple[str, str]:
    """(level, headline) of the whole fleet."""
    count = {level: sum(each.level == level for each in found) for level in _RANK}
    if count[BAD]:
        silent = sum(each.word == "silent" for each in found)
        told = f", {silent:,} of them silent" if silent else ""
        return BAD, f"{count[BAD]:,} of {counted(len(found), 'site')} in trouble{told}"
    if count[WARN]:
        return WARN, f"{count[WARN]:,} of {counted(len(found), 'site')} need a look"
    if not count[GOOD]:
        return IDLE, "No site has been heard yet"
    return GOOD, f"All {counted(count[GOOD], 'site')} that report are well"
