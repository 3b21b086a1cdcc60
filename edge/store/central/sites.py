"""The sites by their latest heartbeat, the numbers that came and those that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.store.engine import EngineTransaction, Row, do, find_value, first, rows, update_row, value

#: The latest numbers of each site that are kept, with their digests.
KEPT_NUMBERS = 1500
#: The columns beside `id`.
_COLUMNS = """
name number at every heard_at boot version state severity alerts used_fraction full_in backlog links_down received
stored_bytes ledger_seq ledger_head status
"""
_STATE = tuple(_COLUMNS.split())
_KEEP_STATE = f"""
INSERT INTO site (id, {", ".join(_STATE)}) VALUES (:id, {", ".join(f":{name}" for name in _STATE)})
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _STATE)}
"""
_KNOWN = """
SELECT site.*,
       EXISTS (SELECT 1 FROM outage WHERE outage.site = site.id AND returned_at IS NULL) AS is_silent,
       EXISTS (SELECT 1 FROM incident WHERE incident.site = site.id AND closed_at IS NULL
               AND kind IN ('clock-skew', 'signature-refused')) AS has_open_faults,
       EXISTS (SELECT 1 FROM maintenance WHERE maintenance.site = site.id AND name <> ''
               AND ends_at > site.heard_at) AS plans_work
FROM site
WHERE id = :id
"""
_FLEET = """
SELECT site.*, outage.silent_from, outage.incident
FROM site LEFT JOIN outage ON outage.site = site.id AND outage.returned_at IS NULL
"""
_VERSIONS = "SELECT version, count(*) AS sites FROM site GROUP BY version ORDER BY version DESC"


def find_known(conn: EngineTransaction, site: str) -> Row | None:
    """What a heartbeat is compared with, and whether anything is open that it may end."""
    return first(conn, _KNOWN, id=site)


def find_in_fleet(conn: EngineTransaction, site: str) -> Row | None:
    """One site with its silence, as far as it was ever heard."""
    return first(conn, f"{_FLEET} WHERE site.id = :id", id=site)


def list_fleet(conn: EngineTransaction) -> Sequence[Row]:
    """Every site that was ever heard, with its silence."""
    return rows(conn, _FLEET)


def list_statuses(conn: EngineTransaction) -> Sequence[Row]:
    """Every site's name and latest status."""
    return rows(conn, "SELECT id, name, status FROM site ORDER BY id")


def list_intervals(conn: EngineTransaction) -> Sequence[Row]:
    """When each site was heard, and how often it reports: read every second, without its status."""
    return rows(conn, "SELECT id, heard_at, every, state FROM site")


def count_versions(conn: EngineTransaction) -> Sequence[Row]:
    """The sites of each version, by their last heartbeat."""
    return rows(conn, _VERSIONS)


def list_names(conn: EngineTransaction) -> Sequence[Row]:
    """Every site's name, and its disk by its own forecast."""
    return rows(conn, "SELECT id, name, number, used_fraction, full_in FROM site ORDER BY id")


def keep_state(conn: EngineTransaction, columns: Mapping[str, Any]) -> None:
    """A site's state by its latest heartbeat; `columns` may have more than the table."""
    conn.execute(_KEEP_STATE, {name: columns[name] for name in ("id", *_STATE)})


def set_heard_at(conn: EngineTransaction, site: str, now: float) -> None:
    update_row(conn, "site", site, heard_at=now)


# -- numbers -----------------------------------------------------------------------------------------------------------


def digest_of(conn: EngineTransaction, site: str, number: int) -> str | None:
    """The digest of the heartbeat that had this number."""
    sql = "SELECT digest FROM heartbeat WHERE site = :site AND number = :number"
    return find_value(conn, sql, str, site=site, number=number)


def add_number(conn: EngineTransaction, site: str, number: int, at: float, digest: str) -> None:
    """Enter a number that has come."""
    sql = """
    INSERT INTO heartbeat (site, number, at, digest) VALUES (:site, :number, :at, :digest)
    ON CONFLICT (site, number) DO NOTHING
    """
    do(conn, sql, site=site, number=number, at=at, digest=digest)


def find_gap(conn: EngineTransaction, site: str, number: int) -> Row | None:
    """The missing numbers among which this one is."""
    sql = "SELECT first, last FROM gap WHERE site = :site AND :number BETWEEN first AND last"
    return first(conn, sql, site=site, number=number)


def add_gap(conn: EngineTransaction, site: str, begin: int, end: int, now: float) -> None:
    """Enter that the numbers from `begin` to `end` are missing; none where `end` is less."""
    if begin <= end:
        sql = "INSERT INTO gap (site, first, last, noticed_at) VALUES (:site, :first, :last, :now)"
        do(conn, sql, site=site, first=begin, last=end, now=now)


def fill_gap(conn: EngineTransaction, site: str, number: int, now: float) -> None:
    """Take a number that has come out of the missing ones."""
    if (gap := find_gap(conn, site, number)) is not None:
        do(conn, "DELETE FROM gap WHERE site = :site AND first = :first", site=site, first=gap["first"])
        add_gap(conn, site, gap["first"], number - 1, now)
        add_gap(conn, site, number + 1, gap["last"], now)


def count_missing(conn: EngineTransaction, site: str) -> int:
    return int(value(conn, "SELECT sum(last - first + 1) FROM gap WHERE site = :site", site=site) or 0)


def forget_numbers(conn: EngineTransaction, site: str) -> None:
    """Forget all numbers of a site that has restarted its count."""
    for table in ("heartbeat", "gap"):
        do(conn, f"DELETE FROM {table} WHERE site = :site", site=site)


def prune_numbers(conn: EngineTransaction, site: str, latest: int) -> None:
    """Keep the latest KEPT_NUMBERS."""
    do(conn, "DELETE FROM heartbeat WHERE site = :site AND number < :old", site=site, old=latest - KEPT_NUMBERS)
