"""What does not come: the dead-man switch.

A site is silent when it has missed three heartbeats, counted from the office's own start at the earliest. Sites that
fall silent together are one incident: two or more behind one provider, or five or more wherever they are. A silence
whose incident a person has closed is not told again before the site returns.

Limits: one office looks at a database; two would each raise their own incidents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.central import downtime, incidents
from edge.central.config import Config
from edge.central.sequence import MISSED
from edge.central.store import Connection, Row, do, rows
from edge.text import counted, iso

#: Silences that begin within so many heartbeats of each other begin together.
TOGETHER = 2.0
#: So many sites without a provider in common are more than coincidence.
MANY = 5


@dataclass(frozen=True, slots=True)
class Silence:
    """A site that is silent. `incident` is None while nobody knows."""

    site: str
    provider: str
    since: float
    every: float
    incident: int | None = None
    stopped: bool = False  # its last heartbeat said that it ends on purpose


def is_silent(heard_at: float, every: float, started: float, now: float) -> bool:
    """Has a site missed its heartbeats? `started` is when the office could hear at the earliest."""
    return now - max(heard_at, started) > MISSED * every


def together(silences: Iterable[Silence]) -> list[list[Silence]]:
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
        groups += [group] if len(group) >= MANY else [[each] for each in group]
    return groups


def _bursts(ordered: Sequence[Silence]) -> Iterator[list[Silence]]:
    """Those that fell silent within two heartbeats of the first one, then of the next first one, and so on."""
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
    since = iso(min(each.since for each in group))
    if len(group) == 1:
        site = group[0].site
        return f"{site} was stopped at {since}" if group[0].stopped else f"nothing was heard of {site} since {since}"
    providers = {each.provider for each in group}
    behind = f" behind {providers.pop()}" if len(providers) == 1 and "" not in providers else ""
    return f"nothing was heard of {counted(len(group), 'site')}{behind} of {fleet} since {since}"


def advice(group: Sequence[Silence], fleet: int) -> str:
    """What to do."""
    if len(group) >= MANY and len(group) * 5 >= fleet * 4:
        return "Nearly all sites are silent: look at this office's own network first."
    if len(group) > 1:
        return "They fell silent together: ask their network provider, or look for what they share."
    return "Call the site: is the gateway's machine on, and has it a network?"


MEANS = (
    "Images may not leave the site. What its gateway has accepted is kept there, and goes on when it is back;"
    " if the gateway itself is down, scanners keep their images and try again."
)


# -- effects -----------------------------------------------------------------------------------------------------------


def look_for_silence(conn: Connection, config: Config, started: float, now: float) -> None:
    """The dead-man switch."""
    heard = rows(conn, "SELECT id, heard_at, every, state FROM site")
    late = [row for row in heard if is_silent(row["heard_at"], row["every"], started, now)]
    known = _known_silences(conn, config)
    fresh = [
        Silence(
            site=row["id"],
            provider=config.sites[row["id"]].provider,
            since=row["heard_at"],
            every=row["every"],
            stopped=row["state"] == "draining",
        )
        for row in late
        if row["id"] in config.sites and row["id"] not in known
    ]
    if not fresh:
        return
    standing = [each for each in known.values() if each is not None]
    for group in together([*standing, *fresh]):
        if any(each.incident is None for each in group):
            _raise(conn, group, len(config.sites), now)


def _known_silences(conn: Connection, config: Config) -> dict[str, Silence | None]:
    """Sites known to be silent; None where a person has closed the incident meanwhile."""
    found = rows(
        conn,
        """
        SELECT outage.site, outage.silent_from, outage.incident, incident.closed_at, site.every
        FROM outage JOIN site ON site.id = outage.site LEFT JOIN incident ON incident.id = outage.incident
        WHERE returned_at IS NULL
        """,
    )
    return {row["site"]: _silence(row, config) for row in found}


def _silence(row: Row, config: Config) -> Silence | None:
    known = config.sites.get(row["site"])
    if row["closed_at"] is not None or row["incident"] is None:
        return None
    return Silence(row["site"], known.provider if known else "", row["silent_from"], row["every"], row["incident"])


def _raise(conn: Connection, group: Sequence[Silence], fleet: int, now: float) -> None:
    """One incident for the group: the oldest that it has, or a new one; the others become part of it."""
    held = sorted({each.incident for each in group if each.incident is not None})
    told = {"text": headline(group, fleet), "todo": advice(group, fleet)}
    if held:
        incident = held[0]
        for other in held[1:]:
            incidents.merge(conn, incident, other, now)
    else:
        incident = incidents.open_incident(
            conn,
            "site-down",
            opened_at=min(each.since for each in group),
            severity="major",
            means=MEANS,
            **told,
        )
    for each in group:
        if each.incident is None:
            downtime.begin_silence(conn, each.site, incident, each.since)
    do(
        conn,
        "UPDATE incident SET text = :text, todo = :todo, severity = :severity, site = :site WHERE id = :id",
        id=incident,
        severity="critical" if len(group) >= MANY else "major",
        site=group[0].site if len(group) == 1 else None,
        **told,
    )
