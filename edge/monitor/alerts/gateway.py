"""Alerts about the gateway itself: its downtimes, clock, certificates, configuration, and messages."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config.alarms import MAJOR, MINOR
from edge.config.channels import AUDIT_CHANNEL, NOTICES
from edge.monitor.alerts.equipment import ACK, table_of
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert
from edge.network.tls import SOON_SECONDS
from edge.text import amount, moment_text, printable, span

#: A downtime is reported for this time, unless it is acknowledged.
DOWNTIME_SECONDS = 24 * 3600.0
#: A clock that nothing sets is reported once the gateway has run for this time: time servers are slow after a boot.
UNSET_SECONDS = 3600.0
LAST_WEEK = 7 * 86400.0

_WHY = {
    "crash": "it crashed",
    "killed": "it was killed",
    "out of memory": "the system killed it because memory ran out",
    "power": "the machine lost power or was reset",
    "reboot": "the machine was rebooted",
}


def unscheduled_downtime(seen: Observed) -> Iterator[Alert]:
    last = seen.downtime
    if last is None or seen.at - last.ended >= DOWNTIME_SECONDS:
        return
    yield alert(
        "gateway",
        last.began,
        f"The gateway was down from {moment_text(last.began)} to {moment_text(last.ended)} ({span(last.seconds)}):"
        f" {_WHY.get(last.why, last.why)}",
        "nothing accepted before was lost, and scanners kept what they could not send",
        Action("{} says why", ("journalctl", "-u", "edge")),
        ACK,
        ended=last.ended,
    )


def clock_skew(seen: Observed) -> Iterator[Alert]:
    clock, limit = seen.clock, seen.threshold("clock-skew") / seen.slack("clock-skew", "clock")
    off, leap = abs(clock.offset_seconds or 0.0), seen.live.clock_leap_seconds
    unset = clock.synchronized is False and seen.live.uptime_seconds >= UNSET_SECONDS
    if leap:
        what = f"The system's clock went ahead by {span(leap)}, and no time server confirms it"
    else:
        what = "Nothing sets the system's clock" if unset else f"The system's clock is off by {off:.1f} s"
    if leap or unset or off > limit:
        yield alert(
            "clock",
            seen.at,
            what,
            "images are not touched, but the times in proofs and logs cannot be trusted",
            Action("{} says more", ("timedatectl",)),
            Action("set up an NTP server in /etc/systemd/timesyncd.conf or chrony"),
        )


def clock_was_wrong(seen: Observed) -> Iterator[Alert]:
    found = seen.correction
    if found is None or not 0 <= seen.at - found.at < DOWNTIME_SECONDS:
        return
    yield alert(
        "clock",
        found.at,
        f"{amount(found.rows, 'stored time')} were in the future, the furthest {span(found.ahead_seconds)} ahead: the"
        " clock was wrong when they were written",
        "no image is lost; what waited for these times waits no longer, but records of that period have wrong times",
        Action("{} shows whether a time server sets the clock", ("timedatectl",)),
        ACK,
        ended=found.at,
    )


def certificate_expiring(seen: Observed) -> Iterator[Alert]:
    fails = "from then on connections that use it fail, and images"
    all_fail = "from then on no TLS succeeds: images stay on the scanners, or wait safely on disk for archives with TLS"
    put, have = Action("put a new one in its place"), Action("have a new certificate put in its place there")
    limit = seen.threshold("certificate-expiring")
    for subject, expires in seen.live.certificates.items():
        is_ours = subject == "listen"
        what = "Our TLS certificate" if is_ours else f"The TLS certificate of {subject}"
        means, actions = (all_fail, (put, RELOAD)) if is_ours else (f"{fails} for it wait safely on disk", (have,))
        yield from _warn_of_end(seen, subject, what, expires, limit, means, *actions)
    for name, expires in seen.caller_certificates.items():
        caller = table_of(name)
        what, means = f"The TLS certificate of {caller}", f"{fails} that it would send stay with it"
        yield from _warn_of_end(seen, caller, what, expires, limit, means, have)
    if (ends := seen.live.revocation_ends) is not None:
        subject, what = "revocation list", "Our revocation list (tls.crl)"
        yield from _warn_of_end(seen, subject, what, ends, min(limit, SOON_SECONDS["crl"]), all_fail, put, RELOAD)


def _warn_of_end(
    seen: Observed, subject: str, what: str, expires: float, limit: float, means: str, *actions: Action
) -> Iterator[Alert]:
    left = expires - seen.at
    if left >= limit:
        return
    when = f"ends in {span(left)}, on {moment_text(expires)}" if left > 0 else f"ended on {moment_text(expires)}"
    severity = MAJOR if left < LAST_WEEK else MINOR
    yield alert(subject, expires - limit, f"{what} {when}", means, *actions, severity=severity)


def configuration_rejected(seen: Observed) -> Iterator[Alert]:
    if seen.live.rejected_at is not None:
        yield alert(
            "configuration",
            seen.live.rejected_at,
            "The new configuration has mistakes, so the previous one stays active",
            "images are received and sent as before",
            Action("{} names every mistake", ("edge", "check")),
            Action("correct them"),
            RELOAD,
        )
    if seen.live.unusable_certificates is not None:
        since, why = seen.live.unusable_certificates
        yield alert(
            "certificates",
            since,
            f"The new files of [tls] cannot be used ({why}), so those before stay active",
            "images are received and sent as before, until those expire",
            Action("put certificate and key of one pair in their place"),
            Action("{} tests them", ("edge", "check"), follows=True),
            RELOAD,
        )


#: No test message goes there: an audit trail is a record, and notices leave with a heartbeat.
_UNTESTED = (AUDIT_CHANNEL, NOTICES)


def channel_stuck(seen: Observed) -> Iterator[Alert]:
    limit = seen.threshold("channel-stuck")
    for channel, each in seen.outbox.items():
        if not each.configured:
            waiting = each.waiting + each.parked
            since, wait = seen.at - each.oldest_seconds, "waits" if waiting == 1 else "wait"
            what = f"{amount(waiting, 'message')} {wait} for {channel}, which is not configured any more"
            do = [
                Action("put its table back"),
                CHECK,
                RELOAD,
                Action("or {} deletes them", ("edge", "notify", "discard", channel, "--waiting")),
            ]
        elif each.waiting and each.oldest_seconds > limit:
            since, age = seen.at - each.oldest_seconds + limit, span(each.oldest_seconds)
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            what = f"No message reaches {channel}: {amount(each.waiting, 'message')}, the oldest for {age}{why}"
            probe = ("edge", "notify", "list") if channel in _UNTESTED else ("edge", "notify", "test", channel)
            do = [Action("{} says what is wrong", probe)]
        elif each.parked:
            since, was = seen.at, "was" if each.parked == 1 else "were"
            what = f"{amount(each.parked, 'message')} to {channel} {was} refused permanently"
            do = [
                Action("{} says why", ("edge", "notify", "list")),
                Action("{}", ("edge", "notify", "retry", channel), follows=True),
                Action("or {}", ("edge", "notify", "discard", channel)),
            ]
        else:
            continue
        means = "images are received and sent as before, but this channel gets no notices"
        yield alert(channel, since, what, means, *do)


def restore_untried(seen: Observed) -> Iterator[Alert]:
    since = seen.untried_since
    if since is not None and seen.at - since >= seen.threshold("restore-untried"):
        yield alert(
            "gateway",
            since + seen.threshold("restore-untried"),
            f"No restore was tried since {moment_text(since)[:10]}",
            "images are not affected; whether a lost gateway can be brought back is not known",
            Action("try it on another machine, as the manual says (A second site)"),
            Action("{}", ("edge", "drill", "--done", "..."), follows=True),
        )
