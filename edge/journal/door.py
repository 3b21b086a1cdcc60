"""A door's side of the journal: receive buffers, writers, and whether anything may be received now.

A door is a thread of the daemon, or a process that gets what it shares with the daemon as descriptors. It knows the
journal's directory, and nothing of the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge.errors import Cause, Shortage
from edge.journal.control import RingControl
from edge.journal.notices import Notices
from edge.journal.ring import Claims
from edge.journal.slots import Slot, SlotPool
from edge.journal.writer import Writers


@dataclass(frozen=True, slots=True)
class DoorPlan:
    """What a door in another process is made of, beside the descriptors."""

    folder: Path
    pool: int  # the number of its pool, by which apply knows it
    slots: int
    body_bytes: int


class JournalDoor:
    """See the module's docstring."""

    def __init__(self, plan: DoorPlan, control: RingControl, notices: Notices, slots: SlotPool) -> None:
        self.plan, self.folder, self.slots, self.control = plan, plan.folder, slots, control
        self.descriptors = (control.fd, notices.writer, *slots.descriptors)
        self.claims = Claims(plan.folder, control=control)
        self.writers = Writers(self.claims, partial(notices.send, pool=plan.pool))

    @classmethod
    def attach(cls, plan: DoorPlan, descriptors: Sequence[int]) -> JournalDoor:
        """The door of this plan, in the process that got its descriptors."""
        control, notices, *slots = descriptors
        pool = SlotPool(plan.slots, plan.body_bytes, slots)
        return cls(plan, RingControl.attach(control), Notices(notices), pool)

    @property
    def has_failed(self) -> bool:
        """A write or sync of the catalog, the spool or the journal has failed: nothing is accepted until a restart."""
        return self.control.has_failed

    @property
    def waiting_since(self) -> float | None:
        """Since when the oldest record waits to be applied; monotonic."""
        return self.control.waiting_since

    @property
    def cause(self) -> Cause | None:
        """Why the current batch could not be applied yet."""
        return self.control.cause

    def take_slot(self, patience: float) -> Slot:
        """A receive buffer, in the order of arrival. Raises Shortage where apply keeps them all for these seconds."""
        try:
            return self.slots.take(patience)
        except Shortage as error:
            raise self.control.why_late(str(error)) from None

    def close(self) -> None:
        """Close its segments in order."""
        self.writers.close()
