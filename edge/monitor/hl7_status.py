"""HL7 and identity in the status: what came, what waits, how feeds and relays stand, and the two figures."""

from __future__ import annotations

from typing import Any

from edge.config.sections import Config
from edge.monitor.snapshot_model import FeedStatus, Hl7Status
from edge.monitor.usual_hours import GONE_DAYS, WEEKS, YEAR_DAYS, days_of, usual
from edge.store import hl7_messages, identity_findings, relays
from edge.store.database import Transaction
from edge.store.hl7_messages import ALL_RECEIVED, DUPLICATE, FeedCounts, MessageState
from edge.store.identity_figures import IdentityFigures
from edge.store.samples import DAY
from edge.text import iso_or_none


def read_hl7_status(conn: Transaction, config: Config, margin: float, now: float) -> Hl7Status:
    """Read everything about HL7. `margin`: seconds by which a feed may be later than usual."""
    counts = hl7_messages.count_by_feed(conn)

    def total(*names: str) -> int:
        return sum(each.counts.get(name, 0) for each in counts for name in names)

    return Hl7Status(
        total(ALL_RECEIVED),
        total(MessageState.APPLIED.value, MessageState.UNCHANGED.value),
        total(DUPLICATE),
        total(MessageState.REFUSED.value),
        hl7_messages.summarize_parked(conn),
        tuple(_feed(conn, config, each, margin, now) for each in counts if each.feed in config.feeds),
        tuple(relays.list_backlogs(conn)),
        tuple(identity_findings.list_open(conn)),
    )


def _feed(conn: Transaction, config: Config, counts: FeedCounts, margin: float, now: float) -> FeedStatus:
    back = YEAR_DAYS if config.calendar.holidays else WEEKS * 7 + GONE_DAYS + 1
    hours = hl7_messages.list_hours(conn, counts.feed, now - back * DAY)
    known = usual(config.calendar, days_of(config.calendar, hours), counts.last_at, now, margin)
    return FeedStatus(counts.feed, counts.counts.get(ALL_RECEIVED, 0), counts.last_at, known.text, known.missed_at)


def hl7_json(seen: Hl7Status) -> dict[str, Any]:
    """The part of `edge status --json`. Keys are added, never changed."""
    return {
        "received": seen.received,
        "applied": seen.applied,
        "parked": seen.parked.count,
        "duplicates": seen.duplicates,
        "refused": seen.refused,
        "feeds": {
            each.name: {
                "received": each.received,
                "last_received": iso_or_none(each.last_at),
                "silent": each.missed_at is not None,
            }
            for each in seen.feeds
        },
        "relays": {each.relay: {"waiting": each.waiting, "held": each.held} for each in seen.relays},
    }


def identity_json(seen: IdentityFigures) -> dict[str, Any]:
    """The two figures: null where nothing was checked in the last 30 days."""
    return {
        "matched_share": _round_share(seen.matched_share),
        "misdirected_share": _round_share(seen.misdirected_share),
        "checked_images": seen.checked_images,
        "orders_missing": seen.missing,
    }


def _round_share(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
