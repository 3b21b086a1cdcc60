"""What a person should know, and what to type about it. Pure: facts in, alerts out.

A rule says what is wrong now, in three parts of one sentence: what, what it means for the patients' images, what to do.
How long it must hold before anybody is told, and when it is over, is edge.ops.watch's; thresholds are those of
edge.config.alarms, as the site's [alert.KIND] change them. `major` and `critical` mean that images do not reach, or
will soon not reach, where they should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge.clock import Correction
from edge.config.alarms import CRITICAL, KINDS, MAJOR, MINOR, SEVERITIES, Alarm
from edge.config.sections import Storage as Marks
from edge.errors import Cause
from edge.hindrance import Hindrance, Verdict, remedy_of, verdict_of, words_of
from edge.ops.facts import (
    REFUSING,
    Alert,
    Clock,
    Destination,
    Downtime,
    Held,
    Modality,
    Storage,
    Stranger,
    Trouble,
    Waiting,
)
from edge.ops.words import counted, iso, percent, printable, size, span

URGENCY = tuple(reversed(SEVERITIES))
#: More strangers than this are told in one alert: a port scan must not bury the rest.
MAX_STRANGERS = 10
#: What is told of an event for so long, unless it is acknowledged: a downtime, new equipment.
DOWNTIME_SECONDS, NEW_SECONDS = 24 * 3600.0, 7 * 86400.0
#: A clock that nothing sets is told once the gateway has run for so long: after a boot it takes its time.
UNSET_SECONDS = 3600.0
NO_CLOCK = Clock()
#: Who is let in by `[listen] unknown = "accept"` alone (edge.receive.admit).
UNNAMED = "(unknown)"
LAST_WEEK = 7 * 86400.0
#: An open alert stays until its threshold is passed by a quarter, and the disk by two points: no flapping.
SLACK, DISK_SLACK = 1.25, 0.02


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
    hindrances: tuple[Hindrance, ...] = ()  # what refuses scanners, beside a failed storage
    rejected_at: float | None = None
    ledger_broken: str = ""
    modalities: Sequence[Modality] = ()
    downtime: Downtime | None = None  # the last that was not planned
    clock: Clock = NO_CLOCK
    disk_faults: Sequence[str] = ()
    certificates: Mapping[str, float] = field(default_factory=dict)
    outbox: Mapping[str, Waiting] = field(default_factory=dict)
    uptime_seconds: float = 0.0
    clock_leap_seconds: float = 0.0
    correction: Correction | None = None  # the last of times that a wrong clock had written
    alarms: Mapping[str, Alarm] = field(default_factory=lambda: KINDS)
    open: frozenset[tuple[str, str]] = frozenset()  # (kind, subject) of the alerts that were told

    def threshold(self, kind: str) -> float:
        return self.alarms[kind].threshold

    def is_open(self, kind: str, subject: str) -> bool:
        return (kind, subject) in self.open

    def slack(self, kind: str, subject: str) -> float:
        """What a threshold is multiplied with that is exceeded from below."""
        return SLACK if self.is_open(kind, subject) else 1.0


def alerts(seen: Observed) -> tuple[Alert, ...]:
    """Every alert of the kinds that are enabled, the most severe first."""
    found = [_as_configured(alert, seen.alarms[alert.kind]) for rule in _RULES for alert in rule(seen)]
    shown = [alert for alert in found if seen.alarms[alert.kind].enabled]
    return tuple(sorted(shown, key=lambda alert: URGENCY.index(alert.severity)))


def _as_configured(alert: Alert, alarm: Alarm) -> Alert:
    return replace(alert, severity=alarm.fixed) if alarm.fixed else alert


# -- storage -----------------------------------------------------------------------------------------------------------


def _storage_unhealthy(seen: Observed) -> Iterator[Alert]:
    if seen.unhealthy:
        yield Alert(
            "storage-unhealthy",
            "storage",
            CRITICAL,
            seen.since or seen.now,
            f"Scanners are refused because the storage failed ({seen.unhealthy})",
            "images accepted before are kept",
            "mend the disk, then `systemctl restart edge`, which looks at every file again",
        )


def _storage_refusing(seen: Observed) -> Iterator[Alert]:
    found = seen.hindrances or tuple(_marks_passed(seen))
    if seen.unhealthy or not (found or seen.state == REFUSING):
        return
    why = " and ".join(dict.fromkeys(map(why_refused, found))) or "; ".join(seen.reasons) or "there is no room"
    since = seen.since if seen.state == REFUSING else seen.storage.above_since
    is_room = not found or any(verdict_of(each.cause) is Verdict.FULL for each in found)
    yield Alert(
        "storage-refusing",
        "storage",
        CRITICAL,
        since or seen.now,
        f"Scanners are refused because {why}",
        "images accepted before are safe, and receiving resumes by itself"
        f" {'once there is room' if is_room else 'when that is over'}",
        _what_helps(found),
    )


def _marks_passed(seen: Observed) -> Iterator[Hindrance]:
    """What the file system itself says, while nobody runs who could be asked."""
    storage, mark = seen.storage, seen.marks.refuse
    for cause, used in ((Cause.BYTES, storage.used_fraction), (Cause.INODES, storage.used_inodes_fraction)):
        if used >= mark:
            yield Hindrance(cause, seen.now, used, mark)


def why_refused(found: Hindrance) -> str:
    """After "because"."""
    if found.cause is Cause.BYTES and found.used is not None:
        return f"the disk is {percent(found.used)} full"
    if found.cause is Cause.INODES and found.used is not None:
        return f"{percent(found.used)} of the inodes of the file system are used"
    return f"the gateway is {words_of(found.cause)}"


def _what_helps(found: Sequence[Hindrance]) -> str:
    others = [remedy_of(each.cause) for each in found if each.cause is not Cause.BYTES]
    if others:
        return "; ".join(dict.fromkeys(others))
    return "free some on the disk of data_dir, or see with `edge queue list` what keeps images here"


def _storage_filling(seen: Observed) -> Iterator[Alert]:
    storage, left = seen.storage, seen.storage.full_in_seconds
    warn = seen.marks.warn - DISK_SLACK * seen.is_open("storage-filling", "storage")
    within = seen.threshold("storage-filling") * seen.slack("storage-filling", "storage")
    soon = left is not None and left < within
    fullest = max(storage.used_fraction, storage.used_inodes_fraction)
    if fullest >= seen.marks.refuse or not (soon or fullest >= warn):
        return
    forecast = f"at this rate scanners are refused in {span(left)}" if left is not None else "it is not growing now"
    few = storage.used_inodes_fraction >= warn
    inodes = f", {percent(storage.used_inodes_fraction)} of its inodes are used" if few else ""
    yield Alert(
        "storage-filling",
        "storage",
        MAJOR if soon else MINOR,
        storage.above_since or seen.now,
        f"The disk is {percent(storage.used_fraction)} full with {size(storage.free_bytes)} free{inodes},"
        f" and {forecast}",
        "images are safe",
        "free room, shorten retention.keep, or see with `edge queue list` what keeps images here",
    )


def _disk_failing(seen: Observed) -> Iterator[Alert]:
    if seen.disk_faults:
        yield Alert(
            "disk-failing",
            "storage",
            MAJOR,
            seen.now,
            f"The disk of data_dir has faults: {', '.join(seen.disk_faults)}",
            "images are still taken and forwarded, but what waits here may be lost with the disk",
            "look at `journalctl -k`, let the backlog drain, and replace the disk",
        )


def _ledger_broken(seen: Observed) -> Iterator[Alert]:
    if seen.ledger_broken:
        yield Alert(
            "ledger-broken",
            "ledger",
            CRITICAL,
            seen.now,
            f"The custody ledger is not what was written ({seen.ledger_broken})",
            "images go their way, but what the ledger says of them is no evidence",
            "keep a copy of the data directory, see `edge ledger verify`, and find out who could write there",
        )


_TROUBLES = {
    "lost": (
        "lost",
        "of which the file is gone or damaged",
        "these cannot be sent any more",
        "send the studies from the scanner again; `edge instances list --state lost` names them",
    ),
    "conflict": (
        "conflict",
        "came with other bytes under a known SOP Instance UID",
        "both versions are kept",
        "`edge instances list --state conflict`, then `edge queue release` for what is to be sent",
    ),
    "quarantined": (
        "quarantine",
        "could not be read or trusted and went nowhere",
        "the bytes are kept and the scanner was told",
        "`edge instances list --state quarantined` says why",
    ),
}


def _troubles(seen: Observed) -> Iterator[Alert]:
    for each in seen.troubles:
        kind, what, means, do = _TROUBLES[each.state]
        severity = CRITICAL if each.state == "lost" and each.undelivered else MINOR
        if each.state == "lost" and not each.undelivered:
            means = "every destination has confirmed having them"
            do = "see `edge instances list --state lost`, and look at the disk"
        yield Alert(kind, "instances", severity, each.since, f"{counted(each.count, 'image')} {what}", means, do)


# -- destinations ------------------------------------------------------------------------------------------------------


def _destination_down(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        if each.configured and each.state == "down":
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            yield Alert(
                "destination-down",
                each.name,
                MAJOR,
                each.since or seen.now,
                f"Destination {each.name} does not answer{why}",
                _what_waits(each),
                f"try `edge echo {each.name}`",
            )


def _what_waits(each: Destination) -> str:
    if not each.waiting:
        return "nothing waits for it yet"
    one = each.waiting == 1
    return (
        f"{counted(each.waiting, 'image')} for it {'waits' if one else 'wait'} safely on disk and"
        f" {'goes by itself' if one else 'go by themselves'} when it answers"
    )


def _destination_removed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        left = each.waiting + each.held + each.sent - each.confirmed
        if not each.configured and left:
            yield Alert(
                "destination-removed",
                each.name,
                MAJOR,
                each.since or seen.now,
                f"Destination {each.name} is no longer configured, but {counted(left, 'image')} for it cannot be"
                " finished without it",
                "they are safe on disk",
                f"put [destination.{each.name}] back and reload; if it has another name now, `edge destination rename"
                f" {each.name} NEW`; if it is gone, `edge destination retire {each.name} --reason TEXT`",
            )


def _backlog_old(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        oldest, limit = each.oldest_seconds, seen.threshold("backlog-old")
        if each.configured and each.state == "up" and oldest is not None and oldest > limit:
            rate = f"; it takes {size(each.rate)} a second" if each.rate else ""
            yield Alert(
                "backlog-old",
                each.name,
                MAJOR,
                seen.now - oldest + limit,
                f"The oldest of {counted(each.waiting, 'image')} for {each.name} has waited for {span(oldest)}",
                f"they are safe on disk and arrive late{rate}",
                f"`edge queue list --destination {each.name}` says what waits and why; then look at the line to it",
            )


def _unconfirmed(seen: Observed) -> Iterator[Alert]:
    for each in seen.destinations:
        lag, limit = each.confirm_lag_seconds, seen.threshold("unconfirmed")
        if each.proves and lag is not None and lag > limit:
            yield Alert(
                "unconfirmed",
                each.name,
                MAJOR,
                seen.now - lag + limit,
                f"{each.name} has not proved {counted(each.unconfirmed, 'image')} that it took, the oldest for"
                f" {span(lag)}",
                "they stay on disk until it does, and the disk fills",
                f"`edge echo {each.name}`, then ask its administrator whether it answers storage commitment or queries",
            )


def _work_held(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if each.destination:
            reason = printable(each.reason) or "no reason noted"
            yield Alert(
                "work-held",
                each.destination,
                MAJOR,
                each.since,
                f"{counted(each.count, 'image')} for {each.destination} held for a person to decide ({reason})",
                "safe on disk",
                f"`edge queue list --state held --destination {each.destination}`, then `edge queue retry"
                f" --destination {each.destination}`",
            )


def _unroutable(seen: Observed) -> Iterator[Alert]:
    for each in seen.held:
        if not each.destination:
            yield Alert(
                "unroutable",
                "route",
                MAJOR,
                each.since,
                f"{counted(each.count, 'image')} that no route matches {'stays' if each.count == 1 else 'stay'} here",
                "safe on disk, but going nowhere until there is a [route]",
                "`edge queue list --unroutable`, add the route, reload, then `edge queue retry --unroutable`",
            )


# -- equipment ---------------------------------------------------------------------------------------------------------


def _remedy(why: str) -> str:
    if "certificate" in why or "TLS" in why:
        return f"{printable(why)}: its certificate and the `certificate` of its [modality.NAME] have to agree"
    return "if it is yours, name its AE title in a [modality.NAME], then `edge check` and `systemctl reload edge`"


def _unknown_equipment(seen: Observed) -> Iterator[Alert]:
    strangers = sorted(seen.strangers, key=lambda each: each.first_seen)  # the first stay the first: told once
    for each in strangers[:MAX_STRANGERS]:
        title, address = printable(each.ae_title), printable(each.address)
        yield Alert(
            "unknown-equipment",
            f"{title}@{address}",
            MINOR,
            each.first_seen,
            f'Unknown equipment "{title}" at {address} called and was refused',
            "nothing that it sends arrives",
            _remedy(each.why),
        )
    if more := strangers[MAX_STRANGERS:]:
        yield Alert(
            "unknown-equipment",
            "others",
            MINOR,
            min(each.first_seen for each in more),
            f"{counted(len(more), 'further unknown caller')} {'was' if len(more) == 1 else 'were'} refused",
            "so many look like a port scan",
            "look at the firewall in front of the DICOM port, and at `journalctl -u edge`",
        )


def _new_modality(seen: Observed) -> Iterator[Alert]:
    begin = seen.threshold("new-modality")
    new = [each for each in seen.modalities if each.admitted and begin <= seen.now - each.first_seen < NEW_SECONDS]
    named = [each for each in new if each.name != UNNAMED]
    others = sorted((each for each in new if each.name == UNNAMED), key=lambda each: each.first_seen)
    for each in (*named, *others[:MAX_STRANGERS]):
        title, address = printable(each.ae_title), printable(each.address)
        made = " ".join(name for name in (each.manufacturer, each.model) if name)
        yield Alert(
            "new-modality",
            f"{title}@{address}",
            MINOR,
            each.first_seen,
            f'New equipment "{title}" at {address} ({made or "of unknown make"}) called for the first time',
            f"its images are taken and routed{f' as [modality.{each.name}]' if each in named else ''}",
            "tell the central office if it was not announced; `edge alerts ack` ends this remark",
            ended=each.first_seen,
        )
    if more := others[MAX_STRANGERS:]:
        first = more[0].first_seen
        what = f"{counted(len(more), 'further new caller')} that no [modality] names"
        do = 'set [listen] unknown = "refuse", and name your equipment'
        yield Alert("new-modality", "others", MINOR, first, what, "what they send is taken and routed", do, ended=first)


def _modality_silent(seen: Observed) -> Iterator[Alert]:
    told = set()
    for each in seen.modalities:
        if each.admitted and each.missed_at is not None and each.ae_title not in told:
            told.add(each.ae_title)
            title = printable(each.ae_title)
            last = f", last heard {iso(each.last_stored)}" if each.last_stored else ""
            yield Alert(
                "modality-silent",
                title,
                MINOR,
                each.missed_at,
                f'"{title}" has not sent today though it always does ({each.usual}{last})'
                if each.usual
                else f'"{title}" has not sent though it should have{last}',
                "if it was used, its images are still on the scanner",
                "look at its send queue and its network; a day off belongs into [calendar] holidays",
            )


# -- the gateway itself ------------------------------------------------------------------------------------------------

_WHY = {
    "crash": "it crashed",
    "killed": "it was killed",
    "out of memory": "the system killed it for want of memory",
    "power": "the machine lost power or was reset",
    "reboot": "the machine was rebooted",
}


def _unscheduled_downtime(seen: Observed) -> Iterator[Alert]:
    last = seen.downtime
    if last is None or seen.now - last.ended >= DOWNTIME_SECONDS:
        return
    yield Alert(
        "unscheduled-downtime",
        "gateway",
        MINOR,
        last.began,
        f"The gateway was down from {iso(last.began)} to {iso(last.ended)} ({span(last.seconds)}):"
        f" {_WHY.get(last.why, last.why)}",
        "nothing accepted before was lost, and scanners kept what they could not send",
        "see `journalctl -u edge` for the cause; `edge alerts ack` ends this remark",
        ended=last.ended,
    )


def _clock_skew(seen: Observed) -> Iterator[Alert]:
    clock, limit = seen.clock, seen.threshold("clock-skew") / seen.slack("clock-skew", "clock")
    off, leap = abs(clock.offset_seconds or 0.0), seen.clock_leap_seconds
    unset = clock.synchronized is False and seen.uptime_seconds >= UNSET_SECONDS
    if leap:
        what = f"The system's clock went ahead by {span(leap)}, and no time server confirms it"
    else:
        what = "Nothing sets the system's clock" if unset else f"The system's clock is off by {off:.1f} s"
    if leap or unset or off > limit:
        yield Alert(
            "clock-skew",
            "clock",
            MINOR,
            seen.now,
            what,
            "images are not touched, but the times in proofs and logs cannot be trusted",
            "`timedatectl` says more; set up an NTP server in /etc/systemd/timesyncd.conf or chrony",
        )


def _clock_was_wrong(seen: Observed) -> Iterator[Alert]:
    found = seen.correction
    if found is None or not 0 <= seen.now - found.at < DOWNTIME_SECONDS:
        return
    yield Alert(
        "clock-was-wrong",
        "clock",
        MINOR,
        found.at,
        f"{counted(found.rows, 'stored time')} lay in the future, the furthest {span(found.ahead_seconds)} ahead: the"
        " clock was wrong when they were written",
        "no image is lost; what waited for these times waits no longer, but records of that period have wrong times",
        "`timedatectl` shows whether a time server sets the clock; `edge alerts ack` ends this notice",
        ended=found.at,
    )


def _certificate_expiring(seen: Observed) -> Iterator[Alert]:
    for subject, expires in seen.certificates.items():
        left = expires - seen.now
        if left < seen.threshold("certificate-expiring"):
            when = f"ends in {span(left)}, on {iso(expires)}" if left > 0 else f"ended on {iso(expires)}"
            yield Alert(
                "certificate-expiring",
                subject,
                MAJOR if left < LAST_WEEK else MINOR,
                expires - seen.threshold("certificate-expiring"),
                f"The TLS certificate of {subject} {when}",
                "from then on connections that use it fail, and images for it wait safely on disk",
                "put a new certificate in its place, then `systemctl reload edge`",
            )


def _configuration_rejected(seen: Observed) -> Iterator[Alert]:
    if seen.rejected_at is not None:
        yield Alert(
            "configuration-rejected",
            "configuration",
            MINOR,
            seen.rejected_at,
            "The new configuration has mistakes, so the one before it stays in force",
            "images go their way as before",
            "`edge check` names every mistake; then `systemctl reload edge`",
        )


def _channel_stuck(seen: Observed) -> Iterator[Alert]:
    limit = seen.threshold("channel-stuck")
    for channel, each in seen.outbox.items():
        if each.waiting and each.oldest_seconds > limit:
            since, age = seen.now - each.oldest_seconds + limit, span(each.oldest_seconds)
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            what = f"Nothing gets to {channel}: {counted(each.waiting, 'message')}, the oldest for {age}{why}"
            do = f"`edge notify test {channel}` says what is wrong"
        elif each.parked:
            since, was = seen.now, "was" if each.parked == 1 else "were"
            what = f"{counted(each.parked, 'message')} to {channel} {was} refused for good"
            do = f"`edge notify list` says why, then `edge notify retry {channel}`"
        else:
            continue
        means = "images go their way, but this channel does not hear of trouble"
        yield Alert("channel-stuck", channel, MINOR, since, what, means, do)


_RULES: tuple[Callable[[Observed], Iterator[Alert]], ...] = (
    _storage_unhealthy,
    _storage_refusing,
    _disk_failing,
    _ledger_broken,
    _troubles,
    _destination_down,
    _destination_removed,
    _backlog_old,
    _work_held,
    _unroutable,
    _unconfirmed,
    _certificate_expiring,
    _configuration_rejected,
    _channel_stuck,
    _storage_filling,
    _clock_skew,
    _clock_was_wrong,
    _unscheduled_downtime,
    _modality_silent,
    _unknown_equipment,
    _new_modality,
)
