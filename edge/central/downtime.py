"""A site's silence: opened by the dead-man switch, ended by what comes next, and what it turned out to be.

An outage is of cause "down" when the site itself did not run, "unreachable" when it ran and only its link was cut: its
heartbeats of that time come later, from the same run of its daemon. Its own account of a downtime is kept beside ours.
"""

from __future__ import annotations

from edge.central import incidents
from edge.central.sequence import Down, agrees
from edge.central.store import Connection, Row, do, first, value
from edge.text import from_iso, iso, span

#: Two accounts of one downtime may differ by an interval and so much (seconds).
SLACK = 30.0


def moment(told: object) -> float | None:
    """A moment of a document, or None where it has none."""
    try:
        return from_iso(told) if isinstance(told, str) else None
    except ValueError:
        return None


def begin_silence(conn: Connection, site: str, incident: int, since: float) -> None:
    """The dead-man switch: nothing came."""
    do(
        conn,
        "INSERT INTO outage (incident, site, silent_from, cause, why) VALUES (:incident, :site, :since, '', '')",
        incident=incident,
        site=site,
        since=since,
    )


def end_silence(conn: Connection, site: str, now: float) -> Row | None:
    """Something came: the site's outage ends, which is returned, and the incident with its last one.

    As far as we know yet the site ran all along.
    """
    ended = first(conn, "SELECT * FROM outage WHERE site = :site AND returned_at IS NULL", site=site)
    if ended is None:
        return None
    do(
        conn,
        "UPDATE outage SET returned_at = :now, cause = 'unreachable' WHERE id = :id",
        now=now,
        id=ended["id"],
    )
    _close_if_last(conn, ended, now)
    return ended


def _close_if_last(conn: Connection, ended: Row, now: float) -> None:
    incident = ended["incident"]
    still = value(conn, "SELECT count(*) FROM outage WHERE incident = :id AND returned_at IS NULL", id=incident)
    if not still:
        silent = span(now - ended["silent_from"])
        incidents.close(conn, incident, now, f"Heard again after {silent}.")


_AROUND = """
SELECT * FROM outage
WHERE site = :site AND silent_from <= :begin + :slack AND coalesce(returned_at, :end) >= :end - :slack
  AND (cause <> 'down' OR down_from IS NULL)
ORDER BY silent_from DESC
"""


def learn_down(conn: Connection, site: str, gone: Down, ended: Row | None, now: float) -> None:
    """Between two heartbeats the site did not run: in the silence that just ended, or another, or unseen by us."""
    seen = ended or first(conn, _AROUND, site=site, begin=gone.begin, end=gone.end, slack=SLACK)
    if seen is not None:
        do(
            conn,
            "UPDATE outage SET cause = 'down', down_from = :begin, down_to = :end WHERE id = :id",
            begin=gone.begin,
            end=gone.end,
            id=seen["id"],
        )
        _write_measure(conn, seen, gone, now)
    else:
        _insert_down(conn, site, gone)


def _write_measure(conn: Connection, seen: Row, gone: Down, now: float) -> None:
    if seen["incident"] is not None:
        text = f"{seen['site']} was down for {span(gone.seconds)}, from {iso(gone.begin)} to {iso(gone.end)}."
        incidents.note(conn, seen["incident"], now, "edge", text)


def _insert_down(conn: Connection, site: str, gone: Down) -> None:
    do(
        conn,
        """
        INSERT INTO outage (site, silent_from, returned_at, cause, down_from, down_to, why)
        VALUES (:site, :begin, :end, 'down', :begin, :end, '')
        """,
        site=site,
        begin=gone.begin,
        end=gone.end,
    )


_TOLD_SAME = "SELECT incident FROM outage WHERE site = :site AND told_from = :begin AND told_to = :end"
_OVERLAPS = """
SELECT * FROM outage
WHERE site = :site AND told_from IS NULL
  AND coalesce(down_from, silent_from) <= :end + :slack
  AND coalesce(down_to, returned_at, :end) >= :begin - :slack
ORDER BY silent_from DESC
"""


def take_told(conn: Connection, interval: float, site: str, begin: object, end: object, why: object) -> bool:
    """The site's own account of a downtime. True when an incident of ours holds it now."""
    since, until = moment(begin), moment(end)
    if since is None or until is None or until < since:
        return False
    told = Down(since, until)
    same = first(conn, _TOLD_SAME, site=site, begin=since, end=until)
    if same is not None:
        return same["incident"] is not None
    seen = first(conn, _OVERLAPS, site=site, begin=since, end=until, slack=interval + SLACK)
    if seen is None:
        _insert_down(conn, site, told)
        seen = first(conn, _OVERLAPS, site=site, begin=since, end=until, slack=0.0)
    if seen is None:
        return False
    do(
        conn,
        "UPDATE outage SET cause = 'down', told_from = :begin, told_to = :end, why = :why WHERE id = :id",
        begin=since,
        end=until,
        why=str(why or ""),
        id=seen["id"],
    )
    if seen["incident"] is None:
        return False
    incidents.note(conn, seen["incident"], until, "edge", comparison(seen, told, interval))
    return True


def comparison(seen: Row, told: Down, interval: float) -> str:
    """What the site says beside what was measured here."""
    text = f"{seen['site']} itself says: down for {span(told.seconds)}, from {iso(told.begin)} to {iso(told.end)}"
    if seen["down_from"] is None:
        return f"{text}."
    measured = Down(seen["down_from"], seen["down_to"])
    if agrees(measured, told, interval):
        return f"{text}; that agrees with ours ({span(measured.seconds)})."
    return f"{text}; ours is {span(measured.seconds)}, from {iso(measured.begin)} to {iso(measured.end)}."
