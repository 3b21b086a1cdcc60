"""The snapshot in Prometheus' text format (version 0.0.4).

Names follow its conventions: base units, `_total` for counters. What is not known at the moment (a forecast, a last
success) has no sample: absent, never a made-up number. No PHI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge.monitor.snapshot_model import Snapshot

STATES = ("starting", "running", "refusing", "draining", "down")

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: str  # gauge | counter
    help: str
    samples: tuple[tuple[Labels, float | None], ...]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            if value is not None:
                yield f"{self.name}{_labels(labels)} {_number(value)}"


def exposition(seen: Snapshot) -> str:
    """The page that Prometheus scrapes."""
    return "".join(f"{line}\n" for metric in _metrics(seen) for line in metric.lines())


def escape(value: str) -> str:
    """A label's value, as the format wants it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _gauge(name: str, told: str, *samples: tuple[Labels, float | None]) -> Metric:
    return Metric(f"edge_{name}", "gauge", told, samples)


def _metrics(seen: Snapshot) -> Iterable[Metric]:
    yield _gauge("info", "Version and site; always 1.", ({"version": seen.version, "site": seen.site_id}, 1))
    states = (({"state": state}, float(state == seen.state)) for state in STATES)
    yield _gauge("state", "1 for the state that the gateway is in.", *states)
    yield _gauge("uptime_seconds", "Seconds since the gateway started.", ({}, seen.uptime_seconds))
    yield from _instances(seen)
    yield from _queue(seen)
    yield from _destinations(seen)
    yield from _modalities(seen)
    yield from _storage(seen)
    yield from _outbox(seen)
    yield from _machine(seen)
    alerts = Counter((alert.kind, alert.severity) for alert in seen.alerts)
    samples = (({"kind": kind, "severity": severity}, float(n)) for (kind, severity), n in sorted(alerts.items()))
    yield _gauge("alerts", "Alerts that hold now; none has no sample.", *samples)


def _instances(seen: Snapshot) -> Iterable[Metric]:
    found = seen.instances
    told = "Instances accepted since the catalog began."
    yield Metric("edge_received_instances_total", "counter", told, (({}, found.received),))
    states = {
        "stored": found.stored,
        "conflict": found.conflicts,
        "quarantined": found.quarantined,
        "evicted": found.evicted,
        "lost": found.lost,
        "discarded": found.discarded,
    }
    yield _gauge("instances", "Instances by what is kept of them.", *(({"state": s}, n) for s, n in states.items()))
    yield _gauge("stored_bytes", "Size of the instances that are stored.", ({}, found.stored_bytes))


def _queue(seen: Snapshot) -> Iterable[Metric]:
    queue = seen.queue
    states = {"pending": queue.pending, "active": queue.active, "deferred": queue.deferred, "held": queue.held}
    told = "Deliveries that are not yet sent, unroutable ones among those held."
    yield _gauge("queue_deliveries", told, *(({"state": s}, n) for s, n in states.items()))
    yield _gauge("queue_bytes", "Size of the deliveries that are not yet sent.", ({}, queue.bytes))
    told = "Age of the oldest delivery that is not held; absent when there is none."
    yield _gauge("queue_oldest_seconds", told, ({}, queue.oldest_seconds))


def _destinations(seen: Snapshot) -> Iterable[Metric]:
    each = [({"destination": found.name}, found) for found in seen.destinations]
    yield _gauge("destination_up", "1 while the destination answers.", *((d, float(f.state == "up")) for d, f in each))
    waiting = [
        (labels | {"state": state}, float(n))
        for labels, f in each
        for state, n in (("pending", f.pending), ("deferred", f.deferred), ("held", f.held))
    ]
    yield _gauge("destination_deliveries", "Deliveries not yet sent; pending ones with those being sent.", *waiting)
    told = "Instances that the destination has taken; fewer again when it denies having one."
    yield _gauge("destination_sent_instances", told, *((d, f.sent) for d, f in each))
    told = "Instances that the destination has proved to have."
    yield _gauge("destination_confirmed_instances", told, *((d, f.confirmed) for d, f in each))
    told = "When the destination last took something, in seconds since 1970."
    yield _gauge("destination_last_success_timestamp_seconds", told, *((d, f.last_success) for d, f in each))
    told = "How long the backlog takes at the present rate; absent when not known."
    yield _gauge("destination_drain_seconds", told, *((d, f.drain_seconds) for d, f in each))
    told = "Size of what goes by itself when the destination answers."
    yield _gauge("destination_backlog_bytes", told, *((d, f.bytes) for d, f in each))
    told = "Age of the oldest delivery that goes by itself; absent when there is none."
    yield _gauge("destination_oldest_seconds", told, *((d, f.oldest_seconds) for d, f in each))
    told = "Bytes a second while it was last busy; absent when not measured."
    yield _gauge("destination_send_bytes_per_second", told, *((d, f.rate) for d, f in each))
    told = "Age of the oldest instance that was sent and is not proved; absent when there is none."
    yield _gauge("destination_confirm_lag_seconds", told, *((d, f.confirm_lag_seconds) for d, f in each))
    told = "When the destination's certificate expires, in seconds since 1970; absent without TLS."
    yield _gauge(
        "destination_certificate_expiry_timestamp_seconds", told, *((d, f.certificate_expires) for d, f in each)
    )


def _modalities(seen: Snapshot) -> Iterable[Metric]:
    """Of equipment that is let in: strangers may be many, and choose their names."""
    each = [
        ({"modality": found.name, "ae_title": found.ae_title, "address": found.address}, found)
        for found in seen.modalities
        if found.admitted
    ]
    told = "When the equipment last called, in seconds since 1970."
    yield _gauge("modality_last_seen_timestamp_seconds", told, *((m, f.last_seen) for m, f in each))
    told = "Instances that the equipment was told success for."
    yield Metric("edge_modality_stored_instances_total", "counter", told, tuple((m, float(f.stored)) for m, f in each))
    told = "1 for equipment that should have been heard by now, after its own weeks, and was not."
    yield _gauge("modality_silent", told, *((m, float(f.missed_at is not None)) for m, f in each))


def _outbox(seen: Snapshot) -> Iterable[Metric]:
    each = [({"channel": name}, found) for name, found in seen.outbox.items()]
    messages = [
        (labels | {"state": state}, float(n))
        for labels, f in each
        for state, n in (("waiting", f.waiting), ("parked", f.parked))
    ]
    told = "Notices, heartbeats and audit messages that a channel has not taken; parked ones it refuses for good."
    yield _gauge("outbox_messages", told, *messages)
    told = "Age of the oldest message that waits."
    yield _gauge("outbox_oldest_seconds", told, *((c, f.oldest_seconds if f.waiting else None) for c, f in each))


def _machine(seen: Snapshot) -> Iterable[Metric]:
    clock = seen.clock
    told = "1 while the system's clock is set by a time server; absent when not known."
    yield _gauge("clock_synchronized", told, ({}, None if clock.synchronized is None else float(clock.synchronized)))
    yield _gauge("clock_offset_seconds", "Estimated error of the system's clock.", ({}, clock.offset_seconds))
    yield Metric("edge_ledger_rows_total", "counter", "Rows of the custody ledger.", (({}, float(seen.ledger_seq)),))


def _storage(seen: Snapshot) -> Iterable[Metric]:
    storage = seen.storage
    yield _gauge("storage_used_ratio", "Used part of the file system, 0 to 1.", ({}, storage.used_fraction))
    told = "Used part of the inodes, 0 to 1; absent where the file system has no fixed number."
    yield _gauge("storage_inodes_used_ratio", told, ({}, storage.used_inodes_fraction or None))
    yield _gauge("storage_free_bytes", "Free bytes of the file system.", ({}, storage.free_bytes))
    yield _gauge("storage_size_bytes", "Size of the file system.", ({}, storage.total_bytes or None))
    told = "Seconds until receiving will be refused for lack of room; absent when it is not filling."
    yield _gauge("storage_full_in_seconds", told, ({}, storage.full_in_seconds))
