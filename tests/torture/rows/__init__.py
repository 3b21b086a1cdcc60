"""The rows of the scorecard, in its order."""

from __future__ import annotations

from tests.torture.row import Row
from tests.torture.rows import kill, power

ROWS: tuple[Row, ...] = (*kill.ROWS, *power.ROWS)
