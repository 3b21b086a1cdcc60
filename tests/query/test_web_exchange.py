"""An archive by QIDO-RS and WADO-RS that answers nonsense, cuts its bodies, or is asked for what it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.config.sections import Destination
from edge.dicom import items
from edge.dicom.failures import RequestFailed, ServiceRefused
from edge.dicom.part10 import parse_meta
from edge.errors import EdgeError, PeerError
from edge.model import ContextKey
from edge.query.fetching import ReadInto, WebFetcher
from edge.query.located import Located
from edge.query.web_exchange import WebExchange
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.web_archive import Said, WebArchive

DATE, STUDY_UID, NAME = 0x00080020, 0x0020000D, 0x00100010


@pytest.fixture
def archive() -> Iterator[WebArchive]:
    made = WebArchive(lambda _: Said(204))
    yield made
    made.close()


@pytest.fixture
def exchange(archive: WebArchive) -> Iterator[WebExchange]:
    made = WebExchange(Destination("archive", kind="dicomweb", url=archive.url))
    yield made
    made.close()


def found(exchange: WebExchange) -> list[items.Attributes]:
    asked = {0x00080052: "STUDY", STUDY_UID: "", DATE: "", NAME: "", 0x00100020: "P 1&x"}
    return list(exchange.find(items.item(asked)))


def test_a_query_is_encoded_and_its_answers_are_what_was_asked_for(archive: WebArchive, exchange: WebExchange) -> None:
    study = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}, "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}}
    archive.script = lambda _: Said(200, json.dumps([{**study, "00080061": {"vr": "CS", "Value": ["CT"]}}]).encode())
    (answer,) = found(exchange)
    assert (answer.text(STUDY_UID), answer.text(NAME)) == ("1.2.3", "A^B")
    assert 0x00080061 not in answer, "it was not asked for"
    path = archive.received[0].path
    assert "00100020=P%201%26x" in path
    assert "includefield=0020000D" in path


def test_pages_are_asked_for_until_nothing_new_comes(archive: WebArchive, exchange: WebExchange) -> None:
    page = [{"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}} for number in range(1000)]
    archive.script = lambda _: Said(200, json.dumps(page).encode())  # a server that knows no offset
    assert len(found(exchange)) == 1000
    assert len(archive.received) == 2


@pytest.mark.parametrize(
    "said",
    [
        Said(200, b"not json"),
        Said(200, b'{"a": 1}'),
        Said(200, b"[1, 2]"),
        Said(200, b'[{"0020000D": 7}]'),
        Said(200, b'[{"nonsense": {"vr": "UI"}}]'),
        Said(200, b"[" * 5_000),
        Said(500),
        Said(503, b"", {"Retry-After": "5"}),
        Said(cut=True),
    ],
)
def test_nonsense_is_the_peers_failure(archive: WebArchive, exchange: WebExchange, said: Said) -> None:
    archive.script = lambda _: said
    with pytest.raises(PeerError):
        found(exchange)


@pytest.mark.parametrize("status", [401, 403, 501])
def test_a_refusal_is_for_a_person(archive: WebArchive, exchange: WebExchange, status: int) -> None:
    archive.script = lambda _: Said(status)
    with pytest.raises(ServiceRefused):
        found(exchange)


def multipart(body: bytes) -> Said:
    return Said(200, body, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz'})


def get(exchange: WebExchange) -> bytes | None:
    source = exchange.open_object(Located("1.5", "", "", study_uid="1.3", series_uid="1.4"))
    if source is None:
        return None
    taken = bytearray()
    try:
        source.read_into(lambda views: [taken.extend(view) for view in views] and None)
    finally:
        source.close()
    return bytes(taken)


def test_an_object_comes_alone_or_as_a_part(tmp_path: Path, archive: WebArchive, exchange: WebExchange) -> None:
    (path,) = ct_files(tmp_path, 1, 300_000)
    file = path.read_bytes()
    expected = file[parse_meta(file[:65536]).dataset_offset :]
    part = b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--xyz--\r\n"
    for said in (
        multipart(part),
        multipart(b"preamble\r\n" + part),
        Said(200, file, {"Content-Type": "application/dicom"}),
    ):
        archive.script = lambda _, said=said: said
        assert get(exchange) == expected
    archive.script = lambda _: Said(404)
    assert get(exchange) is None
    source = _open(archive, exchange, multipart(part))
    assert source.sop_instance_uid == sop_instance_uid(path)


def _open(archive: WebArchive, exchange: WebExchange, said: Said) -> Any:
    archive.script = lambda _: said
    source = exchange.open_object(Located("1.5", "", "", study_uid="1.3", series_uid="1.4"))
    assert source is not None
    source.close()
    return source


def test_an_object_that_cannot_be_given_holds_up_no_other(tmp_path: Path, archive: WebArchive) -> None:
    """One that is damaged there; where none comes, the server is what fails."""
    path, *_ = ct_files(tmp_path, 1, 4096)
    whole = multipart(b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--xyz--\r\n")
    archive.script = lambda request: Said(500) if request.path.endswith("/1.5") else whole
    fetcher = WebFetcher(Destination("archive", kind="dicomweb", url=archive.url))
    wanted = [Located(uid, "", "", study_uid="1.3", series_uid="1.4") for uid in ("1.5", sop_instance_uid(path))]
    taken = []

    def take(_: ContextKey, uid: str, read_into: ReadInto) -> int:
        read_into(lambda _: None)
        taken.append(uid)
        return 0

    assert fetcher.fetch(wanted, take) == 1
    assert taken == [sop_instance_uid(path)]
    with pytest.raises(RequestFailed):
        fetcher.fetch(wanted[:1], take)
    archive.script, before = lambda _: Said(503), len(archive.received)
    with pytest.raises(RequestFailed):
        fetcher.fetch(wanted, take)
    assert len(archive.received) == before + 1, "one that is overloaded is left alone"
    fetcher.close()


def test_what_is_cut_or_no_object_is_never_taken(tmp_path: Path, archive: WebArchive, exchange: WebExchange) -> None:
    (path,) = ct_files(tmp_path, 1, 300_000)
    head, file = b"--xyz\r\nContent-Type: application/dicom\r\n\r\n", path.read_bytes()
    for said in (
        multipart(head + file),  # no closing delimiter
        multipart(head + file[:100_000]),
        multipart(head + b"garbage" * 20_000 + b"\r\n--xyz--\r\n"),
        multipart(b""),
        multipart(b"no boundary at all" * 10_000),
        Said(200, file, {"Content-Type": "multipart/related"}),
        Said(200, b"<html>sign in</html>", {"Content-Type": "text/html"}),
        Said(200, b"", {"Content-Type": "application/dicom"}),
        Said(500),
        Said(cut=True),
    ):
        archive.script = lambda _, said=said: said
        with pytest.raises(EdgeError):
            get(exchange)
