"""The rows of the scorecard, in its order."""

from __future__ import annotations

from tests.torture.row import Row
from tests.torture.rows import intruders, kill, line, points, power, rubbish, storage

ROWS: tuple[Row, ...] = (*kill.ROWS, *points.ROWS, *power.ROWS, *storage.ROWS, *line.ROWS, *intruders.ROWS, *rubbish.ROWS)
