"""Checks of several sections together. Each check passes over values that have faults of their own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from edge.config import alarms, channels, kinds, maintenance
from edge.config.audit import audit_goes_somewhere
from edge.config.coercion import Coercion
from edge.config.files import Key, format_key
from edge.config.reading import Across, Reading, suggest
from edge.config.sections import (
    AlertRule,
    ConsoleSection,
    Destination,
    DicomWeb,
    Feed,
    Hl7Section,
    Hold,
    Listen,
    Modality,
    StorageSection,
    Tls,
    WebClient,
)
from edge.config.tables import keys
from edge.config.values import format_value, nearest

#: Keys that name tables of another kind.
_REFERENCES = {
    ("route", "to"): "destination",
    ("coerce", "to"): "destination",
    ("mask", "to"): "destination",
    ("query", "through"): "destination",
    ("worklist", "from"): "destination",
    ("mpps", "to"): "destination",
    ("mpps", "ian"): "destination",
    ("prefetch", "from"): "destination",
    ("relay", "feeds"): "feed",
    ("iocm", "senders"): "modality",
}


def _names_are_declared(reading: Reading) -> Iterator[tuple[Key, str]]:
    for (table, key), kind in _REFERENCES.items() if reading.tables.whole else ():
        declared = [str(at[-1]) for at, _ in reading.tables_of(kind)]
        for at, values in reading.tables_of(table):
            given = values.get(key) or ()
            for index, name in enumerate([given] if isinstance(given, str) else given):
                if name not in declared:
                    place = (*at, key) if isinstance(given, str) else (*at, key, index)
                    yield place, f"unknown {kind} {format_value(name)}{suggest(name, declared)}"


#: Keys that mean nothing without [tls].
_OVER_TLS = {
    "modality": ("certificate",),
    "destination": ("certificate", "tls"),
    "client": ("certificate",),
    "hl7": ("tls_port",),
    "feed": ("certificate",),
    "relay": ("tls",),
}


def _tls_is_there(reading: Reading) -> Iterator[tuple[Key, str]]:
    if "tls" in reading.tables.values:
        return
    if reading.section(Listen).get("plain") is False:
        yield ("listen", "plain"), "nothing would listen: there is no [tls] table"
    for table, needing in _OVER_TLS.items():
        for at, values in reading.tables_of(table):
            yield from (((*at, key), "needs TLS, but there is no [tls] table") for key in needing if values.get(key))


#: Keys of a table that mean nothing without another one.
_TOGETHER = {
    "audit": {"client_key": "certificate"},
    "console": {
        "certificate": "key",
        "key": "certificate",
        "client_ca": "certificate",
        "client_crl": "client_ca",
        "client_ocsp": "client_ca",
    },
    "email": {"password": "user", "user": "password"},
    "heartbeat": {"client_key": "certificate"},
    "syslog": {"client_key": "certificate"},
}


def keys_come_together(reading: Reading) -> Iterator[tuple[Key, str]]:
    for table, pairs in _TOGETHER.items():
        for at, values in reading.tables_of(table):
            for key, needed in pairs.items():
                if values.get(key) and values.get(needed, "") is None:
                    yield (*at, key), f"expected {needed} as well, found {key} alone"


def _coercions_change_something(reading: Reading) -> Iterator[tuple[Key, str]]:
    for at, values in reading.tables_of("coerce"):
        if not any(values.get(key) for key in keys(Coercion) if key not in ("when", "to")):
            yield at, "expected a change, such as set or remove, found neither"


def _deidentification_is_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    for name, values in reading.named_sections(Destination).items():
        is_on = values.get("deidentify", "none") != "none"
        for key in ("project", "project_key"):
            if is_on and not values.get(key):
                yield ("destination", name, key), "missing; deidentify needs it"
        for key in ("retain", "clean", "project", "project_key"):
            if values.get("deidentify") == "none" and values.get(key):
                yield ("destination", name, key), 'means nothing without deidentify = "basic"'
        if {"dates", "modified-dates"} <= set(values.get("retain", ())):
            yield ("destination", name, "retain"), 'expected one of "dates" and "modified-dates", found both'


def _modalities_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    sound = [item for item in reading.named_sections(Modality).items() if item[1].keys() == keys(Modality).keys()]
    for (a, first), (b, second) in combinations(sound, 2):
        if first["ae_title"] == second["ae_title"] and _overlap(first["hosts"], second["hosts"]):
            at = reading.tables.place(("modality", a, "ae_title"))
            yield ("modality", b, "ae_title"), f"same AE title and address as modality.{a} ({at})"


def _destinations_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    seen: dict[tuple[Any, ...], str] = {}
    for name, values in reading.named_sections(Destination).items():
        peer = tuple(values.get(key) or None for key in ("ae_title", "host", "port"))
        if None not in peer and (first := seen.setdefault(peer, name)) != name:
            at = reading.tables.place(("destination", first, "ae_title"))
            yield ("destination", name, "ae_title"), f"same AE title, host and port as destination.{first} ({at})"


#: Of [destination.NAME], by its kind: keys that it needs, and keys that only the other one has.
_NEEDED = {"dimse": ("ae_title", "host", "port"), "dicomweb": ("url",)}
_ONLY = {
    "dimse": ("ae_title", "host", "port", "tls", "tls_name", "certificate", "reports_from", "hosts"),
    "dicomweb": ("url", "token", "oauth", "client_certificate", "client_key", "ca"),
}


def _destinations_are_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    given = reading.tables.values.get("destination", {})
    for name, values in reading.named_sections(Destination).items() if isinstance(given, dict) else ():
        if name not in given:
            continue
        written, kind = given[name], values.get("kind", "dimse")
        meant = {nearest(key, keys(Destination)) for key in written if key not in keys(Destination)}
        for key in _NEEDED[kind] if reading.tables.whole else ():
            if key not in written and key not in meant:
                yield ("destination", name, key), f"missing; expected {keys(Destination)[key].expected}"
        other = "dicomweb" if kind == "dimse" else "dimse"
        for key in _ONLY[other]:
            if key in written:
                yield ("destination", name, key), f'only a destination with kind = "{other}" has it'
        yield from _web_destination_faults(name, values) if kind == "dicomweb" else ()


def _web_destination_faults(name: str, values: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    at = ("destination", name)
    if values.get("confirm") == "commitment":
        yield (*at, "confirm"), 'expected "query" or "status": DICOMweb has no storage commitment that servers offer'
    if values.get("token") and values.get("oauth"):
        yield (*at, "oauth"), "expected token or oauth, found both"
    if bool(values.get("client_certificate")) != bool(values.get("client_key")):
        yield (*at, "client_certificate"), "expected client_certificate and client_key together"
    if (values.get("token") or values.get("oauth")) and not _is_guarded(str(values.get("url", ""))):
        yield (*at, "url"), "expected https://: a token would be read by others on the way"


def _is_guarded(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _clients_are_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    for name, values in reading.named_sections(WebClient).items():
        if values.get("token") == "" and values.get("certificate") == "":
            yield ("client", name), "expected token or certificate, found neither: how is it known?"


def _dicomweb_is_guarded(reading: Reading) -> Iterator[tuple[Key, str]]:
    host = reading.section(DicomWeb).get("host")
    given = reading.tables.values.get("dicomweb")
    meant = {nearest(key, keys(DicomWeb)) for key in given} if isinstance(given, dict) else {"port"}
    if "port" not in meant and reading.tables.whole:
        yield ("dicomweb", "port"), f"missing; expected {kinds.PORT.expected}"
    if host not in (None, "0.0.0.0", "::", "localhost", "127.0.0.1", "::1") and "tls" not in reading.tables.values:
        yield ("dicomweb", "host"), "needs TLS, but there is no [tls] table; without it only this machine is served"


def _warning_comes_first(reading: Reading) -> Iterator[tuple[Key, str]]:
    warn, refuse = (reading.section(StorageSection).get(key) for key in ("warn", "refuse"))
    if warn and refuse and warn >= refuse:
        key = reading.last_written(("storage", "warn"), ("storage", "refuse"))
        yield key, f"expected warn below refuse, found warn = {warn} and refuse = {refuse}"


def _alerts_are_known(reading: Reading) -> Iterator[tuple[Key, str]]:
    for kind, values in reading.named_sections(AlertRule).items():
        if kind not in alarms.ALERT_KINDS:
            yield ("alert", kind), f"there is no such alert{suggest(kind, alarms.ALERT_KINDS)}"
        elif values.get("threshold") is not None and not alarms.ALERT_KINDS[kind].limit:
            yield ("alert", kind, "threshold"), "this alert has none"


def _ports_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    ours, theirs = reading.section(Listen).get("host"), reading.section(ConsoleSection).get("host")
    bound: list[tuple[Key, Any, Any]] = [
        (("listen", "port"), ours, reading.section(Listen).get("port")),
        (("console", "port"), theirs, reading.section(ConsoleSection).get("port")),
    ]
    if "dicomweb" in reading.tables.values:
        web = reading.section(DicomWeb)
        bound.append((("dicomweb", "port"), web.get("host"), web.get("port")))
    if "tls" in reading.tables.values:
        bound.append((("tls", "port"), ours, reading.section(Tls).get("port")))
    hl7 = reading.section(Hl7Section)
    bound += [(("hl7", key), hl7.get("host"), hl7.get(key)) for key in ("port", "tls_port")]
    for (a, host, port), (b, other, taken) in combinations(bound, 2):
        one_host = host == other or not {host, other}.isdisjoint(("0.0.0.0", "::"))
        if port and port == taken and one_host:
            doors = [str(each[0]) if a[0] != b[0] else format_key(each) for each in (a, b)]
            yield (
                reading.last_written(a, b),
                f"expected different ports for {' and '.join(doors)}, found {port} for both",
            )


def _tls_is_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    given = reading.tables.values.get("tls")
    if isinstance(given, dict):
        meant = {nearest(name, keys(Tls)) for name in given}
        for key in ("certificate", "key", "ca"):
            if key not in meant:
                yield ("tls", key), f"missing; expected {kinds.PATH.expected}"


def _proxies_are_named(reading: Reading) -> Iterator[tuple[Key, str]]:
    console = reading.section(ConsoleSection)
    if console.get("user_header") and console.get("proxies") == ():
        yield ("console", "user_header"), "expected console.proxies too: whose word is to be trusted?"


def _holds_name_something(reading: Reading) -> Iterator[tuple[Key, str]]:
    for name, values in reading.named_sections(Hold).items():
        if values.get("studies") == () and values.get("when") == {}:
            yield ("hold", name), "expected studies or when, found neither"


def _feeds_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    """A feed is known by its address alone: no two may have the same one."""
    sound = [item for item in reading.named_sections(Feed).items() if item[1].get("hosts")]
    for (a, first), (b, second) in combinations(sound, 2):
        if same := sorted(set(first["hosts"]) & set(second["hosts"])):
            yield (
                ("feed", b, "hosts"),
                f"{same[0]} is feed.{a}'s already ({reading.tables.place(('feed', a, 'hosts'))})",
            )


CROSS_CHECKS: tuple[Across, ...] = (
    _names_are_declared,
    _modalities_differ,
    _destinations_are_whole,
    _destinations_differ,
    _clients_are_whole,
    _dicomweb_is_guarded,
    _warning_comes_first,
    _ports_differ,
    _tls_is_whole,
    _tls_is_there,
    keys_come_together,
    _feeds_differ,
    _holds_name_something,
    _coercions_change_something,
    _deidentification_is_whole,
    audit_goes_somewhere,
    _proxies_are_named,
    _alerts_are_known,
    channels.kinds_are_known,
    channels.passwords_are_safe,
    channels.heartbeats_say_who_they_are,
    maintenance.windows_are_sound,
)


def _overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    if not a or not b:
        return True
    networks = [ipaddress.ip_network(host) for host in b]
    return any(ipaddress.ip_network(host).overlaps(network) for host in a for network in networks)
