"""Old rows go: minutes after days, hours after 13 months; days, incidents, outages and the ledgers' heads stay.

Site by site, a transaction each: heartbeats never wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.central.intake import KEPT_NUMBERS
from edge.central.reports import DAY
from edge.central.store import Store, do, rows

#: Seconds for which the rows of each table are kept.
KEPT: Mapping[str, float] = {"history_minute": 3 * DAY, "history_hour": 400 * DAY}


def everything(store: Store, now: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Remove what is old, until told to stop."""
    with store.reading() as conn:
        sites = [(row["id"], row["number"]) for row in rows(conn, "SELECT id, number FROM site")]
    for site, number in sites:
        if stop():
            return
        with store.writing() as conn:
            for table, seconds in KEPT.items():
                do(conn, f"DELETE FROM {table} WHERE site = :site AND at < :old", site=site, old=int(now - seconds))
            do(conn, "DELETE FROM beat WHERE site = :site AND number < :old", site=site, old=number - KEPT_NUMBERS)
