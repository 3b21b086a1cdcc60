"""One reading of the gateway's health, for the command, the console, the heartbeat: they all tell the same.

Reads only, in milliseconds; what the catalog cannot know (`Live`) is handed in. `as_json` is its form for programs.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import __version__
from edge.config.alarms import KINDS, alarms
from edge.config.sections import Config
from edge.hindrance import Hindrance
from edge.model import Disk
from edge.monitor import backlog, downtime, equipment, forecast, mismatches
from edge.monitor.alerts import Observed, alerts
from edge.monitor.snapshot_model import (
    DOWN,
    Alert,
    Backfill,
    ChannelBacklog,
    Deferred,
    Destination,
    Downtime,
    Held,
    Instances,
    Live,
    Machine,
    Modality,
    Snapshot,
    Storage,
)
from edge.store import clock, outbox, patients
from edge.store.alert_records import AlertRecord, records
from edge.store.database import Connection
from edge.text import iso, iso_or_none

#: An event is told no longer than so; afterwards nobody asks whether it was told already.
EVENT_SECONDS = 8 * 86400.0


def snapshot(conn: Connection, config: Config, disk: Disk, live: Live, now: float) -> Snapshot:
    """Read everything once. `conn` should be inside one read transaction, so that the numbers fit together."""
    rules = alarms(config.alerts)
    tally, counts = backlog.deliveries(conn), backlog.instances(conn)
    ages = backlog.oldest(conn, tally)
    machine = live.machine or Machine()
    late = rules["modality-silent"].threshold
    rhythms = equipment.rhythms(conn, config, late, now) if live.rhythms is None else live.rhythms
    seen = Snapshot(
        at=now,
        site_id=config.site.id,
        site_name=config.site.name,
        version=__version__,
        state=live.state,
        since=live.since if live.state != DOWN else _last_alive(conn),
        reasons=live.reasons,
        uptime_seconds=live.uptime_seconds,
        instances=backlog.sum_instances(counts),
        queue=backlog.queue(tally, ages, now),
        destinations=tuple(backlog.destinations(conn, config, live, tally, ages, now)),
        storage=_storage(config, disk, live.usage),
        alerts=(),
        modalities=tuple(equipment.modalities(conn, config, rhythms)),
        held=tuple(backlog.held(conn, tally)),
        deferred=tuple(backlog.deferred(conn, tally)),
        downtimes=downtime.latest(conn),
        clock=machine.clock,
        hindrances=live.hindrances,
        outbox=_outbox(conn, now),
        **_ledger(conn),
        versions=_versions(conn),
        backfill=_backfill(conn),
    )
    known = [each for each in records(conn, now - EVENT_SECONDS) if each.kind in KINDS]
    observed = Observed(
        now=now,
        state=seen.state,
        reasons=seen.reasons,
        hindrances=live.hindrances,
        unhealthy=live.unhealthy,
        rejected_at=live.rejected_at,
        ledger_broken=live.ledger_broken,
        unkept=live.unkept,
        since=seen.since,
        storage=seen.storage,
        marks=config.storage,
        destinations=seen.destinations,
        held=seen.held,
        troubles=tuple(backlog.troubles(conn, counts)),
        strangers=backlog.strangers(conn, now),
        mismatches=mismatches.count(conn, tally),
        modalities=seen.modalities,
        downtime=downtime.unplanned(conn),
        clock=seen.clock,
        disk_faults=machine.disk_faults,
        certificates=live.certificates,
        outbox=seen.outbox,
        uptime_seconds=live.uptime_seconds,
        keeping=backlog.keeping(conn, config, tally, counts),
        clock_leap_seconds=live.clock_leap_seconds,
        correction=clock.last_correction(conn),
        alarms=rules,
        open=frozenset((each.kind, each.subject) for each in known if each.told and each.ended_at is None),
    )
    return replace(seen, alerts=tuple(_with_records(alerts(observed), known)))


def _with_records(found: Iterable[Alert], known: Iterable[AlertRecord]) -> Iterable[Alert]:
    """What is known of each alert; without the events that are over."""
    open_ones = {(each.kind, each.subject): each for each in known if each.ended_at is None}
    events = (each for each in known if each.ended_at is not None and KINDS[each.kind].event)
    over = {(each.kind, each.subject, each.since) for each in events}
    for alert in found:
        record = open_ones.get((alert.kind, alert.subject))
        if record is not None:
            yield replace(
                alert,
                since=alert.since if KINDS[alert.kind].event else min(alert.since, record.since),
                id=record.id,
                acknowledged=record.acknowledged_by,
                escalated=record.escalated_at is not None,
            )
        elif (alert.kind, alert.subject, alert.since) not in over:
            yield alert


def _last_alive(conn: Connection) -> float | None:
    """When the daemon was last known to live, as it has noted itself."""
    rows = conn.execute("SELECT value FROM gateway WHERE name IN ('alive_at', 'stopped_at')")
    return max((float(row[0]) for row in rows), default=None)


def _outbox(conn: Connection, now: float) -> dict[str, ChannelBacklog]:
    return {
        channel: ChannelBacklog(found.count, now - (found.oldest_at or now), found.last_error, found.parked)
        for channel, found in outbox.backlogs(conn).items()
    }


def _backfill(conn: Connection) -> Backfill | None:
    found = patients.backfill(conn)
    return Backfill(**found) if found else None


def _ledger(conn: Connection) -> dict[str, Any]:
    row = conn.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return {"ledger_seq": row["seq"], "ledger_head": row["hash"].hex()} if row else {}


def _versions(conn: Connection) -> dict[str, str]:
    return {
        "edge": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "catalog": str(conn.execute("PRAGMA user_version").fetchone()[0]),
        "kernel": platform.release(),
    }


# -- the disk ----------------------------------------------------------------------------------------------------------


def disk_of(path: Path) -> Disk:
    """The file system that holds `path`, or its nearest parent that exists, as `df` sees it."""
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return disk_of(path.parent)
    used = found.f_blocks - found.f_bfree
    return Disk(
        (used + found.f_bavail) * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_files - found.f_ffree + found.f_favail if found.f_files else 0,
        found.f_favail,
        bool(found.f_flag & os.ST_RDONLY),
    )


def _storage(config: Config, disk: Disk, usage: forecast.Usage) -> Storage:
    marks, total = config.storage, disk.total_bytes
    full = disk.fullest >= marks.refuse
    left = 0.0 if full else forecast.full_in_seconds(usage, marks.refuse * total)
    above = forecast.above_since(usage, marks.warn * total)
    return Storage(disk.used_fraction, disk.free_bytes, left, above, total, disk.used_inodes_fraction)


# -- for programs ------------------------------------------------------------------------------------------------------


def as_json(seen: Snapshot) -> dict[str, Any]:
    """What `edge status --json` and /api/status say. Stable: keys are added, never changed."""
    return {
        "site": {"id": seen.site_id, "name": seen.site_name},
        "version": seen.version,
        "state": seen.state,
        "since": iso_or_none(seen.since),
        "reasons": list(seen.reasons),
        "refusing": [_hindrance_json(each) for each in seen.hindrances],
        "uptime_seconds": round(seen.uptime_seconds, 1),
        "instances": _instances_json(seen.instances),
        "queue": {
            "pending": seen.queue.pending,
            "active": seen.queue.active,
            "deferred": seen.queue.deferred,
            "held": seen.queue.held,
            "bytes": seen.queue.bytes,
            "oldest_seconds": _rounded(seen.queue.oldest_seconds),
        },
        "destinations": {each.name: _destination_json(each) for each in seen.destinations},
        "storage": {
            "used_fraction": round(seen.storage.used_fraction, 4),
            "free_bytes": seen.storage.free_bytes,
            "full_in_seconds": _rounded(seen.storage.full_in_seconds),
            "total_bytes": seen.storage.total_bytes,
        },
        "alerts": [_alert_json(each) for each in seen.alerts],
        "modalities": [_modality_json(each) for each in seen.modalities],
        "held": [_held_json(each) for each in seen.held],
        "deferred": [_deferred_json(each) for each in seen.deferred],
        "downtimes": [_downtime_json(each) for each in seen.downtimes],
        "clock": {
            "synchronized": seen.clock.synchronized,
            "offset_seconds": None if seen.clock.offset_seconds is None else round(seen.clock.offset_seconds, 6),
        },
        "outbox": {channel: _waiting_json(each) for channel, each in seen.outbox.items()},
        "ledger": {"seq": seen.ledger_seq, "head": seen.ledger_head},
        "versions": dict(seen.versions),
        "backfill": None if seen.backfill is None else _backfill_json(seen.backfill),
    }


def _backfill_json(seen: Backfill) -> dict[str, Any]:
    return {
        "read": seen.read,
        "of": seen.last,
        "unreadable": seen.unreadable,
        "finished_at": iso_or_none(seen.finished_at),
    }


def _hindrance_json(seen: Hindrance) -> dict[str, Any]:
    return {"cause": seen.cause.value, "since": iso(seen.since), "used_fraction": seen.used, "mark": seen.mark}


def _instances_json(seen: Instances) -> dict[str, Any]:
    return {
        "received": seen.received,
        "stored": seen.stored,
        "stored_bytes": seen.stored_bytes,
        "evicted": seen.evicted,
        "conflicts": seen.conflicts,
        "quarantined": seen.quarantined,
        "lost": seen.lost,
        "discarded": seen.discarded,
    }


def _destination_json(seen: Destination) -> dict[str, Any]:
    return {
        "state": seen.state,
        "since": iso_or_none(seen.since),
        "pending": seen.pending,
        "deferred": seen.deferred,
        "held": seen.held,
        "sent": seen.sent,
        "confirmed": seen.confirmed,
        "last_success": iso_or_none(seen.last_success),
        "last_error": seen.last_error,
        "drain_seconds": _rounded(seen.drain_seconds),
        "bytes": seen.bytes,
        "oldest_seconds": _rounded(seen.oldest_seconds),
        "rate_bytes_per_second": _rounded(seen.rate),
        "certificate_expires": iso_or_none(seen.certificate_expires),
        "unconfirmed": seen.unconfirmed,
        "confirm_lag_seconds": _rounded(seen.confirm_lag_seconds),
    }


def _alert_json(seen: Alert) -> dict[str, Any]:
    return {
        "kind": seen.kind,
        "subject": seen.subject,
        "severity": seen.severity,
        "since": iso(seen.since),
        "text": seen.text,
        "what": seen.what,
        "means": seen.means,
        "do": seen.do,
        "actions": [{"text": each.text, "command": list(each.command)} for each in seen.actions],
        "id": seen.id,
        "acknowledged": seen.acknowledged or None,
        "escalated": seen.escalated,
    }


def _modality_json(seen: Modality) -> dict[str, Any]:
    return {
        "name": seen.name,
        "ae_title": seen.ae_title,
        "address": seen.address,
        "manufacturer": seen.manufacturer,
        "model": seen.model,
        "first_seen": iso(seen.first_seen),
        "last_seen": iso(seen.last_seen),
        "stored": seen.stored,
        "last_stored": iso_or_none(seen.last_stored),
        "admitted": seen.admitted,
        "usual": seen.usual,
        "silent": seen.missed_at is not None,
        "silent_since": iso_or_none(seen.missed_at),
        "contexts": _contexts_json(seen.contexts),
    }


def _contexts_json(contexts: Iterable[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    """Most equipment offers the same transfer syntaxes for all of its SOP classes."""
    classes: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for abstract, syntaxes in contexts:
        classes[syntaxes].append(abstract)
    return [{"abstract_syntaxes": found, "transfer_syntaxes": list(each)} for each, found in classes.items()]


def _held_json(seen: Held) -> dict[str, Any]:
    return {
        "destination": seen.destination,
        "count": seen.count,
        "reason": seen.reason,
        "codes": sorted(code.value for code in seen.codes),
        "since": iso(seen.since),
    }


def _deferred_json(seen: Deferred) -> dict[str, Any]:
    return {
        "destination": seen.destination,
        "count": seen.count,
        "reason": seen.reason,
        "next_try": iso(seen.next_try),
    }


def _downtime_json(seen: Downtime) -> dict[str, Any]:
    return {
        "from": iso(seen.began),
        "to": iso(seen.ended),
        "seconds": round(seen.seconds, 1),
        "why": seen.why,
        "planned": seen.planned,
    }


def _waiting_json(seen: ChannelBacklog) -> dict[str, Any]:
    return {
        "waiting": seen.waiting,
        "oldest_seconds": round(seen.oldest_seconds, 1),
        "last_error": seen.last_error,
        "parked": seen.parked,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
