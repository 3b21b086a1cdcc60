"""People sign in by a client certificate (CAC, PIV), beside passwords: whose it is, and the TLS that asks for it.

The handshake verifies the certificate: its chain to the site's authority, its dates, and the revocation lists. With
an expired list nobody is admitted. A responder may be asked as well (edge.web.ocsp).
Who has none signs in by password. Revocation lists are files that the site replaces: a new one counts from the next
connection on.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.network.tls import TlsError, load_trusted
from edge.web.x509 import read_certificate

#: Keys of the scope's state: the fields of the certificate, as ssl.SSLSocket.getpeercert has them, and its DER.
CLIENT_CERTIFICATE, CLIENT_DER = "client_certificate", "client_der"
_EDIPI = re.compile(r"[.](\d{10})$")


def ask_for_certificates(context: ssl.SSLContext, ca: Path, crl: Path | None) -> None:
    """Have a server's context ask for client certificates, and verify those that come. Raises TlsError."""
    load_trusted(context, "client_ca", ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    if crl is not None:
        load_trusted(context, "crl", crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def page_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The TLS of pages: 1.2 and 1.3, no tickets (a resumed session would not check revocation). Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        text = error.strerror or type(error).__name__
        raise TlsError("certificate", f"{certificate} with key {key} cannot be used: {text}") from None
    return context


def harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0


def certificate_user(fields: Mapping[str, Any], rule: str, der: bytes = b"") -> str:
    """The account that a verified certificate names: its common name, the EDIPI at its end, or its UPN; "": none."""
    if rule == "upn":
        return _principal_name(der)
    names = [value for part in fields.get("subject", ()) for kind, value in part if kind == "commonName"]
    if len(names) != 1:
        return ""
    if rule == "cn":
        return str(names[0])
    found = _EDIPI.search(names[0])
    return found[1] if found else ""


def _principal_name(der: bytes) -> str:
    """The only User Principal Name; of several nobody's."""
    try:
        found = read_certificate(der).principal_names
    except ValueError:
        return ""
    return found[0] if len(found) == 1 and found[0].isprintable() else ""
