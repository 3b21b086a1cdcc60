"""The overview's answer to "whose study waits, since when, are its images safe?": one line a study, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.model import DeliveryState, ReasonCode
from edge.store.database import Transaction
from edge.store.deliveries import UNROUTABLE
from edge.store.waiting import QUEUE_STATES, StudyFacts, WaitingStudy, list_waiting_studies, study_facts
from edge.text import amount

#: Studies of the overview, and the deliveries of each destination and state that are read for it.
MOST_WAITING_LINES, _MOST_READ = 6, 1000
#: A study that is being sent is no news; one that has waited for this time is.
_PATIENCE_SECONDS = 60.0
_DECIDED_BY_IMAGE = {
    ReasonCode.CONFLICT: "/exceptions?kind=conflict",
    ReasonCode.MISMATCH: "/exceptions?kind=mismatch",
    ReasonCode.UNROUTABLE: "/exceptions?kind=unroutable",
}
_UNSAFE = {
    "lost": "Image files are missing or damaged: see the alert below.",
    "storage-unhealthy": "The storage has failed: images that came before are kept as far as it can be read.",
}


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """One study that waits, and the page on which a person acts."""

    study: WaitingStudy
    facts: StudyFacts
    path: str
    label: str

    @property
    def destinations(self) -> str:
        return ", ".join(sorted({each.destination or "no route" for each in self.study.groups}))


def list_waiting_lines(conn: Transaction, destinations: Iterable[str], now: float) -> list[WaitingLine]:
    """List the studies that wait for a person or longest; reads a bounded number of rows."""
    found: dict[int | None, WaitingStudy] = {}
    for name in (*destinations, UNROUTABLE):
        for each in list_waiting_studies(conn, QUEUE_STATES, name, most=_MOST_READ):
            before = found.get(each.study_id)
            groups = (*before.groups, *each.groups) if before else each.groups
            found[each.study_id] = WaitingStudy(each.study_id, groups)
    waiting = [each for each in found.values() if needs_a_look(each, now)]
    waiting.sort(key=lambda each: (QUEUE_STATES.index(each.state), each.priority, each.queued_at))
    facts = study_facts(conn, [each.study_id for each in waiting[:MOST_WAITING_LINES]], counts=False)
    return [WaitingLine(each, facts[each.study_id], *queue_place_of(each)) for each in waiting[:MOST_WAITING_LINES]]


def needs_a_look(study: WaitingStudy, now: float) -> bool:
    """Whether a study is held or deferred, or has waited for a while."""
    return study.state in (DeliveryState.HELD, DeliveryState.DEFERRED) or now - study.queued_at > _PATIENCE_SECONDS


def queue_place_of(study: WaitingStudy) -> tuple[str, str]:
    """Return the page on which a person acts, and the word for it."""
    for each in study.groups:
        if each.state is DeliveryState.HELD and each.code in _DECIDED_BY_IMAGE:
            return f"{_DECIDED_BY_IMAGE[each.code]}&study={study.study_id or ''}", "Decide"
    return f"/queue?study={study.study_id or ''}", "Act"


def describe_safety(waiting: int, alerts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return (level, sentence): whether what waits is safe. `waiting`: images."""
    kinds = {each["kind"] for each in alerts}
    for kind, sentence in _UNSAFE.items():
        if kind in kinds:
            return "bad", sentence
    verb = "is" if waiting == 1 else "are"
    return "good", f"{amount(waiting, 'image')} {verb} safe on this disk until sent."
