"""The waiting work of each destination and its reasons, for status and alerts: made of edge.store.tallies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edge.config.sections import Config
from edge.model import DeliveryState, InstanceState
from edge.monitor.forecast import drain_seconds
from edge.monitor.live import Link, Live
from edge.monitor.snapshot_model import (
    Deferred,
    DestinationStatus,
    ExceptionCount,
    Held,
    Instances,
    Keeping,
    Queue,
    UnknownCaller,
)
from edge.store import legal_holds, peers, replicas, sent_copies, tallies
from edge.store.database import CatalogRow, Transaction
from edge.store.reasons import words
from edge.store.samples import latest
from edge.store.tallies import Sum, Tally, WaitingDelivery

#: States of the deliveries that are not yet sent.
AUTOMATIC = (DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED)
TO_GO = (*AUTOMATIC, DeliveryState.HELD)
#: An unknown caller is reported for this time after its last call.
UNKNOWN_CALLER_SECONDS = 7 * 86400.0


def sum_instances(counts: Mapping[str, Sum], fetched: Mapping[str, Sum]) -> Instances:
    """Sum what the catalog has, by state. `fetched`: by the destination that had it; it was received from nobody."""
    number = {state: n for state, (n, _) in counts.items()}
    others = {state: number.get(state, 0) for state in ("stored", "evicted", "lost", "quarantined", "discarded")}
    stored_bytes = counts.get(InstanceState.STORED.value, (0, 0))[1]
    cached = sum(n for n, _ in fetched.values())
    return Instances(stored_bytes=stored_bytes, conflicts=number.get("conflict", 0), cached=cached, **others)


def queue(tally: Tally, ages: Mapping[str, float], now: float) -> Queue:
    sums = {
        to_go.value: [found for (_, state), found in tally.items() if state == to_go]  # one for each destination
        for to_go in TO_GO
    }
    octets = sum(size for found in sums.values() for _, size in found)
    first = min(ages.values(), default=None)
    numbers = {state: sum(n for n, _ in found) for state, found in sums.items()}
    cancelled = sum(n for (_, state), (n, _) in tally.items() if state == DeliveryState.CANCELLED)
    oldest = None if first is None else now - first
    return Queue(**numbers, cancelled=cancelled, bytes=octets, oldest_seconds=oldest)


# -- destinations ------------------------------------------------------------------------------------------------------


def destinations(
    conn: Transaction, config: Config, live: Live, tally: Tally, ages: Mapping[str, float], now: float
) -> Iterator[DestinationStatus]:
    """The configured ones, then those that only the catalog has."""
    known, changed = tallies.known_destinations(conn), sent_copies.list_tallies(conn)
    used = {destination for (destination, _), (n, _) in tally.items() if destination and n}
    for name in [*config.destinations, *sorted(used - config.destinations.keys())]:
        numbers = {state: tally.get((name, state.value), (0, 0)) for state in DeliveryState}
        link, row = live.destinations.get(name), known.get(name)
        given = config.destinations.get(name)
        rate = (link.rate if link else None) or latest(conn, f"rate/{name}")
        unproved = tallies.oldest_unproved(conn, name) if numbers[DeliveryState.SENT][0] else None
        yield DestinationStatus(
            name=name,
            kind=given.kind if given else "",
            state=_state(link, row) if given else "paused",
            since=row["since"] if row else None,
            configured=given is not None,
            **_numbers(numbers, rate),
            last_success=row["last_success"] if row else None,
            last_error=(row["last_error"] or None) if row else None,
            refuses=bool(row and row["refuses"]),
            oldest_seconds=now - ages[name] if name in ages else None,
            rate=rate,
            answers=link.answers if link else None,
            outpaced_at=link.outpaced_at if link else None,
            certificate_expires=live.certificates.get(name),
            proves=given is not None and given.confirm != "status",
            confirm_lag_seconds=None if unproved is None else now - unproved,
            keep_last=given.keep_last if given else None,
            oldest_not_there=replicas.oldest_not_there(conn, name) if given and given.keep_last else None,
            breaks_proof=() if unproved is None else tuple(tallies.unprovable(conn, name)[1]),
            changed_copies=changed[name].copies if name in changed else 0,
            saved_bytes=changed[name].saved_bytes if name in changed else 0,
        )


def _state(link: Link | None, row: CatalogRow | None) -> str:
    return link.state if link else str(row["state"]) if row else "up"


def _numbers(numbers: Mapping[DeliveryState, Sum], rate: float | None) -> dict[str, Any]:
    count = {state: n for state, (n, _) in numbers.items()}
    backlog = sum(numbers[state][1] for state in AUTOMATIC)
    return {
        "pending": count[DeliveryState.PENDING] + count[DeliveryState.ACTIVE],
        "deferred": count[DeliveryState.DEFERRED],
        "held": count[DeliveryState.HELD],
        "sent": count[DeliveryState.SENT] + count[DeliveryState.CONFIRMED],
        "confirmed": count[DeliveryState.CONFIRMED],
        "bytes": backlog,
        "drain_seconds": drain_seconds(backlog, rate),
    }


# -- what needs a decision ---------------------------------------------------------------------------------------------


def list_held_work(conn: Transaction, tally: Tally) -> Iterator[Held]:
    for (destination, state), (n, _) in sorted(tally.items()):
        if state == DeliveryState.HELD and n:
            first = tallies.held_first(conn, destination)
            codes = tallies.held_codes(conn, destination)
            yield Held(destination, n, min(each.at for each in first), _usual_reason(first), codes)


#: States in which an instance's file is kept apart, and is not sent.
APART = (InstanceState.CONFLICT, InstanceState.QUARANTINED, InstanceState.DISCARDED)


def keeping(conn: Transaction, config: Config, tally: Tally, counts: Mapping[str, Sum]) -> Keeping:
    """Why retention cannot free what is stored."""
    apart = sum(counts.get(state.value, (0, 0))[1] for state in APART)
    firsts, keep = tallies.first_evictable(conn), config.retention.keep
    holds = {each.removeprefix(legal_holds.PREFIX) for each in tallies.active_holds(conn)} - {""}
    longer = {name: max(keep, config.retention_rules[name].keep) for name in firsts if name in config.retention_rules}
    first = min((at for name, at in firsts.items() if name not in longer), default=None)
    return Keeping(
        image_bytes=counts.get(InstanceState.STORED.value, (0, 0))[1] + apart,
        apart_bytes=apart,
        keep_seconds=config.retention.keep,
        next_at=None if first is None else first + config.retention.keep,
        holds=tuple(sorted(holds)),
        rules={name: (seconds, firsts[name] + seconds) for name, seconds in longer.items()},
        legal=legal_holds.count_active(conn),
        waiting=_by_destination(tally, *AUTOMATIC),
        unproved=_by_destination(tally, DeliveryState.SENT),
        undecided=sum(_by_destination(tally, DeliveryState.HELD).values()),
    )


def _by_destination(tally: Tally, *states: DeliveryState) -> Counter[str]:
    """The number of deliveries in these states, for each destination that has some."""
    found: Counter[str] = Counter()
    for (destination, state), (n, _) in tally.items():
        if state in states and n:
            found[destination] += n
    return found


def list_deferred_work(conn: Transaction, tally: Tally) -> Iterator[Deferred]:
    for (destination, state), (n, _) in sorted(tally.items()):
        if state == DeliveryState.DEFERRED and n:
            soonest = tallies.deferred_next(conn, destination)
            yield Deferred(destination, n, _usual_reason(soonest), soonest[0].at)


def _usual_reason(sample: list[WaitingDelivery]) -> str:
    return Counter(words(each.reason, with_quotes=False) for each in sample).most_common(1)[0][0]


def count_exceptions(conn: Transaction, counts: Mapping[str, Sum]) -> Iterator[ExceptionCount]:
    """Instances that need a decision, without those that a person has settled."""
    settled = tallies.settled_count(conn)
    for state in (InstanceState.LOST, InstanceState.CONFLICT, InstanceState.QUARANTINED):
        n = counts.get(state.value, (0, 0))[0] - settled.get(state.value, 0)
        if n > 0:
            yield ExceptionCount(state.value, n, *tallies.trouble(conn, state))


def list_unknown_callers(conn: Transaction, now: float) -> tuple[UnknownCaller, ...]:
    return tuple(UnknownCaller(*each) for each in peers.refused_since(conn, now - UNKNOWN_CALLER_SECONDS))
