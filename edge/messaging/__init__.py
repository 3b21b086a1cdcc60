"""Delivery of the outbox: one courier thread for each channel takes the oldest message, delivers it, deletes it.

Promise: a channel's messages arrive in the order in which they arose, each once as long as the other end answers; one
whose answer was lost is sent again, unchanged, so that it can be known again. What is stored survives a restart.
A failure of the channel (network, login, recipients) is tried again indefinitely, with backoff up to LONGEST_SECONDS. A
message that the other end refuses for what it is, is parked (edge.store.outbox) and the next one goes.
No body and no secret reaches the log: of a failure only the channel's own words.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edge.errors import EdgeError, Hindered, Permanent, StorageUnhealthy, Transient, place_of
from edge.store import outbox
from edge.store.outbox import Message
from edge.store.transaction import AnyStore
from edge.worker import DONE, ThreadSpec, Worker
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

#: Seconds from one failure to the next try.
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
#: The same where the other end says that we are not welcome: logins are locked by too many tries.
REJECTED_SECONDS = 600.0
#: How often to look for messages that nobody has announced.
COURIER_POLL_SECONDS = 5.0
#: Seconds on stop for what waits, and for a delivery that was cut.
COURIER_STOP_SECONDS, CUT_SECONDS = 2.0, 1.0
MESSAGE_BATCH = 32
COURIER_THREAD = ThreadSpec("courier", __name__, "outbox", "within 2 s, then what is under way is cut", each="channel")
#: So often is a message tried that we fail to deliver by a fault of ours.
MOST_FAULTS = 5


class Rejected(Transient):
    """The other end refuses us, not this message: login, certificate, recipient. A person must fix it."""


class Channel(Protocol):
    """The way to one receiver of messages."""

    def deliver(self, message: Message) -> None:
        """Returns once the other end has it. Raises Permanent for a message that it will never take, else Transient."""

    def cut(self) -> None:
        """End what is under way, from another thread: `deliver` raises Transient soon."""

    def close(self) -> None:
        """Deliver nothing more."""


class Courier:
    """Empties one channel of the outbox, in order, until `stop`."""

    def __init__(
        self,
        db: AnyStore,
        name: str,
        channel: Channel,
        *,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._db, self._channel, self._now, self._chance = db, channel, now, chance
        self._unstored: deque[Message] = deque()
        self._taken: set[int] = set()  # by the other end, and not yet deleted
        self._failures = 0  # in a row
        self._reason = ""  # of the last failure, as logged
        self._fault = (0, 0)  # the message that we fail to deliver by a fault of ours, and how often
        self._retry_at = 0.0  # monotonic
        self._is_cut = False
        self.worker = Worker(COURIER_THREAD, self._step, name, drains=True)

    def start(self) -> None:
        self.worker.start()

    def wake(self) -> None:
        """Look for messages now. While the channel is down its own time of the next try stays."""
        self.worker.wake()

    def tell(self, message: Message) -> None:
        """Deliver what cannot be stored: from memory, before all others, until it is taken or the gateway ends."""
        self._unstored.append(message)
        self.worker.wake()

    def stop(self) -> None:
        """Deliver what waits, where the channel works, for STOP_SECONDS at most. What is left stays in the outbox."""
        if not self.worker.stop(COURIER_STOP_SECONDS):
            self._is_cut = True
            self._channel.cut()
            self.worker.stop(CUT_SECONDS)

    def _step(self) -> float:
        if self.worker.is_stopping:
            if not self._failures:
                self._attempt()  # what was posted last, such as the last heartbeat
            self._channel.close()
            return DONE
        if (left := self._retry_at - time.monotonic()) > 0:
            return left
        pause = self._attempt()
        self._retry_at = time.monotonic() + pause
        return pause or COURIER_POLL_SECONDS

    def _attempt(self) -> float:
        """Deliver all that waits. Returns the seconds to wait after a failure, 0 when nothing is left."""
        try:
            if pause := self._deliver_unstored():
                return pause
            self._forget_taken()
            while not self._is_cut and (batch := self._batch()):
                if pause := self._deliver_all(batch):
                    return pause
        except (EdgeError, MemoryError) as error:  # the catalog: it says so itself
            return self._note_failure(f"the outbox cannot be read or written: {type(error).__name__}", Transient)
        return 0.0

    def _deliver_unstored(self) -> float:
        while self._unstored and not self._is_cut:
            try:
                self._channel.deliver(self._unstored[0])
            except Permanent as error:
                log.error("%s refuses what could not be stored either: %s", self.name, error)
            except Transient as error:
                return self._note_failure(str(error), type(error))
            except Exception as error:  # noqa: BLE001 - a fault of ours in one message must not end the channel
                log.error("%s: %s", self.name, place_of(error))
            self._unstored.popleft()
        return 0.0

    def _batch(self) -> list[Message]:
        oldest = self._db.read(lambda conn: outbox.oldest(conn, self.name, MESSAGE_BATCH + len(self._taken)))
        return [each for each in oldest if each.id not in self._taken]

    def _forget_taken(self) -> None:
        """Delete what was taken. On a disk that cannot be written it stays, and yet nothing is sent twice."""
        if not self._taken:
            return
        try:
            self._db.write(lambda conn: outbox.remove_delivered(conn, self._taken))
            self._taken.clear()
        except (Hindered, StorageUnhealthy) as error:
            self._log_once(f"what was delivered cannot be deleted: {error}")

    def _deliver_all(self, batch: list[Message]) -> float:
        for message in batch:
            if self._is_cut:
                break
            if pause := self._deliver(message):
                return pause
        return 0.0

    def _deliver(self, message: Message) -> float:
        """Deliver one. Returns 0 when it is off the line, else the seconds until the next try."""
        try:
            self._channel.deliver(message)
        except Permanent as error:
            reason = str(error)
            log.error("%s refuses message %d for good: %s; it is parked", self.name, message.id, reason)
            self._db.write(lambda conn: outbox.park(conn, message, self._now(), reason))
        except Transient as error:
            if self._is_cut:
                return COURIER_POLL_SECONDS  # we have ended it ourselves
            reason = str(error)
            pause = self._note_failure(reason, type(error))
            self._db.write(lambda conn: outbox.record_failure(conn, message.id, reason))
            return pause
        except Exception as error:  # noqa: BLE001 - a fault of ours in one message must not end the channel
            log.error("%s: %s", self.name, place_of(error))
            return self._at_fault(message, f"internal error ({type(error).__name__}); see the log")
        else:
            self._taken.add(message.id)
            self._forget_taken()
        if self._failures:
            log.info("%s works again after %d failures", self.name, self._failures)
        self._failures, self._reason = 0, ""
        return 0.0

    def _at_fault(self, message: Message, reason: str) -> float:
        """A fault of ours: tried again, and after MOST_FAULTS parked, for the next ones wait behind it."""
        known, times = self._fault
        self._fault = (message.id, times + 1 if known == message.id else 1)
        if self._fault[1] >= MOST_FAULTS:
            self._db.write(lambda conn: outbox.park(conn, message, self._now(), reason))
            return 0.0
        self._db.write(lambda conn: outbox.record_failure(conn, message.id, reason))
        return self._note_failure(reason, Transient)

    def _note_failure(self, reason: str, kind: type[Transient]) -> float:
        self._failures += 1
        self._log_once(reason)
        longest = REJECTED_SECONDS if issubclass(kind, Rejected) else LONGEST_SECONDS
        return backoff(self._failures, FIRST_SECONDS, longest, self._chance())

    def _log_once(self, reason: str) -> None:
        """Log a reason once, while it is the same."""
        if reason != self._reason:
            log.warning("%s: %s; it is tried again", self.name, reason)
            self._reason = reason
