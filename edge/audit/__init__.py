"""The DICOM audit trail (PS3.15 A.5, IHE ITI-20): a projection of the custody ledger.

The clerk reads the ledger behind its watermark, makes messages of what it finds, and posts them to the outbox together
with the new watermark in one transaction: a crash loses none and tells none twice. It is a thread of its own and only
reads while others write, so that reception and sending never wait for it. It lets a study gather before it tells of it:
until nothing has been added for QUIET_SECONDS, at the most PATIENCE_SECONDS. What concerns security does not wait.

Where no [audit] is configured nothing is posted, and the ledger is as complete; what happened before the first
configured start is not told afterwards.
"""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.audit import rows as ledger_rows
from edge.audit.channel import channel_of
from edge.audit.events_to_messages import AuditSource, messages_for
from edge.audit.message import Source, to_xml
from edge.audit.rows import PeerNode
from edge.config.audit import Audit
from edge.config.sections import Config
from edge.errors import EdgeError, place_of
from edge.messaging import Courier
from edge.roster import Roster, Wish
from edge.store import catalog, ledger, outbox
from edge.store.database import Connection, Database

log = logging.getLogger(__name__)

CHANNEL = "audit"
TICK_SECONDS = 1.0
QUIET_SECONDS, PATIENCE_SECONDS = 10.0, 60.0
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
#: After a recovery of the catalog, so much of the past is told again.
RETOLD_SECONDS = 7 * 86_400.0
#: On stop.
FAREWELL_SECONDS = 1.0
WATERMARK = "audited"


class AuditTrailProjector:
    """See the module's promise."""

    def __init__(
        self,
        db: Database,
        config: Callable[[], Config],
        directory: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`directory` is where relative paths of the configuration begin."""
        self._db, self._config, self._directory, self._monotonic = db, config, directory, monotonic
        self._repositories: Roster[_Sending] = Roster()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._head, self._grew_at = 0, 0.0
        self._waiting_since: float | None = None

    def begin(self) -> None:
        """Where audit is configured for the first time, it begins with what the ledger says from now on."""
        if self._config().audit.enabled:
            self._db.write(_begin)

    def start(self) -> None:
        """Begin to read the ledger, and to send to the repository that is configured."""
        self.join()
        self._thread.start()

    def join(self) -> None:
        """Send to the repository that is configured now, once the one before has let go: nothing is lost between."""
        audit = self._config().audit
        wish = Wish(audit, lambda: _Sending(self._db, audit, self._directory))
        self._repositories.want({CHANNEL: wish} if audit.enabled else {})

    @property
    def _sending(self) -> _Sending | None:
        return self._repositories.get(CHANNEL)

    def stop(self) -> None:
        """Post what the ledger has without waiting for more; the repository has FAREWELL_SECONDS to take it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._db.failure is None:
            self.flush()
        if self._sending is not None:
            self._sending.drain(FAREWELL_SECONDS)
        self._repositories.close()

    def flush(self) -> None:
        """Post everything that the ledger has and was not told."""
        while self._config().audit.enabled and self._post():
            pass

    def _run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.look()
                if self._sending is not None:
                    self._sending.channel.settle()
            except (EdgeError, sqlite3.Error, OSError, MemoryError) as error:
                log.error("the audit trail waits: %s", error)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the trail
                log.error("the audit trail waits: %s", place_of(error))

    def look(self) -> None:
        """Post what is ripe."""
        if self._config().audit.enabled and self._ripe():
            while self._post() == MAX_ROWS:
                pass
            self._waiting_since = None
            if self._sending is not None:
                self._sending.courier.wake()

    def _ripe(self) -> bool:
        """Has the ledger grown, and is what came about to be complete, or has it waited for long enough?"""
        with self._db.reading() as conn:
            head = conn.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()[0]
            mark = _watermark(conn)
            urgent = mark is not None and _any_urgent(conn, max(mark, self._head))
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
            or now - self._grew_at >= QUIET_SECONDS
            or now - self._waiting_since >= PATIENCE_SECONDS
            or head - mark >= MAX_ROWS
        )

    def _post(self) -> int:
        """Tell the next rows. Returns how many they were."""
        config = self._config()
        here, source = _here(config), Source(config.site.id, config.listen.ae_title)
        with self._db.reading() as conn:
            mark = _watermark(conn)
            new = ledger_rows.read(conn, mark, MAX_ROWS) if mark is not None else []
            posts = [post for group in ledger_rows.neighbours(new) for post in _told(conn, group, here, source)]
        if not new:
            return 0

        def work(conn: Connection) -> None:
            for kind, at, body in posts:
                outbox.post(conn, CHANNEL, kind, at, body)
            catalog.remember(conn, WATERMARK, str(new[-1].seq))

        self._db.write(work)
        return len(new)


def _told(
    conn: Connection, group: Sequence[ledger_rows.Row], here: AuditSource, source: Source
) -> list[tuple[str, float, str]]:
    """The messages about a group of rows: (kind, time, XML). Of one that cannot be told the log names the rows."""
    try:
        found = messages_for(group, ledger_rows.look_up(conn, group), here)
        return [(f"{message.event.meaning}", message.at, to_xml(message, source)) for message in found]
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - one row must not end the trail of all others
        log.error("rows %d to %d of the ledger cannot be told: %s", group[0].seq, group[-1].seq, place_of(error))
        return []


class _Sending:
    """The way to one repository."""

    def __init__(self, db: Database, audit: Audit, directory: Path) -> None:
        self.channel, self._db = channel_of(audit, directory), db
        self.courier = Courier(db, CHANNEL, self.channel)

    def start(self) -> None:
        self.courier.start()

    def drain(self, seconds: float) -> None:
        """Give the repository so long to take what waits."""
        self.courier.wake()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._waiting():
            time.sleep(0.02)

    def stop(self) -> None:
        self.courier.stop()
        self.channel.close()

    def _waiting(self) -> bool:
        with self._db.reading() as conn:
            return bool(outbox.oldest(conn, CHANNEL, 1))


def _begin(conn: Connection) -> None:
    """The watermark, where there is none: the ledger's end, or a week before a catalog that was just made anew.

    For with the old catalog it is forgotten what was told: rather twice than never.
    """
    if _watermark(conn) is not None:
        return
    (mark,) = conn.execute(
        "SELECT coalesce(max(seq), 0) FROM ledger WHERE at < coalesce("
        " (SELECT at - ?1 FROM ledger AS anew WHERE event = ?2 AND NOT EXISTS"
        "  (SELECT 1 FROM ledger AS later WHERE later.seq > anew.seq AND later.event = ?3) ORDER BY seq DESC LIMIT 1),"
        " 9e999)",
        (RETOLD_SECONDS, ledger.RECOVERED, ledger.STARTED),
    ).fetchone()
    catalog.remember(conn, WATERMARK, str(mark))


def _any_urgent(conn: Connection, after: int) -> bool:
    sql = "SELECT 1 FROM ledger WHERE seq > ? AND event IN (SELECT value FROM json_each(?)) LIMIT 1"
    return conn.execute(sql, (after, json.dumps(URGENT))).fetchone() is not None


def _watermark(conn: Connection) -> int | None:
    """The last row that has been told, or None where audit was never configured."""
    row = conn.execute("SELECT value FROM gateway WHERE name = ?", (WATERMARK,)).fetchone()
    return int(row[0]) if row else None


def _here(config: Config) -> AuditSource:
    destinations = {name: PeerNode(each.ae_title, each.host) for name, each in config.destinations.items()}
    return AuditSource(config.listen.ae_title, socket.gethostname(), destinations)
