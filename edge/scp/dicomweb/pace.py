"""The slowest that a caller may send or read: a limit on the rate, none on the length. Pure."""

from __future__ import annotations

#: Fewer bytes in this time of waiting for the caller, and the connection ends.
PACE_BYTES, PACE_SECONDS = 64 * 1024, 30.0


class CallerPace:
    """The pace of one direction of a connection. The gateway's own time does not count."""

    def __init__(self) -> None:
        self._bytes, self._seconds = 0, 0.0

    def is_kept(self, count: int, waited_seconds: float) -> bool:
        """Note that some bytes have moved after a wait. False: the caller is too slow."""
        self._bytes, self._seconds = self._bytes + count, self._seconds + waited_seconds
        if self._seconds <= PACE_SECONDS:
            return True
        was_kept = self._bytes >= PACE_BYTES
        self._bytes, self._seconds = 0, 0.0
        return was_kept
