"""Hostile HTTP: whatever comes, the door lives, what is cut is no success, nobody's request becomes another's."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest

from tests.support.objects import ct_files, sop_instance_uid
from tests.support.web_door import BOUNDARY, TOKEN, WebEdge, multipart, related

HEAD = f"Host: x\r\nAuthorization: Bearer viewer-{TOKEN}\r\n"
STORE = f"POST /dicom-web/studies HTTP/1.1\r\n{HEAD}Content-Type: {related()}\r\n"
LOOK = f"GET /dicom-web/studies?limit=1 HTTP/1.1\r\n{HEAD}\r\n"


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return multipart([path.read_bytes() for path in ct_files(tmp_path_factory.mktemp("ct"), 2, 4096)])


def talk(edge: WebEdge, *said: bytes, ends: bool = True) -> list[int]:
    """The statuses that come back, until the door ends the connection or says nothing more."""
    with socket.create_connection(("127.0.0.1", edge.web_port), 10) as sock:
        try:
            for each in said:
                sock.sendall(each)
            if ends:
                sock.shutdown(socket.SHUT_WR)
            came = b"".join(iter(lambda: sock.recv(65536), b""))
        except ConnectionError:
            came = b""
    return [int(each[:3]) for each in came.split(b"HTTP/1.1 ")[1:]]


def is_alive(edge: WebEdge) -> bool:
    return edge.web("GET", "/studies?limit=1").status in (200, 204)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


SMUGGLED = LOOK.encode()
#: Two ways to read one message: who is before us may read the other one. The second request must never be answered.
SMUGGLING = [
    STORE.encode() + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Content-Length: 3\r\nContent-Length: 300\r\n\r\nabc" + SMUGGLED,
    STORE.encode() + b"Content-Length: 3, 300\r\n\r\nabc" + SMUGGLED,
    STORE.encode() + b"Content-Length: +3\r\n\r\nabc" + SMUGGLED,
    STORE.encode() + b"Content-Length: 0x3\r\n\r\nabc" + SMUGGLED,
    STORE.encode() + b"Content-Length : 3\r\n\r\nabc" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + SMUGGLED,
    STORE.encode() + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    STORE.encode() + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\tfolded\r\n" + HEAD.encode() + b"\r\n" + SMUGGLED,
    b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED,
    b"GET /dicom-web/studies HTTP/1.1\nHost: x\n\n" + SMUGGLED,
    b"GET /dicom-web/studies\x00 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
    b"GET /dicom-web/studies HTTP/9.9\r\nHost: x\r\n\r\n" + SMUGGLED,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
]


@pytest.mark.parametrize("said", SMUGGLING, ids=range(len(SMUGGLING)))
def test_no_request_is_smuggled_behind_another(edge: WebEdge, said: bytes) -> None:
    statuses = talk(edge, said)
    assert statuses[:1] in ([], [400], [505], [501], [431], [401])
    assert not [each for each in statuses if each < 400]
    assert is_alive(edge)


def test_a_folded_header_is_refused(edge: WebEdge) -> None:
    """RFC 9112 section 5.2: who is before us may read it as two headers, or as one."""
    for fold in (" b", "\tb"):
        assert talk(edge, f"GET /dicom-web/studies HTTP/1.1\r\n{HEAD}X-A: a\r\n{fold}\r\n\r\n".encode()) == [400]


def test_a_single_object_that_is_cut_is_not_stored(edge: WebEdge, tmp_path: Path) -> None:
    """Its pixel data would only be shorter."""
    (path,) = ct_files(tmp_path, 1, 4096)
    data, head = path.read_bytes(), STORE.replace(related(), "application/dicom")
    for sent in (
        head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data[:-100],
        head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(data[:-100]),
    ):
        assert talk(edge, sent) in ([400], [])
    edge.settle()
    kept = {sop_instance_uid(each) for each in (edge.data_dir / "spool").rglob("*.dcm")}
    assert sop_instance_uid(path) not in kept


#: Chunked bodies that are none.
CHUNKED = [
    b"",
    b"0\r\n",
    b"-5\r\n\r\n",
    b"ffffffffffffffffffff\r\n",
    b"zz\r\nabc\r\n0\r\n\r\n",
    b"5\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcdef\r\n0\r\n\r\n",
    b"5;" + b"x" * 70_000 + b"\r\nabcde\r\n0\r\n\r\n",
    b"1\r\na\r\n" * 3,
    b"0\r\nTrailer: " + b"x" * 70_000 + b"\r\n\r\n",
    b"\r\n" * 100,
]


@pytest.mark.parametrize("said", CHUNKED, ids=range(len(CHUNKED)))
def test_chunks_that_are_none_are_no_success(edge: WebEdge, said: bytes) -> None:
    assert talk(edge, STORE.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + said) in ([400], [])
    assert is_alive(edge)


def test_a_body_cut_anywhere_is_never_a_success(edge: WebEdge, body: bytes) -> None:
    """In each form, at many places: before the closing delimiter's end nothing is whole."""
    chance = random.Random(12)
    ends = [0, 1, len(BOUNDARY) + 2, *(chance.randrange(len(body) - 4) for _ in range(12)), len(body) - 5]
    for end in ends:
        known = STORE.encode() + b"Content-Length: %d\r\n\r\n" % len(body)
        assert talk(edge, known + body[:end]) in ([400], [])
        chunked = STORE.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
        assert talk(edge, chunked + (chunk(body[:end]) if end else b"")) in ([400], [])
        whole_http = STORE.encode() + b"Content-Length: %d\r\n\r\n" % end
        assert talk(edge, whole_http + body[:end]) == [400]
    assert talk(edge, STORE.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body) == [200]


@pytest.mark.parametrize(
    "boundary",
    ["", " ", "a" * 71, "b\x00b", 'b"', "b;b", "--", "x\r\nX-Evil: 1", "ü"],
)
def test_boundaries_that_are_none(edge: WebEdge, body: bytes, boundary: str) -> None:
    head = f"POST /dicom-web/studies HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n"
    said = f'{head}Content-Type: multipart/related; type="application/dicom"; boundary="{boundary}"\r\n\r\n'.encode(
        "latin-1"
    )
    assert talk(edge, said + body)[:1] in ([400], [415], [])
    assert is_alive(edge)


def test_boundary_tricks_lose_and_invent_nothing(edge: WebEdge, tmp_path: Path) -> None:
    """A delimiter with more behind it, one within the head of a part, and one that another part's is a prefix of."""
    one, two = ct_files(tmp_path, 2, 4096)
    parts = multipart([one.read_bytes(), two.read_bytes()])
    twice = parts.replace(b"--%b--\r\n" % BOUNDARY.encode(), b"--%b--\r\n" % BOUNDARY.encode() * 2)
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, twice)
    assert (answer.status, len(answer.stored())) == (200, 2)
    longer = multipart([one.read_bytes()], BOUNDARY + "x")
    assert edge.web("POST", "/studies", {"Content-Type": related()}, longer).status == 400
    head = multipart([one.read_bytes()], headers=f"Content-Type: application/dicom\r\nX: --{BOUNDARY}--")
    assert edge.web("POST", "/studies", {"Content-Type": related()}, head).stored() == [sop_instance_uid(one)]
    many = multipart([b""] * 5000)
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, many)
    assert (answer.status, len(answer.json()["00081198"]["Value"])) == (409, 5000)
    headers = "\r\n".join(f"X-{number}: y" for number in range(200))
    assert edge.web("POST", "/studies", {"Content-Type": related()}, multipart([b"x"], headers=headers)).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/studies/../../../etc/passwd",
        "/studies/1.2.3/../../..//etc/passwd",
        "/studies/%2e%2e/%2e%2e/etc/passwd",
        "/studies/1.2.3%2f..%2f..",
        "/studies/1.2.3/series/1/instances/1/bulkdata/../../../../etc/passwd",
        "/studies/1.2.3/series/1/instances/1/bulkdata/7FE00010/" + "1/00081140/" * 200 + "00080008",
        "/studies/1.2.3/series/1/instances/1/frames/0",
        "/studies/1.2.3/series/1/instances/1/frames/" + ",".join(["1"] * 4000),
        "/studies/" + "1." * 2000,
        "/studies/1.2.3'%20OR%20'1'='1",
        "/studies/%00",
        "/studies/%C3%28",
        "/studies?PatientID=" + "%27" * 300,
        "/studies?" + "&".join(f"includefield={each:08X}" for each in range(0x00100000, 0x00100190)),
        "/studies?StudyDate=99999999-",
        "/studies?StudyInstanceUID=" + ",".join(["1.2.3"] * 1500),
        "/studies?limit=99999999999",
        "/studies?00081199.00081155.00081155.00081155=1",
        "//studies",
        "/STUDIES",
    ],
)
def test_paths_and_queries_that_are_tricks(edge: WebEdge, path: str) -> None:
    assert talk(edge, f"GET /dicom-web{path} HTTP/1.1\r\n{HEAD}\r\n".encode())[0] in (200, 204, 400, 404, 413, 431)
    assert is_alive(edge)


def test_heads_that_are_too_much(edge: WebEdge) -> None:
    lines = "".join(f"X-{number}: {'y' * 50}\r\n" for number in range(1000))
    assert talk(edge, f"GET /dicom-web/studies HTTP/1.1\r\n{HEAD}{lines}\r\n".encode()) in ([431], [])
    accept = "Accept: " + ", ".join(['multipart/related; type="application/dicom"'] * 200)
    assert talk(edge, f"GET /dicom-web/studies/1.2.3 HTTP/1.1\r\n{HEAD}{accept}\r\n\r\n".encode()) == [404]
    look = f"GET /dicom-web/studies/1.2.3 HTTP/1.1\r\n{HEAD}"
    assert talk(edge, f'{look}Accept: "{";=" * 3000}\r\n\r\n'.encode()) == [406]
    ranges = "bytes=" + ",".join("0-1" for _ in range(2000))
    assert talk(edge, f"GET /dicom-web/studies/1.2.3 HTTP/1.1\r\n{HEAD}Range: {ranges}\r\n\r\n".encode()) == [404]
    assert is_alive(edge)


def test_a_body_that_no_disk_holds_is_refused_before_it_is_sent(edge: WebEdge) -> None:
    said = STORE.encode() + b"Expect: 100-continue\r\nContent-Length: 999999999999999999\r\n\r\n"
    assert talk(edge, said) == [413]
    frames = ",".join(["1"] * 10_001)
    assert talk(edge, f"GET /dicom-web/studies/1/series/1/instances/1/frames/{frames} HTTP/1.1\r\n".encode()) == [431]


def test_many_who_say_nothing_do_not_keep_others_out(edge: WebEdge) -> None:
    slow = [socket.create_connection(("127.0.0.1", edge.web_port), 10) for _ in range(40)]
    for each in slow:
        each.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nHost:")
    assert is_alive(edge)
    for each in slow:
        each.close()


def test_noise(edge: WebEdge) -> None:
    chance = random.Random(4)
    for _ in range(60):
        said = bytearray(STORE.encode() + b"Content-Length: 40\r\n\r\n" + chance.randbytes(40))
        for _ in range(chance.randrange(1, 6)):
            said[chance.randrange(len(said))] = chance.randrange(256)
        assert not [each for each in talk(edge, bytes(said)) if each < 300 and each != 204]
    assert is_alive(edge)


def test_the_ledger_has_only_what_was_said_to_be_stored(edge: WebEdge) -> None:
    """After all of the above: each stored object was named as such, and is whole."""
    edge.settle()
    listed = json.loads(edge.cli("studies", "list", "--json").stdout)
    assert listed
    assert edge.cli("verify").returncode == 0
