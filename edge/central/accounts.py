"""The accounts of the central office's pages, in its database; changes and sign-ins are in its journal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from edge.central.store import Connection, Row, Store, StoreError, do, first, rows
from edge.web.accounts import Account, Role

log = logging.getLogger(__name__)


class StoredAccounts:
    """`edge.web.accounts.Accounts` of the central office."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, name: str) -> Account | None:
        with self._store.reading() as conn:
            row = first(conn, "SELECT * FROM account WHERE name = :name", name=name)
        return _account(row) if row else None

    def all(self) -> Iterable[Account]:
        with self._store.reading() as conn:
            return [_account(row) for row in rows(conn, "SELECT * FROM account ORDER BY name")]

    def put(self, account: Account, who: str) -> None:
        with self._store.writing() as conn:
            do(
                conn,
                """
                INSERT INTO account (name, role, password, changed_at) VALUES (:name, :role, :password, :changed_at)
                ON CONFLICT (name) DO UPDATE SET
                    role = excluded.role, password = excluded.password, changed_at = excluded.changed_at
                """,
                name=account.name,
                role=account.role.name.lower(),
                password=account.password,
                changed_at=account.changed_at,
            )
            journal(conn, who, f"account {account.name}: {account.role.name.lower()}")

    def remove(self, name: str, who: str) -> int:
        with self._store.writing() as conn:
            count = do(conn, "DELETE FROM account WHERE name = :name", name=name)
            if count:
                journal(conn, who, f"account {name}: removed")
        return count

    def record_sign_in(self, name: str, address: str, success: bool) -> None:
        what = "signed in" if success else "sign-in refused"
        try:
            with self._store.writing() as conn:
                journal(conn, name, f"{what}, from {address}")
        except StoreError as error:
            log.error("a sign-in could not be recorded: %s", error)


def journal(conn: Connection, who: str, text: str) -> None:
    """Who did what to the office itself."""
    do(conn, "INSERT INTO journal (at, who, text) VALUES (:at, :who, :text)", at=time.time(), who=who, text=text)


def _account(row: Row) -> Account:
    return Account(row["name"], Role[row["role"].upper()], row["password"], row["changed_at"])
