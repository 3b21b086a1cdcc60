"""The states of performed procedure steps: in the catalog, and in records that are not applied yet.

The daemon has one register for all receiving processes. A message of a step is begun here before it is recorded, and
ended afterwards: two messages of one step never cross. What a process had begun when it ended is forgotten; its record,
where it came to one, is in the catalog soon, and its modality, which has no answer, sends the message again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from edge.dicom import items
from edge.dicom.performed_step import (
    PERFORMED_SERIES,
    RESOURCES,
    KnownStep,
    StepAnswer,
    StepOperation,
    StepState,
    answer_step,
)
from edge.errors import Shortage
from edge.store import performed_steps
from edge.store.database import Store

#: Steps whose state is remembered until it is in the catalog: far more than the journal applies late.
_REMEMBERED = 10_000


class StepRegister:
    """See the module's docstring. Thread-safe. Without a catalog it knows what it has noted itself."""

    def __init__(self, db: Store | None = None, is_ready: Callable[[], bool] = lambda: True) -> None:
        """`is_ready`: is what an earlier run has left in the journal applied?"""
        self._db, self._is_ready, self._lock = db, is_ready, threading.Lock()
        self._known: OrderedDict[str, KnownStep] = OrderedDict()
        self._open: dict[str, KnownStep] = {}  # being recorded: what the step will be

    def begin(self, uid: str, operation: str, state: str, digest: bytes, has_series: bool | None = None) -> StepAnswer:
        """May this message follow? Then it must be ended, unless it is a repeat. `state` "": it changes none.

        `has_series`: None, it says nothing of them. Raises Hindered.
        """
        new_state = StepState(state) if state else None
        if not self._is_ready():
            raise Shortage("what came before the restart is not in the catalog yet")
        with self._lock:
            if uid in self._open:
                return StepAnswer(RESOURCES)
            known = self._known.get(uid) or self._read(uid)
            answer = answer_step(known, StepOperation(operation), new_state, digest, has_series)
            if not answer.status and not answer.is_repeat:
                before = known or KnownStep(StepState.IN_PROGRESS, digest)
                has_any = before.has_series if has_series is None else has_series
                self._open[uid] = KnownStep(new_state or before.state, before.digest, has_any)
            return answer

    def end(self, uid: str, *, is_recorded: bool) -> None:
        """End a message: it is on record, or not."""
        with self._lock:
            step = self._open.pop(uid, None)
            if step is not None and is_recorded:
                self._known[uid] = step
                self._known.move_to_end(uid)
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)

    def _read(self, uid: str) -> KnownStep | None:
        if self._db is None:
            return None
        with self._db.reading() as conn:
            found, messages = performed_steps.find_state(conn, uid), performed_steps.list_step_bodies(conn, uid)
        said = (items.decode_items(body, syntax).get(PERFORMED_SERIES) for syntax, body in messages)
        has_series = [bool(each.items) for each in said if each is not None]
        return KnownStep(StepState(found[0]), found[1], bool(has_series and has_series[-1])) if found else None
