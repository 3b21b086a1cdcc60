"""When nobody served the scanners: found at the next start, from the last sign of life.

A run leaves its marks in the catalog (table gateway): `boot_id` and `alive_at` while it lives, `stopped_at` when it
stops in order, `failed` with the place of a fault that ended it; and each second it touches its lock file, which
outlives anything but a loss of power. Python writes into `fatal.log` when a signal such as SIGSEGV ends it, systemd's
ExecStopPost into `ended` how the service ended ($SERVICE_RESULT). `judge` is pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.monitor.snapshot_model import Downtime
from edge.store.database import Connection

STOPPED, CRASH, KILLED, MEMORY, POWER, REBOOT = "stopped", "crash", "killed", "out of memory", "power", "reboot"
#: systemd.exec(5), $SERVICE_RESULT.
RESULTS = {"oom-kill": MEMORY, "core-dump": CRASH, "exit-code": CRASH, "watchdog": CRASH}

FATAL, ENDED = "fatal.log", "ended"
SHOWN = 10
#: Downtimes with less between them are one piece of news.
LOOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Marks:
    """What the last run left behind. Times in seconds since 1970; None: no such mark."""

    alive_at: float | None = None  # the latest of all signs of life
    stopped_at: float | None = None
    boot_id: str = ""
    failed: str = ""  # where a fault of ours ended it
    fatal: bool = False  # Python says that a signal such as SIGSEGV ended it
    result: str = ""  # as systemd says


def find_downtime(last: Marks, boot_id: str, now: float) -> Downtime | None:
    """The downtime that ends now; None at the first start, or where the clock was set back."""
    in_order = last.stopped_at is not None and last.stopped_at >= (last.alive_at or 0.0)
    began = last.stopped_at if in_order else last.alive_at
    if began is None or began > now:
        return None
    rebooted = bool(last.boot_id) and last.boot_id != boot_id
    if in_order:
        return Downtime(began, now, REBOOT if rebooted else STOPPED, planned=not rebooted)
    if rebooted:
        return Downtime(began, now, POWER, planned=False)
    if last.failed or last.fatal:
        return Downtime(began, now, CRASH, False, last.failed or "Python was ended by a signal; see fatal.log")
    return Downtime(began, now, RESULTS.get(last.result, KILLED), planned=False)


def marks(conn: Connection, data_dir: Path, touched_at: float) -> Marks:
    """Read them; `touched_at` is when the lock file was last touched."""
    told: Mapping[str, str] = dict(conn.execute("SELECT name, value FROM gateway").fetchall())
    if "started_at" not in told and "alive_at" not in told:
        return Marks()
    alive = [float(told[name]) for name in ("started_at", "alive_at") if name in told]
    return Marks(
        alive_at=max([*alive, touched_at]),
        stopped_at=float(told["stopped_at"]) if "stopped_at" in told else None,
        boot_id=told.get("boot_id", ""),
        failed=told.get("failed", ""),
        fatal=_read(data_dir / FATAL).startswith("Fatal Python error"),
        result=_result(_read(data_dir / ENDED)),
    )


def _result(ended: str) -> str:
    """systemd's word for how the service ended; `signal KILL oom_kill 1` is the kernel's, for want of memory."""
    result, status, count = [*ended.replace("oom_kill ", "").split(), "", "", ""][:3]
    return "oom-kill" if (result, status) == ("signal", "KILL") and count not in ("", "0") else result


def begin(conn: Connection, found: Downtime | None, boot_id: str, now: float) -> None:
    """Write down the downtime that ends, and the marks of the run that begins."""
    if found is not None:
        conn.execute(
            "INSERT INTO downtime (began, ended, why, detail, planned) VALUES (?, ?, ?, ?, ?)",
            (found.began, found.ended, found.why, found.detail, found.planned),
        )
    conn.execute("DELETE FROM gateway WHERE name = 'failed'")
    facts = {"boot_id": boot_id, "started_at": str(now), "alive_at": str(now)}
    conn.executemany("INSERT OR REPLACE INTO gateway VALUES (?, ?)", facts.items())


def latest(conn: Connection) -> tuple[Downtime, ...]:
    """The last downtimes, the latest first."""
    rows = conn.execute("SELECT began, ended, why, planned, detail FROM downtime ORDER BY id DESC LIMIT ?", (SHOWN,))
    return tuple(Downtime(row[0], row[1], row[2], bool(row[3]), row[4]) for row in rows)


def unplanned(conn: Connection) -> Downtime | None:
    """The last downtime that nobody had planned; a gateway that cannot stay up has one, from the first fall on."""
    found: Downtime | None = None
    for row in conn.execute("SELECT began, ended, why FROM downtime WHERE NOT planned ORDER BY id DESC"):
        if found is not None and found.began - row[1] > LOOP_SECONDS:
            break
        found = Downtime(row[0], found.ended if found else row[1], found.why if found else row[2], planned=False)
    return found


def clear(data_dir: Path) -> None:
    """The marks in files speak of the run before: away with them."""
    (data_dir / ENDED).unlink(missing_ok=True)
    (data_dir / FATAL).unlink(missing_ok=True)


def touch(lock: int, now: float) -> None:
    """A sign of life without a transaction."""
    try:
        os.utime(lock, (now, now))
    except OSError:
        pass  # a read-only or broken disk: others say so


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")[:4096]
    except OSError:
        return ""
