"""What comes in: one heartbeat becomes the site's new state, its history, its incidents, in one transaction.

`record` is called inside the transaction; many heartbeats may share one. It is exact under repetition: the same
heartbeat twice changes nothing the second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edge.central import downtime, incidents, ledgers
from edge.central.heartbeat import Beat, Facts, facts
from edge.central.quota import count_in_hour
from edge.central.sequence import MISSED, Known, SequenceResult, down_between, skew, verdict
from edge.central.store import Connection, Row, do, first, value
from edge.shares import SITE_INCIDENTS
from edge.text import iso, printable, span

#: The tables of the history, and the seconds that one row of each stands for.
HISTORY = {"history_minute": 60, "history_hour": 3600, "history_day": 86400}
#: So many numbers of each site are kept with their digests.
KEPT_NUMBERS = 1500
#: Notices that the office understands itself.
DOWNTIME = "unscheduled-downtime"


def record(conn: Connection, beat: Beat, now: float) -> SequenceResult:
    """Take a heartbeat that is signed and well formed; `now` is when it came."""
    row = first(conn, _KNOWN, id=beat.site)
    known = _known(row)
    found = _verdict(conn, beat, known)
    if found is SequenceResult.REUSED:
        _blame(conn, "number-reused", beat.site, now, f"two different heartbeats have number {beat.number}")
    if found in (SequenceResult.REUSED, SequenceResult.AGAIN):
        return found
    at = now if skew(beat.at, now) else beat.at
    told = facts(beat.status)
    if found is SequenceResult.RESTARTED:
        _forget_numbers(conn, beat.site)
        _blame(conn, "history-restarted", beat.site, now, "the site counts its heartbeats anew: its catalog was lost")
    _note_number(conn, beat, at, known if found is SequenceResult.NEW else None, now, found)
    _add_history(conn, beat.site, at, told, row if found is SequenceResult.NEW else None)
    if found is not SequenceResult.FILLED:
        _judge_clock(conn, beat, now, row is None or bool(row["is_ailing"]))
        ledgers.judge(conn, beat, known, found, now)
        _judge_silence(conn, beat, known, told.uptime, now, row is not None and bool(row["is_silent"]))
        _keep_state(conn, beat, told, at, now)
        if known is None or known.boot != beat.boot:
            _take_downtimes(conn, beat)
    else:
        do(conn, "UPDATE site SET heard_at = :now WHERE id = :id", now=now, id=beat.site)
    for notice in beat.notices:
        _take_notice(conn, beat, notice, now)
    return found


#: What a heartbeat is compared with, and whether anything is open that it may end: one look for what is usual.
_KNOWN = """
SELECT site.*,
       EXISTS (SELECT 1 FROM outage WHERE outage.site = site.id AND returned_at IS NULL) AS is_silent,
       EXISTS (SELECT 1 FROM incident WHERE incident.site = site.id AND closed_at IS NULL
               AND kind IN ('clock-skew', 'signature-refused')) AS is_ailing
FROM site
WHERE id = :id
"""


def _verdict(conn: Connection, beat: Beat, known: Known | None) -> SequenceResult:
    if known is None or beat.number > known.number:
        return SequenceResult.NEW
    kept = "SELECT digest FROM beat WHERE site = :site AND number = :number"
    digest = value(conn, kept, site=beat.site, number=beat.number)
    return verdict(beat, known, digest, _is_missing(conn, beat))


def _known(row: Row | None) -> Known | None:
    if row is None:
        return None
    return Known(row["number"], row["at"], row["boot"], row["ledger_seq"], row["ledger_head"])


# -- numbers -----------------------------------------------------------------------------------------------------------


_GAP_OF = "SELECT first, last FROM gap WHERE site = :site AND :number BETWEEN first AND last"


def _is_missing(conn: Connection, beat: Beat) -> bool:
    return first(conn, _GAP_OF, site=beat.site, number=beat.number) is not None


def _note_number(
    conn: Connection, beat: Beat, at: float, before: Known | None, now: float, found: SequenceResult
) -> None:
    """Remember that it came; open a gap before it, or close the one that it fills."""
    do(
        conn,
        """
        INSERT INTO beat (site, number, at, digest) VALUES (:site, :number, :at, :digest)
        ON CONFLICT (site, number) DO NOTHING
        """,
        site=beat.site,
        number=beat.number,
        at=at,
        digest=beat.digest,
    )
    if before is not None:
        _add_gap(conn, beat.site, before.number + 1, beat.first - 1, now)
    if found is SequenceResult.FILLED:
        _fill_gap(conn, beat, now)


def _fill_gap(conn: Connection, beat: Beat, now: float) -> None:
    gap = first(conn, _GAP_OF, site=beat.site, number=beat.number)
    if gap is not None:
        do(conn, "DELETE FROM gap WHERE site = :site AND first = :first", site=beat.site, first=gap["first"])
        _add_gap(conn, beat.site, gap["first"], beat.number - 1, now)
        _add_gap(conn, beat.site, beat.number + 1, gap["last"], now)


def _add_gap(conn: Connection, site: str, begin: int, end: int, now: float) -> None:
    if begin <= end:
        do(
            conn,
            "INSERT INTO gap (site, first, last, noticed_at) VALUES (:site, :first, :last, :now)",
            site=site,
            first=begin,
            last=end,
            now=now,
        )


def _forget_numbers(conn: Connection, site: str) -> None:
    for table in ("beat", "gap"):
        do(conn, f"DELETE FROM {table} WHERE site = :site", site=site)


# -- history -----------------------------------------------------------------------------------------------------------

_ADD_HISTORY = """
INSERT INTO {table} AS kept (site, at, beats, used, total, backlog, backlog_bytes, oldest, received, received_bytes)
VALUES (:site, :at, 1, :used, :total, :backlog, :backlog_bytes, :oldest, :received, :received_bytes)
ON CONFLICT (site, at) DO UPDATE SET
    beats = kept.beats + 1,
    used = CASE WHEN kept.used > excluded.used THEN kept.used ELSE coalesce(excluded.used, kept.used) END,
    total = coalesce(excluded.total, kept.total),
    backlog = CASE WHEN kept.backlog > excluded.backlog THEN kept.backlog ELSE excluded.backlog END,
    backlog_bytes = CASE WHEN kept.backlog_bytes > excluded.backlog_bytes
                         THEN kept.backlog_bytes ELSE excluded.backlog_bytes END,
    oldest = CASE WHEN kept.oldest > excluded.oldest THEN kept.oldest ELSE excluded.oldest END,
    received = kept.received + excluded.received,
    received_bytes = kept.received_bytes + excluded.received_bytes
"""


def _add_history(conn: Connection, site: str, at: float, told: Facts, before: Row | None) -> None:
    """One measurement, into its minute, hour and day. What was received since `before` counts where it follows it."""
    received = max(0, told.received - before["received"]) if before else 0
    grown = max(0, told.stored_bytes - before["stored_bytes"]) if before and received else 0
    measured = {
        "site": site,
        "used": told.used,
        "total": told.total,
        "backlog": told.backlog,
        "backlog_bytes": told.backlog_bytes,
        "oldest": told.oldest,
        "received": received,
        "received_bytes": grown,
    }
    for table, span_seconds in HISTORY.items():
        do(conn, _ADD_HISTORY.format(table=table), at=int(at // span_seconds) * span_seconds, **measured)


# -- what a site may not do --------------------------------------------------------------------------------------------


def _blame(conn: Connection, kind: str, site: str, now: float, text: str, severity: str = "major") -> None:
    incidents.open_once(conn, kind, site, opened_at=now, severity=severity, text=text, **_ADVICE.get(kind, {}))


_ADVICE: Mapping[str, dict[str, str]] = {
    "number-reused": {
        "means": "Two gateways report as one site, or somebody who has the site's key is writing for it.",
        "todo": "See that only one gateway uses this key; then give the site a new key.",
    },
    "history-restarted": {
        "means": "The site's own record of what it received before is gone, or lies in a file that was moved away.",
        "todo": "Ask the site what happened to catalog.db; its custody ledger up to now is known by its heads here.",
    },
    "clock-skew": {
        "means": "Times in the site's evidence and reports are wrong by as much.",
        "todo": "See to the time service on the site's gateway.",
    },
}


#: What a good heartbeat ends.
_HEALED = {
    "clock-skew": "The site's clock is right again.",
    "signature-refused": "A heartbeat with the right signature has come.",
}


def _judge_clock(conn: Connection, beat: Beat, now: float, ailing: bool) -> None:
    ahead = skew(beat.at, now)
    if ahead:
        _blame(conn, "clock-skew", beat.site, now, f"the site's clock is {span(ahead)} ahead of ours", "minor")
        return
    for kind, told in _HEALED.items() if ailing else ():
        if (wrong := incidents.standing(conn, kind, beat.site)) is not None:
            incidents.close(conn, wrong, now, told)


def _judge_silence(conn: Connection, beat: Beat, known: Known | None, uptime: float, now: float, silent: bool) -> None:
    """It is heard: if it was silent, or had not run, that is over and measured."""
    ended = downtime.end_silence(conn, beat.site, now) if silent else None
    if known is None:
        return
    gone = down_between(known, beat, uptime, beat.every, 0 if ended else MISSED)
    if gone is not None:
        downtime.learn_down(conn, beat.site, gone, ended, now)


# -- the site's state --------------------------------------------------------------------------------------------------

_STATE = [
    "name",
    "number",
    "at",
    "every",
    "heard_at",
    "boot",
    "version",
    "state",
    "severity",
    "alerts",
    "used_fraction",
    "full_in",
    "backlog",
    "links_down",
    "received",
    "stored_bytes",
    "ledger_seq",
    "ledger_head",
    "status",
]
_KEEP_STATE = f"""
INSERT INTO site (id, {", ".join(_STATE)}) VALUES (:id, {", ".join(f":{name}" for name in _STATE)})
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _STATE)}
"""


def _keep_state(conn: Connection, beat: Beat, told: Facts, at: float, now: float) -> None:
    given: dict[str, Any] = {name: each for name, each in asdict(told).items() if name in _STATE}
    do(
        conn,
        _KEEP_STATE,
        id=beat.site,
        name=printable(beat.name),
        number=beat.number,
        at=at,
        every=beat.every,
        heard_at=now,
        boot=beat.boot,
        version=beat.version,
        ledger_seq=beat.seq,
        ledger_head=beat.head,
        status=json.dumps(beat.status, separators=(",", ":")),
        **given,
    )


# -- what the site tells of itself -------------------------------------------------------------------------------------


def _take_downtimes(conn: Connection, beat: Beat) -> None:
    """The site's own list of its last downtimes, read when it has started."""
    for each in beat.status.get("downtimes") or []:
        downtime.take_told(conn, beat.every, beat.site, each.get("from"), each.get("to"), each.get("why"))


def _take_notice(conn: Connection, beat: Beat, notice: Mapping[str, Any], now: float) -> None:
    """A notice opens, closes or escalates the site's incident; its text is the site's own."""
    since, ended = downtime.moment(notice.get("since")), downtime.moment(notice.get("ended"))
    kind = str(notice.get("kind", "notice"))
    if kind == DOWNTIME and since is not None and ended is not None:
        why = str(notice.get("text", ""))
        if downtime.take_told(conn, beat.every, beat.site, notice["since"], notice["ended"], why):
            return
    incident = _incident_of(conn, beat.site, notice, kind, now if since is None else min(since, now), now)
    if incident is None:
        return
    event = notice.get("event")
    if event == "closed":
        length = notice.get("duration_seconds")
        lasted = f" after {span(length)}" if isinstance(length, (int, float)) else ""
        incidents.close(conn, incident, ended or now, f"The site says that it is over{lasted}.")
    elif event == "escalated":
        do(
            conn,
            "UPDATE incident SET severity = :severity WHERE id = :id",
            severity=str(notice.get("severity", "major")),
            id=incident,
        )
        incidents.escalate(conn, incident, downtime.moment(notice.get("at")) or now, "Escalated by the site.")


_SAME_NOTICE = """
SELECT id FROM incident
WHERE site = :site AND notice = :notice AND kind = :kind AND (opened_at = :since OR closed_at IS NULL)
ORDER BY CASE WHEN opened_at = :since THEN 0 ELSE 1 END, id DESC LIMIT 1
"""


def _incident_of(
    conn: Connection, site: str, notice: Mapping[str, Any], kind: str, since: float, now: float
) -> int | None:
    """The incident of a notice, opened where it is new; None where the site has opened too many in this hour."""
    number, subject = str(notice.get("notice", "")), printable(str(notice.get("subject", "")))
    found = value(conn, _SAME_NOTICE, site=site, notice=number, kind=kind, since=since)
    if found:
        return int(found)
    if (count := count_in_hour(conn, f"incidents of {site}", now)) > SITE_INCIDENTS:
        if count == SITE_INCIDENTS + 1:
            _note_left_out(conn, site, now)
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
        notice=number,
    )


def _note_left_out(conn: Connection, site: str, now: float) -> None:
    incidents.open_once(
        conn,
        "notices-left-out",
        site,
        opened_at=now,
        severity="major",
        text=f"more than {SITE_INCIDENTS} new notices came in the hour of {iso(now)}; the others are not here",
        means="What the site does with images is not affected by that. Somebody may be flooding it with calls.",
        todo="See `edge alerts list` at the site, then close this.",
    )


def refuse_signature(conn: Connection, site: str, now: float) -> None:
    """Somebody spoke for a site and could not sign: seen once until a good heartbeat comes."""
    incidents.open_once(
        conn,
        "signature-refused",
        site,
        opened_at=now,
        severity="minor",
        text=f"a heartbeat in this site's name had a wrong signature at {iso(now)}",
        means="The site's key differs from ours, or somebody else spoke for it. Nothing of it was taken.",
        todo="Compare the key file here with heartbeat.key of the site.",
    )
