"""The web door as such: who is let in, over TLS too, and what a caller that is odd, slow or early gets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge.config.sections import WebClient
from edge.network.tls import Certificate
from edge.scp.dicomweb.access import identify_client, token_digest
from tests.support.certificates import Authority
from tests.support.objects import ct_files
from tests.support.peers import free_port
from tests.support.web_door import TOKEN, WebEdge, multipart, related

CLIENTS = (
    WebClient("one", token="/t", services=("store",)),
    WebClient("two", certificate="two.example.org"),
    WebClient("three", token="/t3", certificate="three.example.org"),
)
DIGESTS = {"one": token_digest(b"first"), "three": token_digest(b"third")}


def shown(name: str) -> Certificate:
    return Certificate((name,), "sha256:00", 0.0)


@pytest.mark.parametrize(
    ("authorization", "certificate", "name"),
    [
        ("Bearer first", None, "client.one"),
        ("bearer  first", None, "client.one"),
        ("Basic first", None, None),
        ("Bearer First", None, None),
        ("Bearer ", None, None),
        ("", None, None),
        ("", shown("two.example.org"), "client.two"),
        ("", shown("four.example.org"), None),
        ("Bearer third", None, None),
        ("Bearer third", shown("three.example.org"), "client.three"),
        ("Bearer first", shown("three.example.org"), "client.one"),
    ],
)
def test_who_calls(authorization: str, certificate: Certificate | None, name: str | None) -> None:
    found = identify_client(CLIENTS, DIGESTS, authorization, certificate)
    assert (found.name if found else None) == name


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebEdge]:
    with WebEdge(tmp_path_factory.mktemp("door")) as running:
        yield running


def talk(edge: WebEdge, *said: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", edge.web_port), 10) as sock:
        for each in said:
            sock.sendall(each)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n", b"401"),
        (b"GET /dicom-web/studies HTTP/1.1\r\n\r\n", b"400"),  # without a Host
        (b"GET http://x/dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n", b"401"),
        (
            b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400",
        ),
        (b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000, b"431"),
        (b"OPTIONS /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n", b"204"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"401"),
    ],
)
def test_what_odd_callers_get(edge: WebEdge, said: bytes, status: bytes) -> None:
    assert talk(edge, said).split(b" ")[1] == status


def test_two_requests_at_once_are_answered_in_order(edge: WebEdge) -> None:
    one = b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n"
    other = b"OPTIONS /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = talk(edge, one + other)
    assert answers.index(b"HTTP/1.1 401") < answers.index(b"HTTP/1.1 204")


def test_who_announces_much_and_may_not_is_told_before_it_sends(edge: WebEdge) -> None:
    head = (
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", edge.web_port), 10) as sock:
        sock.sendall(head)
        assert sock.recv(65536).startswith(b"HTTP/1.1 401")
        assert not sock.recv(65536)  # nothing more is read


def test_what_speaks_tls_to_the_plain_port_is_turned_away(edge: WebEdge) -> None:
    context = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", edge.web_port), 10) as sock, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(sock, server_hostname="localhost")


def test_over_tls_by_token_and_by_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.issue("localhost"), authority.issue("pacs.example.org")
    edge = WebEdge(
        tmp_path / "edge",
        f'[tls]\nport = {free_port()}\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\n'
        f'ca = "{authority.ca}"\n'
        '[client.pacs]\ncertificate = "pacs.example.org"\nservices = ["store"]\n',
    )
    with edge:
        body = multipart([path.read_bytes() for path in ct_files(tmp_path / "ct", 2, 4096)])
        url = f"https://localhost:{edge.web_port}/dicom-web/studies"
        context = ssl.create_default_context(cafile=str(authority.ca))
        with httpx.Client(verify=context) as client:
            assert client.post(url, content=body, headers={"Content-Type": related()}).status_code == 401
            headers = {"Content-Type": related(), "Authorization": f"Bearer viewer-{TOKEN}"}
            answer = client.post(url, content=body, headers=headers)
            assert answer.status_code == 200
            assert answer.json()["00081190"]["Value"][0].startswith(f"https://localhost:{edge.web_port}/dicom-web/")
        context.load_cert_chain(theirs.certificate, theirs.key)
        with httpx.Client(verify=context) as client:
            assert client.post(url, content=body, headers={"Content-Type": related()}).status_code == 200
            assert client.get(url).status_code == 403
        assert talk_plain(edge.web_port) == b""


def talk_plain(port: int) -> bytes:
    """What a caller without TLS gets at the port for TLS."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return sock.recv(100)
        except ConnectionResetError:
            return b""
