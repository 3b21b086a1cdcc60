"""What waits, for whom, and why: read from the tallies that triggers keep, never by counting rows.

A reading takes milliseconds with millions of instances; each look at a table uses an index to its end only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edge.config.sections import Config
from edge.model import DeliveryState, InstanceState, ReasonCode
from edge.monitor.forecast import drain_seconds
from edge.monitor.samples import latest
from edge.monitor.snapshot_model import (
    Deferred,
    Destination,
    Held,
    Instances,
    Keeping,
    Link,
    Live,
    Queue,
    Stranger,
    Trouble,
)
from edge.store.database import Connection
from edge.text import own_words

#: (instances, bytes)
Sum = tuple[int, int]
#: (destination, state) -> how much
Tally = Mapping[tuple[str, str], Sum]

#: States in which an instance has still to go.
TO_GO = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD)
#: A stranger that has been quiet for so long is no news any more.
STRANGER_SECONDS = 7 * 86400.0
#: How many deliveries are looked at for the reason that most of them share.
REASONS_SAMPLE = 100
#: Of the deliveries that await proof: how many are read, and how many named.
UNPROVED_SAMPLE, UNPROVED_NAMED = 1000, 5


def deliveries(conn: Connection) -> Tally:
    rows = conn.execute("SELECT destination, state, sum(n), sum(bytes) FROM tally GROUP BY destination, state")
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def instances(conn: Connection) -> dict[str, Sum]:
    return {row[0]: (row[1], row[2]) for row in conn.execute("SELECT state, n, bytes FROM instance_tally")}


def sum_instances(counts: Mapping[str, Sum]) -> Instances:
    number = {state: counts.get(state.value, (0, 0))[0] for state in InstanceState}
    return Instances(
        stored=number[InstanceState.STORED],
        stored_bytes=counts.get(InstanceState.STORED.value, (0, 0))[1],
        evicted=number[InstanceState.EVICTED],
        conflicts=number[InstanceState.CONFLICT],
        lost=number[InstanceState.LOST],
        quarantined=number[InstanceState.QUARANTINED],
        discarded=number[InstanceState.DISCARDED],
    )


# -- the age of what waits ---------------------------------------------------------------------------------------------

#: Rows are numbered in the order in which they were queued, but for those few that were queued anew.
_OLDEST_PENDING = """
SELECT queued_at FROM delivery WHERE state = 'pending' AND destination = ? AND priority = ? ORDER BY id LIMIT 1
"""
_OLDEST_ACTIVE = """
SELECT destination, min(queued_at) FROM delivery INDEXED BY delivery_active WHERE state = 'active' GROUP BY destination
"""
_OLDEST_DEFERRED = """
SELECT min(queued_at) FROM delivery INDEXED BY delivery_deferred_at WHERE state = 'deferred' AND destination = ?
"""


def oldest(conn: Connection, tally: Tally) -> dict[str, float]:
    """When the oldest delivery that moves by itself was queued, by destination."""
    found: dict[str, float] = {}

    def note(destination: str, at: float | None) -> None:
        if at is not None:
            found[destination] = min(at, found.get(destination, at))

    classes = "SELECT DISTINCT destination, priority FROM tally WHERE state = 'pending' AND n > 0"
    for destination, priority in conn.execute(classes).fetchall():
        for row in conn.execute(_OLDEST_PENDING, (destination, priority)):
            note(destination, row[0])
    for destination, at in conn.execute(_OLDEST_ACTIVE):
        note(destination, at)
    for (destination, state), (n, _) in tally.items():
        if state == DeliveryState.DEFERRED and n:
            note(destination, conn.execute(_OLDEST_DEFERRED, (destination,)).fetchone()[0])
    return found


def queue(tally: Tally, ages: Mapping[str, float], now: float) -> Queue:
    number: Counter[str] = Counter()
    octets = 0
    for (_, state), (n, size) in tally.items():
        if state in TO_GO:
            number[state] += n
            octets += size
    first = min(ages.values(), default=None)
    return Queue(
        number["pending"],
        number["active"],
        number["deferred"],
        number["held"],
        octets,
        None if first is None else now - first,
    )


# -- destinations ------------------------------------------------------------------------------------------------------


def destinations(
    conn: Connection, config: Config, live: Live, tally: Tally, ages: Mapping[str, float], now: float
) -> Iterator[Destination]:
    """Those configured, then those that only the catalog still knows."""
    known = {row["name"]: row for row in conn.execute("SELECT * FROM destination")}
    used = {destination for (destination, _), (n, _) in tally.items() if destination and n}
    for name in [*config.destinations, *sorted(used - config.destinations.keys())]:
        numbers = {state: tally.get((name, state.value), (0, 0)) for state in DeliveryState}
        link, row = live.destinations.get(name), known.get(name)
        given = config.destinations.get(name)
        rate = (link.rate if link else None) or latest(conn, f"rate/{name}")
        unproved = _oldest_unproved(conn, name) if numbers[DeliveryState.SENT][0] else None
        yield Destination(
            name=name,
            state=_state(link, row) if given else "paused",
            since=row["since"] if row else None,
            configured=given is not None,
            **_numbers(numbers, rate),
            last_success=row["last_success"] if row else None,
            last_error=(row["last_error"] or None) if row else None,
            oldest_seconds=now - ages[name] if name in ages else None,
            rate=rate,
            certificate_expires=live.certificates.get(name),
            proves=given is not None and given.confirm != "status",
            confirm_lag_seconds=None if unproved is None else now - unproved,
            breaks_proof=() if unproved is None else tuple(unprovable(conn, name)[1]),
        )


def unprovable(conn: Connection, destination: str) -> tuple[int, list[int]]:
    """How many of the oldest unproved deliveries are those with which exchanges break, and the numbers of the first."""
    rows = conn.execute(
        "SELECT id FROM (SELECT id, reason_code FROM delivery WHERE destination = ? AND state = 'sent'"
        " AND transaction_id IS NULL ORDER BY sent_at LIMIT ?) WHERE reason_code = ?",
        (destination, UNPROVED_SAMPLE, ReasonCode.BREAKS_PROOF.value),
    ).fetchall()
    return len(rows), [row[0] for row in rows[:UNPROVED_NAMED]]


def _state(link: Link | None, row: Mapping[str, Any] | None) -> str:
    return link.state if link else str(row["state"]) if row else "up"


def _numbers(numbers: Mapping[DeliveryState, Sum], rate: float | None) -> dict[str, Any]:
    count = {state: n for state, (n, _) in numbers.items()}
    backlog = sum(numbers[state][1] for state in TO_GO if state is not DeliveryState.HELD)
    return {
        "pending": count[DeliveryState.PENDING] + count[DeliveryState.ACTIVE],
        "deferred": count[DeliveryState.DEFERRED],
        "held": count[DeliveryState.HELD],
        "sent": count[DeliveryState.SENT] + count[DeliveryState.CONFIRMED],
        "confirmed": count[DeliveryState.CONFIRMED],
        "bytes": backlog,
        "drain_seconds": drain_seconds(backlog, rate),
    }


_FIRST_UNASKED = """
SELECT min(sent_at) FROM delivery INDEXED BY delivery_unproved
WHERE state = 'sent' AND transaction_id IS NULL AND destination = ?
"""
_FIRST_ASKED = """
SELECT min(sent_at) FROM delivery WHERE state = 'sent' AND transaction_id =
    (SELECT min(id) FROM commitment WHERE destination = ? AND ended_at IS NULL)
"""


def _oldest_unproved(conn: Connection, name: str) -> float | None:
    """When the oldest unproved instance was sent: among those not yet asked for, and in the oldest request."""
    found = [conn.execute(sql, (name,)).fetchone()[0] for sql in (_FIRST_UNASKED, _FIRST_ASKED)]
    return min((at for at in found if at is not None), default=None)


# -- what needs a look -------------------------------------------------------------------------------------------------


def held(conn: Connection, tally: Tally) -> Iterator[Held]:
    for (destination, state), (n, _) in sorted(tally.items()):
        if state == DeliveryState.HELD and n:
            rows = conn.execute(
                "SELECT queued_at, reason FROM delivery WHERE state = 'held' AND destination = ? ORDER BY id LIMIT ?",
                (destination, REASONS_SAMPLE),
            ).fetchall()
            since = min(row["queued_at"] for row in rows)
            yield Held(destination, n, since, _usual_reason(rows), _codes(conn, destination))


_HELD_FOR = "SELECT 1 FROM delivery WHERE state = 'held' AND destination = ? AND reason_code = ? LIMIT 1"


def _codes(conn: Connection, destination: str) -> frozenset[ReasonCode]:
    """Why what is held is held; not how many, for that would count rows."""
    return frozenset(
        code for code in ReasonCode if conn.execute(_HELD_FOR, (destination, code.value)).fetchone() is not None
    )


#: States in which an instance's file is kept beside those that are on their way.
APART = (InstanceState.CONFLICT, InstanceState.QUARANTINED, InstanceState.DISCARDED)
_FIRST_TO_GO = """
SELECT min(confirmed_at) FROM instance INDEXED BY instance_evictable
WHERE state = 'stored' AND open_deliveries = 0 AND hold = '' AND confirmed_at IS NOT NULL
"""
#: Every hold, by skipping along its index.
_HOLDS = """
WITH RECURSIVE each (hold) AS (
    SELECT min(hold) FROM instance INDEXED BY instance_hold WHERE hold <> ''
    UNION ALL
    SELECT (SELECT min(hold) FROM instance INDEXED BY instance_hold WHERE hold <> '' AND hold > each.hold)
    FROM each WHERE each.hold IS NOT NULL)
SELECT hold FROM each WHERE hold IS NOT NULL
"""


def keeping(conn: Connection, config: Config, tally: Tally, counts: Mapping[str, Sum]) -> Keeping:
    """Why what lies here may not go."""
    apart = sum(counts.get(state.value, (0, 0))[1] for state in APART)
    (first,) = conn.execute(_FIRST_TO_GO).fetchone()
    holds = [row[0] for row in conn.execute(_HOLDS)]
    waiting: Counter[str] = Counter()
    unproved: Counter[str] = Counter()
    undecided = 0
    for (destination, state), (n, _) in tally.items():
        if state == DeliveryState.HELD:
            undecided += n
        elif state in TO_GO:
            waiting[destination] += n
        elif state == DeliveryState.SENT:
            unproved[destination] += n
    return Keeping(
        image_bytes=counts.get(InstanceState.STORED.value, (0, 0))[1] + apart,
        apart_bytes=apart,
        keep_seconds=config.retention.keep,
        next_at=None if first is None else first + config.retention.keep,
        holds=tuple(sorted(holds)),
        waiting={name: n for name, n in waiting.items() if n},
        unproved={name: n for name, n in unproved.items() if n},
        undecided=undecided,
    )


def deferred(conn: Connection, tally: Tally) -> Iterator[Deferred]:
    for (destination, state), (n, _) in sorted(tally.items()):
        if state == DeliveryState.DEFERRED and n:
            rows = conn.execute(
                "SELECT not_before, reason FROM delivery INDEXED BY delivery_deferred_at"
                " WHERE state = 'deferred' AND destination = ? ORDER BY not_before LIMIT ?",
                (destination, REASONS_SAMPLE),
            ).fetchall()
            yield Deferred(destination, n, _usual_reason(rows), rows[0]["not_before"])


def _usual_reason(rows: list[Any]) -> str:
    return Counter(own_words(row["reason"]) for row in rows).most_common(1)[0][0]


def troubles(conn: Connection, counts: Mapping[str, Sum]) -> Iterator[Trouble]:
    """Without those that a person has settled."""
    settled = dict(
        conn.execute("SELECT state, count(*) FROM settled JOIN instance ON id = instance_id GROUP BY state").fetchall()
    )
    for state in (InstanceState.LOST, InstanceState.CONFLICT, InstanceState.QUARANTINED):
        n = counts.get(state.value, (0, 0))[0] - settled.get(state.value, 0)
        if n > 0:
            yield Trouble(state.value, n, *_trouble(conn, state))


#: The states are spelled out by INDEXED BY's partial index: it holds exactly the three.
_FIRST_TROUBLE = """
SELECT min(received_at) FROM instance INDEXED BY instance_trouble
WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost') AND id NOT IN (SELECT instance_id FROM settled)
"""
_UNDELIVERED_TROUBLE = """
SELECT EXISTS (SELECT 1 FROM instance INDEXED BY instance_trouble
               WHERE state = ? AND state IN ('conflict', 'quarantined', 'lost') AND open_deliveries > 0
                   AND id NOT IN (SELECT instance_id FROM settled))
"""


def _trouble(conn: Connection, state: InstanceState) -> tuple[float, bool]:
    (first,) = conn.execute(_FIRST_TROUBLE, (state.value,)).fetchone()
    (undelivered,) = conn.execute(_UNDELIVERED_TROUBLE, (state.value,)).fetchone()
    return first, bool(undelivered)


def acknowledge_instances(conn: Connection, state: str, now: float, who: str, note: str) -> list[int]:
    """A person has looked at all instances in a state of trouble; which those are."""
    rows = conn.execute(
        "INSERT INTO settled SELECT id, ?, ?, ? FROM instance INDEXED BY instance_trouble WHERE state = ?"
        " AND state IN ('conflict', 'quarantined', 'lost') AND id NOT IN (SELECT instance_id FROM settled)"
        " RETURNING instance_id",
        (now, who, note, state),
    )
    return [row[0] for row in rows.fetchall()]


def strangers(conn: Connection, now: float) -> tuple[Stranger, ...]:
    rows = conn.execute(
        "SELECT ae_title, address, first_seen, refused FROM peer WHERE admitted = 0 AND last_seen >= ?"
        " ORDER BY last_seen DESC",
        (now - STRANGER_SECONDS,),
    )
    return tuple(Stranger(*row) for row in rows)
