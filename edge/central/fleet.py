"""The state of each site, worst first: the fleet page, `edge central sites` and the digest show the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.central.capacity import WEEK
from edge.central.config import CentralConfig, Site
from edge.central.site_cards import described_sites
from edge.store.central import maintenance, sites
from edge.store.engine import EngineTransaction, Row
from edge.text import amount, moment_text, printable, span

#: From well to worst; also the word for the shape and colour of a page.
GOOD, IDLE, WARN, BAD = "good", "idle", "warn", "bad"
#: The same, worst first.
LEVELS = (BAD, WARN, IDLE, GOOD)
_RANK = {BAD: 0, WARN: 1, IDLE: 2, GOOD: 3}


@dataclass(frozen=True, slots=True)
class SiteStanding:
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
    tags: tuple[str, ...] = ()
    contact: str = ""
    link: str = ""


def standings(conn: EngineTransaction, config: CentralConfig, now: float) -> list[SiteStanding]:
    """Every configured site, worst first."""
    known = {row["id"]: row for row in sites.list_fleet(conn)}
    planned = maintenance.sites_at(conn, now)
    described = described_sites(conn, config).values()
    found = [standing(site, known.get(site.id), now, planned.get(site.id)) for site in described]
    return sorted(found, key=lambda each: (_RANK[each.level], each.word != "silent", each.since or now, each.id))


def read_standing(conn: EngineTransaction, site: Site, now: float) -> tuple[SiteStanding, Row | None]:
    """One site, and its row as far as it has ever reported."""
    row = sites.find_in_fleet(conn, site.id)
    return standing(site, row, now, maintenance.sites_at(conn, now).get(site.id)), row


def standing(site: Site, row: Row | None, now: float, planned: Row | None = None) -> SiteStanding:
    """The state of a site by its last heartbeat; `planned`: the work that goes on there."""
    if row is None:
        state: tuple[str, str, str, float | None] = (IDLE, "never heard", "no heartbeat has come yet", None)
    else:
        state = site_state(row, now)
    level, word, reason, since = state
    if planned is not None and level != GOOD:
        more = f" ({word}: {reason})" if reason else ""
        level, word, reason = (
            IDLE,
            "maintenance",
            f"{planned['reason']}, until {moment_text(planned['ends_at'])}{more}",
        )
    return SiteStanding(
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
        tags=site.tags,
        contact=site.contact,
        link=site.link,
    )


def site_state(row: Row, now: float) -> tuple[str, str, str, float | None]:
    """(level, word, reason, since) of a site that has reported."""
    if row["silent_from"] is not None:
        return BAD, "silent", f"no heartbeat for {span(now - row['silent_from'])}", row["silent_from"]
    if row["state"] in ("refusing", "down"):
        return BAD, row["state"], _worst(row) or f"the gateway is {row['state']}", None
    if row["severity"] in ("major", "critical"):
        return BAD, row["severity"], _worst(row), None
    if row["severity"]:
        return WARN, row["severity"], _worst(row), None
    if row["full_in"] is not None and row["full_in"] < WEEK:
        return WARN, "filling", f"full in {span(row['full_in'])}", None
    if row["links_down"]:
        return WARN, "link down", amount(row["links_down"], "destination") + " down", None
    if row["state"] != "running":
        return WARN, row["state"], f"the gateway is {row['state']}", None
    return GOOD, "well", "", None


def _worst(row: Row) -> str:
    """The text of the worst alert of the last status."""
    order = {"critical": 0, "major": 1, "minor": 2}
    alerts: Sequence[Mapping[str, Any]] = json.loads(row["status"]).get("alerts") or []
    alert = min(alerts, key=lambda each: order.get(str(each.get("severity")), 3), default={})
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    return printable(str(alert.get("text", ""))) + more


def summary(found: Sequence[SiteStanding]) -> tuple[str, str]:
    """(level, headline) of the whole fleet."""
    count = {level: sum(each.level == level for each in found) for level in _RANK}
    if count[BAD]:
        silent = sum(each.word == "silent" for each in found)
        more = f", {silent:,} of them silent" if silent else ""
        return BAD, f"{count[BAD]:,} of {amount(len(found), 'site')} in trouble{more}"
    if count[WARN]:
        needs = "needs" if count[WARN] == 1 else "need"
        return WARN, f"{count[WARN]:,} of {amount(len(found), 'site')} {needs} attention"
    if not count[GOOD]:
        return IDLE, "No site has reported yet"
    return GOOD, f"All {amount(count[GOOD], 'site')} that report are well"
