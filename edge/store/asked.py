"""Requests of others to the gateway: queries, retrievals, the worklist. From the ledger; reads only."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from edge.store import ledger
from edge.store.database import CatalogRow, Transaction
from edge.store.ledger_text import payload_of_row
from edge.store.listing import Listing, ListSql

#: Of the ledger, the latest rows that are searched.
_SEARCHED_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class AskedRow:
    """One question, and how it ended. `answers`: or objects that were sent."""

    at: float  # seconds since 1970
    caller: str
    address: str
    what: str  # "find", "retrieve" or "worklist"
    model: str
    called: str
    answers: int
    status: int
    seconds: float | None  # that it took
    left_out: tuple[str, ...]  # archives that did not answer
    comment: str  # Error Comment of the answer
    syntax: str
    identifier: bytes  # which names patients; long ones are cut

    @property
    def has_failed(self) -> bool:
        return self.status >> 12 in (0xA, 0xC)


_LIST = ListSql(f"seq, {ledger.COLUMNS}", "FROM ledger", "seq DESC", {"caller": ("lower(who)",), "asked": ("seq",)})
ASKED_COLUMNS = _LIST.orders.keys()


def list_asked(conn: Transaction) -> Listing[AskedRow]:
    """List the latest questions first."""
    asked = "event = :event AND who <> 'others' AND seq > (SELECT coalesce(max(seq), 0) FROM ledger) - :searched"
    values = {"event": ledger.QUERIED, "searched": _SEARCHED_ROWS}
    return Listing(conn, _LIST, _make_asked_row, {asked: True}, values)


def _make_asked_row(row: CatalogRow) -> AskedRow:
    said = payload_of_row(row)
    return AskedRow(
        row["at"],
        row["who"],
        said.get("address", ""),
        said.get("what", ""),
        said.get("model", ""),
        said.get("called", ""),
        said.get("answers", 0),
        said.get("status", 0),
        said.get("seconds"),
        tuple(said.get("left_out", ())),
        said.get("comment", ""),
        said.get("syntax", ""),
        base64.b64decode(said.get("identifier", "")),
    )
