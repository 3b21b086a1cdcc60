"""The accounts of pages, as rows: a site's and the centre's alike. What they mean is edge.web.accounts'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.store.transaction import AnyTransaction

#: A row: as edge.web.accounts.Account and its Use have them, in this order.
_SELECT = (
    "SELECT name, role, password, changed_at, disabled, expires_at, signed_in_at, signed_in_from, failures, failed_at,"
    " locked_until FROM account"
)
_PUT = """
INSERT INTO account (name, role, password, changed_at, disabled, expires_at)
VALUES (:name, :role, :password, :changed_at, :disabled, :expires_at)
ON CONFLICT (name) DO UPDATE SET
    role = excluded.role, password = excluded.password, changed_at = excluded.changed_at, disabled = excluded.disabled,
    expires_at = excluded.expires_at, failed_at = '[]', locked_until = NULL
"""
_KEEP_USE = """
UPDATE account SET signed_in_at = :signed_in_at, signed_in_from = :signed_in_from,
    failures = :failures, failed_at = :failed_at, locked_until = :locked_until
WHERE name = :name
"""


def find_row(conn: AnyTransaction, name: str) -> Sequence[Any] | None:
    """One account's row, by its exact name."""
    row = conn.execute(f"{_SELECT} WHERE name = :name", {"name": name}).fetchone()
    return None if row is None else tuple(row)


def list_rows(conn: AnyTransaction) -> list[Sequence[Any]]:
    """All rows, by name."""
    return [tuple(row) for row in conn.execute(f"{_SELECT} ORDER BY name", {})]


def put_row(conn: AnyTransaction, columns: Mapping[str, Any]) -> None:
    """Add or replace one, but for its use; that also unlocks it. `columns`: the first six."""
    conn.execute(_PUT, columns)


def remove_row(conn: AnyTransaction, name: str) -> int:
    """Returns how many there were."""
    return conn.execute("DELETE FROM account WHERE name = :name", {"name": name}).rowcount


def keep_use(conn: AnyTransaction, columns: Mapping[str, Any]) -> None:
    """How an account was used last: its name and the last five columns."""
    conn.execute(_KEEP_USE, columns)
