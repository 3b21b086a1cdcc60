"""Announcements to the central office: new equipment, storage, requirements. By every channel, once.

The words are a person's own: they go where notices go, and must name no patient; `edge notify tell` says so.
"""

from __future__ import annotations

import json
import re
from datetime import date

from edge.config.channels import announcement_channels
from edge.config.sections import Config
from edge.errors import EdgeError
from edge.monitor.escalation import OPENED
from edge.monitor.notice_document import notice_json
from edge.store import equipment, outbox
from edge.store.database import Transaction
from edge.store.equipment import Announcement
from edge.text import printable, size

ANNOUNCED_KINDS = ("equipment", "storage", "requirement")
ANNOUNCED = "announced"
MOST_ANNOUNCED = 500
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_DAYS = {"day": 365.25 / 12, "week": 365.25 / 84, "month": 1.0, "year": 1 / 12}
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(KB|MB|GB|TB)/(day|week|month|year)")


def read_rate(text: str) -> int | None:
    """Bytes a month of `200GB/month`; None of empty text. Raises EdgeError."""
    if not text:
        return None
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise EdgeError(f'expected an amount such as "200GB/month" or "5GB/day", found "{text}"')
    return round(float(found[1]) * _UNITS[found[2]] * _DAYS[found[3]])


def read_date(text: str) -> str:
    """A day as YYYY-MM-DD. Raises EdgeError."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise EdgeError(f'expected a date such as 2027-03-01, found "{text}"') from None


def check_announcement(kind: str, said: str) -> str:
    """The words to send. Raises EdgeError."""
    if kind not in ANNOUNCED_KINDS:
        raise EdgeError(f'expected one of {", ".join(ANNOUNCED_KINDS)}, found "{kind}"')
    words = printable(said).strip()
    if not words or len(words) > MOST_ANNOUNCED:
        raise EdgeError(f"say what is to come in at most {MOST_ANNOUNCED} characters, without a patient's name")
    return words


def post_announcement(conn: Transaction, config: Config, made: Announcement) -> list[str]:
    """Post an announcement to every channel; returns their names."""
    channels = announcement_channels(config)
    text = json.dumps(announcement_body(made, config.site.id, config.site.name), ensure_ascii=False)
    for channel in channels:
        outbox.post(conn, channel, "notice", made.at, text)
    return channels


def make_announcement(
    conn: Transaction, config: Config, kind: str, at: float, who: str, from_date: str, expects: str, said: str
) -> tuple[Announcement, list[str]]:
    """Check, keep and post. Raises EdgeError."""
    words, day, rate = check_announcement(kind, said), read_date(from_date), read_rate(expects)
    made = equipment.enter_announcement(conn, kind, at, who, day, rate, words)
    return made, post_announcement(conn, config, made)


def announcement_body(made: Announcement, site_id: str, site_name: str) -> dict[str, object]:
    """The notice, as channels and the central office receive it (edge.messaging.notice)."""
    expected = made.expected_bytes_per_month
    amount = "" if expected is None else f"; {size(expected)} a month expected"
    return notice_json(
        f"announced-{made.id}",
        OPENED,
        (site_id, site_name),
        made.at,
        kind=ANNOUNCED,
        subject=made.kind,
        severity="minor",
        since=made.at,
        ended=made.at,
        text=f"{made.who} announces {made.kind} from {made.from_date} on{amount}: {made.said}",
        means="",
        do="",
        duration_seconds=None,
        directive=made.kind if made.kind != "requirement" else None,
        announced={"kind": made.kind, "from": made.from_date, "expected_bytes_per_month": expected},
    )
