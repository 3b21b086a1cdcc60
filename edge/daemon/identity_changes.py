"""People's decisions about HL7 messages, relayed messages, and the patient of a study (see edge.daemon.changes)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edge.daemon.request import Params, require_reason
from edge.errors import EdgeError
from edge.identity.hl7_facts import Authority
from edge.intake.hl7_entry import release_waiting, replay_message
from edge.storage.release import Releaser
from edge.store import assignments, hl7_messages, identity_checks, ledger, operator_actions, relays
from edge.store.database import Transaction
from edge.store.hl7_messages import MessageOutcome, MessageState


def _message(conn: Transaction, request: Params) -> hl7_messages.KeptMessage:
    found = hl7_messages.read_kept(conn, int(request["id"]))
    if found is None:
        raise EdgeError(f"there is no HL7 message {request['id']}; `edge hl7 list` names them")
    return found


def _record(conn: Transaction, request: Params, now: float, action: str, reason: str) -> None:
    payload = {"action": action, "message": int(request["id"]), "reason": reason}
    ledger.append(conn, now, ledger.OVERRIDDEN, request["who"], [], payload=payload)


def _replay(conn: Transaction, request: Params, now: float) -> Params:
    """Apply a parked message again, or read a text again whose character set was wrong."""
    kept, reason = _message(conn, request), str(request.get("reason", "")).strip()
    outcome = replay_message(conn, kept.id, request.get("charsets", {}))
    if outcome is None:
        raise EdgeError(
            f"message {kept.id} is {kept.state.value}, and nothing can be applied again: only a parked message, or one"
            " with a wrong character set, once [feed.*] charset is right"
        )
    hl7_messages.note_decision(conn, kept.id, request["who"], f"replayed: {reason}" if reason else "replayed")
    _record(conn, request, now, ledger.REPLAY_HL7, reason)
    return _as_answer(outcome)


def _as_answer(outcome: MessageOutcome) -> Params:
    return {"state": outcome.state.value, "reason": outcome.reason, "behind": outcome.behind_id}


def _discard(conn: Transaction, request: Params, now: float) -> Params:
    """Discard a parked message: it is not applied; those behind it go on."""
    kept, reason = _message(conn, request), require_reason(request)
    if kept.state is not MessageState.PARKED:
        raise EdgeError(f"message {kept.id} is {kept.state.value}: only a parked message can be discarded")
    outcome = MessageOutcome(MessageState.DISCARDED, notes=kept.notes)
    hl7_messages.set_outcome(conn, kept.id, outcome, now)
    hl7_messages.note_decision(conn, kept.id, request["who"], f"discarded: {reason}")
    hl7_messages.unpark_message(conn, kept.id)
    hl7_messages.count_change(conn, kept.feed, MessageState.PARKED, MessageState.DISCARDED, kept.received_at)
    _record(conn, request, now, ledger.DISCARD_HL7, reason)
    release_waiting(conn, request.get("charsets", {}))
    return _as_answer(outcome)


def _relay(conn: Transaction, request: Params, now: float, state: str, action: str) -> Params:
    kept, reason = _message(conn, request), require_reason(request)
    moved = relays.decide(conn, kept.id, request.get("relay", ""), state, request["who"], reason, now)
    if not moved:
        raise EdgeError(f"message {kept.id} is not held for a relay; `edge hl7 list --relay` says what waits")
    _record(conn, request, now, action, reason)
    return {"moved": moved}


def _release_relayed(conn: Transaction, request: Params, now: float) -> Params:
    return _relay(conn, request, now, "waiting", ledger.RELEASE_HL7)


def _cancel_relayed(conn: Transaction, request: Params, now: float) -> Params:
    return _relay(conn, request, now, "cancelled", ledger.CANCEL_HL7)


def _try_relay(conn: Transaction, request: Params, now: float) -> Params:
    name, reason = str(request["name"]), require_reason(request)
    moved = relays.try_now(conn, name)
    payload = {"action": ledger.RELEASE_HL7, "relay": name, "reason": reason}
    ledger.append(conn, now, ledger.OVERRIDDEN, request["who"], [], payload=payload)
    return {"moved": moved}


HL7_CHANGES: Mapping[str, Callable[[Transaction, Params, float], Params]] = {
    "hl7-replay": _replay,
    "hl7-discard": _discard,
    "hl7-release": _release_relayed,
    "hl7-cancel": _cancel_relayed,
    "hl7-try-relay": _try_relay,
}


# -- whose a study is -------------------------------------------------------------------------------------------------


def decide_study(releaser: Releaser, request: Params) -> Params:
    """Decide about the images of a study that are held as a mismatch: it is this patient, send as it is, do not send.

    `patient`: a Patient ID that a feed knows, with `authority` where several have it.
    """
    reason, decision = require_reason(request), request["decision"]
    now, who, uid = time.time(), request["who"], request["study_uid"]

    def work(conn: Transaction) -> tuple[list[int], list[int]]:
        study = assignments.find_study_id(conn, uid)
        if study is None:
            raise EdgeError(f"no study {uid} has been received")
        if decision == assignments.ASSIGN:
            identifier = _identifier(conn, request)
            assignments.assign(conn, study, identifier, who, reason, now)
            identity_checks.queue_study(conn, study)
        instances, deliveries = assignments.list_held_mismatches(conn, study)
        payload = {"action": ledger.DECIDE_STUDY, "decision": decision, "count": len(instances), "reason": reason}
        ledger.append(conn, now, ledger.OVERRIDDEN, who, instances, study_id=study, payload=payload)
        if decision == assignments.DO_NOT_SEND:
            operator_actions.cancel(conn, deliveries, now, who, reason)
        identity_checks.settle_study(conn, study, now)
        return instances, deliveries

    instances, deliveries = releaser.transact(work)
    if decision == assignments.DO_NOT_SEND:
        return {"images": len(instances), "done": len(deliveries)}
    done = [releaser.release(each, who, reason, named=True) for each in instances]
    return {"images": len(instances), "done": sum(each.done for each in done)}


def _identifier(conn: Transaction, request: Params) -> int:
    number, authority = str(request.get("patient", "")).strip(), Authority.parse(request.get("authority", ""))
    found = assignments.find_identifiers(conn, number, authority.namespace or authority.universal_id)
    if not found:
        raise EdgeError("no feed knows this Patient ID: a study can be assigned only to a patient that HL7 has brought")
    if len(found) > 1:
        names = ", ".join(name or "(none)" for _, name in found)
        raise EdgeError(f"several authorities have this Patient ID ({names}): name one with --authority")
    return found[0][0]
