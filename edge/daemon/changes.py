"""Changes that people make by a command, by its name: in a running gateway, and by the same code where none runs.

A change gets the request, and returns the answer's keys; an EdgeError is its refusal, in words. What a person decides
is in the ledger with who and why. `who` is set by what carries the command out, never by what asks for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from edge.config.sections import Config
from edge.console.accounts import record_in_ledger
from edge.daemon.identity_changes import HL7_CHANGES, decide_study
from edge.daemon.import_changes import IMPORT_TRANSACTIONS
from edge.daemon.request import Params, require_reason
from edge.errors import EdgeError
from edge.model import Priority
from edge.monitor import announcement, engine
from edge.storage.release import Releaser
from edge.store import (
    access_log,
    destinations,
    drills,
    folding,
    ledger,
    legal_holds,
    operator_actions,
    outbox,
    queries,
    step_deliveries,
    studies,
    unfolding,
)
from edge.store.database import Store, Transaction
from edge.store.destinations import Progress
from edge.store.folded_files import DamagedFold, FoldedFiles
from edge.store.operator_actions import Moved
from edge.store.sending import SendProgress, send_study
from edge.web import accounts
from edge.web.accounts import Account, UserRole

log = logging.getLogger(__name__)


# -- deliveries --------------------------------------------------------------------------------------------------------


def _retry(conn: Transaction, request: Params, now: float) -> Params:
    why = request.get("reason", "")
    return _as_answer(operator_actions.retry(conn, request["ids"], now, request["who"], why))


def _release(conn: Transaction, request: Params, now: float) -> Params:
    why, named = require_reason(request), request.get("named") is True
    return _as_answer(operator_actions.release(conn, request["ids"], now, request["who"], why, named=named))


def _cancel(conn: Transaction, request: Params, now: float) -> Params:
    return _as_answer(operator_actions.cancel(conn, request["ids"], now, request["who"], require_reason(request)))


def _hold(conn: Transaction, request: Params, now: float) -> Params:
    return {"moved": operator_actions.hold(conn, request["ids"], now, request["who"], request.get("reason", ""))}


def _set_priority(conn: Transaction, request: Params, now: float) -> Params:
    priority, why = Priority[request["priority"].upper()], request.get("reason", "")
    return {"moved": operator_actions.set_priority(conn, request["ids"], priority, now, request["who"], why)}


def _reroute(conn: Transaction, request: Params, now: float) -> Params:
    """Send deliveries elsewhere; the caller has made sure that there is such a destination."""
    to, why, named = request["destination"], request.get("reason", ""), request.get("named") is True
    return {"moved": operator_actions.reassign(conn, request["ids"], to, now, request["who"], why, named=named)}


def _as_answer(moved: Moved) -> Params:
    return {"moved": moved.count, "left": {code.value: n for code, n in moved.left.items()}}


# -- the rest, in one transaction each ---------------------------------------------------------------------------------


def _retry_steps(conn: Transaction, request: Params, now: float) -> Params:
    ids, to, why = request["ids"], request.get("destination", ""), request.get("reason", "")
    return {"moved": step_deliveries.retry_steps(conn, ids, to, request["who"], why, now)}


def _cancel_steps(conn: Transaction, request: Params, now: float) -> Params:
    ids, to, why = request["ids"], request.get("destination", ""), require_reason(request)
    return {"moved": step_deliveries.cancel_steps(conn, ids, to, request["who"], why, now)}


def _try_destination(conn: Transaction, request: Params, now: float) -> Params:
    """What waits for its next attempt is due at once; the caller has the destination tried."""
    name, who, why = request["name"], request["who"], require_reason(request)
    moved = operator_actions.retry_deferred(conn, name, now, who, why)
    payload = {"action": ledger.TRY, "reason": why}
    ledger.append(conn, now, ledger.OVERRIDDEN, who, [], destination=name, payload=payload)
    return {"moved": moved}


def _refresh_worklist(conn: Transaction, request: Params, now: float) -> Params:
    """A person wants the worklist from its source, `source`, now; the caller has it asked."""
    payload = {"action": ledger.TRY, "reason": require_reason(request)}
    ledger.append(conn, now, ledger.OVERRIDDEN, request["who"], [], destination=request["source"], payload=payload)
    return {}


def _note_export(conn: Transaction, request: Params, now: float) -> Params:
    operator_actions.note_exported(conn, request["id"], now, request["who"], request["where"])
    return {}


def _note_study_export(conn: Transaction, request: Params, now: float) -> Params:
    payload = {"path": request["where"], "count": len(request["ids"])}
    ledger.append(
        conn, now, ledger.EXPORTED, request["who"], request["ids"], study_id=request["study"], payload=payload
    )
    return {}


def _note_view(conn: Transaction, request: Params, now: float) -> Params:
    access_log.viewed_instances(conn, now, request["who"], request["ids"], request["why"])
    return {}


def _record_view(conn: Transaction, request: Params, now: float) -> Params:
    return {"recorded": access_log.record_view(conn, now, request["who"], request["studies"], request["why"])}


def _record_report(conn: Transaction, request: Params, now: float) -> Params:
    return {"recorded": access_log.record_report(conn, now, request["who"], request["studies"], request["why"])}


def _acknowledge(conn: Transaction, request: Params, now: float) -> Params:
    found = engine.acknowledge_alert(conn, request["id"], request["who"], request.get("note", ""), now)
    return {"kind": found.kind, "subject": found.subject}


def _retry_messages(conn: Transaction, request: Params, _now: float) -> Params:
    return {"moved": outbox.unpark(conn, request["channel"])}


def _discard_messages(conn: Transaction, request: Params, now: float) -> Params:
    channel, who = request["channel"], request["who"]
    moved = outbox.discard(conn, channel, not request["waiting"])
    payload = {"action": ledger.DISCARD_MESSAGES, "count": moved, "channel": channel}
    ledger.append(conn, now, ledger.OVERRIDDEN, who, [], payload=payload)
    log.warning("%s discards %d messages of %s", who, moved, channel)
    return {"moved": moved}


def _note_drill(conn: Transaction, request: Params, now: float) -> Params:
    note = str(request.get("note", "")).strip()
    if not note:
        raise EdgeError("say how the restore went: the ledger keeps it")
    drills.note_drill(conn, now, request["who"], note)
    return {}


def _hold_study(db: Store, request: Params) -> Params:
    """Hold a study; one whose rows are in a yearly file is brought back into the catalog first.

    Where that file is damaged, the hold counts for what comes again.
    """
    uid, ends_at = str(request["study_uid"]), request.get("ends_at")
    end = None if ends_at is None else float(ends_at)

    def work(conn: Transaction) -> Params:
        damage = _bring_back(conn, uid, db.path.parent)
        study = studies.study_by_uid(conn, uid)
        if study is None and not damage:
            raise EdgeError(f"no study {uid} is in the catalog: search with `edge studies list --search TEXT`")
        legal_holds.place_hold(conn, uid, time.time(), request["who"], require_reason(request), end)
        return {"evicted": queries.count_evicted(conn, study.id) if study else 0, "damage": damage}

    return db.write(work)


def _bring_back(conn: Transaction, uid: str, data_dir: Path) -> str:
    """Bring a study back from its yearly file. Returns why that cannot be read; empty: nothing is wrong."""
    folded = folding.find_study(conn, uid)
    if folded is None:
        return ""
    try:
        record = folding.record_in(FoldedFiles(data_dir), folded)
    except DamagedFold as error:
        return str(error)
    unfolding.unfold(conn, record)
    return ""


def _unhold_study(conn: Transaction, request: Params, now: float) -> Params:
    legal_holds.end_hold(conn, str(request["study_uid"]), now, request["who"], require_reason(request))
    return {}


def _put_account(conn: Transaction, request: Params, now: float) -> Params:
    """`changed_at` as it was keeps the account's sessions; omitted: they end."""
    role, changed_at = UserRole[request["role"].upper()], request.get("changed_at", now)
    is_disabled, expires_at = bool(request.get("disabled")), request.get("expires_at")
    account = Account(request["name"], role, request["password"], changed_at, is_disabled, expires_at)
    accounts.put(conn, record_in_ledger, account, request["who"], now, request.get("what", ""))
    return {}


def _remove_account(conn: Transaction, request: Params, now: float) -> Params:
    return {"removed": accounts.remove(conn, record_in_ledger, request["name"], request["who"], now)}


_TRANSACTIONS: Mapping[str, Callable[[Transaction, Params, float], Params]] = {
    "queue-retry": _retry,
    "queue-release": _release,
    "queue-cancel": _cancel,
    "queue-hold": _hold,
    "queue-set-priority": _set_priority,
    "queue-reroute": _reroute,
    "mpps-retry": _retry_steps,
    "mpps-cancel": _cancel_steps,
    "destination-try": _try_destination,
    "worklist-refresh": _refresh_worklist,
    "instance-export": _note_export,
    "study-exported": _note_study_export,
    "instance-viewed": _note_view,
    "viewed": _record_view,
    "audit-reported": _record_report,
    "alert-acknowledge": _acknowledge,
    "notify-retry": _retry_messages,
    "notify-discard": _discard_messages,
    "drill-done": _note_drill,
    "study-unhold": _unhold_study,
    "account-put": _put_account,
    "account-remove": _remove_account,
    **IMPORT_TRANSACTIONS,
    **HL7_CHANGES,
}


def _transact(work: Callable[[Transaction, Params, float], Params], db: Store, request: Params) -> Params:
    return db.write(lambda conn: work(conn, request, time.time()))


# -- destinations, in batches ------------------------------------------------------------------------------------------


def _retire(db: Store, request: Params) -> Params:
    name, who, why = request["name"], request["who"], require_reason(request)
    return _in_batches(db, lambda conn, after: destinations.retire(conn, name, after, time.time(), who, why))


def _rename(db: Store, request: Params) -> Params:
    old, new = request["old"], request["new"]
    db.write(lambda conn: destinations.begin_rename(conn, old, new, time.time(), request["who"]))
    return _in_batches(db, lambda conn, after: destinations.rename(conn, old, new, after))


def _send_study(db: Store, request: Params) -> Params:
    """Queue a study; the caller has made sure that there is such a destination."""
    study, to, who, why = request["study"], request["destination"], request["who"], require_reason(request)
    priority, again = Priority[request.get("priority", "routine").upper()], request.get("again") is True
    found, after = dict.fromkeys(("queued", "there", "undecided", "gone"), 0), 0
    while True:
        begin = after

        def work(conn: Transaction, begin: int = begin) -> SendProgress:
            return send_study(conn, study, to, priority, begin, time.time(), who, why, again=again)

        progress = db.write(work)
        for name in found:
            found[name] += getattr(progress, name)
        if progress.after is None:
            return dict(found)
        after = progress.after


def _in_batches(db: Store, batch: Callable[[Transaction, int], Progress]) -> Params:
    done = destinations.all_batches(lambda after: db.write(lambda conn: batch(conn, after)))
    return {"ended": done.ended, "moved": done.moved, "unroutable": done.unroutable}


def announce_to_centre(db: Store, config: Config, request: Params) -> Params:
    """A person's notice of what is to come, by every channel, once."""
    now, who = time.time(), request["who"]
    said = request["kind"], now, who, request["from_date"], request.get("expects", ""), request["said"]
    made, channels = db.write(lambda conn: announcement.make_announcement(conn, config, *said))
    return {"id": made.id, "at": made.at, "channels": channels}


#: Changes of the catalog.
CHANGES: Mapping[str, Callable[[Store, Params], Params]] = {
    **{name: partial(_transact, work) for name, work in _TRANSACTIONS.items()},
    "destination-retire": _retire,
    "destination-rename": _rename,
    "study-send": _send_study,
    "study-hold": _hold_study,
}


# -- instances ---------------------------------------------------------------------------------------------------------


def _release_instances(releaser: Releaser, request: Params) -> Params:
    who, why, named = request["who"], require_reason(request), request.get("named") is True
    return {"decided": [asdict(releaser.release(each, who, why, named=named)) for each in request["ids"]]}


def _discard_instances(releaser: Releaser, request: Params) -> Params:
    who, why = request["who"], require_reason(request)
    return {"decided": [asdict(releaser.discard(each, who, why)) for each in request["ids"]]}


#: Decisions about instances, which ask the routes and the spool.
RELEASER_DECISIONS: Mapping[str, Callable[[Releaser, Params], Params]] = {
    "instance-release": _release_instances,
    "instance-discard": _discard_instances,
    "study-decide": decide_study,
}
