"""Calls by caller: counted in memory, and written periodically.

Anybody may call, under any title: of refused callers a share is noted in a minute, of all and of each address, and the
table keeps the last of them (edge.network.shares). Those who are admitted are always noted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge.network import shares
from edge.network.shares import Budget, caller_of
from edge.scp.admission import Admission, Caller
from edge.scp.gateway_link import Proposed
from edge.store.callers import Calls, forget_unknown_callers, remember_peer
from edge.store.database import Transaction

#: Callers that are noted between two times of writing down.
_MOST = 2_000


class Callers:
    """See the module's promise. Any thread may note."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, str], Calls] = {}
        self._unknown = Budget.create(shares.UNKNOWN_CALLERS)

    def note(self, caller: Caller, admission: Admission, proposed: Proposed = (), stored: int = 0) -> None:
        """One call, with what it proposed; or, with `stored`, that number of objects in the one that goes on."""
        now, key = self._clock(), (caller.ae_title, caller.address)
        with self._lock:
            if key not in self._calls and not self._may_be_noted(caller, admission, now):
                return
            calls = self._calls.setdefault(key, Calls(admission.modality, now, now))
            calls.modality, calls.last_seen = admission.modality or admission.destination, now
            calls.refused = "" if admission.is_granted else admission.lacks
            calls.certificate_expires = caller.certificate.expires if caller.certificate else None
            if stored:
                calls.last_stored, calls.stored = now, calls.stored + stored
            else:
                calls.calls += 1
                calls.contexts = tuple((syntax, tuple(transfer)) for syntax, transfer in proposed)

    def _may_be_noted(self, caller: Caller, admission: Admission, now: float) -> bool:
        if admission.is_granted:
            return len(self._calls) < _MOST
        return self._unknown.take(now, caller_of(caller.address)) is not None

    def take(self) -> Callable[[Transaction], None] | None:
        """The transaction that writes down who called since the last one, or None when nobody did."""
        with self._lock:
            heard, self._calls = self._calls, {}
        if not heard:
            return None
        now = self._clock()

        def work(conn: Transaction) -> None:
            for (calling_ae, address), calls in heard.items():
                remember_peer(conn, calling_ae, address, calls)
            if any(calls.last_stored is None for calls in heard.values()):
                forget_unknown_callers(conn, now - shares.UNKNOWN_DAYS * shares.DAY_SECONDS, shares.UNKNOWN_KEPT)

        return work
