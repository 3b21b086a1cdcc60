"""Media types, and which of those offered a caller accepts (RFC 9110 section 12.5.1, PS3.18 section 8.7). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from edge.scp.dicomweb.protocol import HttpError

#: A parameter: a name, and a token or a quoted text.
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')
#: The next item of a list: up to a comma outside of quotes.
_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type or range, with its parameters in lower case; `q` is its weight."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)
    q: float = 1.0
    refused: frozenset[str] = frozenset()  # narrower ones that are named with a weight of 0 (RFC 9110 section 12.5.1)

    @property
    def breadth(self) -> int:
        """How many types are in the range: 0, one; 1, those of a kind; 2, all."""
        return 2 if self.name == "*/*" else int(self.name.endswith("/*"))

    def covers(self, name: str) -> bool:
        """Is a media type in this range, and not refused?"""
        every = f"{name.partition('/')[0]}/*"
        return self.name in ("*/*", every, name) and self.refused.isdisjoint((name, every))


def parse_media(text: str) -> MediaType:
    """One media type; with an empty name where there is none."""
    name, _, _ = text.partition(";")
    parameters = {
        found[1].lower(): re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        for found in _PARAMETER.finditer(text)
    }
    try:
        q = float(parameters.pop("q", "1"))
    except ValueError:
        q = 1.0
    return MediaType(name.strip().lower(), parameters, q)


def parse_accepted(text: str) -> list[MediaType]:
    """What is accepted, the most wanted first; everything where nothing is said."""
    found = [parse_media(each) for each in _ITEM.findall(text)] if text.strip() else [MediaType("*/*")]
    refused = [each for each in found if each.q <= 0 and not each.parameters]
    narrower = [frozenset(each.name for each in refused if each.breadth < breadth) for breadth in range(3)]
    wanted = (replace(each, refused=narrower[each.breadth]) for each in found if each.q > 0 and each.name)
    return sorted(wanted, key=lambda each: -each.q)


#: Names under which clients ask for what has another name in PS3.18.
_ALSO = {
    "application/json": "application/dicom+json",
    "text/xml": "application/dicom+xml",
    "application/xml": "application/dicom+xml",
}


def choose_media(accept: str, offered: Sequence[str]) -> str:
    """The offered media type that is accepted, the first of ours where several are alike. Raises HttpError: 406."""
    for each in parse_accepted(accept):
        wanted = _ALSO.get(each.name)
        for name in offered:
            if each.covers(name) or name == wanted or _is_related(each, name):
                return name
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"Accept is to name one of: {', '.join(offered)}.")


def _is_related(each: MediaType, name: str) -> bool:
    """multipart/related; type=... where a single answer of that type is what there is."""
    return each.name == "multipart/related" and each.parameters.get("type", "").lower() == name
