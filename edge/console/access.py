"""The pages' access to the gateway, and the record of who was shown which patient's data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge.config.sections import Config
from edge.errors import EdgeError
from edge.spool import Spool
from edge.store import ledger
from edge.store.database import Store, Transaction
from edge.store.queries import Instance

if TYPE_CHECKING:
    from edge.importer.service import ImportService
    from edge.web.guard import Visitor  # with starlette, which only the pages need
    from edge.web.pages import Pages

#: What a viewer sees in place of patient data.
MASK = "•••"
#: Characters of the reason for a decision.
_MAX_REASON = 300
#: A person who sees one study or instance again within this time has one row in the ledger.
_VIEW_SECONDS = 15 * 60.0
_MAX_VIEWS = 10_000
#: Stands for the pages that show images.
IMAGES = "its images"


class ViewRecorder:
    """Records whose data a person is shown, before the page is shown: a ledger row for each study."""

    def __init__(self, db: Store) -> None:
        self._db = db  # a clock that is set back must not suppress rows
        self._recorded: dict[tuple[str, str, int], float] = {}  # (person, "study" or "instance", its number)
        self._lock = threading.Lock()

    def record(
        self, visitor: Visitor, page: str, *, studies: Iterable[int] = (), instances: Iterable[int] = ()
    ) -> None:
        """Record what `page` shows to a visitor who sees patient data; `instances` are those without a study.

        Raises StorageUnhealthy if the row cannot be written: the page must not be shown then.
        """
        if not visitor.sees_patients:
            return
        now = time.monotonic()
        what = f" {page}" if page == IMAGES else ""  # to see images is more than to read about them
        views = [(visitor.name, f"study{what}", each) for each in studies]
        views += [(visitor.name, f"instance{what}", each) for each in instances]
        with self._lock:
            new = [each for each in views if now - self._recorded.get(each, -_VIEW_SECONDS) >= _VIEW_SECONDS]
        if not new:
            return
        without_study = [number for _, kind, number in new if kind.startswith("instance")]
        payload = {"access": page, "address": visitor.address}

        def append_rows(conn: Transaction) -> None:
            at = time.time()
            for _, kind, number in new:
                if kind.startswith("study"):
                    ledger.append(conn, at, ledger.VIEWED, visitor.name, [], study_id=number, payload=payload)
            if without_study:
                ledger.append(conn, at, ledger.VIEWED, visitor.name, without_study, payload=payload)

        self._db.write(append_rows)
        with self._lock:
            for each in new:
                self._recorded.pop(each, None)
                self._recorded[each] = now
            while len(self._recorded) > _MAX_VIEWS:
                del self._recorded[next(iter(self._recorded))]

    def record_page(self, visitor: Visitor, page: str) -> None:
        """Record that a page shows patients of no study, such as the worklist, to a visitor who sees patient data."""
        key, now = (visitor.name, page, 0), time.monotonic()
        with self._lock:
            is_known = now - self._recorded.get(key, -_VIEW_SECONDS) < _VIEW_SECONDS
        if is_known or not visitor.sees_patients:
            return
        payload = {"access": page, "address": visitor.address}
        self._db.write(lambda conn: ledger.append(conn, time.time(), ledger.VIEWED, visitor.name, [], payload=payload))
        with self._lock:
            self._recorded[key] = now

    def record_instances(
        self, visitor: Visitor, page: str, shown: Iterable[Instance], study_ids: Mapping[str, int]
    ) -> None:
        """Record instances: by their studies (`study_ids`: by UID), or by themselves if they have none."""
        found = [(study_ids.get(each.study_uid), each.id) for each in shown]
        studies = {study for study, _ in found if study is not None}
        instances = {instance for study, instance in found if study is None}
        self.record(visitor, page, studies=sorted(studies), instances=sorted(instances))


def read_reason(visitor: Visitor) -> str:
    """The reason for a decision that a form gives; empty: none."""
    return visitor.field("reason")[:_MAX_REASON].strip()


def read_required_reason(visitor: Visitor) -> str:
    """The reason for a decision that a form gives. Raises EdgeError where there is none."""
    if not (reason := read_reason(visitor)):
        raise EdgeError("Give a reason: the ledger records it.")
    return reason


class ConfigurationPreview(Protocol):
    """Changes of the configuration, before they are made (edge.daemon.configuring)."""

    def preview(self, name: str, fields: Mapping[str, Any]) -> list[str]: ...


@dataclass(slots=True)
class Access:
    """The gateway, as far as the pages need it. Its functions may be called from any thread."""

    db: Store
    spool: Spool
    config: Callable[[], Config]  # the running configuration
    directory: Path  # of the configuration files
    status: Callable[[], Mapping[str, Any]]  # the JSON of /api/status
    command: Callable[[str, dict[str, Any]], Mapping[str, Any]]  # a command of the control socket, by name
    configuring: ConfigurationPreview | None = None  # what a change of the configuration would change
    importer: ImportService | None = None
    views: ViewRecorder = field(init=False)

    def __post_init__(self) -> None:
        self.views = ViewRecorder(self.db)


class ConsolePage:
    """The handlers of one page."""

    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages
