"""The outbox's channel "audit": to an audit record repository by syslog (PS3.15 A.6 and A.7, IHE ITI-20).

Syslog has no acknowledgement, and a message in the kernel of a repository that dies is lost. So a message is doubtful
until its connection has outlived it by GRACE_SECONDS; where that broke before, it is sent again, before any other, over
the next one. The repository knows one that comes twice: it is the same, byte for byte.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge.messaging.syslog import AUTHPRIV, NOTICE, Syslog
from edge.store.outbox import Message

#: IHE ITI TF-2: 3.20.4.1.2; PS3.15 A.6 leaves it open.
MSGID = "IHE+RFC-3881"
GRACE_SECONDS = 2.0


class AuditChannel:
    """Delivers for a Courier (edge.messaging); see the module's promise."""

    def __init__(self, syslog: Syslog, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._syslog, self._monotonic = syslog, monotonic
        self._lock = threading.Lock()
        self._doubtful: list[tuple[float, Message]] = []

    def deliver(self, message: Message) -> None:
        """Send one message. Raises Transient."""
        if self._syslog.renew():
            for each in self._doubtful_messages():
                self._send(each)
        self._send(message)

    def _doubtful_messages(self) -> list[Message]:
        with self._lock:
            return [message for _, message in self._doubtful]

    def _send(self, message: Message) -> None:
        self._syslog.send(NOTICE, MSGID, message.body, message.at, AUTHPRIV)
        with self._lock:
            kept = [each for each in self._doubtful if each[1].id != message.id]
            self._doubtful = [*kept, (self._monotonic(), message)]

    def settle(self) -> None:
        """About once a second: what its connection has outlived is delivered."""
        if self._syslog.lives():
            before = self._monotonic() - GRACE_SECONDS
            with self._lock:
                self._doubtful = [each for each in self._doubtful if each[0] > before]

    def cut(self) -> None:
        self._syslog.cut()

    def close(self) -> None:
        self._syslog.close()
