"""Alerts about equipment that calls: unknown, new, silent."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config.alarms import MINOR
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert
from edge.text import counted, iso, printable

#: More strangers than this are told in one alert: a port scan must not bury the rest.
MAX_STRANGERS = 10
#: New equipment is told of for so long, unless it is acknowledged.
NEW_SECONDS = 7 * 86400.0
#: Who is let in by `[listen] unknown = "accept"` alone (edge.scp.association.admit).
UNNAMED = "(unknown)"
ACK = Action("{} ends this remark", ("edge", "alerts", "ack", "ALERT", "--note", "..."))


def _remedies(why: str) -> Iterator[Action]:
    if why:
        yield Action(f"the reason was: {printable(why)}")
    yield Action("if it is yours, name it in a [modality.NAME] (AE title, address, certificate)")
    yield CHECK
    yield RELOAD


def unknown(seen: Observed) -> Iterator[Alert]:
    strangers = sorted(seen.strangers, key=lambda each: each.first_seen)  # the first stay the first: told once
    for each in strangers[:MAX_STRANGERS]:
        title, address = printable(each.ae_title), printable(each.address)
        yield alert(
            "unknown-equipment",
            f"{title}@{address}",
            MINOR,
            each.first_seen,
            f'Unknown equipment "{title}" at {address} called and was refused',
            "nothing that it sends arrives",
            *_remedies(each.why),
        )
    if more := strangers[MAX_STRANGERS:]:
        yield alert(
            "unknown-equipment",
            "others",
            MINOR,
            min(each.first_seen for each in more),
            f"{counted(len(more), 'further unknown caller')} {'was' if len(more) == 1 else 'were'} refused",
            "so many look like a port scan",
            Action("see the firewall in front of the DICOM port, and {}", ("journalctl", "-u", "edge")),
        )


def new(seen: Observed) -> Iterator[Alert]:
    begin = seen.threshold("new-modality")
    new = [each for each in seen.modalities if each.admitted and begin <= seen.now - each.first_seen < NEW_SECONDS]
    named = [each for each in new if each.name != UNNAMED]
    others = sorted((each for each in new if each.name == UNNAMED), key=lambda each: each.first_seen)
    for each in (*named, *others[:MAX_STRANGERS]):
        title, address = printable(each.ae_title), printable(each.address)
        made = " ".join(name for name in (each.manufacturer, each.model) if name)
        yield alert(
            "new-modality",
            f"{title}@{address}",
            MINOR,
            each.first_seen,
            f'New equipment "{title}" at {address} ({made or "of unknown make"}) called for the first time',
            f"its images are taken and routed{f' as [modality.{each.name}]' if each in named else ''}",
            Action("tell the central office if it was not announced"),
            ACK,
            ended=each.first_seen,
        )
    if more := others[MAX_STRANGERS:]:
        first = more[0].first_seen
        what = f"{counted(len(more), 'further new caller')} that no [modality] names"
        means = "what they send is taken and routed"
        name = Action('name your equipment, and set [listen] unknown = "refuse"')
        yield alert("new-modality", "others", MINOR, first, what, means, name, CHECK, RELOAD, ended=first)


def silent(seen: Observed) -> Iterator[Alert]:
    told = set()
    for each in seen.modalities:
        if each.admitted and each.missed_at is not None and each.ae_title not in told:
            told.add(each.ae_title)
            title = printable(each.ae_title)
            last = f", last heard {iso(each.last_stored)}" if each.last_stored else ""
            yield alert(
                "modality-silent",
                title,
                MINOR,
                each.missed_at,
                f'"{title}" has not sent today though it always does ({each.usual}{last})'
                if each.usual
                else f'"{title}" has not sent though it should have{last}',
                "if it was used, its images are still on the scanner",
                Action("see its send queue and its network; a day off belongs into [calendar] holidays"),
            )
