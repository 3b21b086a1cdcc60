"""The rule [retention.NAME] of each stored instance, what the catalog keeps of its header, and how far the pass has got
that applies new rules to what is here.

Functions of a connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from edge.model import InstanceHeader, Origin, Values
from edge.store.database import CatalogRow, Transaction
from edge.store.gateway_values import recall, remember
from edge.store.patients import (
    INSTANCE_NUMBER,
    JOIN,
    MOST_CHARACTERS,
    PATIENT_COLUMNS,
    SERIES_COLUMNS,
    STUDY_COLUMNS,
    TOP_LEVEL_KEYWORDS,
)

#: Each keyword that the catalog keeps, with its column.
_COLUMNS = {
    **{keyword: f"p.{column}" for keyword, column in PATIENT_COLUMNS.items()},
    **{keyword: f"f.{column}" for keyword, column in STUDY_COLUMNS.items()},
    **{keyword: f"r.{column}" for keyword, column in SERIES_COLUMNS.items()},
    INSTANCE_NUMBER: "i.instance_number",
    "StudyInstanceUID": "s.study_uid",
}


@dataclass(frozen=True, slots=True)
class RuledInstance:
    """An instance whose file is here, and the rule that keeps it; empty: none."""

    instance_id: int
    path: str
    rule: str
    header: InstanceHeader | None  # what was asked for; None: the catalog does not know all of it


_SELECT = (
    "SELECT i.id, i.path, i.retention, i.calling_ae, i.called_ae, i.address, i.received_at, i.sop_instance_uid,"
    f" i.series_id, k.sop_class_uid, k.transfer_syntax_uid, {', '.join(_COLUMNS.values())}"
    f" FROM instance i JOIN kind k ON k.id = i.kind_id LEFT JOIN study s ON s.id = i.study_id {JOIN}"
    " WHERE i.state IN ('stored', 'conflict') AND i.fetched_from = ''"
)
_FIRST = 11  # columns before those of _COLUMNS


def list_ruled(conn: Transaction, asked: frozenset[str], after: int, limit: int) -> list[RuledInstance]:
    """The next instances by their number; `asked`: the keywords that are wanted of their headers."""
    rows = conn.execute(f"{_SELECT} AND i.id > ? ORDER BY i.id LIMIT ?", (after, limit))
    return [_read(row, asked) for row in rows]


def list_ruled_among(conn: Transaction, asked: frozenset[str], instances: Iterable[int]) -> list[RuledInstance]:
    rows = conn.execute(f"{_SELECT} AND i.id IN (SELECT value FROM json_each(?))", (json.dumps(list(instances)),))
    return [_read(row, asked) for row in rows]


def _read(row: CatalogRow, asked: frozenset[str]) -> RuledInstance:
    """Without a header where the catalog has none, has it shortened, or where the value may be inside a sequence."""
    texts = dict(zip(_COLUMNS, row[_FIRST:], strict=True))
    attributes: dict[str, Values] = {}
    is_known = row["series_id"] is not None
    for keyword in asked:
        text = texts.get(keyword)
        if text is None or len(text) >= MOST_CHARACTERS or not (text or keyword in TOP_LEVEL_KEYWORDS):
            is_known = False
            break
        attributes[keyword] = tuple(text.split("\\")) if text else ()
    if not is_known:
        return RuledInstance(row["id"], row["path"], row["retention"], None)
    origin = Origin(row["calling_ae"], row["called_ae"], row["address"], row["received_at"])
    header = InstanceHeader(
        row["sop_class_uid"], row["sop_instance_uid"], row["transfer_syntax_uid"], origin, attributes
    )
    return RuledInstance(row["id"], row["path"], row["retention"], header)


def set_rules(conn: Transaction, changes: Mapping[int, str]) -> None:
    conn.executemany("UPDATE instance SET retention = ? WHERE id = ?", [(rule, id_) for id_, rule in changes.items()])


# -- the pass ----------------------------------------------------------------------------------------------------------

_PLACE = "retention_review"


@dataclass(frozen=True, slots=True)
class ReviewPlace:
    """How far the pass has got, and by which rules."""

    rules: str  # what they are, as a digest
    after: int = 0  # the last instance that was reviewed
    changed: int = 0  # how many have another rule now
    is_done: bool = False
    last: int = 0  # the newest instance of all


def read_review_place(conn: Transaction) -> ReviewPlace | None:
    """None where no rule was ever configured."""
    text = recall(conn, _PLACE)
    return ReviewPlace(**json.loads(text)) if text else None


def keep_review_place(conn: Transaction, place: ReviewPlace) -> None:
    remember(conn, _PLACE, json.dumps(asdict(place)))
