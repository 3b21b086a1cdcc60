"""The one-time link that creates the first account: there is no default password. It expires after an hour."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable

from edge.web.accounts import Account, Accounts

#: A link is valid for this time; the start and the setup command create another.
LINK_SECONDS = 3600.0


class Setup:
    """The setup link, as long as there is no account."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts, self._clock = accounts, clock
        self._lock = threading.Lock()
        self._renew()

    def is_needed(self) -> bool:
        """Check that there is no account yet."""
        return not self._accounts.all()

    def link(self, base: str) -> str | None:
        """Return the URL that creates the first account, valid for 30 to 60 minutes; None once there is an account."""
        with self._lock:
            if self._clock() - self._made > LINK_SECONDS / 2:
                self._renew()
            return f"{base}/setup?token={self._token}" if self.is_needed() else None

    def is_valid(self, token: str) -> bool:
        """Check that the link is valid now."""
        right = hmac.compare_digest(self._token.encode(), token.encode("utf-8", "replace"))
        return right and self._clock() - self._made <= LINK_SECONDS and self.is_needed()

    def spend(self, token: str, account: Account) -> bool:
        """Create the first account. Returns False if the link is no longer valid, as after its first use."""
        with self._lock:
            if not self.is_valid(token):
                return False
            self._accounts.put(account, account.name)
            self._renew()
            return True

    def _renew(self) -> None:
        self._token, self._made = secrets.token_urlsafe(24), self._clock()
