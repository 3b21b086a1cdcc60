"""The one-time link of the first start, by which the first account is made: there is no default password."""

from __future__ import annotations

import hmac
import secrets
import threading

from edge.web.accounts import Account, Accounts


class Setup:
    """Holds until there is an account; another start makes another link."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._token = secrets.token_urlsafe(24)
        self._lock = threading.Lock()

    @property
    def needed(self) -> bool:
        """There is no account yet."""
        return not any(True for _ in self._accounts.all())

    def link(self, base: str) -> str | None:
        """Where the first account is made; None once there is one."""
        return f"{base}/setup?token={self._token}" if self.needed else None

    def fits(self, token: str) -> bool:
        return hmac.compare_digest(self._token.encode(), token.encode()) and self.needed

    def spend(self, token: str, account: Account) -> bool:
        """Make the first account, once: whoever comes second with the same link finds it spent."""
        with self._lock:
            if not self.fits(token):
                return False
            self._accounts.put(account, account.name)
            self._token = secrets.token_urlsafe(24)
            return True
