"""The configuration: a directory of TOML files, merged, checked whole, and frozen.

The dataclasses below are the one list of what can be configured: a section is a class, a key is a field, with its kind
of value and its default; a field without default is required. `load` gives a `Config` in which every key has been
checked, or raises one `ConfigError` with all faults, a line each:

    10-site.toml:6: listen.ae_titel: unknown key; did you mean "ae_title"?

What is legal but strange is not a fault: see edge.ops.check.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from edge import secret
from edge.config import alarms, channels, files
from edge.config import values as kinds
from edge.config.audit import Audit, audit_is_whole
from edge.config.channels import Email, Heartbeat, SyslogServer, Webhook
from edge.config.files import Key, Problem, dotted
from edge.config.values import Unfit, ValueKind, did_you_mean, nearest, show
from edge.config.when import WHEN
from edge.errors import ConfigError
from edge.model import Priority

#: `sends_by` where the site has not set it: learned from the modality's own weeks.
LEARNED = -1.0


@dataclass(frozen=True, slots=True)
class Site:
    id: Annotated[str, kinds.TEXT]
    name: Annotated[str, kinds.TEXT] = field(metadata={"omitted": ""})  # omitted: the id
    data_dir: Annotated[Path, kinds.PATH]  # a relative one begins at the configuration's directory


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
    key: Annotated[Path | None, kinds.PATH] = None  # a secret: see edge.secret
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
    services: Annotated[tuple[str, ...], kinds.SERVICES] = ("echo", "store")
    sends_by: Annotated[float | None, kinds.TIME_OF_DAY] = LEARNED  # on working days; None: never expected


@dataclass(frozen=True, slots=True)
class Destination:
    name: str
    ae_title: Annotated[str, kinds.AE_TITLE]
    host: Annotated[str, kinds.HOST]
    port: Annotated[int, kinds.PORT]
    confirm: Annotated[str, kinds.one_of("commitment", "query", "status")] = "status"
    associations: Annotated[int | None, kinds.COUNT] = None  # most at once; None: found by itself
    tls: Annotated[bool, kinds.YES_NO] = False
    tls_name: Annotated[str, kinds.HOST] = ""  # that its certificate must bear; omitted: the host
    certificate: Annotated[str, kinds.CERTIFICATE] = ""  # that it must show when it calls us; empty: any


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    to: Annotated[tuple[str, ...], kinds.DESTINATIONS]
    when: Annotated[dict[str, Any], WHEN] = field(default_factory=dict)  # as in TOML; edge.route compiles it
    priority: Annotated[Priority, kinds.PRIORITY] = Priority.ROUTINE


@dataclass(frozen=True, slots=True)
class Hold:
    """Studies that retention keeps for ever: [hold.NAME] with `studies` (UIDs) or `when` (as a route's)."""

    name: str
    studies: Annotated[tuple[str, ...], kinds.UIDS] = ()
    when: Annotated[dict[str, Any], WHEN] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    warn: Annotated[float, kinds.FRACTION] = 0.80  # of the file system
    refuse: Annotated[float, kinds.FRACTION] = 0.95


@dataclass(frozen=True, slots=True)
class Retention:
    keep: Annotated[float, kinds.DURATION] = 30 * 86400.0  # seconds, at least, once confirmed


@dataclass(frozen=True, slots=True)
class Console:
    host: Annotated[str, kinds.HOST] = "127.0.0.1"
    port: Annotated[int, kinds.PORT] = 8042
    names: Annotated[tuple[str, ...], kinds.HOSTS] = ()  # what browsers may call it, besides addresses and localhost
    user_header: Annotated[str, kinds.HEADER] = ""  # in which a proxy names who has signed in there; empty: in none
    proxies: Annotated[tuple[str, ...], kinds.NETWORKS] = ()  # who is trusted to do so
    user_role: Annotated[str, kinds.ROLE] = "none"  # of such a person without an account; "none": not let in


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

    working_days: Annotated[tuple[str, ...], kinds.WEEKDAYS] = ("mon", "tue", "wed", "thu", "fri")
    holidays: Annotated[tuple[str, ...], kinds.DATES] = ()
    time_zone: Annotated[str | None, kinds.TIME_ZONE] = None  # None: the machine's


@dataclass(frozen=True, slots=True)
class Config:
    site: Site
    listen: Listen
    modalities: dict[str, Modality]
    destinations: dict[str, Destination]
    routes: dict[str, Route]
    holds: dict[str, Hold]
    storage: Storage
    retention: Retention
    console: Console
    tls: Tls = field(default_factory=Tls)
    audit: Audit = field(default_factory=Audit)
    alerts: dict[str, AlertRule] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    emails: dict[str, Email] = field(default_factory=dict)
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    syslogs: dict[str, SyslogServer] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict, compare=False)  # dotted key -> "file:line"


#: [table] -> its class; the field of Config has the table's name.
SECTIONS: dict[str, type] = {
    "site": Site,
    "listen": Listen,
    "tls": Tls,
    "storage": Storage,
    "retention": Retention,
    "console": Console,
    "audit": Audit,
    "calendar": Calendar,
    "heartbeat": Heartbeat,
}
#: [table.NAME] -> its class, and the field of Config.
NAMED: dict[str, tuple[type, str]] = {
    "modality": (Modality, "modalities"),
    "destination": (Destination, "destinations"),
    "route": (Route, "routes"),
    "hold": (Hold, "holds"),
    "alert": (AlertRule, "alerts"),
    "email": (Email, "emails"),
    "webhook": (Webhook, "webhooks"),
    "syslog": (SyslogServer, "syslogs"),
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


#: (keyword, condition) of a `when` -> what is wrong with how they compare, or an empty text: edge.route.judge.
Judge = Callable[[str, object], str]
#: All sections as far as they could be read -> what is wrong between them.
Across = Callable[[Any], Iterator[tuple[Key, str]]]


def load(directory: Path, judge: Judge = lambda keyword, condition: "") -> Config:
    """Read and check the configuration; raises ConfigError with every fault, in the order of the files.

    Without `judge` (which needs the data dictionary) conditions are checked for their shape only.
    """
    reading = _Reading(files.read(directory), SECTIONS, NAMED)
    reading.read_all()
    for table, name, keyword, condition in reading.conditions():
        if text := judge(keyword, condition):
            reading.blame((table, name, "when", keyword), text)
    reading.look_across(_ACROSS)
    reading.refuse()
    return _build(reading, directory)


def load_tables(
    directory: Path, sections: dict[str, type], named: dict[str, tuple[type, str]], across: Iterable[Across] = ()
) -> dict[str, Any]:
    """The same for another program's tables (in the form of SECTIONS and NAMED): its sections by table or plural.

    `lines` holds the place of each key. Raises ConfigError.
    """
    reading = _Reading(files.read(directory), sections, named)
    reading.read_all()
    reading.look_across(across)
    reading.refuse()
    return reading.built()


def data_dir_of(directory: Path) -> Path | None:
    """site.data_dir of a configuration that may have mistakes elsewhere; None where it cannot be read."""
    site = files.read(directory).values.get("site")
    value = site.get("data_dir") if isinstance(site, dict) else None
    try:
        return None if value is None else _below(directory, kinds.PATH.read(value))
    except Unfit:
        return None


@cache
def keys(cls: type) -> dict[str, ValueKind]:
    """The keys that a section takes, with their kinds of value."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def defaults(cls: type) -> dict[str, Any]:
    """The keys that a section can do without, and what they are then."""
    found = {f.name: f.metadata["omitted"] for f in fields(cls) if f.metadata}
    found |= {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    return found | {f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING}


def required(cls: type) -> list[str]:
    """The keys that a section cannot do without."""
    return [name for name in keys(cls) if name not in defaults(cls)]


def changes(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as `table.key` or `table.NAME.key`; what came or went whole, as `table.NAME`."""
    found = [f"{table}.{key}" for table in SECTIONS for key in _differ(getattr(old, table), getattr(new, table))]
    for table, (_, plural) in NAMED.items():
        before, after = getattr(old, plural), getattr(new, plural)
        found += [f"{table}.{name}" for name in sorted(before.keys() ^ after.keys())]
        for name in sorted(before.keys() & after.keys()):
            found += [f"{table}.{name}.{key}" for key in _differ(before[name], after[name])]
    return found


def _differ(old: Any, new: Any) -> list[str]:
    cls: type = type(old)
    return [key for key in keys(cls) if getattr(old, key) != getattr(new, key)]


def _build(reading: _Reading, directory: Path) -> Config:
    parts = reading.built()
    site = parts["site"]
    parts["site"] = replace(site, data_dir=_below(directory, site.data_dir), name=site.name or site.id)
    parts["tls"] = _with_paths(parts["tls"], directory)
    return Config(**parts)


def _below(directory: Path, path: Path) -> Path:
    return path if path.is_absolute() else (directory / path).resolve()


def _with_paths(tls: Tls, directory: Path) -> Tls:
    def found(path: Path | None) -> Path | None:
        return path and secret.path_of(str(path), directory)

    return replace(tls, certificate=found(tls.certificate), key=found(tls.key), ca=found(tls.ca), crl=found(tls.crl))


class _Reading:
    """Reads the tables section by section and gathers every fault on the way.

    `values` holds what fits, defaults included, and leaves out what does not.
    """

    def __init__(
        self, tables: files.Tables, sections: dict[str, type], named_sections: dict[str, tuple[type, str]]
    ) -> None:
        self.tables, self._sections, self._named_sections = tables, sections, named_sections
        self.problems = list(tables.problems)
        self.values: dict[tuple[type, str], dict[str, Any]] = {}  # by class and name

    def blame(self, key: Key, text: str) -> None:
        self.problems.append(Problem(self.tables.place(key), key, text))

    def read_all(self) -> None:
        """Read every section; a misspelt table is read as what it was meant to be, so that its faults show as well."""
        tables = (*self._sections, *self._named_sections)
        absent = dict(self._sections)
        for table, value in self.tables.values.items():
            if table not in tables:
                what = "unknown table" if isinstance(value, dict) else "unknown key outside any table"
                self.blame((table,), f"{what}{_near(table, tables)}")
            meant = nearest(table, tables) if isinstance(value, dict) else table
            if meant in self._sections:
                self._section((table,), self._sections[meant], value)
                absent.pop(meant, None)
            elif meant in self._named_sections:
                self._named(table, self._named_sections[meant][0], value)
        for table, cls in absent.items():
            self._section((table,), cls, {})

    def look_across(self, checks: Iterable[Across]) -> None:
        """Check what no section can see alone."""
        for check in checks:
            for key, text in check(self):
                self.blame(key, text)

    def refuse(self) -> None:
        """Raise ConfigError where there is any fault."""
        if self.problems:
            raise ConfigError([str(problem) for problem in sorted(self.problems, key=lambda problem: problem.place)])

    def built(self) -> dict[str, Any]:
        """The sections as their classes have them, and the place of each key."""
        parts: dict[str, Any] = {table: cls(**self.of(cls)) for table, cls in self._sections.items()}
        for cls, plural in self._named_sections.values():
            parts[plural] = {name: cls(name, **values) for name, values in self.named(cls).items()}
        return parts | {"lines": {dotted(key): str(place) for key, place in self.tables.places.items()}}

    def of(self, cls: type) -> dict[str, Any]:
        """The values of the one section of a class."""
        return self.values.get((cls, ""), {})

    def named(self, cls: type) -> dict[str, dict[str, Any]]:
        """The values of all sections of a class, by name."""
        return {name: values for (of, name), values in self.values.items() if of is cls}

    def conditions(self) -> Iterator[tuple[str, str, str, object]]:
        """Every condition whose shape is right: (table, name, keyword, condition)."""
        for table in ("route", "hold"):
            for name, values in self.named(NAMED[table][0]).items():
                yield from ((table, name, keyword, value) for keyword, value in values.get("when", {}).items())

    def written(self, *rivals: Key) -> Key:
        """The last of some keys that stands in a file: it is the one to blame for a clash with a default."""
        return [key for key in rivals if key in self.tables.places][-1]

    def _named(self, table: str, cls: type, sections: object) -> None:
        if not isinstance(sections, dict):
            self.blame((table,), f"expected tables [{table}.NAME], found {show(sections)}")
            return
        for name, value in sections.items():
            if not _NAME.fullmatch(name):
                self.blame((table, name), f'expected a name of letters, digits, "_", "-" and ".", found {show(name)}')
            self._section((table, name), cls, value)

    def _section(self, key: Key, cls: type, table: object) -> None:
        if not isinstance(table, dict):
            self.blame(key, f"expected a table [{key[0]}{'.NAME' if len(key) > 1 else ''}], found {show(table)}")
            return
        values = {name: value for name, value in defaults(cls).items() if name not in table}
        for name, value in table.items():
            if name in keys(cls):
                self._read((*key, name), keys(cls)[name], value, values)
            else:
                self.blame((*key, name), f"unknown key{_near(name, keys(cls))}")
        meant = {nearest(name, keys(cls)) for name in table if name not in keys(cls)}
        for name in required(cls) if self.tables.whole else ():
            if name not in table and name not in meant:
                self.blame((*key, name), f"missing; expected {keys(cls)[name].expected}")
        self.values[cls, str(key[1]) if len(key) > 1 else ""] = values

    def _read(self, key: Key, kind: ValueKind, value: object, into: dict[str, Any]) -> None:
        try:
            into[str(key[-1])] = kind.read(value)
        except Unfit as unfit:
            for within, text in unfit.faults:
                self.blame((*key, *within), text)


def _near(name: str, choices: Iterable[str]) -> str:
    return did_you_mean(name, choices) or f"; expected one of {', '.join(choices) or '(none is declared)'}"


# What no section can see alone. Each passes over values that have faults of their own.


def _routes_lead_to_destinations(reading: _Reading) -> Iterator[tuple[Key, str]]:
    declared = reading.named(Destination)
    for route, values in reading.named(Route).items() if reading.tables.whole else ():
        for index, name in enumerate(values.get("to", ())):
            if name not in declared:
                yield ("route", route, "to", index), f"unknown destination {show(name)}{_near(name, declared)}"


def _modalities_differ(reading: _Reading) -> Iterator[tuple[Key, str]]:
    sound = [item for item in reading.named(Modality).items() if item[1].keys() == keys(Modality).keys()]
    for (a, first), (b, second) in combinations(sound, 2):
        if first["ae_title"] == second["ae_title"] and _overlap(first["hosts"], second["hosts"]):
            at = reading.tables.place(("modality", a, "ae_title"))
            yield ("modality", b, "ae_title"), f"same AE title and address as modality.{a} ({at})"


def _destinations_differ(reading: _Reading) -> Iterator[tuple[Key, str]]:
    seen: dict[tuple[Any, ...], str] = {}
    for name, values in reading.named(Destination).items():
        peer = tuple(values.get(key) for key in ("ae_title", "host", "port"))
        if None not in peer and (first := seen.setdefault(peer, name)) != name:
            at = reading.tables.place(("destination", first, "ae_title"))
            yield ("destination", name, "ae_title"), f"same AE title, host and port as destination.{first} ({at})"


def _warning_comes_first(reading: _Reading) -> Iterator[tuple[Key, str]]:
    warn, refuse = (reading.of(Storage).get(key) for key in ("warn", "refuse"))
    if warn and refuse and warn >= refuse:
        key = reading.written(("storage", "warn"), ("storage", "refuse"))
        yield key, f"expected warn below refuse, found warn = {warn} and refuse = {refuse}"


def _alerts_are_known(reading: _Reading) -> Iterator[tuple[Key, str]]:
    for kind, values in reading.named(AlertRule).items():
        if kind not in alarms.KINDS:
            yield ("alert", kind), f"there is no such alert{_near(kind, alarms.KINDS)}"
        elif values.get("threshold") is not None and not alarms.KINDS[kind].limit:
            yield ("alert", kind, "threshold"), "this alert has none"


def _ports_differ(reading: _Reading) -> Iterator[tuple[Key, str]]:
    ours, theirs = reading.of(Listen).get("host"), reading.of(Console).get("host")
    bound = [("listen", ours, reading.of(Listen).get("port")), ("console", theirs, reading.of(Console).get("port"))]
    if "tls" in reading.tables.values:
        bound.append(("tls", ours, reading.of(Tls).get("port")))
    for (a, host, port), (b, other, taken) in combinations(bound, 2):
        one_host = host == other or not {host, other}.isdisjoint(("0.0.0.0", "::"))
        if port and port == taken and one_host:
            key = reading.written((a, "port"), (b, "port"))
            yield key, f"expected different ports for {a} and {b}, found {port} for both"


def _tls_is_whole(reading: _Reading) -> Iterator[tuple[Key, str]]:
    given = reading.tables.values.get("tls")
    if isinstance(given, dict):
        meant = {nearest(name, keys(Tls)) for name in given}
        for key in ("certificate", "key", "ca"):
            if key not in meant:
                yield ("tls", key), f"missing; expected {kinds.PATH.expected}"
        return
    if reading.of(Listen).get("plain") is False:
        yield ("listen", "plain"), "nothing would listen: there is no [tls] table"
    for table, cls in (("modality", Modality), ("destination", Destination)):
        for name, values in reading.named(cls).items():
            for key in ("certificate", "tls"):
                if values.get(key):
                    yield (table, name, key), "needs TLS, but there is no [tls] table"


def _proxies_are_named(reading: _Reading) -> Iterator[tuple[Key, str]]:
    console = reading.of(Console)
    if console.get("user_header") and console.get("proxies") == ():
        yield ("console", "user_header"), "expected console.proxies too: whose word is to be trusted?"


def _holds_name_something(reading: _Reading) -> Iterator[tuple[Key, str]]:
    for name, values in reading.named(Hold).items():
        if values.get("studies") == () and values.get("when") == {}:
            yield ("hold", name), "expected studies or when, found neither"


_ACROSS: tuple[Across, ...] = (
    _routes_lead_to_destinations,
    _modalities_differ,
    _destinations_differ,
    _warning_comes_first,
    _ports_differ,
    _tls_is_whole,
    _holds_name_something,
    audit_is_whole,
    _proxies_are_named,
    _alerts_are_known,
    channels.kinds_are_known,
    channels.logins_are_whole_and_safe,
    channels.heartbeats_say_who_they_are,
    channels.keys_have_certificates,
)


def _overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    if not a or not b:
        return True
    networks = [ipaddress.ip_network(host) for host in b]
    return any(ipaddress.ip_network(host).overlaps(network) for host in a for network in networks)
