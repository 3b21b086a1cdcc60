"""Settings of a configuration that are valid and probably unintended.

Pure: facts of the store and the disk are arguments. Each warning is a line in the form of a configuration error, with
the key, its file and line, and what to do. Limits: whether a route can match is decided from the caller alone; where
that is hard to decide (a pattern of titles under a `not`, a character class, a network) it is taken as possible.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import IPv6Address, ip_address
from typing import Any

from edge.config.conditions import Condition
from edge.config.files import ConfigWarning, Key, fault_line
from edge.config.maintenance import windows_of
from edge.config.sections import Config, Destination, Modality
from edge.errors import Cause
from edge.errors.hindrance import remedy_of, words_of
from edge.intake.routing import compile_rules
from edge.model import Disk
from edge.model.dictionary import dictionary_vr, tag_for_keyword
from edge.monitor.exposure_warnings import EVERYWHERE, EXPOSURE_CHECKS, is_loopback
from edge.monitor.service_warnings import SERVICE_CHECKS
from edge.store.destinations import DestinationCounts, KeptProof
from edge.text import amount, size

#: The traffic of a day while nothing is measured: a busy clinic with CT and MR.
ASSUMED_DAILY_BYTES = 10 * 10**9

_DAY = 86400.0
_CALLER = ("CallingAETitle", "RemoteAddress")  # what a [modality] sets for its callers


def warnings(
    config: Config,
    seen: Collection[str] | None = None,
    disk: tuple[int, int] | None = None,
    daily_bytes: float | None = None,
    gone: Sequence[DestinationCounts] = (),
    proofs: Sequence[KeptProof] = (),
    callers: Collection[str] = (),
) -> list[str]:
    """All warnings, a line each. Raises ConfigError where a route's conditions cannot be compiled.

    `seen` holds the AE titles or modality names that have ever sent (None: not known), `disk` the total and free bytes
    of the file system that holds data_dir (None: not known), `daily_bytes` the traffic of a day (None: not measured),
    `gone` the destinations that have work left and no table, `proofs` what removed ones have proved of what is kept,
    `callers` the AE titles or modality names that were ever admitted.
    """
    found = [warning for check in WARNING_CHECKS for warning in check(config)]
    found += [
        *_past_maintenance(config, time.time()),
        *_gone_destinations(gone),
        *_gone_proofs(proofs),
        *_silent_modalities(config, seen, callers),
        *_small_disk(config, disk, daily_bytes),
    ]
    return [fault_line(config.lines, key, text) for key, text in found]


def room_warnings(config: Config, disk: Disk, refusing: Collection[str] = ()) -> list[str]:
    """What refuses scanners now, or would, except the bytes, which `warnings` checks.

    `refusing` holds the causes (edge.errors.Cause) that the running gateway reports.
    """
    causes = [cause for cause in Cause if cause.value in refusing]
    if disk.is_read_only:
        causes.append(Cause.READ_ONLY)
    if disk.used_inodes_fraction >= config.storage.refuse:
        causes.append(Cause.INODES)
    key = ("site", "data_dir")
    return [
        fault_line(config.lines, key, f"nothing is accepted, the gateway is {words_of(each)}; {remedy_of(each)}")
        for each in dict.fromkeys(causes)
        if each is not Cause.BYTES
    ]


def _odd_values(config: Config) -> Iterator[ConfigWarning]:
    """Conditions that no object meets as they are written: codes (PS3.5, VR CS) are in upper case."""
    for table, rules in (("route", config.routes), ("hold", config.holds)):
        for name, rule in rules.items():
            for keyword, value in rule.when.items():
                for odd in _lower_case_codes(keyword, value):
                    text = f'"{odd}" matches nothing: {keyword} is a code in upper case; write "{odd.upper()}"'
                    yield (table, name, "when", keyword), text


def _lower_case_codes(keyword: str, value: Any) -> list[str]:
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_vr(tag) != "CS":
        return []
    written = value if isinstance(value, list) else [value]
    return [each for each in written if isinstance(each, str) and each != each.upper()]


def _past_maintenance(config: Config, now: float) -> Iterator[ConfigWarning]:
    for each in windows_of(config.maintenances.values(), config.calendar.time_zone):
        if each.end < now - _DAY:
            yield ("maintenance", each.name, "to"), "it is over, so it has no effect any more; remove it"


def _missing_tables(config: Config) -> Iterator[ConfigWarning]:
    if not config.modalities and config.listen.unknown == "refuse":
        yield ("listen", "unknown"), 'nobody can send: name the equipment in [modality.NAME], or set it to "accept"'
    if not config.routes:
        yield ("route",), "there is none, so everything received is held; add a [route.NAME]"


def _companions_left(config: Config) -> Iterator[ConfigWarning]:
    """Routes of images without the reports, key objects and presentation states of the same studies."""
    rules = compile_rules(config)
    if any(route.names_kind is False and not route.conditions for route in rules.routes):
        return  # a route for everything matches them
    for route in rules.routes:
        if not route.companions:
            text = "reports, key objects and presentation states of its studies go only where a route names them"
            yield ("route", route.name, "companions"), f"{text}; without one they are held as unroutable"


def _unreachable_routes(config: Config) -> Iterator[ConfigWarning]:
    for route in compile_rules(config).routes:
        when = config.routes[route.name].when
        asked = [condition for condition in route.conditions if condition.keyword in _CALLER]
        callers = config.modalities.values() if config.listen.unknown == "refuse" else ()
        if asked and callers and not any(_may_be(modality, asked, when) for modality in callers):
            text = "no [modality] meets this, so the route never matches; correct it, or name the modality"
            yield ("route", route.name, "when", asked[0].keyword), text


def _corrected_copies(config: Config) -> Iterator[ConfigWarning]:
    """Originals whose destinations all get corrected copies stay until the site says otherwise."""
    meant = {name for each in config.coercions.values() for name in each.to or config.destinations}
    corrected = meant | {name for name, each in config.destinations.items() if each.deidentify != "none"}
    kept = [route for route in config.routes.values() if corrected.issuperset(route.to)]
    if kept and not config.retention.corrected:
        text = "every destination of this route may get corrected copies: their originals are then never evicted"
        yield ("route", kept[0].name, "to"), f"{text}; `retention.corrected = true` lets them go"
    if corrected and config.retention.corrected:
        text = "an original may be evicted that is nowhere else as it was received"
        yield ("retention", "corrected"), f"{text}: destinations with corrected copies cannot repair it"


def _may_be(modality: Modality, asked: list[Condition], when: dict[str, Any]) -> bool:
    """Whether a caller that the modality admits may meet all conditions; where that is hard to decide, yes."""
    return all(
        _title_may_meet(condition, when[condition.keyword], modality.ae_title)
        if condition.keyword == "CallingAETitle"
        else _address_may_meet(condition, modality.hosts)
        for condition in asked
    )


def _title_may_meet(condition: Condition, written: Any, title: str) -> bool:
    if not re.search(r"[*?\[]", title):
        return condition.matcher.holds((title,))
    choices = written if isinstance(written, list) else [written]
    return any(not isinstance(choice, str) or globs_meet(_simple(choice), _simple(title)) for choice in choices)


def _address_may_meet(condition: Condition, hosts: tuple[str, ...]) -> bool:
    return not hosts or any("/" in host or condition.matcher.holds((str(ip_address(host)),)) for host in hosts)


def _simple(glob: str) -> str:
    return re.sub(r"\[!?.[^\]]*\]", "?", glob)


@cache
def globs_meet(a: str, b: str) -> bool:
    """Whether some text matches both of two globs of `*` and `?`."""
    if not a or not b:
        return not (a + b).strip("*")
    if a[0] == "*":
        return globs_meet(a[1:], b) or globs_meet(a, b[1:])
    if b[0] == "*":
        return globs_meet(b, a)
    return (a[0] == b[0] or "?" in (a[0], b[0])) and globs_meet(a[1:], b[1:])


def _odd_destinations(config: Config) -> Iterator[ConfigWarning]:
    used = {name for route in config.routes.values() for name in route.to}
    used |= {config.worklist.from_, *config.mpps.to, *config.mpps.ian, *config.query.through}
    used |= {each.from_ for each in config.prefetches.values()}
    for destination in config.destinations.values():
        key = ("destination", destination.name)
        if destination.name not in used and destination.keep_last is None:
            yield key, "no route sends there; name it in the `to` of a [route], or remove it"
        if _is_ourselves(destination, config):
            yield (*key, "host"), "this is the gateway itself: what it sends returns to it; correct host or port"


def _odd_reporters(config: Config) -> Iterator[ConfigWarning]:
    """Odd senders of storage commitment reports, after which retention removes images."""
    for destination in config.destinations.values():
        key = ("destination", destination.name)
        if destination.confirm != "commitment":
            text = f'it is not used: confirm is "{destination.confirm}", and only "commitment" is reported'
            yield from (((*key, name), text) for name in ("reports_from", "hosts") if getattr(destination, name))
            continue
        if not destination.tls and not destination.certificate:
            text = (
                "reports of storage commitment arrive over plain DICOM: a machine with the archive's address can"
                " forge the proof after which images are removed here; set tls = true, or certificate"
            )
            yield (*key, "confirm"), text
        for title in destination.reports_from:
            if text := _odd_title(config, destination, title):
                yield (*key, "reports_from"), text


def _odd_title(config: Config, destination: Destination, title: str) -> str:
    same = title.casefold()
    if same == destination.ae_title.casefold():
        return f'"{title}" is its ae_title already: it may be left out'
    if same == config.listen.ae_title.casefold():
        return f'"{title}" is our own AE title; name that of the archive'
    for other in config.destinations.values():
        if other is not destination and same in (each.casefold() for each in (other.ae_title, *other.reports_from)):
            return f'"{title}" is an AE title of destination.{other.name}, too: only address or certificate differs'
    for modality in config.modalities.values():
        if modality.ae_title.strip("*") and fnmatchcase(title, modality.ae_title):
            return f'"{title}" is an AE title of modality.{modality.name}, too: it can send images as well as report'
    return ""


def _gone_destinations(gone: Sequence[DestinationCounts]) -> Iterator[ConfigWarning]:
    for each in gone:
        text = f"{amount(each.left, 'delivery')} cannot be finished without its table: put it back, or type"
        commands = f"`edge destination rename {each.name} NEW` or `edge destination retire {each.name} --reason TEXT`"
        yield ("destination", each.name), f"{text} {commands}"


def _gone_proofs(proofs: Sequence[KeptProof]) -> Iterator[ConfigWarning]:
    for each in proofs:
        text = (
            f"it has proved {amount(each.count, 'image')} that {each.rule} keeps, and is configured no more: send them"
        )
        yield ("destination", each.destination), f"{text} to another archive before this one is switched off"


def _short_rules(config: Config) -> Iterator[ConfigWarning]:
    """A rule of retention keeps longer, never shorter."""
    for rule in config.retention_rules.values():
        if rule.keep <= config.retention.keep:
            yield (
                ("retention", rule.name, "keep"),
                "it is not longer than retention.keep and has no effect; lengthen it",
            )


def _unusable_addresses(config: Config) -> Iterator[ConfigWarning]:
    """A link-local address is valid on one interface alone (RFC 4007 section 6)."""
    hosts: dict[Key, str] = {("listen", "host"): config.listen.host, ("console", "host"): config.console.host}
    hosts |= {("destination", name, "host"): each.host for name, each in config.destinations.items()}
    for key, host in hosts.items():
        address = ip_address(host) if ":" in host else None
        if isinstance(address, IPv6Address) and address.is_link_local and not address.scope_id:
            yield key, f'a link-local address needs its interface behind it; write it as "{host}%eth0"'


def _is_ourselves(destination: Destination, config: Config) -> bool:
    ours = config.listen
    if destination.port not in (ours.port if ours.plain else None, config.tls.port if config.tls.is_on else None):
        return False
    return destination.host == ours.host or (
        is_loopback(destination.host) and (ours.host in EVERYWHERE or is_loopback(ours.host))
    )


def _silent_modalities(
    config: Config, seen: Collection[str] | None, callers: Collection[str]
) -> Iterator[ConfigWarning]:
    """Equipment that never sent; where it may ask for something, equipment that never called."""
    for modality in config.modalities.values() if seen is not None else ():
        sends = "store" in modality.services
        asks = not sends or set(modality.services) - _SENDS
        if _is_among(modality, seen or ()) or (asks and _is_among(modality, callers)):
            continue
        never = "has never sent" if sends else "has never called"
        text = f'{never}; compare AE title "{modality.ae_title}" and address with the equipment'
        yield ("modality", modality.name), f"{text}, or remove it"


#: The services of equipment that does nothing but send.
_SENDS = frozenset({"echo", "store", "commit"})


def _is_among(modality: Modality, names: Collection[str]) -> bool:
    return any(name == modality.name or fnmatchcase(name, modality.ae_title) for name in names)


def _small_disk(config: Config, disk: tuple[int, int] | None, daily_bytes: float | None) -> Iterator[ConfigWarning]:
    if disk is None:
        return
    total, free = disk
    room = total * config.storage.refuse
    daily = daily_bytes if daily_bytes is not None else ASSUMED_DAILY_BYTES
    day = f"{size(daily)} a day ({'measured' if daily_bytes is not None else 'assumed, nothing is measured yet'})"
    keep = config.retention.keep / _DAY
    if total - free >= room:
        yield ("site", "data_dir"), "the file system is above storage.refuse, so nothing is accepted; make room on it"
    if room < daily:
        text = f"the file system takes {size(room)} up to storage.refuse, traffic is {day}; choose a larger one"
        yield ("site", "data_dir"), text
    elif room < daily * keep:
        text = f"{keep:g} days at {day} need {size(daily * keep)}, the file system takes {size(room)}"
        yield ("retention", "keep"), f"{text} up to storage.refuse; shorten it, or choose a larger file system"


#: The checks of a configuration alone.
WARNING_CHECKS: tuple[Callable[[Config], Iterator[ConfigWarning]], ...] = (
    _corrected_copies,
    _missing_tables,
    _short_rules,
    _unreachable_routes,
    _companions_left,
    _odd_destinations,
    _odd_reporters,
    _unusable_addresses,
    _odd_values,
    *EXPOSURE_CHECKS,
    *SERVICE_CHECKS,
)
