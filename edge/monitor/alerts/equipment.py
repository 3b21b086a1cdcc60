"""Alerts about equipment that calls: unknown, new, silent, without the report that it has asked for."""

from __future__ import annotations

from collections.abc import Iterator

from edge.model import UNNAMED_CALLER
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert, UnknownCaller
from edge.store.equipment import MOST_MAKES
from edge.store.web_clients import CLIENT_PREFIX
from edge.text import amount, moment_text, printable, span

#: More unknown callers than this share one alert: a port scan must not hide the rest.
MAX_CALLERS = 10
#: New equipment is reported for this time, unless it is acknowledged.
NEW_SECONDS = 7 * 86400.0
ACK = Action("acknowledge to dismiss: {}", ("edge", "alerts", "ack", "ALERT", "--note", "..."))


#: Equipment is added by the title that `edge modality list` shows: a caller's own words are never part of a command.
_ADD = Action("{} if it is yours", ("edge", "modality", "add", "AE_TITLE", "--reason", "..."))
_CERTIFICATE = Action("if it is yours, correct the certificate in its table, or let it call over TLS with that one")
_NAMELESS = Action(
    "if it is yours, have its address, certificate, port or TLS corrected: {} has a line for each cause",
    ("edge", "alerts", "explain", "unknown-equipment"),
)


def _remedies(caller: UnknownCaller) -> Iterator[Action]:
    if not caller.lacks:
        yield _ADD
        yield Action("let it call again", follows=True)
    elif not caller.ae_title:
        yield _NAMELESS
    else:
        yield _CERTIFICATE
        yield CHECK
        yield RELOAD


def _who(caller: UnknownCaller) -> str:
    title, address = printable(caller.ae_title), printable(caller.address)
    if title:
        return f'Unknown equipment "{title}" at {address} called and was refused'
    known = f', from which "{printable(caller.known_there)}" has sent,' if caller.known_there else ""
    return f"A caller at {address}{known} was refused"


def _clause(lacks: str) -> str:
    return f"{printable(lacks)}, and " if lacks else ""


def unknown_equipment(seen: Observed) -> Iterator[Alert]:
    callers = sorted(seen.unknown_callers, key=lambda each: each.first_seen)  # the first stay first: one notice each
    for each in callers[:MAX_CALLERS]:
        yield alert(
            f"{printable(each.ae_title)}@{printable(each.address)}",
            each.first_seen,
            _who(each),
            f"{_clause(each.lacks)}none of its {'images is' if each.ae_title else 'images or messages is'} received",
            *_remedies(each),
        )
    if more := callers[MAX_CALLERS:]:
        yield alert(
            "others",
            min(each.first_seen for each in more),
            f"{amount(len(more), 'further unknown caller')} {'was' if len(more) == 1 else 'were'} refused",
            "this number suggests a port scan",
            Action("check the firewall in front of the DICOM port, and {}", ("journalctl", "-u", "edge")),
        )


def table_of(name: str) -> str:
    """The table of the configuration that names a caller."""
    return name if name.startswith(CLIENT_PREFIX) else f"modality.{name}"


def new_modality(seen: Observed) -> Iterator[Alert]:
    begin = seen.threshold("new-modality")
    new = [each for each in seen.modalities if each.admitted and begin <= seen.at - each.first_seen < NEW_SECONDS]
    named = [each for each in new if each.name != UNNAMED_CALLER]
    others = sorted((each for each in new if each.name == UNNAMED_CALLER), key=lambda each: each.first_seen)
    for each in (*named, *others[:MAX_CALLERS]):
        title, address = printable(each.ae_title), printable(each.address)
        made = " ".join(name for name in (each.manufacturer, each.model) if name)
        yield alert(
            f"{title}@{address}",
            each.first_seen,
            f'New equipment "{title}" at {address} ({made or "of unknown make"}) called for the first time',
            f"it is admitted as [{table_of(each.name)}]" if each in named else "its images are received and routed",
            Action("report it to the central office if it was not announced"),
            ACK,
            ended=each.first_seen,
        )
    if more := others[MAX_CALLERS:]:
        first = more[0].first_seen
        what = f"{amount(len(more), 'further new caller')} that no [modality] names"
        means = "their images are received and routed"
        name = Action('name your equipment, and set [listen] unknown = "refuse"')
        yield alert("others", first, what, means, name, CHECK, RELOAD, ended=first)


#: What a make consists of, as people read it.
_MAKE_WORDS = ("manufacturer", "model", "serial number", "software")


def equipment_changed(seen: Observed) -> Iterator[Alert]:
    """Another make under a known AE title and address. Where one stands for many, one alert says so."""
    for each in seen.modalities:
        if not each.admitted or each.changed_at is None or seen.at - each.changed_at >= NEW_SECONDS:
            continue
        title, address = printable(each.ae_title), printable(each.address)
        before, now = each.change[:4], each.change[4:]
        changed = [
            f"{word} {old or 'not stated'} is now {new or 'not stated'}"
            for word, old, new in zip(_MAKE_WORDS, before, now, strict=True)
            if old != new
        ]
        what = f'Equipment "{title}" at {address} is another than before: {", ".join(changed)}'
        means = "its images are received and routed as before"
        report = Action("report it to the central office if it was not announced")
        if each.makes >= MOST_MAKES:
            what = f'"{title}" at {address} stands for {each.makes} or more devices: changes are no longer reported'
            report = Action("give each device an AE title of its own, and name it in a [modality.NAME]")
        yield alert(f"{title}@{address}", each.changed_at, what, means, report, ACK, ended=each.changed_at)


def modality_silent(seen: Observed) -> Iterator[Alert]:
    reported = set()
    for each in seen.modalities:
        if each.admitted and each.missed_at is not None and each.ae_title not in reported:
            reported.add(each.ae_title)
            title = printable(each.ae_title)
            last = f", last received {moment_text(each.last_stored)}" if each.last_stored else ""
            yield alert(
                title,
                each.missed_at,
                f'"{title}" has not sent today though it always does ({each.usual}{last})'
                if each.usual
                else f'"{title}" has not sent though it should have{last}',
                "if it was used, its images are still on the scanner",
                Action("check its send queue and its network; add days off to [calendar] holidays"),
            )


def commitment_unreported(seen: Observed) -> Iterator[Alert]:
    for each in seen.owed_reports:
        waiting, limit = seen.at - each.oldest_at, seen.threshold("commitment-unreported")
        if waiting > limit:
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            yield alert(
                each.modality,
                each.oldest_at + limit,
                f"{amount(each.count, 'request')} for storage commitment of {each.modality} without a report, the"
                f" oldest for {span(waiting)}{why}",
                "images that were received are safe here, and the equipment keeps its copies until it has the report",
                Action("{} says what each waits for", ("edge", "commitments", "list")),
                Action(f"if it cannot be called, correct host and port in [modality.{each.modality}]"),
                CHECK,
                RELOAD,
            )
