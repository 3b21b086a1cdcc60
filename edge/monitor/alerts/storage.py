"""Alerts about the disk of data_dir, and about files on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge.config.alarms import MAJOR, MINOR
from edge.errors import Cause
from edge.errors.hindrance import CauseClass, Hindrance, classify_cause, remedy_of, words_of
from edge.monitor.alerts.observed import Observed, alert
from edge.monitor.live import REFUSING
from edge.monitor.snapshot_model import Action, Alert, Keeping
from edge.text import amount, moment_text, percent, size, span

#: An open alert about the disk stays until its use is below the mark by this fraction: no flapping.
DISK_SLACK = 0.02


def storage_unhealthy(seen: Observed) -> Iterator[Alert]:
    if seen.live.unhealthy:
        yield alert(
            "storage",
            seen.since or seen.at,
            f"Scanners are refused because the storage failed ({seen.live.unhealthy})",
            "images accepted before are kept",
            Action("repair or replace the disk"),
            Action("{}, which checks every file again", ("systemctl", "restart", "edge"), follows=True),
        )


def storage_refusing(seen: Observed) -> Iterator[Alert]:
    found = seen.live.hindrances or tuple(_list_passed_marks(seen))
    if seen.live.unhealthy or not (found or seen.live.state == REFUSING):
        return
    why = " and ".join(dict.fromkeys(map(why_refused, found))) or "; ".join(seen.live.reasons) or "there is no room"
    since = seen.since if seen.live.state == REFUSING else seen.storage.above_since
    is_room = not found or any(classify_cause(each.cause) is CauseClass.FULL for each in found)
    yield alert(
        "storage",
        since or seen.at,
        f"Scanners are refused because {why}",
        "images accepted before are safe, and receiving resumes by itself"
        f" {'once there is room' if is_room else 'when that is over'}",
        *_remedies(seen, found, is_room=is_room),
    )


def _list_passed_marks(seen: Observed) -> Iterator[Hindrance]:
    """The marks that the file system is above, while no gateway runs that could report them."""
    storage, mark = seen.storage, seen.marks.refuse
    for cause, used in ((Cause.BYTES, storage.used_fraction), (Cause.INODES, storage.used_inodes_fraction)):
        if used >= mark:
            yield Hindrance(cause, seen.at, used, mark)


def why_refused(found: Hindrance) -> str:
    """The reason of a refusal, as it continues "because"."""
    if found.cause is Cause.BYTES and found.used is not None:
        return f"the disk is {percent(found.used)} full"
    if found.cause is Cause.INODES and found.used is not None:
        return f"{percent(found.used)} of the inodes of the file system are used"
    return f"the gateway is {words_of(found.cause)}"


def _remedies(seen: Observed, found: Sequence[Hindrance], *, is_room: bool) -> Iterator[Action]:
    for words in dict.fromkeys(remedy_of(each.cause) for each in found if each.cause is not Cause.BYTES):
        yield Action(words)
    if is_room:
        yield from _reasons_to_keep(seen)


def storage_filling(seen: Observed) -> Iterator[Alert]:
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
    yield alert(
        "storage",
        storage.above_since or seen.at,
        f"The disk is {percent(storage.used_fraction)} full with {size(storage.free_bytes)} free{inodes},"
        f" and {forecast}",
        "images are safe",
        *_reasons_to_keep(seen),
        severity=MAJOR if soon else MINOR,
    )


def _reasons_to_keep(seen: Observed) -> Iterator[Action]:
    """Each reason for which stored images are kept, with a remedy; no remedy deletes files by hand."""
    kept = seen.keeping
    yield from _kept_by_rule(kept, seen.at)
    for name, n in kept.unproved.items():
        yield Action(f"{name} has not confirmed {amount(n, 'image')} that it accepted: {{}}", ("edge", "echo", name))
    for name, n in kept.waiting.items():
        yield Action(f"{_wait(n, 'image')} to be sent to {name}: {{}}", ("edge", "echo", name))
    if kept.undecided:
        words = f"{_wait(kept.undecided, 'delivery')} for a decision: {{}} names them"
        yield Action(words, ("edge", "queue", "list", "--state", "held"))
    if kept.apart_bytes:
        words = f"conflicts, quarantine and what was discarded take {size(kept.apart_bytes)}: {{}} names them"
        yield Action(words, ("edge", "instances", "list"))
    used = seen.storage.total_bytes - seen.storage.free_bytes
    if seen.storage.total_bytes and used > 2 * kept.image_bytes:
        yield Action(f"only {size(kept.image_bytes)} of {size(used)} in use are images: see what else fills the disk")
    yield Action("or give data_dir a larger file system (`edge check` says how large)")


def _wait(n: int, thing: str) -> str:
    return f"{amount(n, thing)} {'waits' if n == 1 else 'wait'}"


def _kept_by_rule(kept: Keeping, now: float) -> Iterator[Action]:
    if kept.next_at is not None and kept.next_at > now:
        yield Action(
            f"`retention.keep` ({span(kept.keep_seconds)}) keeps what every destination has confirmed, the oldest until"
            f" {moment_text(kept.next_at)}: shorten it, then {{}}",
            ("edge", "check"),
        )
        yield Action("{}", ("systemctl", "reload", "edge"), follows=True)
    for name, (seconds, until) in kept.rules.items():
        if until > now:
            yield Action(f"[retention.{name}] keeps images for {span(seconds)}, the oldest until {moment_text(until)}")
    if kept.legal:
        words = f"a legal hold keeps {amount(kept.legal, 'study')}: {{}} names them"
        yield Action(words, ("edge", "studies", "holds"))
    if kept.holds:
        yield Action(f"{', '.join(f'[{name}]' for name in kept.holds)} keeps images without end")


def disk_failing(seen: Observed) -> Iterator[Alert]:
    if seen.disk_faults:
        yield alert(
            "storage",
            seen.at,
            f"The disk of data_dir has faults: {', '.join(seen.disk_faults)}",
            "images are still received and forwarded, but what waits here may be lost with the disk",
            Action("{} says more", ("journalctl", "-k")),
            Action("let the backlog drain, and replace the disk"),
        )


def ledger_broken(seen: Observed) -> Iterator[Alert]:
    if seen.live.ledger_broken:
        yield alert(
            "ledger",
            seen.at,
            f"The custody ledger was altered or damaged ({seen.live.ledger_broken})",
            "images are received and sent as before, but the ledger is no evidence of them",
            Action("keep a copy of the data directory"),
            Action("{} says more", ("edge", "ledger", "verify")),
            Action("find out who could write there"),
        )
    if seen.live.folds_damaged:
        yield alert(
            "yearly files",
            seen.at,
            f"A yearly file of the custody ledger was altered or damaged ({seen.live.folds_damaged})",
            "images are received and sent as before, but old studies have no evidence here",
            Action("{} names each", ("edge", "verify")),
            Action("put the file back from a backup, then {}", ("systemctl", "restart", "edge")),
        )


def instances_lost(seen: Observed) -> Iterator[Alert]:
    for each in seen.exceptions_in("lost"):
        what = f"{amount(each.count, 'image')} of which the file is missing or damaged"
        listed = Action("{} names them", ("edge", "instances", "list", "--state", "lost"))
        if each.undelivered:
            again = Action("send the studies from the scanner again")
            means = "these cannot be sent any more"
            yield alert("instances", each.since, what, means, listed, again)
        else:
            means = "every destination has confirmed having them"
            disk = Action("read the kernel's messages about the disk: {}", ("journalctl", "-k"))
            settle = Action("{} ends this alert", ("edge", "alerts", "ack", "ALERT", "--note", "..."))
            yield alert("instances", each.since, what, means, listed, disk, settle, severity=MINOR)
