"""Sections of the DICOM statement on Web services (PS3.2 annex N), from the table by which requests are served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edge.config.sections import Config, WebClient
from edge.console.statements.document import Section, TableOf, absent
from edge.query.levels import KEYWORDS_OF, Level
from edge.scp.dicomweb.exchange import WEB_ROOT
from edge.scp.dicomweb.resources import RETRIEVE_WORD, SEARCH_WORD, STORE_WORD, WEB_RESOURCES, WebResource

#: The transactions of the Studies service, in the order of PS3.18 sections 10.4 to 10.6.
_STUDIES = {RETRIEVE_WORD: "retrieve (WADO-RS)", STORE_WORD: "store (STOW-RS)", SEARCH_WORD: "search (QIDO-RS)"}
#: HTTP statuses (RFC 9110), and what they mean here.
_STATUSES = (
    ("200", "OK", "answered; STOW-RS: every instance is stored"),
    ("202", "Accepted", "STOW-RS: some instances are stored; the answer names each"),
    ("204", "No Content", "QIDO-RS: nothing matches"),
    ("206", "Partial Content", "the range of bytes that was asked for"),
    ("304", "Not Modified", "the caller has it already (ETag)"),
    ("400", "Bad Request", "the body is cut, or a parameter is no attribute"),
    ("401", "Unauthorized", "no token or certificate of a [client]"),
    ("403", "Forbidden", "the service is not among those of this client"),
    ("404", "Not Found", "no such resource, or not here (any more)"),
    ("405", "Method Not Allowed", "the resource has other methods: see Allow"),
    ("406", "Not Acceptable", "Accept allows none of the media types"),
    ("409", "Conflict", "STOW-RS: no instance is stored; the answer says why"),
    ("413", "Content Too Large", "more than may be asked for or sent at once"),
    ("415", "Unsupported Media Type", "STOW-RS: a body of a form that is not listed here"),
    ("416", "Range Not Satisfiable", "no such range of bytes"),
    ("503", "Service Unavailable", "no room, or too far behind: see Retry-After"),
)  # fmt: skip


def list_web_resources(
    config: Config, client: WebClient, table: Sequence[WebResource] = WEB_RESOURCES
) -> list[WebResource]:
    """The resources that a client is served; `table`: that of the gateway where it is omitted."""
    if not config.dicomweb.is_on:
        return []
    is_open = {SEARCH_WORD: config.serves_queries}
    return [each for each in table if each.service in client.services and is_open.get(each.service, True)]


def list_web_uses(config: Config) -> dict[str, tuple[str, ...]]:
    """List the services of which Edge is the user agent, for each destination of kind "dicomweb"."""
    return {each.name: (STORE_WORD, SEARCH_WORD, RETRIEVE_WORD) for each in config.destinations.values() if each.is_web}


def web_overview(config: Config, clients: Mapping[str, Sequence[WebResource]]) -> TableOf:
    """Section 1.3: as the server of which services, and as the user agent of which."""
    served = {each.service for found in clients.values() for each in found}
    used = {each for found in list_web_uses(config).values() for each in found}
    rows = (
        ("URI service (WADO-URI)", "no", "no"),
        *((f"Studies service: {name}", _yes(word in used), _yes(word in served)) for word, name in _STUDIES.items()),
        *((f"{name} service", "no", "no") for name in ("Worklist (UPS-RS)", "Non-patient instance", "Notification",
          "Storage commitment", "Scheduled procedure step", "Performed procedure step")),
    )  # fmt: skip
    return TableOf("DICOM Web services", ("service", "user agent", "origin server"), rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def describe_web_services(config: Config, clients: Mapping[str, Sequence[WebResource]]) -> Iterator[Section]:
    """Section 5.3."""
    yield absent("5.3.1", "URI Web Service")
    asked = [
        f"{', '.join(_STUDIES[word] for word in uses)}: of {name}." for name, uses in list_web_uses(config).items()
    ]
    user = f"As user agent: {' '.join(asked)}" if asked else "As user agent: not configured."
    if config.dicomweb.is_on:
        tables = tuple(_resources_of(name, found) for name, found in clients.items())
        text = (f"As origin server: below {WEB_ROOT}.", user)
        yield Section("5.3.2", "Studies Web Service", text, tables, tuple(_studies()))
    else:
        text = ("As origin server: closed, there is no [dicomweb] port.", user)
        yield Section("5.3.2", "Studies Web Service", text)
    names = ("Worklist", "Non-Patient Instance", "Notification", "Storage Commitment",
             "Modality Scheduled Procedure Step", "Modality Performed Procedure Step")  # fmt: skip
    yield from (absent(f"5.3.{at}", f"{name} Web Service") for at, name in enumerate(names, 3))


def _resources_of(client: str, found: Sequence[WebResource]) -> TableOf:
    ordered = sorted(found, key=lambda each: list(_STUDIES).index(each.service))
    rows = tuple((each.transaction, each.method, each.path, ", ".join(each.media)) for each in ordered)
    headings = ("transaction", "method", "resource", "media types of the answer")
    return TableOf(f"Resources that [client.{client}] is served, as origin server", headings, rows)


def _studies() -> Iterator[Section]:
    yield Section("5.3.2.1", "Media Types", (
        "Objects: application/dicom in multipart/related, or alone for one instance. Metadata and answers of queries:"
        " application/dicom+json; metadata also application/dicom+xml. Pictures: image/jpeg, image/png. What"
        " Accept does not allow is 406.",))  # fmt: skip
    yield Section("5.3.2.2", "Retrieve", (
        "Objects are given bit for bit in the transfer syntax in which they are kept, or losslessly converted to the"
        " one that Accept names; ask with transfer-syntax=* for any. Ranges of bytes and ETags are"
        " supported.",))  # fmt: skip
    yield Section("5.3.2.3", "Store", (
        "multipart/related with parts of application/dicom, or of application/dicom+json or application/dicom+xml with"
        " bulk data; chunked or of known length; or one application/dicom. What the"
        " answer names as stored is on stable storage.",))  # fmt: skip
    keys = tuple((level.name, ", ".join(KEYWORDS_OF[level])) for level in Level)
    text = "limit, offset, includefield (all too). No fuzzy matching: a Warning says so. 10,000 answers at most."
    yield Section(
        "5.3.2.4", "Search", (text,), (TableOf("Keys that are matched and returned", ("level", "keys"), keys),)
    )


def list_web_statuses() -> TableOf:
    """Section 7.3.3."""
    return TableOf("HTTP statuses", ("status", "name", "meaning"), _STATUSES)
