"""DICOM over TLS: with DCMTK, Orthanc and OpenSSL at the other end, with good certificates and every bad one."""

from __future__ import annotations

import re
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509

from edge.config import load_config
from edge.config.sections import Tls
from edge.dicom import acse, pdu
from edge.dicom.acse import Context, Request
from edge.dicom.scu import Association, Patience
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.dicom.wire import Wire
from edge.errors import PeerError
from edge.network import shares, tls
from edge.network.tls import Certificate, Keyring, TlsError
from edge.scp import listener
from edge.scp.dicomweb.protocol import HttpConnection
from tests.support import scripted
from tests.support.certificates import Authority, Pair
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files, dataset
from tests.support.peers import (
    REPOSITORY,
    Edge,
    Orthanc,
    StoreScp,
    echoscu,
    free_port,
    requires,
    routes_to,
    run,
    storescu,
    wait_until,
)
from tests.support.scripted import ScriptedScp

ECHO = (Context(1, VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)),)
PATIENCE = Patience()


class Site:
    """An authority, its gateway's and its scanner's certificates, and the [tls] table."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "authority")
        self.ca = self.authority.ca
        self.edge = self.authority.issue("edge.test", "edge.test", "127.0.0.1", "localhost")
        self.ct1 = self.authority.issue("ct1.test", "ct1.test")
        self.archive = self.authority.issue("archive.test", "archive.test")

    def files(self, crl: Path | None = None) -> Tls:
        return Tls(certificate=self.edge.certificate, key=self.edge.key, ca=self.ca, crl=crl)

    def table(self, port: int = 2762, crl: Path | None = None) -> str:
        text = f'[tls]\nport = {port}\ncertificate = "{self.edge.certificate}"\nkey = "{self.edge.key}"\n'
        return text + f'ca = "{self.ca}"\n' + (f'crl = "{crl}"\n' if crl else "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Made once; whoever changes its files makes one of his own."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def edge(tmp_path: Path, site: Site) -> Iterator[Receiving]:
    with Receiving(tmp_path, site.table() + CONFIG) as receiving:
        yield receiving


def client(site: Site, pair: Pair | None = None) -> ssl.SSLContext:
    """A caller's context that trusts the site's authority and takes what it is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(site.ca)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def connected(edge: Receiving, context: ssl.SSLContext) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", edge.tls_port), timeout=60)
    return context.wrap_socket(sock, server_hostname="127.0.0.1")


def associated(sock: socket.socket, calling: str = "CT1") -> Wire:
    sock.sendall(acse.request_pdu(Request(calling, "EDGE", ECHO, 0)))
    return Wire(sock, acse.parse_accept(sock.recv(65_536)).max_pdu)


# -- in ---------------------------------------------------------------------------------------------------------------


def test_a_name_that_is_a_structure_harms_nobody(edge: Receiving, site: Site) -> None:
    """RFC 5280 section 4.2.1.6: a directoryName, a registeredID or an otherName may stand among the names."""
    strange = site.authority.issue(
        "ct2.test", "ct1.test", "10.1.2.3", "urn:ct1", "ct1@clinic.test", "/CN=ct1.test", "=1.2.3", "+1.2.3"
    )
    with connected(edge, client(site, strange)) as sock:
        assert associated(sock)


def test_storescu_delivers_over_tls(edge: Receiving, site: Site, tmp_path: Path) -> None:
    sent = ct_files(tmp_path / "ct", 6, 300_000)
    echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca))
    storescu(sent[:3], edge.tls_port, *site.ct1.dcmtk(site.ca))
    storescu(sent[3:], edge.tls_port, *site.ct1.dcmtk(site.ca), "--max-pdu", "4096")
    assert sorted(map(dataset, edge.files())) == sorted(map(dataset, sent))
    echoscu(edge.port)  # and the plain port beside it goes on


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_every_current_profile_of_dcmtk_is_served(edge: Receiving, site: Site, profile: str) -> None:
    echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca), profile)


@pytest.mark.parametrize("profile", ["--profile-aes", "--profile-null"])
def test_retired_profiles_are_refused_or_bettered(edge: Receiving, site: Site, profile: str) -> None:
    """Where such a DCMTK connects, it is with a version and a suite of ours."""
    done = echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca), profile, "--debug", check=False)
    suites = re.findall(r"(?:Ciphersuite|Cipher Suite|Protocol)\W+(\S+)", done.stderr + done.stdout)
    assert done.returncode or not any("CBC" in suite or "NULL" in suite for suite in suites), suites


VERSIONS = {"-tls1": False, "-tls1_1": False, "-tls1_2": True, "-tls1_3": True}


@pytest.mark.parametrize("version", VERSIONS)
def test_only_current_versions_come_in(edge: Receiving, site: Site, version: str) -> None:
    done = s_client(edge.tls_port, site, version, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert ("Verify return code: 0 (ok)" in done.stdout and "Cipher is (NONE)" not in done.stdout) == VERSIONS[version]
    if not VERSIONS[version]:
        assert wait_until(edge.refused, 5, "it is refused") == [
            "no TLS with it: it speaks only versions of TLS older than 1.2"
        ]


@pytest.mark.parametrize(
    ("suite", "taken"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES256-SHA384", False),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", False),
        ("AES256-GCM-SHA384", False),
        ("DHE-RSA-AES256-GCM-SHA384", False),
        ("ECDHE-ECDSA-NULL-SHA", False),
    ],
)
def test_only_the_profile_s_suites_are_taken(edge: Receiving, site: Site, suite: str, taken: bool) -> None:
    done = s_client(edge.tls_port, site, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")
    assert (f"Cipher is {suite}" in done.stdout) == taken
    if taken:
        assert "Compression: NONE" in done.stdout
        assert "TLS session ticket:" not in done.stdout


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_ticket_is_given_to_take_a_session_up_again(edge: Receiving, site: Site, version: ssl.TLSVersion) -> None:
    context = client(site, site.ct1)
    context.maximum_version = version
    with connected(edge, context) as sock:
        associated(sock)  # a ticket would have come before the answer
        assert sock.session is None or not sock.session.has_ticket


def test_nothing_is_negotiated_again(edge: Receiving, site: Site) -> None:
    named = ["-connect", f"127.0.0.1:{edge.tls_port}", "-CAfile", str(site.ca), "-tls1_2"]
    own = ["-cert", str(site.ct1.certificate), "-key", str(site.ct1.key)]
    command = [requires("openssl"), "s_client", *named, *own]
    done = subprocess.run(command, input="R\n", capture_output=True, text=True, timeout=60, check=False)
    assert "RENEGOTIATING" in done.stderr
    assert "no renegotiation" in done.stderr


def test_a_key_may_be_a_systemd_credential(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    held = tmp_path / "credentials"
    held.mkdir()
    shutil.copy(site.edge.key, held / "edge.key")
    (held / "edge.key").chmod(0o440)  # as systemd makes them: the directory guards it
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(held))
    text = site.table().replace(f'"{site.edge.key}"', '"edge.key"')
    with Receiving(tmp_path, text + CONFIG) as edge:
        echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca))


def s_client(port: int, site: Site, *args: str) -> subprocess.CompletedProcess[str]:
    named = ["-connect", f"127.0.0.1:{port}", "-CAfile", str(site.ca)]
    own = ["-cert", str(site.ct1.certificate), "-key", str(site.ct1.key)]
    return run([requires("openssl"), "s_client", *named, *own, *args], check=False)


def strangers(site: Site) -> dict[str, tuple[Pair | None, str]]:
    other = Authority(site.directory / "other", "Another CA")
    issue = site.authority.issue
    revoked = issue("revoked.test", file="revoked-in")
    site.authority.revoke(revoked)
    return {
        "none": (None, "it shows no certificate"),
        "expired": (issue("expired.test", days=-2), "its certificate has expired"),
        "revoked": (revoked, "its certificate is revoked"),
        "other CA": (other.issue("ct1.test"), "its certificate comes from an authority that tls.ca does not hold"),
        "server only": (issue("server.test", uses=[tls_server()]), "its certificate is not made for this use"),
    }


def tls_server() -> x509.ObjectIdentifier:
    return x509.oid.ExtendedKeyUsageOID.SERVER_AUTH


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_has_no_good_certificate_gets_no_association(tmp_path: Path, site: Site, version: ssl.TLSVersion) -> None:
    cases = strangers(site)
    with Receiving(tmp_path, site.table(crl=site.authority.directory / "ca.crl") + CONFIG) as edge:
        for name, (pair, why) in cases.items():
            context = client(site, pair)
            context.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)), connected(edge, context) as sock:
                associated(sock)
            told = wait_until(edge.refused, 5, f"{name} is refused")
            assert told[0].startswith(f"no TLS with it: {why}"), name
            assert listed(edge)[0].startswith(why), name
        with connected(edge, client(site, site.ct1)) as sock:
            assert associated(sock).fragment_out


def listed(edge: Receiving) -> list[str]:
    """What callers lack that were refused before they said who they are, as the list of equipment has it."""
    work = edge.callers.take()
    if work is not None:
        edge.db.write(work)
    return [row[0] for row in edge.rows("SELECT refused FROM peer WHERE ae_title = '' AND NOT admitted")]


def test_who_only_leaves_in_the_handshake_is_no_equipment(edge: Receiving) -> None:
    socket.create_connection(("127.0.0.1", edge.tls_port)).close()
    with socket.create_connection(("127.0.0.1", edge.tls_port)) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00")
    (why,) = edge.refused()
    assert "it closed the connection in the handshake" in why
    assert listed(edge) == []


def test_an_expired_revocation_list_lets_nobody_in_and_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with Receiving(tmp_path, site.table(crl=site.authority.revoke(days=-1)) + CONFIG) as edge:
        assert echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca), check=False).returncode
        assert edge.refused() == ["no TLS with it: the revocation list (tls.crl) has expired: have a new one issued"]


def test_plain_and_tls_meet_at_the_wrong_port(edge: Receiving, site: Site) -> None:
    assert echoscu(edge.tls_port, check=False).returncode
    assert edge.refused() == ["it speaks DICOM without TLS, this port takes TLS only"]
    assert listed(edge) == ["it speaks DICOM without TLS, this port takes TLS only"]
    assert echoscu(edge.port, *site.ct1.dcmtk(site.ca), check=False).returncode
    assert edge.refused() == ["its first byte is 0x16, not an A-ASSOCIATE-RQ (it speaks TLS, this port does not)"]


def test_the_certificate_decides_beside_title_and_address(tmp_path: Path, site: Site) -> None:
    text = CONFIG.replace('ae_title = "*"', 'ae_title = "CT1"\ncertificate = "ct1.test"')
    with Receiving(tmp_path, site.table() + text) as edge:
        echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca))
        rejected = "Reason: Calling AE Title Not Recognized"  # the same as for a stranger
        assert rejected in echoscu(edge.tls_port, *site.archive.dcmtk(site.ca), check=False).stderr
        assert rejected in echoscu(edge.port, check=False).stderr
        assert rejected in echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca), calling="MR1", check=False).stderr
        assert edge.refused(3) == [
            "its certificate ('archive.test') is not the one that the configuration names",
            "it must call over TLS",
            "unknown equipment",
        ]


def test_silent_tls_callers_keep_nobody_waiting(edge: Receiving, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 600.0)
    silent = [socket.create_connection(("127.0.0.1", edge.tls_port)) for _ in range(200)]
    for sock in silent[::2]:
        sock.sendall(b"\x16\x03\x01\x02\x00")  # half a ClientHello
    threads = threading.active_count()
    echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca))
    assert threading.active_count() <= threads + 1
    assert 0 < len(edge.door._waiting) <= shares.UNASSOCIATED.each, "they still wait"
    for sock in silent:
        sock.close()


def test_a_handshake_has_its_time(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.2)
    with (
        Receiving(tmp_path, site.table() + CONFIG) as edge,
        socket.create_connection(("127.0.0.1", edge.tls_port), timeout=60) as half,
        connected(edge, client(site, site.ct1)) as idle,
    ):
        half.sendall(b"\x16\x03\x01")
        assert half.recv(1) == b""
        assert idle.recv(1) == b""
        wait_until(lambda: not edge.door._waiting, 5, "both are gone")
        assert sorted(edge.refused(2)) == ["no A-ASSOCIATE-RQ within 0 s", "no TLS handshake within 0 s"]


def test_a_request_may_come_byte_by_byte(edge: Receiving, site: Site) -> None:
    with connected(edge, client(site, site.ct1)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in acse.request_pdu(Request("CT1", "EDGE", ECHO, 0)):
            sock.sendall(bytes([byte]))
        assert sock.recv(1) == b"\x02"


def test_what_comes_behind_the_request_is_not_lost(edge: Receiving, site: Site) -> None:
    """One TLS record may hold the request and the first message: then nothing more arrives at the socket."""
    with connected(edge, client(site, site.ct1)) as sock:
        request = acse.request_pdu(Request("CT1", "EDGE", ECHO, 0))
        sock.sendall(request + pdu.release_rq())
        answer = b""
        while not answer.endswith(pdu.release_rp()):
            piece = sock.recv(65_536)
            assert piece, answer
            answer += piece


# -- the wire ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(site: Site) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    yield from handshake(Keyring(site.files()))


def handshake(keyring: Keyring) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A caller and a listener, connected."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        near = socket.create_connection(server.getsockname())
        far = server.accept()[0]
        far.settimeout(60)
        found: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: found.append(keyring.client_for("edge.test")(near, 10)))
        thread.start()
        listening = stack.enter_context(keyring.listening.wrap_socket(far, server_side=True))
        thread.join()
        yield stack.enter_context(found[0]), listening


def test_an_idle_wire_is_quiet_and_pending_bytes_are_not(pair: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    near, far = pair
    wire = Wire(far)
    assert not wire.has_something(0.0)
    near.sendall(pdu.abort() + pdu.release_rq() + pdu.release_rq())
    assert far.recv(10) == pdu.abort()  # as the door does: the rest of the record stays in OpenSSL
    assert wire.has_something(0.0)
    for _ in range(2):
        assert wire.has_something(0.0)
        with pytest.raises(pdu.Released):
            wire.read_command(5)
    assert not wire.has_something(0.0)
    near.close()
    assert wire.has_something(5.0)


def test_what_tls_says_to_itself_is_no_message(site: Site) -> None:
    """Session tickets come after the handshake: the socket can be read, but there is nothing for us."""
    keyring = Keyring(site.files())
    keyring.listening.num_tickets = 2
    keyring.listening.options &= ~ssl.OP_NO_TICKET
    for near, far in handshake(keyring):
        far.sendall(b"")
        wire = Wire(near)
        readable = select.poll()
        readable.register(near, select.POLLIN)
        assert readable.poll(5000)
        assert not wire.has_something(0.1)
        far.sendall(pdu.release_rq())
        assert wire.has_something(5.0)
        with pytest.raises(pdu.Released):
            wire.read_command(5)


def test_hanging_up_from_another_thread_sends_nothing_in_clear(pair: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    near, far = pair
    wire = Wire(far)
    wire.hang_up(socket.SHUT_RD)
    wire.abort()
    raw = b""
    while piece := socket.socket.recv(near, 65_536):
        raw += piece
    assert raw[:1] == b"\x17"  # a TLS record of application data
    assert pdu.abort() not in raw


def test_a_web_door_that_is_ended_meanwhile_sends_nothing_in_clear(pair: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    """The gateway stops while patients' images go out, or the caller's place is wanted as its next request comes."""
    near, far = pair
    connection = HttpConnection(far, bytearray(), "192.0.2.1")
    connection.hang_up()
    connection.refuse(HTTPStatus.OK, "of a patient")
    connection.linger()
    far.close()
    raw = b""
    while piece := socket.socket.recv(near, 65_536):
        raw += piece
    assert raw[:1] == b"\x17"  # a TLS record of application data
    assert b"of a patient" not in raw


def test_a_call_that_is_killed_ends(site: Site) -> None:
    files = site.files()
    with SecureScp(Keyring(files), stores=[scripted.never_answer]) as scp:
        association = called(site, scp.port, "edge.test")
        timer = threading.Timer(0.2, association.kill)
        timer.start()
        with pytest.raises(PeerError, match="closed the connection"):
            association.wire.read_command(60)
        timer.join()
        association.abort()


class SecureScp(ScriptedScp):
    """The scripted archive behind TLS."""

    def __init__(self, keyring: Keyring, **script: object) -> None:
        super().__init__(**script)  # type: ignore[arg-type]
        self._keyring = keyring

    def _serve(self, sock: socket.socket) -> None:
        try:
            super()._serve(self._keyring.listening.wrap_socket(sock, server_side=True))
        except OSError:
            sock.close()


# -- out --------------------------------------------------------------------------------------------------------------


def called(site: Site, port: int, name: str, crl: Path | None = None) -> Association:
    caller = Keyring(site.files(crl)).client_for(name)
    return Association.open("127.0.0.1", port, "EDGE", "ARCHIVE", ECHO, patience=PATIENCE, secure=caller)


def answers(site: Site, running: ExitStack, directory: Path, pair: Pair, ca: Path | None = None) -> StoreScp:
    return running.enter_context(StoreScp(directory, args=pair.dcmtk(ca or site.ca)))


def test_we_call_an_archive_and_know_when_its_certificate_ends(site: Site, tmp_path: Path, running: ExitStack) -> None:
    archive = answers(site, running, tmp_path / "archive", site.archive)
    caller = Keyring(site.files()).client_for("archive.test")
    association = Association.open("127.0.0.1", archive.port, "EDGE", "ARCHIVE", ECHO, secure=caller)
    assert association.echo(1) == 0
    assert association.is_quiet()
    association.release()
    assert caller.expires == site.archive.x509.not_valid_after_utc.timestamp()


def test_bad_archives_are_named(site: Site, tmp_path: Path, running: ExitStack) -> None:
    issue, other = site.authority.issue, Authority(tmp_path / "other", "Another CA")
    revoked = issue("archive.test", "archive.test", file="revoked-out")
    crl = site.authority.revoke(revoked)
    expired = issue("archive.test", "archive.test", days=-1, file="expired-out")
    cases = [
        (site.ct1, site.ca, 'its certificate does not name "archive.test": see tls_name'),
        (expired, site.ca, "its certificate has expired"),
        (revoked, site.ca, "its certificate is revoked"),
        (other.issue("archive.test", "archive.test"), site.ca, "an authority that tls.ca does not hold"),
        (site.archive, other.ca, "it does not know the authority that issued our certificate|does not accept our cert"),
    ]
    for number, (pair, trusted, why) in enumerate(cases):
        archive = answers(site, running, tmp_path / str(number), pair, trusted)
        with pytest.raises(PeerError, match=why):
            called(site, archive.port, "archive.test", crl)


def test_an_archive_without_tls_is_named_and_one_with_tls_too(site: Site, tmp_path: Path, running: ExitStack) -> None:
    plain = running.enter_context(StoreScp(tmp_path / "plain"))
    with pytest.raises(PeerError, match=r"it does not speak TLS (there|on this port)"):
        called(site, plain.port, "archive.test")
    secured = answers(site, running, tmp_path / "secured", site.archive)
    with pytest.raises(PeerError, match="DICOM over TLS"):
        Association.open("127.0.0.1", secured.port, "EDGE", "ARCHIVE", ECHO, patience=PATIENCE)


@pytest.mark.parametrize("version", VERSIONS)
def test_only_current_versions_go_out(site: Site, version: str) -> None:
    port = free_port()
    own = ["-cert", str(site.archive.certificate), "-key", str(site.archive.key), "-CAfile", str(site.ca)]
    weak = ["-cipher", "ALL:@SECLEVEL=0"] if version != "-tls1_3" else []
    command = [requires("openssl"), "s_server", "-port", str(port), *own, "-Verify", "1", version, *weak, "-quiet"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        sock = wait_until(lambda: _connects(port), 10, "s_server listens")
        if VERSIONS[version]:
            with Keyring(site.files()).client_for("archive.test")(sock, 5) as secured:
                assert secured.version() == version.replace("-tls1_", "TLSv1.")
        else:
            with pytest.raises(PeerError, match=r"versions of TLS older than 1\.2"):
                Keyring(site.files()).client_for("archive.test")(sock, 5)
    finally:
        server.kill()
        server.wait(10)


def _connects(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), 5)
    except OSError:
        return None


def test_a_silent_tls_server_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        with pytest.raises(PeerError, match="it was silent in the handshake"):
            Keyring(site.files()).client_for("archive.test")(sock, 0.2)


# -- our own files ----------------------------------------------------------------------------------------------------


def test_dates_are_read_as_openssl_reads_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for days in (-400.0, 1.0, 365 * 40.0):  # UTCTime and GeneralizedTime
        pair = authority.issue("a.test", days=days)
        assert tls.expires(pair.certificate) == pair.x509.not_valid_after_utc.timestamp()
    path = authority.revoke(days=7)
    read = x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    assert read is not None
    assert tls.expires(path) == read.timestamp()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.issue("b.test", days=3).certificate.read_bytes() + authority.ca.read_bytes())
    assert tls.expires(chain) == tls.expires(tmp_path / "b.pem")


@pytest.mark.parametrize(
    "damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30" * 99]
)
def test_what_holds_no_certificate_is_said(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.pem").write_bytes(damage)
    with pytest.raises(TlsError, match=r"x\.pem holds no certificate in PEM"):
        tls.expires(tmp_path / "x.pem")


CT1 = Certificate(("ct1", "ct1.example.org", "10.10.4.21", "urn:dev:ct1"), "sha256:" + "ab" * 32, 0.0)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("CT1", True),
        ("ct1.example.org", True),
        ("*.example.org", True),
        ("10.10.4.21", True),
        ("urn:dev:*", True),
        ("*", True),
        ("sha256:" + "ab" * 32, True),
        ("sha256:" + "ac" * 32, False),
        ("ct2", False),
        ("example.org", False),
        ("ct", False),
    ],
)
def test_what_a_certificate_fits(pattern: str, fits: bool) -> None:
    assert CT1.fits(pattern) == fits


def own_site(directory: Path) -> Site:
    return Site(directory / "own")


@pytest.mark.parametrize(
    ("damage", "key", "text"),
    [
        (lambda site: site.edge.key.unlink(), "key", "cannot be read: No such file"),
        (lambda site: site.edge.key.chmod(0o640), "key", "chmod 600"),
        (lambda site: shutil.copy(site.ct1.key, site.edge.key), "key", "is not the key of the certificate"),
        (lambda site: site.edge.key.write_text("no key"), "key", "is not a private key in PEM without a password"),
        (lambda site: encrypt(site.edge.key), "key", "is not a private key in PEM without a password"),
        (lambda site: site.edge.certificate.unlink(), "certificate", "cannot be read: No such file"),
        (lambda site: site.edge.certificate.write_text("x"), "certificate", "is not a certificate in PEM"),
        (lambda site: site.authority.issue("edge.test", weak=True), "certificate", "is too weak"),
        (lambda site: site.ca.unlink(), "ca", "cannot be read: No such file"),
        (lambda site: site.ca.write_text("x"), "ca", "is not a certificate in PEM"),
        (lambda site: site.authority.revoke().write_text("x"), "crl", "is not a revocation list in PEM"),
    ],
)
def test_bad_files_are_named_with_their_key(
    tmp_path: Path, damage: Callable[[Site], object], key: str, text: str
) -> None:
    site = own_site(tmp_path)
    site.authority.revoke()
    damage(site)
    with pytest.raises(TlsError, match=text) as raised:
        Keyring(site.files(crl=site.authority.directory / "ca.crl"))
    assert raised.value.key == key


def encrypt(key: Path) -> None:
    clear = shutil.copy(key, key.with_suffix(".clear"))
    run([requires("openssl"), "pkey", "-in", clear, "-aes256", "-passout", "pass:x", "-out", str(key)])


def test_changed_files_are_used_once_they_rest_and_bad_ones_never(tmp_path: Path) -> None:
    site = own_site(tmp_path)
    keyring = Keyring(site.files())
    first = keyring.listening
    keyring.refresh()
    assert keyring.listening is first
    shutil.copy(site.ct1.certificate, site.edge.certificate)  # its key is still to come
    for _ in range(3):
        keyring.refresh()
    assert keyring.listening is first
    assert "is not the key of the certificate" in keyring.trouble
    site.edge.key.unlink()
    keyring.refresh()
    shutil.copy(site.ct1.key, site.edge.key)
    keyring.refresh()
    assert keyring.listening is first, "it may still be changing"
    keyring.refresh()
    assert keyring.listening is not first
    assert keyring.trouble == ""


def test_a_key_whose_mode_was_corrected_is_used(tmp_path: Path) -> None:
    """The remedy that the log names, chmod, changes nothing of the file's content."""
    site = own_site(tmp_path)
    keyring = Keyring(site.files())
    first = keyring.listening
    shutil.copy(site.ct1.certificate, site.edge.certificate)
    shutil.copy(site.ct1.key, site.edge.key)
    site.edge.key.chmod(0o644)
    for _ in range(2):
        keyring.refresh()
    assert "chmod 600" in keyring.trouble
    site.edge.key.chmod(0o600)
    for _ in range(2):
        keyring.refresh()
    assert keyring.trouble == ""
    assert keyring.listening is not first


def test_a_revocation_takes_effect_for_the_next_association(tmp_path: Path) -> None:
    site = own_site(tmp_path)
    crl = site.authority.revoke()
    with Receiving(tmp_path, site.table(crl=crl) + CONFIG) as edge:
        with connected(edge, client(site, site.ct1)) as sock:
            wire = associated(sock)
            site.authority.revoke(site.ct1)
            assert edge.keyring is not None
            for _ in range(2):
                edge.keyring.refresh()
            wire.send_raw(pdu.release_rq())  # the open one goes on
            assert sock.recv(10)[0] == pdu.A_RELEASE_RP
        assert echoscu(edge.tls_port, *site.ct1.dcmtk(site.ca), check=False).returncode
        assert edge.refused() == ["no TLS with it: its certificate is revoked"]


# -- the whole gateway ------------------------------------------------------------------------------------------------


def test_everything_over_tls_with_a_reload_under_load(tmp_path: Path, running: ExitStack) -> None:
    site, port = own_site(tmp_path), free_port()
    archive = answers(site, running, tmp_path / "archive", site.archive)
    config = site.table(port) + '[listen]\nplain = false\n[modality.ct]\nae_title = "CT1"\ncertificate = "ct1.test"\n'
    config += routes_to(archive, more='tls = true\ntls_name = "archive.test"')
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    assert _connects(edge.port) is None, "the plain port is closed"
    sent = ct_files(tmp_path / "ct", 400, 40_000)
    threads = [threading.Thread(target=storescu, args=(sent[at::4], port, *site.ct1.dcmtk(site.ca))) for at in range(4)]
    for thread in threads:
        thread.start()
    site.authority.issue("edge.test", "127.0.0.1", days=99)  # over the old one
    edge.reload()
    for thread in threads:
        thread.join()
    shown = wait_until(lambda: certificate_at(port, site), 10, "the new certificate is shown")
    assert shown == (site.authority.directory / "edge.pem").read_text()
    wait_until(lambda: len(archive.files()) == 400, 60, "all are at the archive")
    site.edge.key.write_text("rubbish")
    edge.reload()
    wait_until(lambda: "is not a private key" in edge.output(), 10, "it says that the new key is bad")
    echoscu(port, *site.ct1.dcmtk(site.ca))
    assert ":4: tls.key:" in edge.output()
    assert echoscu(port, *site.archive.dcmtk(site.ca), check=False).returncode
    (alert,) = wait_until(
        lambda: [each for each in edge.api_status()["alerts"] if "CT1" in each["subject"]], 10, "told"
    )
    assert '"CT1" at 127.0.0.1 called and was refused' in alert["text"]
    assert "its certificate ('archive.test') is not the one" in alert["text"]


def certificate_at(port: int, site: Site) -> str:
    done = s_client(port, site, "-showcerts")
    return "".join(re.findall(r"-----BEGIN.*?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)[:1])


def test_orthanc_stores_and_commits_over_tls(tmp_path: Path, site: Site, running: ExitStack) -> None:
    port, other = free_port(), site.authority.issue("orthanc.test", "orthanc.test")
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(other.certificate),
        "DicomTlsPrivateKey": str(other.key),
        "DicomTlsTrustedCertificates": str(site.ca),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {"edge": {"AET": "EDGE", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}},
    }
    orthanc = running.enter_context(Orthanc(tmp_path / "orthanc", port, **settings))
    more = 'tls = true\ntls_name = "orthanc.test"\ncertificate = "orthanc.test"'
    config = site.table(port) + routes_to(orthanc, confirm="commitment", more=more)
    edge = running.enter_context(Edge(tmp_path / "edge", config))
    sent = ct_files(tmp_path / "ct", 20, 100_000)
    storescu(sent, port, *site.ct1.dcmtk(site.ca))
    wait_until(lambda: edge.api_status()["destinations"]["orthanc"]["confirmed"] == 20, 60, "Orthanc has committed")
    assert orthanc.count() == 20
    echo = edge.cli("echo", "orthanc")
    assert (echo.returncode, "C-ECHO" in echo.stdout) == (0, True)


def test_last_error_and_echo_say_why_there_is_no_tls(tmp_path: Path, site: Site, running: ExitStack) -> None:
    archive = answers(site, running, tmp_path / "archive", site.archive)
    config = site.table(free_port()) + routes_to(archive, more="tls = true")
    edge = running.enter_context(Edge(tmp_path / "edge", config))
    storescu(ct_files(tmp_path / "ct", 1, 10_000), edge.port)
    why = 'its certificate does not name "127.0.0.1": see tls_name'
    told = wait_until(lambda: edge.api_status()["destinations"]["archive"]["last_error"], 20, "it says why")
    assert why in told
    assert why in re.sub(r"\s+", " ", edge.cli("echo", "archive").stdout)


def test_check_names_bad_files_and_what_expires(tmp_path: Path) -> None:
    site = own_site(tmp_path)
    crl = site.authority.revoke(days=1)
    edge = Edge(tmp_path / "edge", site.table(crl=crl) + '[modality.ct1]\nae_title = "CT1"\nservices = ["query"]\n')
    done = edge.cli("check")
    assert done.returncode == 0, done.stderr
    assert re.search(r"10-test\.toml:6: tls\.crl: .* expires on .*: have a new one issued before", done.stdout)
    assert "modality.ct1.services: query has no effect yet" in done.stdout
    site.authority.issue("edge.test", days=-1, file="edge")
    done = edge.cli("check")
    assert re.search(r"tls\.certificate: .* has expired on .*: renew it", done.stdout)
    shutil.copy(site.ct1.key, site.edge.key)
    done = edge.cli("check")
    assert done.returncode == 2
    assert re.search(r"10-test\.toml:4: tls\.key: .* is not the key of the certificate", done.stderr)
    assert re.search(r"10-test\.toml:4: tls\.key: ", edge.cli("run").stderr), "nothing starts half-configured"


def test_check_and_start_name_every_missing_file(tmp_path: Path) -> None:
    site = own_site(tmp_path)
    edge = Edge(tmp_path / "edge", site.table())
    for path in (site.edge.certificate, site.edge.key, site.ca):
        path.unlink()
    for command in ("check", "run"):
        done = edge.cli(command)
        assert done.returncode == 2
        found = re.findall(r"10-test\.toml:\d+: tls\.(\w+): .* cannot be read: No such file", done.stderr)
        assert found == ["certificate", "key", "ca"]


# -- the manual -------------------------------------------------------------------------------------------------------

MANUAL = (REPOSITORY / "docs" / "manual.md").read_text("utf-8")


def test_the_manual_s_authority_makes_what_is_needed(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```sh\n(.*?)```", MANUAL, re.DOTALL)
    run(["bash", "-ec", f"cd {tmp_path}\n{recipe}"])
    made = tmp_path / "ca"
    ca, crl = made / "site-ca.pem", made / "site-ca.crl"
    pair = Pair(made / "edge.example.org.pem", made / "edge.example.org.key")
    assert pair.key.stat().st_mode & 0o077 == 0
    site = Site(tmp_path / "other")
    site.edge, site.ca = pair, ca
    site.ct1 = Pair(made / "ct1.example.org.pem", made / "ct1.example.org.key")
    text = CONFIG.replace('ae_title = "*"', 'ae_title = "CT1"\ncertificate = "ct1.example.org"')
    with Receiving(tmp_path, site.table(crl=crl) + text) as edge:
        assert called_at(site, edge.tls_port, "10.10.1.2") == 0
        assert edge.keyring is not None
        run(["bash", "-ec", f"cd {made}\n" + "\n".join(re.findall(r"`(openssl ca [^`]*-revoke [^`]*)`", MANUAL))])
        run(["bash", "-ec", f"cd {made}\nopenssl ca -config ca.cnf -gencrl -out site-ca.crl"])
        for _ in range(2):
            edge.keyring.refresh()
        assert echoscu(edge.tls_port, *site.ct1.dcmtk(ca), check=False).returncode
        assert edge.refused() == ["no TLS with it: its certificate is revoked"]


def called_at(site: Site, port: int, name: str) -> int:
    """C-ECHO as CT1, whose certificate it shows."""
    files = Tls(certificate=site.ct1.certificate, key=site.ct1.key, ca=site.ca)
    caller = Keyring(files).client_for(name)
    association = Association.open("127.0.0.1", port, "CT1", "EDGE", ECHO, patience=PATIENCE, secure=caller)
    status = association.echo(1)
    association.release()
    return status


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", MANUAL, re.DOTALL))
def test_the_manual_s_tables_are_configuration(tmp_path: Path, block: str) -> None:
    rest = "" if "[tls]" in block else "[tls]\ncertificate = 'a'\nkey = 'b'\nca = 'c'\n"
    for table in ("modality.ct1", "destination.ris", "destination.archive"):
        port = "port = 104\n" if table.startswith("destination") else ""
        peer = f'ae_title = "{table[-5:].upper()}"\nhost = "10.0.0.9"\n'
        rest += "" if f"[{table}]" in block else f"[{table}]\n{peer}{port}"
    (tmp_path / "a.toml").write_text(f'[site]\nid = "1"\ndata_dir = "data"\n{rest}{block}')
    load_config(tmp_path)
