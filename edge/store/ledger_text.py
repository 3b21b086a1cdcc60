"""The content of a row of the ledger: its payload for code, and words for people, which no code reads. Pure."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from edge.model import Reason, ReasonCode
from edge.store import ledger, ledger_0_1_0, reasons
from edge.store.ledger import Payload
from edge.text import amount, local_day

NO_DESTINATION = "nobody: no route matched"


def payload_of(event: str, who: str, destination: str, detail: str, payload: str | None) -> Payload:
    """What a row says, typed; of a row of 0.1.0, as far as its text has it. Empty where it cannot be read."""
    if payload is None:
        return ledger_0_1_0.decode_text(event, who, destination, detail)
    try:
        found = json.loads(payload)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def payload_of_row(row: sqlite3.Row) -> Payload:
    """The same, of a row with the columns of the ledger."""
    return payload_of(row["event"], row["who"], row["destination"], row["detail"], row["payload"])


def render_row(row: sqlite3.Row) -> str:
    """The same as `render_words`, of a row with the columns of the ledger."""
    return render_words(row["event"], row["detail"], row["payload"])


def render_words(event: str, detail: str, payload: str | None) -> str:
    """What a row says beside its event, who and destination, for people; empty where it says no more."""
    if payload is None:
        return detail
    known = payload_of(event, "", "", "", payload)
    try:
        return render_payload(event, known)
    except (AttributeError, LookupError, TypeError, ValueError):
        return "" if payload == "{}" else str(payload)  # not as it was written: the chain shows that it is damaged


def render_payload(event: str, payload: Payload) -> str:
    """The words for a payload. Raises LookupError, TypeError or ValueError for one that is never written."""
    return _WORDS[event](payload)


def reason_payload(reason: Reason) -> dict[str, Any]:
    """Why a delivery is in its state, as a row of the ledger has it; what a person typed is `reason`."""
    values = {key: value for key, value in reason.parameters.items() if key != "why"}
    if reason.code:
        values["reason_code"] = reason.code.value
    return values | _reason_value(str(reason.parameters.get("why", "")))


def reason_from_payload(payload: Payload) -> Reason:
    """The inverse of `reason_payload`."""
    values = {key: value for key, value in payload.items() if key not in ("reason_code", "reason")}
    if payload.get("reason"):
        values["why"] = payload["reason"]
    return Reason(ReasonCode(payload.get("reason_code", "")), values)


def _reason_value(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}


# -- words -------------------------------------------------------------------------------------------------------------


def _with_reason(said: str, payload: Payload) -> str:
    """What was done, and what the person typed as the reason."""
    return ": ".join(filter(None, (said, payload.get("reason", ""))))


def _add_address(payload: Payload, said: str) -> str:
    return f"{said}, from {payload['address']}" if "address" in payload else said


def _arrival(p: Payload) -> str:
    return f"from {p['address']} for {', '.join(p['destinations']) or NO_DESTINATION}; sha256 {p['sha256']}"


def _mismatch(p: Payload) -> str:
    return f"{reasons.words(Reason(ReasonCode.MISMATCH, p))}; {'held' if p['held'] else 'not held for it'}"


def _reason(p: Payload) -> str:
    return reasons.words(reason_from_payload(p)) if p else ""


def _loss(p: Payload) -> str:
    return str(p["fault"]) if "fault" in p else _reason(p)


def _proof(p: Payload) -> str:
    if p["method"] == ledger.BY_COMMITMENT:
        return f"by storage commitment, transaction {p['transaction_uid']}"
    return {ledger.BY_STATUS: "by the C-STORE status", ledger.BY_QUERY: "by C-FIND"}[p["method"]]


def _request_words(p: Payload) -> str:
    return f"of {amount(p['count'], 'instance')}, from {p['address']}, transaction {p['transaction_uid']}"


def _commitment(p: Payload) -> str:
    promised = {"local": "stored here", "archive": "confirmed by every destination"}[p["policy"]]
    return f"{promised}, transaction {p['transaction_uid']}"


def _no_commitment(p: Payload) -> str:
    from edge.dicom.status import failure_text  # noqa: PLC0415 - as above

    reasons = ", ".join(map(failure_text, p["failures"]))
    return f"{amount(p['count'], 'instance')}: {reasons}, transaction {p['transaction_uid']}"


def _change(p: Payload) -> str:
    from edge.dicom.uids import name_of  # noqa: PLC0415 - the dictionary of UIDs is slow to import

    sent, received = p["transfer_syntax_uid"], p["received_in"]
    rules = f" corrected by {', '.join(p['rules'])}" if p.get("rules") else ""
    if sent == received:
        return f"a copy{rules}"
    return f"a copy{rules} in {name_of(sent)}, received in {name_of(received)}"


def _release(p: Payload) -> str:
    where = ", ".join(p.get("destinations", ()))
    return _with_reason(f"routed to {where}" if where else "", p)


def _eviction(p: Payload) -> str:
    if "fault" in p:
        return f"it was cached, and its file is not whole: {p['fault']}; the archive has it"
    used = f"{p['used']:.1%}"
    full = f"{used} of the inodes were used" if p["is_inodes"] else f"the disk was {used} full"
    return f"every destination has confirmed it; {full}"


def _repair(p: Payload) -> str:
    if "source" in p:
        return f"fetched from {p['source']}"
    return f"{p['fault']}: written again" if "fault" in p else "its file is whole again"


def _recovery(p: Payload) -> str:
    return (
        f"catalog rebuilt: {p['instances']} instances restored, {p['adopted']} adopted, {p['lost']} lost;"
        f" {p['ledger_missing']} rows of the ledger are missing"
    )


def _refusal(p: Payload) -> str:
    if p.get("action") == ledger.SIGN_IN:
        more = f" (and {p['left_out']} more like it)" if p.get("left_out") else ""
        return f"{_add_address(p, 'sign-in at the console')}{more}"
    times = f" ({p['times']} times)" if p["times"] > 1 else ""
    if "fault" not in p:
        return f"many callers at once, as in a port scan{times}"
    return f"from {p.get('address') or 'several addresses'}: {p['fault']}{times}"


#: What a person decided about HL7, and whose a study is: action -> words.
_DECISIONS = {
    ledger.REPLAY_HL7: "HL7 message {message} applied again",
    ledger.DISCARD_HL7: "HL7 message {message} discarded",
    ledger.RELEASE_HL7: "HL7 message {message} sent to its relay again",
    ledger.CANCEL_HL7: "HL7 message {message} not sent to its relay",
    ledger.DECIDE_STUDY: "held images: {decision}",
}


def _override(p: Payload) -> str:
    if p["action"] == ledger.DISCARD_MESSAGES:
        return f"{amount(p['count'], 'message')} to {p['channel']} discarded"
    if p["action"] in _DECISIONS:
        return _with_reason(_DECISIONS[p["action"]].format(**p), p)
    if p["action"] == ledger.REDIRECT:
        return _with_reason(f"instead of {p['instead_of'] or 'nowhere'}", p)
    if p["action"] == ledger.TRY:
        return _with_reason("tried at once", p)
    return _with_reason(f"priority {p['priority']}", p)


def _step_decision(p: Payload) -> str:
    done = "sent again" if p["action"] == "retry" else "cancelled"
    return _with_reason(f"{amount(p['count'], 'message')} of performed step {p['step_uid']} {done}", p)


def _rejection(p: Payload) -> str:
    done = "" if p["allowed"] else "; its sender may not reject: nothing is rejected here, and the note is held"
    return f"note {p['note_uid']} rejects {amount(p['count'], 'instance')} with code {p['code']}{done}"


def _cancellation(p: Payload) -> str:
    """Who cancelled it is a value of the row itself."""
    if "note_uid" in p:
        return f"withdrawn by rejection note {p['note_uid']}"
    known = Reason(
        ReasonCode.CANCELLED, {key: p[key] for key in ("retired", "instead", "passed", "keep_last") if key in p}
    )
    return _with_reason(reasons.words(known) if known.parameters else "", p)


def _sign_in(p: Payload) -> str:
    return _add_address(p, "signed out at the console" if p["action"] == ledger.SIGN_OUT else "at the console")


def _legal_hold(p: Payload) -> str:
    return _with_reason(f"until {local_day(p['ends_at'] - 1)}" if "ends_at" in p else "until it is released", p)


def _configuration(p: Payload) -> str:
    if p["action"] == ledger.REJECT:
        return f"rejected: {p['faults']} faults, the running configuration stays active"
    if p["action"] == ledger.ACCOUNT:
        return f"account {p['account']}: {_account(p)}"
    more = f" and {p['left_out']} more" if p.get("left_out") else ""
    return f"changed: {', '.join(p['keys']) or 'nothing'}{more}"


def _account(p: Payload) -> str:
    if "locked_until" in p:
        return _add_address(p, f"locked until {p['locked_until']} after {p['failures']} failures")
    return str(p["change"])


def _export(p: Payload) -> str:
    if "sha256" in p:
        return f"to {p['path']}; sha256 {p['sha256']}"
    return f"to {p['path']}: {amount(p['count'], 'image')}"


def _import(p: Payload) -> str:
    files, differs = amount(p["count"], "file"), p.get("differs_in", [])
    if p["action"] == ledger.DISCARD_IMPORT:
        return _with_reason(f"{files} of import {p['batch']} discarded", p)
    more = f" (other {', '.join(differs)})" if differs else ""
    return _with_reason(f"{files} of import {p['batch']} assigned to a patient{more}", p)


def _query(p: Payload) -> str:
    """Without a word of what was asked: that may name a patient."""
    if "times" in p:
        return f"{p['times']} more queries"
    lacks = f", without {', '.join(p['left_out'])}" if p["left_out"] else ""
    comment = f": {p['comment']}" if "comment" in p else ""
    return _add_address(p, f"{p['what']}: {p['answers']} answers, status {p['status']:04X}{lacks}{comment}")


def _only_reason(p: Payload) -> str:
    return str(p.get("reason", ""))


_WORDS: Mapping[str, Callable[[Payload], str]] = {
    ledger.RECEIVED: _arrival,
    ledger.FETCHED: _arrival,
    ledger.ADOPTED: _arrival,
    ledger.CONFLICT: _arrival,
    ledger.MISMATCH: _mismatch,
    ledger.QUARANTINED: lambda p: str(p["fault"]),
    ledger.SENT: _reason,
    ledger.CONFIRMED: _proof,
    ledger.DENIED: _reason,
    ledger.HELD: _reason,
    ledger.RELEASED: _release,
    ledger.RETRIED: _release,
    ledger.ADMITTED: lambda p: _with_reason(f"out of quarantine, as instance {p['instance']}", p),
    ledger.DISCARDED: lambda p: f"{p['reason']}; sha256 {p['sha256']}",
    ledger.DELETED: lambda p: f"its file, discarded before; sha256 {p['sha256']}",
    ledger.EXPORTED: _export,
    ledger.EVICTED: _eviction,
    ledger.LOST: _loss,
    ledger.REPAIRED: _repair,
    ledger.RECOVERED: _recovery,
    ledger.CHANGED: _change,
    ledger.REFUSED: _refusal,
    ledger.VIEWED: lambda p: _add_address(p, p["access"]),
    ledger.REPORTED: _only_reason,
    ledger.OVERRIDDEN: _override,
    ledger.SIGNED_IN: _sign_in,
    ledger.CONFIGURED: _configuration,
    ledger.STARTED: lambda p: f"edge {p['version']}",
    ledger.STOPPED: _only_reason,
    ledger.SETTLED: _only_reason,
    ledger.ROUTED: _only_reason,
    ledger.CANCELLED: _cancellation,
    ledger.COMMITMENT_ASKED: _request_words,
    ledger.COMMITTED: _commitment,
    ledger.NOT_COMMITTED: _no_commitment,
    ledger.REJECTED: _rejection,
    ledger.PERFORMED: lambda p: f"step {p['step_uid']} is {p['state']}, from {p['address']}",
    ledger.STEP_DECIDED: _step_decision,
    ledger.STEP_SENT: lambda p: f"{p['message']} of step {p['step_uid']}, status {p['status']:04X}",
    ledger.IMPORTED: _import,
    ledger.QUERIED: _query,
    ledger.RETRIEVED: lambda p: _add_address(p, f"{amount(p['objects'], 'object')} to {p['to']}"),
    ledger.RENAMED: lambda p: str(p["former"]),
    ledger.RESTORED: lambda _: "brought back from a copy; its proof is asked for",
    ledger.DRILLED: _only_reason,
    ledger.LEGAL_HOLD: _legal_hold,
    ledger.LEGAL_RELEASE: _only_reason,
}
