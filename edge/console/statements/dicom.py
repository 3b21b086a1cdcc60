"""The DICOM conformance statement, in the order of the template of PS3.2, from the services' own tables.

What is accepted is asked of the code that negotiates (edge.scp.services.choose), for every SOP class of PS3.6 and each
kind of caller that the configuration names: so the statement cannot differ from what an association gets. A test
compares them all the same, over the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary  # PS3.6 Annex A; pydicom gives it no public name

from edge import __version__
from edge.config.sections import Config, Modality
from edge.console.statements.document import Document, Section, TableOf
from edge.dicom.acse import Context
from edge.dicom.inventory import TRANSFER_SYNTAXES
from edge.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.dicom.uids import STORAGE_COMMITMENT_PUSH, STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION, name_of
from edge.scp import services
from edge.scp.admission import Admission, admit
from edge.scp.services.service import Service

#: Stands for every SOP class and transfer syntax that the standard does not name.
PRIVATE = "1.2.826.0.1.3680043.10.1"
#: Transfer syntaxes that callers are expected to propose (PS3.6 annex A), and a private one.
PROPOSED_SYNTAXES = (*TRANSFER_SYNTAXES, PRIVATE)


@dataclass(frozen=True, slots=True)
class AcceptedSyntax:
    """One abstract syntax as an SCP, and the transfer syntaxes in which it is accepted; None: in any."""

    abstract_syntax: str
    service: str
    transfer_syntaxes: tuple[str, ...] | None


def abstract_syntaxes() -> list[str]:
    """Every SOP class of PS3.6, retired ones too, and one that is in no table."""
    known = [uid for uid, (_, kind, *_rest) in UID_dictionary.items() if "SOP Class" in kind]
    return [*known, PRIVATE]


def list_accepted(admission: Admission, table: Iterable[Service] | None = None) -> list[AcceptedSyntax]:
    """What a caller is accepted for; `table`: the services, those of the gateway where it is omitted."""
    offered = tuple(services.SERVICES if table is None else table)
    found = []
    for uid in abstract_syntaxes():
        known = [each for each in offered if each.is_for(uid)]
        service = next((each for each in known if each.is_allowed(admission)), None)
        if service is None:
            continue
        accepted = tuple(syntax for syntax in PROPOSED_SYNTAXES if _is_accepted(admission, uid, syntax, offered))
        syntaxes = None if service.transfer_syntaxes is None else accepted
        found.append(AcceptedSyntax(uid, service.name, syntaxes))
    return found


def _is_accepted(admission: Admission, uid: str, syntax: str, offered: tuple[Service, ...]) -> bool:
    if offered == services.SERVICES:
        return services.choose(admission, Context(1, uid, (syntax,))).result == 0
    service = next(each for each in offered if each.is_for(uid) and each.is_allowed(admission))
    return service.transfer_syntaxes is None or syntax in service.transfer_syntaxes


def admission_of(config: Config, modality: Modality) -> Admission:
    """As which a modality is admitted that calls under its own title, from its own address and certificate."""
    title = modality.ae_title.translate(str.maketrans("*?[]!", "AAAAA"))
    address = modality.hosts[0].partition("/")[0] if modality.hosts else "127.0.0.1"
    found = admit(config, title, address)
    words = frozenset(modality.services)
    return found if found.modality else Admission(modality.name, services=words, way_back=modality.way_back)


def make_dicom_statement(config: Config) -> Document:
    """The statement of a gateway with this configuration."""
    callers = {each.name: list_accepted(admission_of(config, each)) for each in config.modalities.values()}
    site = config.site.name
    sections = (
        _overview(config, callers),
        Section("2", "Table of contents", ("The sections follow PS3.2: 1 overview, 2 table of contents, 3 introduction,"
                " 4 networking, 5 media interchange, 6 support of character sets, 7 security, 8 annexes.",)),
        _introduction(),
        Section("4", "Networking", sections=tuple(_networking(config, callers))),
        Section("5", "Media interchange", ("Files that Edge writes (`edge instances export`) are Part 10 files"
                " (PS3.10 section 7).",)),
        Section("6", "Support of character sets", ("Every character set is stored and forwarded unchanged. For search"
                " and display, those of PS3.3 C.12.1.1.2 are decoded, with and without code extensions; text whose set"
                " is not declared, or wrong, is marked as a guess.",)),
        _security(config),
        Section("8", "Annexes", sections=tuple(_annexes(config))),
    )  # fmt: skip
    facts = {
        "ae_title": config.listen.ae_title,
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION,
        "scp": {name: [_fact(each) for each in found] for name, found in callers.items()},
    }
    return Document("DICOM conformance statement", "Edge", __version__, site, sections, facts)


def _fact(each: AcceptedSyntax) -> dict[str, object]:
    syntaxes = "any" if each.transfer_syntaxes is None else list(each.transfer_syntaxes)
    return {"abstract_syntax": each.abstract_syntax, "service": each.service, "transfer_syntaxes": syntaxes}


def _overview(config: Config, callers: Mapping[str, list[AcceptedSyntax]]) -> Section:
    names = {each.service for found in callers.values() for each in found}
    rows = [(name, "-", "yes") for name in sorted(names)]
    rows += [(name, "yes", "-") for name in _scu_services(config)]
    table = TableOf("Network services", ("service", "user (SCU)", "provider (SCP)"), tuple(rows))
    text = (
        f"Edge is a store-and-forward gateway. It receives composite objects as {config.listen.ae_title}, keeps them"
        " bit for bit, and forwards them to archives, with proof of custody."
    )
    return Section("1", "Conformance statement overview", (text,), (table,))


def _scu_services(config: Config) -> Iterator[str]:
    confirms = {each.confirm for each in config.destinations.values()}
    if config.destinations:
        yield from ("verification", "storage", "retrieve (C-GET, to repair and to restore)")
    if "commitment" in confirms:
        yield "storage commitment"
    if "query" in confirms:
        yield "query (C-FIND, to prove custody)"


def _introduction() -> Section:
    return Section(
        "3",
        "Introduction",
        (
            "For integrators of equipment, archives and networks. This statement is made from the running"
            " configuration; another site's differs.",
            "Terms are those of PS3.1 to PS3.18. AE: application entity. SCP: service class provider. SCU: service"
            " class user. References: the DICOM standard, NEMA PS3 / ISO 12052.",
        ),
    )


def _networking(config: Config, callers: Mapping[str, list[AcceptedSyntax]]) -> Iterator[Section]:
    flow = (
        "Equipment associates with Edge and stores (C-STORE). The answer success means that the object is on stable"
        " storage. Edge then associates with each destination that its routes name, sends the object, and asks for"
        " proof that the destination has it. Sending is repeated until it succeeds; nothing is sent twice as new."
    )
    yield Section("4.1", "Implementation model", (flow,))
    yield Section("4.2", "AE specifications", sections=(_scp(config, callers), _scu(config)))
    ports = [("DICOM", f"{config.listen.host}:{config.listen.port}" if config.listen.plain else "closed")]
    ports.append(("DICOM over TLS", f"{config.listen.host}:{config.tls.port}" if config.tls.is_on else "closed"))
    yield Section("4.3", "Network interfaces", ("TCP/IP, IPv4 and IPv6.",), (_table("Ports", "port", ports),))
    yield Section("4.4", "Configuration", ("AE titles, addresses, certificates, services and routes are keys of TOML"
                  " files; `edge check` verifies them.",))  # fmt: skip


def _scp(config: Config, callers: Mapping[str, list[AcceptedSyntax]]) -> Section:
    identity = (
        ("Application entity", config.listen.ae_title),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION),
        ("Application context", "1.2.840.10008.3.1.1.1"),
        ("Unknown callers", "rejected" if config.listen.unknown == "refuse" else "admitted for echo and store"),
        ("Asynchronous operations window", "not negotiated: one operation at a time"),
    )
    tables = [_table("The application entity", "value", identity)]
    for name, found in callers.items():
        rows = tuple(
            (name_of(each.abstract_syntax) if each.abstract_syntax != PRIVATE else "any other",
             each.abstract_syntax if each.abstract_syntax != PRIVATE else "any", each.service,
             "any" if each.transfer_syntaxes is None else ", ".join(map(name_of, each.transfer_syntaxes)))
            for each in found
        )  # fmt: skip
        headings = ("SOP class", "UID", "service", "transfer syntaxes")
        tables.append(TableOf(f"Presentation contexts accepted from [modality.{name}], as SCP", headings, rows))
    return Section("4.2.1", f"{config.listen.ae_title}, association acceptance", _statuses(), tuple(tables))


def _statuses() -> tuple[str, ...]:
    return (
        "C-STORE is answered 0000 when the object is durable; A700 when there is no room, or the storage has failed;"
        " C000 when the data set cannot be read or trusted (it is kept apart); 0122 or 0117 for what is no storage SOP"
        " class or no UID; 0110 for a fault. The first transfer syntax that a caller proposes is accepted.",
    )


def _scu(config: Config) -> Section:
    rows = []
    for each in config.destinations.values():
        rows += [(each.name, "Verification", VERIFICATION, "explicit and implicit VR little endian")]
        rows += [(each.name, "every SOP class that was received", "as received", "as received, else a lossless one")]
        if each.confirm == "commitment":
            rows += [(each.name, "Storage Commitment Push Model", STORAGE_COMMITMENT_PUSH, "the same two")]
        if each.confirm == "query":
            rows += [(each.name, "Study Root Q/R - FIND", STUDY_ROOT_FIND, "the same two")]
        rows += [(each.name, "Study Root Q/R - GET", STUDY_ROOT_GET, "the same two; objects as they are there")]
    headings = ("destination", "SOP class", "UID", "transfer syntaxes")
    table = TableOf("Presentation contexts proposed, as SCU", headings, tuple(rows))
    text = "One context for each pair of SOP class and transfer syntax that waits; each object ends by its own status."
    return Section("4.2.2", f"{config.listen.ae_title}, association initiation", (text,), (table,))


def _security(config: Config) -> Section:
    tls = (
        "TLS 1.2 and 1.3, by the BCP 195 TLS Profile (PS3.15 B.9), with client certificates and revocation lists."
        if config.tls.is_on
        else "TLS is not configured on this gateway: DICOM is in clear."
    )
    audit = (
        f"Audit messages (PS3.15 A.5) go to {config.audit.host} by {config.audit.transport}."
        if config.audit.host
        else "No audit repository is configured; the custody ledger has every event."
    )
    callers = "Callers are admitted by AE title, address and, over TLS, certificate."
    return Section("7", "Security", (tls, callers, audit))


def _annexes(config: Config) -> Iterator[Section]:
    yield Section("8.1", "IOD contents", ("Edge creates no composite objects. What it forwards is what came, bit for"
                  " bit, but for the changes that the configuration names, on a copy.",))  # fmt: skip
    used = "Patient, study, series and instance attributes are read for routing, search and the custody record only."
    yield Section("8.2", "Usage of attributes from received IODs", (used,))
    yield Section("8.3", "Coded terminology and templates", ("None is created.",))
    yield Section("8.4", "Grayscale image consistency", ("Edge displays no images for diagnosis.",))
    private = "Files in the spool have private File Meta Information (PS3.10 7.1) that is never sent."
    yield Section("8.5", "Standard extended, specialized and private SOP classes", (
        "Private SOP classes and transfer syntaxes are stored and forwarded as they came.", private))  # fmt: skip


def _table(title: str, heading: str, rows: Iterable[tuple[str, str]]) -> TableOf:
    return TableOf(title, ("", heading), tuple(rows))
