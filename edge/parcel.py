"""Leased work on its way out: the parcel, the converted copy that it may travel as, and the stock of what waits."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.model import Kind, Work


class Killable(Protocol):
    """A courier, as far as its desk knows one."""

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """A converted copy of an object; it can be made again."""

    transfer_syntax_uid: str
    path: Path
    dataset_offset: int
    size: int  # of the file, in bytes


@dataclass(slots=True, eq=False)
class Parcel:
    """Leased work on its way."""

    work: Work
    lease: int  # the number of the lease that brought it
    copy: Copy | None = None
    carrier: Killable | None = None  # the courier, while it is under way

    def has(self, transfer_syntax_uid: str) -> bool:
        """Is there something to send in this syntax?"""
        there = self.copy.transfer_syntax_uid if self.copy else self.work.kind.transfer_syntax_uid
        return there == transfer_syntax_uid

    def drop_copy(self) -> None:
        if self.copy is not None:
            self.copy.path.unlink(missing_ok=True)
            self.copy = None


class Stock:
    """Parcels that nobody carries yet, the most urgent first."""

    def __init__(self) -> None:
        self._parcels: list[Parcel] = []

    def __len__(self) -> int:
        return len(self._parcels)

    def __iter__(self) -> Iterator[Parcel]:
        return iter(self._parcels)

    def add(self, parcel: Parcel) -> None:
        bisect.insort(self._parcels, parcel, key=lambda p: (p.work.priority, p.work.delivery_id))

    def take(self, kinds: Collection[Kind]) -> Parcel | None:
        """The first of these kinds.

        But nothing passes one of another kind if it is less urgent or was leased later: that one would wait for ever
        for an association of its own.
        """
        passed: Parcel | None = None
        for index, parcel in enumerate(self._parcels):
            if passed and (parcel.lease > passed.lease or parcel.work.priority > passed.work.priority):
                continue
            if parcel.work.kind in kinds:
                return self._parcels.pop(index)
            passed = passed or parcel
        return None

    def clear(self) -> list[Parcel]:
        parcels, self._parcels = self._parcels, []
        return parcels
