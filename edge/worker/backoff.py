"""The wait before the next attempt. Pure: chance is an argument."""

from __future__ import annotations


def backoff(tries: int, first: float, longest: float, chance: float) -> float:
    """Seconds to wait after the `tries`-th try in a row: doubled each time, and spread by `chance` in [0, 1)."""
    return float(min(longest, first * 2 ** min(tries - 1, 16)) * (0.8 + 0.4 * chance))
