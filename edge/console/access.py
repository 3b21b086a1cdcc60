"""What the pages may ask of the gateway, and the record of who has looked at whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.config.sections import Config
from edge.spool import Spool
from edge.store import ledger
from edge.store.database import Connection, Database
from edge.store.queries import Instance

if TYPE_CHECKING:
    from edge.web.guard import Visitor  # with starlette, which only the pages need

#: One person's looks at one study or object within this time are one look.
LOOK_SECONDS = 15 * 60.0
#: Who, and what: "study" or "instance", and its number.
_Look = tuple[str, str, int]
MAX_LOOKS = 10_000


class Looks:
    """Writes who is shown whose data, before it is shown: a ledger row a study, one for objects without one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic  # no clock that is set back may end the record
        self._seen: dict[_Look, float] = {}
        self._lock = threading.Lock()

    def record(
        self, db: Database, visitor: Visitor, how: str, *, studies: Iterable[int] = (), instances: Iterable[int] = ()
    ) -> None:
        """`how`: by which page. Raises StorageUnhealthy where it cannot be recorded: then it must not be shown."""
        now = self._monotonic()
        looks = [(visitor.name, "study", each) for each in studies]
        looks += [(visitor.name, "instance", each) for each in instances]
        with self._lock:
            new = [each for each in looks if now - self._seen.get(each, -LOOK_SECONDS) >= LOOK_SECONDS]
        if not new:
            return
        without_study = [number for _, kind, number in new if kind == "instance"]
        detail = f"{how}, from {visitor.address}"

        def work(conn: Connection) -> None:
            at = time.time()
            for _, kind, number in new:
                if kind == "study":
                    ledger.append(conn, at, ledger.VIEWED, visitor.name, [], study_id=number, detail=detail)
            if without_study:
                ledger.append(conn, at, ledger.VIEWED, visitor.name, without_study, detail=detail)

        db.write(work)
        with self._lock:
            for each in new:
                self._seen.pop(each, None)
                self._seen[each] = now
            while len(self._seen) > MAX_LOOKS:
                del self._seen[next(iter(self._seen))]

    def record_objects(
        self, db: Database, visitor: Visitor, how: str, found: Iterable[Instance], numbers: Mapping[str, int]
    ) -> None:
        """The same for objects: by their studies (their numbers by UID), and by themselves where they have none."""
        shown = list(found)
        self.record(
            db,
            visitor,
            how,
            studies=sorted({numbers[each.study_uid] for each in shown if each.study_uid in numbers}),
            instances=sorted({each.id for each in shown if each.study_uid not in numbers}),
        )


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
