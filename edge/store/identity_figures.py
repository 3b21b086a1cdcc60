"""The two figures of identity, and what is open, over the checks of the last 30 days. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction

#: Studies over which the two figures are made.
FIGURE_SECONDS = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class IdentityFigures:
    """The two figures, and what is open. A share is None where nothing was checked in the last 30 days."""

    matched_share: float | None = None
    misdirected_share: float | None = None
    checked_images: int = 0
    missing: int = 0  # studies without an order for longer than [identity] orphan_after
    missing_since: float | None = None
    differing: int = 0  # studies whose patient differs from the order's, that are not held and not decided about
    differing_since: float | None = None


def read_identity_figures(conn: Transaction, now: float, orphan_after: float) -> IdentityFigures:
    """Share of images whose identity matches the order, and of studies that went, or nearly, to another patient."""
    values = {"since": now - FIGURE_SECONDS, "late": now - orphan_after}
    matched, due, studies = conn.execute(
        "SELECT coalesce(sum(CASE result WHEN 'matched' THEN max(images, 1) END), 0),"
        " coalesce(sum(CASE WHEN result <> 'no-order' OR first_at < :late THEN max(images, 1) END), 0),"
        " count(DISTINCT study_id) FROM identity_check WHERE first_at >= :since",
        values,
    ).fetchone()
    (wrong,) = conn.execute(
        "SELECT count(*) FROM (SELECT study_id FROM identity_check WHERE first_at >= :since AND has_differed UNION"
        " SELECT w.study_id FROM study_patient w WHERE w.first_at >= :since AND w.standing <> 'agrees')",
        values,
    ).fetchone()
    missing = conn.execute(
        "SELECT count(DISTINCT study_id), min(first_at) FROM identity_check"
        " WHERE result = 'no-order' AND settled_at IS NULL AND first_at < :late",
        values,
    ).fetchone()
    differing = conn.execute(
        "SELECT count(DISTINCT c.study_id), min(c.first_at) FROM identity_check c"
        " WHERE c.result = 'differs' AND c.settled_at IS NULL AND NOT EXISTS (SELECT 1 FROM instance i JOIN delivery d"
        " ON d.instance_id = i.id WHERE i.study_id = c.study_id AND d.state = 'held' AND d.reason_code = 'mismatch')"
    ).fetchone()
    return IdentityFigures(
        matched / due if due else None, wrong / studies if studies else None, due, *missing, *differing
    )
