"""Checks of identity are made again, behind what brings the facts: orders, updates and merges.

What differs by a fact of now is held where it has not gone yet, as [identity] says; a stat image never by a check. What
was held, and is the same patient's by a fact of now, goes. Nothing is released by a timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from edge.identity.checks import CheckResult
from edge.intake.policy import Policy, order_mismatch
from edge.store import deliveries, identity_checks, ledger, patients
from edge.store.database import Store, Transaction
from edge.store.identity_checks import Rechecked
from edge.worker import DONE, ThreadSpec, Worker

RECHECK_THREAD = ThreadSpec("identity", __name__, "checks of identity, deliveries, ledger", "after its transaction")
#: Checks in one transaction, and the pause when nothing is queued.
CHECKS_AT_ONCE, RECHECK_SECONDS = 50, 5.0
#: The pause while images wait to be counted: years of them, after an upgrade.
COUNT_SECONDS = 1.0


class Rechecks:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        policy: Callable[[], Policy],
        queued: Callable[[Iterable[str]], None] = lambda _: None,
        changes: Callable[[], None] = lambda: None,
    ) -> None:
        """`queued` is called after the commit with the destinations that have new work, `changes` inside it."""
        self._db, self._policy, self._queued, self._changes = db, policy, queued, changes
        self.worker = Worker(RECHECK_THREAD, self.step, breath_seconds=0.05)

    def step(self) -> float:
        """Make the next checks; count images. Returns the seconds until the next step."""
        if self._db.failure is not None:
            return DONE
        pause, destinations = self._db.write(self._work)
        if destinations:
            self._queued(destinations)
        return pause

    def _work(self, conn: Transaction) -> tuple[float, set[str]]:
        now, destinations = time.time(), set[str]()
        found = identity_checks.recheck_some(conn, now, CHECKS_AT_ONCE)
        if found:
            self._changes()
        for each in found:
            if each.after.result is CheckResult.DIFFERS and each.before is not CheckResult.DIFFERS:
                self._hold(conn, each, now)
        for study in {each.study_id for each in found}:
            destinations |= _release_resolved(conn, study, now)
        is_counting = identity_checks.count_images(conn)
        pause = 0.0 if len(found) == CHECKS_AT_ONCE else COUNT_SECONDS if is_counting else RECHECK_SECONDS
        return pause, destinations

    def _hold(self, conn: Transaction, each: Rechecked, now: float) -> None:
        policy, held = self._policy(), []
        instances = identity_checks.list_instances(conn, each.study_facts)
        if policy.hold_mismatches:
            reason = order_mismatch(each.after)
            held = [one for one in instances if deliveries.hold_mismatch(conn, one, reason, stat=policy.hold_stat)]
        payload: ledger.Payload = {"differs_in": list(each.after.differs_in), "held": bool(held), "against": "order"}
        ledger.append(conn, now, ledger.MISMATCH, ledger.EDGE, instances, study_id=each.study_id, payload=payload)


def _release_resolved(conn: Transaction, study: int, now: float) -> set[str]:
    """What is held in a study as another patient's, and is the same patient's by now, goes."""
    patients.find_resolved(conn, study)
    instances = identity_checks.list_wrongly_held(conn, study)
    destinations = {name for each in instances for name in deliveries.resolve_mismatch(conn, each)}
    if instances:
        payload: ledger.Payload = {"reason": "HL7 says that it is the same patient"}
        ledger.append(conn, now, ledger.RELEASED, ledger.EDGE, instances, study_id=study, payload=payload)
    return destinations
