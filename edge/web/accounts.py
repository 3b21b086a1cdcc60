"""Accounts: who may sign in, as what, and how fast a password may be guessed.

Passwords are kept as argon2id (RFC 9106) with OWASP's least parameters (19 MiB, two passes): one is computed at a time,
so that guessing costs the machine no more than that. An unknown name costs the same time as a wrong password.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from edge.errors import Permanent

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_PASSWORD, MAX_PASSWORD = 12, 256
MAX_NAME = 128
#: So many wrong passwords cost nothing; then each doubles the wait, for an account up to a minute (nobody can lock
#: somebody else out for long), for an address up to a quarter of an hour.
FREE_FAILURES = 5
ACCOUNT_SECONDS, ADDRESS_SECONDS = 60.0, 900.0
#: Accounts and addresses that are remembered.
MAX_REMEMBERED = 10_000


class AccountError(Permanent):
    """The account cannot be made or changed so; the text says why and what to do."""


class Role(IntEnum):
    """What a person may do; each may do what those before it may."""

    VIEWER = 0  # sees how the gateway is, and nobody's name
    OPERATOR = 1  # sees patient data, and decides about what is held
    ADMIN = 2  # accounts, too


@dataclass(frozen=True, slots=True)
class Account:
    """One person. Who has no `password` comes through a trusted proxy that vouches for the name."""

    name: str
    role: Role
    password: str  # as `hashed` gives it
    changed_at: float  # sessions that began before have ended


class Accounts(Protocol):
    """Where accounts lie. Changes raise EdgeError where they cannot be made durable."""

    def find(self, name: str) -> Account | None:
        """One account, by its exact name."""

    def all(self) -> Iterable[Account]:
        """Every account, by name."""

    def put(self, account: Account, who: str) -> None:
        """Add or replace one; `who` does it."""

    def remove(self, name: str, who: str) -> int:
        """Take one away. Returns how many there were."""

    def record_sign_in(self, name: str, address: str, success: bool) -> None:
        """For the audit: somebody has signed in, or was turned away. Must not raise."""


def checked_name(name: str) -> str:
    """A name that can be an account's. Raises AccountError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise AccountError(f"a name has 1 to {MAX_NAME} characters that can be seen")
    return name


def checked_password(password: str, name: str) -> str:
    """A password that is long enough and not the name. Raises AccountError."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise AccountError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; a few words make a good one")
    if password.casefold() == name.casefold() or len(set(password)) < 4:
        raise AccountError("that password is too easy to guess; a few words make a good one")
    return password


_one_at_a_time = threading.Lock()


def hashed(password: str) -> str:
    """The argon2id hash, with its parameters and salt."""
    with _one_at_a_time:
        return _hasher().hash(password)


def matches(account: Account | None, password: str) -> bool:
    """Is it the account's password? Takes as long for no account, or one without a password."""
    from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415  # loaded at the first sign-in

    known = account.password if account else ""
    with _one_at_a_time:
        try:
            _hasher().verify(known or _decoy(), password[:MAX_PASSWORD])
        except (VerificationError, InvalidHashError):
            return False
    return bool(known)


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # noqa: PLC0415

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def _decoy() -> str:
    """A hash of nothing that anybody knows, to spend the same time on."""
    return "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43


class Throttle:
    """How long a name or an address must wait before its next try. Thread-safe; in memory."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, address: str, now: float) -> float:
        """A try is about to be made. 0: go on, and it counts as failed until `succeeded`; else seconds to wait."""
        keys = {("account", name): ACCOUNT_SECONDS, ("address", address): ADDRESS_SECONDS}
        with self._lock:
            wait = max(self._left(key, most, now) for key, most in keys.items())
            if wait > 0:
                return wait
            for key in keys:
                count, _ = self._failures.pop(key, (0, 0.0))
                self._failures[key] = (count + 1, now)
            while len(self._failures) > MAX_REMEMBERED:
                self._failures.popitem(last=False)
        return 0.0

    def succeeded(self, name: str, address: str) -> None:
        """It was the right password."""
        with self._lock:
            self._failures.pop(("account", name), None)
            self._failures.pop(("address", address), None)

    def _left(self, key: tuple[str, str], most: float, now: float) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        if count < FREE_FAILURES:
            return 0.0
        return last + min(most, 2.0 ** min(count - FREE_FAILURES, 20)) - now
