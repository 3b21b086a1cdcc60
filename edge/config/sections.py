"""The sections of the configuration, in one list: a section is a class, a key is a field, with its kind and default.

A field without default is required.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timezone, tzinfo
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from edge.config import alarms, kinds
from edge.config.audit import Audit
from edge.config.channels import Email, Heartbeat, SyslogServer, Webhook
from edge.config.coercion import Coercion
from edge.config.departmental import IocmSection, MppsSection, Prefetch, WorklistSection
from edge.config.kinds import OAuth
from edge.config.maintenance import Maintenance
from edge.config.masks import Mask
from edge.config.tables import sections_by_table
from edge.model import Priority

#: `sends_by` where the site has not set it: learned from the modality's own weeks.
LEARNED = -1.0
#: Before the name of a [hold], as the catalog has it with what is kept.
HOLD_PREFIX = "hold."


@dataclass(frozen=True, slots=True)
class SiteSection:
    id: Annotated[str, kinds.TEXT]
    name: Annotated[str, kinds.TEXT] = field(metadata={"omitted": ""})  # omitted: the id
    data_dir: Annotated[Path, kinds.PATH]  # a relative one begins at the configuration's directory
    standby: Annotated[bool, kinds.YES_NO] = False  # the start asks for multi-mount protection of its file system


@dataclass(frozen=True, slots=True)
class Listen:
    ae_title: Annotated[str, kinds.AE_TITLE] = "EDGE"
    host: Annotated[str, kinds.HOST] = "0.0.0.0"
    port: Annotated[int, kinds.PORT] = 11112
    unknown: Annotated[str, kinds.one_of("refuse", "accept")] = "refuse"
    conflicts: Annotated[str, kinds.one_of("hold", "forward")] = "hold"
    plain: Annotated[bool, kinds.YES_NO] = True  # False: this port stays closed, only [tls] listens


@dataclass(frozen=True, slots=True)
class Tls:
    """DICOM over TLS, in and out; without the table there is none. A relative path begins at the configuration."""

    port: Annotated[int, kinds.PORT] = 2762  # dicom-tls, as IANA has it
    certificate: Annotated[Path | None, kinds.PATH] = None  # ours, with those between it and the authority
    key: Annotated[Path | None, kinds.PATH] = None  # a secret: see edge.config.secret
    ca: Annotated[Path | None, kinds.PATH] = None  # whose certificates we trust
    crl: Annotated[Path | None, kinds.PATH] = None  # revocation lists, one of each authority

    @property
    def is_on(self) -> bool:
        return self.certificate is not None


@dataclass(frozen=True, slots=True)
class Modality:
    name: str
    ae_title: Annotated[str, kinds.AE_GLOB]
    hosts: Annotated[tuple[str, ...], kinds.NETWORKS] = ()  # addresses or networks; empty: any
    certificate: Annotated[str, kinds.CERTIFICATE] = ""  # that it must show, over TLS; empty: none
    services: Annotated[tuple[str, ...], kinds.SERVICE_NAMES] = ("echo", "store")
    associations: Annotated[int | None, kinds.COUNT] = None  # most at once; None: as many as a caller may have
    sends_by: Annotated[float | None, kinds.TIME_OR_NEVER] = LEARNED  # on working days; None: never expected
    host: Annotated[str, kinds.HOST] = ""  # where it is called; omitted: the only address in hosts
    port: Annotated[int | None, kinds.PORT] = None  # None: it cannot be called
    commit: Annotated[str, kinds.one_of("local", "archive")] = "local"  # what storage commitment to it promises
    worklist: Annotated[tuple[str, ...], kinds.WORKLIST_PARTS] = ()  # what of it is served; empty: all

    @property
    def way_back(self) -> tuple[str, int] | None:
        """Host and port at which it is called; None where it cannot be."""
        only = [each for each in map(ip_network, self.hosts) if len(self.hosts) == each.num_addresses == 1]
        host = self.host or "".join(str(each.network_address) for each in only)
        return (host, self.port) if host and self.port else None


@dataclass(frozen=True, slots=True)
class Destination:
    name: str
    ae_title: Annotated[str, kinds.AE_TITLE] = ""  # of kind "dimse": title, host and port; of "dicomweb": the url
    host: Annotated[str, kinds.HOST] = ""
    port: Annotated[int, kinds.PORT] = 0
    confirm: Annotated[str, kinds.one_of("commitment", "query", "status")] = "status"  # of "dicomweb": "query"
    associations: Annotated[int | None, kinds.COUNT] = None  # most at once; None: found by itself
    tls: Annotated[bool, kinds.YES_NO] = False
    tls_name: Annotated[str, kinds.HOST] = ""  # that its certificate must bear; omitted: the host
    certificate: Annotated[str, kinds.CERTIFICATE] = ""  # that it must show when it calls us; empty: any
    reports_from: Annotated[
        tuple[str, ...], kinds.AE_TITLE_LIST
    ] = ()  # other AE titles under which it reports commitment
    hosts: Annotated[tuple[str, ...], kinds.NETWORKS] = ()  # from where it reports, besides `host`
    keep_last: Annotated[float | None, kinds.DURATION] = None  # it gets a copy of all that came in this time, too
    kind: Annotated[str, kinds.one_of("dimse", "dicomweb")] = "dimse"
    url: Annotated[str, kinds.SERVICE_URL] = ""  # of its DICOMweb services, without /studies
    token: Annotated[str, kinds.SECRET] = ""  # a file with a bearer token
    oauth: Annotated[OAuth | None, kinds.OAUTH] = None  # where tokens are asked for
    client_certificate: Annotated[str, kinds.FILE] = ""  # ours, for mutual TLS
    client_key: Annotated[str, kinds.SECRET] = ""
    ca: Annotated[str, kinds.FILE] = ""  # that issued its certificate; omitted: those that the system trusts
    compress: Annotated[str, kinds.one_of("none", "jpeg-ls", "jpeg-2000", "rle")] = "none"  # without loss
    deidentify: Annotated[str, kinds.one_of("none", "basic")] = "none"  # PS3.15 annex E
    retain: Annotated[tuple[str, ...], kinds.RETAINED] = ()  # options of the profile
    clean: Annotated[tuple[str, ...], kinds.CLEANED] = ()  # options of the profile
    project: Annotated[str, kinds.PROJECT] = ""  # pseudonyms and UIDs are the same within one
    project_key: Annotated[str, kinds.SECRET_OR_NONE] = ""  # they are made with it

    @property
    def is_web(self) -> bool:
        return self.kind == "dicomweb"


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    to: Annotated[tuple[str, ...], kinds.DESTINATIONS]
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)  # as in TOML; compiled later
    priority: Annotated[Priority, kinds.PRIORITY] = Priority.ROUTINE
    companions: Annotated[bool, kinds.YES_NO] = True  # objects without an image follow their study's images


@dataclass(frozen=True, slots=True)
class Hold:
    """Studies that retention never deletes: [hold.NAME] with `studies` (UIDs) or `when` (as a route's)."""

    name: str
    studies: Annotated[tuple[str, ...], kinds.UIDS] = ()
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DropSection:
    """A folder in which a sensor or a camera leaves files: [drop.NAME]."""

    name: str
    path: Annotated[Path, kinds.PATH]
    quiet: Annotated[float, kinds.DURATION] = 10.0  # seconds without a change before a file is taken
    identity: Annotated[str, kinds.one_of("worklist", "ask")] = "ask"


@dataclass(frozen=True, slots=True)
class StorageSection:
    warn: Annotated[float, kinds.FRACTION] = 0.80  # of the file system
    refuse: Annotated[float, kinds.FRACTION] = 0.95


@dataclass(frozen=True, slots=True)
class RetentionSection:
    keep: Annotated[float, kinds.DURATION] = 30 * 86400.0  # seconds, at least, once confirmed
    corrected: Annotated[bool, kinds.YES_NO] = False  # may an original go that others have as corrected copies alone?


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """[retention.NAME]: what meets `when` is kept for longer than [retention] keep."""

    name: str
    keep: Annotated[float, kinds.DURATION]  # seconds, at least, once confirmed
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quality:
    """What the figures of the site expect of its equipment, by Modality (0008,0060)."""

    lossy: Annotated[tuple[str, ...], kinds.MODALITY_CODES] = ("ES", "XC", "GM")  # lossy images are expected of these
    dose: Annotated[tuple[str, ...], kinds.MODALITY_CODES] = ("CT", "XA", "RF", "MG")  # whose studies have dose reports
    patient_id: Annotated[str, kinds.REGEX] = ""  # the form of a Patient ID; empty: any that is not empty


@dataclass(frozen=True, slots=True)
class Identity:
    """What happens to an image whose patient differs from its study's or order's; an alert is raised in any case."""

    mismatch: Annotated[str, kinds.one_of("hold", "forward")] = "hold"
    hold_stat: Annotated[bool, kinds.YES_NO] = False  # a stat image, too
    orphan_after: Annotated[float, kinds.DURATION] = 86400.0  # seconds without an order; then an alert


@dataclass(frozen=True, slots=True)
class Hl7Section:
    """HL7 v2 over MLLP in. Without a port it is closed; over TLS with the files of [tls]."""

    host: Annotated[str, kinds.HOST] = "0.0.0.0"
    port: Annotated[int | None, kinds.PORT] = None
    tls_port: Annotated[int | None, kinds.PORT] = None

    @property
    def is_on(self) -> bool:
        return self.port is not None or self.tls_port is not None


@dataclass(frozen=True, slots=True)
class Feed:
    """A system that may send HL7, named by its addresses."""

    name: str
    hosts: Annotated[tuple[str, ...], kinds.SOME_NETWORKS]
    charset: Annotated[str, kinds.CHARSET] = ""  # where MSH-18 is empty; empty: guessed
    authority: Annotated[str, kinds.TEXT] = ""  # of numbers without one: namespace, or namespace&universal ID&type
    certificate: Annotated[str, kinds.CERTIFICATE] = ""  # that it must show, over TLS; empty: none


@dataclass(frozen=True, slots=True)
class Relay:
    """A receiver to which HL7 goes on, in order."""

    name: str
    host: Annotated[str, kinds.HOST]
    port: Annotated[int, kinds.PORT]
    messages: Annotated[tuple[str, ...], kinds.MESSAGE_TYPES] = ()  # MSH-9.1; empty: all
    feeds: Annotated[tuple[str, ...], kinds.TABLE_NAMES] = ()  # only what these brought; empty: all
    tls: Annotated[bool, kinds.YES_NO] = False
    tls_name: Annotated[str, kinds.HOST] = ""  # that its certificate must bear; omitted: the host
    answer: Annotated[float, kinds.PERIOD] = 30.0  # seconds to wait for an acknowledgement


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What cannot be read or trusted, and what a person has discarded."""

    keep: Annotated[float, kinds.DURATION] = 30 * 86400.0  # seconds that a discarded object's file is kept
    most: Annotated[float, kinds.FRACTION] = 0.02  # of the file system, for all that is in quarantine


@dataclass(frozen=True, slots=True)
class DicomWeb:
    """STOW-RS in, QIDO-RS and WADO-RS out; without the table the door is closed. Without [tls]: this machine alone."""

    host: Annotated[str, kinds.HOST] = "0.0.0.0"
    port: Annotated[int | None, kinds.PORT] = None  # None: closed
    origins: Annotated[tuple[str, ...], kinds.ORIGINS] = ()  # of pages that may call it from a browser (CORS)

    @property
    def is_on(self) -> bool:
        return self.port is not None


@dataclass(frozen=True, slots=True)
class WebClient:
    """[client.NAME]: a machine that calls the DICOMweb services."""

    name: str
    token: Annotated[str, kinds.SECRET] = ""  # a file with its bearer token
    certificate: Annotated[str, kinds.CERTIFICATE] = ""  # that it shows; one of the two, or both
    services: Annotated[tuple[str, ...], kinds.list_of_words("query", "retrieve", "store")] = ("query", "retrieve")
    ae_title: Annotated[str, kinds.AE_TITLE] = ""  # as what routes know it; omitted: its name in capitals

    @property
    def title(self) -> str:
        return self.ae_title or self.name.upper()[:16]


@dataclass(frozen=True, slots=True)
class QuerySection:
    """C-FIND, C-MOVE and C-GET. Without the table nobody may ask, whatever a modality's services say."""

    through: Annotated[tuple[str, ...], kinds.DESTINATIONS] = ()  # asked as well; empty: what is here alone
    limit: Annotated[int | None, kinds.COUNT] = None  # answers at most; None: all
    complete_as: Annotated[str, kinds.AE_TITLE] = ""  # called so, an answer without the archive is a failure


@dataclass(frozen=True, slots=True)
class PagesSection:
    """What [console] and a centre's [central] have in common: where they are, TLS, and how people sign in."""

    host: Annotated[str, kinds.HOST] = "127.0.0.1"
    port: Annotated[int, kinds.PORT] = 8042
    names: Annotated[tuple[str, ...], kinds.HOST_NAMES] = ()  # for browsers, besides addresses and localhost
    banner: Annotated[str, kinds.BANNER] = ""  # acknowledged before sign-in; empty: there is none
    lock_after: Annotated[int, kinds.COUNT] = 3  # failed sign-ins in 15 minutes that lock an account
    idle: Annotated[float, kinds.PERIOD] = 15 * 60.0  # without use; then a session ends
    admin_idle: Annotated[float, kinds.PERIOD] = 10 * 60.0  # the same, of an administrator's
    sessions: Annotated[int, kinds.COUNT] = 3  # of one account at a time
    certificate: Annotated[str | None, kinds.FILE] = None  # of the pages themselves: then they are served over TLS
    key: Annotated[str | None, kinds.SECRET] = None
    client_ca: Annotated[str | None, kinds.FILE] = None  # people sign in by a certificate (CAC, PIV) of this authority
    client_crl: Annotated[str | None, kinds.FILE] = None  # revocation lists, one of each authority
    client_ocsp: Annotated[str | None, kinds.SERVICE_URL] = None  # of a responder (OCSP) that is asked as well
    certificate_user: Annotated[str, kinds.one_of("cn", "edipi", "upn")] = "cn"  # what of it is the account's name


@dataclass(frozen=True, slots=True)
class ConsoleSection(PagesSection):
    user_header: Annotated[str, kinds.HEADER] = ""  # in which a proxy names who has signed in there; empty: in none
    proxies: Annotated[tuple[str, ...], kinds.NETWORKS] = ()  # who is trusted to do so
    user_role: Annotated[str, kinds.ROLE] = "none"  # of such a person without an account; "none": not admitted
    url: Annotated[str, kinds.CONSOLE_URL] = ""  # by which people reach it, for links in notices; empty: no links


@dataclass(frozen=True, slots=True)
class AlertRule:
    """[alert.KIND]: what a site wants otherwise than edge.config.alarms says. None: as there."""

    name: str
    enabled: Annotated[bool, kinds.YES_NO] = True
    severity: Annotated[str | None, kinds.SEVERITY] = None
    threshold: Annotated[float | None, kinds.DURATION] = None
    after: Annotated[float | None, kinds.DURATION] = None
    clear: Annotated[float | None, kinds.DURATION] = None
    escalate: Annotated[alarms.Term | None, kinds.TERM] = None


@dataclass(frozen=True, slots=True)
class Calendar:
    """The site's working days: for business days, and for what its modalities do on which day."""

    working_days: Annotated[tuple[str, ...], kinds.WORKING_DAYS] = ("mon", "tue", "wed", "thu", "fri")
    holidays: Annotated[tuple[str, ...], kinds.DATES] = ()
    time_zone: Annotated[str | None, kinds.TIME_ZONE] = None  # None: the machine's

    @property
    def zone(self) -> tzinfo | None:
        """The zone of the site's clock; None: the machine's."""
        return ZoneInfo(self.time_zone) if self.time_zone else None

    def day_at(self, at: float) -> date:
        """The day at the site, at a moment in seconds since 1970."""
        return datetime.fromtimestamp(at, timezone.utc).astimezone(self.zone).date()


@dataclass(frozen=True, slots=True)
class Config:
    site: SiteSection
    listen: Listen
    modalities: Annotated[dict[str, Modality], "modality"] = field(default_factory=dict)
    destinations: Annotated[dict[str, Destination], "destination"] = field(default_factory=dict)
    routes: Annotated[dict[str, Route], "route"] = field(default_factory=dict)
    holds: Annotated[dict[str, Hold], "hold"] = field(default_factory=dict)
    storage: StorageSection = field(default_factory=StorageSection)
    retention: RetentionSection = field(default_factory=RetentionSection)
    console: ConsoleSection = field(default_factory=ConsoleSection)
    tls: Tls = field(default_factory=Tls)
    retention_rules: Annotated[dict[str, RetentionRule], "retention"] = field(default_factory=dict)
    quality: Quality = field(default_factory=Quality)
    identity: Identity = field(default_factory=Identity)
    hl7: Hl7Section = field(default_factory=Hl7Section)
    feeds: Annotated[dict[str, Feed], "feed"] = field(default_factory=dict)
    relays: Annotated[dict[str, Relay], "relay"] = field(default_factory=dict)
    quarantine: Quarantine = field(default_factory=Quarantine)
    query: QuerySection = field(default_factory=QuerySection)
    audit: Audit = field(default_factory=Audit)
    coercions: Annotated[dict[str, Coercion], "coerce"] = field(default_factory=dict)
    masks: Annotated[dict[str, Mask], "mask"] = field(default_factory=dict)
    alerts: Annotated[dict[str, AlertRule], "alert"] = field(default_factory=dict)
    dicomweb: DicomWeb = field(default_factory=DicomWeb)
    clients: Annotated[dict[str, WebClient], "client"] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    emails: Annotated[dict[str, Email], "email"] = field(default_factory=dict)
    webhooks: Annotated[dict[str, Webhook], "webhook"] = field(default_factory=dict)
    syslogs: Annotated[dict[str, SyslogServer], "syslog"] = field(default_factory=dict)
    worklist: WorklistSection = field(default_factory=WorklistSection)
    mpps: MppsSection = field(default_factory=MppsSection)
    iocm: IocmSection = field(default_factory=IocmSection)
    prefetches: Annotated[dict[str, Prefetch], "prefetch"] = field(default_factory=dict)
    drops: Annotated[dict[str, DropSection], "drop"] = field(default_factory=dict)
    maintenances: Annotated[dict[str, Maintenance], "maintenance"] = field(default_factory=dict)
    serves_queries: bool = field(default=False, compare=False)  # there is a [query] table
    lines: dict[str, str] = field(default_factory=dict, compare=False)  # dotted key -> "file:line"

    @property
    def retrieves_from(self) -> frozenset[str]:
        """The destinations from which objects are fetched."""
        return frozenset(self.query.through) | {each.from_ for each in self.prefetches.values()}

    @property
    def feed_charsets(self) -> dict[str, str]:
        """The character set of each feed, for what its messages do not declare."""
        return {name: feed.charset for name, feed in self.feeds.items()}

    def coercions_for(self, destination: str) -> list[Coercion]:
        """The [coerce] rules for the copies of a destination, in the order of the files."""
        return [each for each in self.coercions.values() if not each.to or destination in each.to]

    def list_anonymous_callers(self) -> dict[str, tuple[str, ...]]:
        """The AE titles under which destinations of de-identified copies call, each with their names."""
        found: dict[str, tuple[str, ...]] = {}
        for name, each in self.destinations.items():
            if each.deidentify != "none":
                for title in dict.fromkeys((each.ae_title, *each.reports_from)):
                    found[title] = (*found.get(title, ()), name)
        return found

    def changes_copies(self, destination: str) -> bool:
        """May what a destination gets differ from what is kept, beyond the patient of today?"""
        is_anonymous = self.destinations[destination].deidentify != "none"
        return is_anonymous or bool(self.coercions_for(destination)) or bool(self.list_anonymous_callers())


SINGLE_SECTIONS, NAMED_SECTIONS = sections_by_table(Config)
