"""What a person should know, and what to type about it. Pure: facts in, alerts out.

The order is that of urgency. An alert lasts as long as its cause; there is nothing to acknowledge.
`major` and `critical` mean that images do not reach, or will soon not reach, where they should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge.config import Storage as Marks
from edge.ops.facts import REFUSING, Alert, Destination, Held, Storage, Stranger, Trouble
from edge.ops.words import counted, percent, printable, size, span

MINOR, MAJOR, CRITICAL = "minor", "major", "critical"
URGENCY = (CRITICAL, MAJOR, MINOR)
#: A disk that is full sooner than this is more than a remark.
SOON_SECONDS = 24 * 3600.0
#: More strangers than this are told in one alert: a port scan must not bury the rest.
MAX_STRANGERS = 10


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the alerts depend on."""

    now: float
    state: str
    reasons: tuple[str, ...]
    unhealthy: str
    since: float | None
    storage: Storage
    marks: Marks
    destinations: Sequence[Destination]
    held: Sequence[Held]
    troubles: Sequence[Trouble]
    strangers: Sequence[Stranger]
    rejected_at: float | None = None


def alerts(seen: Observed) -> tuple[Alert, ...]:
    """Every alert, the most severe first."""
    found = [alert for rule in _RULES for alert in rule(seen)]
    return tuple(sorted(found, key=lambda alert: URGENCY.index(alert.severity)))


def _storage_unhealthy(seen: Observed) -> Iterator[Alert]:
    if seen.unhealthy:
        text = (
            f"Scanners are refused because the storage failed ({seen.unhealthy}); images accepted before are kept:"
            " mend the disk, then `systemctl restart edge`, which looks at every file again."
        )
        yield Alert("storage-unhealthy", "storage", CRITICAL, seen.since or seen.now, text)


def _storage_refusing(seen: Observed) -> Iterator[Alert]:
    full = seen.storage.used_fraction >= seen.marks.refuse
    if seen.unhealthy or not (full or seen.state == REFUSING):
        return
    used = percent(seen.storage.used_fraction)
    why = f"the disk is {used} full" if full else "; ".join(seen.reasons) or "there is no room"
    text = (
        f"Scanners are refused because {why}; images accepted before are safe, and receiving resumes by itself once"
        " there is room: free some on the disk of data_dir, or see with `edge queue list` what keeps images here."
    )
    since = seen.since if seen.state == REFUSING else seen.storage.above_since
    yield Alert("storage-refusing", "storage", CRITICAL, since or seen.now, text)


def _storage_filling(seen: Observed) -> Iterator[Alert]:
    storage = seen.storage
    if not seen.marks.warn <= storage.used_fraction < seen.marks.refuse:
        return
    left = storage.full_in_seconds
    soon = left is not None and left < SOON_SECONDS
    forecast = f"at this rate scanners are refused in {span(left)}" if left is not None else "it is not growing now"
    text = (
        f"The disk is {percent(storage.used_fraction)} full with {size(storage.free_bytes)} free, and {forecast};"
        " images are safe: free room, shorten retention.keep, or see with `edge queue list` what keeps images here."
    )
    yield Alert("storage-filling", "storage", MAJOR if soon else MINOR, storage.above_since or seen.now, text)


def _destination_down(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        if each.configured and each.state == "down":
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            waiting = (
                f"{counted(each.waiting, 'image')} for it {'waits' if each.waiting == 1 else 'wait'} safely on disk and"
                f" {'goes by itself' if each.waiting == 1 else 'go by themselves'} when it answers"
                if each.waiting
                else "nothing waits for it yet"
            )
            text = f"Destination {each.name} does not answer{why}; {waiting}: try `edge echo {each.name}`."
            yield Alert("destination-down", each.name, MAJOR, each.since or seen.now, text)


def _destination_removed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        left = each.waiting + each.held + each.sent - each.confirmed
        if not each.configured and left:
            text = (
                f"Destination {each.name} is no longer configured, but {counted(left, 'image')} for it cannot be"
                f" finished without it; they are safe on disk: put [destination.{each.name}] back, then `edge check`."
            )
            yield Alert("destination-removed", each.name, MAJOR, each.since or seen.now, text)


def _work_held(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if each.destination:
            text = (
                f"{counted(each.count, 'image')} for {each.destination} held for a person to decide, safe on disk"
                f" ({printable(each.reason) or 'no reason noted'}): `edge queue list --state held --destination"
                f" {each.destination}`, then `edge queue retry --destination {each.destination}`."
            )
            yield Alert("work-held", each.destination, MAJOR, each.since, text)


def _unroutable(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if not each.destination:
            text = (
                f"{counted(each.count, 'image')} that no route matches {'stays' if each.count == 1 else 'stay'} here,"
                " safe on disk, and will go nowhere until there is a [route]: `edge queue list --unroutable`, add the"
                " route, reload, then `edge queue retry --unroutable`."
            )
            yield Alert("unroutable", "route", MAJOR, each.since, text)


_TROUBLES = {
    "lost": "of which the file is gone or damaged cannot be sent any more; send the study from the scanner again:"
    " `edge instances list --state lost` names the studies.",
    "conflict": "came with other bytes under a known SOP Instance UID; both versions are kept:"
    " `edge instances list --state conflict`, then `edge queue release` for what is to be sent.",
    "quarantined": "could not be read or trusted and went nowhere, but the bytes are kept and the scanner was told:"
    " `edge instances list --state quarantined` says why.",
}
_KINDS = {"lost": "lost", "conflict": "conflict", "quarantined": "quarantine"}


def _troubles(seen: Observed) -> Iterator[Alert]:
    for each in seen.troubles:
        severity = CRITICAL if each.state == "lost" and each.undelivered else MINOR
        text = f"{counted(each.count, 'image')} {_TROUBLES[each.state]}"
        if each.state == "lost" and not each.undelivered:
            text = (
                f"{counted(each.count, 'image')} lost the file kept here, but every destination has confirmed having"
                " it: see `edge instances list --state lost`, and look at the disk."
            )
        yield Alert(_KINDS[each.state], "instances", severity, each.since, text)


def _unknown_equipment(seen: Observed) -> Iterator[Alert]:
    for each in seen.strangers[:MAX_STRANGERS]:
        title, address = printable(each.ae_title), printable(each.address)
        text = (
            f'Unknown equipment "{title}" at {address} called and was refused, so nothing that it sends arrives; if it'
            " is yours, name its AE title in a [modality.NAME], then `edge check` and `systemctl reload edge`."
        )
        if "certificate" in each.why or "TLS" in each.why:
            text = (
                f'"{title}" at {address} called and was refused: {printable(each.why)}. Nothing that it sends arrives'
                " until its certificate and the `certificate` of its table agree."
            )
        yield Alert("unknown-equipment", f"{title}@{address}", MINOR, each.first_seen, text)
    if more := seen.strangers[MAX_STRANGERS:]:
        text = (
            f"{counted(len(more), 'further unknown caller')} {'was' if len(more) == 1 else 'were'} refused; so many"
            " look like a port scan: look at the firewall in front of the DICOM port, and at `journalctl -u edge`."
        )
        yield Alert("unknown-equipment", "others", MINOR, min(each.first_seen for each in more), text)


def _configuration_rejected(seen: Observed) -> Iterator[Alert]:
    if seen.rejected_at is not None:
        text = (
            "The new configuration has mistakes, so the one before it stays in force and images go their way as"
            " before: `edge check` names every mistake; then `systemctl reload edge`."
        )
        yield Alert("configuration-rejected", "configuration", MINOR, seen.rejected_at, text)


_RULES: tuple[Callable[[Observed], Iterator[Alert]], ...] = (
    _storage_unhealthy,
    _storage_refusing,
    _troubles,
    _destination_down,
    _destination_removed,
    _work_held,
    _unroutable,
    _configuration_rejected,
    _storage_filling,
    _unknown_equipment,
)
