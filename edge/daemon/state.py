"""The gateway's state, as `edge status` and systemd show it: starting, running, refusing, draining; and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge.daemon.reception import Reception
from edge.hindrance import words_of
from edge.store.database import Database

log = logging.getLogger(__name__)


class State:
    """From running to refusing and back it goes by itself, by what hinders reception. Any thread may ask."""

    def __init__(self, db: Database, reception: Reception, started_at: float, notify: Callable[[str], None]) -> None:
        """`started_at`: seconds since 1970; `notify`: says it to systemd (sd_notify)."""
        self._db, self._reception, self._notify = db, reception, notify
        self.name, self.since = "starting", started_at

    def become(self, name: str) -> None:
        if name != self.name:
            self.name, self.since = name, time.time()
            log.info("the gateway is %s", name)
            self._notify(f"STATUS={name}")

    def look(self) -> None:
        """Asked at each tick, and whenever somebody wants to know: the state never lags behind its alerts."""
        if self.name in ("running", "refusing"):
            self._reception.look()
            self.become("refusing" if self._reception.found() or self._db.failure else "running")

    def reasons(self) -> tuple[str, ...]:
        """Why objects are refused, in words; empty where they are not."""
        failed = (self._db.failure,) if self._db.failure else ()
        return (*failed, *(each.text or f"the gateway is {words_of(each.cause)}" for each in self._reception.found()))

    def ready(self) -> tuple[bool, str]:
        """Are objects accepted now, and if not, why."""
        if self.name == "running" and not self.reasons():
            return True, ""
        return False, "; ".join(self.reasons()) or f"the gateway is {self.name}"
