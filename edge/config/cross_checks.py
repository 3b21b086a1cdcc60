"""Checks of several sections together. Each check passes over values that have faults of their own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from edge.config import alarms, channels
from edge.config import values as kinds
from edge.config.audit import audit_is_whole
from edge.config.files import Key
from edge.config.reading import Across, Reading, suggest
from edge.config.sections import (
    AlertRule,
    ConsoleSection,
    Destination,
    Feed,
    Hl7Section,
    Hold,
    Listen,
    Modality,
    Relay,
    Route,
    StorageSection,
    Tls,
    keys,
)
from edge.config.values import format_value, nearest


def _routes_lead_to_destinations(reading: Reading) -> Iterator[tuple[Key, str]]:
    declared = reading.named_sections(Destination)
    for route, values in reading.named_sections(Route).items() if reading.tables.whole else ():
        for index, name in enumerate(values.get("to", ())):
            if name not in declared:
                yield (
                    ("route", route, "to", index),
                    f"unknown destination {format_value(name)}{suggest(name, declared)}",
                )


def _modalities_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    sound = [item for item in reading.named_sections(Modality).items() if item[1].keys() == keys(Modality).keys()]
    for (a, first), (b, second) in combinations(sound, 2):
        if first["ae_title"] == second["ae_title"] and _overlap(first["hosts"], second["hosts"]):
            at = reading.tables.place(("modality", a, "ae_title"))
            yield ("modality", b, "ae_title"), f"same AE title and address as modality.{a} ({at})"


def _destinations_differ(reading: Reading) -> Iterator[tuple[Key, str]]:
    seen: dict[tuple[Any, ...], str] = {}
    for name, values in reading.named_sections(Destination).items():
        peer = tuple(values.get(key) for key in ("ae_title", "host", "port"))
        if None not in peer and (first := seen.setdefault(peer, name)) != name:
            at = reading.tables.place(("destination", first, "ae_title"))
            yield ("destination", name, "ae_title"), f"same AE title, host and port as destination.{first} ({at})"


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
    bound = [
        ("listen", ours, reading.section(Listen).get("port")),
        ("console", theirs, reading.section(ConsoleSection).get("port")),
    ]
    if "tls" in reading.tables.values:
        bound.append(("tls", ours, reading.section(Tls).get("port")))
    hl7 = reading.section(Hl7Section)
    bound.append(("hl7", hl7.get("host"), hl7.get("port")))
    for (a, host, port), (b, other, taken) in combinations(bound, 2):
        one_host = host == other or not {host, other}.isdisjoint(("0.0.0.0", "::"))
        if port and port == taken and one_host:
            key = reading.last_written((a, "port"), (b, "port"))
            yield key, f"expected different ports for {a} and {b}, found {port} for both"


def _tls_is_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    given = reading.tables.values.get("tls")
    if isinstance(given, dict):
        meant = {nearest(name, keys(Tls)) for name in given}
        for key in ("certificate", "key", "ca"):
            if key not in meant:
                yield ("tls", key), f"missing; expected {kinds.PATH.expected}"
        return
    if reading.section(Listen).get("plain") is False:
        yield ("listen", "plain"), "nothing would listen: there is no [tls] table"
    for table, cls in (("modality", Modality), ("destination", Destination)):
        for name, values in reading.named_sections(cls).items():
            for key in ("certificate", "tls"):
                if values.get(key):
                    yield (table, name, key), "needs TLS, but there is no [tls] table"


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


def _relays_name_feeds(reading: Reading) -> Iterator[tuple[Key, str]]:
    declared = reading.named_sections(Feed)
    for relay, values in reading.named_sections(Relay).items() if reading.tables.whole else ():
        for index, name in enumerate(values.get("feeds", ())):
            if name not in declared:
                text = f"unknown feed {format_value(name)}{suggest(name, declared)}"
                yield ("relay", relay, "feeds", index), text


def _hl7_is_whole(reading: Reading) -> Iterator[tuple[Key, str]]:
    if "tls" in reading.tables.values:
        return
    if reading.section(Hl7Section).get("tls_port"):
        yield ("hl7", "tls_port"), "needs TLS, but there is no [tls] table"
    for table, cls in (("feed", Feed), ("relay", Relay)):
        for name, values in reading.named_sections(cls).items():
            for key in ("certificate", "tls"):
                if values.get(key):
                    yield (table, name, key), "needs TLS, but there is no [tls] table"


CROSS_CHECKS: tuple[Across, ...] = (
    _routes_lead_to_destinations,
    _modalities_differ,
    _destinations_differ,
    _warning_comes_first,
    _ports_differ,
    _tls_is_whole,
    _feeds_differ,
    _relays_name_feeds,
    _hl7_is_whole,
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
