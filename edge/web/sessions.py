"""Who is signed in. A session is a random token in a cookie; kept here is only the token's hash.

Sessions are in memory: a restart ends them all. Each ends after a time without use, and after a working day whatever is
done; an account has only so many at a time, and one more ends the one that was unused for the longest. The CSRF token
is derived from the session's token, so that a form can only come from a page that we have shown to the same browser; it
works before sign-in too.
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
IDLE_SECONDS, ADMIN_IDLE_SECONDS = 15 * 60.0, 10 * 60.0
LIFE_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000
#: Of one account. (APSC-DV-000010)
MAX_OF_ACCOUNT = 3


@dataclass(slots=True)
class Session:
    """One signed-in browser."""

    name: str
    began: float
    seen: float
    idle: float = IDLE_SECONDS  # ends after so long without use
    vouched: bool = False  # a trusted proxy named the person; no password was asked
    acknowledged: bool = True  # the banner, where there is one
    kept: dict[str, Any] = field(default_factory=dict)  # such as a search: it never stands in an address

    def ended(self, now: float) -> bool:
        """A clock that was set back ends it, too."""
        return abs(now - self.seen) > self.idle or abs(now - self.began) > LIFE_SECONDS


class Sessions:
    """All sessions. Thread-safe."""

    def __init__(self, of_account: int = MAX_OF_ACCOUNT) -> None:
        """`of_account`: how many one account may have."""
        self._of_account = of_account
        self._all: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def begin(
        self, name: str, now: float, *, idle: float = IDLE_SECONDS, vouched: bool = False, acknowledged: bool = True
    ) -> tuple[str, Session]:
        """A new session and its token."""
        token, session = new_token(), Session(name, now, now, idle, vouched, acknowledged)
        with self._lock:
            for key in [key for key, each in self._all.items() if each.ended(now)]:
                del self._all[key]
            self._make_room(lambda each: each.name == name, self._of_account)
            self._make_room(lambda _: True, MAX_SESSIONS)
            self._all[_key(token)] = session
        return token, session

    def _make_room(self, counts: Callable[[Session], bool], most: int) -> None:
        """Leave room for one more of those that count."""
        found = sorted((key for key, each in self._all.items() if counts(each)), key=lambda key: self._all[key].seen)
        for key in found[: max(0, len(found) - most + 1)]:
            del self._all[key]

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
    return hashlib.sha256(b"csrf:" + token.encode("utf-8", "replace")).hexdigest()


def csrf_fits(token: str, given: str) -> bool:
    """Whatever is given: it comes from outside."""
    return hmac.compare_digest(csrf_of(token).encode(), given.encode("utf-8", "replace"))


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
