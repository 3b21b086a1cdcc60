"""The worklist for receiving processes, page by page out of the catalog: the daemon's side."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from edge.config.sections import Config
from edge.scp.services.worklist_source import PAGE_ITEMS
from edge.store import worklist
from edge.store.database import Store


class WorklistReader:
    """The daemon's side. Thread-safe."""

    def __init__(self, db: Store, config: Callable[[], Config], clock: Callable[[], float] = time.time) -> None:
        self._db, self._config, self._clock = db, config, clock

    def read_page(self, modality: str, stamp: str, offset: int) -> dict[str, Any]:
        """A page of a modality's list. `stamp`: of the list that the caller has; then there is nothing to send."""
        config = self._config()
        view = modality if config.worklist.from_ and config.worklist.per_modality else ""
        with self._db.reading() as conn:
            source = worklist.find_source(conn, view)
            if source is None or source.as_of is None or self._clock() - source.as_of > config.worklist.keep:
                return {"is_known": False}
            now = f"{view} {worklist.read_stamp(conn, view)}"
            if now == stamp and not offset:
                return {"is_known": True, "view": view, "stamp": now}
            found = worklist.read_items(conn, view)[offset : offset + PAGE_ITEMS]
        page = [[b64encode(each.body).decode(), each.charset, each.performed] for each in found]
        return {"is_known": True, "view": view, "stamp": now, "items": page}
