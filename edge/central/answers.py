"""Answers that take long at many sites are kept for a while, and made again before they are asked for.

An answer that is made in MADE_QUICKLY_SECONDS is never kept: at a small fleet every page is of this moment. A slower
one is shown for up to SHOWN_SECONDS; the page says when it was made.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

#: What is made within this time is made each time.
MADE_QUICKLY_SECONDS = 0.1
SHOWN_SECONDS = 900.0
#: A kept answer is made again when it is this old.
REFRESH_SECONDS = 300.0

#: Makes one answer.
_Make = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class KeptAnswer:
    """An answer; `basis` is what it depends on besides the database, such as the configuration."""

    value: Any
    at: float
    seconds: float
    basis: object


class KeptAnswers:
    """Answers by name. Used on the loop alone."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptAnswer] = {}
        self._makers: dict[str, tuple[_Make, Callable[[], object]]] = {}

    def add(self, name: str, make: _Make, basis: Callable[[], object] = lambda: None) -> None:
        """Name an answer."""
        self._makers[name] = make, basis

    async def get(self, name: str) -> Any:
        """The answer: the kept one where that is good enough."""
        kept = self._kept.get(name)
        if kept is not None and self._is_good(name, kept, SHOWN_SECONDS):
            return kept.value
        return await self._make(name)

    def age(self, name: str) -> float:
        """How old the kept answer is, in seconds; 0 where none is kept."""
        kept = self._kept.get(name)
        return time.monotonic() - kept.at if kept is not None and kept.seconds > MADE_QUICKLY_SECONDS else 0.0

    async def refresh(self) -> None:
        """Make again what gets old; each once at first, so that it is known which are slow."""
        for name in self._makers:
            kept = self._kept.get(name)
            if kept is None or (kept.seconds > MADE_QUICKLY_SECONDS and not self._is_good(name, kept, REFRESH_SECONDS)):
                await self._make(name)

    def _is_good(self, name: str, kept: KeptAnswer, most_seconds: float) -> bool:
        fresh = time.monotonic() - kept.at <= most_seconds
        return kept.seconds > MADE_QUICKLY_SECONDS and fresh and kept.basis is self._makers[name][1]()

    async def _make(self, name: str) -> Any:
        make, basis = self._makers[name]
        begun, known = time.monotonic(), basis()
        value = await make()
        seconds = time.monotonic() - begun
        self._kept[name] = KeptAnswer(value if seconds > MADE_QUICKLY_SECONDS else None, begun, seconds, known)
        return value
