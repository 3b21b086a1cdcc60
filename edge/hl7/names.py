"""Names of HL7 (XPN, XCN) as DICOM's (VR PN, PS3.5 section 6.2.1). Pure.

HL7 has suffix, prefix; DICOM has prefix, suffix. Of repetitions the legal name counts, for each representation
(XPN-8: A letters, I ideographs, P phonetic).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge.hl7.message import Segment

#: What cannot stand inside a component of a PN, and control characters.
_FORBIDDEN = re.compile(r"[\^=\\\x00-\x1f\x7f]")
MOST_GROUP_CHARACTERS = 64  # of a component group
_ALIASES = frozenset({"A", "N", "S", "U", "P"})
NAME_CHANGED = "name-changed"


def person_name(segment: Segment, number: int, *, first: int = 1) -> tuple[str, bool]:
    """The name of a field, and whether it could not be kept as it was. `first`: the component of the family name."""
    is_changed, groups = False, []
    found = segment.repetitions(number)
    for code in ("A", "I", "P"):
        chosen = _choose(segment, [each for each in found if _representation(segment, each, first) == code], first)
        text, changed = ("", False) if chosen is None else _group(segment, chosen, first)
        groups.append(text)
        is_changed |= changed
    return "=".join(groups).rstrip("="), is_changed


def _representation(segment: Segment, components: Sequence[str], first: int) -> str:
    code = segment.leaf(components, first + 7).upper() if first == 1 else ""
    return code if code in ("I", "P") else "A"


def _choose(segment: Segment, found: Sequence[Sequence[str]], first: int) -> Sequence[str] | None:
    """The legal name (XPN-7 L), else the first that is no alias, else the first."""
    types = [segment.leaf(each, first + 6).upper() if first == 1 else "" for each in found]
    legal = [each for each, code in zip(found, types, strict=True) if code == "L"]
    plain = [each for each, code in zip(found, types, strict=True) if code not in _ALIASES]
    return next(iter([*legal, *plain, *found]), None)


def _group(segment: Segment, components: Sequence[str], first: int) -> tuple[str, bool]:
    """One component group: family, given, middle, prefix, suffix."""
    places = (first, first + 1, first + 2, first + 4, first + 3)
    leaves = [segment.leaf(components, place) for place in places]
    clean = [re.sub(" +", " ", _FORBIDDEN.sub(" ", each)).strip() for each in leaves]
    text = "^".join(clean).rstrip("^")
    return text[:MOST_GROUP_CHARACTERS], clean != leaves or len(text) > MOST_GROUP_CHARACTERS
