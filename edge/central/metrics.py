"""The centre's own figures for Prometheus, to the addresses of [central] metrics. No PHI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from edge.central import fleet
from edge.central.config import CentralConfig
from edge.monitor.exposition import METRICS_TYPE, Family, expose, process_families
from edge.network.shares import is_within
from edge.store import outbox
from edge.store.central import incidents
from edge.store.engine import EngineStore, EngineTransaction


class MetricsEndpoint:
    """GET /metrics."""

    def __init__(
        self,
        store: EngineStore,
        config: Callable[[], CentralConfig],
        trouble: Callable[[], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._store, self._config, self._trouble, self._clock = store, config, trouble, clock

    async def page(self, request: Request) -> Response:
        """Refused with 403 for addresses that are not named."""
        caller = request.client.host if request.client else ""
        if not is_within(caller, self._config().central.metrics):
            return PlainTextResponse("Not for this address: see [central] metrics.\n", 403)
        now, config = self._clock(), self._config()

        def read(conn: EngineTransaction) -> list[Family]:
            found = fleet.standings(conn, config, now)
            open_now = incidents.listing(conn, limit=100_000)
            channels = outbox.backlogs(conn)
            return [
                *_site_families(found),
                _incidents(Counter(row["severity"] for row in open_now)),
                Family(
                    "edge_central_outbox_messages",
                    "gauge",
                    "Messages that a channel has not taken; parked ones are refused permanently.",
                    [({"channel": name, "state": "waiting"}, each.count) for name, each in channels.items()]
                    + [({"channel": name, "state": "parked"}, each.parked) for name, each in channels.items()],
                ),
            ]

        families = await self._store.read(read)
        is_up = Family(
            "edge_central_writable", "gauge", "1 while heartbeats are recorded.", [({}, not self._trouble())]
        )
        return Response(expose([is_up, *families, *process_families()]), media_type=METRICS_TYPE)


def _site_families(found: Iterable[fleet.SiteStanding]) -> list[Family]:
    listed = list(found)
    words = {"bad": "critical", "warn": "warning", "idle": "unknown", "good": "well"}
    count = Counter(words[each.level] for each in listed)
    named = [({"site": each.id}, each) for each in listed]

    def table(name: str, text: str, value: Callable[[fleet.SiteStanding], float | None]) -> Family:
        return Family(f"edge_central_site_{name}", "gauge", text, [(labels, value(each)) for labels, each in named])

    return [
        Family(
            "edge_central_sites",
            "gauge",
            "Sites by state.",
            [({"state": each}, count[each]) for each in words.values()],
        ),
        table("up", "1 while the site is not silent and has no critical alert.", lambda each: each.level != fleet.BAD),
        table(
            "last_heartbeat_timestamp_seconds",
            "When the site was last heard, in seconds since 1970.",
            lambda each: each.heard_at,
        ),
        table("storage_used_ratio", "Used part of the site's disk, 0 to 1.", lambda each: each.used_fraction),
        table("backlog_instances", "Instances that the site has still to send.", lambda each: each.backlog),
        Family(
            "edge_central_site_info",
            "gauge",
            "Version, provider and region of a site; always 1.",
            [
                ({"site": each.id, "version": each.version, "provider": each.provider, "region": each.region}, 1)
                for each in listed
            ],
        ),
    ]


def _incidents(count: Mapping[str, int]) -> Family:
    samples = [({"severity": each}, count.get(each, 0)) for each in ("critical", "major", "minor")]
    return Family("edge_central_incidents", "gauge", "Open incidents.", samples)
