"""What a C-STORE status means for the delivery: PS3.4 table B.2-1, PS3.7 annex C. A table, and one total function."""

from __future__ import annotations

from dataclasses import dataclass

from edge.model import Outcome, ReasonCode


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the delivery, and a sentence for people: empty on plain success."""

    outcome: Outcome
    text: str = ""
    code: ReasonCode = ReasonCode.NONE


_SENT, _DEFER, _HOLD = Outcome.SENT, Outcome.DEFER, Outcome.HOLD

_SINGLE: dict[int, tuple[Outcome, str]] = {
    0x0001: (_SENT, "stored, but optional attributes are not supported"),
    0x0105: (_HOLD, "no such attribute"),
    0x0106: (_HOLD, "invalid attribute value"),
    0x0107: (_SENT, "stored, but some attributes were not recognized"),
    0x0110: (_DEFER, "processing failure at the destination"),
    0x0111: (_SENT, "the destination has an object under this SOP Instance UID already"),
    0x0112: (_HOLD, "no such SOP instance"),
    0x0113: (_HOLD, "no such event type"),
    0x0114: (_HOLD, "no such argument"),
    0x0115: (_HOLD, "invalid argument value"),
    0x0116: (_SENT, "stored, but an attribute value is out of range"),
    0x0117: (_HOLD, "the SOP Instance UID is not valid to the destination"),
    0x0118: (_HOLD, "the destination does not know the SOP class"),
    0x0119: (_HOLD, "the SOP instance is not of this SOP class at the destination"),
    0x0120: (_HOLD, "a required attribute is missing"),
    0x0121: (_HOLD, "a required attribute has no value"),
    0x0122: (_HOLD, "the destination does not support the SOP class"),
    0x0123: (_HOLD, "no such action"),
    0x0124: (_HOLD, "not authorized: have our AE title allowed to store there"),
    0x0210: (_HOLD, "duplicate invocation: the message ID is in use"),
    0x0211: (_HOLD, "unrecognized operation: the destination does not store"),
    0x0212: (_HOLD, "mistyped argument"),
    0x0213: (_DEFER, "resource limitation at the destination"),
    0xB000: (_SENT, "stored, but the destination coerced data elements"),
    0xB006: (_SENT, "stored, but the destination discarded elements"),
    0xB007: (_SENT, "stored, but the data set does not match its SOP class"),
}
#: By the status' high digits: (shift, digits) -> meaning. Looked up from the longest to the shortest.
_RANGES: dict[tuple[int, int], tuple[Outcome, str]] = {
    (8, 0xA7): (_DEFER, "the destination is out of resources"),
    (8, 0xA9): (_HOLD, "the data set does not match its SOP class"),
    (8, 0xFE): (_DEFER, "the destination cancelled the store"),
    (12, 0xB): (_SENT, "stored, with a warning of the destination's own"),
    (12, 0xC): (_HOLD, "the destination cannot understand the object"),
}


_CODES = {_SENT: ReasonCode.NONE, _DEFER: ReasonCode.FAILED, _HOLD: ReasonCode.REFUSED}


def judge(status: int) -> Verdict:
    """The verdict on any C-STORE status; one that no table knows holds the delivery for a person."""
    if status == 0:
        return Verdict(_SENT)
    found = _SINGLE.get(status) or _RANGES.get((8, status >> 8)) or _RANGES.get((12, status >> 12))
    outcome, text = found or (_HOLD, "not a status that DICOM defines for C-STORE; ask the destination's vendor")
    code = ReasonCode.OUT_OF_RESOURCES if is_out_of_resources(status) else _CODES[outcome]
    return Verdict(outcome, f"{text} (status {status:04X})", code)


def is_out_of_resources(status: int) -> bool:
    """Does the status speak of the destination as a whole rather than of the object?"""
    return status >> 8 == 0xA7 or status == 0x0213
