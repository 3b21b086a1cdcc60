"""Parts of a certificate that Python's `ssl` does not give: issuer and subject as encoded, and the principal name.

For certificates that OpenSSL has verified, or that the site has put into its own files.
Sections of RFC 5280 are cited. Raises ValueError for what is no certificate.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge.network.der import read_values

_SEQUENCE, _UTF8, _OCTETS, _OTHER_NAME, _EXTENSIONS, _VERSION = 0x30, 0x0C, 0x04, 0xA0, 0xA3, 0xA0
#: subjectAltName (section 4.2.1.6), and the User Principal Name as one of its other names (Microsoft; NIST FIPS 201).
_ALTERNATIVE_NAMES, _PRINCIPAL_NAME = bytes.fromhex("551d11"), bytes.fromhex("2b060104018237140203")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
MOST_PRINCIPAL_NAME = 256


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Issuer and subject as they are encoded, and the User Principal Names."""

    issuer: bytes
    subject: bytes
    principal_names: tuple[str, ...]


def read_certificate(der: bytes) -> CertificateFacts:
    """Read a certificate (section 4.1)."""
    try:
        signed = _content(_content(der, _SEQUENCE), _SEQUENCE)
        fields = list(read_values(signed))
        fields = fields[1:] if fields and fields[0][0] == _VERSION else fields
        _serial, _algorithm, issuer, _validity, subject, *rest = fields
        extensions = next((content for tag, content in rest if tag == _EXTENSIONS), b"")
        return CertificateFacts(issuer[1], subject[1], tuple(_principal_names(extensions)))
    except ValueError:
        raise ValueError("not a certificate") from None


def _principal_names(extensions: bytes) -> Iterator[str]:
    for _, extension in read_values(_content(extensions, _SEQUENCE) if extensions else b""):
        (_, number), *rest = read_values(extension)
        if number != _ALTERNATIVE_NAMES:
            continue
        value = next((content for tag, content in rest if tag == _OCTETS), b"")
        for tag, name in read_values(_content(value, _SEQUENCE)):
            if tag == _OTHER_NAME:
                (_, kind), (_, wrapped), *_rest = read_values(name)
                if kind == _PRINCIPAL_NAME:
                    yield _content(wrapped, _UTF8)[:MOST_PRINCIPAL_NAME].decode("utf-8")


def _content(der: bytes, tag: int) -> bytes:
    """The content of the only, or first, value."""
    found, content = next(read_values(der), (0, b""))
    if found != tag:
        raise ValueError("not a certificate")
    return content


def split_pem(data: bytes) -> list[tuple[bytes, bytes]]:
    """The certificates of a PEM file: each as PEM and DER."""
    found = [each.group(0) for each in _PEM.finditer(data)]
    return [(each, base64.b64decode(b"".join(each.splitlines()[1:-1]))) for each in found]
