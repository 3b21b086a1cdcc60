"""The sessions of signed-in browsers. A session is a random token in a cookie; only the token's hash is kept here.

Sessions are in memory: a restart ends them. A session ends after a time without use, and after LIFE_SECONDS in any
case; an account has a limited number, and one more ends the one that was unused for the longest. The CSRF token is
derived from the session's token, so that a form can only come from a page that this browser received, also before
sign-in.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: ASD STIG APSC-DV-000070 and APSC-DV-000080; configurable.
SESSION_IDLE_SECONDS, ADMIN_SESSION_IDLE_SECONDS = 15 * 60.0, 10 * 60.0
LIFE_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000
#: Of one account. (APSC-DV-000010)
MAX_OF_ACCOUNT = 3


@dataclass(slots=True)
class BrowserSession:
    """One signed-in browser."""

    name: str
    began: float
    idle: float = SESSION_IDLE_SECONDS  # seconds without use that end it
    vouched: bool = False  # a trusted proxy named the user; no password was required
    acknowledged: bool = True  # the banner, where there is one
    seen: float = 0.0  # its last use; `began` at first
    kept: dict[str, Any] = field(default_factory=dict)  # such as a search, which must not be part of a URL

    def has_ended(self, now: float) -> bool:
        """Check whether it has ended; a clock that was set back ends it, too."""
        return abs(now - self.seen) > self.idle or abs(now - self.began) > LIFE_SECONDS


class Sessions:
    """All sessions, of which one account may have `of_account`. Thread-safe."""

    def __init__(self, of_account: int = MAX_OF_ACCOUNT) -> None:
        self._of_account = of_account
        self._all: dict[bytes, BrowserSession] = {}
        self._lock = threading.Lock()

    def begin(self, session: BrowserSession) -> str:
        """Begin a session. Returns its token."""
        token, session.seen = new_token(), session.began
        with self._lock:
            for key in [key for key, each in self._all.items() if each.has_ended(session.began)]:
                del self._all[key]
            self._make_room(lambda each: each.name == session.name, self._of_account)
            self._make_room(lambda _: True, MAX_SESSIONS)
            self._all[_key(token)] = session
        return token

    def _make_room(self, counts: Callable[[BrowserSession], bool], most: int) -> None:
        """End the sessions that were unused for the longest until there is room for one more."""
        found = sorted((key for key, each in self._all.items() if counts(each)), key=lambda key: self._all[key].seen)
        for key in found[: max(0, len(found) - most + 1)]:
            del self._all[key]

    def find(self, token: str, now: float) -> BrowserSession | None:
        """Find the session of a token, if it has not ended."""
        session = self._all.get(_key(token))
        return None if session is None or session.has_ended(now) else session

    def end(self, token: str) -> None:
        """End the session of a token."""
        with self._lock:
            self._all.pop(_key(token), None)


def new_token() -> str:
    return secrets.token_urlsafe(32)


def csrf_of(token: str) -> str:
    """Return the CSRF token for forms on pages for the browser with this token."""
    return hashlib.sha256(b"csrf:" + token.encode("utf-8", "replace")).hexdigest()


def is_csrf_of(token: str, given: str) -> bool:
    """Check a CSRF token that a request contains: any text."""
    return hmac.compare_digest(csrf_of(token).encode(), given.encode("utf-8", "replace"))


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
