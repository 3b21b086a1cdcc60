"""What was evicted long ago leaves the catalog for the yearly files, and nothing is lost at any step of that."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.daemon.changes import CHANGES
from edge.intake.hl7_entry import enter_message, read_frame
from edge.intake.policy import Policy
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.messaging.audit.report import ReportRequest, folded_report, folded_studies, report
from edge.model import AttemptResult, Outcome
from edge.monitor.custody import custody
from edge.storage import ageing
from edge.storage.ageing import Ageing
from edge.storage.backfill import Backfill
from edge.storage.rebuild import recover
from edge.store import deliveries, eviction, folded_ledger, folding, integrity, leases, ledger
from edge.store.audit_trail import studies_of_patient
from edge.store.database import Store, Transaction
from edge.store.folded_files import DamagedFold, FoldedFiles
from edge.store.ledger_copy import Journal
from tests.support.filled import CT1, Filled
from tests.support.hl7 import order, update
from tests.support.objects import ct_files, rejection_note

YEAR = 365 * 86400.0
NOW = time.time()


class Killed(BaseException):
    """As by `kill -9`."""


class Clinic(Filled):
    """Receives, proves and evicts at whatever time it is made to be."""

    def live(self, at: float, images: int = 3, patient: str = "P0001", **attributes: Any) -> str:
        """A study comes, is proved and is evicted. Its Study Instance UID."""
        origin = type(CT1)(CT1.calling_ae, CT1.called_ae, CT1.address, at)
        uid = self.receive(images, origin, PatientID=patient, **attributes)
        self.settle_at(images, at)

        def work(conn: Transaction) -> None:
            rows = conn.execute("SELECT i.id, i.study_id, i.path FROM instance i JOIN study s ON s.id = i.study_id"
                                " WHERE s.study_uid = ?", (uid,)).fetchall()  # fmt: skip
            ids = [row[0] for row in rows]
            for row in rows:
                assert eviction.evict(conn, row[0], 1e12) is not None
                self.spool.remove(row[2])
            ledger.append(conn, at + 2, ledger.EVICTED, ledger.EDGE, ids, study_id=rows[0][1])

        self.db.write(work)
        return uid

    def settle_at(self, images: int, at: float) -> None:
        def work(conn: Transaction) -> None:
            taken = leases.lease(conn, "archive", "node", at, images, 1 << 40)
            ends = [AttemptResult(each, Outcome.SENT) for each in taken]
            deliveries.record_attempts(conn, ends, at, proved_by_status=True)

        self.db.write(work)

    def restart(self) -> None:
        """Whatever was not committed is gone."""
        self.close()
        again = Filled(self.tmp_path)
        self.db, self.spool, self.intake = again.db, again.spool, again.intake

    def fold(self, at: float = NOW) -> None:
        made = Ageing(self.db, lambda: at)
        while made.step():
            pass

    def rows(self, sql: str, *given: object) -> list[tuple[Any, ...]]:
        with self.db.reading() as conn:
            return [tuple(row) for row in conn.execute(sql, given)]

    def check(self) -> None:
        """`edge verify` of the catalog finds nothing."""
        with self.db.reading() as conn:
            assert integrity.check_pages(conn) == []
            found = [*integrity.check_rows(conn), *integrity.check_folded(conn, FoldedFiles(self.data_dir))]
            assert found == []
            assert ledger.check(conn) is None

    def proved(self, uid: str) -> bool:
        with self.db.reading() as conn:
            found = custody(conn, uid)
        assert found is not None
        return found.is_proved

    def reported(self, patient: str) -> list[str]:
        asked = ReportRequest((patient,))
        with self.db.reading() as conn:
            folded = folded_studies(conn, asked)
            chosen = studies_of_patient(conn, asked.patient_ids, asked.study_uid)
            live = report(conn, asked, chosen) if chosen else iter(())
            return [f"{each.what} {each.images}" for each in (*folded_report(conn, asked, folded), *live)]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(tmp_path)
    yield made
    made.close()


def past(clinic: Clinic) -> list[str]:
    """Studies of three years, two in each, one beside the other, and one of today."""
    found = []
    for years in (4, 3, 2):
        found += [clinic.live(NOW - years * YEAR, patient=f"P{years}"), clinic.live(NOW - years * YEAR + 9, 2)]
    clinic.receive(1)
    return found


def test_three_years_of_studies_are_folded_and_proved(clinic: Clinic) -> None:
    uids = past(clinic)
    received = clinic.rows("SELECT sum(n), sum(bytes) FROM instance_tally") + clinic.rows("SELECT sum(n) FROM tally")
    before = {uid: clinic.proved(uid) for uid in uids}
    said = clinic.reported("P4")
    clinic.check()
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM instance") == [(1,)]
    assert clinic.rows("SELECT count(*) FROM ledger") == [(1,)]
    assert clinic.rows("SELECT first_seq, last_seq FROM folded_ledger") == [(1, 33)]
    assert FoldedFiles(clinic.data_dir).years() == sorted({time.gmtime(NOW - n * YEAR).tm_year for n in (4, 3, 2)})
    clinic.check()
    assert before == {uid: clinic.proved(uid) for uid in uids} == dict.fromkeys(uids, True)
    assert clinic.reported("P4") == said != []
    again = clinic.rows("SELECT sum(n), sum(bytes) FROM instance_tally") + clinic.rows("SELECT sum(n) FROM tally")
    assert again == received
    clinic.receive(1)
    clinic.check()


def test_what_is_young_held_here_or_the_last_stays(clinic: Clinic) -> None:
    clinic.live(NOW - YEAR / 2)
    kept = clinic.receive(1, type(CT1)("CT1", "EDGE", "10.10.4.21", NOW - 3 * YEAR), Modality="OT")
    last = clinic.live(NOW - 2 * YEAR)
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM study") == [(3,)]
    assert clinic.rows("SELECT count(*) FROM folded_study") == [(0,)]
    assert {kept, last} <= {row[0] for row in clinic.rows("SELECT study_uid FROM study")}


def everything(clinic: Clinic, uids: list[str]) -> None:
    """Every promise, whatever has happened."""
    clinic.check()
    assert all(clinic.proved(uid) for uid in uids)


STEPS: list[tuple[str, Any, str, int]] = [
    ("before the file", FoldedFiles, "append", 0),
    *(("in the midst of the file", folding, "refer", n) for n in range(2)),
    *(("while rows are deleted", folding, "drop_some", n) for n in range(12)),
]


@pytest.mark.parametrize(("what", "owner", "name", "nth"), STEPS)
def test_killed_at_any_step_nothing_is_lost_and_it_goes_on(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, what: str, owner: Any, name: str, nth: int
) -> None:
    uids = past(clinic)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), nth))
        patch.setattr(folding, "DROP_CHUNK", 1)
        with contextlib.suppress(Killed):
            clinic.fold()
        clinic.restart()
    everything(clinic, uids)
    clinic.fold()
    everything(clinic, uids)
    assert clinic.rows("SELECT count(*) FROM instance") == [(1,)]


def killing(real: Callable[..., Any], nth: int) -> Callable[..., Any]:
    calls = iter(range(1_000_000))

    def call(*args: Any, **named: Any) -> Any:
        if next(calls) == nth:
            raise Killed
        return real(*args, **named)

    return call


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 1.0])
def test_a_power_cut_that_leaves_part_of_a_block_is_no_matter(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    uids = past(clinic)
    with monkeypatch.context() as patch:
        patch.setattr(folding, "refer", killing(folding.refer, 1))
        with contextlib.suppress(Killed):
            clinic.fold()
        clinic.restart()
    for path in sorted((clinic.data_dir / "folded").glob("*.gz"))[1:]:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)] + b"\0" * 100)
    clinic.fold()
    everything(clinic, uids)


def test_a_study_that_comes_again_is_whole_again(clinic: Clinic) -> None:
    uids = past(clinic)
    before = clinic.rows("SELECT id, sop_instance_uid, hex(sha256) FROM instance ORDER BY id")
    clinic.fold()
    clinic.receive(1, StudyInstanceUID=uids[0], PatientID="P4")
    assert clinic.rows("SELECT count(*) FROM folded_study WHERE study_uid = ?", uids[0]) == [(0,)]
    found = clinic.rows("SELECT id, sop_instance_uid, hex(sha256) FROM instance ORDER BY id")
    assert found[:3] == before[:3]
    assert len(found) == 3 + 1 + 1
    clinic.check()
    assert not clinic.proved(uids[0])  # the new image has not arrived there
    assert clinic.proved(uids[1])


def test_a_folded_study_is_brought_back_for_a_legal_hold_and_stays(clinic: Clinic) -> None:
    uids = past(clinic)
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM study")[0][0] == 1
    request = {"study_uid": uids[0], "who": "anna", "reason": "case 17"}
    assert CHANGES["study-hold"](clinic.db, request) == {"evicted": 3, "damage": ""}
    assert clinic.rows("SELECT DISTINCT hold FROM instance WHERE state = 'evicted'") == [("legal:",)]
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM study WHERE study_uid = ?", uids[0])[0][0] == 1
    assert clinic.proved(uids[0])
    clinic.check()


def test_a_study_that_comes_while_it_is_folded_stays(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = past(clinic)
    monkeypatch.setattr(folding, "DROP_CHUNK", 1)
    monkeypatch.setattr(ageing, "DROPS", 2)
    made = Ageing(clinic.db, lambda: NOW)
    made.step(), made.step()
    (half,) = clinic.rows("SELECT study_uid FROM folded_study WHERE is_whole = 0 LIMIT 1")[0]
    clinic.receive(1, StudyInstanceUID=half)
    while made.step():
        pass
    clinic.check()
    assert not clinic.proved(half)
    assert all(clinic.proved(uid) for uid in uids if uid != half)


def test_a_changed_file_shows(clinic: Clinic) -> None:
    uids = past(clinic)
    clinic.fold()
    path = min((clinic.data_dir / "folded").glob("*.gz"))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"P4", b"P5")))
    with clinic.db.reading() as conn:
        assert any(str(path) in text for text in integrity.check_folded(conn, FoldedFiles(clinic.data_dir)))
        with pytest.raises(DamagedFold):
            custody(conn, uids[0])
    made = Ageing(clinic.db, lambda: NOW)
    while made.step():
        pass
    assert str(path) in made.damage
    for uid in uids[:2]:  # a hold counts for what comes again
        answer = CHANGES["study-hold"](clinic.db, {"study_uid": uid, "who": "anna", "reason": "case 17"})
        assert str(path) in answer["damage"]
    clinic.receive(1, StudyInstanceUID=uids[0])  # and the scanner is not refused for it
    assert clinic.rows("SELECT hold FROM instance WHERE state = 'stored' ORDER BY id DESC LIMIT 1") == [("legal:",)]


def test_rows_of_the_ledger_that_no_file_has_show(clinic: Clinic) -> None:
    past(clinic)
    clinic.fold()
    clinic.execute("DELETE FROM folded_study WHERE rowid = (SELECT min(rowid) FROM folded_study)")
    with clinic.db.reading() as conn:
        assert any("lack rows" in text for text in integrity.check_folded(conn, FoldedFiles(clinic.data_dir)))


def test_the_ledger_is_still_append_only(clinic: Clinic) -> None:
    past(clinic)
    with pytest.raises(Exception, match="append-only"):
        clinic.execute("DELETE FROM ledger WHERE seq = 3")


def test_a_yearly_file_is_read_without_edge(clinic: Clinic) -> None:
    past(clinic)
    clinic.fold()
    path = min((clinic.data_dir / "folded").glob("*.gz"))
    head, *lines, foot = gzip.decompress(path.read_bytes()).splitlines()
    assert json.loads(head)["block"] == 1
    assert len(json.loads(foot)["sha256"]) == 64
    studies = [json.loads(line)["study_uid"] for line in lines]
    assert studies == sorted(studies)
    assert len(studies) == 2


@pytest.mark.parametrize("lost", [False, True])
def test_a_recovery_knows_the_yearly_files(tmp_path: Path, lost: bool) -> None:
    clinic = Clinic(tmp_path)
    uids = past(clinic)
    with clinic.db.reading() as conn:
        Journal(clinic.data_dir).write(conn)
    clinic.fold()
    clinic.close()
    if lost:
        for path in clinic.data_dir.glob("catalog.db*"):
            path.unlink()
    told = recover(clinic.data_dir, Policy.from_config(clinic.config), "anna")
    assert (told.lost, told.ledger_missing) == (0, 0)
    again = Clinic(tmp_path)
    assert again.rows("SELECT count(*) FROM folded_study") == [(len(uids),)]
    everything(again, uids)
    again.close()


def test_a_recovery_goes_on_without_a_damaged_file_and_a_hold_is_placed(clinic: Clinic) -> None:
    uids = past(clinic)
    with clinic.db.reading() as conn:
        Journal(clinic.data_dir).write(conn)
    clinic.fold()
    path = min((clinic.data_dir / "folded").glob("*.gz"))
    path.write_bytes(path.read_bytes()[:-20])
    recovered(clinic, catalog=True, journal=False)
    clinic.check()
    (years,) = clinic.rows("SELECT count(DISTINCT year) FROM folded_block")[0]
    assert years == 2
    answer = CHANGES["study-hold"](clinic.db, {"study_uid": uids[0], "who": "anna", "reason": "case 17"})
    assert answer == {"evicted": 3, "damage": ""}


def recovered(clinic: Clinic, *, catalog: bool, journal: bool) -> None:
    """Lose what is not kept, and recover."""
    if journal:
        with clinic.db.reading() as conn:
            Journal(clinic.data_dir).write(conn)
    clinic.close()
    for path in () if catalog else clinic.data_dir.glob("catalog.db*"):
        path.unlink()
    recover(clinic.data_dir, Policy.from_config(clinic.config), "anna")
    again = Filled(clinic.tmp_path)
    clinic.db, clinic.spool, clinic.intake = again.db, again.spool, again.intake


@pytest.mark.parametrize(("keeps_catalog", "keeps_journal"), [(True, True), (True, False), (False, True)])
def test_a_recovery_in_the_midst_of_folding_loses_nothing(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, keeps_catalog: bool, keeps_journal: bool
) -> None:
    uids = past(clinic)
    if keeps_journal:
        with clinic.db.reading() as conn:
            Journal(clinic.data_dir).write(conn)
    monkeypatch.setattr(folding, "DROP_CHUNK", 1)
    monkeypatch.setattr(ageing, "DROPS", 4)
    made = Ageing(clinic.db, lambda: NOW)
    for _ in range(3):
        made.step()
    assert clinic.rows("SELECT 1 FROM folded_study WHERE is_whole = 0")
    recovered(clinic, catalog=keeps_catalog, journal=keeps_journal)
    everything(clinic, uids)
    clinic.fold()
    everything(clinic, uids)


@pytest.mark.parametrize(("keeps_catalog", "keeps_journal"), [(True, True), (True, False), (False, True)])
def test_a_recovery_after_a_study_came_again_loses_nothing(
    clinic: Clinic, keeps_catalog: bool, keeps_journal: bool
) -> None:
    uids = past(clinic)
    if keeps_journal:
        with clinic.db.reading() as conn:
            Journal(clinic.data_dir).write(conn)
    clinic.fold()
    clinic.receive(1, StudyInstanceUID=uids[0], PatientID="P4")
    recovered(clinic, catalog=keeps_catalog, journal=keeps_journal)
    clinic.check()
    assert clinic.rows("SELECT count(*) FROM instance") == [(3 + 1 + 1,)]
    assert [clinic.proved(uid) for uid in uids] == [False] + [True] * 5


def test_with_the_yearly_files_alone_the_past_is_still_proved_and_no_number_is_used_twice(clinic: Clinic) -> None:
    uids = past(clinic)
    clinic.fold()
    recovered(clinic, catalog=False, journal=False)
    everything(clinic, uids)
    assert clinic.rows("SELECT min(id) > 15, count(*) FROM instance WHERE state = 'stored'") == [(1, 1)]


def test_ranges_join_and_part(tmp_path: Path) -> None:
    db = Store(tmp_path / "catalog.db")

    def work(conn: Transaction) -> None:
        for first, last in ((5, 6), (9, 9), (7, 8), (1, 2)):
            folded_ledger.add_range(conn, folded_ledger.Range(first, last, b"%d" % last))

    db.write(work)
    with db.reading() as conn:
        assert [(each.first, each.last) for each in folded_ledger.ranges(conn)] == [(1, 2), (5, 9)]
        assert folded_ledger.hash_of(conn, 9) == b"9"
        assert folded_ledger.find_range(conn, 3) is None
    db.close()


def test_headers_of_folded_studies_go_too(clinic: Clinic) -> None:
    origin = type(CT1)("CT1", "EDGE", "10.10.4.21", NOW - 3 * YEAR)
    clinic.receive(2, origin)
    backfill = Backfill(clinic.db, clinic.intake)
    while backfill.step():
        pass
    clinic.settle_at(2, origin.received_at)
    clinic.db.write(lambda conn: [eviction.evict(conn, number, 1e12) for number in (1, 2)])
    clinic.receive(1)
    assert clinic.rows("SELECT count(*) FROM instance_header") == [(2,)]
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM instance_header") == [(0,)]


def hear(clinic: Clinic, *messages: bytes) -> None:
    for number, data in enumerate(messages):
        frame = Hl7Frame("his", "10.10.9.5", NOW - 5 * YEAR, "MTF0067")
        for each in read_frame(f"record{number}", frame, data):
            clinic.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]


def test_what_was_checked_and_decided_is_folded_with_its_study(clinic: Clinic) -> None:
    """A check of identity that a person has settled, a copy with other bytes, pixels that a person has inspected."""
    hear(clinic, order("M1", "NW", "1001", "T1", "2.999.1"))
    uid = clinic.live(NOW - 3 * YEAR, patient="T1", StudyInstanceUID="2.999.1")
    clinic.execute("UPDATE identity_check SET settled_at = 7.0, images = 3")
    clinic.execute("INSERT INTO pixel_approval VALUES (1, 'archive')")
    clinic.execute(
        "INSERT INTO sent_copy SELECT id, instance_id, 5.0, x'AA', '1.2', '[\"r\"]', '', '', '', 9, 8 FROM delivery"
    )
    clinic.receive(1)
    tables = ("identity_check", "pixel_approval", "sent_copy")
    before = {each: clinic.rows(f"SELECT * FROM {each} ORDER BY 1, 2") for each in tables}
    assert [row[2] for row in before["identity_check"]] == ["matched", "no-order"]
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM study, folded_study WHERE is_whole = 1") == [(1,)]
    assert clinic.rows("SELECT result FROM identity_check") == [("no-order",)]
    clinic.check()
    assert clinic.proved(uid)
    CHANGES["study-hold"](clinic.db, {"study_uid": uid, "who": "anna", "reason": "case 17"})
    again = {each: clinic.rows(f"SELECT * FROM {each} ORDER BY 1, 2") for each in tables}
    assert {key: len(rows) for key, rows in again.items()} == {key: len(rows) for key, rows in before.items()}
    (checked,) = [row for row in again["identity_check"] if row[2] == "matched"]
    assert checked[1:] == before["identity_check"][0][1:]
    assert clinic.rows("SELECT 1 FROM study_facts WHERE id = ? AND study_id = ?", checked[0], checked[1]) == [(1,)]
    assert (again["pixel_approval"], again["sent_copy"]) == (before["pixel_approval"], before["sent_copy"])


def test_a_rejection_note_is_folded_with_its_study(clinic: Clinic) -> None:
    images = ct_files(clinic.tmp_path / "rejected", 1, size=1024)
    note = rejection_note(clinic.tmp_path / "note.dcm", images)
    origin = type(CT1)(CT1.calling_ae, CT1.called_ae, CT1.address, NOW - 3 * YEAR)
    for path in (*images, note):
        assert clinic.accept(path.read_bytes(), origin).status == 0
    kept = clinic.rows("SELECT * FROM rejection_note"), clinic.rows("SELECT * FROM rejection_reference")
    assert kept[0][0][0] == kept[1][0][0] == 2
    clinic.settle_at(1, origin.received_at)
    clinic.execute("UPDATE delivery SET state = 'cancelled', cancelled_at = 1.0 WHERE instance_id = 2")
    clinic.db.write(lambda conn: [eviction.evict(conn, number, 1e12) for number in (1, 2)])
    (uid,) = clinic.rows("SELECT study_uid FROM study")[0]
    clinic.receive(1)
    clinic.fold(NOW + 2 * YEAR)
    assert clinic.rows("SELECT count(*) FROM study, folded_study WHERE is_whole = 1") == [(1,)]
    assert clinic.rows("SELECT 1 FROM rejection_note") == clinic.rows("SELECT 1 FROM rejection_reference") == []
    clinic.check()
    CHANGES["study-hold"](clinic.db, {"study_uid": uid, "who": "anna", "reason": "case 17"})
    assert (clinic.rows("SELECT * FROM rejection_note"), clinic.rows("SELECT * FROM rejection_reference")) == kept


def test_a_study_that_a_person_has_assigned_stays(clinic: Clinic) -> None:
    """Whose its images are is asked by the patient, and copied beside the catalog: a decision in force."""
    hear(clinic, update("M1", "T1", "TEST^ALICE"))
    uid = clinic.live(NOW - 3 * YEAR)
    clinic.execute("INSERT INTO study_assignment VALUES (1, 1, 'anna', 'says CT', 1.0)")
    clinic.live(NOW - 3 * YEAR)
    clinic.receive(1)
    clinic.fold()
    assert clinic.rows("SELECT count(*) FROM folded_study") == [(1,)]
    assert clinic.rows("SELECT id FROM study WHERE study_uid = ?", uid) == [(1,)]
