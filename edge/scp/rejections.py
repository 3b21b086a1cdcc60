"""Rejected callers, with place and reason: logged at once, then counted, so that a flood fills neither log nor disk.

`refused` may be called from any thread and as often as it pleases. The same refusal is logged once in WINDOW_SECONDS,
and how often it came when they are over. Different ones are kept apart up to a share of each caller and of all
(edge.network.shares); what is beyond is one.
`take` gives what was logged since, for the audit trail.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.network.shares import DISTINCT_REFUSALS, MINUTE_SECONDS, Full, caller_of, limit_met

log = logging.getLogger(__name__)

WINDOW_SECONDS = MINUTE_SECONDS

_NUMBER = re.compile(r"0x[0-9A-F]+|\d+")
#: For those beyond what is kept apart: of one caller, and of all.
_SEVERAL = "many different refusals of one caller"
_MANY = ("", "", "many different callers at once, as in a port scan")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Some equal refusals. Address and title are as they came: who shows them makes them printable."""

    address: str  # empty: several
    calling_ae: str  # empty: it had not said it yet
    why: str
    times: int
    first: float  # seconds since 1970
    last: float


@dataclass(slots=True)
class _Window:
    why: str
    first: float
    last: float
    times: int = 1
    reported: int = 0


class Refusals:
    """See the module's promise."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self.total = 0  # since the start

    def note_refused(self, address: str, calling_ae: str, why: str) -> None:
        """Note that a caller was refused: a connection, an association, or the rest of one. No PHI in `why`."""
        now = self._clock()
        key = (address, calling_ae, _NUMBER.sub("#", why))  # a false length differs each time
        with self._lock:
            self.total += 1
            if key not in self._windows:
                key = self._within_share(key)
                why = why if key[1:] != ("", _SEVERAL) and key != _MANY else key[2]
            window = self._windows.get(key)
            if window is not None:
                window.last, window.times = now, window.times + 1
                return
            self._windows[key] = _Window(why, now, now)
        _log_refusal(Refusal(key[0], key[1], why, 1, now, now))

    def _within_share(self, key: tuple[str, str, str]) -> tuple[str, str, str]:
        """The key of a new refusal, or that of those which are counted together."""
        caller = caller_of(key[0])
        theirs = sum(caller_of(address) == caller for address, _, _ in self._windows)
        full = limit_met(DISTINCT_REFUSALS, theirs, len(self._windows), 1, 1.0)
        if full is None:
            return key
        return (caller, "", _SEVERAL) if full is Full.EACH else _MANY

    def take(self) -> list[Refusal]:
        """What is new since the last call: first refusals, and how many more there were in windows that are over."""
        now = self._clock()
        with self._lock:
            found = [_news(key, window) for key, window in self._windows.items() if _is_news(window, now)]
            for window in self._windows.values():
                window.reported = window.reported or 1
            self._windows = {key: each for key, each in self._windows.items() if not _is_over(each, now)}
        for refusal in found:
            if refusal.times > 1:
                _log_refusal(refusal)
        return found


def _is_over(window: _Window, now: float) -> bool:
    return not 0 <= now - window.first < WINDOW_SECONDS


def _is_news(window: _Window, now: float) -> bool:
    return window.reported == 0 or (_is_over(window, now) and window.times > window.reported)


def _news(key: tuple[str, str, str], window: _Window) -> Refusal:
    """The first one alone; or, once it has been reported, those that followed."""
    if window.reported:
        return Refusal(key[0], key[1], window.why, window.times - window.reported, window.first, window.last)
    return Refusal(key[0], key[1], window.why, 1, window.first, window.first)


def _log_refusal(refusal: Refusal) -> None:
    who = f"{refusal.calling_ae!r} at " if refusal.calling_ae else ""
    where = repr(refusal.address)[1:-1] if refusal.address else "several addresses"
    again = f", {refusal.times} times more" if refusal.times > 1 else ""
    log.warning("refused: %s%s%s: %s", who, where, again, refusal.why)
