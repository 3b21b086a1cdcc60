"""Checks of identity are made again, behind what brings the facts: orders, updates and merges.

What differs by a fact of now is held where it has not gone yet, as [identity] says; a stat image never by a check.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.identity.checks import CheckResult
from edge.intake.policy import Policy, order_mismatch
from edge.store import deliveries, identity_checks, ledger
from edge.store.database import Store, Transaction
from edge.store.identity_checks import Rechecked
from edge.worker import DONE, ThreadSpec, Worker

RECHECK_THREAD = ThreadSpec("identity", __name__, "checks of identity, deliveries, ledger", "after its transaction")
#: Checks in one transaction, and the pause when nothing is queued.
BATCH, IDLE_SECONDS = 50, 5.0


class Rechecks:
    """See the module's docstring."""

    def __init__(self, db: Store, policy: Callable[[], Policy], clock: Callable[[], float] = time.time) -> None:
        self._db, self._policy, self._clock = db, policy, clock
        self.worker = Worker(RECHECK_THREAD, self.step, breath_seconds=0.05)

    def step(self) -> float:
        """Make the next checks; count images. Returns the seconds until the next step."""
        if self._db.failure is not None:
            return DONE
        return 0.0 if self._db.write(self._work) else IDLE_SECONDS

    def _work(self, conn: Transaction) -> bool:
        now = self._clock()
        found = identity_checks.recheck_some(conn, now, BATCH)
        for each in found:
            if each.after.result is CheckResult.DIFFERS and each.before is not CheckResult.DIFFERS:
                self._hold(conn, each, now)
        is_counting = identity_checks.count_images(conn)
        return len(found) == BATCH or is_counting

    def _hold(self, conn: Transaction, each: Rechecked, now: float) -> None:
        policy, held = self._policy(), []
        instances = identity_checks.list_instances(conn, each.study_facts)
        if policy.hold_mismatches:
            reason = order_mismatch(each.after)
            held = [one for one in instances if deliveries.hold_mismatch(conn, one, reason, stat=policy.hold_stat)]
        payload: ledger.Payload = {"differs_in": list(each.after.differs_in), "held": bool(held), "against": "order"}
        ledger.append(conn, now, ledger.MISMATCH, ledger.EDGE, instances, study_id=each.study_id, payload=payload)
