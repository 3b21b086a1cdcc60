"""The rows of the table, in its order."""

from __future__ import annotations

from tests.bench.row import Row
from tests.bench.rows import (
    asking,
    copies,
    growth,
    inward,
    messages,
    outward,
    overwan,
    pages,
    resources,
    retrieving,
    smallest,
    web,
)

ROWS: tuple[Row, ...] = (
    *inward.ROWS,
    *web.ROWS,
    *outward.ROWS,
    *copies.ROWS,
    *messages.ROWS,
    *overwan.ROWS,
    *resources.ROWS,
    *smallest.ROWS,
    *growth.ROWS,
    *asking.ROWS,
    *retrieving.ROWS,
    *pages.ROWS,
)
