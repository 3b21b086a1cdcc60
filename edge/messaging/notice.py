"""A notice in words: the subject and text of a mail, the one line of a log. Pure.

A notice is JSON, made where alerts open and close; moments in it are UTC in ISO 8601. It names no patient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.errors import Permanent
from edge.text import from_iso, iso, printable, span

#: What the directive, under which the site reports to the central office, calls its notices.
DIRECTIVE = {
    "downtime": "unscheduled downtime",
    "equipment": "receipt of new equipment",
    "storage": "a local storage concern",
    "connection": "a lost or broken external connection",
}
OPENED, CLOSED, ESCALATED, TEST = "opened", "closed", "escalated", "test"


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


#: Keys that a notice may lack.
_SPARE = ("ended", "means", "do", "directive", "version")


def read(body: str) -> Notice:
    """Raises Permanent for what is no notice."""
    try:
        told = json.loads(body)
        site = told["site"]
        words = {key: _words(told, key) for key in ("event", "kind", "subject", "severity", "since", "at", "text")}
        spare = {key: _words(told, key) if told.get(key) else "" for key in _SPARE}
        duration = told.get("duration_seconds")
        identity = {
            "id": printable(str(told["notice"])),
            "site_id": _words(site, "id"),
            "site_name": _words(site, "name"),
        }
        return Notice(**identity, **words, **spare, duration_seconds=duration)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Permanent("the message is not a notice") from None


def _words(told: Mapping[str, Any], key: str) -> str:
    """One line, whatever the wire called itself."""
    return printable(str(told[key]))


def subject(told: Notice) -> str:
    """`[Edge 0067 Example Clinic] MAJOR: destination down: archive`."""
    site = told.site_id if told.site_id == told.site_name else f"{told.site_id} {told.site_name}"
    return f"[Edge {site}] {_heading(told)}"


def _heading(told: Notice) -> str:
    what = told.kind.replace("-", " ")
    if told.subject and told.subject not in what:
        what += f": {told.subject}"
    if told.kind == TEST:
        return "test: nothing is wrong"
    if told.event == CLOSED:
        return f"ended{_after(told)}: {what}"
    if told.event == ESCALATED:
        return f"ESCALATED, open for {span(from_iso(told.at) - from_iso(told.since))}: {what}"
    return f"{told.severity.upper()}: {what}"


def _after(told: Notice) -> str:
    return "" if told.duration_seconds is None else f" after {span(told.duration_seconds)}"


def letter(told: Notice) -> str:
    """The text of a mail: what, since when, what it means for patients' images, what to do."""
    parts = [
        ("What", told.text),
        ("When", _when(told)),
        ("What it means for patients' images", told.means),
        ("What to do", "" if told.event == CLOSED else told.do),
        ("Why you get this", _why(told)),
        ("Site", f"{told.site_name} ({told.site_id})"),
    ]
    body = "\n\n".join(f"{heading}:\n{text}" for heading, text in parts if text)
    return f"{body}\n\n-- \nEdge {told.version}, by itself; notice {told.id}. It names no patient.\n"


def _why(told: Notice) -> str:
    what = DIRECTIVE.get(told.directive)
    return f"The site reports to the central office: {what}." if what else ""


def _when(told: Notice) -> str:
    if told.ended == told.since:
        return f"at {_moment(told.since)}"
    if told.ended or told.event == CLOSED:
        return f"since {_moment(told.since)}, ended {_moment(told.ended or told.at)}{_after(told)}"
    return f"since {_moment(told.since)}"


def _moment(text: str) -> str:
    return f"{text[:10]} {text[11:19]} UTC"


def line(told: Notice) -> str:
    """For a log: one line."""
    parts = (_heading(told), told.text, _when(told), told.means, "" if told.event == CLOSED else told.do)
    return f"site {told.site_id} ({told.site_name}): " + " | ".join(part for part in parts if part)


def example(site_id: str, site_name: str, version: str, at: float) -> str:
    """The body of a notice with which a channel is tried."""
    moment = iso(at)
    made = {
        "notice": f"test-{moment}",
        "event": OPENED,
        "kind": TEST,
        "subject": "",
        "severity": "minor",
        "since": moment,
        "at": moment,
        "ended": None,
        "duration_seconds": None,
        "text": "This is a test: somebody typed `edge notify test` to see whether notices arrive.",
        "means": "Nothing: images go their way.",
        "do": "Nothing.",
        "site": {"id": site_id, "name": site_name},
        "version": version,
    }
    return json.dumps(made)
