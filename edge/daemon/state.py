"""The gateway's state, as `edge status` and systemd show it: starting, running, refusing, draining; and why."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge.daemon.reception import Reception
from edge.errors.hindrance import words_of
from edge.store.database import Store

log = logging.getLogger(__name__)


class State:
    """Between running and refusing it changes by itself, by what hinders reception. Thread-safe: see `set_state`."""

    def __init__(self, db: Store, reception: Reception, started_at: float, notify: Callable[[str], object]) -> None:
        """`started_at`: seconds since 1970; `notify`: says it to systemd (sd_notify)."""
        self._db, self._reception, self._notify = db, reception, notify
        self._lock = threading.Lock()
        self.name, self.since = "starting", started_at

    def set_state(self, name: str, only_from: tuple[str, ...] = ()) -> None:
        """The only place that changes the state; `only_from`: not where another thread has left these states."""
        with self._lock:
            if name == self.name or (only_from and self.name not in only_from):
                return
            self.name, self.since = name, time.time()
            log.info("the gateway is %s", name)
            self._notify(f"STATUS={name}")

    def check(self) -> None:
        """Called at each tick, and for each status: the state never lags behind its alerts."""
        if self.name in ("running", "refusing"):
            self._reception.check()
            is_refusing = bool(self._reception.current() or self._db.failure)
            self.set_state("refusing" if is_refusing else "running", only_from=("running", "refusing"))

    def reasons(self) -> tuple[str, ...]:
        """Why objects are refused, in words; empty where they are not."""
        failed = (self._db.failure,) if self._db.failure else ()
        return (*failed, *(each.text or f"the gateway is {words_of(each.cause)}" for each in self._reception.current()))

    def ready(self) -> tuple[bool, str]:
        """Are objects accepted now, and if not, why."""
        if self.name == "running" and not self.reasons():
            return True, ""
        return False, "; ".join(self.reasons()) or f"the gateway is {self.name}"
