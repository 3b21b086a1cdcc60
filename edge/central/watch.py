"""The dead-man switch: heartbeats that do not come.

A site is silent when it has missed three heartbeats, counted from the centre's own start at the earliest. Sites that
fall silent together are one incident: two or more behind one provider, or five or more wherever they are. A silence
whose incident a person has closed is not notified again before the site returns. Planned work at a site is no silence.

Limits: one centre checks a database; two would each raise their own incidents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.central.config import CentralConfig
from edge.central.sequence import MISSED
from edge.store.central import incidents, maintenance, outages, sites
from edge.store.engine import EngineTransaction, Row
from edge.text import amount, moment_text

#: Silences that begin within this number of heartbeats of each other begin together.
TOGETHER = 2.0
#: This number of sites without a provider in common are more than coincidence.
MANY_SITES = 5


@dataclass(frozen=True, slots=True)
class Silence:
    """A site that is silent. `incident` is None while there is none."""

    site: str
    provider: str
    since: float
    every: float
    incident: int | None = None
    stopped: bool = False  # its last heartbeat said that it ends on purpose


def is_silent(heard_at: float, every: float, started: float, now: float) -> bool:
    """Has a site missed its heartbeats? `started` is when the centre could receive at the earliest."""
    return now - max(heard_at, started) > MISSED * every


def group_silences(silences: Iterable[Silence]) -> list[list[Silence]]:
    """Group sites that fell silent together: what each group has in common is one cause."""
    ordered = sorted(silences, key=lambda each: (each.since, each.site))
    groups: list[list[Silence]] = []
    rest: list[Silence] = []
    by_provider: dict[str, list[Silence]] = {}
    for each in ordered:
        by_provider.setdefault(each.provider, []).append(each)
    for provider, members in by_provider.items():
        for group in _bursts(members):
            if provider and len(group) > 1:
                groups.append(group)
            else:
                rest += group
    for group in _bursts(sorted(rest, key=lambda each: (each.since, each.site))):
        groups += [group] if len(group) >= MANY_SITES else [[each] for each in group]
    return groups


def _bursts(ordered: Sequence[Silence]) -> Iterator[list[Silence]]:
    """Group sites that fell silent within two heartbeats of the first one, then of the next first one, and so on."""
    burst: list[Silence] = []
    for each in ordered:
        if burst and each.since - burst[0].since > TOGETHER * max(each.every, burst[0].every):
            yield burst
            burst = []
        burst.append(each)
    if burst:
        yield burst


def headline(group: Sequence[Silence], fleet: int) -> str:
    """What happened, in a sentence."""
    since = moment_text(min(each.since for each in group))
    if len(group) == 1:
        site = group[0].site
        return f"{site} was stopped at {since}" if group[0].stopped else f"no heartbeat of {site} since {since}"
    providers = {each.provider for each in group}
    behind = f" behind {providers.pop()}" if len(providers) == 1 and "" not in providers else ""
    return f"no heartbeat of {amount(len(group), 'site')}{behind} of {fleet} since {since}"


def advice(group: Sequence[Silence], fleet: int) -> str:
    """What to do."""
    if len(group) >= MANY_SITES and len(group) * 5 >= fleet * 4:
        return "Nearly all sites are silent: check the centre's own network first."
    if len(group) > 1:
        return "They fell silent together: ask their network provider, or look for what they share."
    return "Call the site: is the gateway's machine on, and has it a network?"


MEANS = (
    "Images may not leave the site. What its gateway has accepted is kept there, and goes on when it is back;"
    " if the gateway itself is down, scanners keep their images and try again."
)


# -- effects -----------------------------------------------------------------------------------------------------------


def look_for_silence(conn: EngineTransaction, config: CentralConfig, started: float, now: float) -> None:
    """The dead-man switch."""
    known = {row["site"]: _silence(row, config) for row in outages.list_silences(conn)}
    planned, ended = maintenance.sites_at(conn, now), _ended_work(conn, now)
    fresh = [
        Silence(
            site=row["id"],
            provider=config.sites[row["id"]].provider,
            since=row["heard_at"],
            every=row["every"],
            stopped=row["state"] == "draining",
        )
        for row in sites.list_intervals(conn)
        if row["id"] in config.sites
        and row["id"] not in known
        and row["id"] not in planned
        and is_silent(row["heard_at"], row["every"], max(started, ended.get(row["id"], 0.0)), now)
    ]
    if not fresh:
        return
    ongoing = [each for each in known.values() if each is not None]
    for group in group_silences([*ongoing, *fresh]):
        if any(each.incident is None for each in group):
            _raise(conn, group, len(config.sites), now)


def _ended_work(conn: EngineTransaction, now: float) -> dict[str, float]:
    """Site -> when its last planned work ended, of the last hour: from then on it must report again."""
    windows = maintenance.list_windows(conn, now - 3600.0)
    return {row["site"]: row["ends_at"] for row in windows if row["ends_at"] <= now}


def _silence(row: Row, config: CentralConfig) -> Silence | None:
    """A silence that is known; None where a person has closed its incident meanwhile."""
    known = config.sites.get(row["site"])
    if row["closed_at"] is not None or row["incident"] is None:
        return None
    return Silence(row["site"], known.provider if known else "", row["silent_from"], row["every"], row["incident"])


def _raise(conn: EngineTransaction, group: Sequence[Silence], fleet: int, now: float) -> None:
    """One incident for the group: the oldest that it has, or a new one; the others become part of it."""
    held = sorted({each.incident for each in group if each.incident is not None})
    text, todo = headline(group, fleet), advice(group, fleet)
    severity = "critical" if len(group) >= MANY_SITES else "major"
    if held:
        incident = held[0]
        for other in held[1:]:
            incidents.merge(conn, incident, other, now)
    else:
        since = min(each.since for each in group)
        incident = incidents.open_incident(
            conn, "site-down", opened_at=since, severity=severity, text=text, means=MEANS, todo=todo
        )
    for each in group:
        if each.incident is None:
            outages.begin_silence(conn, each.site, incident, each.since)
    site = group[0].site if len(group) == 1 else None
    incidents.describe_incident(conn, incident, site=site, severity=severity, text=text, todo=todo)
