"""Accounts: who may sign in, with which role, until when; and when repeated failures lock an account.

`Account` and `Use` are values, and decide without side effects. `Accounts` stores them, in a site's catalog or in the
centre's database; each change, sign-in and lock is an `AccountEvent`, which the application records.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import Any

from edge.errors import EdgeError, Permanent
from edge.store import accounts as stored
from edge.store.transaction import AnyStore, AnyTransaction
from edge.text import local_day
from edge.web.throttle import FewLines

log = logging.getLogger(__name__)
log.addFilter(FewLines())  # any caller causes lines

MAX_NAME = 128
#: Consecutive failures that lock an account, if they come within this time; and the duration of the lock.
#: (ASD STIG APSC-DV-000530)
FAILURES_TO_LOCK = 3
FAILURE_SECONDS = ACCOUNT_LOCK_SECONDS = 900.0


class AccountError(Permanent):
    """A change of an account that is refused; the text gives the reason and the remedy."""


class UserRole(IntEnum):
    """What a person may do; each role includes those before it."""

    VIEWER = 0  # sees the gateway's status, and no patient data
    OPERATOR = 1  # sees patient data, and decides about held images
    ADMIN = 2  # manages accounts


@dataclass(frozen=True, slots=True)
class Use:
    """How an account was used: shown at sign-in, and decides whether it is locked. Times: seconds since 1970."""

    signed_in_at: float | None = None
    signed_in_from: str = ""  # the address
    failures: int = 0  # since then
    failed_at: tuple[float, ...] = ()  # the latest consecutive failures, as far as they may lock it
    locked_until: float | None = None

    def is_locked(self, now: float) -> bool:
        """Check for a lock. It never lasts longer than ACCOUNT_LOCK_SECONDS, even if the clock is set."""
        return self.locked_until is not None and 0 < self.locked_until - now <= ACCOUNT_LOCK_SECONDS

    def after_failure(self, now: float, lock_after: int) -> Use:
        """Count one more failure. It does not extend a lock: nobody can lock out a user permanently."""
        counted = replace(self, failures=self.failures + 1)
        if self.is_locked(now):
            return counted
        recent = (*(at for at in self.failed_at if abs(now - at) < FAILURE_SECONDS), now)
        if len(recent) >= lock_after:
            return replace(counted, failed_at=(), locked_until=now + ACCOUNT_LOCK_SECONDS)
        return replace(counted, failed_at=recent, locked_until=None)


@dataclass(frozen=True, slots=True)
class Account:
    """One person. Without `password`, the person signs in through a trusted proxy."""

    name: str
    role: UserRole
    password: str  # its hash (edge.web.passwords)
    changed_at: float  # ends the sessions that began before
    disabled: bool = False
    expires_at: float | None = None
    use: Use = field(default=Use())

    def is_active(self, now: float) -> bool:
        """Check that it is neither disabled nor expired; otherwise its sessions have ended."""
        return not self.disabled and (self.expires_at is None or now < self.expires_at)

    def may_sign_in(self, now: float) -> bool:
        return self.is_active(now) and not self.use.is_locked(now)

    def state(self, now: float) -> str:
        """Return a code: active, disabled, expired or locked."""
        if not self.is_active(now):
            return "disabled" if self.disabled else "expired"
        return "locked" if self.use.is_locked(now) else "active"

    def with_password(self, former: str, new: str) -> Account:
        """Return it with a new hash. Raises AccountError if its hash is not `former` any more, which was checked."""
        if self.password != former:
            raise AccountError("the password was changed meanwhile; sign in with the new one")
        return replace(self, password=new)

    def summary(self) -> str:
        """Return role, state and last day, for the record of a change."""
        until = f", until {last_day(self.expires_at)}" if self.expires_at is not None else ""
        return f"{self.role.name.lower()}{', disabled' if self.disabled else ''}{until}"


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """A change of an account, or a sign-in, for the application's record. `kind` is one of the codes."""

    SIGNED_IN, SIGNED_OUT, REFUSED, LOCKED, CHANGED = "signed-in", "signed-out", "refused", "locked", "changed"

    kind: str
    at: float
    who: str  # the actor; empty: not known
    account: str = ""
    address: str = ""
    change: str = ""  # what was changed
    until: float = 0.0  # end of the lock
    failures: int = 0  # that locked it
    left_out: int = 0  # refusals like this one without a record


#: Records an event, in the transaction of its cause.
EventRecorder = Callable[[Any, AccountEvent], None]


class Accounts:
    """The accounts of a site's console or of the centre's pages. A change raises EdgeError if it is not durable.

    A database that cannot be written does not prevent a sign-in: the failure is logged, and people see the pages.
    """

    def __init__(self, store: AnyStore, record: EventRecorder) -> None:
        self._store, self._record = store, record

    def find(self, name: str) -> Account | None:
        """Find an account by its exact name."""
        return self._store.read(lambda conn: find(conn, name))

    def all(self) -> list[Account]:
        """List the accounts by name."""
        return self._store.read(every)

    def put(self, account: Account, who: str, what: str = "") -> None:
        """Add or replace an account, and unlock it; its use remains. `what` is the text for the record."""
        self._store.write(lambda conn: put(conn, self._record, account, who, time.time(), what))

    def add(self, account: Account, who: str) -> None:
        """Add an account. Raises AccountError if there is one with its name."""

        def work(conn: AnyTransaction) -> None:
            if find(conn, account.name) is not None:
                raise AccountError(f"the account {account.name} exists already")
            put(conn, self._record, account, who, time.time())

        self._store.write(work)

    def change(self, name: str, who: str, change: Callable[[Account], Account], what: str = "") -> Account:
        """Change an account as it is now, and unlock it: another person may have changed it since it was read.

        Raises AccountError if it was removed, and what `change` raises.
        """

        def work(conn: AnyTransaction) -> Account:
            known = find(conn, name)
            if known is None:
                raise AccountError("the account no longer exists")
            changed = change(known)
            put(conn, self._record, changed, who, time.time(), what)
            return changed

        return self._store.write(work)

    def remove(self, name: str, who: str) -> int:
        """Remove an account. Returns the number of removed ones."""
        return self._store.write(lambda conn: remove(conn, self._record, name, who, time.time()))

    def record_sign_in(self, name: str, address: str, now: float) -> None:
        """Record a sign-in."""

        def work(conn: AnyTransaction) -> None:
            _keep_use(conn, name, Use(now, address))
            self._record(conn, AccountEvent(AccountEvent.SIGNED_IN, now, name, address=address))

        self._try(work)

    def record_sign_out(self, name: str, address: str) -> None:
        """Record a sign-out."""
        event = AccountEvent(AccountEvent.SIGNED_OUT, time.time(), name, address=address)
        self._try(lambda conn: self._record(conn, event))

    def record_failure(self, account: Account, address: str, now: float, lock_after: int) -> None:
        """Record a failed sign-in to an account: `Use.after_failure`."""

        def work(conn: AnyTransaction) -> None:
            known = find(conn, account.name)
            if known is None:
                return
            was_locked, use = known.use.is_locked(now), known.use.after_failure(now, lock_after)
            _keep_use(conn, account.name, use)
            if was_locked:  # further attempts must not fill the record
                return
            self._record(conn, AccountEvent(AccountEvent.REFUSED, now, account.name, account.name, address))
            if use.locked_until is not None and use.is_locked(now):
                locked = AccountEvent(
                    AccountEvent.LOCKED, now, "", account.name, address, until=use.locked_until, failures=lock_after
                )
                self._record(conn, locked)

        self._try(work)

    def record_unknown_name(self, address: str, left_out: int) -> None:
        """Record an attempt with an unknown name, and that `left_out` others before it have no record."""
        event = AccountEvent(AccountEvent.REFUSED, time.time(), "", address=address, left_out=left_out)
        self._try(lambda conn: self._record(conn, event))

    def _try(self, work: Callable[[AnyTransaction], object]) -> None:
        try:
            self._store.write(work)
        except EdgeError as error:
            log.error("a sign-in could not be recorded: %s", error)


# -- in the caller's transaction ---------------------------------------------------------------------------------------


def find(conn: AnyTransaction, name: str) -> Account | None:
    """Find an account by its exact name."""
    row = stored.find_row(conn, name)
    return _account(row) if row else None


def every(conn: AnyTransaction) -> list[Account]:
    """List the accounts by name."""
    return [_account(row) for row in stored.list_rows(conn)]


def put(conn: AnyTransaction, record: EventRecorder, account: Account, who: str, now: float, what: str = "") -> None:
    """Do as Accounts.put."""
    columns = {key: getattr(account, key) for key in ("name", "password", "changed_at", "expires_at")}
    stored.put_row(conn, {**columns, "role": account.role.name.lower(), "disabled": int(account.disabled)})
    change = what or account.summary()
    record(conn, AccountEvent(AccountEvent.CHANGED, now, who, account.name, change=change))


def remove(conn: AnyTransaction, record: EventRecorder, name: str, who: str, now: float) -> int:
    """Do as Accounts.remove."""
    count = stored.remove_row(conn, name)
    if count:
        record(conn, AccountEvent(AccountEvent.CHANGED, now, who, name, change="removed"))
    return count


def _keep_use(conn: AnyTransaction, name: str, use: Use) -> None:
    """Store the use of an account; nothing for a user without one, named by a proxy."""
    stored.keep_use(conn, {**asdict(use), "name": name, "failed_at": json.dumps(use.failed_at)})


def _account(row: Sequence[Any]) -> Account:
    name, role, password, changed_at, disabled, expires_at, at, address, failures, failed_at, locked_until = row
    use = Use(at, address, failures, tuple(json.loads(failed_at)), locked_until)
    return Account(name, UserRole[role.upper()], password, changed_at, bool(disabled), expires_at, use)


# -- names and days ----------------------------------------------------------------------------------------------------


def parse_name(name: str) -> str:
    """Parse the name of an account. Raises AccountError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise AccountError(f"a name has 1 to {MAX_NAME} printable characters")
    return name


def end_of_day(text: str) -> float | None:
    """Return the end of a day such as 2026-12-31, local time; "" or "never": None. Raises AccountError."""
    if text in ("", "never"):
        return None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=1), datetime.min.time()).timestamp()
    except (ValueError, OverflowError):
        raise AccountError('expected a last day such as "2027-12-31", or "never"') from None


def last_day(expires_at: float | None) -> str:
    """Return the day of which `end_of_day` gives the end."""
    return "never" if expires_at is None else local_day(expires_at - 1)
