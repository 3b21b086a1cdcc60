"""HL7 that goes on ([relay.*]): one thread a relay takes its queue in order, one message at a time, through any outage.

Promise: a message is done only by AA or CA with its own control ID. Without a connection or an answer it is tried again
indefinitely, the same bytes; what the receiver refuses is held with its words, and the patient's later messages behind
it; others go on. A receiver that is down holds up no other relay, and no image.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial

from edge.config.sections import Config, Relay
from edge.errors import PeerError
from edge.outbound.relay.connection import BeginTls, RelayConnection
from edge.outbound.relay.decision import (
    FIRST_RELAY_SECONDS,
    LONGEST_RELAY_SECONDS,
    ReceiverAnswer,
    RelayStep,
    decide_step,
)
from edge.store import relays
from edge.store.database import Store
from edge.store.relays import RelayedMessage
from edge.worker import ThreadSpec, Worker
from edge.worker.backoff import backoff
from edge.worker.roster import Roster, Wish

log = logging.getLogger(__name__)

RELAY_THREAD = ThreadSpec(
    "relay", __name__, "the queue of one relay", "after its message; it is sent again", each="relay"
)
#: A queue is read so often although nobody has woken the thread.
QUEUE_SECONDS = 5.0


class RelaySender:
    """The thread of one relay."""

    def __init__(
        self, db: Store, relay: Relay, secure: BeginTls | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._db, self._relay, self._clock = db, relay, clock
        self._connection = RelayConnection(relay.host, relay.port, relay.answer, secure)
        self.worker = Worker(RELAY_THREAD, self.step, relay.name, longest_pause_seconds=LONGEST_RELAY_SECONDS)

    def start(self) -> None:
        self.worker.start()

    def stop(self) -> None:
        if not self.worker.stop(0.5):
            self._connection.close()
            self.worker.stop(2.0)
        self._connection.close()

    def step(self) -> float:
        """Send the next message. Returns the seconds until there may be another."""
        with self._db.reading() as conn:
            found = relays.find_next(conn, self._relay.name)
        if found is None:
            return QUEUE_SECONDS
        now = self._clock()
        if found.not_before > now + LONGEST_RELAY_SECONDS * 2:
            log.warning("relay %s: the clock went back, its message is tried now", self._relay.name)
        elif found.not_before > now:
            return min(found.not_before - now, QUEUE_SECONDS)
        try:
            answer = self._connection.exchange(found.body)
        except PeerError as error:
            self._retry(found, "", str(error))
        else:
            self._settle(found, answer)
        return 0.0

    def _settle(self, found: RelayedMessage, answer: ReceiverAnswer) -> None:
        now, name = self._clock(), self._relay.name
        step = decide_step(answer, found.first_at, now)
        if step is RelayStep.DONE:
            self._db.write(lambda conn: relays.note_sent(conn, found.id, answer.code, now))
        elif step is RelayStep.RETRY:
            self._retry(found, answer.code, answer.text)
        else:
            log.error("relay %s refuses message %d (%s): it is held", name, found.message_id, answer.code[:2])
            self._db.write(lambda conn: relays.hold_message(conn, found.id, answer.code, answer.text, now))

    def _retry(self, found: RelayedMessage, code: str, words: str) -> None:
        now = self._clock()
        wait = backoff(found.tries + 1, FIRST_RELAY_SECONDS, LONGEST_RELAY_SECONDS, random.random())
        if found.tries == 0:
            log.warning("relay %s: message %d is tried again", self._relay.name, found.message_id)
        self._db.write(lambda conn: relays.note_failed(conn, found.id, code, words, now + wait, now))


class Relays:
    """A sender for each relay of the configuration."""

    def __init__(self, db: Store, secure_for: Callable[[str], BeginTls | None]) -> None:
        """`secure_for` makes what begins TLS with a host."""
        self._db, self._secure_for = db, secure_for
        self.senders: Roster[RelaySender] = Roster()

    def join(self, config: Config) -> None:
        self.senders.want({name: Wish(relay, partial(self._make, relay)) for name, relay in config.relays.items()})

    def _make(self, relay: Relay) -> RelaySender:
        secure = self._secure_for(relay.tls_name or relay.host) if relay.tls else None
        return RelaySender(self._db, relay, secure)

    def wake(self) -> None:
        """Look for messages now."""
        for sender in self.senders.all().values():
            sender.worker.wake()

    def stop(self) -> None:
        self.senders.close()
