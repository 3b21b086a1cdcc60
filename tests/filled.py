"""A store with something in it: filled through intake, queue and catalog as the gateway fills it, without a network."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.config import load
from edge.dicom import part10
from edge.intake import Intake, Policy, StoreResponse
from edge.model import AttemptResult, Origin, Outcome, ReasonCode
from edge.spool import Spool
from edge.store import deliveries
from edge.store.database import Database
from tests.objects import ct_files, dataset

CONFIG = """
[site]
id = "0067"
name = "Test Clinic"
data_dir = "../data"
[modality.ct1]
ae_title = "CT1"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[destination.teleread]
ae_title = "READER"
host = "127.0.0.1"
port = 105
[route.everything]
to = ["archive"]
when = { Modality = { not = "OT" } }
[route.stroke]
to = ["teleread"]
when = { StudyDescription = "*STROKE*", CallingAETitle = "CT1" }
priority = "stat"
"""
CT1 = Origin("CT1", "EDGE", "10.10.4.21", 0.0)


class Filled:
    """Spool and catalog of one gateway that is not running; `directory` holds its configuration."""

    def __init__(self, tmp_path: Path, text: str = CONFIG) -> None:
        self.tmp_path = tmp_path
        self.directory = tmp_path / "conf.d"
        self.directory.mkdir(exist_ok=True)
        (self.directory / "site.toml").write_text(text)
        self.config = load(self.directory)
        self.data_dir = self.config.site.data_dir
        self.spool = Spool(self.data_dir)
        self.db = Database(self.data_dir / "catalog.db")
        self.intake = Intake(self.db, self.spool, Policy.of(self.config))
        self._made = 0

    def receive(self, count: int = 1, origin: Origin = CT1, **attributes: Any) -> str:
        """Some small CT slices of one new study; its Study Instance UID."""
        self._made += 1
        paths = ct_files(self.tmp_path / f"made{self._made}", count, size=1024, **attributes)
        for path in paths:
            assert self.accept(path.read_bytes(), origin).status == 0
        return str(self.one("SELECT study_uid FROM study ORDER BY id DESC LIMIT 1"))

    def accept(self, blob: bytes, origin: Origin = CT1) -> StoreResponse:
        """One Part 10 file, as if it came by C-STORE now."""
        meta = part10.parse_meta(blob[: part10.MAX_META])
        at = Origin(origin.calling_ae, origin.called_ae, origin.address, origin.received_at or time.time())
        partial = self.intake.begin(meta.kind, meta.sop_instance_uid, at)
        partial.write([memoryview(dataset(blob))])
        return self.intake.accept(partial, meta.kind, meta.sop_instance_uid, at)

    def settle(
        self, destination: str, count: int, outcome: Outcome = Outcome.SENT, reason: str = "", proved: bool = True
    ) -> None:
        """End so many attempts at what is pending."""
        now = time.time()

        def work(conn: Any) -> None:
            taken = deliveries.lease(conn, destination, now, count, 1 << 40)
            code = {Outcome.HOLD: ReasonCode.REFUSED, Outcome.DEFER: ReasonCode.UNREACHABLE}.get(
                outcome, ReasonCode.NONE
            )
            ends = [AttemptResult(each, outcome, reason, code, retry_at=now + 600) for each in taken]
            deliveries.record_attempts(conn, ends, now, proved_by_status=proved)

        self.db.write(work)

    def execute(self, sql: str, *given: object) -> None:
        self.db.write(lambda conn: conn.execute(sql, given).rowcount)

    def one(self, sql: str, *given: object) -> Any:
        with self.db.reading() as conn:
            return conn.execute(sql, given).fetchone()[0]

    def close(self) -> None:
        self.db.close()
        self.spool.close()

    def __enter__(self) -> Filled:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
