"""The office's postman: takes its outbox away, each channel in order, as a site's couriers do.

A failure is tried again for ever, ever later; what the other end refuses for good is dropped, with a line in the log:
the incident itself stays on the page.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping

from edge.backoff import backoff
from edge.central.notifications import DIGEST
from edge.central.store import Row, Store, StoreError, do, first
from edge.errors import Permanent, Transient, place_of
from edge.messaging import FIRST_SECONDS, LONGEST_SECONDS, REJECTED_SECONDS, Channel, Rejected
from edge.messaging.smtp import Email
from edge.store.outbox import Message

log = logging.getLogger(__name__)

#: How often to look for something to take away, in seconds.
POLL_SECONDS = 2.0
STOP_SECONDS = 3.0


class Postman:
    """One thread for each channel: one that hangs delays nobody else."""

    def __init__(self, store: Store, channels: Mapping[str, Channel], clock: Callable[[], float] = time.time) -> None:
        self._store, self._channels, self._clock = store, channels, clock
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"post-{name}", daemon=True) for name in channels
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """What is under way is cut; the rest waits for the next start."""
        self._ending.set()
        for channel in self._channels.values():
            channel.cut()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(STOP_SECONDS)

    def _run(self, name: str) -> None:
        while not self._ending.is_set():
            try:
                worked = self.turn(name)
            except StoreError as error:
                log.error("%s: %s", name, error)
                worked = False
            except Exception as error:  # noqa: BLE001 - the channel must outlive a fault of ours
                log.error("%s: %s", name, place_of(error))
                worked = False
            if not worked:
                self._ending.wait(POLL_SECONDS)

    def turn(self, name: str) -> bool:
        """Deliver the oldest message of a channel, if its time has come; True when it is off the line."""
        with self._store.reading() as conn:
            row = first(conn, "SELECT * FROM message WHERE channel = :name ORDER BY id LIMIT 1", name=name)
        if row is None or row["next_try"] > self._clock():
            return False
        try:
            deliver(self._channels[name], row)
        except Transient as error:
            if not self._ending.is_set():
                self._later(row, error)
            return False
        except Permanent as error:
            log.error("%s refuses message %d for good, it is dropped: %s", name, row["id"], error)
        except Exception as error:  # noqa: BLE001 - one message must not keep all others waiting
            log.error("%s: message %d cannot be delivered, it is dropped: %s", name, row["id"], place_of(error))
        with self._store.writing() as conn:
            do(conn, "DELETE FROM message WHERE id = :id", id=row["id"])
        return True

    def _later(self, row: Row, error: Transient) -> None:
        tries = row["attempts"] + 1
        longest = REJECTED_SECONDS if isinstance(error, Rejected) else LONGEST_SECONDS
        if str(error) != row["last_error"]:
            log.warning("%s: %s; it is tried again", row["channel"], error)
        with self._store.writing() as conn:
            do(
                conn,
                "UPDATE message SET attempts = :tries, next_try = :at, last_error = :reason WHERE id = :id",
                id=row["id"],
                tries=tries,
                at=self._clock() + backoff(tries, FIRST_SECONDS, longest, random.random()),
                reason=str(error),
            )


def deliver(channel: Channel, row: Row) -> None:
    """Hand one message over. Raises Transient or Permanent."""
    if row["kind"] == DIGEST and isinstance(channel, Email):
        told = json.loads(row["body"])
        channel.write(told["subject"], told["text"], row["at"])
    else:
        channel.deliver(Message(row["id"], row["channel"], row["kind"], row["at"], row["body"], row["attempts"]))
