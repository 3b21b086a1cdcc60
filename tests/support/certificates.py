"""A small authority for the tests of TLS: certificates of every kind, good and bad, and revocation lists."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    certificate: Path
    key: Path

    @property
    def x509(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def dcmtk(self, ca: Path) -> list[str]:
        """Options of DCMTK's programs: TLS with this certificate, and the peer's must come from `ca`."""
        return ["+tls", str(self.key), str(self.certificate), "+cf", str(ca), "--require-peer-cert"]


class Authority:
    """A certificate authority that keeps its files in a directory of its own."""

    def __init__(self, directory: Path, name: str = "Test Clinic CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._name = directory, _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = directory / "ca.pem"
        builder = _certificate(self._name, self._key, self._name, days=3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    @property
    def key_file(self) -> Path:
        """The authority's own key, for a responder that signs as it."""
        path = self.directory / "ca.key"
        path.touch(mode=0o600)
        path.write_bytes(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

    def issue(
        self,
        name: str,
        *others: str,
        days: float = 365,
        uses: Sequence[x509.ObjectIdentifier] = BOTH,
        weak: bool = False,
        file: str = "",
    ) -> Pair:
        """A certificate for a common name and other names (DNS, IP, URI). `days` may have passed; `file`: its stem."""
        key: Key = rsa.generate_private_key(65537, 1024) if weak else ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(_named(name), key, self._name, days)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in others]), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        stem = self.directory / (file or name)
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def revoke(self, *revoked: Pair, days: float = 30) -> Path:
        """The revocation list with those, for so many days."""
        now = datetime.now(timezone.utc)
        last = min(now, now + timedelta(days=days)) - timedelta(hours=1)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(last).next_update(now + timedelta(days=days))
        for pair in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(pair.x509.serial_number).revocation_date(last)
            builder = builder.add_revoked_certificate(entry.build())
        path = self.directory / "ca.crl"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(name: x509.Name, key: Key, issuer: x509.Name, days: float) -> x509.CertificateBuilder:
    end = datetime.now(timezone.utc) + timedelta(days=days)
    begin = min(end, datetime.now(timezone.utc)) - timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return _other_kind(name) or x509.DNSName(name)


def _other_kind(name: str) -> x509.GeneralName | None:
    """`/CN=name`, `=OID` (registeredID), `+OID` (otherName), `upn=name`, an address of e-mail, a URI."""
    if name.startswith("upn="):
        text = name.removeprefix("upn=").encode()
        return x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), bytes((0x0C, len(text))) + text)
    if name.startswith("/CN="):
        return x509.DirectoryName(_named(name.removeprefix("/CN=")))
    if name.startswith(("=", "+")):
        number = x509.ObjectIdentifier(name[1:])
        return x509.RegisteredID(number) if name[0] == "=" else x509.OtherName(number, b"\x0c\x02ct")
    if "@" in name:
        return x509.RFC822Name(name)
    return x509.UniformResourceIdentifier(name) if ":" in name else None
