"""A site's silence: opened by the dead-man switch, ended by what comes next, and what it turned out to be.

An outage is of cause "down" when the site itself did not run, "unreachable" when it ran and only its link was cut: its
heartbeats of that time come later, from the same run of its daemon. Its own report of a downtime is kept beside ours.
"""

from __future__ import annotations

from edge.central.sequence import Down, agrees
from edge.store.central import incidents, outages
from edge.store.engine import EngineTransaction, Row
from edge.text import from_iso, moment_text, span

#: Two reports of one downtime may differ by an interval and this (seconds).
SLACK = 30.0


def moment(text: object) -> float | None:
    """A moment of a document, or None where it has none."""
    try:
        return from_iso(text) if isinstance(text, str) else None
    except ValueError:
        return None


def end_silence(conn: EngineTransaction, site: str, now: float) -> Row | None:
    """Something came: the site's outage ends, which is returned, and the incident with its last one."""
    ended = outages.end_outage(conn, site, now)
    if ended is not None and not outages.count_silent(conn, ended["incident"]):
        text = f"A heartbeat has come after {span(now - ended['silent_from'])}."
        incidents.close(conn, ended["incident"], now, text)
    return ended


def record_down(conn: EngineTransaction, site: str, down: Down, ended: Row | None, now: float) -> None:
    """Between two heartbeats the site did not run: in the silence that just ended, or another, or unseen by us."""
    seen = ended or outages.find_around(conn, site, down.begin, down.end, SLACK)
    if seen is None:
        outages.add_down(conn, [{"site": site, "begin": down.begin, "end": down.end}])
        return
    outages.set_measured(conn, seen["id"], down.begin, down.end)
    if seen["incident"] is not None:
        text = f"{seen['site']} was down for {_stretch(down)}."
        incidents.note(conn, seen["incident"], now, "edge", text)


def take_report(conn: EngineTransaction, interval: float, site: str, begin: object, end: object, why: object) -> bool:
    """The site's own report of a downtime. True when an incident of ours holds it now."""
    since, until = moment(begin), moment(end)
    if since is None or until is None or until < since:
        return False
    reported = Down(since, until)
    same = outages.find_reported(conn, site, since, until)
    if same is not None:
        return same["incident"] is not None
    seen = outages.find_overlapping(conn, site, since, until, interval + SLACK)
    if seen is None:
        outages.add_down(conn, [{"site": site, "begin": since, "end": until}])
        seen = outages.find_overlapping(conn, site, since, until, 0.0)
    if seen is None:
        return False
    outages.set_reported(conn, seen["id"], since, until, str(why or ""))
    if seen["incident"] is None:
        return False
    incidents.note(conn, seen["incident"], until, "edge", comparison(seen, reported, interval))
    return True


def _stretch(down: Down) -> str:
    return f"{span(down.seconds)}, from {moment_text(down.begin)} to {moment_text(down.end)}"


def comparison(seen: Row, reported: Down, interval: float) -> str:
    """What the site reports beside what was measured here."""
    text = f"{seen['site']} itself reports: down for {_stretch(reported)}"
    if seen["down_from"] is None:
        return f"{text}."
    measured = Down(seen["down_from"], seen["down_to"])
    if agrees(measured, reported, interval):
        return f"{text}; that agrees with ours ({span(measured.seconds)})."
    return f"{text}; ours is {_stretch(measured)}."
