"""Sections of the DICOM statement on security: PS3.2 annex N, section 8 and annex A.C."""

from __future__ import annotations

from edge.config.sections import Config
from edge.console.statements.document import Section, TableOf, absent


def make_security(config: Config) -> Section:
    """Section 8."""
    ports = [
        ("DICOM", _port(config.listen.port, config.listen.plain)),
        ("DICOM over TLS", _port(config.tls.port, config.tls.is_on)),
    ]
    ports.append(("DICOMweb", _port(config.dicomweb.port, config.dicomweb.is_on)))
    ports.append(("HL7 (MLLP)", _port(config.hl7.port, config.hl7.port is not None)))
    ports.append(("HL7 (MLLP) over TLS", _port(config.hl7.tls_port, config.hl7.tls_port is not None)))
    table = TableOf("TCP ports on which Edge listens", ("service", "port"), tuple(ports))
    web = "HTTPS with the files of [tls]" if config.tls.is_on else "no TLS: it serves this machine alone"
    return Section("8", "Security", sections=(
        Section("8.1", "Introduction", ("Callers are admitted by AE title, address and, over TLS, certificate; machines"
                " that call DICOMweb by token or certificate; people by account. Who is not named is refused.",)),
        Section("8.2", "External Network Requirements", ("Names by the system's resolver, time by the system's"
            " service.",)),
        Section("8.3", "TCP Port Configuration", tables=(table,)),
        Section("8.4", "DICOM Security Profiles Support", sections=tuple(_profiles(config))),
        absent("8.5", "User Identity Negotiation Support"),
        Section("8.6", "Web Services Security Features", (
            f"DICOMweb: {web}. Bearer tokens (RFC 6750), client certificates; out also OAuth 2.0 client"
            f" credentials.",)),
        Section("8.7", "Other Security Features", (
            "Each access is in a custody ledger whose rows are chained by SHA-256. Codecs run in a sandbox.",)),
    ))  # fmt: skip


def _port(port: int | None, is_open: bool) -> str:
    return str(port) if is_open else "closed"


def _profiles(config: Config) -> list[Section]:
    tls = (
        "BCP 195 TLS Profile (PS3.15 B.9): TLS 1.2 and 1.3, with client certificates and revocation lists."
        if config.tls.is_on
        else "TLS is not configured on this gateway: DICOM is in clear."
    )
    names = [each.name for each in config.destinations.values() if each.deidentify != "none"]
    hidden = f"Basic profile, for the copies that go to {', '.join(names)}." if names else "Not configured."
    return [
        Section("8.4.1", "Secure Use and User Identity", ("Audit Trail: see A.C.2.",)),
        Section("8.4.2", "Secure Transport Connection", (tls,)),
        absent("8.4.3", "Media Storage Security"),
        Section("8.4.4", "Attribute Confidentiality", (hidden,)),
        Section("8.4.5", "Digital Signatures", ("Kept as they came; none is made.",)),
        absent("8.4.6", "Additional DICOM Security Profiles"),
    ]


def make_security_details(config: Config) -> Section:
    """Annex A.C."""
    audit = (
        f"Audit messages (PS3.15 A.5) go to {config.audit.host} by {config.audit.transport}."
        if config.audit.host
        else "No audit repository is configured; the custody ledger has every event."
    )
    return Section("A.C", "Security Details", sections=(
        Section("A.C.1", "External Network Requirement Details", ("Time synchronisation, addresses and names are the"
                " system's. A clock that is not synchronised is an alert.",)),
        Section("A.C.2", "DICOM Security Profile Details", (audit,)),
    ))  # fmt: skip
