"""Who is signed in. A session is a random token in a cookie; kept here is only the token's hash.

Sessions are in memory: a restart ends them all. Each ends after a time without use, and after a working day whatever is
done. The CSRF token is derived from the session's token, so that a form can only come from a page that we have shown
to the same browser; it works before sign-in too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

IDLE_SECONDS = 30 * 60.0
LIFE_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000


@dataclass(slots=True)
class Session:
    """One signed-in browser."""

    name: str
    began: float
    seen: float
    vouched: bool = False  # a trusted proxy named the person; no password was asked
    kept: dict[str, Any] = field(default_factory=dict)  # such as a search: it never stands in an address

    def ended(self, now: float) -> bool:
        return now - self.seen > IDLE_SECONDS or now - self.began > LIFE_SECONDS


class Sessions:
    """All sessions. Thread-safe."""

    def __init__(self) -> None:
        self._all: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, now: float, *, vouched: bool = False) -> tuple[str, Session]:
        """A new session and its token."""
        token, session = new_token(), Session(name, now, now, vouched)
        with self._lock:
            for key in [key for key, each in self._all.items() if each.ended(now)]:
                del self._all[key]
            while len(self._all) >= MAX_SESSIONS:
                del self._all[min(self._all, key=lambda key: self._all[key].seen)]
            self._all[_key(token)] = session
        return token, session

    def find(self, token: str, now: float) -> Session | None:
        """The session of a token, if it has not ended."""
        session = self._all.get(_key(token))
        if session is None or session.ended(now):
            return None
        return session

    def end(self, token: str) -> None:
        """Sign out."""
        with self._lock:
            self._all.pop(_key(token), None)


def new_token() -> str:
    return secrets.token_urlsafe(32)


def csrf_of(token: str) -> str:
    """What a form must carry to come from a page that was shown to the browser with this token."""
    return hashlib.sha256(b"csrf:" + token.encode()).hexdigest()


def csrf_fits(token: str, given: str) -> bool:
    return hmac.compare_digest(csrf_of(token), given)


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
