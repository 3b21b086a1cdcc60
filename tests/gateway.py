"""The receiving half of the gateway inside the test's process: real sockets, real files, real SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.config import load
from edge.config.sections import Config
from edge.intake import Intake, Policy
from edge.scp.association import Receiver
from edge.scp.capacity import Associations
from edge.scp.listener import Door
from edge.scp.rejections import Refusals
from edge.spool import Spool
from edge.store.database import Database
from edge.tls import Keyring
from tests.peers import wait_until

CONFIG = """
[site]
id = "0067"
name = "Test Clinic"
data_dir = "data"
[listen]
ae_title = "EDGE"
[modality.any]
ae_title = "*"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[route.everything]
to = ["archive"]
"""


def configuration(tmp_path: Path, text: str = CONFIG) -> Config:
    folder = tmp_path / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "site.toml").write_text(text)
    return load(folder)


class Receiving:
    """Door, receiver, intake, spool and catalog, joined as the daemon joins them; nothing is forwarded."""

    def __init__(self, tmp_path: Path, text: str = CONFIG, check_room: Callable[[], None] = lambda: None) -> None:
        self.config = configuration(tmp_path, text)
        self.data_dir = tmp_path / "data"
        self.spool = Spool(self.data_dir, check_room)
        self.db = Database(self.data_dir / "catalog.db")
        self.queued: list[str] = []
        self.reports: list[Any] = []
        self.intake = Intake(self.db, self.spool, Policy.of(self.config), self.queued.extend)
        self.refusals = Refusals()
        refused = self.refusals.refused
        self.receiver = Receiver(self.config, self.intake, check_room, self._report, refused)
        self.keyring = keyring = Keyring(self.config.tls) if self.config.tls.is_on else None
        self.door = Door(
            "127.0.0.1",
            0,
            self.receiver.serve,
            tls_port=0 if keyring else None,
            context=(lambda: keyring.listening) if keyring else None,
            refused=refused,
            associations=Associations(self.receiver.identify, self.receiver.end_idle),
        )
        self.port, self.tls_port = self.door.port, self.door.tls_port

    def _report(self, *report: Any) -> bool:
        self.reports.append(report)
        return True

    def refused(self, many: int = 1) -> list[str]:
        """Why callers were refused since the last time this was asked, as soon as there are so many.

        A caller may know of its end before the door has noted why.
        """
        told: list[str] = []

        def enough() -> bool:
            told.extend(refusal.why for refusal in self.refusals.take())
            return len(told) >= many

        wait_until(enough, 5, f"{many} refusals")
        return told

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql)]

    def files(self) -> list[Path]:
        return sorted((self.data_dir / "spool").rglob("*.dcm"))

    def partials(self) -> list[Path]:
        return list((self.data_dir / "incoming").iterdir())

    def __enter__(self) -> Receiving:
        self.door.open()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.door.close()
        self.receiver.drain(0.2)
        self.db.close()
        self.spool.close()
