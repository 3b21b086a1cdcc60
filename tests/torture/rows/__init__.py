"""The rows of the scorecard, in its order."""

from __future__ import annotations

from tests.torture.row import Row
from tests.torture.rows import (
    asking,
    commitment,
    crowd,
    fuzz,
    hl7,
    kill,
    line,
    nonsense,
    points,
    power,
    rot,
    rubbish,
    services,
    siege,
    storage,
    suite,
    through,
    web,
    web_siege,
)

ROWS: tuple[Row, ...] = (
    *kill.ROWS,
    *web.ROWS,
    *web_siege.ROWS,
    *commitment.ROWS,
    *services.ROWS,
    *hl7.ROWS,
    *points.ROWS,
    *power.ROWS,
    *storage.ROWS,
    *rot.ROWS,
    *line.ROWS,
    *suite.ROWS,
    *fuzz.ROWS,
    *siege.ROWS,
    *crowd.ROWS,
    *asking.ROWS,
    *through.ROWS,
    *nonsense.ROWS,
    *rubbish.ROWS,
)

#: Rows of many short lives, each of which waits as often as it works: a few may be played side by side.
LIVES: tuple[Row, ...] = tuple(row for row in ROWS if isinstance(row, points.Points))
#: Rows that mostly wait, for timeouts and for the other side: they may be played side by side.
PATIENT: tuple[Row, ...] = tuple(row for row in ROWS if isinstance(row, siege.Siege | line.BadLine | line.MoodyPeer))
