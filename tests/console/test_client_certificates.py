"""People sign in by a client certificate, beside passwords; one that is revoked, or of nobody, does not."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import ocsp

from edge.network.tls import TlsError
from edge.web.client_certificates import ask_for_certificates, certificate_user, page_context
from edge.web.ocsp import GOOD_SECONDS, OcspResponder
from edge.web.x509 import split_pem
from tests.support.central_office import CentralOffice
from tests.support.certificates import Authority, Pair
from tests.support.peers import Edge, free_port, listens, wait_until

CAC = "DOE.JANE.Q.1234567890"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize(
    ("name", "rule", "user"),
    [
        (CAC, "cn", CAC),
        (CAC, "edipi", "1234567890"),
        ("anna", "edipi", ""),
        ("DOE.JANE.12345", "edipi", ""),
        ("DOE.JANE.12345678901", "edipi", ""),
    ],
)
def test_whose_certificate_it_is(name: str, rule: str, user: str) -> None:
    assert certificate_user({"subject": ((("commonName", name),),)}, rule) == user


def test_a_certificate_with_two_names_is_nobodys() -> None:
    fields = {"subject": ((("commonName", "anna"),), (("commonName", "bob"),))}
    assert certificate_user(fields, "cn") == certificate_user({}, "cn") == ""


def test_the_principal_name_of_a_certificate_is_read_and_only_where_there_is_one(authority: Authority) -> None:
    for others, user in (
        (("upn=1234567890@mil", "jane@example.org"), "1234567890@mil"),
        (("upn=a@mil", "upn=b@mil"), ""),
        (("+1.2.3", "host.example.org"), ""),
        ((), ""),
    ):
        pair = authority.issue("jane", *others, file="upn")
        der = _der(pair)
        assert certificate_user({}, "upn", der) == user
        for at in range(0, len(der), 7):  # damage is nobody's, and no fault
            certificate_user({}, "upn", der[:at])
            certificate_user({}, "upn", der[:at] + bytes((der[at] ^ 0xFF,)) + der[at + 1 :])


class Responder:
    """`openssl ocsp` as the authority's responder; `revoked`: certificates of which it says so."""

    def __init__(self, authority: Authority, folder: Path, known: Sequence[Pair], revoked: Sequence[Pair] = ()) -> None:
        folder.mkdir()
        lines = [f"V\t991231235959Z\t\t{_serial(each)}\tunknown\t/CN=x" for each in known]
        lines += [f"R\t991231235959Z\t250101000000Z\t{_serial(each)}\tunknown\t/CN=x" for each in revoked]
        (folder / "index.txt").write_text("\n".join(lines) + "\n")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = ["openssl", "ocsp", "-index", str(folder / "index.txt"), "-port", str(self.port), "-nmin", "5"]
        command += ["-CA", str(authority.ca), "-rsigner", str(authority.ca), "-rkey", str(authority.key_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Responder:
        wait_until(lambda: listens(self._process.pid, self.port), 10, "the responder listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _serial(pair: Pair) -> str:
    text = f"{pair.x509.serial_number:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def _der(pair: Pair) -> bytes:
    return split_pem(pair.certificate.read_bytes())[0][1]


def test_a_responder_says_who_is_good_and_nobody_is_where_it_does_not_answer(
    tmp_path: Path, authority: Authority
) -> None:
    good, bad, unknown = (authority.issue(name, file=f"ocsp-{name}") for name in ("good", "bad", "unknown"))
    stranger = Authority(tmp_path / "other", "Another CA").issue("good", file="stranger")
    now = 0.0
    with Responder(authority, tmp_path / "first", [good], [bad]) as first:
        asked = OcspResponder(first.url, authority.ca, lambda: now)
        answers = [asked.is_good(_der(each)) for each in (good, bad, unknown, stranger)]
        assert answers == [True, False, False, False]
        other = Authority(tmp_path / "forger", "Test Clinic CA")  # the name is the authority's, the signature is not
        with Responder(other, tmp_path / "second", [good]) as forged:
            assert not OcspResponder(forged.url, authority.ca).is_good(_der(good))
    assert asked.is_good(_der(good))  # what was said holds for a while
    now = GOOD_SECONDS + 1
    assert not asked.is_good(_der(good))


NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("said_at", "holds_until", "is_good"),
    [
        (NOW - HOUR, NOW + HOUR, True),
        (NOW - 3 * HOUR, NOW - HOUR, False),  # an answer of the past, perhaps from before it was revoked
        (NOW + HOUR, NOW + 2 * HOUR, False),
        (NOW - HOUR, None, True),
        (NOW - 25 * HOUR, None, False),  # it does not say until when it holds: a day
        (NOW - 70 * HOUR, NOW + HOUR, True),
    ],
)
def test_a_signed_answer_of_another_time_lets_nobody_in(
    authority: Authority, said_at: datetime, holds_until: datetime | None, is_good: bool
) -> None:
    pair = authority.issue("good", file="fresh")
    issuer = x509.load_pem_x509_certificate(authority.ca.read_bytes())
    key = load_pem_private_key(authority.key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    status, digest = ocsp.OCSPCertStatus.GOOD, hashes.SHA1()
    answer = (
        ocsp.OCSPResponseBuilder()
        .add_response(pair.x509, issuer, digest, status, said_at, holds_until, None, None)
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with _serving(answer) as url:
        assert OcspResponder(url, authority.ca).is_good(_der(pair)) is is_good


@contextmanager
def _serving(body: bytes) -> Iterator[str]:
    """Answers every POST with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/ocsp-response")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def gateway(tmp_path: Path, authority: Authority) -> Iterator[Edge]:
    server = authority.issue("127.0.0.1", "127.0.0.1", file="server")
    authority.revoke()
    text = f"""
[console]
certificate = "{server.certificate}"
key = "{server.key}"
client_ca = "{authority.ca}"
client_crl = "{authority.directory / "ca.crl"}"
certificate_user = "edipi"
"""
    edge = Secure(tmp_path / "edge", text)
    edge.ca = authority.ca
    with edge as made:
        yield made


class Secure(Edge):
    """A gateway whose console speaks TLS."""

    ca: Path

    def url(self, path: str) -> str:
        return super().url(path).replace("http://", "https://")

    def is_ready(self) -> bool:
        try:
            return get(self.ca, self.url("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    def settle(self, seconds: float = 5.0) -> None:
        pass


def get(ca: Path, url: str, pair: Pair | None = None) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    with httpx.Client(verify=context) as client:
        return client.get(url)


def test_the_console_lets_in_the_account_that_the_certificate_names_alone(gateway: Edge, authority: Authority) -> None:
    jane, bob = authority.issue(CAC, file="jane"), authority.issue("DOE.BOB.0000000001", file="bob")
    stranger = Authority(authority.directory / "other").issue(CAC, file="stranger")
    make = ["console", "accounts", "add", "1234567890", "--role", "viewer", "--proxy"]
    assert gateway.cli(*make).returncode == 0
    page = get(authority.ca, gateway.url("/studies"), jane)
    assert (page.status_code, "1234567890" in page.text) == (200, True)
    for pair in (None, bob):  # without, or of somebody without an account: by password
        assert get(authority.ca, gateway.url("/studies"), pair).headers["location"].startswith("/sign-in")
    with pytest.raises(httpx.HTTPError):
        get(authority.ca, gateway.url("/studies"), stranger)
    with ExitStack() as stack:
        authority.revoke(jane)
        stack.callback(authority.revoke)

        def is_refused() -> bool:
            try:
                return get(authority.ca, gateway.url("/studies"), jane).status_code != 200
            except httpx.HTTPError:
                return True

        wait_until(is_refused, 30, "the revoked certificate is refused, without a restart")


def test_bad_files_are_named(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("here", file="here")
    context = page_context(pair.certificate, pair.key)
    with pytest.raises(TlsError, match="not a certificate"):
        ask_for_certificates(context, pair.key, None)
    with pytest.raises(TlsError, match="cannot be used"):
        page_context(pair.key, pair.key)


def test_the_centre_does_the_same(tmp_path: Path, authority: Authority) -> None:
    jane = authority.issue(CAC, file="jane-centre")
    crl = authority.revoke()
    more = f'client_ca = "{authority.ca}"\nclient_crl = "{crl}"\n'
    with CentralOffice(tmp_path / "centre", '[site.a]\nkey = "site.key"\n', more) as centre:
        made = centre.command()[:-1]
        done = subprocess.run(
            [*made, "account", CAC, "--role", "viewer", "--certificate"],
            env=centre.environment(), capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        context = centre.context
        with httpx.Client(verify=context) as plain:
            assert plain.get(f"{centre.url}/").headers["location"].startswith("/sign-in")
        context.load_cert_chain(jane.certificate, jane.key)
        with httpx.Client(verify=context) as shown:
            assert shown.get(f"{centre.url}/").status_code == 200
