"""The states of the configuration's files that the gateway has used. Functions of a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge.store.database import CatalogRow, Transaction
from edge.store.listing import Listing, ListPart, ListSql

#: Older states are forgotten; the files of a site that keeps them in git are there.
MOST_VERSIONS = 500


@dataclass(frozen=True, slots=True)
class ConfigurationVersion:
    """One state. `who` changed the files: a person by the console or the command; "files": somebody with an editor."""

    id: int
    at: float
    who: str
    reason: str
    digest: str
    files: Mapping[str, str]


_COLUMNS = "id, at, who, reason, digest, files"


def record_version(
    conn: Transaction, at: float, who: str, reason: str, digest: str, files: Mapping[str, str]
) -> int | None:
    """Record a state of the files where it differs from the last one. Returns its number; None: it is the last one."""
    last = latest_version(conn)
    if last is not None and last.digest == digest:
        return None
    row = conn.execute(
        "INSERT INTO configuration_version (at, who, reason, digest, files) VALUES (?, ?, ?, ?, ?) RETURNING id",
        (at, who, reason, digest, json.dumps(dict(files), ensure_ascii=False)),
    ).fetchone()
    conn.execute("DELETE FROM configuration_version WHERE id <= ?", (int(row[0]) - MOST_VERSIONS,))
    return int(row[0])


_LIST = ListSql(
    _COLUMNS, "FROM configuration_version", "id DESC", {"state": ("id",), "since": ("at",), "who": ("lower(who)",)}
)
VERSION_COLUMNS = _LIST.orders.keys()


def list_versions(conn: Transaction) -> Listing[ConfigurationVersion]:
    """List the states, the latest first."""
    return Listing(conn, _LIST, _version_of)


def find_version(conn: Transaction, number: int) -> ConfigurationVersion | None:
    row = conn.execute(f"SELECT {_COLUMNS} FROM configuration_version WHERE id = ?", (number,)).fetchone()
    return None if row is None else _version_of(row)


def version_before(conn: Transaction, number: int) -> ConfigurationVersion | None:
    """The state before a state."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM configuration_version WHERE id < ? ORDER BY id DESC LIMIT 1", (number,)
    ).fetchone()
    return None if row is None else _version_of(row)


def latest_version(conn: Transaction) -> ConfigurationVersion | None:
    return next(iter(list_versions(conn).read(ListPart(1))), None)


def _version_of(row: CatalogRow) -> ConfigurationVersion:
    number, at, who, reason, digest, files = row
    return ConfigurationVersion(
        int(str(number)), float(str(at)), str(who), str(reason), str(digest), json.loads(str(files))
    )
