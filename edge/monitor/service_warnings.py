"""Warnings of a configuration: services that nobody may use, or that lead nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from itertools import permutations

from edge.config import kinds
from edge.config.files import ConfigWarning
from edge.config.sections import Config
from edge.monitor.exposure_warnings import EVERYWHERE


def _web_door(config: Config) -> Iterator[ConfigWarning]:
    """What does not come together of [dicomweb], [client.NAME] and [query]."""
    if config.dicomweb.is_on and not config.clients:
        yield ("dicomweb",), "no [client.NAME] may call it: only people who have signed in at the console are served"
    if config.dicomweb.is_on and not config.tls.is_on and config.dicomweb.host in EVERYWHERE:
        text = "without [tls] only this machine is served; put a proxy with TLS before it, or add the table"
        yield ("dicomweb", "host"), text
    for name, client in config.clients.items():
        if not config.dicomweb.is_on:
            yield ("client", name), "nothing is open for it: there is no [dicomweb] table"
        elif "query" in client.services and not config.serves_queries:
            yield ("client", name, "services"), "query needs the table [query]"


def _services_to_come(config: Config) -> Iterator[ConfigWarning]:
    for modality in config.modalities.values():
        if closed := [service for service in modality.services if service in kinds.NOT_SERVED]:
            yield ("modality", modality.name, "services"), f"{' and '.join(closed)} has no effect yet: it may stay"


def _idle_queries(config: Config) -> Iterator[ConfigWarning]:
    """Queries that nobody may ask, and words that open nothing."""
    asking = [each for each in config.modalities.values() if kinds.QUERY_SERVICES & set(each.services)]
    if config.serves_queries and not asking:
        yield ("query",), 'nobody may ask: add "query" and "retrieve" to the services of a [modality]'
    for modality in asking if not config.serves_queries else ():
        words = " and ".join(each for each in modality.services if each in kinds.QUERY_SERVICES)
        yield ("modality", modality.name, "services"), f"{words} has no effect yet: there is no [query] table"


def _hollow_commitments(config: Config) -> Iterator[ConfigWarning]:
    """Storage commitment that is never reported, or that promises less than it seems to."""
    by_status = [name for name, each in config.destinations.items() if each.confirm == "status"]
    for modality in config.modalities.values():
        key = ("modality", modality.name)
        if "commit" not in modality.services:
            continue
        if modality.way_back is None:
            text = "its requests for storage commitment are refused: host (or one address in hosts) and port must say"
            yield (*key, "services"), f"{text} where it takes reports"
        if modality.commit == "archive" and by_status:
            text = f'of {" and ".join(by_status)} the C-STORE status alone is the proof (confirm = "status")'
            yield (*key, "commit"), f'{text}: set confirm = "commitment" or "query"'


def _hollow_hl7(config: Config) -> Iterator[ConfigWarning]:
    """A door that nobody may use, and feeds that have no door."""
    if config.hl7.is_on and not config.feeds:
        yield ("hl7",), "no [feed] may send: every caller is refused"
    if config.feeds and not config.hl7.is_on:
        yield ("feed", next(iter(config.feeds))), "[hl7] has no port, so nothing is received"
    yield from _overlapping_feeds(config)
    for name, feed in config.feeds.items():
        if not feed.authority:
            text = "patient numbers without an assigning authority (CX-4) have none: name this feed's with authority"
            yield ("feed", name), text


def _overlapping_feeds(config: Config) -> Iterator[ConfigWarning]:
    """An address that two feeds name: the smaller network counts, which a reader of the file may not expect."""
    networks = [(name, ip_network(host, strict=False)) for name, feed in config.feeds.items() for host in feed.hosts]
    for (one, outer), (other, inner) in permutations(networks, 2):
        if one != other and outer.version == inner.version and outer != inner and inner.subnet_of(outer):  # type: ignore[arg-type]
            yield ("feed", other, "hosts"), f"{inner} is in {outer} of feed {one}: what comes from there is of {other}"


def _hollow_departments(config: Config) -> Iterator[ConfigWarning]:
    """Worklists and performed steps that lead nowhere."""
    for modality in config.modalities.values():
        key = ("modality", modality.name, "services")
        if "mpps" in modality.services and not config.mpps.to:
            yield key, "its performed steps are kept and go on to nobody: name the RIS in [mpps] to"
        if "worklist" in modality.services and not config.worklist.from_ and not config.feeds:
            yield key, "its worklist is empty: there is neither [worklist] from nor a [feed] that brings orders"
        if config.worklist.per_modality and "worklist" in modality.services and set(modality.ae_title) & set("*?["):
            yield ("modality", modality.name, "ae_title"), "a pattern has no worklist of its own (per_modality)"
    if config.prefetches and not config.worklist.from_ and not config.feeds:
        yield ("prefetch",), "nothing is fetched: there is neither [worklist] from nor a [feed] that brings orders"


def _unwatched_folders(config: Config) -> Iterator[ConfigWarning]:
    """Folders of [drop.NAME] that nobody can put a file into, or that we cannot take one from."""
    for name, each in config.drops.items():
        key = ("drop", name, "path")
        if not each.path.is_dir():
            yield key, f"there is no folder {each.path}: nothing is imported from it; create it, or correct the path"
        elif not os.access(each.path, os.R_OK | os.W_OK | os.X_OK):
            yield (
                key,
                f"{each.path} cannot be read and written by this account: files would be imported again and again",
            )


SERVICE_CHECKS: tuple[Callable[[Config], Iterator[ConfigWarning]], ...] = (
    _web_door,
    _services_to_come,
    _idle_queries,
    _hollow_commitments,
    _hollow_departments,
    _hollow_hl7,
    _unwatched_folders,
)
