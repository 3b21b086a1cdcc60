"""The snapshot in Prometheus' text format (version 0.0.4).

Names follow its conventions: base units, `_total` for counters. What is unknown at the moment (a forecast, a last
success) has no sample: absent, never a made-up number. No PHI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from edge.monitor.snapshot_model import Snapshot

GATEWAY_STATES = ("starting", "running", "refusing", "draining", "down")

Labels = dict[str, str]
MetricSample = tuple[Labels, "float | None"]
#: Name, help, and how the value is read from one row of the snapshot.
MetricColumn = tuple[str, str, "Callable[[Any], float | None]"]

_GATEWAY: tuple[MetricColumn, ...] = (
    ("uptime_seconds", "Seconds since the gateway started.", lambda s: s.uptime_seconds),
    ("received_instances_total", "Instances accepted since the catalog began.", lambda s: s.instances.total),
    ("stored_bytes", "Size of the instances that are stored.", lambda s: s.instances.stored_bytes),
    ("queue_bytes", "Size of the deliveries that are not yet sent.", lambda s: s.queue.bytes),
    (
        "queue_oldest_seconds",
        "Age of the oldest delivery that is not held; absent when there is none.",
        lambda s: s.queue.oldest_seconds,
    ),
    ("storage_used_ratio", "Used part of the file system, 0 to 1.", lambda s: s.storage.used_fraction),
    (
        "storage_inodes_used_ratio",
        "Used part of the inodes, 0 to 1; absent where the file system has no fixed number.",
        lambda s: s.storage.used_inodes_fraction or None,
    ),
    ("storage_free_bytes", "Free bytes of the file system.", lambda s: s.storage.free_bytes),
    ("storage_size_bytes", "Size of the file system.", lambda s: s.storage.total_bytes or None),
    (
        "storage_full_in_seconds",
        "Seconds until receiving will be refused for lack of room; absent when it is not filling.",
        lambda s: s.storage.full_in_seconds,
    ),
    (
        "clock_synchronized",
        "1 while the system's clock is set by a time server; absent when not known.",
        lambda s: s.clock.synchronized,
    ),
    ("clock_offset_seconds", "Estimated error of the system's clock.", lambda s: s.clock.offset_seconds),
    ("ledger_rows_total", "Rows of the custody ledger.", lambda s: s.ledger_seq),
    ("hl7_received_total", "HL7 messages received since the catalog began.", lambda s: s.hl7.received),
    ("hl7_applied_total", "HL7 messages applied since the catalog began.", lambda s: s.hl7.applied),
    ("hl7_parked", "HL7 messages that wait for a person.", lambda s: s.hl7.parked.count),
    (
        "identity_matched_ratio",
        "Part of the images of 30 days whose patient matches the order's; absent without a feed of orders.",
        lambda s: s.identity.matched_share,
    ),
    (
        "identity_misdirected_ratio",
        "Part of the studies of 30 days that went, or nearly went, to another patient; absent without checks.",
        lambda s: s.identity.misdirected_share,
    ),
    ("identity_orders_missing", "Studies without an order for too long.", lambda s: s.identity.missing),
)

_DESTINATION: tuple[MetricColumn, ...] = (
    ("up", "1 while the destination answers.", lambda d: d.state == "up"),
    (
        "sent_instances",
        "Instances that the destination has taken; fewer again when it denies having one.",
        lambda d: d.sent,
    ),
    ("confirmed_instances", "Instances that the destination has proved to have.", lambda d: d.confirmed),
    (
        "last_success_timestamp_seconds",
        "When the destination last took something, in seconds since 1970.",
        lambda d: d.last_success,
    ),
    (
        "drain_seconds",
        "How long the backlog takes at the present rate; absent when not known.",
        lambda d: d.drain_seconds,
    ),
    ("backlog_bytes", "Size of what is sent automatically when the destination answers.", lambda d: d.bytes),
    (
        "oldest_seconds",
        "Age of the oldest delivery that is sent automatically; absent when there is none.",
        lambda d: d.oldest_seconds,
    ),
    ("send_bytes_per_second", "Bytes a second while it was last busy; absent when not measured.", lambda d: d.rate),
    (
        "confirm_lag_seconds",
        "Age of the oldest instance that was sent and is not proved; absent when there is none.",
        lambda d: d.confirm_lag_seconds,
    ),
    (
        "certificate_expiry_timestamp_seconds",
        "When the destination's certificate expires, in seconds since 1970; absent without TLS.",
        lambda d: d.certificate_expires,
    ),
)

_MODALITY: tuple[MetricColumn, ...] = (
    ("last_seen_timestamp_seconds", "When the equipment last called, in seconds since 1970.", lambda m: m.last_seen),
    ("stored_instances_total", "Instances of the equipment that were answered with success.", lambda m: m.stored),
    ("silent", "1 for equipment that should have sent by now, by its usual hours.", lambda m: m.missed_at is not None),
)


def exposition(seen: Snapshot) -> str:
    """The page that Prometheus scrapes."""
    return "".join(f"{line}\n" for line in _lines(seen))


def _lines(seen: Snapshot) -> Iterator[str]:
    info: list[MetricSample] = [({"version": seen.version, "site": seen.site_id}, 1)]
    yield from _metric("info", "Version and site; always 1.", info)
    states = {state: state == seen.state for state in GATEWAY_STATES}
    yield from _metric("state", "1 for the state that the gateway is in.", _by_state(states))
    yield from _table("", _GATEWAY, [({}, seen)])
    found = asdict(seen.instances)
    kept = {"stored", "evicted", "lost", "quarantined", "discarded"}
    states = {"conflict": found["conflicts"]} | {name: n for name, n in found.items() if name in kept}
    yield from _metric("instances", "Instances by what is kept of them.", _by_state(states))
    queue = {name: n for name, n in asdict(seen.queue).items() if name not in ("bytes", "oldest_seconds")}
    text = "Deliveries that are not yet sent, unroutable ones among those held."
    yield from _metric("queue_deliveries", text, _by_state(queue))
    yield from _table("destination_", _DESTINATION, [({"destination": d.name}, d) for d in seen.destinations])
    text = "Deliveries not yet sent; pending ones with those being sent."
    waiting = (
        _by_state({"pending": d.pending, "deferred": d.deferred, "held": d.held}, destination=d.name)
        for d in seen.destinations
    )
    yield from _metric("destination_deliveries", text, [each for samples in waiting for each in samples])
    # Of admitted equipment: unknown callers may be many, and choose their names.
    equipment = [each for each in seen.modalities if each.admitted]
    named = [({"modality": m.name, "ae_title": m.ae_title, "address": m.address}, m) for m in equipment]
    yield from _table("modality_", _MODALITY, named)
    text = "Notices, heartbeats and audit messages that a channel has not taken; parked ones are refused permanently."
    messages = (
        _by_state({"waiting": found.waiting, "parked": found.parked}, channel=name)
        for name, found in seen.outbox.items()
    )
    yield from _metric("outbox_messages", text, [each for samples in messages for each in samples])
    oldest = [({"channel": name}, c.oldest_seconds if c.waiting else None) for name, c in seen.outbox.items()]
    yield from _metric("outbox_oldest_seconds", "Age of the oldest message that waits.", oldest)
    alerts = Counter((alert.kind, alert.severity) for alert in seen.alerts)
    samples = [({"kind": kind, "severity": severity}, n) for (kind, severity), n in sorted(alerts.items())]
    yield from _metric("alerts", "Alerts that are open now; none has no sample.", samples)


def _by_state(numbers: dict[str, int] | dict[str, bool], **labels: str) -> list[MetricSample]:
    return [(labels | {"state": state}, n) for state, n in numbers.items()]


def _table(prefix: str, columns: Iterable[MetricColumn], rows: list[tuple[Labels, Any]]) -> Iterator[str]:
    for name, text, value_of in columns:
        yield from _metric(prefix + name, text, [(labels, value_of(row)) for labels, row in rows])


def _metric(name: str, text: str, samples: Iterable[tuple[Labels, float | None]]) -> Iterator[str]:
    yield f"# HELP edge_{name} {text}"
    yield f"# TYPE edge_{name} {'counter' if name.endswith('_total') else 'gauge'}"
    for labels, value in samples:
        if value is not None:
            yield f"edge_{name}{_format_labels(labels)} {_format_number(value)}"


def escape(value: str) -> str:
    """A label's value, escaped as the format requires."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _format_labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _format_number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
