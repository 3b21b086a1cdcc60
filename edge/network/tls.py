"""TLS for DICOM, in and out (PS3.15 section B.12, which is BCP 195 with RFC 9325), with certificates on both sides.

TLS 1.2 and 1.3 alone, AES-GCM with ephemeral keys, no compression, renegotiation or session tickets. Only `ssl` and
`hashlib` are used, so that a FIPS-mode OpenSSL stays within its rules.

A `Keyring` holds what the [tls] table names. Files that change are read again by themselves; new ones that cannot be
used change nothing, and `trouble` says why. Associations that are open go on with what they began with.

Limits: OpenSSL chooses among its TLS 1.3 suites, all of them AEAD. Passwords of key files are not asked for.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from edge.config import secret
from edge.config.files import fault_line
from edge.config.sections import Config, Destination, Tls
from edge.errors import ConfigError, PeerError, Permanent
from edge.network.der import read_values

log = logging.getLogger(__name__)

#: For TLS 1.2 (RFC 9325 section 4.2); keys of at least 112 bits of security.
SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
#: What ends so soon is worth a warning; revocation lists live for days or weeks.
SOON_SECONDS = {"certificate": 30 * 86400.0, "ca": 30 * 86400.0, "crl": 2 * 86400.0}
FINGERPRINT = "sha256:"

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?(?:CERTIFICATE|CRL)-----(.+?)-----END", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18


class TlsError(Permanent):
    """A file that [tls] names cannot be used; `key` is the one that names it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"tls.{key}: {text}")
        self.key, self.text = key, text

    def as_config_error(self, config: Config) -> ConfigError:
        """The same fault with the file and line of its key; where files cannot be read, each of them."""
        faults = find_unreadable_files(config.tls) or [self]
        return ConfigError([fault_line(config.lines, ("tls", each.key), each.text) for each in faults])


# -- who the peer is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificate:
    """A peer's certificate, as it was verified in the handshake."""

    names: tuple[str, ...]  # the common name and the alternative names (DNS, URI, IP), in lower case
    fingerprint: str  # SHA-256, as `sha256:` and hexadecimal digits
    expires: float  # seconds since 1970

    def fits(self, pattern: str) -> bool:
        """Is it what a `certificate` key asks for: a fingerprint, or a glob on one of its names?"""
        if pattern.startswith(FINGERPRINT):
            return pattern == self.fingerprint
        return pattern == "*" or any(fnmatchcase(name, pattern.lower()) for name in self.names)

    def __str__(self) -> str:
        return ", ".join(map(repr, self.names)) or self.fingerprint


def certificate_of(sock: socket.socket) -> Certificate | None:
    """The peer's certificate; None where the peer does not speak TLS, or has shown none."""
    der = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    if not isinstance(sock, ssl.SSLSocket) or not der:
        return None
    fields = sock.getpeercert() or {}
    subject: tuple[tuple[tuple[str, str], ...], ...] = fields.get("subject", ())  # type: ignore[assignment]
    others: tuple[tuple[str, str], ...] = fields.get("subjectAltName", ())  # type: ignore[assignment]
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    names += [_plain_address(value) if kind == "IP Address" else value for kind, value in others if kind in _NAME_KINDS]
    fingerprint = FINGERPRINT + hashlib.sha256(der).hexdigest()
    expires = ssl.cert_time_to_seconds(str(fields["notAfter"])) if "notAfter" in fields else 0.0
    return Certificate(tuple(dict.fromkeys(name.lower() for name in names)), fingerprint, float(expires))


#: Alternative names (RFC 5280 section 4.2.1.6) that are one text; a dirName, for one, is a structure.
_NAME_KINDS = frozenset({"DNS", "URI", "IP Address", "email"})


def _plain_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


# -- our own files ----------------------------------------------------------------------------------------------------


class Keyring:
    """Our certificate and the authorities that we trust; see the module's promise. Any thread may read it."""

    def __init__(self, files: Tls) -> None:
        """Raises TlsError."""
        self.trouble, self.trouble_at = "", 0.0  # why changed files are not used, and since when; empty while they are
        self.use(files)

    def use(self, files: Tls) -> None:
        """Read the files now, and use them from now on. Raises TlsError; then nothing has changed."""
        stamp = _stamp(files)
        listening, calling = _context(files, ssl.PROTOCOL_TLS_SERVER), _context(files, ssl.PROTOCOL_TLS_CLIENT)
        web = _context(files, ssl.PROTOCOL_TLS_SERVER)
        web.verify_mode = ssl.CERT_OPTIONAL  # those without a certificate show a token
        self.expires = expires(_path(files, "certificate"))
        self.revocation_expires = expires(files.crl) if files.crl is not None else None
        self.files, self.listening, self.calling, self.web = files, listening, calling, web
        self._read = self._seen = stamp
        self.trouble = ""

    def refresh(self) -> None:
        """Use files that have changed, once they are unchanged since the last call: a pair is seldom replaced at once.

        Called periodically; costs four stat(2).
        """
        before, self._seen = self._seen, _stamp(self.files)
        if self._seen in (self._read, None) or self._seen != before:
            return
        try:
            self.use(self.files)
        except TlsError as error:
            self._read = self._seen  # said once
            self.trouble, self.trouble_at = str(error), time.time()
            log.error("the new certificates cannot be used, the previous ones stay active: %s", error)
        else:
            log.info("the certificates have changed and have been read again")

    def client_for(self, name: str) -> TlsClient:
        """Make the client for a peer whose certificate must bear `name` (a host name or an address)."""
        return TlsClient(self, name)


class TlsClient:
    """Begins TLS on connections to one peer."""

    def __init__(self, keyring: Keyring, name: str) -> None:
        self._keyring, self._name = keyring, name
        self.expires: float | None = None  # when the peer's certificate ends, once it has been seen

    def __call__(self, sock: socket.socket, seconds: float) -> ssl.SSLSocket:
        """The handshake, within `seconds`. Raises PeerError, with `sock` closed."""
        try:
            sock.settimeout(seconds)
            secured = self._keyring.calling.wrap_socket(sock, server_hostname=self._name)
        except OSError as error:
            sock.close()
            raise PeerError(f"no TLS with it: {explain(error, self._name)}") from None
        certificate = certificate_of(secured)
        self.expires = certificate.expires if certificate else None
        return secured


def secure(config: Config, destination: Destination) -> TlsClient | None:
    """Make the TLS client for a destination with `tls = true`, from the files as they are now. Raises PeerError."""
    if not destination.tls:
        return None
    try:
        return Keyring(config.tls).client_for(destination.tls_name or destination.host)
    except TlsError as error:
        raise PeerError(f"our certificates cannot be used: {error}") from None


def _context(files: Tls, protocol: int) -> ssl.SSLContext:
    """A context of our profile. Raises TlsError."""
    certificate, key, ca = (_path(files, each) for each in ("certificate", "key", "ca"))
    try:
        secret.read_secret(key)
    except secret.SecretError as error:
        raise TlsError("key", str(error)) from None
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would not check revocation
    context.verify_mode = ssl.CERT_REQUIRED
    _load_pair(context, certificate, key)
    load_trusted(context, "ca", ca)
    if files.crl is not None:
        load_trusted(context, "crl", files.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        raise TlsError(*_bad_pair(error, certificate, key)) from None
    except OSError as error:
        raise TlsError("certificate", f"{certificate} cannot be read: {error.strerror}") from None


def _bad_pair(error: ssl.SSLError, certificate: Path, key: Path) -> tuple[str, str]:
    """Find which key is at fault, and what is wrong there."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return "key", f"{key} is not the key of the certificate {certificate}"
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
        return "certificate", f"{certificate} is too weak: make a new one with ECDSA P-256, or RSA of 2048 bits or more"
    try:
        expires(certificate)
    except TlsError:
        return "certificate", f"{certificate} is not a certificate in PEM"
    return "key", f"{key} is not a private key in PEM without a password"


def load_trusted(context: ssl.SSLContext, key: str, path: Path) -> None:
    """Trust the certificates of a file, or use its revocation lists (`key` "crl"). Raises TlsError."""
    what = "revocation list" if key == "crl" else "certificate"
    try:
        expires(path)
        context.load_verify_locations(path)
    except (TlsError, ssl.SSLError):
        raise TlsError(key, f"{path} is not a {what} in PEM") from None
    except OSError as error:
        raise TlsError(key, f"{path} cannot be read: {error.strerror}") from None


def find_unreadable_files(files: Tls) -> list[TlsError]:
    """List the files of [tls] that cannot be opened, or are not named."""
    found = []
    for key in ("certificate", "key", "ca", "crl"):
        if key == "crl" and files.crl is None:
            continue
        try:
            _path(files, key).open("rb").close()
        except OSError as error:
            found.append(TlsError(key, f"{getattr(files, key)} cannot be read: {error.strerror}"))
        except TlsError as error:
            found.append(error)
    return found


def _path(files: Tls, key: str) -> Path:
    path = getattr(files, key)
    if not isinstance(path, Path):
        raise TlsError(key, "missing")
    return path


def _stamp(files: Tls) -> tuple[tuple[int, int, int], ...] | None:
    return stamps(path for path in (files.certificate, files.key, files.ca, files.crl) if path is not None)


def stamps(paths: Iterable[Path]) -> tuple[tuple[int, int, int], ...] | None:
    """What changes when one of the files does, or who may read it; None while one is missing."""
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((each.st_ctime_ns, each.st_size, each.st_ino) for each in stats)


# -- dates ------------------------------------------------------------------------------------------------------------


def expires(path: Path) -> float:
    """When the first certificate or revocation list in a PEM file expires, in seconds since 1970.

    Raises TlsError where there is none in it, OSError where it cannot be read.
    """
    try:
        return min([_not_after(base64.b64decode(found)) for found in _PEM.findall(path.read_bytes())])
    except (ValueError, StopIteration):
        raise TlsError("certificate", f"{path} holds no certificate in PEM") from None


def _not_after(der: bytes) -> float:
    """The second time in a Certificate's Validity, or in a CertificateList (RFC 5280 sections 4.1 and 5.1)."""
    outer = next(read_values(der))[1]
    parts = list(read_values(next(read_values(outer))[1]))
    if not any(tag in (_UTC_TIME, _GENERALIZED_TIME) for tag, _ in parts):  # a certificate has them one level deeper
        inside = (list(read_values(content)) for tag, content in parts if tag == _SEQUENCE)
        parts = next(items for items in inside if items and items[0][0] in (_UTC_TIME, _GENERALIZED_TIME))
    times = [_moment(tag, content) for tag, content in parts if tag in (_UTC_TIME, _GENERALIZED_TIME)]
    return times[1] if len(times) > 1 else float("inf")  # a list may leave out when the next one comes


def _moment(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def date_text(moment: float) -> str:
    if moment == float("inf"):
        return "never"
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d")


def expiry_warnings(files: Tls, now: float) -> Iterator[tuple[str, str]]:
    """List usable files that have expired or expire soon: (key of [tls], text)."""
    for key, remedy in (("certificate", "renew it"), ("ca", "replace it"), ("crl", "have a new one issued")):
        path = getattr(files, key)
        if path is None:
            continue
        end = expires(path)
        if end <= now:
            yield key, f"{path} has expired on {date_text(end)}, so no association over TLS succeeds: {remedy}"
        elif end - now < SOON_SECONDS[key]:
            yield key, f"{path} expires on {date_text(end)}: {remedy} before"


# -- what went wrong --------------------------------------------------------------------------------------------------

#: X509_V_ERR_* of OpenSSL: what is wrong with the peer's certificate.
_VERIFIED = {
    3: "no revocation list (tls.crl) of the authority that issued its certificate",
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired",
    11: "the revocation list (tls.crl) is not valid yet: compare the clocks",
    12: "the revocation list (tls.crl) has expired: have a new one issued",
    18: "its certificate is signed by itself, and {ca} does not hold it",
    19: "its certificate comes from an authority that {ca} does not hold",
    20: "its certificate comes from an authority that {ca} does not hold",
    21: "its certificate comes from an authority that {ca} does not hold",
    23: "its certificate is revoked",
    26: "its certificate is not made for this use (extended key usage: both serverAuth and clientAuth are needed)",
    66: "its certificate's key is too short",
    67: "its authority's key is too short",
    68: "its certificate is signed with a weak hash",
}
#: Reasons of OpenSSL. An alert is what the peer finds wrong with us.
_REASONS = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port",
    "HTTP_REQUEST": "it does not speak TLS but HTTP",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions of TLS older than 1.2",
    "VERSION_TOO_LOW": "it speaks only versions of TLS older than 1.2",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks only versions of TLS older than 1.2",
    "NO_SHARED_CIPHER": "it knows none of the cipher suites that are allowed (PS3.15 section B.12)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it finds no cipher suite or certificate of ours that it takes",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority that issued our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it finds our certificate, or its own revocation list, expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it finds our certificate revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept our certificate for this use (extended key usage)",
    "TLSV1_ALERT_ACCESS_DENIED": "it accepts our certificate, but not us",
}
_WEB_AUTHORITIES = "its ca (omitted: the system's authorities)"
_LEFT = "it closed the connection in the handshake: it does not speak TLS there, or does not accept our certificate"


def has_left(error: OSError) -> bool:
    """Did the peer close the connection in the handshake, without a word?"""
    is_cut = isinstance(error, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError))
    return is_cut or (isinstance(error, ssl.SSLError) and "UNEXPECTED_EOF" in str(error.reason))


def explain(error: OSError, name: str = "", *, is_web: bool = False) -> str:
    """Explain in words why a handshake failed; `name` is what the peer's certificate had to bear.

    `is_web`: by the `ca` and `url` of a table, not by [tls].
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 64):
            return f'its certificate does not name "{name}": see {"the url" if is_web else "tls_name"}'
        words = _VERIFIED.get(error.verify_code, f"its certificate cannot be verified ({error.verify_message})")
        return words.replace("{ca}", _WEB_AUTHORITIES if is_web else "tls.ca")
    if isinstance(error, TimeoutError):
        return "it was silent in the handshake: it does not speak TLS there, or is overloaded"
    if has_left(error):
        return _LEFT
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or "no reason given")
        return _REASONS.get(reason, f"the handshake failed ({reason})")
    return str(error.strerror or error)


def send_close_notify(sock: ssl.SSLSocket) -> None:
    """Send close_notify (RFC 8446 section 6.1) without waiting for the peer's. Never raises."""
    try:
        sock.settimeout(0.0)
        sock.unwrap()
    except (OSError, ValueError):
        pass  # it has gone, or answers later: nothing more is said either way
