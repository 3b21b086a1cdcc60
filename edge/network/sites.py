"""Sites that an object has passed, where Edges send to each other: so that none comes back to where it has been.

A list of site ids, percent-encoded and with commas between them, the first one first. Each Edge adds its own when it
sends to another; over STOW-RS it is a header of the part, over DIMSE an element of the command set that both have
agreed on (extended negotiation). A list grows by one at each hop, and has MOST_HOPS at most. Pure.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

SITE_HEADER, PASSED_HEADER, PRIORITY_HEADER = "Edge-Site", "Edge-Passed", "Edge-Priority"
MOST_HOPS, _MOST_CHARACTERS = 16, 1024


def write_site(site_id: str) -> str:
    """A site as the list has it."""
    return quote(site_id, safe="")


def read_site(written: str) -> str:
    return unquote(written)


def read_passed(text: str) -> str:
    """A list that came from another Edge; what is none is empty."""
    found = [each for each in text.split(",") if each]
    is_list = text.isascii() and text.isprintable() and " " not in text and len(text) <= _MOST_CHARACTERS
    return ",".join(found) if is_list and len(found) <= MOST_HOPS else ""


def add_site(passed: str, site_id: str) -> str:
    """The list with our own site behind it; of a longer one the latest remain."""
    return ",".join([*filter(None, passed.split(",")), write_site(site_id)][-MOST_HOPS:])


def has_passed(passed: str, site: str) -> bool:
    """`site` as the list has it; empty: the peer is no Edge."""
    return bool(site) and site in passed.split(",")
