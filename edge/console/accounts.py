"""The console's accounts, in the catalog; each change, each sign-in and each lock is in the ledger."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable

from edge.errors import EdgeError
from edge.store import ledger
from edge.store.database import Connection, Database
from edge.text import iso
from edge.web.accounts import Account, Role, Use
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)
log.addFilter(FewLines())  # anybody can try to sign in


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

    def put(self, account: Account, who: str, what: str = "") -> None:
        self._db.write(lambda conn: put(conn, account, who, time.time(), what))

    def remove(self, name: str, who: str) -> int:
        return self._db.write(lambda conn: remove(conn, name, who, time.time()))

    def record_sign_in(self, name: str, address: str, now: float) -> None:
        def work(conn: Connection) -> None:
            _keep_use(conn, name, Use(now, address))
            ledger.append(conn, now, ledger.SIGNED_IN, name, [], detail=f"at the console, from {address}")

        self._record(work)

    def record_sign_out(self, name: str, address: str) -> None:
        detail = f"signed out at the console, from {address}"
        self._record(lambda conn: ledger.append(conn, time.time(), ledger.SIGNED_IN, name, [], detail=detail))

    def record_failure(self, account: Account, address: str, now: float, lock_after: int) -> None:
        def work(conn: Connection) -> None:
            known = find(conn, account.name)
            if known is None:
                return
            was, use = known.use.is_locked(now), known.use.after_failure(now, lock_after)
            _keep_use(conn, account.name, use)
            if not was:  # who goes on trying at a locked one fills no ledger
                detail = f"sign-in at the console, from {address}"
                ledger.append(conn, now, ledger.REFUSED, account.name, [], detail=detail)
            if use.is_locked(now) and not was:
                until = iso(use.locked_until or now)
                detail = f"account {account.name}: locked until {until} after {lock_after} failures, from {address}"
                ledger.append(conn, now, ledger.CONFIGURED, ledger.EDGE, [], detail=detail)

        self._record(work)

    def record_unknown_name(self, address: str, left_out: int) -> None:
        more = f" (and {left_out} more like it)" if left_out else ""
        detail = f"sign-in at the console, from {address}{more}"
        self._record(lambda conn: ledger.append(conn, time.time(), ledger.REFUSED, "", [], detail=detail))

    def _record(self, work: Callable[[Connection], None]) -> None:
        """A sign-in is not prevented by a disk that failed: somebody has to see that."""
        try:
            self._db.write(work)
        except (EdgeError, sqlite3.Error) as error:
            log.error("a sign-in could not be recorded: %s", error)


def find(conn: Connection, name: str) -> Account | None:
    row = conn.execute("SELECT * FROM account WHERE name = ?", (name,)).fetchone()
    return _account(row) if row else None


def every(conn: Connection) -> list[Account]:
    """All accounts, by name."""
    return [_account(row) for row in conn.execute("SELECT * FROM account ORDER BY name")]


_PUT = """
INSERT INTO account (name, role, password, changed_at, disabled, expires_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    role = excluded.role, password = excluded.password, changed_at = excluded.changed_at, disabled = excluded.disabled,
    expires_at = excluded.expires_at, failed_at = '[]', locked_until = NULL
"""


def put(conn: Connection, account: Account, who: str, now: float, what: str = "") -> None:
    """Add or replace one, but for its use; that also unlocks it. In the caller's transaction."""
    role, disabled = account.role.name.lower(), int(account.disabled)
    conn.execute(_PUT, (account.name, role, account.password, account.changed_at, disabled, account.expires_at))
    detail = f"account {account.name}: {what or account.described()}"
    ledger.append(conn, now, ledger.CONFIGURED, who, [], detail=detail)


def remove(conn: Connection, name: str, who: str, now: float) -> int:
    """Take one away; in the caller's transaction. Returns how many there were."""
    count = conn.execute("DELETE FROM account WHERE name = ?", (name,)).rowcount
    if count:
        ledger.append(conn, now, ledger.CONFIGURED, who, [], detail=f"account {name}: removed")
    return count


def _keep_use(conn: Connection, name: str, use: Use) -> None:
    """Of a person without an account, named by a proxy, nothing is kept."""
    conn.execute(
        "UPDATE account SET signed_in_at = ?, signed_in_from = ?, failures = ?, failed_at = ?, locked_until = ?"
        " WHERE name = ?",
        (use.signed_in_at, use.signed_in_from, use.failures, json.dumps(use.failed_at), use.locked_until, name),
    )


def _account(row: sqlite3.Row) -> Account:
    return Account(
        row["name"],
        Role[row["role"].upper()],
        row["password"],
        row["changed_at"],
        bool(row["disabled"]),
        row["expires_at"],
        Use(
            row["signed_in_at"],
            row["signed_in_from"],
            row["failures"],
            tuple(json.loads(row["failed_at"])),
            row["locked_until"],
        ),
    )
