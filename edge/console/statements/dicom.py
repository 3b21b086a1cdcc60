"""The DICOM conformance statement, by the template of PS3.2 (annex N), from the services' own tables.

The headings and their numbers are those of the template, so that statements of different products are compared section
by section. A section that does not concern a gateway says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edge import __version__
from edge.config.sections import Config
from edge.console.statements import dimse, web
from edge.console.statements.accepted import AcceptedSyntax, admission_of, list_accepted
from edge.console.statements.document import Document, Section, TableOf, absent
from edge.console.statements.security import make_security, make_security_details
from edge.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.scp.dicomweb.resources import WebResource

CHARACTER_SETS = (
    "Every character set is stored and forwarded unchanged. For search and display, those of PS3.3 C.12.1.1.2 are"
    " decoded, with and without code extensions; text whose set is not declared, or wrong, is marked as a guess.",
    "Answers of queries have a character set that holds their text, else UTF-8 (ISO_IR 192). Matching of person names"
    " does not distinguish small and capital letters.",
)
AcceptedByCaller = Mapping[str, Sequence[AcceptedSyntax]]
ServedByClient = Mapping[str, Sequence[WebResource]]


def make_dicom_statement(config: Config) -> Document:
    """The statement of a gateway with this configuration."""
    callers = {each.name: list_accepted(admission_of(config, each)) for each in config.modalities.values()}
    clients = {each.name: web.list_web_resources(config, each) for each in config.clients.values()}
    sections = (
        _overview(config, callers, clients),
        Section("2", "Table of Contents", ("The sections are numbered as in PS3.2 annex N.",)),
        _introduction(),
        _model(config),
        Section("5", "Service and Interoperability Description", sections=tuple(_services(config, callers, clients))),
        Section("6", "Configuration", sections=tuple(_configuration())),
        Section("7", "Network and Media Communication Details", sections=tuple(_network(config, callers))),
        make_security(config),
        *_annexes(config),
    )
    facts = {
        "ae_title": config.listen.ae_title,
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION,
        "scp": {name: [_fact(each) for each in found] for name, found in callers.items()},
        "scu": [dict(zip(("peer", "service", "uid"), each, strict=True)) for each in dimse.list_proposed(config)],
        "web_user": web.list_web_uses(config),
        "web": {name: [f"{each.method} {each.path}" for each in found] for name, found in clients.items()},
    }
    return Document("DICOM conformance statement", "Edge", __version__, config.site.name, sections, facts)


def _fact(each: AcceptedSyntax) -> dict[str, object]:
    syntaxes = "any" if each.transfer_syntaxes is None else list(each.transfer_syntaxes)
    return {"abstract_syntax": each.abstract_syntax, "service": each.service, "transfer_syntaxes": syntaxes}


# -- 1 to 4 -----------------------------------------------------------------------------------------------------------


def _overview(config: Config, callers: AcceptedByCaller, clients: ServedByClient) -> Section:
    text = (
        f"Edge is a store-and-forward gateway. It receives composite objects as {config.listen.ae_title}, keeps them"
        " bit for bit, and forwards them to archives, with proof of custody."
    )
    provided = {each.service for found in callers.values() for each in found}
    used = {service for _, service, _ in dimse.list_proposed(config)}
    rows = tuple((name, _yes(name in used), _yes(name in provided)) for name in sorted(provided | used))
    network = TableOf("DIMSE services", ("service", "user (SCU)", "provider (SCP)"), rows)
    identities = [each.name for each in config.destinations.values() if each.deidentify != "none"]
    profile = f"Basic Application Level Confidentiality Profile (PS3.15 E.1) for: {', '.join(identities)}."
    return Section("1", "Overview", (text,), sections=(
        Section("1.1", "Content and Transfer", ("Every composite SOP class of the standard, retired and private"
            " ones too,"
                " is received, stored and transferred; none is created or displayed for diagnosis.",)),
        Section("1.2", "DIMSE Services", tables=(network,)),
        Section("1.3", "DICOM Web Services", tables=(web.web_overview(config, clients),)),
        Section("1.4", "Media Services", ("A File-set with DICOMDIR is written (File-set Creator) by `edge"
            " studies export`"
                " and read (File-set Reader) by `edge import`.",)),
        absent("1.5", "Real-Time Video Service"),
        Section("1.6", "De-identification Profiles", (profile if identities else "No destination is configured so.",)),
        Section("1.7", "Specific Character Sets", CHARACTER_SETS[:1]),
    ))  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _introduction() -> Section:
    return Section("3", "Introduction", sections=(
        Section("3.1", "Revision History", ("The statement is made from the running configuration of the"
            " version that is"
                " named above; the changelog has the history.",)),
        Section("3.2", "Audience", ("Integrators of equipment, archives and networks.",)),
        Section("3.3", "Remarks", ("Two statements that fit are a first comparison, and no replacement for a"
            " test of the"
                " two systems. Another site's statement differs, as its configuration does.",)),
        Section("3.4", "Terms and Definitions", ("Those of PS3.1 to PS3.18.",)),
        Section("3.5", "Abbreviations", ("AE: application entity. SCP, SCU: service class provider, user.",)),
        Section("3.6", "References", ("The DICOM standard, NEMA PS3 / ISO 12052.",)),
    ))  # fmt: skip


def _model(config: Config) -> Section:
    flow = (
        "Equipment associates with Edge and stores (C-STORE, STOW-RS). The answer success means that the object is on"
        " stable storage. Edge then associates with each destination that its routes name, sends the object, and asks"
        " for proof that the destination has it. Sending is repeated until it succeeds; nothing is sent twice as new."
    )
    entity = f"One application entity, {config.listen.ae_title}, is user and provider of all services."
    return Section("4", "Implementation Model", sections=(
        Section("4.1", "Application Entities and Data Flow", (flow,), sections=(
            Section("4.1.1", f"Functional Definition of {config.listen.ae_title}", (entity,)),)),
    ))  # fmt: skip


# -- 5 to 7 -----------------------------------------------------------------------------------------------------------


def _services(config: Config, callers: AcceptedByCaller, clients: ServedByClient) -> Iterator[Section]:
    title = config.listen.ae_title
    yield Section("5.1", "Mapping of Services to Application Entities", (f"All services are those of {title}.",))
    yield Section("5.2", "DIMSE Services", sections=tuple(dimse.describe_dimse_services(config, callers)))
    yield Section("5.3", "DICOM Web Services", sections=tuple(web.describe_web_services(config, clients)))
    yield Section("5.4", "Media Services", ("Files that Edge writes are Part 10 files (PS3.10 section 7).",))
    yield absent("5.5", "Real-Time Video Services")
    yield Section("5.6", "Cross-Service Considerations", (
        "What a query finds is what a retrieval gives. What was stored is found at once. Instances that a"
        " rejection note"
        " names are found and given no longer; those whose patient contradicts their study's are neither, until"
        " a person"
        " decides. Worklist, performed steps and orders are compared with the images that come.",
    ))  # fmt: skip
    yield Section("5.7", "Specific Character Sets", CHARACTER_SETS)


def _configuration() -> Iterator[Section]:
    keys = "AE titles, addresses, ports, certificates and services are keys of TOML files; `edge check` verifies them."
    yield Section("6.1", "General Configuration Parameters", (keys,))
    yield Section("6.2", "Configuration of DIMSE Services", (
        "[modality.NAME] services, [destination.NAME], [route.NAME], [query], [worklist], [mpps], [prefetch.NAME] and"
        " [iocm].",))  # fmt: skip
    yield Section("6.3", "Configuration of DICOM Web Services", ('[dicomweb], [client.NAME], and kind = "dicomweb".',))
    yield Section("6.4", "Configuration of Media Storage Service", ("[drop.NAME] names folders that are watched.",))
    yield absent("6.5", "Configuration of Real-Time Video Service")
    yield Section("6.6", "Configuration of Audit Trail - Syslog", ("[audit] host, port, transport and certificates.",))


def _network(config: Config, callers: AcceptedByCaller) -> Iterator[Section]:
    yield Section("7.1", "General", sections=(dimse.describe_parameters(config),))
    yield Section("7.2", "Specifications", sections=(dimse.describe_entity(config, callers),))
    yield Section("7.3", "Status Codes", sections=(
        Section("7.3.1", "General Communication and Failure Behavior", (
            "As a user: a failed association is repeated with backoff; a permanent refusal holds that object, and no"
            " other. As a provider: an association is rejected with \"calling AE title not recognized\" for who is not"
            " configured, and with \"local limit exceeded\" where too many are open.",)),
        Section("7.3.2", "DIMSE Services", tables=(dimse.list_dimse_statuses(),)),
        Section("7.3.3", "DICOM Web Services", tables=(web.list_web_statuses(),)),
    ))  # fmt: skip


# -- annexes ----------------------------------------------------------------------------------------------------------


def _annexes(config: Config) -> Iterator[Section]:
    iods = (
        "Edge creates no images. What it forwards is what came, bit for bit, but for the changes that the configuration"
        " names, on a copy. `edge import` makes Encapsulated PDF and STL, VL Photographic Image and Video Photographic"
        " Image objects of files that are no DICOM."
    )
    private = "Files in the spool have private File Meta Information (PS3.10 7.1) that is never sent."
    yield Section("A.A", "Information Object Definitions", (iods, private))
    yield Section("A.B", "Structured Report Content Encoding", ("No structured report is created.",))
    yield make_security_details(config)
    yield Section("A.D", "Mapping of Attributes", (
        "Objects keep their attributes. The worklist that is made of HL7 orders, and corrections by"
        " [coerce.NAME] from_order,"
        " take them from the fields that `edge statement hl7` lists.",))  # fmt: skip
    yield Section("A.E", "Code Set Usage", ("Codes of objects are stored and forwarded unchanged. Those of rejection"
                  " notes are CID 7011: 113001, 113037, 113038 and 113039 (DCM).",))  # fmt: skip
