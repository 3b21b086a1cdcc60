"""One reading of the gateway's status, for the command, the console and the heartbeat.

Reads only, in milliseconds; what the catalog cannot know (`Live`) is an argument. `status_json` is its form for
programs.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from edge import __version__
from edge.config.alarms import ALERT_KINDS, alarms
from edge.config.maintenance import PlannedWork, windows_of
from edge.config.sections import Config
from edge.errors.hindrance import Hindrance
from edge.model import DOWN, Disk
from edge.monitor import backlog, downtime, equipment, figures, forecast, hl7_status
from edge.monitor.alerts import Observed, alerts
from edge.monitor.figures import SenderFigures
from edge.monitor.snapshot_model import (
    Alert,
    BackfillProgress,
    ChannelBacklog,
    Deferred,
    DestinationStatus,
    Held,
    JournalUse,
    Live,
    Machine,
    ModalityStatus,
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
    identity_checks,
    imports,
    ledger,
    mismatches,
    outbox,
    performed_steps,
    prefetch,
    retention_rules,
    samples,
    step_images,
    tallies,
    web_clients,
)
from edge.store import figures as stored_figures
from edge.store.alert_records import AlertRecord, records
from edge.store.database import Transaction
from edge.store.downtimes import Downtime
from edge.store.retention_rules import ReviewPlace
from edge.store.sqlite_file import ENGINE_VERSION, version_of
from edge.text import iso, iso_or_none

#: An event is notified within this time after it; later it is not compared with the recorded ones.
EVENT_SECONDS = 8 * 86400.0
#: The certificate of a client that has not called for this time is nobody's concern.
CALLS_SECONDS = 30 * 86400.0


def snapshot(conn: Transaction, config: Config, disk: Disk, live: Live, now: float) -> Snapshot:
    """Read everything once. `conn` should be inside one read transaction, so that the numbers fit together."""
    rules = alarms(config.alerts)
    tally, counts = tallies.delivery_tally(conn), tallies.instance_tally(conn)
    ages = tallies.oldest_queued(conn, tally)
    machine = live.machine or Machine()
    late = rules["modality-silent"].threshold
    rhythms = equipment.rhythms(conn, config, late, now) if live.rhythms is None else live.rhythms
    head, progress = ledger.head(conn), header_progress.read_backfill(conn)
    seen = Snapshot(
        at=now,
        site_id=config.site.id,
        site_name=config.site.name,
        version=__version__,
        state=live.state,
        since=live.since if live.state != DOWN else _last_alive(conn),
        reasons=live.reasons,
        uptime_seconds=live.uptime_seconds,
        instances=backlog.sum_instances(counts, tallies.fetched_tally(conn)),
        queue=backlog.queue(tally, ages, now),
        destinations=tuple(backlog.destinations(conn, config, live, tally, ages, now)),
        storage=_storage(config, disk, live.usage),
        modalities=tuple(equipment.modalities(conn, config, rhythms)),
        held=tuple(backlog.list_held_work(conn, tally)),
        deferred=tuple(backlog.list_deferred_work(conn, tally)),
        downtimes=downtime.latest_downtimes(conn),
        clock=machine.clock,
        hindrances=live.hindrances,
        outbox=_outbox(conn, now),
        ledger_seq=head.seq,
        ledger_head=head.hash.hex() if head.seq else "",
        versions=_versions(conn),
        backfill=BackfillProgress(**progress) if progress else None,
        review=retention_rules.read_review_place(conn),
        journal=live.journal,
        figures=figures.summarize(conn, now),
        lossy=tuple(stored_figures.list_lossy(conn, now - samples.DAY)),
        dose_missing=tuple(stored_figures.missing_dose(conn, now - figures.DOSE_SPAN)),
        untried_since=drills.last_drill(conn) or drills.first_use(conn),
        web=live.web,
        owed_reports=tuple(commitment_requests.summarize_owed_reports(conn)),
        imports=imports.read_waiting_imports(conn),
        worklist=read_worklist_state(conn, config, now),
        owed_steps=tuple(performed_steps.summarize_owed_steps(conn)),
        missing_images=tuple(step_images.list_missing_images(conn, now - config.mpps.missing_after)),
        foreign_priors=tuple(prefetch.list_foreign_priors(conn)),
        hl7=hl7_status.read_hl7_status(conn, config, rules["feed-silent"].threshold, now),
        identity=identity_checks.read_identity_figures(conn, now, config.identity.orphan_after),
        answers=live.answers,
        rejected=live.rejected,
        queries=live.queries,
        fetched=tallies.fetched_tally(conn),
        maintenance=_planned_work(config, now),
    )
    return replace(seen, alerts=tuple(_list_alerts(conn, config, live, seen, tally, counts)))


def _list_alerts(
    conn: Transaction, config: Config, live: Live, seen: Snapshot, tally: tallies.Tally, counts: dict[str, tallies.Sum]
) -> Iterable[Alert]:
    machine, rules = live.machine or Machine(), alarms(config.alerts)
    known = [each for each in records(conn, seen.at - EVENT_SECONDS) if each.kind in ALERT_KINDS]
    observed = Observed(
        **{each.name: getattr(seen, each.name) for each in fields(Snapshot)},
        live=live,
        marks=config.storage,
        exceptions=tuple(backlog.count_exceptions(conn, counts)),
        unknown_callers=backlog.list_unknown_callers(conn, seen.at),
        mismatches=mismatches.count(conn, tally),
        downtime=downtime.last_unplanned(conn),
        disk_faults=machine.disk_faults,
        keeping=backlog.keeping(conn, config, tally, counts),
        correction=clock.last_correction(conn),
        client_certificates=web_clients.list_certificate_ends(conn, config.clients, seen.at - CALLS_SECONDS),
        alarms=rules,
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


def _outbox(conn: Transaction, now: float) -> dict[str, ChannelBacklog]:
    return {
        channel: ChannelBacklog(found.count, now - (found.oldest_at or now), found.last_error, found.parked)
        for channel, found in outbox.backlogs(conn).items()
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


# -- for programs ------------------------------------------------------------------------------------------------------


def status_json(seen: Snapshot) -> dict[str, Any]:
    """The status of `edge status --json` and /api/status. Stable: keys are added, never changed."""
    return {
        "site": {"id": seen.site_id, "name": seen.site_name},
        **_values(seen, "version", "state"),
        **_moments(seen, "since"),
        "reasons": list(seen.reasons),
        "refusing": [_hindrance_json(each) for each in seen.hindrances],
        **_seconds(seen, "uptime_seconds"),
        "instances": {
            "received": seen.instances.total,
            **_values(
                seen.instances,
                "stored",
                "stored_bytes",
                "evicted",
                "conflicts",
                "quarantined",
                "lost",
                "discarded",
                "cached",
            ),
        },
        "queue": {
            **_values(seen.queue, "pending", "active", "deferred", "held", "bytes"),
            **_seconds(seen.queue, "oldest_seconds"),
        },
        "destinations": {each.name: _destination_json(each) for each in seen.destinations},
        "storage": _storage_json(seen.storage),
        "alerts": [_alert_json(each) for each in seen.alerts],
        "modalities": [_modality_json(each) for each in seen.modalities],
        "held": [_held_json(each) for each in seen.held],
        "deferred": [_deferred_json(each) for each in seen.deferred],
        "downtimes": [_downtime_json(each) for each in seen.downtimes],
        "clock": {**_values(seen.clock, "synchronized"), **_seconds(seen.clock, "offset_seconds", digits=6)},
        "outbox": {channel: _backlog_json(each) for channel, each in seen.outbox.items()},
        "ledger": {"seq": seen.ledger_seq, "head": seen.ledger_head},
        "versions": dict(seen.versions),
        "journal": None if seen.journal is None else _journal_json(seen.journal),
        "dicomweb": None if seen.web is None else _values(seen.web, "port", "tls", "connections"),
        "commitments": {"open": sum(each.count for each in seen.owed_reports)},
        "figures": [_figures_json(each) for each in seen.figures],
        **_services_json(seen),
        "backfill": None if seen.backfill is None else _backfill_json(seen.backfill),
        "retention_review": None if seen.review is None else _review_json(seen.review),
    }


def _services_json(seen: Snapshot) -> dict[str, Any]:
    return {
        "worklist": {
            **_values(seen.worklist, "items"),
            **_moments(seen.worklist, "as_of"),
            "stale": seen.worklist.is_stale,
        },
        "imports": {"waiting": seen.imports.count, **_moments(seen.imports, "since")},
        "mpps": {
            "open": sum(each.open for each in seen.owed_steps),
            "held": sum(each.held for each in seen.owed_steps),
            "missing_images": sum(each.missing for each in seen.missing_images),
        },
        "queries": {
            what: {**_values(each, "asked", "failed", "answers"), **_seconds(each, "seconds")}
            for what, each in sorted(seen.queries.items())
        },
        "fetched": {name: {"instances": n, "bytes": size} for name, (n, size) in sorted(seen.fetched.items())},
        "hl7": hl7_status.hl7_json(seen.hl7),
        "identity": hl7_status.identity_json(seen.identity),
        "maintenance": [
            {"name": each.name, "from": iso(each.begin), "to": iso(each.end), "reason": each.reason}
            for each in seen.maintenance
        ],
    }


def _values(seen: object, *names: str) -> dict[str, Any]:
    """Keys that are the fields of a value as they are."""
    return {name: getattr(seen, name) for name in names}


def _moments(seen: object, *names: str) -> dict[str, Any]:
    """Keys that are moments: ISO 8601, UTC."""
    return {name: iso_or_none(getattr(seen, name)) for name in names}


def _seconds(seen: object, *names: str, digits: int = 1) -> dict[str, Any]:
    """Keys that are numbers, rounded."""
    found = ((name, getattr(seen, name)) for name in names)
    return {name: None if value is None else round(value, digits) for name, value in found}


def _storage_json(seen: Storage) -> dict[str, Any]:
    return {
        "used_fraction": round(seen.used_fraction, 4),
        **_values(seen, "free_bytes", "total_bytes"),
        **_seconds(seen, "full_in_seconds"),
    }


def _deferred_json(seen: Deferred) -> dict[str, Any]:
    return {**_values(seen, "destination", "count", "reason"), **_moments(seen, "next_try")}


def _backlog_json(seen: ChannelBacklog) -> dict[str, Any]:
    return {**_values(seen, "waiting", "last_error", "parked"), **_seconds(seen, "oldest_seconds")}


def _backfill_json(seen: BackfillProgress) -> dict[str, Any]:
    return {"of": seen.last, **_values(seen, "read", "unreadable"), **_moments(seen, "finished_at")}


def _review_json(seen: ReviewPlace) -> dict[str, Any]:
    return {"reviewed": seen.after, "of": seen.last, "changed": seen.changed, "is_done": seen.is_done}


def _journal_json(seen: JournalUse) -> dict[str, Any]:
    return {**_seconds(seen, "applied_lag_seconds", digits=3), **_values(seen, "used_bytes", "size_bytes")}


def _figures_json(seen: SenderFigures) -> dict[str, Any]:
    shares = [each.name for each in fields(seen) if each.name.endswith("_share")]
    return {
        **_values(seen, "ae_title", "objects", "studies", "dose_missing", "asks_worklist"),
        **_seconds(seen, *shares, digits=4),
        **_seconds(seen, "proof_median_seconds"),
    }


def _hindrance_json(seen: Hindrance) -> dict[str, Any]:
    return {"cause": seen.cause.value, "since": iso(seen.since), "used_fraction": seen.used, "mark": seen.mark}


def _destination_json(seen: DestinationStatus) -> dict[str, Any]:
    return {
        "kind": seen.kind or None,
        **_values(seen, "state", "pending", "deferred", "held", "sent", "confirmed", "last_error", "bytes"),
        **_moments(seen, "since", "last_success", "certificate_expires"),
        **_seconds(seen, "drain_seconds", "oldest_seconds", "confirm_lag_seconds"),
        **(
            {}
            if seen.keep_last is None
            else {"keep_last_seconds": seen.keep_last, **_moments(seen, "oldest_not_there")}
        ),
        **_values(seen, "changed_copies", "saved_bytes"),
        "rate_bytes_per_second": _seconds(seen, "rate")["rate"],
        "compression_outpaced_at": _seconds(seen, "outpaced_at")["outpaced_at"],
        "unconfirmed": seen.unconfirmed_count,
    }


def _alert_json(seen: Alert) -> dict[str, Any]:
    return {
        **_values(seen, "kind", "subject", "severity", "text", "what", "means", "do", "id", "escalated"),
        "since": iso(seen.since),
        "actions": [{"text": each.text, "command": list(each.command)} for each in seen.actions],
        "acknowledged": seen.acknowledged or None,
    }


def _modality_json(seen: ModalityStatus) -> dict[str, Any]:
    return {
        **_values(seen, "name", "ae_title", "address", "manufacturer", "model", "serial", "software"),
        **_values(seen, "stored", "admitted", "usual"),
        **_moments(seen, "first_seen", "last_seen", "last_stored", "changed_at"),
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
    codes = sorted(code.value for code in seen.codes)
    return {**_values(seen, "destination", "count", "reason"), "codes": codes, **_moments(seen, "since")}


def _downtime_json(seen: Downtime) -> dict[str, Any]:
    moments = {"from": iso(seen.began), "to": iso(seen.ended)}
    return {**moments, **_seconds(seen, "seconds"), **_values(seen, "why", "planned")}
