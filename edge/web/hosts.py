"""Host names of requests: which are ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from edge.network.shares import parse_address

#: RFC 9110 section 7.2: a name or an address, and a port; nothing else, such as a path.
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def is_ours(host: str, names: Collection[str]) -> bool:
    """Check that a Host header is an address, localhost, or one of `names` (in lower case).

    An address in Host cannot come from a name that somebody else controls (DNS rebinding).
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"].strip("[]").rstrip(".").lower()
    return name == "localhost" or name in names or parse_address(name) is not None
