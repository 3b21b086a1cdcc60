"""Accounts: who may sign in, as what, until when; and when an account is locked against guessing.

Decisions are pure: an `Account` and its `Use` are facts, kept by the application (`Accounts`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import Protocol

from edge.errors import Permanent

MAX_NAME = 128
#: So many failures in a row lock an account, where they come within this time; for so long. (ASD STIG APSC-DV-000530)
LOCK_AFTER = 3
FAILURE_SECONDS = LOCK_SECONDS = 900.0


class AccountError(Permanent):
    """The account cannot be made or changed so; the text says why and what to do."""


class Role(IntEnum):
    """What a person may do; each may do what those before it may."""

    VIEWER = 0  # sees how the gateway is, and nobody's name
    OPERATOR = 1  # sees patient data, and decides about what is held
    ADMIN = 2  # accounts, too


@dataclass(frozen=True, slots=True)
class Use:
    """How an account has been used: shown at sign-in, and decides whether it is locked. Times: seconds since 1970."""

    signed_in_at: float | None = None
    signed_in_from: str = ""  # the address
    failures: int = 0  # since then
    failed_at: tuple[float, ...] = ()  # the latest failures in a row, as far as they may lock it
    locked_until: float | None = None

    def is_locked(self, now: float) -> bool:
        """A lock never lasts longer than LOCK_SECONDS, whatever the clock has done meanwhile."""
        return self.locked_until is not None and 0 < self.locked_until - now <= LOCK_SECONDS

    def after_failure(self, now: float, lock_after: int) -> Use:
        """One failure more. A locked account stays locked no longer for it: nobody can keep somebody out for good."""
        counted = replace(self, failures=self.failures + 1)
        if self.is_locked(now):
            return counted
        recent = (*(at for at in self.failed_at if abs(now - at) < FAILURE_SECONDS), now)
        if len(recent) >= lock_after:
            return replace(counted, failed_at=(), locked_until=now + LOCK_SECONDS)
        return replace(counted, failed_at=recent, locked_until=None)


@dataclass(frozen=True, slots=True)
class Account:
    """One person. Who has no `password` comes through a trusted proxy that vouches for the name."""

    name: str
    role: Role
    password: str  # as edge.web.passwords.hashed gives it
    changed_at: float  # sessions that began before have ended
    disabled: bool = False
    expires_at: float | None = None
    use: Use = field(default=Use())

    def is_active(self, now: float) -> bool:
        """Neither disabled nor expired; what is not ends every session at once."""
        return not self.disabled and (self.expires_at is None or now < self.expires_at)

    def may_sign_in(self, now: float) -> bool:
        return self.is_active(now) and not self.use.is_locked(now)

    def state(self, now: float) -> str:
        """A code: active, disabled, expired or locked."""
        if self.disabled:
            return "disabled"
        if not self.is_active(now):
            return "expired"
        return "locked" if self.use.is_locked(now) else "active"

    def described(self) -> str:
        """What it is, for the record of a change."""
        until = f", until {last_day(self.expires_at)}" if self.expires_at is not None else ""
        return f"{self.role.name.lower()}{', disabled' if self.disabled else ''}{until}"


class Accounts(Protocol):
    """Where accounts lie. Changes raise EdgeError where they cannot be made durable."""

    def find(self, name: str) -> Account | None:
        """One account, by its exact name."""

    def all(self) -> Iterable[Account]:
        """Every account, by name."""

    def put(self, account: Account, who: str, what: str = "") -> None:
        """Add or replace one, but for its use; that also unlocks it. `who` did `what` (omitted: how it is now)."""

    def remove(self, name: str, who: str) -> int:
        """Take one away. Returns how many there were."""

    def record_sign_in(self, name: str, address: str, now: float) -> None:
        """Somebody has signed in. Must not raise."""

    def record_sign_out(self, name: str, address: str) -> None:
        """Somebody has signed out. Must not raise."""

    def record_failure(self, account: Account, address: str, now: float, lock_after: int) -> None:
        """Somebody did not sign in to a known account: `Use.after_failure`, on record. Must not raise."""

    def record_unknown_name(self, address: str, left_out: int) -> None:
        """Somebody tried a name that is no account's; as did `left_out` others that have no row. Must not raise."""


def checked_name(name: str) -> str:
    """A name that can be an account's. Raises AccountError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise AccountError(f"a name has 1 to {MAX_NAME} characters that can be seen")
    return name


def end_of_day(text: str) -> float | None:
    """The end of a day such as 2026-12-31, local time; "" or "never": None. Raises AccountError."""
    if text in ("", "never"):
        return None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=1), datetime.min.time()).timestamp()
    except (ValueError, OverflowError):
        raise AccountError('expected a last day such as "2027-12-31", or "never"') from None


def last_day(expires_at: float | None) -> str:
    """The inverse of `end_of_day`."""
    return "never" if expires_at is None else time.strftime("%Y-%m-%d", time.localtime(expires_at - 1))
