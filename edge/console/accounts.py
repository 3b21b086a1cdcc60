"""The console's accounts, in the catalog; each change and each sign-in is in the ledger."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable

from edge import ledger
from edge.db import Connection, Database
from edge.errors import EdgeError
from edge.web.accounts import Account, Role

log = logging.getLogger(__name__)


class CatalogAccounts:
    """`edge.web.accounts.Accounts` of the running gateway."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, name: str) -> Account | None:
        with self._db.reading() as conn:
            return find(conn, name)

    def all(self) -> Iterable[Account]:
        with self._db.reading() as conn:
            return every(conn)

    def put(self, account: Account, who: str) -> None:
        self._db.write(lambda conn: put(conn, account, who))

    def remove(self, name: str, who: str) -> int:
        return self._db.write(lambda conn: remove(conn, name, who, time.time()))

    def record_sign_in(self, name: str, address: str, success: bool) -> None:
        """A sign-in is not prevented by a disk that failed: somebody has to see that."""
        event = ledger.SIGNED_IN if success else ledger.REFUSED
        detail = f"at the console, from {address}" if success else f"sign-in at the console, from {address}"
        try:
            self._db.write(lambda conn: ledger.append(conn, time.time(), event, name, [], detail=detail))
        except (EdgeError, sqlite3.Error) as error:
            log.error("a sign-in could not be recorded: %s", error)


def find(conn: Connection, name: str) -> Account | None:
    row = conn.execute("SELECT name, role, password, changed_at FROM account WHERE name = ?", (name,)).fetchone()
    return _account(row) if row else None


def every(conn: Connection) -> list[Account]:
    """All accounts, by name."""
    return [_account(row) for row in conn.execute("SELECT name, role, password, changed_at FROM account ORDER BY name")]


def put(conn: Connection, account: Account, who: str) -> None:
    """Add or replace one; in the caller's transaction."""
    conn.execute(
        "INSERT OR REPLACE INTO account (name, role, password, changed_at) VALUES (?, ?, ?, ?)",
        (account.name, account.role.name.lower(), account.password, account.changed_at),
    )
    detail = f"account {account.name}: {account.role.name.lower()}"
    ledger.append(conn, account.changed_at, ledger.CONFIGURED, who, [], detail=detail)


def remove(conn: Connection, name: str, who: str, now: float) -> int:
    """Take one away; in the caller's transaction. Returns how many there were."""
    count = conn.execute("DELETE FROM account WHERE name = ?", (name,)).rowcount
    if count:
        ledger.append(conn, now, ledger.CONFIGURED, who, [], detail=f"account {name}: removed")
    return count


def _account(row: sqlite3.Row) -> Account:
    return Account(row["name"], Role[row["role"].upper()], row["password"], row["changed_at"])
