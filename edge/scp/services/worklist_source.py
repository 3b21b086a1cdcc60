"""From where receiving processes have the worklist: the daemon reads the catalog (edge.scp.services.worklist_reader),
they keep what it gave them.

A process asks with the stamp of the list that it has, and gets another one only where anything has changed: a hundred
modalities that poll every ten seconds cost no more than that question.
"""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from edge.errors import Shortage
from edge.query.worklist import WorklistItem, decode_item

#: Items in one message between the processes.
PAGE_ITEMS = 2_000


class KnownWorklist(Protocol):
    """The list that a modality is served."""

    def read(self, modality: str) -> Sequence[WorklistItem] | None:
        """Its items, with what performed steps have made of them; None: there is no list that is recent enough."""


class WorklistCache:
    """A receiving process's side. `read_page`: as the daemon's. Thread-safe."""

    def __init__(self, read_page: Callable[[str, str, int], dict[str, Any]]) -> None:
        self._read_page, self._lock = read_page, threading.Lock()
        self._views: dict[str, str] = {}  # modality -> the list that it is served
        self._lists: dict[str, tuple[str, Sequence[WorklistItem]]] = {}  # view -> stamp, items

    def read(self, modality: str) -> Sequence[WorklistItem] | None:
        with self._lock:
            stamp, found = self._lists.get(self._views.get(modality, ""), ("", ()))
            page = self._read_page(modality, stamp, 0)
            if not page["is_known"]:
                return None
            self._views[modality] = page["view"]
            if "items" in page:
                found = [decode_item(b64decode(body), *rest) for body, *rest in self._read_all(modality, page)]
                self._lists[page["view"]] = page["stamp"], found
            return found

    def _read_all(self, modality: str, first: dict[str, Any]) -> list[list[str]]:
        """All rows of the list that `first` begins. Raises Shortage where it changes meanwhile."""
        page, rows = first, list(first["items"])
        while len(page["items"]) == PAGE_ITEMS:
            page = self._read_page(modality, "", len(rows))
            if page.get("stamp") != first["stamp"]:
                raise Shortage("the worklist changes at this moment")
            rows += page["items"]
        return rows
