"""The snapshot in Prometheus' text format (version 0.0.4).

Names follow its conventions: base units, `_total` for counters. What is unknown at the moment (a forecast, a last
success) has no sample: absent, never a made-up number. No PHI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from edge.monitor.exposition import Family, Labels, MetricSample, expose, histogram, process_families
from edge.monitor.snapshot_model import Snapshot
from edge.network.answer_times import BOUNDS, AnswerTally

GATEWAY_STATES = ("starting", "running", "refusing", "draining", "down")

#: Name, help, and how the value is read from one row of the snapshot.
MetricColumn = tuple[str, str, "Callable[[Any], float | None]"]

_GATEWAY: tuple[MetricColumn, ...] = (
    ("uptime_seconds", "Seconds since the gateway started.", lambda s: s.live.uptime_seconds),
    ("received_instances_total", "Instances accepted since the catalog began.", lambda s: s.instances.total),
    ("stored_bytes", "Size of the instances that are stored.", lambda s: s.instances.stored_bytes),
    ("queue_bytes", "Size of the deliveries that are not yet sent.", lambda s: s.queue.bytes),
    (
        "queue_oldest_seconds",
        "Age of the oldest delivery that is not held; absent when there is none.",
        lambda s: s.queue.oldest_seconds,
    ),
    (
        "retention_review_left",
        "Instances that new rules of retention have not reviewed yet.",
        lambda s: 0 if s.review is None or s.review.is_done else s.review.last - s.review.after,
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
    (
        "web_connections",
        "Open connections of the door for DICOMweb; absent when it is closed.",
        lambda s: s.live.web.connections if s.live.web is not None else None,
    ),
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
    ("up", "1 while the destination answers and takes images.", lambda d: d.state == "up"),
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
        "changed_copies_total",
        "Copies that went with other bytes than received: corrected, compressed.",
        lambda d: d.changed_copies,
    ),
    ("saved_bytes", "Bytes less than received, of those copies.", lambda d: d.saved_bytes),
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


_FIGURES: tuple[MetricColumn, ...] = (
    ("week_objects", "Objects of the last seven days.", lambda f: f.objects),
    ("patient_id_ratio", "Share of them with a Patient ID in form.", lambda f: f.patient_id_share),
    ("accession_ratio", "Share of them with an accession number.", lambda f: f.accession_share),
    ("lossy_ratio", "Share of them that is lossy.", lambda f: f.lossy_share),
    ("private_ratio", "Share of them of private SOP classes.", lambda f: f.private_share),
    (
        "slow_studies_ratio",
        "Share of studies whose proof came more than 60 s after their first object.",
        lambda f: f.slow_share,
    ),
    ("dose_missing_studies", "X-ray studies without a dose report.", lambda f: f.dose_missing),
)


def exposition(seen: Snapshot) -> str:
    """The page that Prometheus scrapes."""
    return expose([*_families(seen), *process_families()])


def _questions(seen: Snapshot) -> Iterator[Family]:
    """What was asked of us, and what we fetched."""
    queries = sorted(seen.live.queries.items())
    text = "Queries, retrievals and worklist queries that were answered, since the start."
    asked = [
        ({"what": what, "outcome": word}, n)
        for what, each in queries
        for word, n in (("answered", each.asked - each.failed), ("failed", each.failed))
    ]
    yield from _metric("queries_total", text, asked)
    text = "Answers to them, and objects that retrievals sent, since the start."
    yield from _metric("query_answers_total", text, [({"what": what}, each.answers) for what, each in queries])
    text = "Seconds that they took, since the start."
    yield from _metric("query_seconds_total", text, [({"what": what}, each.seconds) for what, each in queries])
    fetched = sorted(seen.fetched.items())
    text = "Instances that were fetched from an archive, since the catalog began."
    yield from _metric("fetched_instances_total", text, [({"destination": name}, n) for name, (n, _) in fetched])
    text = "Bytes of them."
    yield from _metric("fetched_bytes_total", text, [({"destination": name}, size) for name, (_, size) in fetched])


def _families(seen: Snapshot) -> Iterator[Family]:
    yield from _gateway(seen)
    yield from _deliveries(seen)
    yield from _senders(seen)
    yield from _outbox(seen)
    yield from _services(seen)
    yield from _alerts(seen)
    yield from _answers("modality_received", "modality", seen.live.answers, "a modality's")
    sent = {each.name: each.answers for each in seen.destinations if each.answers is not None}
    yield from _answers("destination_sent", "destination", sent, "our")
    yield from _questions(seen)
    text = "Callers and connections that were refused, since the start."
    yield from _metric("rejected_callers_total", text, [({}, seen.live.rejected)])
    now = [each for each in seen.maintenance if each.holds(seen.at)]
    yield from _metric("maintenance", "1 during planned work.", [({}, bool(now))])


def _gateway(seen: Snapshot) -> Iterator[Family]:
    info: list[MetricSample] = [({"version": seen.version, "site": seen.site_id}, 1)]
    yield from _metric("info", "Version and site; always 1.", info)
    states = {state: state == seen.live.state for state in GATEWAY_STATES}
    yield from _metric("state", "1 for the state that the gateway is in.", _by_state(states))
    yield from _table("", _GATEWAY, [({}, seen)])
    found = asdict(seen.instances)
    kept = {"stored", "evicted", "lost", "quarantined", "discarded"}
    states = {"conflict": found["conflicts"]} | {name: n for name, n in found.items() if name in kept}
    yield from _metric("instances", "Instances by what is kept of them.", _by_state(states))


def _deliveries(seen: Snapshot) -> Iterator[Family]:
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


def _senders(seen: Snapshot) -> Iterator[Family]:
    # Of admitted equipment: unknown callers may be many, and choose their names.
    equipment = [each for each in seen.modalities if each.admitted]
    named = [({"modality": m.name, "ae_title": m.ae_title, "address": m.address}, m) for m in equipment]
    yield from _table("modality_", _MODALITY, named)
    yield from _table("sender_", _FIGURES, [({"ae_title": each.ae_title}, each) for each in seen.figures])


def _outbox(seen: Snapshot) -> Iterator[Family]:
    text = "Notices, heartbeats and audit messages that a channel has not taken; parked ones are refused permanently."
    messages = (
        _by_state({"waiting": found.waiting, "parked": found.parked}, channel=name)
        for name, found in seen.outbox.items()
    )
    yield from _metric("outbox_messages", text, [each for samples in messages for each in samples])
    oldest = [({"channel": name}, c.oldest_seconds if c.waiting else None) for name, c in seen.outbox.items()]
    yield from _metric("outbox_oldest_seconds", "Age of the oldest message that waits.", oldest)


def _services(seen: Snapshot) -> Iterator[Family]:
    text = "Messages of performed procedure steps that a target has not got; held ones wait for a person."
    steps = (
        _by_state({"open": each.open, "held": each.held}, destination=each.destination) for each in seen.owed_steps
    )
    yield from _metric("step_messages", text, [each for samples in steps for each in samples])
    served = seen.worklist
    yield from _metric("worklist_items", "Items of the modality worklist.", [({}, served.items)])
    text = "When the served worklist was read, in seconds since 1970; absent where there is none."
    yield from _metric("worklist_as_of_timestamp_seconds", text, [({}, served.as_of)])
    yield from _metric("worklist_stale", "1 while the worklist cannot be refreshed.", [({}, served.is_stale)])
    text = "Imported studies that wait until a person says whose they are."
    yield from _metric("imports_waiting", text, [({}, seen.imports.count)])
    text = "Images that performed steps have announced and that are late."
    yield from _metric("missing_images", text, [({}, sum(each.missing for each in seen.missing_images))])


def _alerts(seen: Snapshot) -> Iterator[Family]:
    alerts = Counter((alert.kind, alert.severity) for alert in seen.alerts)
    samples = [({"kind": kind, "severity": severity}, n) for (kind, severity), n in sorted(alerts.items())]
    yield from _metric("alerts", "Alerts that are open now; none has no sample.", samples)


def _by_state(numbers: dict[str, int] | dict[str, bool], **labels: str) -> list[MetricSample]:
    return [(labels | {"state": state}, n) for state, n in numbers.items()]


def _table(prefix: str, columns: Iterable[MetricColumn], rows: Iterable[tuple[Labels, Any]]) -> Iterator[Family]:
    for name, text, value_of in columns:
        yield from _metric(prefix + name, text, [(labels, value_of(row)) for labels, row in rows])


def _metric(name: str, text: str, samples: Iterable[MetricSample], kind: str = "") -> Iterator[Family]:
    yield Family(f"edge_{name}", kind or ("counter" if name.endswith("_total") else "gauge"), text, list(samples))


def _answers(prefix: str, label: str, found: Mapping[str, AnswerTally], whose: str) -> Iterator[Family]:
    """What was answered since the start: a histogram, and the counters beside it."""
    samples = [
        each for name, tally in found.items() for each in histogram({label: name}, BOUNDS, tally.counts, tally.seconds)
    ]
    text = f"Seconds until {whose} C-STORE was answered, since the start."
    yield from _metric(f"{prefix}_answer_seconds", text, samples, "histogram")
    taken = [({label: name}, tally.bytes) for name, tally in found.items()]
    yield from _metric(f"{prefix}_bytes_total", f"Bytes of {whose} objects that were taken, since the start.", taken)
    refused = [({label: name}, tally.refused) for name, tally in found.items()]
    yield from _metric(f"{prefix}_refused_total", f"Answers to {whose} C-STORE that were failures.", refused)
