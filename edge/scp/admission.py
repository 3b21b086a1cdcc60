"""Admission: who may call, and for what; by AE title, address and certificate. Pure, but for resolving host names.

No protocol is known here: what a service's word allows on an association is decided in edge.scp.services.

Whose word counts as proof of custody is decided where the proof is taken (`reporter_fault`), not only at the door: it
must be the very archive that was asked, by its address or its certificate.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edge.config.kinds import QUERY_SERVICES
from edge.config.sections import Config, Destination, Modality
from edge.model import UNNAMED_CALLER
from edge.network.shares import is_within, parse_address
from edge.network.tls import Certificate

_WILDCARDS = str.maketrans("", "", "*?[]!")
#: What a caller that no [modality] names may do where [listen] accepts it.
UNKNOWN_CALLERS_SERVICES = frozenset({"echo", "store"})


@dataclass(frozen=True, slots=True)
class Admission:
    """What the site's configuration says of a caller."""

    modality: str = ""  # it is this equipment
    destination: str = ""  # it may report storage commitment
    services: frozenset[str] = frozenset()
    lacks: str = ""  # what a caller that the configuration names lacks, where it is refused
    way_back: tuple[str, int] | None = None  # where this equipment is called
    gives_back: bool = False  # an archive from which we retrieve: what it sends for that is taken

    @property
    def is_granted(self) -> bool:
        return bool(self.modality or self.destination)

    @property
    def refusal_reason(self) -> str:
        """Why it is refused, in words."""
        return self.lacks or "unknown equipment"


def admit(config: Config, calling_ae: str, address: str, certificate: Certificate | None = None) -> Admission:
    """Who is calling: pure, by AE title, address, and the certificate where it speaks TLS. Nothing else is admitted."""
    modality = modality_of(config, calling_ae, address)
    sends, reports, services, lacks = "", "", frozenset[str](), list[str]()
    if modality is None and config.listen.unknown == "accept":
        sends, services = UNNAMED_CALLER, UNKNOWN_CALLERS_SERVICES
    elif modality is not None and (why := _lacks(modality.certificate, certificate)):
        lacks.append(why)
    elif modality is not None:
        sends, services = modality.name, frozenset(modality.services)
        if not config.serves_queries:
            services -= QUERY_SERVICES
    for destination in reporters(config, calling_ae):
        if why := _lacks(destination.certificate or ("*" if destination.tls else ""), certificate):
            lacks.append(why)
        elif not reports:
            reports, services = destination.name, services | {"echo"}
    way_back = modality.way_back if modality is not None and sends else None
    lacking = "; ".join(dict.fromkeys(lacks))
    return Admission(sends, reports, services, lacking, way_back, reports in config.retrieves_from)


def modality_of(config: Config, calling_ae: str, address: str) -> Modality | None:
    """The modality with the most exact title, of those whose title and address fit: it decides what is required."""
    found = [modality for modality in config.modalities.values() if _is(modality, calling_ae, address)]
    return max(found, key=lambda modality: _exactness(modality.ae_title), default=None)


def _exactness(glob: str) -> tuple[bool, int]:
    """A title without wildcards, then the one with the most characters of its own."""
    plain = glob.translate(_WILDCARDS)
    return plain == glob, len(plain)


def _lacks(pattern: str, certificate: Certificate | None) -> str:
    """What is wrong with a caller's certificate; empty where it fits, or none is asked for."""
    if pattern and certificate is None:
        return "it must call over TLS"
    if pattern and certificate is not None and not certificate.fits(pattern):
        return f"its certificate ({certificate}) is not the one that the configuration names"
    return ""


def _is(modality: Modality, calling_ae: str, address: str) -> bool:
    if not fnmatchcase(calling_ae, modality.ae_title):
        return False
    return not modality.hosts or is_within(address, modality.hosts)


# -- whose report is proof --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of an association that we accepted."""

    ae_title: str
    address: str
    certificate: Certificate | None = None


def make_unnamed_caller(address: str, lacks: str) -> tuple[Caller, Admission]:
    """A caller that is refused without an AE title, as it is listed with the equipment that is refused."""
    return Caller("", address), Admission(lacks=lacks)


def reporters(config: Config, calling_ae: str) -> Iterator[Destination]:
    """The destinations for which an AE title may report: theirs, or one of `reports_from`, in any letter case."""
    for destination in config.destinations.values():
        if destination.is_web:
            continue  # it has no AE title
        titles = (destination.ae_title, *destination.reports_from)
        if calling_ae.casefold() in (title.casefold() for title in titles):
            yield destination


def reporter_fault(destination: Destination, caller: Caller, addresses_of: Callable[[str], frozenset[str]]) -> str:
    """Why a caller's report is no word of this destination; empty where it is.

    It must call under one of the destination's titles. Then a certificate proves who it is: the one that `certificate`
    names, or one that bears the name by which we call the destination. Without that its address must be the
    destination's, or in `hosts`; where TLS is asked for, an address alone is not enough.
    """
    if caller.ae_title.casefold() not in (
        each.casefold() for each in (destination.ae_title, *destination.reports_from)
    ):
        return f"destination {destination.name} does not report as {caller.ae_title!r}"
    if destination.confirm != "commitment":
        return f'destination {destination.name} has confirm = "{destination.confirm}"'
    return identity_fault(destination, caller, addresses_of)


def identity_fault(destination: Destination, caller: Caller, addresses_of: Callable[[str], frozenset[str]]) -> str:
    """Why a caller under one of its titles is not this destination; empty where it is."""
    if why := _lacks(destination.certificate or ("*" if destination.tls else ""), caller.certificate):
        return why
    if destination.certificate or _bears_name(destination, caller.certificate):
        return ""
    if is_within(caller.address, destination.hosts) or _same(caller.address, addresses_of(destination.host)):
        return ""
    return f"{caller.address} is no address of destination {destination.name}"


def _bears_name(destination: Destination, certificate: Certificate | None) -> bool:
    return certificate is not None and (destination.tls_name or destination.host).lower() in certificate.names


def _same(address: str, addresses: frozenset[str]) -> bool:
    found = parse_address(address)
    return found is not None and found in map(parse_address, addresses)


class Resolver:
    """Addresses of a host, asked for once a minute; what was found last holds while the name cannot be resolved."""

    SECONDS = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, tuple[float, frozenset[str]]] = {}
        self._lock = threading.Lock()

    def __call__(self, host: str) -> frozenset[str]:
        with self._lock:
            at, found = self._found.get(host, (-self.SECONDS, frozenset[str]()))
        if self._clock() - at < self.SECONDS:
            return found
        try:
            found = frozenset(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            pass  # what was found last, if anything
        with self._lock:
            self._found[host] = (self._clock(), found)
        return found
