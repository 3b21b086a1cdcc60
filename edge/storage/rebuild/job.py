"""One rebuild: what it reads, what it writes, and what it has found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from edge.intake import Intake
from edge.intake.policy import Policy
from edge.spool import Spool
from edge.storage.rebuild.history import History
from edge.storage.refold import FoldedPast
from edge.store import restoring
from edge.store.database import Store
from edge.store.folded_files import FoldedFiles
from edge.store.ledger_copy import Journal
from edge.store.salvage import Salvage, SalvagedRow

#: Rows of one transaction.
BATCH = 1000

Tick = Callable[[str, int], None]


@dataclass(slots=True)
class RebuildReport:
    """What a recovery did, in numbers."""

    kept: str = ""  # the directory of the damaged catalog
    ledger_rows: int = 0
    ledger_missing: int = 0  # rows that neither the catalog nor the journal has any more
    studies: int = 0
    instances: int = 0  # restored from the damaged catalog or the journal
    adopted: int = 0  # files of which only their own head is left
    lost: int = 0  # instances whose file is gone or damaged
    unreadable: int = 0  # files that are left where they are
    deliveries: int = 0
    queued: int = 0  # deliveries of which nothing was left: they begin again
    other: dict[str, int] = field(default_factory=dict)  # rows of other tables


@dataclass(slots=True)
class Rebuild:
    """One rebuild."""

    db: Store  # the new catalog
    spool: Spool
    salvage: Salvage
    journal: Journal
    policy: Policy
    report: RebuildReport
    tick: Tick
    history: History = field(default_factory=History)
    restored: set[int] = field(default_factory=set)  # instances that have a row again
    series: set[int] = field(default_factory=set)  # rows of `series` that could be read
    intake: Intake = field(init=False)
    folded: FoldedPast = field(init=False)

    def __post_init__(self) -> None:
        self.intake = Intake(self.db, self.spool, self.policy)
        in_use = {str(row["study_uid"]) for row in self.salvage.rows("study")}
        self.folded = FoldedPast(FoldedFiles(self.db.path.parent), in_use)

    def copy_rows(self, table: str, rows: Iterable[SalvagedRow]) -> int:
        """Copy rows into a table of the new catalog, as far as its constraints take them. Returns how many."""
        with self.db.reading() as conn:
            columns = restoring.list_columns(conn, table)
        done = 0
        for chunk in chunks(rows) if columns else ():
            done += self.db.write(lambda conn, chunk=chunk: restoring.insert_rows(conn, table, columns, chunk))  # type: ignore[misc]
        return done


T = TypeVar("T")


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The same in lists of BATCH."""
    left = iter(items)
    while chunk := list(islice(left, BATCH)):
        yield chunk
