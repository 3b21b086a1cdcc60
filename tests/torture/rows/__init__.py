"""The rows of the scorecard, in its order."""

from __future__ import annotations

from tests.torture.row import Row
from tests.torture.rows import intruders, kill, points, power, storage

ROWS: tuple[Row, ...] = (*kill.ROWS, *points.ROWS, *power.ROWS, *storage.ROWS, *intruders.ROWS)
