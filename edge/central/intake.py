"""Intake of heartbeats: one becomes the site's new state, its history, its incidents, in one transaction.

`record` is called inside the transaction; many heartbeats may share one. It is exact under repetition: the same
heartbeat twice changes nothing the second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edge.central import downtime, ledgers
from edge.central.heartbeat import ReceivedHeartbeat, SiteNumbers, site_numbers
from edge.central.sequence import MISSED, LatestHeartbeat, SequenceResult, classify, down_between, skew
from edge.network.shares import SITE_INCIDENTS
from edge.store.central import announcements, figures, history, incidents, maintenance, sites
from edge.store.central.centre_state import count_in_hour
from edge.store.engine import EngineTransaction, Row
from edge.text import moment_text, printable, span

#: A notice that the centre evaluates.
DOWNTIME = "unscheduled-downtime"
#: What is over when a site reports it, by its only notice; new equipment stays open until a person has registered it.
_OVER = frozenset({DOWNTIME, "clock-was-wrong"})


def record_heartbeat(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, now: float) -> SequenceResult:
    """Take a heartbeat that is signed and well formed; `now` is when it came."""
    site = heartbeat.site
    row = sites.find_known(conn, site)
    known = _latest(row)
    found = _classify(conn, heartbeat, known)
    if found is SequenceResult.REUSED:
        _blame(conn, "number-reused", site, now, f"two different heartbeats have number {heartbeat.number}")
    if found in (SequenceResult.REUSED, SequenceResult.AGAIN):
        return found
    at = now if skew(heartbeat.at, now) else heartbeat.at
    numbers = site_numbers(heartbeat.status)
    if found is SequenceResult.RESTARTED:
        sites.forget_numbers(conn, site)
        text = "the site restarted its count of heartbeats: its catalog was lost"
        _blame(conn, "history-restarted", site, now, text)
    sites.add_number(conn, site, heartbeat.number, at, heartbeat.digest)
    if found is SequenceResult.NEW and known is not None:
        sites.add_gap(conn, site, known.number + 1, heartbeat.first - 1, now)
    _add_history(conn, site, at, numbers, row if found is SequenceResult.NEW else None)
    if found is SequenceResult.FILLED:
        sites.fill_gap(conn, site, heartbeat.number, now)
        sites.set_heard_at(conn, site, now)
    else:
        _check_clock(conn, heartbeat, now, row is None or bool(row["has_open_faults"]))
        ledgers.check_ledger(conn, heartbeat, known, found, now)
        _end_silence(conn, heartbeat, known, numbers.uptime, now, row is not None and bool(row["is_silent"]))
        _keep_state(conn, heartbeat, numbers, at, now)
        figures.keep_figures(conn, site, at, heartbeat.status.get("figures") or [])
        if known is None or known.boot != heartbeat.boot:
            _take_downtimes(conn, heartbeat)
        if heartbeat.status.get("maintenance") or (row is not None and row["plans_work"]):
            maintenance.take_plans(conn, site, _planned_work(heartbeat), now)
    for notice in heartbeat.notices:
        _take_notice(conn, heartbeat, notice, now)
    return found


def _planned_work(heartbeat: ReceivedHeartbeat) -> list[dict[str, Any]]:
    """What the site plans, as far as it says from when to when."""
    found = []
    for each in heartbeat.status.get("maintenance") or []:
        begin, end = downtime.moment(each.get("from")), downtime.moment(each.get("to"))
        if begin is not None and end is not None and begin < end and each.get("name"):
            reason = printable(str(each.get("reason") or ""))
            found.append({"name": each["name"], "begins_at": begin, "ends_at": end, "reason": reason})
    return found


def _classify(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, known: LatestHeartbeat | None) -> SequenceResult:
    site, number = heartbeat.site, heartbeat.number
    if known is None or number > known.number:
        return SequenceResult.NEW
    is_missing = sites.find_gap(conn, site, number) is not None
    return classify(heartbeat, known, sites.digest_of(conn, site, number), is_missing)


def _latest(row: Row | None) -> LatestHeartbeat | None:
    if row is None:
        return None
    return LatestHeartbeat(row["number"], row["at"], row["boot"], row["ledger_seq"], row["ledger_head"])


def _add_history(conn: EngineTransaction, site: str, at: float, numbers: SiteNumbers, before: Row | None) -> None:
    """One measurement. What was received since `before` counts where it follows it."""
    received = max(0, numbers.received - before["received"]) if before else 0
    grown = max(0, numbers.stored_bytes - before["stored_bytes"]) if before and received else 0
    measured = asdict(numbers)
    kept = {key: measured[key] for key in ("used", "total", "backlog", "backlog_bytes", "oldest")}
    history.add_measurement(conn, at, {**kept, "site": site, "received": received, "received_bytes": grown})


# -- what a site may not do --------------------------------------------------------------------------------------------


def _blame(conn: EngineTransaction, kind: str, site: str, now: float, text: str, severity: str = "major") -> None:
    incidents.open_once(conn, kind, site, opened_at=now, severity=severity, text=text, **_ADVICE[kind])


_ADVICE: Mapping[str, dict[str, str]] = {
    "number-reused": {
        "means": "Two gateways report as one site, or another sender has the site's key.",
        "todo": "Make sure that only one gateway uses this key; then give the site a new key.",
    },
    "history-restarted": {
        "means": "The site's own record of what it received before is gone, or is in a file that was moved away.",
        "todo": "Ask the site what happened to catalog.db; its custody ledger up to now is known by its heads here.",
    },
    "clock-skew": {
        "means": "Times in the site's evidence and reports are wrong by as much.",
        "todo": "Check the time service on the site's gateway.",
    },
    "notices-left-out": {
        "means": "What the site does with images is not affected by that. Somebody may be flooding it with calls.",
        "todo": "See `edge alerts list` at the site, then close this.",
    },
    "signature-refused": {
        "means": "The site's key differs from ours, or somebody else has sent it. Nothing of it was accepted.",
        "todo": "Compare the key file here with heartbeat.key of the site.",
    },
}
#: What a good heartbeat ends.
_HEALED = {
    "clock-skew": "The site's clock is right again.",
    "signature-refused": "A heartbeat with the right signature has come.",
}


def _check_clock(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, now: float, has_open_faults: bool) -> None:
    ahead = skew(heartbeat.at, now)
    if ahead:
        _blame(conn, "clock-skew", heartbeat.site, now, f"the site's clock is {span(ahead)} ahead of ours", "minor")
        return
    for kind, text in _HEALED.items() if has_open_faults else ():
        incidents.close_open(conn, kind, heartbeat.site, now, text)


def _end_silence(
    conn: EngineTransaction,
    heartbeat: ReceivedHeartbeat,
    known: LatestHeartbeat | None,
    uptime: float,
    now: float,
    silent: bool,
) -> None:
    """Measure and end a silence or a downtime, now that a heartbeat has come."""
    ended = downtime.end_silence(conn, heartbeat.site, now) if silent else None
    if known is None:
        return
    down = down_between(known, heartbeat, uptime, heartbeat.every, 0 if ended else MISSED)
    if down is not None:
        downtime.record_down(conn, heartbeat.site, down, ended, now)


def _keep_state(
    conn: EngineTransaction, heartbeat: ReceivedHeartbeat, numbers: SiteNumbers, at: float, now: float
) -> None:
    columns = {
        **asdict(numbers),
        "id": heartbeat.site,
        "name": printable(heartbeat.name),
        "number": heartbeat.number,
        "at": at,
        "every": heartbeat.every,
        "heard_at": now,
        "boot": heartbeat.boot,
        "version": heartbeat.version,
        "ledger_seq": heartbeat.seq,
        "ledger_head": heartbeat.head,
        "status": json.dumps(heartbeat.status, separators=(",", ":")),
    }
    sites.keep_state(conn, columns)


# -- what the site reports of itself -----------------------------------------------------------------------------------


def _take_downtimes(conn: EngineTransaction, heartbeat: ReceivedHeartbeat) -> None:
    """The site's own list of its last downtimes, read when it has started."""
    for each in heartbeat.status.get("downtimes") or []:
        downtime.take_report(conn, heartbeat.every, heartbeat.site, each.get("from"), each.get("to"), each.get("why"))


def _take_notice(conn: EngineTransaction, heartbeat: ReceivedHeartbeat, notice: Mapping[str, Any], now: float) -> None:
    """A notice opens, closes or escalates the site's incident; its text is the site's own."""
    since, ended = downtime.moment(notice.get("since")), downtime.moment(notice.get("ended"))
    kind = str(notice.get("kind", "notice"))
    if kind == DOWNTIME and since is not None and ended is not None:
        why = str(notice.get("text", ""))
        if downtime.take_report(conn, heartbeat.every, heartbeat.site, notice["since"], notice["ended"], why):
            return
    if announced := notice.get("announced"):
        _keep_announcement(conn, heartbeat.site, notice, announced, now if since is None else since)
    incident = _incident_of(conn, heartbeat.site, notice, kind, now if since is None else min(since, now), now)
    if incident is None:
        return
    event = notice.get("event")
    if event == "closed" or (kind in _OVER and ended is not None):
        length = notice.get("duration_seconds")
        lasted = f" after {span(length)}" if isinstance(length, (int, float)) else ""
        incidents.close(conn, incident, ended or now, f"The site reports that it is over{lasted}.")
    elif event == "escalated":
        incidents.describe_incident(conn, incident, severity=str(notice.get("severity", "major")))
        incidents.escalate(conn, incident, downtime.moment(notice.get("at")) or now, "Escalated by the site.")


def _keep_announcement(
    conn: EngineTransaction, site: str, notice: Mapping[str, Any], announced: Mapping[str, Any], at: float
) -> None:
    """What a person at the site says is to come: for the questions about equipment and capacity."""
    number, said = str(notice["notice"]), printable(str(notice.get("text", "")))
    expected = announced.get("expected_bytes_per_month")
    announcements.keep_announcement(conn, site, number, announced["kind"], at, announced["from"], expected, said)


def _incident_of(
    conn: EngineTransaction, site: str, notice: Mapping[str, Any], kind: str, since: float, now: float
) -> int | None:
    """The incident of a notice, opened where it is new; None where the site has opened too many in this hour."""
    name, subject = _common_name(notice), printable(str(notice.get("subject", "")))
    if found := incidents.find_of_notice(conn, site, name, kind, subject, since):
        return found
    if (count := count_in_hour(conn, f"incidents of {site}", now)) > SITE_INCIDENTS:
        if count == SITE_INCIDENTS + 1:
            hour = moment_text(now)
            text = f"more than {SITE_INCIDENTS} new notices came in the hour of {hour}; the others are not here"
            _blame(conn, "notices-left-out", site, now, text)
        return None
    return incidents.open_incident(
        conn,
        kind,
        site=site,
        subject=subject,
        severity=str(notice.get("severity", "minor")),
        opened_at=since,
        text=printable(str(notice.get("text", ""))),
        means=printable(str(notice.get("means", ""))),
        todo=printable(str(notice.get("do", ""))),
        notice=name,
    )


def _common_name(notice: Mapping[str, Any]) -> str:
    """What all notices of one alert have in common: each has a number of its own, as a person's announcement has."""
    alert = notice.get("alert")
    return str(notice.get("notice", "")) if alert is None else f"alert {alert}"


def refuse_signature(conn: EngineTransaction, site: str, now: float) -> None:
    """Open one incident about a heartbeat that its site did not sign, until a good one comes."""
    text = f"a heartbeat in this site's name had a wrong signature at {moment_text(now)}"
    _blame(conn, "signature-refused", site, now, text, "minor")
