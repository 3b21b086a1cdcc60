"""One reading of the gateway's status, for the command, the console and the heartbeat.

Reads only, in milliseconds; what the catalog cannot know (`Live`) is an argument. Its form for programs is
edge.monitor.status_document.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import fields, replace

from edge import __version__
from edge.config.alarms import ALERT_KINDS, alarms
from edge.config.channels import all_queues
from edge.config.maintenance import PlannedWork, windows_of
from edge.config.sections import Config
from edge.model import Disk
from edge.monitor import backlog, downtime, equipment, figures, forecast, hl7_status
from edge.monitor.alerts import Observed, alerts
from edge.monitor.live import DOWN, Live
from edge.monitor.snapshot_model import (
    Alert,
    BackfillProgress,
    ChannelBacklog,
    Snapshot,
    Storage,
)
from edge.monitor.worklist import read_worklist_state
from edge.store import (
    clock,
    commitment_requests,
    drills,
    gateway_values,
    header_progress,
    identity_figures,
    imports,
    ledger,
    mismatches,
    outbox,
    peers,
    prefetch,
    retention_rules,
    samples,
    step_deliveries,
    step_images,
    tallies,
)
from edge.store import figures as stored_figures
from edge.store.alert_records import AlertRecord, records
from edge.store.database import Transaction
from edge.store.sqlite_file import ENGINE_VERSION, version_of
from edge.store.web_clients import CLIENT_PREFIX

#: An event is notified within this time after it; later it is not compared with the recorded ones.
EVENT_SECONDS = 8 * 86400.0
#: A client that has not called for this time raises no alert about its certificate.
CALLS_SECONDS = 30 * 86400.0


def snapshot(conn: Transaction, config: Config, disk: Disk, live: Live, now: float) -> Snapshot:
    """Read everything once. `conn` should be inside one read transaction, so that the numbers fit together."""
    rules = alarms(config.alerts)
    tally, counts = tallies.delivery_tally(conn), tallies.instance_tally(conn)
    ages = tallies.oldest_queued(conn, tally)
    late = rules["modality-silent"].threshold
    rhythms = equipment.rhythms(conn, config, late, now) if live.rhythms is None else live.rhythms
    head, progress = ledger.head(conn), header_progress.read_backfill(conn)
    seen = Snapshot(
        at=now,
        site_id=config.site.id,
        site_name=config.site.name,
        version=__version__,
        live=live,
        since=live.since if live.state != DOWN else _last_alive(conn),
        instances=backlog.sum_instances(counts, tallies.fetched_tally(conn)),
        queue=backlog.queue(tally, ages, now),
        destinations=tuple(backlog.destinations(conn, config, live, tally, ages, now)),
        storage=_storage(config, disk, live.usage),
        modalities=tuple(equipment.modalities(conn, config, rhythms)),
        held=tuple(backlog.list_held_work(conn, tally)),
        deferred=tuple(backlog.list_deferred_work(conn, tally)),
        downtimes=downtime.latest_downtimes(conn),
        clock=live.machine.clock,
        outbox=_outbox(conn, config, now),
        ledger_seq=head.seq,
        ledger_head=head.hash.hex() if head.seq else "",
        versions=_versions(conn),
        backfill=BackfillProgress(**progress) if progress else None,
        review=retention_rules.read_review_place(conn),
        figures=figures.summarize(conn, now),
        lossy=tuple(stored_figures.list_lossy(conn, now - samples.DAY)),
        dose_missing=tuple(stored_figures.missing_dose(conn, now - figures.DOSE_SPAN)),
        untried_since=drills.last_drill(conn) or drills.first_use(conn),
        owed_reports=tuple(commitment_requests.summarize_owed_reports(conn)),
        imports=imports.read_waiting_imports(conn),
        worklist=read_worklist_state(conn, config, now),
        owed_steps=tuple(step_deliveries.summarize_owed_steps(conn)),
        missing_images=tuple(step_images.list_missing_images(conn, now - config.mpps.missing_after)),
        foreign_priors=tuple(prefetch.list_foreign_priors(conn)),
        hl7=hl7_status.read_hl7_status(conn, config, rules["feed-silent"].threshold, now),
        identity=identity_figures.read_identity_figures(conn, now, config.identity.orphan_after),
        fetched=tallies.fetched_tally(conn),
        maintenance=_planned_work(config, now),
    )
    return replace(seen, alerts=tuple(_list_alerts(conn, config, seen, tally, counts)))


def _list_alerts(
    conn: Transaction, config: Config, seen: Snapshot, tally: tallies.Tally, counts: dict[str, tallies.Sum]
) -> Iterable[Alert]:
    known = [each for each in records(conn, seen.at - EVENT_SECONDS) if each.kind in ALERT_KINDS]
    observed = Observed(
        **{each.name: getattr(seen, each.name) for each in fields(Snapshot)},
        marks=config.storage,
        exceptions=tuple(backlog.count_exceptions(conn, counts)),
        unknown_callers=backlog.list_unknown_callers(conn, seen.at),
        mismatches=mismatches.count(conn, tally),
        downtime=downtime.last_unplanned(conn),
        disk_faults=seen.live.machine.disk_faults,
        keeping=backlog.keeping(conn, config, tally, counts),
        correction=clock.last_correction(conn),
        caller_certificates=peers.list_certificate_ends(
            conn, {*config.modalities, *(f"{CLIENT_PREFIX}{name}" for name in config.clients)}, seen.at - CALLS_SECONDS
        ),
        alarms=alarms(config.alerts),
        open=frozenset((each.kind, each.subject) for each in known if each.notified and each.ended_at is None),
    )
    return _with_records(alerts(observed), known)


def _with_records(found: Iterable[Alert], known: Iterable[AlertRecord]) -> Iterable[Alert]:
    """Each alert with what the catalog records of it; without the events that are over."""
    open_ones = {(each.kind, each.subject): each for each in known if each.ended_at is None}
    events = (each for each in known if each.ended_at is not None and ALERT_KINDS[each.kind].event)
    over = {(each.kind, each.subject, each.since) for each in events}
    for alert in found:
        record = open_ones.get((alert.kind, alert.subject))
        if record is not None:
            yield replace(
                alert,
                since=alert.since if ALERT_KINDS[alert.kind].event else min(alert.since, record.since),
                id=record.id,
                do=record.advise(alert.do),
                acknowledged=record.acknowledged_by,
                escalated=record.escalated_at is not None,
            )
        elif (alert.kind, alert.subject, alert.since) not in over:
            yield alert


def _planned_work(config: Config, now: float) -> tuple[PlannedWork, ...]:
    windows = windows_of(config.maintenances.values(), config.calendar.time_zone)
    return tuple(each for each in windows if each.end > now)


def _last_alive(conn: Transaction) -> float | None:
    """When the daemon last recorded that it ran."""
    marks = (gateway_values.recall(conn, name) for name in ("alive_at", "stopped_at"))
    return max((float(each) for each in marks if each is not None), default=None)


def _outbox(conn: Transaction, config: Config, now: float) -> dict[str, ChannelBacklog]:
    configured = all_queues(config)
    return {
        name: ChannelBacklog(
            found.count, now - (found.oldest_at or now), found.last_error, found.parked, name in configured
        )
        for name, found in outbox.backlogs(conn).items()
    }


def _versions(conn: Transaction) -> dict[str, str]:
    return {
        "edge": __version__,
        "python": platform.python_version(),
        "sqlite": ENGINE_VERSION,
        "catalog": str(version_of(conn)),
        "kernel": platform.release(),
    }


# -- the disk ----------------------------------------------------------------------------------------------------------


def _storage(config: Config, disk: Disk, usage: forecast.Usage) -> Storage:
    marks, total = config.storage, disk.total_bytes
    full = disk.fullest >= marks.refuse
    left = 0.0 if full else forecast.full_in_seconds(usage, marks.refuse * total)
    above = forecast.above_since(usage, marks.warn * total)
    return Storage(disk.used_fraction, disk.free_bytes, left, above, total, disk.used_inodes_fraction)
