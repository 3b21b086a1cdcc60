"""The DICOM audit trail (PS3.15 A.5, IHE ITI-20): a projection of the custody ledger.

The projector reads the ledger behind its watermark, makes messages of what it finds, and posts them to the outbox
together with the new watermark in one transaction: a crash loses none and repeats none. It is a thread of its own and
only reads while others write, so that reception and sending never wait for it. A study gathers before it is reported:
until nothing has been added for QUIET_SECONDS, at the most PATIENCE_SECONDS. What concerns security does not wait.

Where no [audit] is configured nothing is posted, and the ledger is as complete; what happened before the first
configured start is not reported afterwards.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.config.audit import Audit
from edge.config.channels import AUDIT_CHANNEL
from edge.config.sections import Config
from edge.errors import place_of
from edge.messaging import Courier
from edge.messaging.audit import rows as ledger_rows
from edge.messaging.audit.channel import AuditChannel
from edge.messaging.audit.events_to_messages import AuditSource, messages_for
from edge.messaging.audit.message import Source, to_xml
from edge.messaging.audit.rows import PeerNode
from edge.messaging.channels import open_syslog
from edge.store import audit_trail, gateway_values, ledger, outbox
from edge.store.database import StatementError, Store, Transaction
from edge.worker import ThreadSpec, Worker
from edge.worker.roster import Roster, Wish

log = logging.getLogger(__name__)

AUDIT_TICK_SECONDS = 1.0
STUDY_QUIET_SECONDS, STUDY_PATIENCE_SECONDS = 10.0, 60.0
URGENT = (
    ledger.STARTED,
    ledger.STOPPED,
    ledger.REFUSED,
    ledger.CONFIGURED,
    ledger.OVERRIDDEN,
    ledger.SIGNED_IN,
    ledger.LOST,
)
#: Rows of the ledger in one transaction.
MAX_ROWS = 5_000
#: After a recovery of the catalog, this much of the past is reported again.
REPORTED_AGAIN_SECONDS = 7 * 86_400.0
#: On stop, for the repository to take what waits.
REPOSITORY_SECONDS = 1.0
AUDIT_THREAD = ThreadSpec("audit", __name__, "outbox, its watermark", "after its transaction; then posts the rest")


def begin_audit(conn: Transaction, audit: Audit) -> None:
    """Where audit is configured for the first time, it begins with what the ledger says from now on."""
    if audit.is_enabled:
        audit_trail.begin(conn, REPORTED_AGAIN_SECONDS)


class AuditTrailProjector:
    """See the module's promise."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        directory: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`directory` is where relative paths of the configuration begin."""
        self._db, self._config, self._directory, self._monotonic = db, config, directory, monotonic
        self.repositories: Roster[_Sending] = Roster()
        self._worker = Worker(AUDIT_THREAD, self._step, longest_pause_seconds=STUDY_QUIET_SECONDS)
        self._head, self._grew_at = 0, 0.0
        self._waiting_since: float | None = None

    def begin(self) -> None:
        """See `begin_audit`."""
        audit = self._config().audit
        self._db.write(lambda conn: begin_audit(conn, audit))

    def start(self) -> None:
        """Begin to read the ledger, and to send to the repository that is configured."""
        self.join()
        self._worker.start()

    def join(self) -> None:
        """Send to the repository that is configured now, once the one before has let go: nothing is lost between."""
        audit = self._config().audit
        wish = Wish(audit, lambda: _Sending(self._db, audit, self._directory))
        self.repositories.want({AUDIT_CHANNEL: wish} if audit.is_enabled else {})

    @property
    def _sending(self) -> _Sending | None:
        return self.repositories.get(AUDIT_CHANNEL)

    def stop(self) -> None:
        """Post what the ledger has without waiting for more; the repository has REPOSITORY_SECONDS to take it."""
        self._worker.stop(None)
        if self._db.failure is None:
            self.flush()
        if self._sending is not None:
            self._sending.drain(REPOSITORY_SECONDS)
        self.repositories.close()

    def flush(self) -> None:
        """Post everything that the ledger has and was not reported."""
        while self._config().audit.is_enabled and self._post():
            pass

    def _step(self) -> float:
        self.look()
        if self._sending is not None:
            self._sending.channel.settle()
        return AUDIT_TICK_SECONDS

    def look(self) -> None:
        """Post what is due."""
        if self._config().audit.is_enabled and self._has_due():
            while self._post() == MAX_ROWS:
                pass
            self._waiting_since = None
            if self._sending is not None:
                self._sending.courier.wake()

    def _has_due(self) -> bool:
        """Has the ledger grown, and is what came about to be complete, or has it waited for long enough?"""
        with self._db.reading() as conn:
            head, mark = ledger.head(conn).seq, audit_trail.watermark(conn)
            urgent = mark is not None and audit_trail.has_event(conn, max(mark, self._head), URGENT)
        now = self._monotonic()
        if mark is None or head <= mark:
            self._waiting_since = None
            return False
        if head != self._head:
            self._head, self._grew_at = head, now
        if self._waiting_since is None:
            self._waiting_since = now
        return (
            urgent
            or now - self._grew_at >= STUDY_QUIET_SECONDS
            or now - self._waiting_since >= STUDY_PATIENCE_SECONDS
            or head - mark >= MAX_ROWS
        )

    def _post(self) -> int:
        """Tell the next rows. Returns how many they were."""
        config = self._config()
        here, source = _source_of(config), Source(config.site.id, config.listen.ae_title)
        with self._db.reading() as conn:
            mark = audit_trail.watermark(conn)
            new = ledger_rows.read_ledger(conn, mark, MAX_ROWS) if mark is not None else []
            posts = [post for group in ledger_rows.neighbours(new) for post in _posts_of(conn, group, here, source)]
        if not new:
            return 0

        def work(conn: Transaction) -> None:
            for kind, at, body in posts:
                outbox.post(conn, AUDIT_CHANNEL, kind, at, body)
            gateway_values.remember(conn, audit_trail.WATERMARK, str(new[-1].seq))

        self._db.write(work)
        return len(new)


def _posts_of(
    conn: Transaction, group: Sequence[ledger_rows.TrailRow], here: AuditSource, source: Source
) -> list[tuple[str, float, str]]:
    """The messages about a group of rows: (kind, time, XML). Of one that cannot be reported the log names the rows."""
    try:
        found = messages_for(group, ledger_rows.look_up(conn, group), here)
        return [(f"{message.event.meaning}", message.at, to_xml(message, source)) for message in found]
    except StatementError:
        raise
    except Exception as error:  # noqa: BLE001 - one row must not end the trail of all others
        log.error("rows %d to %d of the ledger cannot be reported: %s", group[0].seq, group[-1].seq, place_of(error))
        return []


class _Sending:
    """The way to one repository."""

    def __init__(self, db: Store, audit: Audit, directory: Path) -> None:
        self.channel, self._db = AuditChannel(open_syslog(audit, directory)), db
        self.courier = Courier(db, AUDIT_CHANNEL, self.channel)

    def start(self) -> None:
        self.courier.start()

    def drain(self, seconds: float) -> None:
        """Give the repository this time to take what waits."""
        self.courier.wake()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._waiting():
            time.sleep(0.02)

    def stop(self) -> None:
        self.courier.stop()
        self.channel.close()

    def _waiting(self) -> bool:
        with self._db.reading() as conn:
            return bool(outbox.oldest(conn, AUDIT_CHANNEL, 1))


def _source_of(config: Config) -> AuditSource:
    destinations = {name: PeerNode(each.ae_title, each.host) for name, each in config.destinations.items()}
    return AuditSource(config.listen.ae_title, socket.gethostname(), destinations)
