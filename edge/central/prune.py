"""Old rows go: minutes after days, hours after 13 months; days, incidents, outages and the ledgers' heads stay.

Site by site, a transaction each: heartbeats never wait for it.
"""

from __future__ import annotations

from functools import partial

from edge.store.central import figures, history, maintenance, sites
from edge.store.engine import EngineStore, EngineTransaction, Row


async def prune_sites(store: EngineStore, now: float) -> None:
    """Remove what is old."""

    def work(conn: EngineTransaction, site: Row) -> None:
        history.prune_site(conn, site["id"], now)
        figures.prune_figures(conn, site["id"], now)
        sites.prune_numbers(conn, site["id"], site["number"])

    await store.write(lambda conn: maintenance.prune(conn, now))
    for each in await store.read(sites.list_names):
        await store.write(partial(work, site=each))
