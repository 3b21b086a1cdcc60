"""A restore while the gateway runs: its doors stay open, and what equipment sends meanwhile is received as always.

One restore at a time, on a thread of its own. `edge restore` begins it and asks how far it is; it goes on without the
command, and one that the end of the gateway interrupts goes on when it is typed again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.config.sections import Config
from edge.errors import EdgeError, place_of
from edge.intake import Intake
from edge.network import tls
from edge.spool import Spool
from edge.storage.archive_copy import ArchiveCopy
from edge.storage.lost_gateway import LostGateway, read_ledger_copy
from edge.storage.restore import ReportProgress, Restoration, Restorer
from edge.store import legal_holds, restored
from edge.store.database import Store
from edge.worker import ThreadSpec

log = logging.getLogger(__name__)

RESTORE_THREAD = ThreadSpec(
    "restore", __name__, "instances, deliveries, ledger; the spool", "after the study it restores"
)


def restore_from(
    db: Store,
    spool: Spool,
    intake: Intake,
    config: Config,
    source: str,
    lost: LostGateway,
    report: ReportProgress = lambda _: None,
) -> Restorer:
    """What restores from a destination, with what is known of the lost gateway; its holds are placed now."""
    db.write(lambda conn: legal_holds.restore(conn, lost.holds))
    destination = config.destinations[source]
    copy = ArchiveCopy(destination, config.listen.ae_title, tls.secure(config, destination))
    return Restorer(db, spool, intake, config, source, copy, report, lost.origins)


class Restores:
    """See the module's docstring."""

    def __init__(self, db: Store, spool: Spool, intake: Intake, config: Callable[[], Config]) -> None:
        self._db, self._spool, self._intake, self._config = db, spool, intake, config
        self._thread: threading.Thread | None = None
        self._restorer: Restorer | None = None
        self._failure = ""

    def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Begin one. Raises EdgeError: another is under way, or there is no such destination."""
        if self._thread is not None and self._thread.is_alive():
            raise EdgeError("a restore is under way")
        source, dates = str(request["source"]), str(request.get("dates", ""))
        config = self._config()
        if source not in config.destinations:
            raise EdgeError(f'there is no destination "{source}"')
        lost = read_ledger_copy(Path(request["ledger"])) if request.get("ledger") else LostGateway()
        self._restorer = restore_from(self._db, self._spool, self._intake, config, source, lost)
        self._failure = ""
        self._thread = threading.Thread(target=self._run, args=(dates,), name=RESTORE_THREAD.name, daemon=True)
        self._thread.start()
        return {"holds": len([each for each in lost.holds if each.is_active])}

    def state(self, _request: dict[str, Any]) -> dict[str, Any]:
        """How far it is."""
        done = self._restorer.done if self._restorer is not None else Restoration("")
        is_running = self._thread is not None and self._thread.is_alive()
        return {"running": is_running, "failure": self._failure, "done": asdict(done)}

    def stop(self, seconds: float = 5.0) -> None:
        """End after the study that is being restored."""
        if self._restorer is not None and self._thread is not None:
            self._restorer.is_stopping = True
            self._thread.join(seconds)

    def _run(self, dates: str) -> None:
        assert self._restorer is not None
        try:
            self._restorer.restore_all(dates)
            self._db.write(lambda conn: restored.note_restored(conn, time.time()))
        except EdgeError as error:
            self._failure = str(error)
        except Exception as error:  # noqa: BLE001 - the gateway goes on
            self._failure = "an unexpected fault; see the gateway's log"
            log.error("a restore ended: %s", place_of(error))
