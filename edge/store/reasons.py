"""Why a delivery is in its state, in words for people. Pure: of a code and its parameters; no code reads the words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from http.client import responses
from typing import Any

from edge.dicom.status import failure_text, meaning_of
from edge.errors import Cause, hindrance
from edge.model import Reason, ReasonCode
from edge.store.patients import words_for

Parameters = Mapping[str, Any]

_CONFLICT = (
    "conflict: other bytes came before under the same SOP Instance UID; `edge instances show` puts them side by side"
)
_NO_ROUTE = "no route matched: add one, then `edge instances release`"
UNUSABLE_ROW = "its row in the catalog cannot be used: stop the gateway, and type `edge recover`"
#: PS3.5 section 7.1.1, PS3.8 annex E.2. DCMTK aborts the association on it ("Odd Fragment Length", dimse.cc).
ODD_LENGTH = (
    "its data set has an odd number of bytes, which DICOM does not allow and no receiver need take: have its sender"
    " corrected and send it again"
)


def words(reason: Reason, *, with_quotes: bool = True) -> str:
    """The reason as one sentence; empty where there is none. `with_quotes`: with what a person wrote."""
    if reason.text:  # a row from before there were parameters
        return reason.text if with_quotes or reason.code not in _QUOTING else _QUOTING[reason.code]
    quoted = reason.parameters.get("why", "") if with_quotes else ""
    said = _WORDS[reason.code](reason.parameters)
    return f'{said}: "{quoted}"' if quoted else said


def reason_of(row: sqlite3.Row) -> Reason:
    """The reason of a row of `delivery`."""
    parameters = row["reason_parameters"]
    return Reason(ReasonCode(row["reason_code"]), json.loads(parameters) if parameters else {}, row["reason"])


#: Codes whose words, from before there were parameters, may quote a person.
_QUOTING = {ReasonCode.PERSON: "held by a person", ReasonCode.CANCELLED: "cancelled"}


def _unroutable(p: Parameters) -> str:
    if "retired" in p:
        return f"{_retirement(p)}, and no other destination has it or gets it"
    return "the images of its study have not come, and no route matches it" if "awaited" in p else _NO_ROUTE


def _retirement(p: Parameters) -> str:
    return f"destination {p['retired']} was retired"


def _cancellation(p: Parameters) -> str:
    if "retired" in p:
        return _retirement(p)
    if "passed" in p:
        return f"it has passed site {p['passed']} before"
    if "instead" in p:
        return f"{p['instead']} gets it anyway"
    if "keep_last" in p:
        return "older than what is copied there, and proved elsewhere"
    if "note" in p:
        return f"withdrawn: the rejection note {p['note']} forbids it"
    return f"cancelled by {p['who']}" if "who" in p else "cancelled"


def _awaits_images(p: Parameters) -> str:
    waiting, held = p.get("waiting", 0), p.get("held", 0)
    said = f"a rejection note: waits until {waiting} of the images that it names have been sent"
    return f"{said}; {held} of them are held" if held else said


def _mismatch(p: Parameters) -> str:
    other = "its order" if p.get("against") == "order" else "the images before in this study"
    return f"mismatch: another {words_for(p.get('differs_in', ()))} than {other}"


def _http(p: Parameters) -> str:
    """What a DICOMweb server made of it."""
    status = f"{p['http']} {responses.get(p['http'], '')}".rstrip()
    if "unnamed" in p:
        said = f"the destination answered {status}, and named it neither as stored nor as failed"
    else:
        said = f"the destination answered {status}"
    return f"{said}; {p['attempts']} attempts ended so" if "attempts" in p else said


def _status(p: Parameters) -> str:
    if "http" in p:
        return _http(p)
    if "other_bytes" in p:
        return "the destination has other bytes under its SOP Instance UID"
    if "status" not in p:
        return _failure(p)
    said = meaning_of(p["status"]).text
    return f"{said}; {p['attempts']} attempts ended so" if "attempts" in p else said


def _no_context(p: Parameters) -> str:
    if "error" in p:
        return str(p["error"])
    if "sop_class" not in p:
        return "its SOP class or transfer syntax UID is not valid (PS3.5 section 9.1)"
    from edge.dicom.acse import CONTEXT_RESULTS  # noqa: PLC0415 - the dictionaries of UIDs are slow to import
    from edge.dicom.uids import name_of  # noqa: PLC0415
    from edge.transform import possible  # noqa: PLC0415

    what = f"{name_of(p['sop_class'])} in {name_of(p['transfer_syntax'])}"
    if not p.get("takes"):
        result = p.get("result")
        why = "no answer" if result is None else CONTEXT_RESULTS.get(result, f"result {result}")
        return f"the destination takes no {what} ({why}), nor any other transfer syntax that Edge could convert it to"
    takes = ", ".join(name_of(syntax) for syntax in p["takes"])
    why_not = next(filter(None, (possible(p["transfer_syntax"], syntax) for syntax in p["takes"])), "")
    return f"the destination refuses {what}; it takes {takes}, but Edge cannot convert: {why_not}"


def _failure(p: Parameters) -> str:
    """What a sender found: an error of ours in our words, or silence."""
    if "silent_seconds" in p:
        return f"no answer for {p['silent_seconds']:.3g} s, while others waited"
    return str(p.get("error", ""))


def _breaks(p: Parameters) -> str:
    return f"each of {p['breaks']} associations ended with it, although the destination answers: {_failure(p)}"


def _internal(p: Parameters) -> str:
    if "row" in p:
        return UNUSABLE_ROW
    if "unreadable" in p:
        return f"the spooled file cannot be read ({p['unreadable']})"
    is_converting = p.get("step") == "convert"
    if "exception" in p:
        return f"internal error{' in converting' if is_converting else ''} ({p['exception']}); see the log"
    said = f"the gateway is {hindrance.words_of(Cause(p['cause']))}" if "cause" in p else _failure(p)
    return f"not converted: {said}" if is_converting else said


def _damage(p: Parameters) -> str:
    return f"the spooled file cannot be read ({p['unreadable']})" if "unreadable" in p else _failure(p)


def _missing(p: Parameters) -> str:
    return f"the archive does not commit to it: {failure_text(p['failure'])}" if "failure" in p else _NOT_FOUND


_NOT_FOUND = "the archive does not find it"


def _breaks_proof(p: Parameters) -> str:
    said = f"the exchange that asks for its proof, alone, ended {p['breaks']} times: {_failure(p)}"
    return f"{said}; it is not asked about again until the gateway is restarted" if p.get("given_up") else said


def _rule(p: Parameters) -> str:
    rule = f"rule {p['rule']} cannot be applied to it" if p.get("rule") else "it cannot be corrected"
    return f"{rule}: {p.get('error', '')}"


def _may_name(p: Parameters) -> str:
    return f"its pixels may name the patient ({p.get('error', '')}): inspect it, then release or cancel it"


UNKNOWN_STUDY = (
    "it came from a destination that gets de-identified copies, and belongs to no study that was sent there: it goes"
    " nowhere by itself"
)


def _always(said: str) -> Callable[[Parameters], str]:
    return lambda _: said


_WORDS: Mapping[ReasonCode, Callable[[Parameters], str]] = {
    ReasonCode.NONE: _status,
    ReasonCode.UNROUTABLE: _unroutable,
    ReasonCode.CONFLICT: _always(_CONFLICT),
    ReasonCode.MISMATCH: _mismatch,
    ReasonCode.PERSON: lambda p: f"held by {p.get('who', 'a person')}",
    ReasonCode.REFUSED: _status,
    ReasonCode.NO_CONTEXT: _no_context,
    ReasonCode.BREAKS_ASSOCIATION: _breaks,
    ReasonCode.UNSENDABLE: _always(ODD_LENGTH),
    ReasonCode.DAMAGED: _damage,
    ReasonCode.RULE_FAILED: _rule,
    ReasonCode.MAY_NAME_PATIENT: _may_name,
    ReasonCode.UNKNOWN_STUDY: _always(UNKNOWN_STUDY),
    ReasonCode.NOT_COMMITTED: _missing,
    ReasonCode.AWAITS_STUDY: _always("waits for the images of its study: it goes where they go"),
    ReasonCode.AWAITS_IMAGES: _awaits_images,
    ReasonCode.NOTE_NOT_ALLOWED: _always("a rejection note, and [iocm] senders does not name its sender"),
    ReasonCode.UNREACHABLE: _failure,
    ReasonCode.OUT_OF_RESOURCES: _status,
    ReasonCode.FAILED: _status,
    ReasonCode.INTERNAL: _internal,
    ReasonCode.MISSING: _missing,
    ReasonCode.LEASE_LAPSED: _always("the lease lapsed"),
    ReasonCode.PROOF_REFUSED: _failure,
    ReasonCode.BREAKS_PROOF: _breaks_proof,
    ReasonCode.CANCELLED: _cancellation,
}
