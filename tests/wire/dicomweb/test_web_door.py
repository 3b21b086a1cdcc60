"""The web door as such: who is admitted, over TLS too, and what a caller that is odd, slow or early gets."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from edge.config.sections import WebClient
from edge.network.tls import Certificate
from edge.scp.dicomweb.access import identify_client, token_digest
from tests.support.certificates import Authority, Pair
from tests.support.objects import ct_files
from tests.support.peers import free_port, wait_until
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


@dataclass(frozen=True)
class SecureSite:
    """A gateway whose web door speaks TLS, and what a caller has."""

    edge: WebEdge
    config: str
    authority: Authority
    theirs: Pair

    @property
    def url(self) -> str:
        return f"https://localhost:{self.edge.web_port}/dicom-web/studies"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.ca))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSite]:
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder)
    ours, theirs = authority.issue("localhost"), authority.issue("pacs.example.org")
    config = (
        f'[tls]\nport = {free_port()}\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\n'
        f'ca = "{authority.ca}"\n'
        '[client.pacs]\ncertificate = "pacs.example.org"\nservices = ["store"]\n'
        '[client.some]\ncertificate = "*"\nservices = ["store"]\n'
    )
    with WebEdge(folder / "edge", config) as edge:
        yield SecureSite(edge, (edge.config_dir / "10-test.toml").read_text(), authority, theirs)


def test_over_tls_by_token_and_by_certificate(secure: SecureSite, tmp_path: Path) -> None:
    """Who shows no certificate has none, even where any would do: and none that ends soon."""
    body = multipart([path.read_bytes() for path in ct_files(tmp_path / "ct", 2, 4096)])
    context, port = secure.context(), secure.edge.web_port
    with httpx.Client(verify=context) as client:
        assert client.post(secure.url, content=body, headers={"Content-Type": related()}).status_code == 401
        headers = {"Content-Type": related(), "Authorization": f"Bearer viewer-{TOKEN}"}
        answer = client.post(secure.url, content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["00081190"]["Value"][0].startswith(f"https://localhost:{port}/dicom-web/")
    context.load_cert_chain(secure.theirs.certificate, secure.theirs.key)
    with httpx.Client(verify=context) as client:
        assert client.post(secure.url, content=body, headers={"Content-Type": related()}).status_code == 200
        assert client.get(secure.url).status_code == 403
    assert talk_plain(port) == b""
    said = ("it shows no token", "it asks for query, which its services do not name")
    wait_until(lambda: all(each in secure.edge.log.read_text() for each in said), 5, "both refusals are on record")
    ends = wait_until(lambda: _list_ends(secure.edge), 20, "who called is known", interval=0.5)
    assert (ends["viewer"], bool(ends["pacs"])) == (None, True)


def _list_ends(edge: WebEdge) -> dict[str, str | None]:
    """When the certificates end with which clients have called; empty: not both of them are known yet."""
    listed = json.loads(edge.cli("clients", "list", "--json").stdout)
    found = {each["name"]: each["certificate_expires_at"] for each in listed if each["last_seen_at"]}
    return found if len(found) == 2 else {}


def test_a_gateway_without_room_says_when_to_come_again(secure: SecureSite, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 4096)
    secure.edge.configure(f"{secure.config}[storage]\nwarn = 0.0001\nrefuse = 0.0002\n")
    secure.edge.reload()
    headers = {"Content-Type": related(), "Authorization": f"Bearer viewer-{TOKEN}"}
    with httpx.Client(verify=secure.context()) as client:

        def post() -> httpx.Response:
            return client.post(secure.url, content=multipart([path.read_bytes()]), headers=headers)

        wait_until(lambda: post().status_code == 503, 10, "it is refused", interval=0.2)
        assert post().headers["retry-after"] == "30"


def talk_plain(port: int) -> bytes:
    """What a caller without TLS gets at the port for TLS."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return sock.recv(100)
        except ConnectionResetError:
            return b""
