"""Proof of custody: what an archive says, in time or not, moves exactly the instances that it speaks of."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    CTImageStorage as CT,
)
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from edge.config.sections import Destination
from edge.dicom import acse, commitment, commitment_data, items, pdu
from edge.dicom.command import Command, CommandField, Element, response_to
from edge.dicom.commitment_data import Reference, Report, parse_report
from edge.dicom.failures import LASTING, ServiceRefused, failure
from edge.dicom.pdu import Released
from edge.dicom.status import FAILURE_REASONS
from edge.dicom.wire import Wire
from edge.errors import PeerError, Unreadable
from edge.model import (
    Assignment,
    AttemptResult,
    ContextKey,
    InstanceHeader,
    Origin,
    Outcome,
    Priority,
    Reason,
    ReasonCode,
)
from edge.outbound.confirm import Confirmer
from edge.outbound.confirm.pace import FAILURES, FailureAction, Pace, action_for, double, is_due, resend_at
from edge.outbound.confirm.status import accept_status
from edge.spool import Bucket, Stored
from edge.store import catalog, commitments, deliveries, leases, ledger
from edge.store.commitments import UnconfirmedSummary
from edge.store.database import Store, Transaction
from edge.store.reasons import reason_of, words
from tests.support.effort import count_calls
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files, new_uid
from tests.support.peers import Orthanc, free_port, storescu, wait_until

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NO_SUCH_INSTANCE = 0x0112
T0 = 1_000_000.0


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


class Gateway:
    """A catalog in which instances have been sent, and no forwarding."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.db, self.clock = Store(directory / "catalog.db"), clock
        self._bucket = Bucket(directory)

    def send(self, count: int, *, study: str = "", series: str = "", destination: str = "archive") -> list[str]:
        """So many instances of one series were stored at the destination just now. Returns their UIDs."""
        return self.send_these([new_uid() for _ in range(count)], study or new_uid(), series or new_uid(), destination)

    def send_these(self, uids: Sequence[str], study: str, series: str, destination: str = "archive") -> list[str]:
        def work(conn: Transaction) -> None:
            for uid in uids:
                kind = ContextKey(CTImageStorage, EXPLICIT)
                attributes = {"StudyInstanceUID": (study,), "SeriesInstanceUID": (series,)}
                facts = InstanceHeader(
                    kind.sop_class_uid, uid, EXPLICIT, Origin("CT1", "EDGE", "::1", self.clock()), attributes
                )
                stored = Stored(f"b/{uid}", 100, 10, uid.encode(), self._bucket)
                added = catalog.add(conn, facts, stored, "")
                to = [Assignment(destination, Priority.ROUTINE, "all")]
                deliveries.enqueue(conn, added.instance_id, added.kind_id, 100, to, self.clock())

        self.db.write(work)
        self.forward(destination)
        return list(uids)

    def forward(self, destination: str = "archive") -> int:
        """All that is pending is stored at the destination now."""

        def work(conn: Transaction) -> int:
            works = leases.lease(conn, destination, "node", self.clock(), 10_000, 1 << 40)
            settled = [AttemptResult(each, Outcome.SENT, status=0) for each in works]
            deliveries.record_attempts(conn, settled, self.clock(), proved_by_status=False)
            return len(works)

        return self.db.write(work)

    def rows(self, column: str = "state") -> dict[str, Any]:
        """SOP Instance UID -> a column of its delivery."""
        with self.db.reading() as conn:
            found = conn.execute(
                "SELECT i.sop_instance_uid, d.* FROM delivery d JOIN instance i ON i.id = d.instance_id"
            )
            return {row[0]: words(reason_of(row)) if column == "reason" else row[column] for row in found}

    def states(self, uids: Sequence[str]) -> list[str]:
        rows = self.rows()
        return [rows[uid] for uid in uids]

    def open_requests(self) -> list[str]:
        with self.db.reading() as conn:
            return [row[0] for row in conn.execute("SELECT transaction_uid FROM commitment WHERE ended_at IS NULL")]

    def events(self, event: str) -> list[str]:
        """The details of the ledger's rows of one kind."""
        with self.db.reading() as conn:
            sql = "SELECT words(event, detail, payload) FROM ledger WHERE event = ? ORDER BY seq"
            return [row[0] for row in with_words(conn).execute(sql, (event,))]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[Gateway]:
    made = Gateway(tmp_path, clock)
    yield made
    made.db.close()


def destination(port: int, confirm: str = "commitment", name: str = "archive") -> Destination:
    return Destination(name, "ARCHIVE", "127.0.0.1", port, confirm)


def confirmer(gateway: Gateway, port: int = 1, confirm: str = "commitment", **pace: Any) -> Confirmer:
    made = Pace(linger=pace.pop("linger", 20.0), **pace)
    return Confirmer(gateway.db, destination(port, confirm), "EDGE", clock=gateway.clock, pace=made)


def ask(gateway: Gateway, deadline: float = 600.0) -> str:
    """Note a request for all that is unproved, as if it had been sent; returns its transaction UID."""
    uid = commitment_data.new_transaction_uid()

    def work(conn: Transaction) -> None:
        batch = commitments.list_unconfirmed(conn, "archive", 1000)
        commitments.open_request(conn, "archive", uid, batch, gateway.clock(), gateway.clock() + deadline)

    gateway.db.write(work)
    return uid


# -- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "due"),
    [
        (UnconfirmedSummary(0, 0, 0, False), False),
        (UnconfirmedSummary(300, T0, T0, True), True),  # full
        (UnconfirmedSummary(299, T0 - 4.9, T0, True), False),
        (UnconfirmedSummary(1, T0 - 5.0, T0, True), True),  # waited long enough
        (UnconfirmedSummary(7, T0 - 2.0, T0 - 1.0, False), True),  # no more to come
        (UnconfirmedSummary(7, T0 - 2.0, T0 - 0.9, False), False),
        (UnconfirmedSummary(7, T0 - 2.0, T0 - 1.0, True), False),
    ],
)
def test_when_a_request_is_due(waiting: UnconfirmedSummary, due: bool) -> None:
    assert is_due(waiting, T0, Pace()) is due


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (0x0110, FailureAction.LATER),
        (0x0112, FailureAction.RESEND),
        (0x0119, FailureAction.HOLD),
        (0x0122, FailureAction.HOLD),
        (0x0131, FailureAction.LATER),
        (0x0213, FailureAction.LATER),
        (0xA700, FailureAction.RESEND),  # not a reason of the standard
    ],
)
def test_what_a_failure_reason_asks_for(reason: int, verdict: FailureAction) -> None:
    assert action_for(reason, 60.0, Pace()) is verdict
    assert f"({reason:04X})" in words(Reason(ReasonCode.MISSING, {"failure": reason}))
    late = action_for(reason, 3601.0, Pace())
    assert late is (FailureAction.RESEND if verdict is FailureAction.LATER else verdict)


def test_the_table_covers_the_failure_reasons_of_the_standard() -> None:
    assert set(FAILURES) == set(FAILURE_REASONS) == {0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213}


def test_resending_begins_at_once_and_slows_down_to_an_hour() -> None:
    assert [resend_at(denials, T0, Pace()) - T0 for denials in (0, 1, 2, 3, 8, 499)] == [0, 60, 120, 240, 3600, 3600]
    assert double(600.0, 10_000, 3600.0) == 3600.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, None),
        (0x0107, None),  # a warning
        (0xB001, None),
        *[(status, ServiceRefused) for status in sorted(LASTING)],
        (0x0110, PeerError),
        (0x0213, PeerError),
        (0xA700, PeerError),
        (0xC001, PeerError),
        (0xFE00, PeerError),
        (0x1234, PeerError),
    ],
)
def test_what_the_status_of_a_request_means(status: int, kind: type[Exception] | None) -> None:
    error = failure("it", status)
    assert error is None if kind is None else isinstance(error, kind)
    assert error is None or f"{status:04X}" in str(error)


# -- reports on the wire ----------------------------------------------------------------------------------------------


def information(transaction: str, committed: Sequence[str], failed: dict[str, int]) -> Dataset:
    """Event Information (PS3.4 table J.3-2) with things in it that we do not look at."""
    ds = Dataset()
    ds.TransactionUID, ds.RetrieveAETitle = transaction, "ARCHIVE"
    ds.ReferencedSOPSequence = [_item(uid) for uid in committed]
    for item in ds.ReferencedSOPSequence[:1]:
        nested = Dataset()
        nested.ReferencedSOPInstanceUID = "9.9.9"  # below a sequence of an item: means something else
        item.add_new(0x00081250, "SQ", [nested])
    if failed:
        ds.FailedSOPSequence = [_item(uid, reason) for uid, reason in failed.items()]
    return ds


def _item(uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
    if reason is not None:
        item.FailureReason = reason
    return item


def encoded(ds: Dataset, syntax: str = EXPLICIT, undefined: bool = False) -> bytes:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
                encoded(item, syntax, undefined)
    blob = DicomBytesIO()
    blob.is_implicit_VR, blob.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(blob, ds)
    return blob.getvalue()


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_report_is_read_however_it_is_encoded(syntax: str, undefined: bool) -> None:
    ds = information("1.2.3", ["1.5.1", "1.5.22"], {"1.6.1": 0x0112, "1.6.22": 0x0213})
    report = parse_report(encoded(ds, syntax, undefined), syntax, 2)
    assert report == Report("1.2.3", ("1.5.1", "1.5.22"), {"1.6.1": 0x0112, "1.6.22": 0x0213})


def test_an_instance_reported_both_ways_has_failed() -> None:
    assert parse_report(encoded(information("1.2", ["1.5"], {"1.5": 0x0112})), EXPLICIT, 2).committed == ()


def test_a_failure_without_a_reason_is_a_processing_failure() -> None:
    ds = information("1.2", [], {})
    ds.FailedSOPSequence = [_item("1.5")]
    assert parse_report(encoded(ds), EXPLICIT, 2).failed == {"1.5": 0x0110}


REPORT = encoded(information("1.2.3", ["1.5.1", "1.5.2"], {"1.6.1": 0x0112}), undefined=True)


def test_a_report_cut_anywhere_is_unreadable_or_says_less() -> None:
    whole = parse_report(REPORT, EXPLICIT, 2)
    said = 0
    for length in range(len(REPORT)):
        try:
            part = parse_report(REPORT[:length], EXPLICIT, 2)
        except Unreadable:
            continue
        said += 1
        assert set(part.committed) <= {*whole.committed, *whole.failed}
    assert said <= 3  # only at the boundaries of the outermost elements


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(REPORT)), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_whatever_comes_is_a_report_or_unreadable(noise: bytes, at: int, syntax: str) -> None:
    for data in (noise, REPORT[:at] + noise + REPORT[at + len(noise) :]):
        try:
            parse_report(data, syntax, 1)
        except Unreadable:
            pass


@pytest.mark.parametrize(
    ("data", "syntax", "event", "why"),
    [
        (REPORT, EXPLICIT, 3, "event type 3"),
        (REPORT, "1.2.840.10008.1.2.1.99", 1, "deflated"),
        (bytes(items.MAX_DATA_SET + 1), EXPLICIT, 1, "longer"),
        (b"", EXPLICIT, 1, "no UID in .0008,1195."),
        (encoded(information("1.2", [], {})).replace(b"1.2\0", b"1 x\0"), EXPLICIT, 1, "no UID in .0008,1195."),
    ],
)
def test_what_cannot_be_used_says_why(data: bytes, syntax: str, event: int, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        parse_report(data, syntax, event)


def test_nesting_costs_neither_stack_nor_time() -> None:
    sequence = struct.pack("<HH2sHL", 0x0008, 0x1250, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)

    def read(depth: int) -> None:
        with pytest.raises(Unreadable, match="damaged"):
            parse_report((sequence + item) * depth, EXPLICIT, 1)

    assert count_calls(lambda: read(50_000)) < 10 * count_calls(lambda: read(5_000)) + 1000


def test_a_request_names_each_instance_once_and_as_it_is() -> None:
    odd = Reference(CTImageStorage, "1.2.03")  # a leading zero is no UID, but it is what the scanner sent
    for syntax in (IMPLICIT, EXPLICIT):
        request = commitment_data.action_information("1.9", [odd, odd], syntax)
        assert parse_report(request, syntax, 1) == Report("1.9", ("1.2.03",), {})


# -- what a report does -----------------------------------------------------------------------------------------------


def test_a_report_moves_exactly_what_it_names(gateway: Gateway) -> None:
    here, gone, silent = gateway.send(3)
    transaction = ask(gateway)
    assert confirmer(gateway).report(transaction, [here], {gone: NO_SUCH_INSTANCE})
    assert gateway.states([here, gone, silent]) == ["confirmed", "pending", "sent"]
    assert "no such object instance (0112)" in gateway.rows("reason")[gone]
    assert gateway.events(ledger.CONFIRMED) == [f"by storage commitment, transaction {transaction}"]
    assert len(gateway.events(ledger.DENIED)) == 1
    assert gateway.open_requests() == [transaction]  # of which `silent` may still be told


def test_a_report_in_parts_and_told_twice_is_the_same_as_one(gateway: Gateway) -> None:
    uids = gateway.send(3)
    transaction, asking = ask(gateway), confirmer(gateway)
    assert asking.report(transaction, uids[:1], {})
    gateway.clock.now += 5
    for _ in range(2):
        assert asking.report(transaction, uids, {})
    assert gateway.states(uids) == ["confirmed"] * 3
    assert gateway.rows("confirmed_at")[uids[0]] == T0  # not proved anew
    assert gateway.open_requests() == []
    assert len(gateway.events(ledger.CONFIRMED)) == 2


def test_a_transaction_that_we_never_made_is_not_ours(gateway: Gateway) -> None:
    uids = gateway.send(1)
    other = Confirmer(gateway.db, destination(1, name="other"), "EDGE", clock=gateway.clock)
    assert not confirmer(gateway).report("1.2.3", uids, {})
    assert not other.report(ask(gateway), uids, {})
    assert gateway.states(uids) == ["sent"]


def test_a_late_report_counts_and_one_about_an_earlier_sending_does_not(gateway: Gateway) -> None:
    late, resent = gateway.send(2)
    asking, first = confirmer(gateway), ask(gateway)
    gateway.clock.now += 601
    asking.step()  # overdue; nobody listens at port 1
    second = ask(gateway)
    assert asking.report(second, [], {resent: NO_SUCH_INSTANCE})
    gateway.clock.now += 1
    assert gateway.forward() == 1
    assert asking.report(first, [late, resent], {})
    assert gateway.states([late, resent]) == ["confirmed", "sent"]
    assert asking.report(second, [resent], {resent: NO_SUCH_INSTANCE})
    assert gateway.states([resent]) == ["sent"]  # what is said of the first sending says nothing of the second


def test_denials_slow_down(gateway: Gateway) -> None:
    [uid] = gateway.send(1)
    asking = confirmer(gateway)
    for wait in (0, 60, 120):
        assert asking.report(ask(gateway), [], {uid: NO_SUCH_INSTANCE})
        assert gateway.states([uid]) == ["deferred" if wait else "pending"]
        assert (gateway.rows("not_before")[uid] or gateway.clock()) - gateway.clock() == wait
        gateway.clock.now += wait + 1
        gateway.db.write(lambda conn: deliveries.requeue_due(conn, gateway.clock()))
        assert gateway.forward() == 1


def test_trouble_on_the_way_does_not_count_as_a_denial(gateway: Gateway) -> None:
    (uid,) = gateway.send(1)
    gateway.db.write(lambda conn: conn.execute("UPDATE delivery SET attempts = 7").rowcount)
    assert confirmer(gateway).report(ask(gateway), [], {uid: NO_SUCH_INSTANCE})
    assert gateway.states([uid]) == ["pending"], "the first denial: at once"


def test_requests_that_ended_long_ago_are_let_go(gateway: Gateway) -> None:
    (uid,), first = gateway.send(1), ask(gateway)
    confirmer(gateway).report(first, [uid], {})
    gateway.clock.now += 100
    gateway.send(1)
    still_open = ask(gateway)

    def forget(before: float) -> int:
        return gateway.db.write(lambda conn: commitments.forget_requests(conn, before))

    assert forget(T0) == 0
    assert forget(gateway.clock()) == 1
    assert gateway.open_requests() == [still_open]
    assert gateway.states([uid]) == ["confirmed"]
    assert any(first in detail for detail in gateway.events(ledger.CONFIRMED)), "the ledger keeps its name"


def test_later_waits_for_the_deadline_and_a_dispute_for_a_person(gateway: Gateway) -> None:
    later, disputed = gateway.send(2)
    transaction = ask(gateway)
    assert confirmer(gateway).report(transaction, [], {later: 0x0213, disputed: 0x0122})
    assert gateway.states([later, disputed]) == ["sent", "held"]
    assert "SOP class not supported (0122)" in gateway.rows("reason")[disputed]
    assert gateway.open_requests() == [transaction]
    assert gateway.events(ledger.HELD)


def test_a_denial_wakes_the_sender(gateway: Gateway) -> None:
    uids, woken = gateway.send(2), []
    asking = Confirmer(
        gateway.db, destination(1), "EDGE", clock=gateway.clock, denied=lambda: woken.append(gateway.states(uids))
    )
    transaction = ask(gateway)
    asking.report(transaction, uids[:1], {})
    assert woken == []
    asking.report(transaction, [], {uids[1]: NO_SUCH_INSTANCE})
    assert woken == [["confirmed", "pending"]]


def test_a_change_to_status_takes_what_awaited_another_proof(gateway: Gateway) -> None:
    asked, other = gateway.send(3), gateway.send(1, destination="other")
    ask(gateway)
    more = gateway.send(4)
    assert accept_status(gateway.db, "archive", gateway.clock(), at_once=3) == 7
    assert gateway.states(asked + more + other) == ["confirmed"] * 7 + ["sent"]


# -- with an archive --------------------------------------------------------------------------------------------------


class Archive:
    """A scripted archive on pynetdicom: what it does with an N-ACTION is up to `on_request(association, request)`."""

    def __init__(self, *contexts: str) -> None:
        self.requests: list[Dataset] = []
        self.answers: list[int] = []  # statuses of our N-EVENT-REPORT-RSPs
        self.status = 0x0000
        self.on_request: Callable[[Any, Dataset], None] = lambda association, request: None
        self.has: set[str] = set()
        self.finds: list[Dataset] = []
        self.limit = 1_000_000  # of matches that it returns
        ae = AE(ae_title="ARCHIVE")
        ae.dimse_timeout = 60
        ae.maximum_associations = (
            100  # one that was aborted counts until its thread ends, whatever the test's clock says
        )
        for context in contexts or (StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind):
            ae.add_supported_context(context)
        handlers: list[Any] = [(evt.EVT_N_ACTION, self._action), (evt.EVT_C_FIND, self._find)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.threads:
            thread.join(60)
        self.server.shutdown()

    def _action(self, event: Any) -> tuple[int, None]:
        request = event.action_information
        self.requests.append(request)
        self.on_request(event.assoc, request)
        return self.status, None

    def named(self, number: int = -1) -> list[str]:
        """What a request named."""
        return [item.ReferencedSOPInstanceUID for item in self.requests[number].ReferencedSOPSequence]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.finds.append(event.identifier)
        listed = event.identifier.get("SOPInstanceUID") or sorted(self.has)
        for uid in ([listed] if isinstance(listed, str) else listed)[: self.limit]:
            if uid in self.has:
                match = Dataset()
                match.QueryRetrieveLevel, match.SOPInstanceUID = "IMAGE", uid
                yield 0xFF00, match

    def report(self, association: Any, request: Dataset, failed: dict[str, int] | None = None, **more: Any) -> None:
        """N-EVENT-REPORT on an association that is there."""
        failed = failed or {}
        named = [item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence]
        committed = more.get("committed", [uid for uid in named if uid not in failed])
        ds = information(more.get("transaction", request.TransactionUID), committed, failed)
        status, _ = association.send_n_event_report(
            ds, 2 if failed else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.answers.append(status.get("Status", -1))

    def soon(self, work: Callable[[], None]) -> None:
        """Do it in another thread: after the N-ACTION response, which pynetdicom sends when the handler returns."""

        def try_to() -> None:
            with suppress(RuntimeError):  # the association has ended: the test looks at what came of it
                work()

        thread = threading.Thread(target=try_to)
        self.threads.append(thread)
        thread.start()

    def report_soon(self, association: Any, request: Dataset, **more: Any) -> None:
        def work() -> None:
            time.sleep(0.1)  # the response first
            self.report(association, request, **more)

        self.soon(work)


@pytest.fixture
def peer() -> Iterator[Archive]:
    with Archive() as made:
        yield made


def settled(gateway: Gateway) -> None:
    """Let the time pass after which a batch is complete."""
    gateway.clock.now += 1


def test_a_report_on_the_same_association(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(20)
    peer.on_request = lambda association, request: peer.report_soon(association, request, failed={uids[3]: 0x0112})
    settled(gateway)
    assert confirmer(gateway, peer.port, linger=600.0).step() == 0.0, "and does not stay longer than needed"
    assert gateway.states(uids) == ["confirmed" if uid != uids[3] else "pending" for uid in uids]
    wait_until(lambda: peer.answers == [0x0000], 5, "the report is answered")
    assert peer.requests[0].ReferencedSOPSequence[0].ReferencedSOPClassUID == CT
    assert gateway.open_requests() == []


def test_a_report_before_the_response_to_its_request(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(3)

    def at_once(association: Any, request: Dataset) -> None:
        peer.soon(lambda: peer.report(association, request))
        wait_until(lambda: gateway.states(uids) == ["confirmed"] * 3, 10, "the report is taken first")

    peer.on_request = at_once
    settled(gateway)
    asking = confirmer(gateway, peer.port)
    asking.step()
    assert asking.fault == ""
    assert gateway.states(uids) == ["confirmed"] * 3
    assert gateway.open_requests() == []


def test_a_report_that_is_told_by_another_way_ends_the_stay(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(3)
    asking = confirmer(gateway, peer.port, linger=600.0)
    peer.on_request = lambda _, request: peer.soon(lambda: asking.report(request.TransactionUID, uids, {}) or None)
    settled(gateway)
    asking.step()
    assert gateway.states(uids) == ["confirmed"] * 3


def test_an_unknown_transaction_is_answered_with_a_failure_and_waited_past(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(1)

    def confused(association: Any, request: Dataset) -> None:
        def work() -> None:
            time.sleep(0.1)
            peer.report(association, request, transaction="1.2.3.4")
            peer.report(association, request)

        peer.soon(work)

    peer.on_request = confused
    settled(gateway)
    confirmer(gateway, peer.port).step()
    assert gateway.states(uids) == ["confirmed"]
    wait_until(lambda: peer.answers == [0x0110, 0x0000], 5, "both are answered")


def test_no_report_asks_again_with_another_transaction_ever_more_slowly(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(1)
    asking = confirmer(gateway, peer.port, linger=0.01)
    settled(gateway)
    asking.step()
    for patience in (600, 1200, 2400, 3600, 3600):
        before = len(peer.requests)
        gateway.clock.now += patience - 1
        asking.step()
        assert len(peer.requests) == before
        gateway.clock.now += 1
        asking.step()
        assert len(peer.requests) == before + 1
    assert gateway.states(uids) == ["sent"]
    assert len({request.TransactionUID for request in peer.requests}) == 6
    assert len(gateway.open_requests()) == 1
    assert asking.report(gateway.open_requests()[0], uids, {})
    assert asking._unanswered == 0


def test_a_request_of_a_former_run_is_waited_for_then_asked_again(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(2)
    former = ask(gateway)
    asking = confirmer(gateway, peer.port, linger=0.01)
    gateway.clock.now += 599
    asking.step()
    assert peer.requests == []
    gateway.clock.now += 1
    asking.step()
    assert sorted(peer.named()) == sorted(uids)
    assert gateway.open_requests() == [peer.requests[0].TransactionUID] != [former]
    assert asking.report(former, uids, {})  # late, but proof
    assert gateway.states(uids) == ["confirmed"] * 2


def test_the_request_is_durable_before_the_archive_hears_of_it(gateway: Gateway, peer: Archive) -> None:
    gateway.send(2)
    noted: list[bool] = []
    peer.on_request = lambda _, request: noted.append(gateway.open_requests() == [request.TransactionUID])
    settled(gateway)
    confirmer(gateway, peer.port, linger=0.01).step()
    assert noted == [True]


def test_requests_are_bounded_and_the_oldest_go_first(gateway: Gateway, peer: Archive) -> None:
    first = gateway.send(4)
    gateway.clock.now += 0.5
    gateway.send(3)
    asking = confirmer(gateway, peer.port, full=4, most=4, linger=0.01)
    asking.step()
    assert sorted(peer.named()) == sorted(first)
    asking.step()
    assert len(peer.requests) == 1  # three more are not a full request, and it is too early for them
    gateway.clock.now += 1
    asking.step()
    assert len(peer.named()) == 3


@pytest.mark.parametrize(
    ("confirm", "refusal"), [("commitment", "context"), ("commitment", "status"), ("query", "context")]
)
def test_a_refused_service_is_said_and_asked_for_every_quarter_of_an_hour(
    gateway: Gateway, confirm: str, refusal: str
) -> None:
    uids = gateway.send(3)
    with Archive(*([Verification] if refusal == "context" else [])) as peer:
        peer.status = 0x0122
        asking = confirmer(gateway, peer.port, confirm, linger=0.1)
        settled(gateway)
        asking.step()
        assert gateway.states(uids) == ["sent"] * 3
        assert gateway.open_requests() == []
        for said in (asking.fault, *gateway.rows("reason").values()):
            assert 'choose another "confirm" for destination archive' in said
        assert asking.step() == 900
        gateway.clock.now += 900
        peer.status = 0x0000
        assert asking.step() == 0.0
        if refusal == "status":
            assert asking.fault == ""
            assert len(peer.requests) == 2


def test_a_transient_refusal_is_tried_again_soon(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(1)
    peer.status = 0x0213
    asking = confirmer(gateway, peer.port)
    settled(gateway)
    asking.step()
    assert gateway.open_requests() == []
    assert asking.step() == 5
    gateway.clock.now += 5
    peer.status = 0x0000
    peer.on_request = peer.report_soon
    asking.step()
    assert gateway.states(uids) == ["confirmed"]


def test_an_archive_that_is_away_changes_nothing(gateway: Gateway) -> None:
    uids = gateway.send(2)
    asking = confirmer(gateway, free_port())
    settled(gateway)
    waits = []
    for _ in range(8):
        asking.step()
        waits.append(asking.step())
        gateway.clock.now += waits[-1]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert gateway.states(uids) == ["sent"] * 2
    assert gateway.open_requests() == []
    assert "refuses the connection" in asking.fault


@pytest.mark.parametrize("confirm", ["commitment", "query"])
@pytest.mark.parametrize(
    "words", [b"", b"\x02\x00\x00\x00\x01\x00half", b"\x02\x00\xff\xff\xff\xff", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
def test_a_peer_that_does_not_answer_in_time_holds_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, confirm: str, words: bytes
) -> None:
    monkeypatch.setattr(commitment, "STEP_SECONDS", 0.5)
    uids = gateway.send(2)
    settled(gateway)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def speak() -> None:
            sock = stack.enter_context(listener.accept()[0])
            sock.sendall(words)

        thread = threading.Thread(target=speak)
        thread.start()
        asking = confirmer(gateway, listener.getsockname()[1], confirm)
        asking.step()
        thread.join(60)
    assert asking.fault
    assert gateway.states(uids) == ["sent"] * 2


@contextmanager
def scripted(answer: Callable[[Wire, Command, bytes], None]) -> Iterator[int]:
    """An archive byte by byte: takes one association and one request, then does what `answer` says. Yields its port."""

    def serve() -> None:
        sock = listener.accept()[0]
        with sock:
            head = sock.recv(6, socket.MSG_WAITALL)
            body = sock.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)
            request = acse.parse_request(head + body)
            sock.sendall(acse.accept_pdu(request, [acse.ContextResult(1, EXPLICIT)], {}))
            wire = Wire(sock, request.max_pdu)
            data = bytearray()
            context, command = wire.read_command(60)
            wire.read_data_set(context, lambda views: data.extend(b"".join(views)))
            answer(wire, command, bytes(data))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)
        assert not thread.is_alive()


def until_closed(wire: Wire) -> None:
    """Wait for the end of the association, however it comes."""
    try:
        while True:
            wire.read_command(60)
    except (Released, PeerError):
        pass


def test_an_archive_that_goes_silent_after_the_request_holds_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "STEP_SECONDS", 0.5)
    uids = gateway.send(2)
    settled(gateway)
    asked: list[Report] = []

    def silence(wire: Wire, _command: Command, data: bytes) -> None:
        asked.append(parse_report(data, EXPLICIT, 1))
        until_closed(wire)

    with scripted(silence) as port:
        asking = confirmer(gateway, port)
        asking.step()
    assert "silent" in asking.fault
    assert gateway.open_requests() == []  # asked again after a pause; should the report come after all, it counts
    assert asking.report(asked[0].transaction_uid, uids, {})
    assert gateway.states(uids) == ["confirmed"] * 2


def test_a_report_in_one_breath_with_the_response(gateway: Gateway) -> None:
    uids = gateway.send(2)
    settled(gateway)
    answers: list[int] = []

    def breathless(wire: Wire, command: Command, data: bytes) -> None:
        transaction = parse_report(data, EXPLICIT, 1).transaction_uid
        told: list[bytes] = []
        send, wire.send_raw = wire.send_raw, lambda data, wait=0.0: told.append(bytes(data))  # type: ignore[method-assign]
        wire.send_message(1, response_to(command, 0))
        report = {
            Element.AFFECTED_SOP_CLASS_UID: str(StorageCommitmentPushModel),
            Element.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
            Element.MESSAGE_ID: 7,
            Element.DATA_SET_TYPE: 1,
            Element.AFFECTED_SOP_INSTANCE_UID: str(StorageCommitmentPushModelInstance),
            Element.EVENT_TYPE_ID: 1,
        }
        wire.send_message(1, report, encoded(information(transaction, uids, {})))
        send(b"".join(told))
        response = wire.read_command(60)[1]
        answers.extend((response.number(Element.MESSAGE_ID_RESPONDED_TO), response.number(Element.STATUS)))
        until_closed(wire)

    with scripted(breathless) as port:
        confirmer(gateway, port, linger=5.0).step()
    assert answers == [7, 0]
    assert gateway.states(uids) == ["confirmed"] * 2


@pytest.mark.parametrize("how", ["release", "abort", "close", "another message"])
def test_an_archive_that_leaves_after_the_response_may_still_report(gateway: Gateway, how: str) -> None:
    uids = gateway.send(1)
    settled(gateway)

    def leave(wire: Wire, command: Command, _data: bytes) -> None:
        wire.send_message(1, response_to(command, 0))
        if how == "release":
            wire.send_raw(pdu.release_rq())
            with pytest.raises(Released):
                wire.read_command(60)
        elif how == "abort":
            wire.abort()
        elif how == "another message":
            wire.send_message(1, {Element.COMMAND_FIELD: CommandField.C_ECHO_RQ, Element.MESSAGE_ID: 1})
            until_closed(wire)

    with scripted(leave) as port:
        asking = confirmer(gateway, port, linger=600.0)
        asking.step()
    assert asking.fault == ""
    assert asking.report(gateway.open_requests()[0], uids, {})
    assert gateway.states(uids) == ["confirmed"]


def test_a_rejection_says_what_to_do(gateway: Gateway, peer: Archive) -> None:
    peer.server.ae.require_calling_aet = ["SOMEBODY"]
    gateway.send(1)
    settled(gateway)
    asking = confirmer(gateway, peer.port)
    asking.step()
    assert "have it added there" in asking.fault


# -- query ------------------------------------------------------------------------------------------------------------


def test_what_a_query_finds_is_confirmed(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(5, study="1.2.3", series="1.2.3.4") + gateway.send(2)
    peer.has = {*uids, "1.2.3.4.5"}
    settled(gateway)
    confirmer(gateway, peer.port, "query").step()
    assert gateway.states(uids) == ["confirmed"] * 7
    assert gateway.open_requests() == []
    assert len(peer.finds) == 2  # one a series
    assert (peer.finds[0].StudyInstanceUID, peer.finds[0].SeriesInstanceUID) == ("1.2.3", "1.2.3.4")
    assert not peer.finds[0].SOPInstanceUID


def test_an_archive_may_index_late(gateway: Gateway, peer: Archive) -> None:
    late, gone = gateway.send(2)
    asking = confirmer(gateway, peer.port, "query")
    looks = []
    for _ in range(400):
        gateway.clock.now += 1
        before = len(peer.finds)
        asking.step()
        if len(peer.finds) > before:
            looks.append(int(gateway.clock() - T0))
        if looks == [1, 11, 22]:
            peer.has = {late}
        if gateway.rows()[gone] == "pending":
            break
    assert looks == [1, 11, 22, 44, 88, 176, 352]  # before 300 s nothing is denied
    assert gateway.states([late, gone]) == ["confirmed", "pending"]
    assert gateway.rows("confirmed_at")[late] == T0 + 44
    assert gateway.rows("reason")[gone] == "the archive does not find it"


def test_an_archive_that_shortens_its_answers_is_asked_for_each_before_sending_again(
    gateway: Gateway, peer: Archive
) -> None:
    uids = sorted(gateway.send(5))
    peer.has, peer.limit = set(uids[:4]), 2
    gateway.clock.now += 301
    confirmer(gateway, peer.port, "query").step()
    assert len(peer.finds) == 2
    assert list(peer.finds[1].SOPInstanceUID) == uids[2:]
    assert gateway.states(uids) == ["confirmed"] * 4 + ["pending"]


def test_a_query_that_fails_is_tried_again(gateway: Gateway, peer: Archive) -> None:
    uids = gateway.send(2)
    settled(gateway)
    asking = confirmer(gateway, peer.port, "query")

    def broken(_: Any) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xA700, None

    peer.server.unbind(evt.EVT_C_FIND, peer._find)
    peer.server.bind(evt.EVT_C_FIND, broken)
    asking.step()
    assert "A700" in asking.fault
    assert gateway.open_requests() == []
    peer.server.unbind(evt.EVT_C_FIND, broken)
    peer.server.bind(evt.EVT_C_FIND, peer._find)
    peer.has = set(uids)
    gateway.clock.now += 5
    asking.step()
    assert gateway.states(uids) == ["confirmed"] * 2


# -- the thread -------------------------------------------------------------------------------------------------------


def test_the_thread_asks_when_woken_and_stops(gateway: Gateway, peer: Archive) -> None:
    asking = Confirmer(gateway.db, destination(peer.port), "EDGE", pace=Pace(settled=0.05, poll=600.0, linger=600.0))
    gateway.clock.now = time.time()
    asking.start()
    time.sleep(0.1)
    uids = gateway.send(2)
    gateway.clock.now = time.time()
    time.sleep(0.1)
    asking.wake()
    wait_until(lambda: peer.requests, 10, "woken, it asks")
    asking.stop()
    assert asking._worker.stop(60.0), "it has ended, although it would have stayed for the report"
    assert gateway.states(uids) == ["sent"] * 2
    assert len(gateway.open_requests()) == 1


def test_the_thread_outlives_a_fault(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    asking = confirmer(gateway, longest_retry=0.01, poll=0.01)
    steps: list[int] = []

    def end_overdue(now: float) -> None:
        steps.append(1)
        raise KeyError("a fault of ours")

    monkeypatch.setattr(asking, "_end_overdue", end_overdue)
    asking.start()
    wait_until(lambda: len(steps) > 2, 5, "it goes on")
    asking.stop()
    assert "a fault of ours" in caplog.text


# -- with Orthanc -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reports_to() -> Iterator[tuple[int, list[Callable[..., bool]]]]:
    """A door for the archive's own association; whoever is in the list is told."""
    told: list[Callable[..., bool]] = []

    def on_report(event: Any) -> tuple[int, None]:
        syntax = str(event.context.transfer_syntax)
        report = parse_report(event.request.EventInformation.getvalue(), syntax, event.event_type)
        ours = [each(report.transaction_uid, report.committed, report.failed) for each in told]
        return (0x0000 if any(ours) else 0x0110), None

    ae = AE(ae_title="EDGE")
    ae.supported_contexts = [build_context(StorageCommitmentPushModel)]
    ae.supported_contexts[0].scu_role, ae.supported_contexts[0].scp_role = False, True
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    yield server.socket.getsockname()[1], told
    server.shutdown()


def at_orthanc(gateway: Gateway, tmp_path: Path, orthanc: Orthanc, count: int) -> list[str]:
    """Slices that Orthanc has, and one that it has lost; the lost one is the last."""
    paths = ct_files(tmp_path / "ct", count, 2048)
    storescu(paths[:-1], orthanc.port, called="ORTHANC")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    uids = [str(each.SOPInstanceUID) for each in headers]
    return gateway.send_these(uids, str(headers[0].StudyInstanceUID), str(headers[0].SeriesInstanceUID))


def test_orthanc_commits_on_an_association_of_its_own(
    gateway: Gateway, tmp_path: Path, running: ExitStack, reports_to: tuple[int, list[Callable[..., bool]]]
) -> None:
    orthanc = running.enter_context(Orthanc(tmp_path / "orthanc", edge_port=reports_to[0]))
    uids = at_orthanc(gateway, tmp_path, orthanc, 6)
    where = Destination("archive", "ORTHANC", "127.0.0.1", orthanc.port, "commitment")
    asking = Confirmer(gateway.db, where, "EDGE", clock=gateway.clock)
    reports_to[1].append(asking.report)
    settled(gateway)
    asking.step()
    wait_until(lambda: gateway.open_requests() == [], 20, "Orthanc's report")
    assert gateway.states(uids) == ["confirmed"] * 5 + ["pending"]
    assert "(0112)" in gateway.rows("reason")[uids[-1]]


def test_orthanc_is_queried(gateway: Gateway, tmp_path: Path, orthanc: Orthanc) -> None:
    uids = at_orthanc(gateway, tmp_path, orthanc, 6)
    where = Destination("archive", "ORTHANC", "127.0.0.1", orthanc.port, "query")
    gateway.clock.now += 301
    Confirmer(gateway.db, where, "EDGE", clock=gateway.clock).step()
    assert gateway.states(uids) == ["confirmed"] * 5 + ["pending"]
