"""Host names and addresses of requests: which names are ours, who is trusted, and what counts as one caller. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

#: RFC 9110 section 7.2: a name or an address, and a port. Nothing else, such as a path, may ride along.
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names us: an address, localhost, or one of `names` (in lower case).

    An address in Host cannot have come by a name that somebody else controls (DNS rebinding).
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"].strip("[]").rstrip(".").lower()
    return name == "localhost" or name in names or parsed(name) is not None


def parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An address, an IPv4 one also where it is written as IPv6; None where it is none."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def caller_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 of an IPv6 address (RFC 4291 section 2.5.4)."""
    found = parsed(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found), 64), strict=False))
    return address if found is None else str(found)


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of some networks."""
    found = parsed(address)
    return found is not None and any(found in ip_network(network) for network in networks)
