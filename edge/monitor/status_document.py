"""The status as programs read it: `edge status --json` and /api/status. Keys are added, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from edge.errors.hindrance import Hindrance
from edge.monitor import hl7_status
from edge.monitor.figures import SenderFigures
from edge.monitor.live import JournalUse
from edge.monitor.snapshot_model import (
    Alert,
    BackfillProgress,
    ChannelBacklog,
    Deferred,
    DestinationStatus,
    Held,
    Instances,
    ModalityStatus,
    Snapshot,
    Storage,
)
from edge.store.downtimes import Downtime
from edge.store.retention_rules import ReviewPlace
from edge.text import iso, iso_or_none


def status_json(seen: Snapshot) -> dict[str, Any]:
    """The status of `edge status --json` and /api/status. Stable: keys are added, never changed."""
    live = seen.live
    return {
        "site": {"id": seen.site_id, "name": seen.site_name},
        **_values(seen, "version"),
        **_values(live, "state"),
        **_moments(seen, "since"),
        "reasons": list(live.reasons),
        "refusing": [_hindrance_json(each) for each in live.hindrances],
        **_seconds(live, "uptime_seconds"),
        "instances": _instances_json(seen.instances),
        "queue": {
            **_values(seen.queue, "pending", "active", "deferred", "held", "cancelled", "bytes"),
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
        "journal": None if live.journal is None else _journal_json(live.journal),
        "dicomweb": None if live.web is None else _values(live.web, "port", "tls", "connections"),
        "commitments": {"open": sum(each.count for each in seen.owed_reports)},
        "figures": [_figures_json(each) for each in seen.figures],
        **_services_json(seen),
        "backfill": None if seen.backfill is None else _backfill_json(seen.backfill),
        "retention_review": None if seen.review is None else _review_json(seen.review),
    }


def _instances_json(seen: Instances) -> dict[str, Any]:
    states = ("stored", "stored_bytes", "evicted", "conflicts", "quarantined", "lost", "discarded", "cached")
    return {"received": seen.total, **_values(seen, *states)}


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
            for what, each in sorted(seen.live.queries.items())
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
        **({"refuses": True} if seen.refuses else {}),
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
        **_values(seen, "stored", "admitted", "usual", "lacks"),
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
