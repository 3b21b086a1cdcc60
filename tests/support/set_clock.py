"""A clock of a gateway's own, which a test sets while the gateway runs; what has passed is counted as ever.

The times of files stay real, and so does what a certificate's validity is judged by.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.support.peers import REPOSITORY


class SetClock:
    """Give `environment` to the process that is to have it."""

    def __init__(self, file: Path, ahead_seconds: float = 0.0) -> None:
        """`file`: where the process reads it."""
        self._file = file
        file.write_bytes(bytes(8))
        self.set_ahead(ahead_seconds)
        folder = Path(__file__).with_name("clock")
        self.environment = {"TEST_CLOCK": str(file), "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}

    def set_ahead(self, seconds: float) -> None:
        """The clock leaps: from now on it is so far ahead, or back where that is negative."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("<d", seconds))
