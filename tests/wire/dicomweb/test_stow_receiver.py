"""How parts of a STOW-RS share flushes and receive buffers, and which status an answer has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest

from edge.dicom.header import HeaderSearch
from edge.dicom.part10 import plain_head
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.errors import Cause
from edge.journal.kinds import instance
from edge.journal.writer import SegmentWriter
from edge.model import ContextKey, Origin
from edge.scp import recorder
from edge.scp.dicomweb.receive import StowReceiver
from edge.scp.dicomweb.report import StoredPart, status_of
from edge.scp.response import StoreResponse
from tests.support import gateway
from tests.support.committing import CT_CLASS
from tests.support.gateway import Receiving
from tests.support.objects import ct_files, dataset, new_uid, sop_instance_uid

ORIGIN = Origin("VIEWER", "EDGE", "127.0.0.1", 1.0)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def store(receiver: StowReceiver, paths: list[Path]) -> list[str]:
    """Have the files received as parts of one body; the UIDs of those that are stored."""
    with closing(receiver):
        for path in paths:
            receiver.begin({})
            receiver.write(memoryview(path.read_bytes()))
            receiver.end()
        receiver.flush()
    return [each.sop_instance_uid for each in receiver.done if each.is_stored]


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each flush of the journal has made durable."""
    counts: list[int] = []
    really = SegmentWriter._flush

    def count(writer: SegmentWriter, claimed: object, views: list[memoryview], offset: int) -> None:
        counts.append(len(views))
        really(writer, claimed, views, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentWriter, "_flush", count)
    return counts


def test_a_record_says_what_its_header_was_read_for_though_the_configuration_changes_before_its_flush(
    tmp_path: Path,
) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 1024)
    key, uid = ContextKey(CT_CLASS, EXPLICIT_VR_LITTLE_ENDIAN), sop_instance_uid(path)
    with Receiving(tmp_path) as edge:
        recording, before = edge.recorder.begin(key, uid, ORIGIN), edge.recorder.search
        recording.write([memoryview(dataset(path))])
        found = edge.recorder.examine(recording, key, uid, ORIGIN)
        edge.recorder.search = HeaderSearch({**before.wanted, 0x00181030: "ProtocolName"}, before.nested)
        assert instance.decode(edge.recorder.draft(found).facts).header_keys == before.name
        recording.discard()


def test_one_flush_serves_fifty_parts(
    tmp_path: Path, pool: ThreadPoolExecutor, flushes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SLOTS", 100)
    files = ct_files(tmp_path / "ct", 50, 1024)
    with Receiving(tmp_path) as edge:
        stored = store(StowReceiver(edge.recorder, lambda: None, ORIGIN, pool), files)
    assert stored == list(map(sop_instance_uid, files))
    assert flushes == [50]


def test_parts_that_wait_for_a_flush_give_their_buffers_where_those_are_short(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Else a few requests of many small parts wait for each other's buffers until all of them fail."""
    files = ct_files(tmp_path / "ct", 3 * gateway.SLOTS, 1024)
    with Receiving(tmp_path) as edge:
        stored = store(StowReceiver(edge.recorder, lambda: None, ORIGIN, pool), files)
    assert stored == list(map(sop_instance_uid, files))


def test_a_gateway_that_is_far_behind_says_that_it_is_to_be_tried_again(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST_LAG_SECONDS", -1.0)
    (path,) = ct_files(tmp_path / "ct", 1, 1024)
    with Receiving(tmp_path) as edge:
        monkeypatch.setattr(type(edge.journal_door), "waiting_since", property(lambda _: 0.0))
        receiver = StowReceiver(edge.recorder, lambda: None, ORIGIN, pool)
        assert store(receiver, [path]) == []
    (part,) = receiver.done
    assert (part.sop_instance_uid, part.status, part.cause) == (sop_instance_uid(path), 0xA700, Cause.BUSY)
    assert status_of(receiver.done, is_whole=True) is HTTPStatus.SERVICE_UNAVAILABLE


def test_why_instances_are_not_taken(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Failure Reasons (0008,1197), PS3.18 table I.2-2: of one request, in which what is good is stored."""
    (path,) = ct_files(tmp_path / "ct", 1, 1024)
    good = path.read_bytes()
    data_set, forbidden = dataset(good), new_uid()
    sent = [
        plain_head(ContextKey(VERIFICATION, EXPLICIT_VR_LITTLE_ENDIAN), new_uid()) + data_set,
        plain_head(ContextKey(CT_CLASS, ""), new_uid()) + data_set,
        plain_head(ContextKey(CT_CLASS, EXPLICIT_VR_LITTLE_ENDIAN), forbidden) + data_set,
        good,
    ]
    refuse = lambda uid: StoreResponse(0x0124) if uid == forbidden else None  # noqa: E731
    with Receiving(tmp_path) as edge:
        receiver = StowReceiver(edge.recorder, lambda: None, ORIGIN, pool, refuse=refuse)
        with closing(receiver):
            for each in sent:
                receiver.begin({})
                receiver.write(memoryview(each))
                receiver.end()
            receiver.flush()
    assert [each.status for each in receiver.done] == [0x0122, 0xC000, 0x0124, 0]
    assert status_of(receiver.done, is_whole=True) is HTTPStatus.ACCEPTED


def part(status: int = 0, cause: Cause | None = None) -> StoredPart:
    return StoredPart("1.2", "1.2.3", "1.2.4", "1.2.5", status, cause)


@pytest.mark.parametrize(
    ("parts", "is_whole", "status"),
    [
        ([part(), part()], True, 200),
        ([part(), part(0xA900)], True, 202),
        ([part(), part(0xA700, Cause.BYTES)], True, 202),
        ([part(0xC000), part(0xA900)], True, 409),
        ([part(0xA700, Cause.BYTES), part(0xC000)], True, 409),
        ([part(0xA700, Cause.BYTES), part(0xA700, Cause.BUSY)], True, 503),
        ([part(), part()], False, 400),
        ([], True, 400),
    ],
)
def test_the_status_of_an_answer(parts: list[StoredPart], is_whole: bool, status: int) -> None:
    assert status_of(parts, is_whole=is_whole) == status
