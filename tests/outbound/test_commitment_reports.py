"""Reports of storage commitment to modalities: what they say, where they go, and that they arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.daemon.housekeeping import REQUESTS_KEPT_SECONDS
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH
from edge.model import DeliveryState, InstanceState
from edge.outbound import commitment_reports
from edge.outbound.commitment_reports import CommitmentReports
from edge.outbound.commitment_reports.outcome import decide_outcome, may_still_come
from edge.scp.services.storage_commitment_register import RequestRegister
from edge.store import commitment_requests
from edge.store.commitment_requests import NamedInstance, OpenRequest, StoredVersion, forget_reported_requests
from tests.support.committing import CT_CLASS, Asking, ScriptedModality, ask
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import free_port, storescu, wait_until
from tests.support.scripted import abort_midway, accept, fall_silent, reject

MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
STORED, CONFLICT, EVICTED = InstanceState.STORED, InstanceState.CONFLICT, InstanceState.EVICTED
PENDING, HELD, SENT = DeliveryState.PENDING, DeliveryState.HELD, DeliveryState.SENT
CONFIRMED, CANCELLED = DeliveryState.CONFIRMED, DeliveryState.CANCELLED


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment_reports, "EXAMINE_SECONDS", 0.1)


def implicit_only(sop_class: str, syntax: str) -> bool:
    """A scanner that knows one transfer syntax and no role selection."""
    return syntax == IMPLICIT_VR_LITTLE_ENDIAN


# -- the decision -----------------------------------------------------------------------------------------------------


def version(state: InstanceState = STORED, *deliveries: DeliveryState, sop_class: str = CT_CLASS) -> StoredVersion:
    return StoredVersion(1, state, sop_class, 1, {f"d{at}": each for at, each in enumerate(deliveries)})


#: Versions, then the outcome where local and where archive commitment is promised; None: not known yet.
OUTCOMES: list[tuple[list[StoredVersion], int | None, int | None]] = [
    ([version(STORED, PENDING)], 0, None),
    ([version(STORED, SENT)], 0, None),
    ([version(STORED, CONFIRMED)], 0, 0),
    ([version(STORED, CONFIRMED, CONFIRMED)], 0, 0),
    ([version(STORED, CONFIRMED, PENDING)], 0, None),
    ([version(STORED, HELD)], 0, None),  # safely stored; a person decides where it goes
    ([version(STORED, CANCELLED)], 0, 0x0110),
    ([version(STORED, CONFIRMED, CANCELLED)], 0, 0x0110),
    ([version(STORED)], 0, None),
    ([version(EVICTED, CONFIRMED)], 0, 0),
    ([version(EVICTED, CONFIRMED, CANCELLED)], 0, 0x0110),
    ([version(EVICTED, CANCELLED)], 0x0110, 0x0110),
    ([version(InstanceState.QUARANTINED)], 0x0110, 0x0110),
    ([version(InstanceState.LOST, CONFIRMED)], 0x0110, 0x0110),
    ([version(InstanceState.DISCARDED, CANCELLED)], 0x0110, 0x0110),
    ([version(CONFLICT, HELD)], 0x0110, 0x0110),
    ([version(STORED, CONFIRMED), version(CONFLICT, HELD)], 0x0110, 0x0110),
    ([version(STORED, CONFIRMED), version(InstanceState.DISCARDED)], 0x0110, 0x0110),
    ([version(InstanceState.DISCARDED), version(STORED, CONFIRMED)], 0, 0),
    ([version(STORED, CONFIRMED), version(STORED, PENDING)], 0, None),
    ([version(STORED, CONFIRMED, sop_class=MR_CLASS)], 0x0119, 0x0119),
    ([], 0x0112, 0x0112),
]


def open_request(**more: Any) -> OpenRequest:
    given = {"requested_at": 1000.0, "tries": 0, "is_again": False, "is_duplicate": False, **more}
    return OpenRequest(1, "1.9", "CT1", "EDGE", "ct1", False, **given)


def named(versions: list[StoredVersion], sop_class: str = CT_CLASS, **more: Any) -> NamedInstance:
    return NamedInstance("1.2.3", sop_class, more.get("is_ambiguous", False), more.get("failure"), tuple(versions))


@pytest.mark.parametrize(("versions", "local", "archive"), OUTCOMES)
def test_an_instance_is_committed_where_it_is_kept(
    versions: list[StoredVersion], local: int | None, archive: int | None
) -> None:
    for policy, expected in (("local", local), ("archive", archive)):
        found = decide_outcome(named(versions), open_request(), policy, is_awaited=False, is_overdue=False)
        assert found.failure == expected, policy
        overdue = decide_outcome(named(versions), open_request(), policy, is_awaited=False, is_overdue=True)
        assert overdue.failure == (0x0110 if expected is None else expected), policy


def test_what_else_decides() -> None:
    def decide(given: NamedInstance, request: OpenRequest | None = None, *, is_awaited: bool = False) -> int | None:
        request = request or open_request()
        return decide_outcome(given, request, "local", is_awaited=is_awaited, is_overdue=False).failure

    here = [version()]
    assert decide(named([]), is_awaited=True) is None
    assert decide(named(here, STORAGE_COMMITMENT_PUSH)) == 0x0122
    assert decide(named(here, is_ambiguous=True)) == 0x0119
    assert decide(named(here), open_request(is_duplicate=True)) == 0x0131
    # A report is given again as it was, unless something has been lost since.
    assert decide(named(here, failure=0x0112)) == 0x0112
    assert decide(named([], failure=0)) == 0
    assert decide(named([version(InstanceState.LOST)], failure=0)) == 0x0110


def test_what_is_not_here_is_waited_for() -> None:
    request = open_request()
    assert may_still_come(request, 0.0, 1009.0)
    assert not may_still_come(request, 0.0, 1010.0)
    assert may_still_come(request, 1050.0, 1059.0), "its modality still stores"
    assert not may_still_come(request, 1e9, 4600.0), "an hour is enough"


# -- the way ----------------------------------------------------------------------------------------------------------


class Clock:
    """The time of the system, and what a test adds."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Scene:
    """A gateway whose door and reports run; nothing is forwarded."""

    def __init__(self, edge: Receiving, folder: Path, port: int) -> None:
        self.edge, self.folder, self.port = edge, folder, port
        edge.receiver.commitments = RequestRegister(edge.db)
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        lag = lambda: self.edge.journal.lag_seconds  # noqa: E731
        self.reports = CommitmentReports(
            self.edge.db, lambda: self.edge.config, lambda host: None, lag, self.clock, lambda: 0.5
        )
        self.reports.worker.start()

    def store(self, count: int = 1) -> list[str]:
        files = ct_files(self.folder / f"ct{time.monotonic_ns()}", count, 2_000)
        storescu(files, self.edge.port)
        self.edge.settle()
        return [sop_instance_uid(each) for each in files]

    def ask(self, *uids: str, uid: str = "", sop_class: str = CT_CLASS, **more: Any) -> Asking:
        asked = ask(self.edge.port, [(sop_class, each) for each in uids], uid, **more)
        assert asked.status == 0
        self.edge.settle()
        return asked

    def call(self) -> None:
        """What the gateway's tick records of a modality that calls for anything."""
        work = self.edge.callers.take()
        assert work is not None
        self.edge.db.write(work)

    def states(self) -> list[Any]:
        return [row[0] for row in self.edge.rows("SELECT state FROM commitment_request ORDER BY id")]

    def row(self, columns: str) -> tuple[Any, ...]:
        (row,) = self.edge.rows(f"SELECT {columns} FROM commitment_request")
        return row

    def give(self, state: str, destination: str = "") -> None:
        """What outbound and people do to the deliveries, all or those to one destination."""
        self.edge.settle()
        sql = "UPDATE delivery SET state = ?1, confirmed_at = ?2 WHERE ?3 IN ('', destination)"
        self.edge.db.write(lambda conn: conn.execute(sql, (state, time.time(), destination)))


@contextmanager
def scene(tmp_path: Path, port: int = 0, commit: str = "local", to: str = "archive", more: str = "") -> Iterator[Scene]:
    port = port or free_port()
    modality = f'[modality.ct1]\nae_title = "CT1"\nhosts = ["127.0.0.1"]\nport = {port}\ncommit = "{commit}"\n'
    modality += 'services = ["echo", "store", "commit"]\n'
    route = "[" + ", ".join(f'"{each}"' for each in to.split()) + "]"
    config = CONFIG.replace('[modality.any]\nae_title = "*"\n', modality).replace('["archive"]', route) + more
    with Receiving(tmp_path, config) as edge:
        made = Scene(edge, tmp_path, port)
        try:
            yield made
        finally:
            made.reports.stop()


def reported(ct1: ScriptedModality, count: int = 1, seconds: float = 20.0) -> Any:
    wait_until(lambda: len(ct1.reports) >= count, seconds, f"{count} reports")
    return ct1.reports[-1]


def test_all_is_stored_and_is_committed(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        uids = made.store(3)
        asked = made.ask(*uids, called="EDGE2")
        report = reported(ct1)
        assert (report.event_type, report.report.transaction_uid) == (1, asked.transaction_uid)
        assert (set(report.report.committed), report.failed) == (set(uids), {})
        assert (report.calling, report.called) == ("EDGE2", "CT1"), "as it called us"
        (request,) = ct1.requests
        (context,) = request.contexts
        assert (context.abstract_syntax, len(context.transfer_syntaxes)) == (STORAGE_COMMITMENT_PUSH, 2)
        role = request.roles[STORAGE_COMMITMENT_PUSH]
        assert (role.scu, role.scp) == (False, True)
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")
        ((who, ids, words),) = made.edge.rows(
            "SELECT who, instances, words(event, detail, payload) FROM ledger WHERE event = 'committed'"
        )
        assert (who, len(ids.split(","))) == ("CT1", 3)
        assert words == f"stored here, transaction {asked.transaction_uid}"
        time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
        assert len(ct1.reports) == 1, "once"


def test_some_are_not_here(tmp_path: Path) -> None:
    with ScriptedModality([0], associations=[accept(implicit_only)]) as ct1, scene(tmp_path, ct1.port) as made:
        (here,) = made.store()
        made.ask(here, "1.2.3")
        time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
        assert not ct1.reports, "what is not here is waited for"
        made.clock.ahead = 12.0
        report = reported(ct1)
        assert report.event_type == 2
        assert (report.report.committed, report.failed) == ((here,), {"1.2.3": 0x0112})
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")
        assert made.row("failed, instances") == (1, 2)
        rows = made.edge.rows(
            "SELECT study_id, instances,"
            " words(event, detail, payload) LIKE '1 instance: no such object instance (0112)%'"
            " FROM ledger WHERE event = 'not-committed'"
        )
        assert rows == [(None, "[]", 1)]


def test_what_is_sent_behind_the_request_counts(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        files = ct_files(tmp_path / "later", 2, 2_000)
        made.ask(*map(sop_instance_uid, files))
        storescu(files, made.edge.port)
        assert reported(ct1).event_type == 1


def test_a_reason_for_each(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        stored, lost, conflict, discarded, gone = made.store(5)
        made.edge.db.write(lambda conn: _set(conn, {lost: "lost", conflict: "conflict", discarded: "discarded"}))
        made.edge.db.write(lambda conn: _set(conn, {gone: "quarantined"}))
        made.ask(stored, lost, conflict, discarded, gone)
        assert reported(ct1).failed == dict.fromkeys((lost, conflict, discarded, gone), 0x0110)
        made.ask(stored, sop_class=MR_CLASS)
        assert reported(ct1, 2).failed == {stored: 0x0119}
        made.ask(stored, sop_class="1.2.840.10008.1.1")
        assert reported(ct1, 3).failed == {stored: 0x0122}


def _set(conn: Any, states: dict[str, str]) -> None:
    for uid, state in states.items():
        conn.execute("UPDATE instance SET state = ? WHERE sop_instance_uid = ?", (state, uid))


def test_a_report_says_what_is_true_when_it_is_sent(tmp_path: Path) -> None:
    """Between the first try and the one that succeeds, an image was lost."""
    with scene(tmp_path) as made:
        (uid,) = made.store()
        made.ask(uid)
        wait_until(lambda: made.states() == ["decided"], 10, "a try that fails")
        made.edge.db.write(lambda conn: _set(conn, {uid: "lost"}))
        with ScriptedModality(port=made.port) as ct1:
            made.clock.ahead = 60.0
            assert reported(ct1).failed == {uid: 0x0110}


def test_the_archive_must_have_confirmed_all(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port, "archive") as made:
        made.ask(*made.store(2))
        for state in ("pending", "held", "sent"):
            made.give(state)
            time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
            assert (ct1.reports, made.states()) == ([], ["waiting"]), state
        made.give("confirmed")
        made.clock.ahead = 60.0
        assert reported(ct1).event_type == 1
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")


#: A destination that gets copies without identity.
TEACHING = """
[destination.teaching]
ae_title = "TEACHING"
host = "127.0.0.1"
port = 104
deidentify = "basic"
project = "T17"
project_key = "../t17.key"
"""


def test_a_copy_without_identity_is_no_proof(tmp_path: Path) -> None:
    """Nobody has the instance: a scanner that deleted its own would leave none but ours."""
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port, "archive", "teaching", TEACHING) as made:
        (uid,) = made.store()
        made.give("confirmed")
        made.ask(uid)
        made.clock.ahead = 15 * 86_400.0
        report = reported(ct1)
        assert (report.report.committed, report.failed) == ((), {uid: 0x0110})


def test_no_copy_without_identity_is_waited_for(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port, "archive", "archive teaching", TEACHING) as made:
        (uid,) = made.store()
        made.give("confirmed", "archive")
        made.give("held", "teaching")  # its pixels may name the patient
        made.ask(uid)
        assert reported(ct1).report.committed == (uid,)


def test_a_copy_that_went_without_identity_is_no_proof_under_another_configuration(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port, "archive") as made:
        (uid,) = made.store()
        made.give("confirmed")
        made.edge.db.write(
            lambda conn: conn.execute(
                "INSERT INTO sent_copy SELECT id, instance_id, 1.0, x'', '1.2', '', '2.25.1', '2.25.2', '2.25.3', 1, 1"
                " FROM delivery"
            )
        )
        made.ask(uid)
        made.clock.ahead = 15 * 86_400.0
        assert reported(ct1).failed == {uid: 0x0110}


def test_an_archive_that_never_confirms_ends_as_a_failure(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port, "archive") as made:
        (uid,) = made.store()
        made.ask(uid)
        made.clock.ahead = 13 * 86_400.0
        time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
        assert not ct1.reports
        made.clock.ahead = 15 * 86_400.0
        assert reported(ct1).failed == {uid: 0x0110}


def test_a_modality_that_is_off_is_tried_again_and_at_once_when_it_calls(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        asked = made.ask(*made.store())
        made.call()
        wait_until(lambda: made.row("tries")[0] == 1, 10, "a try that fails")
        assert "nothing listens there" in made.row("last_error")[0]
        for tries in (2, 3, 4, 5):
            made.clock.ahead += 3600.0
            wait_until(lambda tries=tries: made.row("tries")[0] >= tries, 10, "the next try")  # type: ignore[misc]
        not_before, tried_at = made.row("not_before, tried_at")
        assert 120 < not_before - tried_at <= 900
        made.clock.ahead += commitment_requests.SOONEST_SECONDS + 1
        with ScriptedModality(port=made.port) as ct1:
            time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
            assert not ct1.reports, "it is not time yet"
            made.edge.db.write(lambda conn: conn.execute("UPDATE peer SET last_seen = ?", (made.clock(),)))
            assert reported(ct1, seconds=5).report.transaction_uid == asked.transaction_uid


def test_a_modality_for_which_there_was_no_thread_is_called_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == commitment_reports.REPORT_THREAD.name_for("ct1") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        asked = made.ask(*made.store())
        assert reported(ct1).report.transaction_uid == asked.transaction_uid
        assert refused


def test_a_report_that_is_owed_survives_kill(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        asked = made.ask(*made.store())
        wait_until(lambda: made.row("tries")[0] == 1, 10, "a try that fails")
        made.reports.stop()
        made.edge.crash()
        made.edge.restart()
        made.clock.ahead = 60.0
        with ScriptedModality(port=made.port) as ct1:
            made.start()
            assert reported(ct1).report.transaction_uid == asked.transaction_uid


@pytest.mark.parametrize("status", [0x0110, 0x0112, 0x0107, 0x0001])
def test_only_success_acknowledges(tmp_path: Path, status: int) -> None:
    with ScriptedModality([status, 0]) as ct1, scene(tmp_path, ct1.port) as made:
        made.ask(*made.store())
        reported(ct1)
        wait_until(lambda: made.row("tries")[0] == 1, 10, "it is not acknowledged")
        assert f"{status:04X}" in made.row("last_error")[0]
        made.clock.ahead = 60.0
        reported(ct1, 2)
        wait_until(lambda: made.states() == ["reported"], 10, "it is acknowledged")
        assert len(ct1.reports) == 2


@pytest.mark.parametrize("act", [reject(1, 1, 7), accept(lambda *_: False), fall_silent])
def test_an_association_that_is_refused_or_silent(tmp_path: Path, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.commitment.STEP_SECONDS", 0.5)
    with ScriptedModality(associations=[act, accept()]) as ct1, scene(tmp_path, ct1.port) as made:
        made.ask(*made.store())
        wait_until(lambda: made.row("tries")[0] == 1, 10, "a try that fails")
        made.clock.ahead = 60.0
        reported(ct1)


def test_a_report_that_ends_the_association_keeps_no_other_back(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path) as made:
        bad, *good = made.store(4)
        asked = [made.ask(uid) for uid in (bad, *good)]
        wait_until(lambda: made.states() == ["decided"] * 4, 10, "they wait")
        take = ct1._take

        def abort_the_bad(link: Any, context: int, command: Any) -> None:
            if not ct1.reports and not aborted:
                aborted.append(1)
                return abort_midway(link, context, command)
            take(link, context, command)

        aborted: list[int] = []
        ct1._stores[:] = [abort_the_bad]
        made.edge.config.modalities["ct1"] = replace(made.edge.config.modalities["ct1"], port=ct1.port)
        made.clock.ahead = 60.0
        reported(ct1, 3)
        assert aborted
        assert {each.report.transaction_uid for each in ct1.reports} < {each.transaction_uid for each in asked}
        made.clock.ahead = 120.0
        reported(ct1, 4)


def test_many_reports_go_in_one_association(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        uids = made.store(30)
        for uid in uids:
            made.ask(uid)
        wait_until(lambda: made.states() == ["decided"] * 30, 10, "all wait")
        with ScriptedModality(port=made.port) as ct1:
            made.clock.ahead = 60.0
            reported(ct1, 30)
            assert ct1.connections <= 2


def test_nothing_is_reported_while_storage_is_unhealthy(tmp_path: Path) -> None:
    with scene(tmp_path) as made, ScriptedModality(port=made.port) as ct1:
        (uid,) = made.store()
        made.reports.stop()
        made.ask(uid)
        made.edge.db._failure = "a sync failed"
        made.start()
        time.sleep(2 * commitment_reports.EXAMINE_SECONDS)
        assert not ct1.reports
        made.edge.db._failure = None
        reported(ct1)


def test_a_request_again_after_the_report_has_the_report_again(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        made.clock.ahead = 12.0
        (uid,) = made.store()
        made.ask(uid, "1.2.3", uid="1.9")
        first = reported(ct1)
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")
        made.store()
        made.ask(uid, "1.2.3", uid="1.9")
        assert reported(ct1, 2).report == first.report
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")
        assert len(made.edge.rows("SELECT 1 FROM ledger WHERE event = 'committed'")) == 1


def test_a_transaction_uid_in_use_fails_in_the_report(tmp_path: Path) -> None:
    """A process that had not seen the first request has taken the second one."""
    with scene(tmp_path) as made:
        a, b = made.store(2)
        made.ask(a, uid="1.9")
        made.edge.receiver.commitments = RequestRegister()
        made.ask(b, uid="1.9")
        wait_until(lambda: made.states() == ["decided"] * 2, 10, "both wait")
        with ScriptedModality(port=made.port) as ct1:
            made.clock.ahead = 60.0
            reported(ct1, 2)
            by_event = {each.event_type: each for each in ct1.reports}
            assert (by_event[1].report.committed, by_event[2].failed) == ((a,), {b: 0x0131})


def test_ten_thousand_are_one_report(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        (here,) = made.store()
        made.clock.ahead = 12.0
        statements = list[str]()
        made.edge.db._writer.set_trace_callback(statements.append)
        made.ask(here, *(f"1.2.840.113619.2.55.3.604688119.868.{number}" for number in range(9_999)))
        report = reported(ct1)
        assert (len(report.report.committed), len(report.failed)) == (1, 9_999)
        assert len(ct1.reports) == ct1.connections == 1
        wait_until(lambda: made.states() == ["reported"], 60, "it is on record")
        assert len(statements) < 20_000 + 100, "one for each that is named, when it is asked and when it is reported"


def test_a_modality_without_its_table_keeps_its_report(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        made.ask("1.2.3")
        modality = made.edge.config.modalities.pop("ct1")
        made.clock.ahead = 12.0
        wait_until(lambda: made.row("tries")[0] == 1, 10, "it cannot be called")
        assert "its [modality] is gone" in made.row("last_error")[0]
        made.edge.config.modalities["ct1"] = modality
        made.clock.ahead = 60.0
        reported(ct1)


def test_reported_requests_are_let_go_of(tmp_path: Path) -> None:
    with ScriptedModality() as ct1, scene(tmp_path, ct1.port) as made:
        made.ask(*made.store(3))
        reported(ct1)
        wait_until(lambda: made.states() == ["reported"], 10, "it is on record")
        forget: Callable[[float], int] = lambda before: made.edge.db.write(  # noqa: E731
            lambda conn: forget_reported_requests(conn, before)
        )
        assert forget(time.time() - REQUESTS_KEPT_SECONDS) == 0
        assert forget(time.time() + 1) == 1
        assert made.edge.rows("SELECT count(*) FROM commitment_reference") == [(0,)]
        assert made.edge.rows("SELECT count(*) FROM ledger WHERE event = 'committed'") == [(1,)]
