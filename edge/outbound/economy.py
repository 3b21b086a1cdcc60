"""The decision whether compression pays on a line. Pure arithmetic of measurements.

Bytes that are not sent save the time of the line; to encode and check them takes time of a processor. While objects
wait, the slower of the two decides how long the queue takes: so compression pays as long as the encoders keep ahead of
the line. It is on until enough was measured to say otherwise.
"""

from __future__ import annotations

import threading

from edge.text import MIB

#: Nothing is decided before this much was encoded.
MEASURED_BYTES = 512 * MIB
#: The line must be this much faster, or slower, than the encoders, so that the decision does not waver.
FASTER, SLOWER = 1.3, 0.8


class CompressionEconomy:
    """See the module's docstring. Thread-safe."""

    def __init__(self, encoders: int) -> None:
        """`encoders`: how many objects are encoded at once."""
        self._encoders = encoders
        self._lock = threading.Lock()
        self._bytes, self._seconds = 0, 0.0
        self._pays = True

    def note_encoded(self, octets: int, seconds: float) -> None:
        """Count an object of these bytes that was encoded and checked, in this time."""
        with self._lock:
            self._bytes += octets
            self._seconds += seconds

    @property
    def bytes_per_second(self) -> float | None:
        """What all encoders together encode; None: not measured."""
        with self._lock:
            if self._bytes < MEASURED_BYTES or self._seconds <= 0:
                return None
            return self._encoders * self._bytes / self._seconds

    @property
    def outpaced_at(self) -> float | None:
        """What the encoders make, in bytes a second, where the line is faster; None: compression pays."""
        return None if self._pays else self.bytes_per_second

    def pays(self, line_bytes_per_second: float | None) -> bool:
        """Whether to compress what goes next over a line of this speed (None: not measured)."""
        encoders = self.bytes_per_second
        if encoders is None or line_bytes_per_second is None:
            return True
        limit = FASTER if self._pays else SLOWER
        self._pays = line_bytes_per_second < encoders * limit
        return self._pays
