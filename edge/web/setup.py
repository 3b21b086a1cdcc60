"""The one-time link by which the first account is made: there is no default password. It ends after an hour."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable

from edge.web.accounts import Account, Accounts

#: A link works for this long; the start and the setup command make another.
LINK_SECONDS = 3600.0


class Setup:
    """Holds until there is an account."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts, self._clock = accounts, clock
        self._lock = threading.Lock()
        self._renew()

    @property
    def needed(self) -> bool:
        """There is no account yet."""
        return not any(True for _ in self._accounts.all())

    def link(self, base: str) -> str | None:
        """Where the first account is made, for an hour or what is left of it; None once there is one."""
        with self._lock:
            if self._clock() - self._made > LINK_SECONDS / 2:
                self._renew()
            return f"{base}/setup?token={self._token}" if self.needed else None

    def fits(self, token: str) -> bool:
        """Does the link work now?"""
        right = hmac.compare_digest(self._token.encode(), token.encode("utf-8", "replace"))
        return right and self._clock() - self._made <= LINK_SECONDS and self.needed

    def spend(self, token: str, account: Account) -> bool:
        """Make the first account, once: the second who uses the same link finds it spent."""
        with self._lock:
            if not self.fits(token):
                return False
            self._accounts.put(account, account.name)
            self._renew()
            return True

    def _renew(self) -> None:
        self._token, self._made = secrets.token_urlsafe(24), self._clock()
