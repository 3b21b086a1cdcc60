"""One reading of the gateway's health, for the command, the console, the heartbeat: they all tell the same.

Counts come from the tallies that triggers keep, never from counting rows: a reading takes milliseconds with millions of
instances. Reads only; what the catalog cannot know (`Live`) is handed in.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge import __version__
from edge.config import Config
from edge.db import Connection
from edge.model import DeliveryState, Disk, InstanceState
from edge.ops.alerts import Observed, alerts
from edge.ops.facts import (
    DOWN,
    Alert,
    Destination,
    Held,
    Instances,
    Link,
    Live,
    Queue,
    Snapshot,
    Storage,
    Stranger,
    Trouble,
)
from edge.ops.words import iso, iso_or_none, own_words

#: (instances, bytes)
Sum = tuple[int, int]
#: (destination, state) -> how much
Tally = Mapping[tuple[str, str], Sum]

#: States in which an instance has still to go.
TO_GO = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)
#: A forecast needs samples of at least so many seconds.
FORECAST_SECONDS = 600.0
#: A stranger that has been quiet for so long is no news any more.
STRANGER_SECONDS = 7 * 86400.0
#: How many held deliveries are looked at for the reason that most of them share.
HELD_SAMPLE = 100


def snapshot(conn: Connection, config: Config, disk: Disk, live: Live, now: float) -> Snapshot:
    """Read everything once. `conn` should be inside one read transaction, so that the numbers fit together."""
    tally, counts = _deliveries(conn), _instances(conn)
    destinations = tuple(_destinations(conn, config, live, tally))
    storage = _storage(config, disk, live.usage)
    since = live.since if live.state != DOWN else _last_alive(conn)
    observed = Observed(
        now=now,
        state=live.state,
        reasons=live.reasons,
        unhealthy=live.unhealthy,
        rejected_at=live.rejected_at,
        since=since,
        storage=storage,
        marks=config.storage,
        destinations=destinations,
        held=tuple(_held(conn, tally)),
        troubles=tuple(_troubles(conn, counts)),
        strangers=_strangers(conn, now),
    )
    return Snapshot(
        at=now,
        site_id=config.site.id,
        site_name=config.site.name,
        version=__version__,
        state=live.state,
        since=since,
        reasons=live.reasons,
        uptime_seconds=live.uptime_seconds,
        instances=_sum_instances(counts),
        queue=_queue(conn, tally, now),
        destinations=destinations,
        storage=storage,
        alerts=alerts(observed),
    )


# -- the disk ----------------------------------------------------------------------------------------------------------


def disk_of(path: Path) -> Disk:
    """The file system that holds `path`, or its nearest parent that exists, as `df` sees it."""
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return disk_of(path.parent)
    used = found.f_blocks - found.f_bfree
    return Disk((used + found.f_bavail) * found.f_frsize, found.f_bavail * found.f_frsize)


def full_in_seconds(usage: Sequence[tuple[float, int]], limit_bytes: float) -> float | None:
    """When the disk will be used up to `limit_bytes`, at the rate between the first sample and the last.

    0 when it is there already; None when the use does not grow, or was not watched for long enough.
    """
    if not usage:
        return None
    (begin, before), (end, after) = usage[0], usage[-1]
    if after >= limit_bytes:
        return 0.0
    if end - begin < FORECAST_SECONDS or after <= before:
        return None
    return (limit_bytes - after) * (end - begin) / (after - before)


def above_since(usage: Sequence[tuple[float, int]], mark_bytes: float) -> float | None:
    """Time of the first of the latest samples that all reach `mark_bytes`; None when the last one does not."""
    since = None
    for at, used in reversed(usage):
        if used < mark_bytes:
            break
        since = at
    return since


def _storage(config: Config, disk: Disk, usage: Sequence[tuple[float, int]]) -> Storage:
    marks, total = config.storage, disk.total_bytes
    left = 0.0 if disk.used_fraction >= marks.refuse else full_in_seconds(usage, marks.refuse * total)
    return Storage(disk.used_fraction, disk.free_bytes, left, above_since(usage, marks.warn * total))


# -- the tallies -------------------------------------------------------------------------------------------------------


def _deliveries(conn: Connection) -> Tally:
    rows = conn.execute("SELECT destination, state, sum(n), sum(bytes) FROM tally GROUP BY destination, state")
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def _instances(conn: Connection) -> dict[str, Sum]:
    return {row[0]: (row[1], row[2]) for row in conn.execute("SELECT state, n, bytes FROM instance_tally")}


def _sum_instances(counts: Mapping[str, Sum]) -> Instances:
    number = {state: counts.get(state.value, (0, 0))[0] for state in InstanceState}
    return Instances(
        stored=number[InstanceState.STORED],
        stored_bytes=counts.get(InstanceState.STORED.value, (0, 0))[1],
        evicted=number[InstanceState.EVICTED],
        conflicts=number[InstanceState.CONFLICT],
        lost=number[InstanceState.LOST],
        quarantined=number[InstanceState.QUARANTINED],
    )


def _queue(conn: Connection, tally: Tally, now: float) -> Queue:
    number: Counter[str] = Counter()
    octets = 0
    for (_, state), (n, size) in tally.items():
        if state in TO_GO:
            number[state] += n
            octets += size
    oldest = min(_oldest(conn), default=None)
    return Queue(
        number["pending"],
        number["active"],
        number["deferred"],
        number["held"],
        octets,
        None if oldest is None else max(0.0, now - oldest),
    )


def _oldest(conn: Connection) -> Iterator[float]:
    """When the oldest deliveries were queued that move by themselves; each look uses an index to its end only.

    Rows are numbered in the order in which they were queued, but for those few that were queued anew.
    """
    classes = conn.execute(
        "SELECT DISTINCT destination, priority FROM tally WHERE state = 'pending' AND n > 0"
    ).fetchall()
    for destination, priority in classes:
        yield from _times(
            conn,
            "SELECT queued_at FROM delivery WHERE state = 'pending' AND destination = ? AND priority = ?"
            " ORDER BY id LIMIT 1",
            (destination, priority),
        )
    yield from _times(conn, _OLDEST_ACTIVE)
    yield from _times(conn, _OLDEST_DEFERRED)


_OLDEST_ACTIVE = """
SELECT queued_at FROM delivery
WHERE id = (SELECT min(id) FROM delivery INDEXED BY delivery_active WHERE state = 'active')
"""
_OLDEST_DEFERRED = """
SELECT queued_at FROM delivery
WHERE id = (SELECT min(id) FROM delivery INDEXED BY delivery_deferred WHERE state = 'deferred')
"""


def _times(conn: Connection, sql: str, given: tuple[object, ...] = ()) -> Iterator[float]:
    return (row[0] for row in conn.execute(sql, given))


# -- destinations ------------------------------------------------------------------------------------------------------


def _destinations(conn: Connection, config: Config, live: Live, tally: Tally) -> Iterator[Destination]:
    """Those configured, then those that only the catalog still knows."""
    known = {row["name"]: row for row in conn.execute("SELECT * FROM destination")}
    used = {destination for (destination, _), (n, _) in tally.items() if destination and n}
    for name in [*config.destinations, *sorted(used - config.destinations.keys())]:
        numbers = {state: tally.get((name, state.value), (0, 0)) for state in DeliveryState}
        yield _destination(name, name in config.destinations, numbers, known.get(name), live.destinations.get(name))


def _destination(
    name: str,
    configured: bool,
    numbers: Mapping[DeliveryState, Sum],
    row: Mapping[str, Any] | None,
    link: Link | None,
) -> Destination:
    count = {state: n for state, (n, _) in numbers.items()}
    backlog = sum(numbers[state][1] for state in TO_GO if state is not DeliveryState.HELD)
    state = link.state if link else row["state"] if row else "up"
    return Destination(
        name=name,
        state=state if configured else "paused",
        since=row["since"] if row else None,
        configured=configured,
        pending=count[DeliveryState.PENDING] + count[DeliveryState.ACTIVE],
        deferred=count[DeliveryState.DEFERRED],
        held=count[DeliveryState.HELD],
        sent=count[DeliveryState.SENT] + count[DeliveryState.CONFIRMED],
        confirmed=count[DeliveryState.CONFIRMED],
        last_success=row["last_success"] if row else None,
        last_error=(row["last_error"] or None) if row else None,
        drain_seconds=drain_seconds(backlog, link.rate if link else None),
    )


def drain_seconds(backlog: int, rate: float | None) -> float | None:
    """How long a backlog of bytes takes at a measured rate; 0 when there is none, None when no rate is known."""
    if not backlog:
        return 0.0
    return backlog / rate if rate else None


# -- what needs a look -------------------------------------------------------------------------------------------------


def _held(conn: Connection, tally: Tally) -> Iterator[Held]:
    for (destination, state), (n, _) in sorted(tally.items()):
        if state == DeliveryState.HELD and n:
            rows = conn.execute(
                "SELECT queued_at, reason FROM delivery WHERE state = 'held' AND destination = ? ORDER BY id LIMIT ?",
                (destination, HELD_SAMPLE),
            ).fetchall()
            reasons = Counter(own_words(row["reason"]) for row in rows)
            yield Held(destination, n, min(row["queued_at"] for row in rows), reasons.most_common(1)[0][0])


def _troubles(conn: Connection, counts: Mapping[str, Sum]) -> Iterator[Trouble]:
    for state in (InstanceState.LOST, InstanceState.CONFLICT, InstanceState.QUARANTINED):
        n = counts.get(state.value, (0, 0))[0]
        if n:
            yield Trouble(state.value, n, *_trouble(conn, state))


#: The states are spelled out by INDEXED BY's partial index: it holds exactly the three.
_FIRST_TROUBLE = """
SELECT min(received_at) FROM instance INDEXED BY instance_trouble
WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost')
"""
_UNDELIVERED_TROUBLE = """
SELECT EXISTS (SELECT 1 FROM instance INDEXED BY instance_trouble
               WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost') AND open_deliveries > 0)
"""


def _trouble(conn: Connection, state: InstanceState) -> tuple[float, bool]:
    (first,) = conn.execute(_FIRST_TROUBLE, (state.value,)).fetchone()
    (undelivered,) = conn.execute(_UNDELIVERED_TROUBLE, (state.value,)).fetchone()
    return first, bool(undelivered)


def _strangers(conn: Connection, now: float) -> tuple[Stranger, ...]:
    rows = conn.execute(
        "SELECT ae_title, address, first_seen, refused FROM peer WHERE admitted = 0 AND last_seen >= ?"
        " ORDER BY last_seen DESC",
        (now - STRANGER_SECONDS,),
    )
    return tuple(Stranger(*row) for row in rows)


def _last_alive(conn: Connection) -> float | None:
    """When the daemon was last known to live, as it has noted itself."""
    rows = conn.execute("SELECT value FROM gateway WHERE name IN ('alive_at', 'stopped_at')")
    return max((float(row[0]) for row in rows), default=None)


# -- for programs ------------------------------------------------------------------------------------------------------


def as_json(seen: Snapshot) -> dict[str, Any]:
    """What `edge status --json` and /api/status say. Stable: keys are added, never changed."""
    return {
        "site": {"id": seen.site_id, "name": seen.site_name},
        "version": seen.version,
        "state": seen.state,
        "since": iso_or_none(seen.since),
        "reasons": list(seen.reasons),
        "uptime_seconds": round(seen.uptime_seconds, 1),
        "instances": _instances_json(seen.instances),
        "queue": {
            "pending": seen.queue.pending,
            "active": seen.queue.active,
            "deferred": seen.queue.deferred,
            "held": seen.queue.held,
            "bytes": seen.queue.bytes,
            "oldest_seconds": _rounded(seen.queue.oldest_seconds),
        },
        "destinations": {each.name: _destination_json(each) for each in seen.destinations},
        "storage": {
            "used_fraction": round(seen.storage.used_fraction, 4),
            "free_bytes": seen.storage.free_bytes,
            "full_in_seconds": _rounded(seen.storage.full_in_seconds),
        },
        "alerts": [_alert_json(each) for each in seen.alerts],
    }


def _instances_json(seen: Instances) -> dict[str, Any]:
    return {
        "received": seen.received,
        "stored": seen.stored,
        "stored_bytes": seen.stored_bytes,
        "evicted": seen.evicted,
        "conflicts": seen.conflicts,
        "quarantined": seen.quarantined,
        "lost": seen.lost,
    }


def _destination_json(seen: Destination) -> dict[str, Any]:
    return {
        "state": seen.state,
        "since": iso_or_none(seen.since),
        "pending": seen.pending,
        "deferred": seen.deferred,
        "held": seen.held,
        "sent": seen.sent,
        "confirmed": seen.confirmed,
        "last_success": iso_or_none(seen.last_success),
        "last_error": seen.last_error,
        "drain_seconds": _rounded(seen.drain_seconds),
    }


def _alert_json(seen: Alert) -> dict[str, Any]:
    return {
        "kind": seen.kind,
        "subject": seen.subject,
        "severity": seen.severity,
        "since": iso(seen.since),
        "text": seen.text,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
