"""N-ACTION of a modality: what is taken, what is refused with which status, and that nothing is answered too soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.dicom import items
from edge.dicom.commitment_data import Reference, action_information
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from edge.errors import StorageUnhealthy
from edge.scp.services import storage_commitment_register
from edge.scp.services.storage_commitment_register import RequestRegister
from tests.support.committing import CT_CLASS, ask
from tests.support.gateway import CONFIG, Receiving
from tests.support.peers import wait_until
from tests.support.slots import count_used

MODALITIES = """
[modality.ct1]
ae_title = "CT1"
hosts = ["127.0.0.1"]
port = 104
services = ["echo", "store", "commit"]
[modality.mute]
ae_title = "MUTE"
services = ["echo", "store", "commit"]
[modality.plain]
ae_title = "PLAIN"
"""
BODY = {"sop_class": "1.2.840.10008.5.1.4.1.1.2", "uid": "1.2.3"}
ONE = [(CT_CLASS, "1.2.3")]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', MODALITIES)
    with Receiving(tmp_path, text) as receiving:
        receiving.receiver.commitments = RequestRegister(receiving.db)
        yield receiving


def requests(edge: Receiving) -> list[tuple[object, ...]]:
    return edge.rows(
        "SELECT transaction_uid, calling_ae, called_ae, modality, is_tls, instances, state FROM commitment_request"
    )


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])
def test_a_request_is_a_record_and_then_rows(edge: Receiving, syntax: str) -> None:
    asked = ask(edge.port, [*ONE, (CT_CLASS, "1.2.4"), *ONE, ("1.2.840.10008.5.1.4.1.1.4", "1.2.4")], syntax=syntax)
    assert (asked.status, asked.comment) == (0, "")
    assert requests(edge) == [(asked.transaction_uid, "CT1", "EDGE", "ct1", 0, 2, "waiting")]
    rows = edge.rows("SELECT sop_instance_uid, sop_class_uid, is_ambiguous, failure FROM commitment_reference")
    assert rows == [("1.2.3", CT_CLASS, 0, None), ("1.2.4", CT_CLASS, 1, None)]
    ((event, who, words),) = edge.rows("SELECT event, who, words(event, detail, payload) FROM ledger")
    assert (event, who) == ("commitment-asked", "CT1")
    assert words == f"of 2 instances, from 127.0.0.1, transaction {asked.transaction_uid}"


def test_an_answered_request_survives_kill_and_is_applied_once(edge: Receiving) -> None:
    """The record is enough, however often it is applied."""
    edge.applier.apply = _hindered  # type: ignore[method-assign]
    asked = ask(edge.port, ONE)
    assert asked.status == 0
    edge.crash()
    edge.restart()
    assert [row[0] for row in requests(edge)] == [asked.transaction_uid]
    assert edge.replayed == 1


def _hindered(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"action_type_id": 2}, 0x0123),
        ({"requested_sop_instance_uid": "1.2.3"}, 0x0112),
        ({"requested_sop_instance_uid": ""}, 0x0112),
        ({"requested_sop_class_uid": CT_CLASS}, 0x0122),
    ],
)
def test_a_command_that_asks_for_something_else(edge: Receiving, changed: dict[str, int | str], status: int) -> None:
    asked = ask(edge.port, ONE, **changed)  # type: ignore[arg-type]
    assert asked.status == status
    assert asked.comment
    assert requests(edge) == []


def _data(text: items.Attributes) -> bytes:
    return items.encode_items(text, EXPLICIT_VR_LITTLE_ENDIAN)


def _named(**missing: str) -> bytes:
    reference = {0x00081150: missing.get("sop_class", CT_CLASS), 0x00081155: missing.get("instance", "1.2.3")}
    named = [items.item({tag: value for tag, value in reference.items() if value != "absent"})]
    request = {0x00081195: missing.get("transaction", "1.9"), 0x00081199: named}
    return _data(items.item({tag: value for tag, value in request.items() if value != "absent"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00",
        b"no data set at all",
        _named(transaction="absent"),
        _named(transaction=""),
        _named(transaction="1.9/../.."),
        _named(sop_class="absent"),
        _named(sop_class=""),
        _named(instance="absent"),
        _named(instance="1." + "2" * 64),
        _data(items.item({0x00081195: "1.9"})),
        _data(items.item({0x00081195: "1.9", 0x00081199: []})),
        action_information("1.9", [Reference(CT_CLASS, "1.2.3")], EXPLICIT_VR_LITTLE_ENDIAN)[:-3],
    ],
)
def test_a_request_that_lacks_something_is_an_invalid_argument(edge: Receiving, data: bytes) -> None:
    asked = ask(edge.port, (), data=data)
    assert asked.status == 0x0115
    assert asked.comment
    assert requests(edge) == []
    wait_until(lambda: not count_used(edge.journal_door.slots), 5, "its buffer is given back")


def test_who_may_not_ask(edge: Receiving) -> None:
    assert ask(edge.port, ONE, calling="PLAIN").status == -1, "its context is rejected: user rejection"
    mute = ask(edge.port, ONE, calling="MUTE")
    assert (mute.status, mute.comment) == (0x0110, "no host and port in its [modality] to report to")
    assert edge.refused() == ["it asks for storage commitment, and no host and port say where to report it"]
    assert requests(edge) == []


def test_an_archive_that_may_report_may_not_ask(tmp_path: Path) -> None:
    archive = CONFIG.replace("port = 104", 'port = 104\nconfirm = "commitment"').replace(
        'ae_title = "*"', 'ae_title = "X"'
    )
    with Receiving(tmp_path, archive) as edge:
        assert ask(edge.port, ONE, calling="ARCHIVE").status == 0x0124
        assert requests(edge) == []


def test_a_transaction_uid_comes_again(edge: Receiving) -> None:
    """The same request is one request; another one is refused. With and without its rows."""
    asked = ask(edge.port, ONE, "1.9")
    assert asked.status == 0
    assert ask(edge.port, ONE, "1.9").status == 0
    assert ask(edge.port, [(CT_CLASS, "1.2.4")], "1.9").status == 0x0131
    assert len(requests(edge)) == 1
    edge.receiver.commitments = RequestRegister(edge.db)  # another process
    assert ask(edge.port, [(CT_CLASS, "1.2.4")], "1.9").status == 0x0131
    assert ask(edge.port, ONE, "1.9").status == 0
    assert len(requests(edge)) == 1


def test_a_transaction_uid_comes_again_before_it_is_applied(edge: Receiving) -> None:
    catalog = edge.db
    apply, edge.applier.apply = edge.applier.apply, _hindered  # type: ignore[method-assign]
    assert ask(edge.port, ONE, "1.9").status == 0
    assert ask(edge.port, [(CT_CLASS, "1.2.4")], "1.9").status == 0x0131
    edge.receiver.commitments = RequestRegister(catalog)  # a process that has not seen the first one
    assert ask(edge.port, [(CT_CLASS, "1.2.4")], "1.9").status == 0
    edge.applier.apply = apply  # type: ignore[method-assign]
    assert [row[5] for row in requests(edge)] == [1, 1], "both are kept: the second one is reported as failed"


def test_ten_thousand_references_and_more(edge: Receiving) -> None:
    prefix = "1.2.840.113619.2.55.3.604688119.868.1234567890."
    asked = ask(edge.port, [(CT_CLASS, f"{prefix}{number}") for number in range(20_000)])
    assert asked.status == 0
    edge.settle()
    assert requests(edge)[0][5] == 20_000
    wait_until(lambda: not list((edge.data_dir / "journal").glob("*.part")), 5, "its file goes")
    wait_until(lambda: not count_used(edge.journal_door.slots), 5, "its buffer is given back")
    huge = ask(edge.port, (), data=bytes(items.MAX_DATA_SET + 2))
    assert huge.status == 0x0213
    wait_until(lambda: not count_used(edge.journal_door.slots), 5, "its buffer is given back")


def test_what_is_owed_has_a_bound(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_commitment_register, "MOST_REQUESTS", 2)
    assert [ask(edge.port, ONE, uid).status for uid in ("1.1", "1.2")] == [0, 0]
    edge.settle()
    assert ask(edge.port, ONE, "1.3").status == 0x0213
    assert ask(edge.port, ONE, "1.1").status == 0, "it is known"


def test_a_journal_that_cannot_be_written_is_no_success(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageUnhealthy("no")

    monkeypatch.setattr("edge.journal.writer.write_durably", fail)
    assert ask(edge.port, ONE).status == 0x0213
    assert edge.db.failure is not None
