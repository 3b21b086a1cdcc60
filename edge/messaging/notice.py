"""A notice in words: the subject and text of a mail, the one line of a log. Pure.

A notice is JSON, made where alerts open and close; moments in it are UTC in ISO 8601. It names no patient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.errors import Permanent
from edge.monitor.escalation import CLOSED, ESCALATED, OPENED
from edge.monitor.notice_document import notice_json
from edge.text import from_iso, iso, moment_text, printable, span

#: What the directive, under which the site reports to the central office, calls its notices.
DIRECTIVE = {
    "downtime": "unscheduled downtime",
    "equipment": "receipt of new equipment",
    "storage": "a local storage concern",
    "connection": "a lost or broken external connection",
}
#: A message of this kind is no notice but a mail: {"subject": ..., "text": ...}.
LETTER = "digest"
TEST = "test"


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of one alert at the moment `at`."""

    id: str
    event: str
    kind: str
    subject: str
    severity: str
    since: str
    at: str
    ended: str
    duration_seconds: float | None
    text: str
    means: str
    do: str
    directive: str  # a key of DIRECTIVE, or empty
    site_id: str
    site_name: str
    version: str
    runbook: str = ""  # the address of the alert's page


#: Keys that a notice may lack.
_SPARE = ("ended", "means", "do", "directive", "version", "runbook")


def parse_notice(body: str) -> Notice:
    """Raises Permanent for what is no notice."""
    try:
        fields = json.loads(body)
        site = fields["site"]
        words = {key: _words(fields, key) for key in ("event", "kind", "subject", "severity", "since", "at", "text")}
        spare = {key: _words(fields, key) if fields.get(key) else "" for key in _SPARE}
        duration = fields.get("duration_seconds")
        identity = {
            "id": printable(str(fields["notice"])),
            "site_id": _words(site, "id"),
            "site_name": _words(site, "name"),
        }
        return Notice(**identity, **words, **spare, duration_seconds=duration)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Permanent("the message is not a notice") from None


def _words(fields: Mapping[str, Any], key: str) -> str:
    """One line, whatever the wire called itself."""
    return printable(str(fields[key]))


def subject(notice: Notice) -> str:
    """`[Edge 0067 Example Clinic] MAJOR: destination down: archive`."""
    site = notice.site_id if notice.site_id == notice.site_name else f"{notice.site_id} {notice.site_name}"
    return f"[Edge {site}] {_heading(notice)}"


def _heading(notice: Notice) -> str:
    what = notice.kind.replace("-", " ")
    if notice.subject and notice.subject not in what:
        what += f": {notice.subject}"
    if notice.kind == TEST:
        return "test: nothing is wrong"
    if notice.event == CLOSED:
        return f"ended{_duration_text(notice)}: {what}"
    if notice.event == ESCALATED:
        return f"ESCALATED, open for {span(from_iso(notice.at) - from_iso(notice.since))}: {what}"
    return f"{notice.severity.upper()}: {what}"


def _duration_text(notice: Notice) -> str:
    return "" if notice.duration_seconds is None else f" after {span(notice.duration_seconds)}"


def letter(notice: Notice) -> str:
    """The text of a mail: what, since when, what it means for patients' images, what to do."""
    parts = [
        ("What", notice.text),
        ("When", _time_text(notice)),
        ("What it means for patients' images", notice.means),
        ("What to do", "" if notice.event == CLOSED else notice.do),
        ("Page of this alert", "" if notice.event == CLOSED else notice.runbook),
        ("Why you get this", _directive_text(notice)),
        ("Site", f"{notice.site_name} ({notice.site_id})"),
    ]
    body = "\n\n".join(f"{heading}:\n{text}" for heading, text in parts if text)
    return f"{body}\n\n-- \nEdge {notice.version}, by itself; notice {notice.id}. It names no patient.\n"


def _directive_text(notice: Notice) -> str:
    what = DIRECTIVE.get(notice.directive)
    return f"The site reports to the central office: {what}." if what else ""


def _time_text(notice: Notice) -> str:
    if notice.ended == notice.since:
        return f"at {_moment(notice.since)}"
    if notice.ended or notice.event == CLOSED:
        return f"since {_moment(notice.since)}, ended {_moment(notice.ended or notice.at)}{_duration_text(notice)}"
    return f"since {_moment(notice.since)}"


def _moment(text: str) -> str:
    """A time as people read it; the receiver sees the zone of the site."""
    return moment_text(from_iso(text), seconds=True)


def log_line(notice: Notice) -> str:
    """One line for a log."""
    remedy = "" if notice.event == CLOSED else notice.do
    parts = (_heading(notice), notice.text, _time_text(notice), notice.means, remedy)
    return f"site {notice.site_id} ({notice.site_name}): " + " | ".join(part for part in parts if part)


def example(site_id: str, site_name: str, at: float) -> str:
    """The body of a notice with which a channel is tried."""
    made = notice_json(
        f"test-{iso(at)}",
        OPENED,
        (site_id, site_name),
        at,
        kind=TEST,
        subject="",
        severity="minor",
        since=at,
        ended=None,
        text="This is a test: somebody typed `edge notify test` to see whether notices arrive.",
        means="Nothing: images go their way.",
        do="Nothing.",
    )
    return json.dumps(made)
