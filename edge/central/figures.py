"""Figures of the sites' equipment and of the time to proof: each sender now, and against four weeks ago."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edge.central.config import CentralConfig
from edge.store.central import figures, sites
from edge.store.central.figures import FIGURE_DAY
from edge.store.engine import EngineTransaction, Row
from edge.text import printable

TREND_DAYS = 28
_SHARES = (
    *("patient_id_share", "accession_share", "description_share", "referring_physician_share"),
    *("lossy_share", "private_share", "slow_share"),
)
_Found = tuple[Sequence[Row], Sequence[Row], Sequence[Row]]


def read_figures(conn: EngineTransaction, now: float) -> _Found:
    """The sites, and their figures of today or yesterday and of four weeks before."""
    today = int(now // FIGURE_DAY)
    recent = figures.list_figures(conn, [today - 1, today])
    return sites.list_names(conn), recent, figures.list_figures(conn, [today - TREND_DAYS - 1, today - TREND_DAYS])


def list_senders(found: _Found, config: CentralConfig, _now: float) -> list[dict[str, Any]]:
    """A row for each sender of each site, those without Patient IDs first."""
    known, recent, before = found
    names = config.names_of(known)
    past = {(row["site"], row["ae_title"]): json.loads(row["figures"]) for row in before}
    latest = {(row["site"], row["ae_title"]): json.loads(row["figures"]) for row in recent}
    answer = [
        _row(site, names.get(site, ""), each, past.get((site, title), {})) for (site, title), each in latest.items()
    ]
    return sorted(answer, key=lambda each: (each["patient_id_share"] or 0.0, each["site"], each["ae_title"]))


def _row(site: str, name: str, now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {
        "site": site,
        "name": name,
        "ae_title": printable(now["ae_title"]),
        "objects": now["objects"],
        **{share: now.get(share) for share in _SHARES},
        "patient_id_share_before": before.get("patient_id_share"),
        "slow_share_before": before.get("slow_share"),
        "proof_median_seconds": now.get("proof_median_seconds"),
        "dose_missing": now.get("dose_missing"),
        "asks_worklist": now.get("asks_worklist"),
    }
