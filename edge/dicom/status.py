"""The meaning of a C-STORE status for the delivery: a table, and one total function.

Sources: PS3.4 table B.2-1 (A7xx, A9xx, Bxxx, Cxxx), PS3.7 annex C (the general statuses), and what archives answer in
the ranges that the Standard leaves to them:

- dcm4chee-arc-light, StoreService.java: 0xA770 to 0xA77B, each for a reason in the object or its study;
  StoreServiceImpl.java: 0xA700 when its storage fails, 0x0110 for any other fault, 0xC409 and 0xC499.
- Orthanc, StoreScp.cpp: 0xA700 for whatever fails while it stores, an attribute that is missing included.
- DCMTK, storescp.cc: 0xA700 when the file cannot be written, 0xC000 for an object that it cannot identify.

So 0xA700 and 0x0213 may concern the destination as a whole; every other status concerns the one object.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.model import Outcome, ReasonCode


@dataclass(frozen=True, slots=True)
class StatusMeaning:
    """What to do with the delivery, and a sentence for people: empty on plain success.

    DEFER means again later, in bounded number where the status concerns the object.
    """

    outcome: Outcome
    text: str = ""
    code: ReasonCode = ReasonCode.NONE


_SENT, _DEFER, _HOLD = Outcome.SENT, Outcome.DEFER, Outcome.HOLD

#: PS3.7 annex C and PS3.4 table B.2-1: the destination has it.
_STORED = {
    0x0001: "stored, but optional attributes are not supported",
    0x0107: "stored, but some attributes were not recognized",
    0x0111: "the destination has an object under this SOP Instance UID already",
    0x0116: "stored, but an attribute value is out of range",
    0xB000: "stored, but the destination coerced data elements",
    0xB006: "stored, but the destination discarded elements",
    0xB007: "stored, but the data set does not match its SOP class",
}
#: PS3.7 annex C: the destination refuses it, and will do so the next time.
_REFUSED = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "the SOP Instance UID is not valid there",
    0x0118: "the SOP class is not known there",
    0x0119: "the SOP instance is not of this SOP class there",
    0x0120: "a required attribute is missing",
    0x0121: "a required attribute has no value",
    0x0122: "the SOP class is not supported there",
    0x0123: "no such action",
    0x0124: "not authorized: have our AE title allowed to store there",
    0x0210: "duplicate invocation: the message ID is in use",
    0x0211: "unrecognized operation: the destination does not store",
    0x0212: "mistyped argument",
}
#: dcm4chee-arc-light, StoreService.java: what lasts.
_DCM4CHEE_LASTING = {
    0xA770: "this rejection note has been received before",
    0xA771: "the object was rejected there, and comes again",
    0xA773: "the instance that this note rejects is of another SOP class there",
    0xA774: "the instance that this note rejects has been rejected already",
    0xA775: "a rejection for an expired retention is not allowed there",
    0xA776: "the study that this note rejects must still be retained there",
    0xA777: "it has no Patient ID, or none of an authority that is trusted there",
    0xA778: "its study is there under another Patient ID",
    0xA779: "its patient is there with other attributes",
    0xA77B: "it is there in another study or series",
}
#: The same: what passes.
_DCM4CHEE_PASSING = {
    0xA772: "the instance that this note rejects is not there",
    0xA77A: "its study is being deleted there",
}
#: What may concern the destination as a whole (see the module's sources).
_OUT_OF_RESOURCES = {
    0x0213: "resource limitation at the destination",
    0xA700: "the destination is out of resources",
}
#: By the status' high digits: (shift, digits) -> meaning. Searched from the longest to the shortest.
_RANGES: dict[tuple[int, int], tuple[Outcome, str]] = {
    (8, 0xA7): (_DEFER, "the destination refuses this object for lack of resources"),
    (8, 0xA9): (_HOLD, "the destination refuses it: the data set does not match its SOP class"),
    (8, 0xFE): (_DEFER, "the destination cancelled the store"),
    (12, 0xB): (_SENT, "stored, with a warning of the destination's own"),
    (12, 0xC): (_HOLD, "the destination cannot understand the object"),
}


_BY_DCM4CHEE = "the destination refuses it, in dcm4chee's terms: "
_KNOWN: dict[int, tuple[Outcome, str]] = {
    **{status: (_SENT, text) for status, text in _STORED.items()},
    **{status: (_HOLD, f"the destination refuses it: {text}") for status, text in _REFUSED.items()},
    **{status: (_HOLD, _BY_DCM4CHEE + text) for status, text in _DCM4CHEE_LASTING.items()},
    **{status: (_DEFER, _BY_DCM4CHEE + text) for status, text in _DCM4CHEE_PASSING.items()},
    **{status: (_DEFER, text) for status, text in _OUT_OF_RESOURCES.items()},
    0x0110: (_DEFER, "processing failure at the destination"),  # PS3.7 section C.5.5
}
_UNKNOWN = "its answer is not a status that DICOM defines for C-STORE: ask the destination's vendor"
_CODES = {_SENT: ReasonCode.NONE, _DEFER: ReasonCode.FAILED, _HOLD: ReasonCode.REFUSED}


def meaning_of(status: int) -> StatusMeaning:
    """The verdict on any C-STORE status; one that no table knows holds the delivery for a person."""
    if status == 0:
        return StatusMeaning(_SENT)
    found = _KNOWN.get(status) or _RANGES.get((8, status >> 8)) or _RANGES.get((12, status >> 12))
    outcome, text = found or (
        _HOLD,
        _UNKNOWN,
    )
    code = ReasonCode.OUT_OF_RESOURCES if is_out_of_resources(status) else _CODES[outcome]
    return StatusMeaning(outcome, f"{text} (status {status:04X})", code)


#: Failure Reason (0008,1197) of a storage commitment (PS3.3 section C.14.1.1).
FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class / instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


def failure_text(reason: int) -> str:
    """A Failure Reason in words."""
    return f"{FAILURE_REASONS.get(reason, 'a reason that the standard does not list')} ({reason:04X})"


def is_out_of_resources(status: int) -> bool:
    """May the status concern the destination as a whole rather than the object?"""
    return status in _OUT_OF_RESOURCES
