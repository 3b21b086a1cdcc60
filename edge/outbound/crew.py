"""The senders of one destination: their roles, and when the destination last answered each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from edge.errors import AssociationRejected, PeerError
from edge.outbound.job import Killable


class SenderRole(str, Enum):
    WORK = "work"  # sends pending jobs
    ALONE = "alone"  # sends one object that has broken associations
    PROBE = "probe"  # sends nothing: C-ECHO


@dataclass(slots=True)
class _Member:
    role: SenderRole
    answered_at: float | None = None  # None: not associated yet, 0: no answer yet


class Crew:
    """Not thread-safe: the scheduler's lock guards it."""

    def __init__(self) -> None:
        self._members: dict[Killable, _Member] = {}
        self._count = dict.fromkeys(SenderRole, 0)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, sender: object) -> bool:
        return sender in self._members

    def count(self, role: SenderRole) -> int:
        return self._count[role]

    def add(self, sender: Killable, role: SenderRole) -> None:
        self._members[sender] = _Member(role)
        self._count[role] += 1

    def remove(self, sender: Killable) -> SenderRole | None:
        """Its role; None where it is gone already."""
        member = self._members.pop(sender, None)
        if member is None:
            return None
        self._count[member.role] -= 1
        return member.role

    def clear(self) -> Iterable[Killable]:
        members, self._members, self._count = self._members, {}, dict.fromkeys(SenderRole, 0)
        return list(members)

    def change(self, sender: Killable, role: SenderRole) -> None:
        if self.remove(sender) is not None:
            self.add(sender, role)
            self.note_answer(sender, 0.0)

    def note_answer(self, sender: Killable, at: float) -> None:
        """Note when the destination has answered a sender: 0 for the association itself."""
        if (member := self._members.get(sender)) is not None:
            member.answered_at = at

    def serves_others(self, error: PeerError) -> bool:
        """Does the destination serve others of our associations, when one could not be opened?"""
        if isinstance(error, AssociationRejected) and error.result == 2 and self._members:
            return True  # too many at once: of those that are being opened, only the last to be rejected means more
        return any(member.answered_at is not None for member in self._members.values())
