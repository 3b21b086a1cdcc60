"""The worklist of a receiving process: a copy of what the daemon reads (edge.scp.services.worklist_reader).

A process asks with the stamp of the list that it has, and gets another one only where anything has changed: a hundred
modalities that poll every ten seconds cost no more than that question.
"""

from __future__ import annotations

import threading
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, overload

from edge.errors import Shortage
from edge.query.worklist import WorklistItem, decode_item

#: An item between the processes: its body in base64, its character set, what a performed step has made of it.
_Row: TypeAlias = "tuple[str, str, str]"
#: Items in one message between the processes.
PAGE_ITEMS = 2_000


class KnownWorklist(Protocol):
    """The list that a modality is served."""

    def read(self, modality: str) -> Sequence[WorklistItem] | None:
        """Its items, with what performed steps have made of them; None: there is no list that is recent enough."""


def _row(body: str, charset: str, performed: str) -> _Row:
    return body, charset, performed


class _Items(Sequence[WorklistItem]):
    """Items that are decoded when they are first read: the first answer waits for one of them. Thread-safe."""

    def __init__(self, rows: Sequence[_Row], known: _Items | None) -> None:
        """`known`: of the list before; most items stay as they were from poll to poll."""
        self._rows = rows
        self._items: list[WorklistItem | None] = known.decoded_items(rows) if known else [None] * len(rows)

    def decoded_items(self, rows: Sequence[_Row]) -> list[WorklistItem | None]:
        """Reuse the decoded items of other rows that are the same here."""
        made = {row: item for row, item in zip(self._rows, self._items, strict=True) if item is not None}
        return [made.get(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> WorklistItem: ...

    @overload
    def __getitem__(self, at: slice) -> list[WorklistItem]: ...

    def __getitem__(self, at: int | slice) -> WorklistItem | list[WorklistItem]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        found = self._items[at]
        if found is None:
            body, charset, performed = self._rows[at]
            found = self._items[at] = decode_item(b64decode(body), charset, performed)
        return found


class WorklistCache:
    """A receiving process's side. `read_page`: as the daemon's. Thread-safe."""

    def __init__(self, read_page: Callable[[str, str, int], dict[str, Any]]) -> None:
        self._read_page, self._lock = read_page, threading.Lock()
        self._views: dict[str, str] = {}  # modality -> the list that it is served
        self._lists: dict[str, tuple[str, _Items]] = {}  # view -> stamp, items

    def read(self, modality: str) -> Sequence[WorklistItem] | None:
        with self._lock:
            stamp, found = self._lists.get(self._views.get(modality, ""), ("", None))
            page = self._read_page(modality, stamp, 0)
            if not page["is_known"]:
                return None
            self._views[modality] = page["view"]
            if "items" in page:
                found = _Items([_row(*each) for each in self._read_all(modality, page)], found)
                self._lists[page["view"]] = page["stamp"], found
            return found or ()

    def _read_all(self, modality: str, first: dict[str, Any]) -> list[list[str]]:
        """All rows of the list that `first` begins. Raises Shortage where it changes meanwhile."""
        page, rows = first, list(first["items"])
        while len(page["items"]) == PAGE_ITEMS:
            page = self._read_page(modality, "", len(rows))
            if page.get("stamp") != first["stamp"]:
                raise Shortage("the worklist changes at this moment")
            rows += page["items"]
        return rows
