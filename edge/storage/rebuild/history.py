"""The history of every instance and delivery, by the rows of the ledger from the first to the last. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace

from edge.model import EMPTY_REASON, DeliveryState, InstanceState, Reason, ReasonCode
from edge.store import ledger, ledger_text
from edge.store.ledger_copy import ARRIVALS, Entry, File
from edge.store.legal_holds import LegalHold
from edge.store.patients import Header

#: The state of a delivery, and of an instance, after the last row about it.
_DELIVERY_STATES = {
    ledger.SENT: DeliveryState.SENT,
    ledger.RESTORED: DeliveryState.SENT,
    ledger.CONFIRMED: DeliveryState.CONFIRMED,
    ledger.HELD: DeliveryState.HELD,
    ledger.CANCELLED: DeliveryState.CANCELLED,
}
_INSTANCE_STATES = {
    ledger.RECEIVED: InstanceState.STORED,
    ledger.FETCHED: InstanceState.STORED,
    ledger.ADOPTED: InstanceState.STORED,
    ledger.CONFLICT: InstanceState.CONFLICT,
    ledger.QUARANTINED: InstanceState.QUARANTINED,
    ledger.EVICTED: InstanceState.EVICTED,
    ledger.RELEASED: InstanceState.STORED,
    ledger.DISCARDED: InstanceState.DISCARDED,
    ledger.ADMITTED: InstanceState.DISCARDED,
}


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """The state that a delivery has by the ledger."""

    state: DeliveryState
    at: float
    reason: Reason


class History:
    """See the module's promise."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.study_ids: dict[int, int | None] = {}
        self.states: dict[int, InstanceState] = {}
        self.lost: set[int] = set()
        self.destinations: dict[int, list[str]] = {}  # where each instance is to go
        self.deliveries: dict[int, dict[str, DeliveryRecord]] = defaultdict(dict)
        self.headers: dict[int, Header] = {}
        self.released: set[int] = set()  # by a person
        self.mismatched: set[int] = set()  # another patient than the images before in the study
        self.legal: dict[str, list[LegalHold]] = defaultdict(list)  # by study, the last one last

    def learn(self, entry: Entry) -> None:
        """Take the next row of the ledger."""
        if entry.file is not None:
            self.files[entry.file.instance_id] = replace(entry.file, header=None)
            if entry.file.header is not None and entry.file.series_id is not None:
                self.headers[entry.file.series_id] = entry.file.header
        payload = entry.payload
        if entry.event == ledger.RENAMED:
            self._rename(payload.get("former", ""), entry.destination)
        if entry.event in (ledger.LEGAL_HOLD, ledger.LEGAL_RELEASE):
            self._learn_legal_hold(entry, str(payload.get("study_uid", "")), payload)
        for instance in _numbers_of(entry.instances):
            self._learn_route(instance, entry, payload)
            self._learn_state(instance, entry, payload)

    def _learn_legal_hold(self, entry: Entry, study_uid: str, payload: ledger.Payload) -> None:
        known, why = self.legal[study_uid], str(payload.get("reason", ""))
        if entry.event == ledger.LEGAL_HOLD:
            known.append(LegalHold(study_uid, why, entry.who, entry.at, payload.get("ends_at")))
        elif known:
            known[-1] = replace(known[-1], ended_at=entry.at, ended_by=entry.who, ended_why=why)

    def _rename(self, former: str, new: str) -> None:
        for names in self.destinations.values():
            names[:] = dict.fromkeys(new if name == former else name for name in names)
        for records in self.deliveries.values():
            if former in records:
                records.setdefault(new, records.pop(former))

    def _learn_route(self, instance: int, entry: Entry, payload: ledger.Payload) -> None:
        """Where an instance is to go, by its arrival and what was decided since."""
        if isinstance(names := payload.get("destinations"), list):
            self.destinations[instance] = [str(name) for name in names]
        elif payload.get("action") == ledger.REDIRECT:
            others = [name for name in self.destinations.get(instance, []) if name != payload.get("instead_of")]
            self.destinations[instance] = [*others, entry.destination]
        elif entry.event == ledger.ROUTED:
            self.destinations.setdefault(instance, []).append(entry.destination)

    def _learn_state(self, instance: int, entry: Entry, payload: ledger.Payload) -> None:
        event = entry.event
        if event in _INSTANCE_STATES:
            self.states[instance] = _INSTANCE_STATES[event]
        if event in ARRIVALS:
            self.lost.discard(instance)
            self.study_ids[instance] = entry.study_id
            if event != ledger.REPAIRED:
                self.deliveries.pop(instance, None)
        elif event in (ledger.LOST, ledger.MISMATCH):
            (self.lost if event == ledger.LOST else self.mismatched).add(instance)
        elif event in _DELIVERY_STATES and entry.destination:
            state = _DELIVERY_STATES[event]
            self.deliveries[instance][entry.destination] = DeliveryRecord(state, entry.at, _reason(entry, payload))
        elif event in (ledger.DENIED, ledger.RETRIED, ledger.RELEASED):
            for name in [entry.destination] if entry.destination else self.destinations.get(instance, ()):
                self.deliveries[instance].pop(name, None)
            if event == ledger.RELEASED:
                self.released.add(instance)


def _reason(entry: Entry, payload: ledger.Payload) -> Reason:
    """Why a delivery is held or cancelled. Of a damaged row, that nothing vouches for, a person has to decide."""
    if entry.event == ledger.CANCELLED:
        if entry.payload_json is None:
            return Reason(ReasonCode.CANCELLED, text=entry.detail)
        known = {key: payload[key] for key in ("retired", "instead") if key in payload}
        return Reason(ReasonCode.CANCELLED, known or {"who": entry.who, "why": payload.get("reason", "")})
    if entry.event != ledger.HELD:
        return EMPTY_REASON
    try:
        found = ledger_text.reason_from_payload(payload)
    except ValueError:
        return Reason(ReasonCode.PERSON)
    return Reason(found.code, text=entry.detail) if entry.payload_json is None else found


def _numbers_of(instances: str) -> list[int]:
    try:
        return [each for each in json.loads(instances) if isinstance(each, int)]
    except (ValueError, TypeError):
        return []
