"""Objects without an image of their own go where their study's images go: reports, key objects, presentation states ...

Promise: in whatever order they arrive, a companion is queued for every destination that images of its study are queued
for, unless a route names it or the images' route says `companions = false`. One whose study has no images yet waits for
them, AWAIT_SECONDS at most, and is unroutable then. A key object whose title a route asks for takes the images that it
references along, those that come later too.

Functions of a connection: the caller owns the transaction.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

from edge.model import EMPTY_REASON, Assignment, Companion, Decision, DeliveryState, Priority, Reason, ReasonCode
from edge.store import deliveries, ledger
from edge.store.database import Transaction
from edge.store.reasons import reason_of
from edge.store.transitions import reason_values, update_statement

#: How long a companion that no route matches waits for the images of its study.
AWAIT_SECONDS = 3600.0
#: How long an image that a key object names is waited for.
TAKE_ALONG_SECONDS = 30 * 86_400.0
#: What a person must decide about an instance as a whole holds for its further destinations, too.
_WHOLE = (ReasonCode.CONFLICT.value, ReasonCode.MISMATCH.value)


#: (study, destination) pairs that are remembered as led: an image's arrival then asks nothing.
_MOST_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """What is needed to queue an instance for one more destination."""

    id: int
    kind_id: int
    size: int  # bytes


def mark_companion(conn: Transaction, instance: int, companion: Companion) -> None:
    """Record that an instance is a companion; images need no mark."""
    if companion is not Companion.IMAGE:
        conn.execute("UPDATE instance SET companion = ? WHERE id = ?", (companion.value, instance))


def followers(conn: Transaction, study: int) -> list[StoredInstance]:
    """List the companions of a study that go where its images go."""
    rows = conn.execute("SELECT id, kind_id, size FROM instance WHERE study_id = ? AND companion = 1", (study,))
    return [StoredInstance(*row) for row in rows]


def led_to(conn: Transaction, study: int, without: Collection[str]) -> list[Assignment]:
    """List where a study's images go, the most urgent priority for each; `without`: routes that lead no companions."""
    rows = conn.execute(
        "SELECT d.destination, d.priority, d.route FROM instance i JOIN delivery d ON d.instance_id = i.id"
        " WHERE i.study_id = ? AND i.companion = 0 AND d.destination <> '' AND d.state <> 'cancelled'"
        " AND d.reason_code NOT IN (?, ?) GROUP BY 1, 2, 3 ORDER BY d.priority",
        (study, *_WHOLE),
    )
    found: dict[str, Assignment] = {}
    for destination, priority, route in rows:
        if route not in without:
            found.setdefault(destination, Assignment(destination, Priority(priority), route))
    return list(found.values())


def attach(conn: Transaction, instances: Iterable[StoredInstance], to: Sequence[Assignment], now: float) -> list[str]:
    """Queue instances for destinations where they have no delivery yet. Returns the destinations that got work."""
    added: dict[str, list[int]] = defaultdict(list)
    for each in instances:
        rows = conn.execute(
            "SELECT destination, reason, reason_code, reason_parameters FROM delivery WHERE instance_id = ?", (each.id,)
        )
        there = {row["destination"]: row for row in rows}
        new = [assignment for assignment in to if assignment.destination not in there]
        if not new:
            continue
        deliveries.remove_unroutable(conn, each.id)
        deliveries.enqueue(conn, each.id, each.kind_id, each.size, new, now, _held_for(there.values()))
        for assignment in new:
            added[assignment.destination].append(each.id)
    for destination, ids in added.items():
        study = conn.execute("SELECT study_id FROM instance WHERE id = ?", (ids[0],)).fetchone()[0]
        found = [(study, each) for each in ids]
        deliveries.record_by_study(conn, now, ledger.ROUTED, ledger.EDGE, found, destination)
    return list(added)


def _held_for(rows: Iterable[sqlite3.Row]) -> Reason:
    found = next((row for row in rows if row["reason_code"] in _WHOLE), None)
    return reason_of(found) if found else EMPTY_REASON


_AWAIT_STUDY = update_statement(
    "await study",
    DeliveryState.DEFERRED,
    where="instance_id = :instance AND destination = '' AND reason_code NOT IN ('conflict', 'mismatch')",
)


def await_study(conn: Transaction, instance: int, now: float) -> None:
    """Defer what no route matched until its study's images arrive; what waits for a decision stays held."""
    reason = reason_values(Reason(ReasonCode.AWAITS_STUDY))
    conn.execute(_AWAIT_STUDY, {"instance": instance, "not_before": now + AWAIT_SECONDS, **reason})


def catch_up(conn: Transaction, study: int, without: Collection[str], now: float) -> list[str]:
    """Queue every companion of a study where its images go now. Returns the destinations that got work."""
    found = followers(conn, study)
    return attach(conn, found, led_to(conn, study, without), now) if found else []


# -- key objects -------------------------------------------------------------------------------------------------------


def take_along(conn: Transaction, uids: Iterable[str], to: Sequence[Assignment], now: float) -> list[str]:
    """Queue the images that a key object references; what is not here yet is noted. Returns destinations with work."""
    here: list[StoredInstance] = []
    conn.execute("DELETE FROM taken_along WHERE noted_at < ?", (now - TAKE_ALONG_SECONDS,))
    for uid in uids:
        row = conn.execute(
            "SELECT id, kind_id, size FROM instance WHERE sop_instance_uid = ? AND state = 'stored'", (uid,)
        ).fetchone()
        if row is not None:
            here.append(StoredInstance(*row))
            continue
        conn.executemany(
            "INSERT INTO taken_along (sop_instance_uid, destination, priority, route, noted_at)"
            " VALUES (:uid, :destination, :priority, :route, :now) ON CONFLICT DO NOTHING",
            [{"uid": uid, **asdict(each), "now": now} for each in to],
        )
    return attach(conn, here, to, now)


def awaits_any(conn: Transaction) -> bool:
    """Check whether a key object names images that have not arrived yet."""
    return conn.execute("SELECT 1 FROM taken_along LIMIT 1").fetchone() is not None


def collect_taken_along(conn: Transaction, sop_instance_uid: str) -> list[Assignment]:
    """Take out where key objects send an image that has now arrived."""
    rows = conn.execute(
        "DELETE FROM taken_along WHERE sop_instance_uid = ? RETURNING destination, priority, route",
        (sop_instance_uid,),
    )
    return [Assignment(row[0], Priority(row[1]), row[2]) for row in rows]


# -- arrivals ----------------------------------------------------------------------------------------------------------


class Arrivals:
    """Handles arrivals for the companions of their study; cheap for a study without any."""

    def __init__(self, conn: Transaction) -> None:
        self._awaits_any = awaits_any(conn)
        self._led: set[tuple[int, str]] = set()

    def join(
        self,
        conn: Transaction,
        here: StoredInstance,
        study: int,
        sop_instance_uid: str,
        decision: Decision,
        references: Sequence[str],
        without: Collection[str],
        now: float,
    ) -> list[str]:
        """Queue what follows from an arrival, beside its own assignments. Returns the destinations that got work."""
        mark_companion(conn, here.id, decision.companion)
        if decision.companion is Companion.FOLLOWS:
            more = attach(conn, [here], led_to(conn, study, without), now)
            if not more and not decision.assignments:
                await_study(conn, here.id, now)
        elif decision.companion is Companion.IMAGE:
            more = attach(conn, [here], collect_taken_along(conn, sop_instance_uid), now) if self._awaits_any else []
            leading = [each for each in decision.assignments if each.route not in without]
            if any((study, each.destination) not in self._led for each in leading):
                more += attach(conn, followers(conn, study), leading, now)
        else:
            more = take_along(conn, references, decision.takes_along, now) if decision.takes_along else []
        return more

    def note_committed(self, study: int, decision: Decision, without: Collection[str]) -> None:
        """Remember after the commit where this image has led the followers of its study."""
        if decision.companion is Companion.IMAGE:
            if len(self._led) > _MOST_REMEMBERED:
                self._led.clear()
            self._led.update((study, each.destination) for each in decision.assignments if each.route not in without)
        elif decision.takes_along:
            self._awaits_any = True
