"""What the pages may ask of the gateway, and the record of who has looked at whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import ledger
from edge.config.sections import Config
from edge.db import Connection, Database
from edge.ops import looks
from edge.spool import Spool

if TYPE_CHECKING:
    from edge.web.guard import Visitor  # with starlette, which only the pages need

#: One person's looks at one study within this time are one look.
LOOK_SECONDS = 15 * 60.0
MAX_LOOKS = 10_000


class Looks:
    """Writes one ledger row for each person and study that is shown, before it is shown."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], float] = {}
        self._lock = threading.Lock()

    def record(self, db: Database, visitor: Visitor, studies: Iterable[int], how: str) -> None:
        """`how`: by which page. Raises StorageUnhealthy where it cannot be recorded: then it must not be shown."""
        detail = f"{how}, from {visitor.address}"

        def work(conn: Connection, now: float, new: list[int]) -> None:
            for study in new:
                ledger.append(conn, now, ledger.VIEWED, visitor.name, [], study_id=study, detail=detail)

        self._record(db, visitor, "study", studies, work)

    def record_instances(self, db: Database, visitor: Visitor, instances: Iterable[int], how: str) -> None:
        """The same of single instances, also of those that belong to no study that is known: in quarantine."""
        detail = f"{how}, from {visitor.address}"

        def work(conn: Connection, now: float, new: list[int]) -> None:
            looks.viewed_instances(conn, now, visitor.name, new, detail)

        self._record(db, visitor, "instance", instances, work)

    def _record(
        self,
        db: Database,
        visitor: Visitor,
        of: str,
        numbers: Iterable[int],
        work: Callable[[Connection, float, list[int]], None],
    ) -> None:
        now = time.time()
        keys = [(visitor.name, of, each) for each in numbers]
        with self._lock:
            new = [key for key in keys if now - self._seen.get(key, 0.0) > LOOK_SECONDS]
        if not new:
            return
        db.write(lambda conn: work(conn, now, [number for _, _, number in new]))
        with self._lock:
            self._seen.update((key, now) for key in new)
            while len(self._seen) > MAX_LOOKS:
                del self._seen[next(iter(self._seen))]


@dataclass(frozen=True, slots=True)
class Access:
    """The gateway, as far as the pages need it. Functions may be called from any thread."""

    db: Database
    spool: Spool
    config: Callable[[], Config]  # as it is in force
    directory: Path  # where it lies on disk
    status: Callable[[], Mapping[str, Any]]  # the JSON of /api/status
    command: Callable[[str, dict[str, Any]], Mapping[str, Any]]  # as `edge` commands ask, by name
    looks: Looks = field(default_factory=Looks)
