"""The accounts of the central office's pages, in its database; changes, sign-ins and locks are in its journal."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable

from edge.central.store import Connection, Row, Store, StoreError, do, first, rows
from edge.text import iso
from edge.web.accounts import Account, Role, Use
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)
log.addFilter(FewLines())  # anybody can try to sign in

_PUT = """
INSERT INTO account (name, role, password, changed_at, disabled, expires_at)
VALUES (:name, :role, :password, :changed_at, :disabled, :expires_at)
ON CONFLICT (name) DO UPDATE SET
    role = excluded.role, password = excluded.password, changed_at = excluded.changed_at, disabled = excluded.disabled,
    expires_at = excluded.expires_at, failed_at = '[]', locked_until = NULL
"""
_KEEP_USE = """
UPDATE account SET signed_in_at = :at, signed_in_from = :address, failures = :failures, failed_at = :failed_at,
    locked_until = :locked_until
WHERE name = :name
"""


class StoredAccounts:
    """`edge.web.accounts.Accounts` of the central office."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, name: str) -> Account | None:
        with self._store.reading() as conn:
            return _find(conn, name)

    def all(self) -> Iterable[Account]:
        with self._store.reading() as conn:
            return [_account(row) for row in rows(conn, "SELECT * FROM account ORDER BY name")]

    def put(self, account: Account, who: str, what: str = "") -> None:
        with self._store.writing() as conn:
            do(
                conn,
                _PUT,
                name=account.name,
                role=account.role.name.lower(),
                password=account.password,
                changed_at=account.changed_at,
                disabled=int(account.disabled),
                expires_at=account.expires_at,
            )
            journal(conn, who, f"account {account.name}: {what or account.described()}")

    def remove(self, name: str, who: str) -> int:
        with self._store.writing() as conn:
            count = do(conn, "DELETE FROM account WHERE name = :name", name=name)
            if count:
                journal(conn, who, f"account {name}: removed")
        return count

    def record_sign_in(self, name: str, address: str, now: float) -> None:
        def work(conn: Connection) -> None:
            _keep_use(conn, name, Use(now, address))
            journal(conn, name, f"signed in, from {address}")

        self._record(work)

    def record_sign_out(self, name: str, address: str) -> None:
        self._record(lambda conn: journal(conn, name, f"signed out, from {address}"))

    def record_failure(self, account: Account, address: str, now: float, lock_after: int) -> None:
        def work(conn: Connection) -> None:
            known = _find(conn, account.name)
            if known is None:
                return
            was, use = known.use.is_locked(now), known.use.after_failure(now, lock_after)
            _keep_use(conn, account.name, use)
            if not was:  # who goes on trying at a locked one fills no journal
                journal(conn, account.name, f"sign-in refused, from {address}")
            if use.is_locked(now) and not was:
                until = iso(use.locked_until or now)
                text = f"account {account.name}: locked until {until} after {lock_after} failures, from {address}"
                journal(conn, "", text)

        self._record(work)

    def record_unknown_name(self, address: str, left_out: int) -> None:
        more = f" (and {left_out} more like it)" if left_out else ""
        self._record(lambda conn: journal(conn, "", f"sign-in refused, from {address}{more}"))

    def _record(self, work: Callable[[Connection], None]) -> None:
        try:
            with self._store.writing() as conn:
                work(conn)
        except StoreError as error:
            log.error("a sign-in could not be recorded: %s", error)


def journal(conn: Connection, who: str, text: str) -> None:
    """Who did what to the office itself."""
    do(conn, "INSERT INTO journal (at, who, text) VALUES (:at, :who, :text)", at=time.time(), who=who, text=text)


def _find(conn: Connection, name: str) -> Account | None:
    row = first(conn, "SELECT * FROM account WHERE name = :name", name=name)
    return _account(row) if row else None


def _keep_use(conn: Connection, name: str, use: Use) -> None:
    do(
        conn,
        _KEEP_USE,
        name=name,
        at=use.signed_in_at,
        address=use.signed_in_from,
        failures=use.failures,
        failed_at=json.dumps(use.failed_at),
        locked_until=use.locked_until,
    )


def _account(row: Row) -> Account:
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
