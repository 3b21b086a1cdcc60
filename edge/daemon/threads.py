"""All threads and processes of a running gateway: who owns each, what it may write, how it stops.

docs/design.md shows this table (packaging/threads); a test compares it with a gateway that runs. Threads that work in
steps are `Worker`s and declared where they are made. The others are declared here, with the reason why they are none.
"""

from __future__ import annotations

from edge import messaging, outbound
from edge.daemon import housekeeping, lifecycle, restoring
from edge.importer import service
from edge.intake import rechecks
from edge.messaging import audit, heartbeat
from edge.monitor import engine
from edge.outbound import commitment_reports, confirm, prefetch, relay, steps, worklist
from edge.storage import backfill, ledger_check, retention, scrub
from edge.worker import ThreadSpec

STEP_THREADS = (
    outbound.WRITER_THREAD,
    confirm.CONFIRM_THREAD,
    commitment_reports.EXAMINE_THREAD,
    steps.STEPS_THREAD,
    worklist.WORKLIST_THREAD,
    prefetch.PREFETCH_THREAD,
    retention.RETENTION_THREAD,
    scrub.SCRUB_THREAD,
    backfill.BACKFILL_THREAD,
    ledger_check.CHAIN_THREAD,
    service.IMPORT_THREAD,
    lifecycle.RECONCILE_THREAD,
    housekeeping.HOUSEKEEPING_THREAD,
    engine.WATCH_THREAD,
    heartbeat.HEARTBEAT_THREAD,
    messaging.COURIER_THREAD,
    audit.AUDIT_THREAD,
    rechecks.RECHECK_THREAD,
    relay.RELAY_THREAD,
)
#: Threads that are no workers: they wait for sockets or another's call, or do one thing and end.
OTHER_THREADS = (
    ThreadSpec("MainThread", "edge.daemon.lifecycle", "callers, refusals, due deliveries, checkpoints", "by a signal"),
    ThreadSpec("ports", "edge.scp.ports", "nothing: it accepts", "by a byte on its pipe"),
    ThreadSpec("hl7 ports", "edge.scp.ports", "nothing: it accepts", "by a byte on its pipe"),
    ThreadSpec("web ports", "edge.scp.ports", "nothing: it accepts", "by a byte on its pipe"),
    ThreadSpec(
        "receiver", "edge.daemon.receivers", "callers, refusals; places and reports", "with its process", each="number"
    ),
    ThreadSpec("apply", "edge.journal.service", "what was received: spool and catalog", "once all is applied, in 10 s"),
    ThreadSpec("segments", "edge.journal.service", "segments of the journal", "after a segment"),
    commitment_reports.REPORT_THREAD,
    steps.STEP_TARGET_THREAD,
    ThreadSpec(
        "sender", "edge.outbound.transport", "nothing: its writer records", "with its writer", each="association"
    ),
    ThreadSpec("convert", "edge.outbound", "copies in incoming/: a pool", "with its writer", each="destination"),
    ThreadSpec("answers", "edge.daemon.answerer", "nothing: it keeps the process that answers", "with that process"),
    ThreadSpec("convert retrieval", "edge.daemon.retrievals", "copies in incoming/: a pool", "after a conversion"),
    ThreadSpec(
        "flush",
        "edge.scp.dicomweb.store",
        "the journal, in DICOMweb's process: a pool",
        "after the request's parts",
    ),
    ThreadSpec("spool", "edge.spool", "what apply hands over, into the spool: a pool", "when the spool closes"),
    ThreadSpec(
        "control", "edge.daemon.control", "what commands decide: accept, and a pool", "when its socket is shut down"
    ),
    ThreadSpec("console", "edge.web.server", "what people decide: asyncio, and a pool", "after the requests under way"),
    ThreadSpec("AnyIO worker thread", "edge.web.guard", "what people decide: the console's pool", "with the console"),
    restoring.RESTORE_THREAD,
    ThreadSpec("trial", "edge.daemon.reception", "a trial file in incoming/", "by itself, after one trial"),
    ThreadSpec("end", "edge.worker.roster", "nothing: stops one and starts its successor", "by itself", each="name"),
    ThreadSpec("stop", "edge.worker.roster", "nothing: stops several side by side", "by itself"),
    ThreadSpec("converter idle", "edge.transform.transcoder", "nothing: a timer that ends the converter", "cancelled"),
    ThreadSpec("delivery time", "edge.messaging.line", "nothing: a timer that cuts a delivery", "cancelled"),
)
#: Those of a receiving process, beside its main one.
RECEIVER_THREADS = (
    ThreadSpec("door", "edge.scp.listener", "nothing: an event loop of sockets", "when the daemon closes its feed"),
    ThreadSpec("hl7 door", "edge.hl7.door", "what it receives: the journal", "when the daemon closes its feed"),
    ThreadSpec(
        "association", "edge.scp.listener", "what it receives: the journal", "drained in 30 s", each="association"
    ),
)
#: Those of the process that answers queries, beside its main one.
ANSWERING_THREADS = (
    ThreadSpec("questions", "edge.query.server", "nothing: it reads sockets", "with its process"),
    ThreadSpec("answers", "edge.query.server", "nothing: it reads the catalog", "with its process", each="number"),
    ThreadSpec("ask", "edge.query.archive", "nothing: it asks an archive", "within its budget", each="destination"),
)
#: Processes beside the gateway's own. The first two run as long as it does.
PROCESSES = (
    ThreadSpec("edge-fork", "edge.scp.fork_server", "nothing: it starts the receiving processes", "with the daemon"),
    ThreadSpec("edge-receiver", "edge.scp.receiving", "the journal, and nothing else", "drained in 30 s; or killed"),
    ThreadSpec("edge-hl7", "edge.scp.receiving", "the journal, and nothing else", "drained at once; or killed"),
    ThreadSpec("edge-answers", "edge.query.process", "nothing: it reads catalog and journal", "killed"),
    ThreadSpec(
        "converter", "edge.transform.worker", "the copy whose descriptor it gets", "killed; by itself when idle"
    ),
    ThreadSpec("chronyc, smartctl", "edge.monitor.host", "nothing", "by itself, within its timeout"),
)
