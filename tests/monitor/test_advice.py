"""Every alert's advice, followed to the letter: nobody's image is sent, lost or overwritten that a person has not
named, and the alert ends.

The store is real and filled through intake, the commands are the typed actions of the alert (their words are not read),
and the archive is a dictionary that keeps the last version of each SOP Instance UID: what overwrites shows. Where an
action is not a command (replace the disk), the test does it, and shows that the alert ends with its cause.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import pydicom
import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.config import load_config
from edge.config.alarms import ALERT_KINDS
from edge.dicom.commitment_data import AskedCommitment
from edge.intake.hl7_entry import enter_message, read_frame
from edge.intake.policy import Policy
from edge.journal.kinds.commitment_request import CommitmentRequest
from edge.journal.kinds.hl7_frame import Hl7Frame
from edge.model import NEEDS_DECISION, AttemptResult, ContextKey, Disk, Origin, Outcome
from edge.monitor import health
from edge.monitor.engine import AlertEngine
from edge.monitor.live import Clock, Link, Live, Machine, Usual
from edge.monitor.snapshot_model import Action, Alert, Snapshot
from edge.storage.repair import Repairer
from edge.storage.retention import Retention
from edge.store import (
    clock,
    commitment_requests,
    commitments,
    deliveries,
    figures,
    imports,
    leases,
    ledger,
    legal_holds,
    outbox,
    prefetch,
    relays,
    step_images,
    worklist,
)
from edge.store.callers import Calls, remember_peer
from edge.store.commitment_requests import ReportedInstance
from edge.store.database import Store
from edge.store.prefetch import PrefetchRequest, PriorStudy
from edge.store.quarantine import Unkept
from tests.support.filled import CONFIG, Filled, take_in
from tests.support.hl7 import merge, order, update
from tests.support.objects import ct_files, dataset, new_uid, part10
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until

HOUR, DAY = 3600.0, 86400.0
#: A person's own programs: not ours to run.
OUTSIDE = {"journalctl", "timedatectl"}
WAITS = ("pending", "active", "deferred")


class Site(Filled):
    """A gateway in parts: store, routes, retention and watch; no network."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path, CONFIG + '[calendar]\ntime_zone = "UTC"\n')
        self.live = Live("running", uptime_seconds=10.0)
        self.disk = Disk(10**9, 5 * 10**8)
        self.later = 0.0
        self.archive: dict[str, int] = {}  # SOP Instance UID -> the instance that was sent last
        self.named: set[int] = set()  # instances that a command has named
        self.begin()

    def begin(self) -> None:
        self.watch = AlertEngine(self.db, lambda: self.config, self.seen, clock=self.clock)
        self.retention = Retention(self.db, self.spool, lambda: self.config, lambda: self.disk, clock=self.clock)

    def clock(self) -> float:
        return time.time() + self.later

    def seen(self) -> Snapshot:
        with self.db.reading() as conn:
            return health.snapshot(conn, self.config, self.disk, self.live, self.clock())

    def alert(self, kind: str) -> Alert | None:
        return next((each for each in self.seen().alerts if each.kind == kind), None)

    def look(self) -> None:
        """The watch's looks: once, and again when all that is new has held."""
        self.watch.evaluate()
        self.later += HOUR
        self.watch.evaluate()

    def write(self, text: str) -> None:
        (self.directory / "site.toml").write_text(text)

    def reload(self) -> None:
        self.config = load_config(self.directory)
        self.intake.policy = Policy.from_config(self.config)
        self.live = replace(self.live, rejected_at=None)

    def restart(self) -> None:
        self.db.close()
        self.db = Store(self.data_dir / "catalog.db")
        self.live = Live("running", uptime_seconds=1.0)
        self.begin()

    def send(self, destination: str = "archive") -> None:
        """All that may go, goes."""

        def work(conn: Any) -> None:
            works = leases.lease(conn, destination, "node", self.clock(), 1000, 1 << 40)
            self.archive |= {each.sop_instance_uid: each.instance_id for each in works}
            deliveries.record_attempts(
                conn, [AttemptResult(each, Outcome.SENT) for each in works], self.clock(), proved_by_status=True
            )

        self.db.write(work)

    def numbers(self, sql: str, *given: object) -> list[int]:
        with self.db.reading() as conn:
            return [row[0] for row in conn.execute(sql, given)]

    def version(self, **attributes: Any) -> tuple[int, int]:
        """The right image at the archive, and another person's under its UID: the two instances."""
        (path,) = ct_files(self.tmp_path / f"v{self.one('SELECT count(*) FROM instance')}", 1, 1024)
        self.accept(path.read_bytes())
        self.send()
        wrong = pydicom.dcmread(path)
        wrong.PatientName, wrong.PatientID = "Other^Person", "P0002"
        for keyword, value in attributes.items():
            setattr(wrong, keyword, value)
        self.accept(part10(wrong))
        second, first = self.numbers("SELECT id FROM instance ORDER BY id DESC LIMIT 2")
        return first, second

    def strange(self) -> int:
        """An object whose UIDs are not those of its C-STORE request: quarantined."""
        (path,) = ct_files(self.tmp_path / f"q{self.one('SELECT count(*) FROM instance')}", 1, 1024)
        kind, uid = ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"), "1.2.3.4"
        origin = Origin("CT1", "EDGE", "10.10.4.21", self.clock())
        assert take_in(self.intake, kind, uid, origin, dataset(path.read_bytes())).status == 0xC000
        return int(self.one("SELECT max(id) FROM instance"))

    # -- following ----------------------------------------------------------------------------------------------------

    def edge(self, *args: str) -> Any:
        done = CliRunner().invoke(cli, ["--config", str(self.directory), *args])
        assert done.exception is None or isinstance(done.exception, SystemExit), (args, done.exception)
        assert done.exit_code in (0, 1, 2 if args == ("check",) else 0), (args, done.output)
        return done

    def follow(self, alert: Alert, do: Callable[[Site], None], without: frozenset[str]) -> None:
        """Every action in its order; what is said in words alone is done by `do`, once, at its place."""
        done, found = False, []
        for action in alert.actions:
            if not done and (not action.command or "{}" not in action.words[:6]):
                do(self)
                done = True
            if action.command and not without & set(action.command):
                found = self._type(alert, action, found) or found
        if not done:
            do(self)

    def _type(self, alert: Alert, action: Action, listed: list[int]) -> list[int]:
        """Type one command; of a listing, what it names."""
        program, *args = action.command
        if program in OUTSIDE:
            return []
        if program == "systemctl":
            (self.restart if args[0] == "restart" else self.reload)()
            return []
        ids = [str(each) for each in listed] if "ID" in args else [""]
        for number in ids:
            filled_in = {"ID": number, "ALERT": str(alert.id), "DIR": str(self.tmp_path / "out"), "...": "as advised"}
            filled_in |= {"NEW": "archive", "AE_TITLE": "NEW1"}
            typed = [filled_in.get(each, each) for each in args]
            if "ID" in args and args[0] == "instances":
                self.named.add(int(number))
            elif "ID" in args and args[0] not in ("hl7", "import"):
                self.named.add(self.one("SELECT instance_id FROM delivery WHERE id = ?", int(number)))
            self.edge(*typed)
        if args[1:2] == ["list"] and args[0] in ("queue", "instances", "hl7", "import"):
            return [each.get("id", each.get("message_id")) for each in json.loads(self.edge(*args, "--json").stdout)]
        return []


# -- what is staged ----------------------------------------------------------------------------------------------------


def nothing(_: Site) -> None:
    """The commands do it all."""


@dataclass(frozen=True)
class Case:
    kind: str
    stage: Callable[[Site], Any]
    do: Callable[[Site], Any] = nothing
    without: frozenset[str] = frozenset()  # alternatives that this person does not choose
    name: str = ""
    sent: int = 0  # instances that wait now for the archive, for a person has named them
    keeps: bool = True  # every file is still here
    words: tuple[str, ...] = field(default=())  # that the advice names


def confirmed(site: Site) -> None:
    site.receive(3)
    site.send()
    site.disk = Disk(10**6, 10**4)


def kept_by_rule(site: Site) -> None:
    site.write(CONFIG + '[retention.ct]\nkeep = "3650d"\nwhen = { Modality = "CT" }\n')
    site.reload()
    confirmed(site)
    uid = site.receive(1)
    site.send()
    site.db.write(lambda conn: legal_holds.place_hold(conn, uid, site.clock(), "anna", "case"))


def shorter(site: Site) -> None:
    site.write(CONFIG + '[retention]\nkeep = "1s"\n')
    site.later += 10


def makes_room(site: Site) -> None:
    """What follows by itself once retention may act."""
    site.retention.make_room()
    if site.numbers("SELECT id FROM instance WHERE state = 'evicted'"):
        site.disk = Disk(10**6, 6 * 10**5)


def full_of(stage: Callable[[Site], Any]) -> Callable[[Site], None]:
    def staged(site: Site) -> None:
        stage(site)
        site.disk = Disk(10**6, 10**4)

    return staged


def larger(site: Site) -> None:
    site.disk = Disk(10**8, 9 * 10**7)


def damaged(site: Site, *, sent: bool) -> None:
    (path,) = ct_files(site.tmp_path / "whole", 1, 1024)
    site.again = path.read_bytes()  # type: ignore[attr-defined]
    site.accept(site.again)  # type: ignore[attr-defined]
    if sent:
        site.send()
    site.spool.path_of(site.one("SELECT path FROM instance")).unlink()
    Repairer(site.db, site.spool, lambda: site.config).repair(1)


def sent_again(site: Site) -> None:
    assert site.accept(site.again).status == 0  # type: ignore[attr-defined]


def live(**changes: Any) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        site.live = replace(site.live, **changes)

    return change


def refused(site: Site) -> None:
    site.receive(2)
    site.settle("archive", 2, Outcome.HOLD, "0xA900: the data set does not match its SOP class")


def all_that_is_held(site: Site) -> None:
    refused(site)
    site.version()
    site.receive(1)
    delivery = site.one("SELECT max(id) FROM delivery")
    site.edge("queue", "hold", str(delivery), "--reason", "wrong patient")


def person_holds(site: Site) -> None:
    site.receive(2)
    site.edge("queue", "hold", "--all", "--reason", "wrong patient")


def unrouted(site: Site) -> None:
    site.receive(2, Modality="OT")
    site.version(Modality="OT")  # a conflict among them, which no route matches


def mixed(site: Site) -> None:
    """Two patients' images under one Study Instance UID."""
    study = new_uid()
    for number in ("P0001", "P0002"):
        made = site.tmp_path / f"mixed{number}"
        (path,) = ct_files(made, 1, 1024, StudyInstanceUID=study, PatientID=number)
        site.accept(path.read_bytes())


def mixed_and_forwarded(site: Site) -> None:
    site.write(CONFIG + '[identity]\nmismatch = "forward"\n')
    site.reload()
    mixed(site)


def add_route(site: Site) -> None:
    site.write(CONFIG.replace('when = { Modality = { not = "OT" } }', ""))


def removed(site: Site) -> None:
    site.receive(2)
    site.execute("UPDATE delivery SET destination = 'gone', queued_at = queued_at")


def put_back(site: Site) -> None:
    site.write(CONFIG + '[destination.gone]\nae_title = "GONE"\nhost = "127.0.0.1"\nport = 9\n')


def unproved(site: Site) -> None:
    site.write(CONFIG.replace("port = 104", 'port = 104\nconfirm = "commitment"'))
    site.reload()
    site.receive(2)
    site.settle("archive", 2, proved=False)
    site.execute("UPDATE delivery SET sent_at = sent_at - ?", 2 * DAY)


def prove(site: Site) -> None:
    def work(conn: Any) -> None:
        commitments.confirm(
            conn, "archive", commitments.list_unconfirmed(conn, "archive", 100), site.clock(), "by the test"
        )

    site.db.write(work)


def old(site: Site) -> None:
    site.receive(2)
    site.execute("UPDATE delivery SET queued_at = queued_at - ?", DAY)


def called(name: str, **more: Any) -> Callable[[Site], None]:
    def stage(site: Site) -> None:
        now = site.clock()
        calls = Calls(name, now - HOUR, now, 1, **more)
        site.db.write(lambda conn: remember_peer(conn, "NEW1", "10.0.0.9", calls))

    return stage


def traded(site: Site) -> None:
    """Another scanner calls under the title of the one before."""
    called("ct1")(site)
    make = json.dumps(["ACME", "Scan", "1", "A", "ACME", "Scan", "2", "A"])
    site.execute("UPDATE peer SET first_seen = 0, serial = '2', changed_at = ?, change = ?", site.clock(), make)


def lossy(site: Site) -> None:
    site.execute("INSERT INTO lossy_sender VALUES ('US1', ?1, ?1, 3, 'US', '1.2.840.10008.1.2.4.50')", site.clock())


def day_later(site: Site) -> None:
    site.later += DAY + HOUR


def without_dose(site: Site) -> None:
    site.execute("INSERT INTO measured_study VALUES (7, 'CT1', ?, NULL, 'missing')", site.clock())


def report_comes(site: Site) -> None:
    site.db.write(lambda conn: figures.note_dose_reports(conn, [7]))


def years_old(site: Site) -> None:
    site.receive(1)
    site.send()
    site.execute("UPDATE study SET first_received = first_received - ?", 400 * DAY)


def silent(site: Site) -> None:
    called("ct1")(site)
    site.execute("UPDATE peer SET first_seen = 0")
    site.live = replace(site.live, rhythms={"NEW1": Usual("by 08:00", site.clock() - 2 * HOUR)})


def fell(site: Site) -> None:
    now = site.clock()
    sql = "INSERT INTO downtime (began, ended, why, planned) VALUES (?, ?, 'killed', 0)"
    site.execute(sql, now - 100, now - 10)


def future(site: Site) -> None:
    found = clock.Correction(site.clock(), 3, 100 * DAY)
    site.db.write(lambda conn: clock.record_correction(conn, found))


def rejected(site: Site) -> None:
    site.write(CONFIG + "[listen]\nae_titel = 1\n")
    site.live = replace(site.live, rejected_at=site.clock())


def corrected(site: Site) -> None:
    site.write(CONFIG)


def asked(site: Site) -> None:
    """A scanner has asked for commitment, and takes no report."""
    request = CommitmentRequest(
        "1.9", "1.2.840.10008.1.2", Origin("CT1", "EDGE", "10.10.4.21", site.clock() - 2 * DAY), "ct1"
    )
    known = AskedCommitment("1.9", {"1.2.3": ("1.2.840.10008.5.1.4.1.1.2",)})
    site.db.write(lambda conn: commitment_requests.enter_request(conn, "r", request, known))


def reported(site: Site) -> None:
    def work(conn: Any) -> None:
        (due,) = commitment_requests.list_due_requests(conn, site.clock())
        commitment_requests.note_reported(conn, due, [ReportedInstance("1.2.3", 0x0112)], "local", site.clock())

    site.db.write(work)


AUDITED = CONFIG + '[audit]\nhost = "repository.example.org"\n'


def parked(site: Site) -> None:
    site.write(AUDITED)
    site.reload()

    def work(conn: Any) -> None:
        outbox.post(conn, "audit", "x", site.clock(), "{}")
        outbox.park(conn, outbox.oldest(conn, "audit", 1)[0], site.clock(), "refused")

    site.db.write(work)


def unreachable(channel: str, config: str) -> Callable[[Site], None]:
    """A message that waits for a day."""

    def stage(site: Site) -> None:
        site.write(config)
        site.reload()
        site.db.write(lambda conn: outbox.post(conn, channel, "x", site.clock() - DAY, "{}"))

    return stage


def delivered(site: Site) -> None:
    site.execute("DELETE FROM message")


HL7 = CONFIG + '[hl7]\nport = 2575\n[feed.his]\nhosts = ["10.10.9.5"]\nauthority = "MTF0067"\n'


def receive_hl7(site: Site, *messages: bytes) -> None:
    frame = Hl7Frame("his", "10.10.9.5", site.clock(), "MTF0067")
    for number, data in enumerate(messages):
        for each in read_frame(f"r{number}", frame, data):
            site.db.write(lambda conn, each=each: enter_message(conn, each, {}))  # type: ignore[misc]


def circle(site: Site) -> None:
    receive_hl7(
        site, merge("M1", "T1", "T2"), merge("M2", "T2", "T3"), merge("M3", "T3", "T1"), update("M4", "T1", "A^B")
    )


def discarded(site: Site) -> None:
    site.edge("hl7", "discard", "3", "--reason", "a mistake")


def relayed(state: str) -> Callable[[Site], None]:
    def stage(site: Site) -> None:
        receive_hl7(site, update("M1", "T1", "A^B"))
        site.db.write(lambda conn: relays.enqueue_message(conn, ["vna"], 1, []))
        site.execute("UPDATE hl7_relay SET state = ?", state)
        site.execute("UPDATE hl7_message SET received_at = received_at - ?", HOUR)

    return stage


def passed_on(site: Site) -> None:
    site.execute("UPDATE hl7_relay SET state = 'sent'")


def quiet_feed(site: Site) -> None:
    site.write(HL7)
    site.reload()
    receive_hl7(site, update("M1", "T1", "A^B"))
    now = site.clock()
    site.execute("DELETE FROM hl7_hour")
    for day in range(1, 64):
        site.execute("INSERT INTO hl7_hour VALUES ('his', ?)", (now - day * DAY - 2 * HOUR) // HOUR * HOUR)
    site.execute("UPDATE hl7_tally SET last_at = ?", now - DAY - 2 * HOUR)


def heard_again(site: Site) -> None:
    receive_hl7(site, update("M2", "T1", "A^B"))


def orphan(site: Site) -> None:
    receive_hl7(site, order("M1", "NW", "1001", "T1"))
    site.receive(1)
    site.execute("UPDATE identity_check SET first_at = first_at - ?", 2 * DAY)


def doubtful(site: Site) -> None:
    site.write(HL7)
    site.reload()
    data = update("M1", "T1", "TEST^ONE").replace(b"|2.5.1\r", b"|2.5.1||||||8859/99\r")
    receive_hl7(site, data.replace(b"TEST^ONE", "MÜLLER^RENÉ".encode("latin-1")))


def with_charset(site: Site) -> None:
    site.write(HL7 + 'charset = "8859/1"\n')


WORKLIST = (
    CONFIG.replace('"CT1"\n', '"CT1"\nservices = ["echo", "store", "worklist"]\n', 1) + '[worklist]\nfrom = "archive"\n'
)


def ris_is_away(site: Site) -> None:
    site.write(WORKLIST)
    site.reload()
    for _ in range(2):
        site.db.write(lambda conn: worklist.note_failure(conn, "", "connection refused", site.clock()))


def ris_is_back(site: Site) -> None:
    site.db.write(lambda conn: worklist.replace_items(conn, "", [], site.clock()))


def disc_is_read(site: Site) -> None:
    """A disc with one study was read, and nobody has said whose it is."""

    def work(conn: Any) -> None:
        batch = imports.begin_batch(conn, "disc", "command", "anna", site.clock() - DAY)
        patient = "'1.2', 'P1', '', 'A^B', '19700101', 'F', '', '', 'CT', ''"
        conn.execute(f"INSERT INTO import_study VALUES (1, {batch}, {patient}, 'staged', NULL, '', NULL, '')")

    site.db.write(work)


APPOINTMENT = ("knees", "archive", "item", "1.2.3", "P1", "A^B", "19700101", "20300101080000")


def strangers_prior(site: Site) -> None:
    """The archive has a study of somebody else under the number of a patient with an appointment."""

    def work(conn: Any) -> None:
        prefetch.note_requests(conn, [PrefetchRequest(*APPOINTMENT)], site.clock() - DAY)
        found = PrefetchRequest(*APPOINTMENT, id=1)
        prefetch.note_chosen(conn, found, [PriorStudy("1.2.9", 3, is_conflict=True)], site.clock() - DAY)

    site.db.write(work)


def corrected_appointment(site: Site) -> None:
    """Its patient is another one now: it is another item of the worklist."""
    other = PrefetchRequest("knees", "archive", "item 2", "1.2.3", "P2", *APPOINTMENT[5:])
    site.db.write(lambda conn: prefetch.note_requests(conn, [other], site.clock()))


def announced(site: Site) -> None:
    """A scanner has announced two images of a study, of which one came."""
    site.receive(1)
    uid, ended = site.one("SELECT sop_instance_uid FROM instance"), site.clock() - DAY
    who = "'CT1', 'EDGE', '10.10.4.21', 'ct1', 'CT1', 'CT', 'PPS1', '', ''"
    site.execute(f"INSERT INTO performed_step VALUES (1, '1.2.3', 'COMPLETED', x'00', {who}, 0, ?, 1, 0, 0, 1)", ended)
    for each in (uid, "1.2.9"):
        site.execute("INSERT INTO performed_instance VALUES (1, ?, '', '')", each)


def missing_came(site: Site) -> None:
    site.db.write(lambda conn: step_images.note_comparison(conn, 1, 0, None))


FAULT = Machine(disk_faults=("ext4 has counted 3 errors on sda1",))
OPEN = {"release", "discard"}
JUNK = Unkept(3, 5.0, 9.0, "CT1", "10.0.0.1")
CASES = [
    Case("storage-unhealthy", live(unhealthy="EIO", state="refusing")),
    Case("storage-refusing", confirmed, shorter, keeps=False, words=("retention.keep",), name="all confirmed"),
    Case("storage-refusing", kept_by_rule, larger, words=("[retention.ct] keeps images", "a legal hold keeps 1 study"),
         name="kept"),
    Case("storage-refusing", full_of(refused), larger, words=("queue list --state held",), name="undecided"),
    Case("storage-refusing", full_of(unproved), larger, words=("archive has not confirmed",), name="unproved"),
    Case("storage-refusing", full_of(lambda s: s.receive(2)), larger, words=("to be sent to archive",), name="waiting"),
    Case("storage-refusing", full_of(Site.strange), larger, words=("quarantine",), name="quarantine"),
    Case("storage-filling", lambda s: (confirmed(s), setattr(s, "disk", Disk(10**6, 10**5))), shorter, keeps=False,
         words=("retention.keep",)),
    Case("disk-failing", live(machine=FAULT), live(machine=Machine())),
    Case("ledger-broken", live(ledger_broken="row 7"), live(ledger_broken="")),
    Case("ledger-broken", live(folds_damaged="2024.jsonl.gz"), live(folds_damaged=""), name="yearly files"),
    Case("lost", lambda s: damaged(s, sent=False), sent_again, sent=1, keeps=False),
    Case("lost", lambda s: damaged(s, sent=True), name="everywhere", keeps=False),
    Case("destination-down", live(destinations={"archive": Link("down")}), live(destinations={})),
    Case("destination-removed", removed, put_back, without=frozenset({"destination"})),
    Case("destination-removed", removed, without=frozenset({"reload", "rename"}), name="retired"),
    Case("destination-removed", removed, without=frozenset({"reload", "retire"}), name="renamed"),
    Case("backlog-old", old, Site.send),
    Case("work-held", all_that_is_held, without=frozenset({"cancel", "discard"}), sent=4, name="release"),
    Case("work-held", all_that_is_held, without=frozenset({"release", "retry"}), sent=0, name="refuse"),
    Case("work-held", person_holds, without=frozenset({"cancel"}), sent=2, name="person"),
    Case("unroutable", unrouted, add_route, without=frozenset({"discard"}), sent=2),
    Case("unconfirmed", unproved, prove),
    Case("conflict", Site.version, without=frozenset({"discard"}), sent=1, name="release"),
    Case("conflict", Site.version, without=frozenset({"release"}), name="discard"),
    Case("patient-mismatch", mixed, without=frozenset({"discard"}), sent=2, name="release"),
    Case("patient-mismatch", mixed, without=frozenset({"release"}), sent=1, name="discard"),
    Case("patient-mismatch", mixed_and_forwarded, sent=2, name="not held"),
    Case("quarantine", Site.strange, without=frozenset({"discard"}), sent=1, name="release"),
    Case("quarantine", Site.strange, without=frozenset({"release"}), name="discard"),
    Case("quarantine-full", live(unkept=JUNK), live(unkept=None), without=frozenset({"discard"})),
    Case("unknown-equipment", called(""), called("new1")),
    Case("new-modality", called("ct1")),
    Case("equipment-changed", traded),
    Case("lossy-received", lossy, day_later),
    Case("dose-report-missing", without_dose, report_comes),
    Case("restore-untried", years_old),
    Case("commitment-unreported", asked, reported),
    Case("modality-silent", silent, live(rhythms={})),
    Case("unscheduled-downtime", fell),
    Case("clock-skew", live(machine=Machine(Clock(True, 3.0))), live(machine=Machine(Clock(True, 0.0)))),
    Case("clock-was-wrong", future),
    Case("certificate-expiring", lambda s: live(certificates={"vna": s.clock() + DAY})(s), live(certificates={})),
    Case("configuration-rejected", rejected, corrected),
    Case("order-missing", orphan, sent=1),
    Case("hl7-parked", circle, discarded, frozenset({"discard"}), "replay"),
    Case("hl7-parked", circle, without=frozenset({"replay"}), name="discard"),
    Case("relay-held", relayed("held"), without=frozenset({"cancel"}), name="release"),
    Case("relay-held", relayed("held"), without=frozenset({"release"}), name="cancel"),
    Case("relay-stuck", relayed("waiting"), passed_on),
    Case("feed-silent", quiet_feed, heard_again),
    Case("merged-id-used", lambda s: receive_hl7(s, merge("M1", "T1", "T2"), update("M2", "T1", "A^B"))),
    Case("accession-reused",
         lambda s: receive_hl7(s, order("M1", "NW", "1", "T1"), order("M2", "NW", "1", "T2"))),
    Case("worklist-stale", ris_is_away, ris_is_back),
    Case("import-waiting", disc_is_read),
    Case("prior-mismatch", strangers_prior, corrected_appointment),
    Case("images-missing", announced, missing_came, sent=1),
    Case("merge-reversed", lambda s: receive_hl7(s, merge("M1", "T1", "T2"), merge("M2", "T2", "T1"))),
    Case("hl7-control-id-reused", lambda s: receive_hl7(s, update("M1", "T1", "A^B"), update("M1", "T1", "A^C"))),
    Case("charset-wrong", doubtful, with_charset),
    Case("channel-stuck", parked, without=frozenset({"retry"}), name="discard"),
    Case("channel-stuck", unreachable("audit", AUDITED), delivered, name="audit"),
    Case("channel-stuck", unreachable("webhook.chat", CONFIG), words=("put its table back",), name="removed"),
    Case("channel-stuck", unreachable("heartbeat.notices", CONFIG), name="no heartbeat"),
]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def undecided(site: Site) -> set[tuple[int, str]]:
    codes = [code.value for code in NEEDS_DECISION]
    with site.db.reading() as conn:
        rows = conn.execute(
            "SELECT instance_id, reason_code FROM delivery WHERE state = 'held' AND reason_code IN"
            " (SELECT value FROM json_each(?))",
            (json.dumps(codes),),
        ).fetchall()
    return {(row[0], row[1]) for row in rows}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(filter(None, (case.kind, case.name))))
def test_advice_that_is_followed_does_no_harm_and_ends_the_alert(site: Site, case: Case) -> None:
    case.stage(site)
    before, at_archive = undecided(site), dict(site.archive)
    files = set((site.data_dir / "spool").rglob("*.dcm"))
    digests = set(site.numbers("SELECT hex(sha256) FROM instance"))
    site.look()
    alert = site.alert(case.kind)
    assert alert is not None
    assert alert.actions
    _assert_commands_exist(alert)
    for word in case.words:
        assert word in alert.do
    assert "free some" not in alert.do
    site.follow(alert, case.do, case.without)
    queued = site.numbers(
        "SELECT DISTINCT instance_id FROM delivery WHERE state = 'pending' AND destination = 'archive'"
    )
    if case.kind not in ("storage-refusing", "storage-filling", "destination-removed", "backlog-old"):
        assert len(queued) == case.sent
    site.send()
    released = {number for number, _ in before} & set(queued)
    by_route = {number for number, code in before if code == "unroutable"}
    assert released <= site.named | by_route
    overwritten = {uid for uid, number in at_archive.items() if site.archive[uid] != number}
    assert all(site.archive[uid] in site.named for uid in overwritten), "a person named what replaces an image"
    makes_room(site)
    kept = set((site.data_dir / "spool").rglob("*.dcm"))
    if case.keeps and case.kind != "quarantine":
        assert kept >= files
    assert set(site.numbers("SELECT hex(sha256) FROM instance")) >= digests
    assert not site.numbers(
        "SELECT i.id FROM instance i JOIN delivery d ON d.instance_id = i.id WHERE i.state = 'evicted'"
        " AND d.state <> 'confirmed'"
    )
    site.look()
    if case.kind == "unroutable":  # the conflict among them has a route now, and waits as a conflict
        assert undecided(site) == {(max(number for number, _ in before), "conflict")}
    assert site.alert(case.kind) is None
    with site.db.reading() as conn:
        assert ledger.check(conn) is None


def test_every_kind_of_alert_has_a_case() -> None:
    assert {case.kind for case in CASES} == set(ALERT_KINDS)


def _assert_commands_exist(alert: Alert) -> None:
    for action in alert.actions:
        assert action.text.replace("ALERT", str(alert.id)) in alert.do
        if action.command[:1] == ("edge",):
            group: click.Command | None = cli
            context = click.Context(cli)
            for name in action.command[1:3]:
                if isinstance(group, click.Group):
                    group = group.get_command(context, name)
            assert group is not None and not isinstance(group, click.Group), action.command  # noqa: PT018
            options = {name for param in group.params for name in param.opts}
            assert {word for word in action.command if word.startswith("--")} <= options
        assert "retry" not in action.command or "--all" not in action.command


# -- a real gateway ----------------------------------------------------------------------------------------------------


def test_a_real_archive_keeps_the_right_image(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    """The case that did harm: what `work-held` advised overwrote the right image at the archive."""
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    (path,) = ct_files(tmp_path / "ct", 1, 4096)
    storescu([path], edge.port)
    wait_until(lambda: len(archive.files()) == 1, 20, "the right image is at the archive")
    right = archive.files()[0].read_bytes()
    wrong = pydicom.dcmread(path)
    wrong.PatientName, wrong.PatientID = "Other^Person", "P0002"
    wrong.save_as(path)
    storescu([path], edge.port)

    def advice() -> dict[str, list[list[str]]]:
        alerts = edge.api_status()["alerts"]
        return {each["kind"]: [action["command"] for action in each["actions"]] for each in alerts}

    wait_until(lambda: set(advice()) == {"work-held", "conflict", "patient-mismatch"}, 20, "the alerts are there")
    commands = advice()["work-held"]
    assert ["edge", "queue", "retry", "--destination", "archive"] not in commands
    for typed in (["queue", "retry", "--destination", "archive"], ["queue", "retry", "--all"]):
        done = edge.cli(*typed)
        assert done.returncode == 1
        assert "edge instances discard" in done.stdout
    (listed,) = json.loads(edge.cli("instances", "list", "--state", "conflict", "--json").stdout)
    number = str(listed["id"])
    shown = edge.cli("instances", "show", number)
    assert "Other^Person" in shown.stdout
    assert f"instance {number} replaces it there" in shown.stdout
    fill = {"ID": number, "...": "wrong patient"}
    for command in commands:
        if "release" not in command:
            edge.cli(*[fill.get(word, word) for word in command[1:]])
    wait_until(lambda: not advice(), 20, "the alerts are over")
    assert archive.stores() == 1
    assert archive.files()[0].read_bytes() == right
    assert "SHA-256" in edge.cli("instances", "show", number).stdout
