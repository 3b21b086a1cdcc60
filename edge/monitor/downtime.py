"""The time in which no gateway ran: found at the next start, from the last sign of life.

A run leaves its marks in the catalog (table gateway): `boot_id` and `alive_at` while it runs, `stopped_at` at an
orderly stop, `failed` with the place of a fault that ended it; and each second it touches its lock file: that mark is
lost only with the machine's power. Python writes into `fatal.log` when a signal such as SIGSEGV ends it, systemd's
ExecStopPost into `ended` how the service ended ($SERVICE_RESULT). `find_downtime` is pure.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from edge.config.maintenance import PlannedWork
from edge.store.database import Transaction
from edge.store.downtimes import Downtime, all_downtimes
from edge.store.gateway_values import recall_all

log = logging.getLogger(__name__)

ORDERLY_STOP, CRASH, KILLED, MEMORY, POWER, REBOOT = "stopped", "crash", "killed", "out of memory", "power", "reboot"
#: systemd.exec(5), $SERVICE_RESULT.
RESULTS = {"oom-kill": MEMORY, "core-dump": CRASH, "exit-code": CRASH, "watchdog": CRASH}

FATAL, ENDED = "fatal.log", "ended"
SHOWN = 10
#: Downtimes with less between them are reported as one.
LOOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of the last run. Times in seconds since 1970; None: no such mark."""

    alive_at: float | None = None  # the latest of all signs of life
    stopped_at: float | None = None
    boot_id: str = ""
    failed: str = ""  # where a fault of ours ended it
    fatal: bool = False  # Python reports that a signal such as SIGSEGV ended it
    result: str = ""  # as systemd reports it


def find_downtime(last: Marks, boot_id: str, now: float) -> Downtime | None:
    """The downtime that ends now; None at the first start, or where the clock was set back."""
    in_order = last.stopped_at is not None and last.stopped_at >= (last.alive_at or 0.0)
    began = last.stopped_at if in_order else last.alive_at
    if began is None or began > now:
        return None
    rebooted = bool(last.boot_id) and last.boot_id != boot_id
    if in_order:
        return Downtime(began, now, REBOOT if rebooted else ORDERLY_STOP, planned=not rebooted)
    if rebooted:
        return Downtime(began, now, POWER, planned=False)
    if last.failed or last.fatal:
        return Downtime(began, now, CRASH, False, last.failed or "Python was ended by a signal; see fatal.log")
    return Downtime(began, now, RESULTS.get(last.result, KILLED), planned=False)


def apply_plan(found: Downtime | None, windows: Iterable[PlannedWork]) -> Downtime | None:
    """A downtime during planned work is planned, however it began."""
    if found is None or found.planned:
        return found
    plan = next((each for each in windows if each.covers(found.began, found.ended)), None)
    return found if plan is None else replace(found, planned=True, detail=f"maintenance.{plan.name}: {plan.reason}")


def marks(conn: Transaction, data_dir: Path, touched_at: float) -> Marks:
    """Read the marks; `touched_at` is when the lock file was last touched."""
    values = recall_all(conn)
    if "started_at" not in values and "alive_at" not in values:
        return Marks()
    alive = [float(values[name]) for name in ("started_at", "alive_at") if name in values]
    return Marks(
        alive_at=max([*alive, touched_at]),
        stopped_at=float(values["stopped_at"]) if "stopped_at" in values else None,
        boot_id=values.get("boot_id", ""),
        failed=values.get("failed", ""),
        fatal=_read(data_dir / FATAL).startswith("Fatal Python error"),
        result=_result(_read(data_dir / ENDED)),
    )


def _result(ended: str) -> str:
    """How the service ended, as systemd reports it; `signal KILL oom_kill 1`: the kernel, for lack of memory."""
    result, status, count = [*ended.replace("oom_kill ", "").split(), "", "", ""][:3]
    return "oom-kill" if (result, status) == ("signal", "KILL") and count not in ("", "0") else result


def latest_downtimes(conn: Transaction) -> tuple[Downtime, ...]:
    """The last downtimes, the latest first."""
    return tuple(islice(all_downtimes(conn), SHOWN))


def last_unplanned(conn: Transaction) -> Downtime | None:
    """The last downtime without an orderly stop; a gateway that ends again and again has one, from the first end on."""
    found: Downtime | None = None
    for each in all_downtimes(conn):
        if each.planned:
            continue
        if found is not None and found.began - each.ended > LOOP_SECONDS:
            break
        found = replace(found or each, began=each.began, detail="")
    return found


def clear(data_dir: Path) -> None:
    """Delete the marks in files: they are of the previous run."""
    (data_dir / ENDED).unlink(missing_ok=True)
    (data_dir / FATAL).unlink(missing_ok=True)


def touch(lock: int, now: float) -> None:
    """Leave a sign of life without a transaction."""
    try:
        os.utime(lock, (now, now))
    except OSError:
        pass  # a read-only or broken disk: it is reported elsewhere


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")[:4096]
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("%s, which may say how the last run ended, cannot be read: %s", path.name, error.strerror)
        return ""
