"""A store with something in it: filled through intake, queue and catalog as the gateway fills it, without a network."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.config import load_config
from edge.dicom import part10
from edge.dicom.command import SUCCESS
from edge.dicom.header import read_header
from edge.errors import Unreadable
from edge.intake import Intake
from edge.intake.policy import Policy
from edge.model import AttemptResult, ContextKey, Origin, Outcome, Reason, ReasonCode
from edge.scp.response import CANNOT_UNDERSTAND, StoreResponse
from edge.spool import Spool
from edge.store import deliveries, leases
from edge.store.database import Store
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files, dataset

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


def take_in(intake: Intake, kind: ContextKey, uid: str, origin: Origin, data: bytes) -> StoreResponse:
    """Bring a data set into spool and catalog as the journal's records are, and say what a sender would be answered."""
    prefix, name = part10.preamble_and_meta(kind, uid, origin), f"{time.time_ns():024x}"

    def read(at: int, count: int) -> bytes:
        return data[at : at + count]

    stored = intake.spool.put(name, origin.received_at, prefix, [memoryview(data)])
    try:
        facts = read_header(read, len(data), kind, uid, origin, intake.policy.header)
        entry, answer = intake.prepare_entry(stored, facts, intake.policy), StoreResponse(SUCCESS)
    except Unreadable as error:
        entry = intake.prepare_quarantine(stored, kind, uid, origin, str(error))
        answer = StoreResponse(CANNOT_UNDERSTAND, f"kept in quarantine: {error}")
    intake.spool.sync_all()
    intake.enter_all([entry], lambda conn: None)
    return answer


class Filled:
    """Spool and catalog of one gateway that is not running; `directory` holds its configuration."""

    def __init__(self, tmp_path: Path, text: str = CONFIG) -> None:
        self.tmp_path = tmp_path
        self.directory = tmp_path / "conf.d"
        self.directory.mkdir(exist_ok=True)
        (self.directory / "site.toml").write_text(text)
        self.config = load_config(self.directory)
        self.data_dir = self.config.site.data_dir
        self.spool = Spool(self.data_dir)
        self.db = Store(self.data_dir / "catalog.db")
        self.intake = Intake(self.db, self.spool, Policy.from_config(self.config))
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
        at = replace(origin, received_at=origin.received_at or time.time())
        return take_in(self.intake, meta.context_key, meta.sop_instance_uid, at, dataset(blob))

    def settle(
        self, destination: str, count: int, outcome: Outcome = Outcome.SENT, reason: str = "", proved: bool = True
    ) -> None:
        """End so many attempts at what is pending."""
        now = time.time()

        def work(conn: Any) -> None:
            taken = leases.lease(conn, destination, "node", now, count, 1 << 40)
            code = {Outcome.HOLD: ReasonCode.REFUSED, Outcome.DEFER: ReasonCode.UNREACHABLE}.get(
                outcome, ReasonCode.NONE
            )
            why = Reason(code, {"error": reason} if reason else {})
            ends = [AttemptResult(each, outcome, why, retry_at=now + 600) for each in taken]
            deliveries.record_attempts(conn, ends, now, proved_by_status=proved)

        self.db.write(work)

    def execute(self, sql: str, *given: object) -> None:
        self.db.write(lambda conn: conn.execute(sql, given).rowcount)

    def one(self, sql: str, *given: object) -> Any:
        with self.db.reading() as conn:
            return with_words(conn).execute(sql, given).fetchone()[0]

    def close(self) -> None:
        self.db.close()
        self.spool.close()

    def __enter__(self) -> Filled:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
