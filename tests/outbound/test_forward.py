"""The way out, to real DCMTK and to a peer that misbehaves by script: everything arrives, whatever happens."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import xxhash
from pydicom.dataset import FileMetaDataset
from pydicom.uid import RLELossless

from edge.config.sections import Destination
from edge.dicom.scu import Patience
from edge.errors import AssociationRejected, PeerError, StorageFull, StorageUnhealthy, TransformError, Transient
from edge.model import Assignment, ContextKey, InstanceHeader, Lease, Origin, Priority
from edge.outbound import Forwarder, pace, scheduler, suspects
from edge.outbound.crew import SenderRole
from edge.outbound.job import Job, Leased, PendingJobs
from edge.outbound.transport.dimse import Sender
from edge.spool import Spool
from edge.store import catalog, deliveries, destinations
from edge.store.database import Store
from edge.store.destinations import KnownHealth
from edge.store.reasons import reason_of, words
from edge.transform import Converted, Transcoder
from tests.support import scripted
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files, dataset, new_uid, read_meta, sop_instance_uid
from tests.support.peers import StoreScp, free_port, wait_until
from tests.support.scripted import ScriptedScp

EXPLICIT, IMPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"
CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENCE = Patience()
#: For peers that fall silent: whoever answers has longer.
IMPATIENT = Patience(associate=0.5, answer=0.5)
ROUTINE, STAT = Priority.ROUTINE, Priority.STAT


class FakeTranscoder:
    """Makes copies that say what they are."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.made: list[Path] = []

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted:
        if self.error is not None:
            raise self.error
        body = f"{source_syntax} as {target_syntax}:".encode() + source.read_bytes()[dataset_offset:]
        target.write_bytes(b"head" + body)
        self.made.append(target)
        return Converted(target, 4, 4 + len(body))


class Outbox:
    """A spool and a catalog with work in it, and the forwarders that take it away."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.db, self.spool = Store(directory / "catalog.db"), Spool(directory)
        self.transcoder: Any = FakeTranscoder()
        self.forwarders: dict[str, Forwarder] = {}
        self._made = 0

    def add(
        self,
        files: Sequence[Path],
        *destinations: str,
        priority: Priority = ROUTINE,
        sop_class: str = "",
        syntax: str = "",
    ) -> list[str]:
        """Queue files as intake does; their SOP Instance UIDs. `sop_class`, `syntax`: other than they are."""
        stored = [self._store(path, sop_class, syntax) for path in files]
        assignments = [Assignment(name, priority, "test") for name in destinations or ("archive",)]

        def work(conn: Any) -> None:
            for facts, file in stored:
                added = catalog.add(conn, facts, file, "")
                deliveries.enqueue(conn, added.instance_id, added.kind_id, file.size, assignments, time.time())

        self.db.write(work, stored[0][1].bucket)
        for name in destinations or ("archive",):
            if name in self.forwarders:
                self.forwarders[name].wake()
        return [facts.sop_instance_uid for facts, _ in stored]

    def make(self, count: int, size: int = 4096, *destinations: str, **options: Any) -> list[str]:
        """Queue so many new CT slices."""
        self._made += 1
        return self.add(ct_files(self.spool.root.parent / f"ct{self._made}", count, size), *destinations, **options)

    def _store(self, path: Path, sop_class: str, syntax: str) -> tuple[InstanceHeader, Any]:
        blob = path.read_bytes()
        meta, at = read_meta(blob)
        told = {number: meta[number].rstrip(b"\0 ").decode() for number in (2, 3, 0x10)}
        kind, origin = (
            ContextKey(sop_class or told[2], syntax or told[0x10]),
            Origin("CT1", "EDGE", "127.0.0.1", time.time()),
        )
        partial = self.spool.begin(kind, told[3], origin)
        partial.write([memoryview(blob)[at:]])
        quick = xxhash.xxh3_128_digest(blob[at:])
        study = {"StudyInstanceUID": ("1.2.826.0.1.3680043.8.498.1",)}
        return InstanceHeader(kind.sop_class_uid, told[3], kind.transfer_syntax_uid, origin, study), replace(
            partial.finish(), xxh3=quick
        )

    def forward(self, port: int, name: str = "archive", patience: Patience = PATIENCE, **options: Any) -> Forwarder:
        """Start the forwarder of one destination."""
        given = {key: options.pop(key) for key in ("confirm", "associations") if key in options}
        destination = Destination(name, "ARCHIVE", "127.0.0.1", port, **given)
        forwarder = Forwarder(self.db, self.spool, self.transcoder, destination, "EDGE", patience=patience, **options)
        self.forwarders[name] = forwarder
        forwarder.start()
        return forwarder

    def come_due(self, seconds: float = 3600.0) -> None:
        """The housekeeper, so much later."""
        for name in self.db.write(lambda conn: deliveries.requeue_due(conn, time.time() + seconds)):
            self.forwarders[name].wake()

    def states(self, name: str = "archive") -> Counter[str]:
        with self.db.reading() as conn:
            rows = conn.execute("SELECT state, count(*) FROM delivery WHERE destination = ? GROUP BY state", (name,))
            return Counter(dict(rows.fetchall()))

    def row(self, uid: str, name: str = "archive") -> dict[str, Any]:
        with self.db.reading() as conn:
            found = conn.execute(
                "SELECT d.*, i.state AS instance_state FROM delivery d JOIN instance i ON i.id = d.instance_id"
                " WHERE i.sop_instance_uid = ? AND d.destination = ?",
                (uid, name),
            )
            row = found.fetchone()
            return dict(row) | {"reason": words(reason_of(row))}

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        with self.db.reading() as conn:
            return [tuple(row) for row in with_words(conn).execute(sql)]

    def wait(self, timeout: float = 20.0, name: str = "archive", **states: int) -> None:
        """Until the destination's rows are exactly so."""
        try:
            wait_until(lambda: self.states(name) == states, timeout, f"{states} at {name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\nwhat there is: {self.states(name)}") from None

    def path(self, uid: str) -> Path:
        with self.db.reading() as conn:
            return self.spool.path_of(
                conn.execute("SELECT path FROM instance WHERE sop_instance_uid = ?", (uid,)).fetchone()[0]
            )

    def close(self) -> None:
        for forwarder in self.forwarders.values():
            forwarder.stop(3.0)
        self.db.close()
        self.spool.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "data")
    yield outbox
    outbox.close()


@pytest.fixture
def peer(running: ExitStack) -> Callable[..., ScriptedScp]:
    """`peer(stores=[...])`: a scripted SCP that runs until the test ends."""
    return lambda *args, **options: running.enter_context(ScriptedScp(*args, **options))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of a destination that is down begin after a twentieth of a second, and stay below one."""
    monkeypatch.setattr(pace, "LINK_FIRST", 0.05)
    monkeypatch.setattr(pace, "LINK_LONGEST", 0.4)
    monkeypatch.setattr(pace, "REJECTED_LONGEST", 0.4)
    monkeypatch.setattr(suspects, "AGAIN_FIRST", 0.5)
    monkeypatch.setattr(suspects, "SLOWLY_LONGEST", 0.4)


# -- the main job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3_000, 512 * 1024])
def test_a_backlog_arrives_byte_for_byte_once_and_is_settled(
    box: Outbox, archive: StoreScp, tmp_path: Path, size: int
) -> None:
    paths = ct_files(tmp_path / "ct", 60, size)
    box.add(paths)
    box.forward(archive.port)
    box.wait(confirmed=60)
    assert {sop_instance_uid(p): dataset(p) for p in archive.files()} == {
        sop_instance_uid(p): dataset(p) for p in paths
    }
    assert archive.stores() == 60
    ledger = box.all("SELECT event, sum(json_array_length(instances)) FROM ledger GROUP BY event")
    assert dict(ledger) == {"sent": 60, "confirmed": 60}
    assert box.all("SELECT count(*) FROM delivery WHERE attempts = 1 AND status = 0 AND lease_until IS NULL") == [(60,)]


def test_where_no_sender_can_be_started_it_goes_on_later(
    box: Outbox, archive: StoreScp, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    """As TasksMax= of the unit, or the memory, has it."""
    start, refused = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if isinstance(thread, Sender) and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    box.make(3)
    box.forward(archive.port)
    box.wait(confirmed=3)
    assert len(refused) == 3


def test_proof_by_another_way_leaves_it_sent_and_says_so(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    told = threading.Event()
    box.make(3)
    box.forward(peer().port, confirm="commitment", on_sent=told.set)
    assert told.wait(60)
    box.wait(sent=3)


def test_an_association_is_used_again_and_released_when_idle(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.outbound.transport._LINGER_SECONDS", 2.0)
    scp = peer()
    box.make(3)
    forwarder = box.forward(scp.port, associations=1)
    box.wait(confirmed=3)
    box.make(3)
    box.wait(confirmed=6)
    assert scp.connections == 1
    wait_until(lambda: scp.releases == 1, 5, "the idle association is released")
    wait_until(lambda: forwarder.describe().associations == 0, 5, "its sender is gone")
    box.make(1)
    box.wait(confirmed=7)
    assert scp.connections == 2


def test_what_is_queued_later_goes_too_even_unannounced(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.2)
    forwarder = box.forward(peer().port)
    monkeypatch.setattr(forwarder, "wake", lambda: None)
    box.make(5)
    box.wait(confirmed=5)


def test_a_peer_that_takes_one_object_an_association_is_no_failure(
    box: Outbox, peer: Callable[..., ScriptedScp]
) -> None:
    scp = peer([scripted.close_after_answer])
    box.make(50)
    forwarder = box.forward(scp.port)
    box.wait(confirmed=50)
    assert scp.connections >= 50
    assert forwarder.describe().last_error is None
    assert box.all("SELECT max(attempts) FROM delivery") == [(1,)]


@pytest.mark.parametrize("release", ["close", "abort", "silent"])
def test_the_end_of_an_association_does_not_matter(
    box: Outbox, peer: Callable[..., ScriptedScp], release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.outbound.transport._LINGER_SECONDS", 0.05)
    monkeypatch.setattr("edge.dicom.scu.Association.release.__defaults__", (0.3,))
    scp = peer(release=release)
    forwarder = box.forward(scp.port)
    for total in (2, 4):
        box.make(2)
        box.wait(confirmed=total)
        wait_until(lambda: forwarder.describe().associations == 0, 5, "released")
    assert forwarder.describe().last_error is None


def test_a_stat_study_goes_to_the_front_of_20_000(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_after(0.005)])
    box.make(1)
    box.wait(pending=1)

    def multiply(conn: Any) -> None:
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            " INSERT INTO instance (sop_instance_uid, sha256, kind_id, study_id, state, path, size, dataset_offset,"
            " calling_ae, called_ae, address, received_at)"
            " SELECT '1.2.3.' || i, sha256, kind_id, study_id, state, path || i, size, dataset_offset, calling_ae,"
            " called_ae, address, received_at FROM instance, n"
        )
        conn.execute(
            "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
            " SELECT id, 'archive', kind_id, size, 2, 'pending', received_at FROM instance"
            " WHERE sop_instance_uid LIKE '1.2.3.%'"
        )

    box.db.write(multiply)
    path = next(box.spool.root.glob("*/*.dcm"))
    for number in range(1, 20_001):
        path.with_name(f"{path.name}{number}").hardlink_to(path)
    box.forward(scp.port)
    wait_until(lambda: len(scp.received) > 20, 10, "routine work is under way")
    urgent = set(box.make(5, priority=STAT))
    before = len(scp.received)
    wait_until(lambda: urgent <= set(scp.uids()), 10, "the stat study has left")
    last = max(at for at, each in enumerate(scp.received) if each.sop_instance_uid in urgent)
    assert last - before <= pace.MOST_INSTANCES + scheduler.UNSETTLED + 5, "only what was leased already goes before it"
    assert {each.priority for each in scp.received if each.sop_instance_uid in urgent} == {1}


# -- statuses ---------------------------------------------------------------------------------------------------------


def test_out_of_resources_defers_that_instance_and_says_until_when(
    box: Outbox, peer: Callable[..., ScriptedScp]
) -> None:
    scp = peer([scripted.answer_with(0xA700, "disk full"), scripted.succeed])
    uids = box.make(4)
    before = time.time()
    forwarder = box.forward(scp.port)
    box.wait(deferred=1, confirmed=3)
    row = box.row(uids[0])
    assert (row["state"], row["status"], row["attempts"]) == ("deferred", 0xA700, 1)
    assert (row["reason"], row["peer_text"]) == ("the destination is out of resources (status A700)", "disk full")
    assert before + 24 <= row["not_before"] <= time.time() + 36, "half a minute, spread a little"
    assert forwarder.state == "up"
    box.come_due()
    box.wait(confirmed=4)
    assert box.row(uids[0])["attempts"] == 2


def test_five_times_out_of_resources_is_about_the_destination(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None
) -> None:
    scp = peer([*[scripted.answer_with(0xA700)] * 7, scripted.succeed])
    box.make(20)
    forwarder = box.forward(scp.port, associations=1)
    box.wait(deferred=7, confirmed=13)
    assert forwarder.describe().last_error == "the destination is out of resources (status A700)"
    assert forwarder.state == "up"
    box.come_due()
    box.wait(confirmed=20)


def test_a_permanent_refusal_is_held_at_once_and_never_retried(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_with(0xC000), scripted.succeed])
    uids = box.make(3)
    box.forward(scp.port)
    box.wait(held=1, confirmed=2)
    box.come_due()
    box.make(1)
    box.wait(held=1, confirmed=3)
    assert scp.stores == 4
    assert "cannot understand" in box.row(uids[0])["reason"]
    assert box.all("SELECT event, words(event, detail, payload) FROM ledger WHERE event = 'held'") == [
        ("held", box.row(uids[0])["reason"])
    ]


def test_a_warning_is_a_success_with_a_note(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_with(0xB006), scripted.answer_with(0x0111)])
    uids = box.make(2)
    box.forward(scp.port)
    box.wait(confirmed=2)
    assert "discarded" in box.row(uids[0])["reason"]
    assert "already" in box.row(uids[1])["reason"]


# -- outages ----------------------------------------------------------------------------------------------------------


def test_nobody_there_then_back_drains_by_itself(
    box: Outbox, archive: StoreScp, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    archive.stop()
    box.make(50)
    forwarder = box.forward(archive.port)
    wait_until(lambda: forwarder.state == "down", 5, "it is down")
    told = forwarder.describe()
    assert told.last_error == f"127.0.0.1:{archive.port} refuses the connection: nothing listens there"
    assert told.retry_at is not None
    wait_until(lambda: box.all("SELECT state FROM destination") == [("down",)], 5, "the catalog knows")
    assert box.all("SELECT max(attempts) FROM delivery") == [(0,)], "an instance that never left was not tried"
    archive.start()
    box.wait(confirmed=50)
    wait_until(lambda: box.all("SELECT state, retry_at FROM destination") == [("up", None)], 5, "the catalog knows")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"archive is down: {told.last_error}"
    ]


@pytest.mark.parametrize(
    "fault",
    [
        scripted.abort_midway,
        scripted.reset_midway,
        scripted.abort_after,
        scripted.never_answer,
        scripted.answer_another,
        scripted.ask_to_release,
    ],
)
def test_a_fault_in_the_midst_of_an_object_costs_nothing_but_time(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None, fault: scripted.Store
) -> None:
    scp = peer([scripted.succeed, fault, fault, fault, scripted.succeed])
    uids = box.make(10, 200_000)
    box.forward(
        scp.port, patience=replace(PATIENCE, answer=2.0 if fault is scripted.never_answer else 600.0), associations=1
    )
    box.wait(confirmed=10)
    late = [row for row in map(box.row, uids) if row["breaks"]]
    assert [(row["attempts"], row["status"]) for row in late] == [(2, 0)] * len(late)
    assert 2 <= len(late) <= 3
    assert Counter(scp.uids()) == Counter(uids)


@pytest.mark.parametrize("fault", ["--abort-after", "--abort-during", "--refuse"])
def test_a_faulty_storescp_is_waited_for(
    box: Outbox, tmp_path: Path, impatient: None, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers C-ECHO is not down: its objects are suspects, and none is held while it stores nothing."""
    monkeypatch.setattr(
        scheduler, "POLL_SECONDS", 0.5
    )  # `come_due` lets leases lapse: only a poll finds a suspect then
    port = free_port()
    uids = box.make(6, 100_000)
    with StoreScp(tmp_path / "faulty", args=[fault], port=port):
        forwarder = box.forward(port, patience=Patience())
        if fault == "--refuse":
            wait_until(lambda: forwarder.state == "down", 10, "it is down")
        else:
            box.wait(10, deferred=6)
    with StoreScp(tmp_path / "sound", port=port) as sound:
        wait_until(lambda: box.come_due() or box.states() == {"confirmed": 6}, 20, "all are there", interval=0.2)
        assert sound.uids() <= set(uids)
        assert len(sound.files()) == 6


def test_a_slow_storescp_is_no_fault(box: Outbox, tmp_path: Path, running: ExitStack) -> None:
    slow = running.enter_context(StoreScp(tmp_path / "slow", args=["--sleep-after", "1"]))
    box.make(2)
    forwarder = box.forward(slow.port, patience=Patience())
    box.wait(confirmed=2)
    assert forwarder.describe().last_error is None


@pytest.mark.parametrize(
    ("associate", "words"),
    [
        (scripted.reject(1, 1, 3), "rejected for good: it does not know our AE title"),
        (scripted.reject(2, 3, 1), "rejected for now: temporary congestion"),
        (scripted.hang_up, "closed the connection instead of answering A-ASSOCIATE"),
        (scripted.fall_silent, "fell silent"),
        (scripted.say(b"SSH-2.0-x\r\n"), "does not speak DICOM"),
    ],
)
def test_a_destination_that_will_not_associate(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None, associate: scripted.Associate, words: str
) -> None:
    scp = peer(associations=[associate, associate, scripted.accept()])
    box.make(5)
    forwarder = box.forward(
        scp.port, patience=IMPATIENT if associate is scripted.fall_silent else PATIENCE, associations=1
    )
    wait_until(lambda: forwarder.state == "down", 5, "it is down")
    assert words in (forwarder.describe().last_error or "")
    assert forwarder.describe().refuses == words.startswith("rejected")
    box.wait(confirmed=5)
    assert not forwarder.describe().refuses
    assert scp.connections == 3
    assert box.all("SELECT max(attempts) FROM delivery") == [(1,)]


def test_while_down_there_is_one_probe_at_a_time(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that hangs up is not hammered: each try waits for the pause that the number of failures asks for."""
    scp = peer(associations=[scripted.hang_up])
    box.make(50)
    asked: list[int] = []

    def wait_longer(failures: int, first: float, longest: float, chance: float) -> float:
        asked.append(failures)
        return 0.05 if failures < 6 else 600.0

    monkeypatch.setattr(pace, "backoff", wait_longer)
    box.forward(scp.port, associations=4)
    wait_until(lambda: asked[-1:] == [6], 10, "six have failed in a row")
    assert asked == [1, 2, 3, 4, 5, 6], "each after the pause of the one before it"
    assert scp.connections <= 6 + 3, "those that were opened beside the first have told nothing new"
    assert scp.most_open <= 4
    assert box.states() == {"pending": 50}


def test_a_flapping_archive_still_gets_everything_once(box: Outbox, archive: StoreScp, impatient: None) -> None:
    uids = box.make(300, 30_000)
    box.forward(archive.port, patience=Patience())
    for _ in range(4):
        arrived = len(archive.files())
        wait_until(lambda n=arrived: len(archive.files()) > n, 10, "some more arrive")
        archive.kill()
        archive.start()
    wait_until(lambda: box.come_due() or box.states() == {"confirmed": 300}, 30, "all are there", interval=0.2)
    assert archive.uids() == set(uids)


def test_after_an_outage_what_was_deferred_for_it_goes_at_once(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None
) -> None:
    scp = peer([*[scripted.reset_midway] * 4, scripted.succeed])
    box.make(10)
    box.forward(scp.port, associations=1)
    box.wait(10, confirmed=10)  # nobody promotes what is due here: the destination is back, so nothing need wait


def test_a_dead_destination_does_not_slow_another(
    box: Outbox, archive: StoreScp, peer: Callable[..., ScriptedScp]
) -> None:
    silent = peer(associations=[scripted.fall_silent])
    box.make(200, 50_000, "archive", "dead", "silent")
    box.forward(free_port(), "dead")
    box.forward(silent.port, "silent", Patience(associate=600.0))
    wait_until(lambda: silent.connections, 10, "the silent one is being waited for")
    box.forward(archive.port)
    box.wait(confirmed=200)
    assert silent.connections == 1, "it still is"
    assert box.states("dead")["confirmed"] == box.states("silent")["confirmed"] == 0


def test_a_destination_without_work_is_asked_whether_it_is_back(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "AGAIN_FIRST", 60.0)
    scp = peer([scripted.reset_midway, scripted.succeed], [scripted.accept(), scripted.hang_up, scripted.accept()])
    uids = box.make(1)
    forwarder = box.forward(scp.port)
    box.wait(deferred=1)
    forwarder._scheduler.add_sender(gone := Idler())
    forwarder._scheduler.note_break(gone, None, PeerError("no route"))
    forwarder._scheduler.remove_sender(gone)
    assert forwarder.state == "down"
    wait_until(lambda: forwarder.state == "up", 5, "C-ECHO was answered")
    assert scp.stores == 1
    assert box.row(uids[0])["state"] == "deferred"


def test_a_restart_remembers_that_it_was_down(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    box.db.write(
        lambda conn: destinations.note_health(conn, "archive", KnownHealth("down", 5.0, 6.0, 4.0, "it was dark", True))
    )
    scp = peer(associations=[scripted.fall_silent])
    box.make(1)
    told = box.forward(scp.port).describe()
    known = (told.state, told.since, told.last_success, told.last_error, told.refuses)
    assert known == ("down", 5.0, 4.0, "it was dark", True)


# -- what a destination takes -----------------------------------------------------------------------------------------


def test_a_refused_kind_is_held_whole_without_a_round_trip_each(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer(associations=[scripted.accept(lambda sop_class, syntax: sop_class == CT)])
    refused = box.make(200, sop_class="1.2.840.10008.5.1.4.1.1.4")
    taken = box.make(20)
    box.forward(scp.port)
    box.wait(held=200, confirmed=20)
    assert set(scp.uids()) == set(taken)
    assert scp.stores == 20
    assert scp.connections <= 2
    reason = box.row(refused[0])["reason"]
    assert "MR Image Storage in Explicit VR Little Endian" in reason
    assert "the SOP class is not supported" in reason


def test_a_kind_that_was_taken_before_waits_while_it_is_refused(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None
) -> None:
    """A mistake in the archive's configuration, for minutes, holds no queue, and no others back."""
    is_wrong = [False]
    scp = peer(associations=[scripted.accept(lambda sop_class, _: sop_class != CT or not is_wrong[0])])
    box.make(2)
    forwarder = box.forward(scp.port)
    box.wait(confirmed=2)
    wait_until(lambda: scp.open == 0, 20, "the association has ended")
    is_wrong[0] = True
    uids = box.make(8)
    wait_until(lambda: box.states()["deferred"] == 8, 20, "it has refused them")
    assert "the SOP class is not supported" in box.row(uids[0])["reason"]
    assert not forwarder.describe().refuses, "it may take others"
    wait_until(lambda: scp.open == 0, 20, "the association has ended")
    is_wrong[0] = False
    box.come_due()
    box.wait(confirmed=10)


def test_what_a_destination_takes_is_told(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer(associations=[scripted.accept(scripted.native_only)])
    (uid,) = box.make(1, syntax="1.2.840.10008.1.2.4.102")
    box.forward(scp.port)
    box.wait(held=1)
    reason = box.row(uid)["reason"]
    assert "MPEG-4 AVC/H.264 High Profile" in reason
    assert "it takes Explicit VR Little Endian" in reason
    assert "Edge cannot convert: transfer syntax 1.2.840.10008.1.2.4.102" in reason


def test_a_refused_syntax_is_converted_on_a_copy(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer(associations=[scripted.accept(scripted.native_only)])
    converted = box.make(8, syntax=JPEG)
    as_it_is = box.make(8)
    before = {uid: box.path(uid).read_bytes() for uid in converted}
    box.forward(scp.port)
    box.wait(confirmed=16)
    for each in scp.received:
        assert each.transfer_syntax_uid == EXPLICIT
        assert each.data_set.startswith(f"{JPEG} as {EXPLICIT}:".encode()) == (each.sop_instance_uid in converted)
    assert Counter(scp.uids()) == Counter(converted + as_it_is)
    assert len(box.transcoder.made) == 8
    assert not any(path.exists() for path in box.transcoder.made), "copies are removed"
    assert {uid: box.path(uid).read_bytes() for uid in converted} == before, "what is kept is what came"
    changed = box.all("SELECT instances, who, words(event, detail, payload) FROM ledger WHERE event = 'changed'")
    assert sum(len(json.loads(row[0])) for row in changed) == 8
    assert all(row[1] == "edge" and row[2].startswith("a copy in Explicit VR Little Endian, ") for row in changed)


def test_explicit_becomes_implicit_where_only_that_is_taken(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer(associations=[scripted.accept(lambda _, syntax: syntax == IMPLICIT)])
    box.make(2)
    box.forward(scp.port)
    box.wait(confirmed=2)
    assert {each.transfer_syntax_uid for each in scp.received} == {IMPLICIT}


def test_a_copy_is_made_again_after_a_broken_association(
    box: Outbox, peer: Callable[..., ScriptedScp], impatient: None
) -> None:
    scp = peer([scripted.reset_midway, scripted.succeed], [scripted.accept(scripted.native_only)])
    box.make(2, syntax=JPEG)
    box.forward(scp.port)
    box.wait(confirmed=2)
    assert not any(path.exists() for path in box.transcoder.made)


def test_a_probe_may_need_a_conversion(box: Outbox, peer: Callable[..., ScriptedScp], impatient: None) -> None:
    native = scripted.accept(scripted.native_only)
    scp = peer(associations=[scripted.hang_up, scripted.hang_up, native])
    box.make(3, syntax=JPEG)
    box.forward(scp.port)
    box.wait(confirmed=3)


def test_the_real_transcoder_keeps_every_pixel(box: Outbox, peer: Callable[..., ScriptedScp], tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 64 * 1024)
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    ds.compress(RLELossless)
    ds.save_as(path)
    scp = peer(associations=[scripted.accept(scripted.native_only)])
    box.transcoder = Transcoder()
    box.add([path])
    try:
        box.forward(scp.port)
        box.wait(confirmed=1)
    finally:
        box.transcoder.close()
    (received,) = scp.received
    back = pydicom.dcmread(BytesIO(received.data_set), force=True)
    back.file_meta = FileMetaDataset()
    back.file_meta.TransferSyntaxUID = received.transfer_syntax_uid
    assert (back.pixel_array == pixels).all()
    assert not list(box.spool.incoming.iterdir())


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (TransformError("the frame cannot be decoded"), "held", "the frame cannot be decoded"),
        (Transient("no room for a copy"), "deferred", "not converted: no room for a copy"),
        (ValueError("Doe^John"), "deferred", "internal error in converting (ValueError); see the log"),
    ],
)
def test_what_cannot_be_converted(
    box: Outbox,
    peer: Callable[..., ScriptedScp],
    error: Exception,
    state: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scp = peer(associations=[scripted.accept(scripted.native_only)])
    box.transcoder.error = error
    (uid,) = box.make(1, syntax=JPEG)
    box.make(3)
    forwarder = box.forward(scp.port)
    box.wait(confirmed=3, **{state: 1})
    assert box.row(uid)["reason"] == words
    assert forwarder.describe().last_error is None
    assert "Doe" not in caplog.text


def test_damage_is_found_before_a_conversion_hides_it(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer(associations=[scripted.accept(scripted.native_only)])
    (uid,) = box.make(1, syntax=JPEG)
    damage(box.path(uid))
    box.forward(scp.port)
    box.wait(held=1)
    assert box.row(uid)["instance_state"] == "lost"
    assert box.transcoder.made == []


def test_more_kinds_than_an_association_can_propose(box: Outbox, archive: StoreScp) -> None:
    kinds = 150
    for number in range(kinds):
        box.make(2, 1024, sop_class=f"1.2.840.99999.{number}")
    box.forward(archive.port, patience=Patience())
    box.wait(30, confirmed=2 * kinds)
    assert archive.stores() == 2 * kinds


def test_a_new_kind_joins_a_busy_association(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_after(0.01)])
    box.make(100)
    box.forward(scp.port, associations=1)
    wait_until(lambda: len(scp.received) > 5, 5, "under way")
    urgent = box.make(2, sop_class="1.2.840.10008.5.1.4.1.1.4", priority=STAT)
    wait_until(lambda: set(urgent) <= set(scp.uids()), 5, "the new kind has been sent")
    box.wait(confirmed=102)
    assert scp.connections <= 3


def test_a_kind_that_cannot_be_proposed_is_held(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    (uid,) = box.make(1, sop_class="../../etc")
    box.make(2)
    box.forward(peer().port)
    box.wait(held=1, confirmed=2)
    assert "UID is not valid" in box.row(uid)["reason"]


@pytest.mark.parametrize(
    "second", [scripted.reject(2, 3, 2), scripted.reject(2, 3, 1), scripted.reject(1, 1, 1), scripted.hang_up]
)
def test_a_destination_that_takes_one_association_is_not_down(
    box: Outbox, peer: Callable[..., ScriptedScp], second: scripted.Associate, caplog: pytest.LogCaptureFixture
) -> None:
    scp = peer([scripted.answer_after(0.01)], [scripted.accept(), second])
    box.make(60)
    forwarder = box.forward(scp.port)
    box.wait(confirmed=60)
    assert scp.connections == 2, "the second is asked for, and not soon again"
    assert forwarder.describe().last_error is None
    assert "is down" not in caplog.text
    assert box.all("SELECT max(attempts) FROM delivery") == [(1,)]


@pytest.mark.parametrize(("associations", "expected"), [(None, 2), (1, 1)])
def test_two_associations_from_the_start_unless_another_number_is_configured(
    box: Outbox, peer: Callable[..., ScriptedScp], associations: int | None, expected: int
) -> None:
    scp = peer([scripted.answer_after(0.1)])
    box.make(10)
    box.forward(scp.port, associations=associations)
    box.wait(confirmed=10)
    assert scp.connections == expected


# -- our own side -----------------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("harm", "words"), [(Path.unlink, "No such file"), (shorten, "length"), (damage, "checksum differs")]
)
def test_a_harmed_file_never_arrives_and_does_not_stop_the_others(
    box: Outbox,
    peer: Callable[..., ScriptedScp],
    harm: Callable[[Path], None],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scp = peer()
    uids = box.make(5, 300_000)
    harm(box.path(uids[2]))
    forwarder = box.forward(scp.port)
    box.wait(held=1, confirmed=4)
    row = box.row(uids[2])
    assert (row["state"], row["instance_state"]) == ("held", "lost")
    assert words in row["reason"]
    assert box.all("SELECT count(*) FROM ledger WHERE event = 'lost'") == [(1,)]
    assert uids[2] not in scp.uids()
    assert forwarder.describe().last_error is None, "the destination is not to blame"
    assert "is lost" in caplog.text


def test_a_file_that_another_has_replaced_meanwhile_is_no_loss(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair, or the same object again, gives an instance another file; the lease has the name of the first."""
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.2)
    really, moved = Forwarder.path_of, list[str]()

    def path_of(forwarder: Forwarder, lease: Lease) -> str:
        path = really(forwarder, lease)
        if not moved:
            moved.append(lease.path.replace(".dcm", "-2.dcm"))
            os.rename(path, box.spool.path_of(moved[0]))
            box.db.write(lambda conn: conn.execute("UPDATE instance SET path = ?", moved).rowcount)
        return path

    monkeypatch.setattr(Forwarder, "path_of", path_of)
    scp = peer()
    (uid,) = box.make(1)
    box.forward(scp.port)
    box.wait(confirmed=1)
    assert box.row(uid)["instance_state"] == "stored"
    assert scp.uids() == [uid]
    assert box.all("SELECT count(*) FROM ledger WHERE event IN ('lost', 'held')") == [(0,)]


def test_a_loss_that_two_destinations_meet_is_recorded_once(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer()
    (uid,) = box.make(1, 4096, "archive", "reader")
    box.path(uid).unlink()
    for name in ("archive", "reader"):
        box.forward(scp.port, name)
        box.wait(name=name, held=1)
    assert box.all("SELECT count(*) FROM ledger WHERE event = 'lost'") == [(1,)]


def flip_middle(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)


@pytest.mark.parametrize("size", [3_000, 300_000, 2_000_000])
@pytest.mark.parametrize("is_of_before", [False, True], ids=["new", "entered before there were quick checksums"])
@pytest.mark.parametrize("harm", [damage, flip_middle])
def test_one_flipped_bit_is_never_sent_as_good(
    box: Outbox, peer: Callable[..., ScriptedScp], size: int, is_of_before: bool, harm: Callable[[Path], None]
) -> None:
    scp = peer()
    rotten, good = box.make(2, size)
    assert box.all("SELECT count(xxh3) FROM instance") == [(2,)]
    if is_of_before:
        box.db.write(lambda conn: conn.execute("UPDATE instance SET xxh3 = NULL"))
    harm(box.path(rotten))
    box.forward(scp.port)
    box.wait(held=1, confirmed=1)
    assert scp.uids() == [good]
    assert "checksum differs" in box.row(rotten)["reason"]


@pytest.mark.parametrize("column", ["xxh3", "sha256"])
def test_what_is_compared_is_the_quick_checksum_where_there_is_one(
    box: Outbox, peer: Callable[..., ScriptedScp], column: str
) -> None:
    box.make(1, 300_000)
    box.db.write(lambda conn: conn.execute(f"UPDATE instance SET {column} = zeroblob(16)"))
    box.forward(peer().port)
    box.wait(**({"held": 1} if column == "xxh3" else {"confirmed": 1}))


def test_a_disk_that_fails_to_read_is_asked_again_before_a_loss_is_said(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_ = peer()
    (uid,) = box.make(1)
    failures, real = [errno.EIO], os.preadv

    def preadv(fd: int, *rest: Any) -> int:
        if failures:
            raise OSError(failures.pop(), "Input/output error")
        return real(fd, *rest)

    monkeypatch.setattr(os, "preadv", preadv)
    box.forward(peer_.port)
    box.wait(deferred=1)
    assert "cannot be read" in box.row(uid)["reason"]
    assert box.row(uid)["instance_state"] == "stored"


def test_a_file_that_we_cannot_open_now_is_deferred(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open
    (uid,) = box.make(1)
    busy = str(box.path(uid))

    def scarce(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path) == busy:
            raise OSError(24, "Too many open files")
        return really(path, *args, **kwargs)

    monkeypatch.setattr("edge.outbound.transport.dimse.os.open", scarce)
    box.forward(peer().port)
    box.wait(deferred=1)
    assert box.row(uid)["instance_state"] == "stored"
    monkeypatch.undo()
    box.come_due()
    box.wait(confirmed=1)


def test_several_associations_where_configured(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_after(0.02)])
    uids = box.make(80)
    box.forward(scp.port, associations=4)
    box.wait(confirmed=80)
    assert scp.most_open == 4
    assert Counter(scp.uids()) == Counter(uids)


def test_more_associations_than_the_destination_wants(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_after(0.01)], most=2)
    box.make(100)
    forwarder = box.forward(scp.port, associations=4)
    box.wait(confirmed=100)
    assert scp.most_open == 2
    assert forwarder.describe().last_error is None
    assert scp.connections < 10, "it does not go on asking for more"


def test_the_number_of_associations_is_found(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    """A peer that takes 20 ms for each object is as fast as there are associations."""
    scp = peer([scripted.answer_after(0.02)])
    box.make(500, 2000)
    box.forward(scp.port)
    box.wait(confirmed=500)
    assert scp.most_open >= 3


def test_what_is_long_under_way_keeps_its_lease(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RENEW_SECONDS", 0.1)
    box.make(1)
    box.forward(peer([scripted.answer_after(1.5)]).port, patience=Patience())
    first = wait_until(lambda: box.all("SELECT lease_until FROM delivery WHERE state = 'active'"), 5, "leased")
    wait_until(lambda: box.all("SELECT lease_until FROM delivery WHERE state = 'active'") > first, 5, "leased on")
    box.wait(confirmed=1)


def test_stop_ends_what_is_under_way_and_gives_the_rest_back(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    stopping = threading.Event()

    def answer_while_stopping(link: scripted.Link, context: int, command: scripted.Command) -> None:
        assert stopping.wait(60)
        scripted.succeed(link, context, command)

    scp = peer([scripted.succeed, answer_while_stopping])
    box.make(50)
    forwarder = box.forward(scp.port, patience=Patience(), associations=1)
    wait_until(lambda: scp.stores == 2, 5, "the second is under way")
    stop = threading.Thread(target=forwarder.stop, args=(10.0,))
    stop.start()
    wait_until(lambda: forwarder._scheduler._closing, 5, "nothing new begins")
    stopping.set()
    stop.join(60)
    assert box.states() == {"confirmed": 2, "pending": 48}
    assert len(scp.received) == 2
    wait_until(lambda: scp.releases == 1, 5, "released")


def test_stop_is_bounded_and_loses_nothing(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.never_answer])
    box.make(50)
    forwarder = box.forward(scp.port, patience=Patience(answer=600.0))
    wait_until(lambda: scp.stores >= 1, 5, "one is under way")
    forwarder.stop(0.3)  # it does not wait for the answer
    assert box.states() == {"pending": 50}


def test_a_full_disk_delays_the_books_but_loses_no_result(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "FULL_SECONDS", 0.1)
    really, failures = box.db.write, iter(range(5))

    def write(work: Any, barrier: Any = None) -> Any:
        if threading.current_thread().name == "writer archive" and scp.stores and next(failures, None) is not None:
            raise StorageFull("the catalog cannot grow: the disk is full")
        return really(work, barrier)

    scp = peer()
    uids = box.make(100)
    monkeypatch.setattr(box.db, "write", write)
    box.forward(scp.port)
    box.wait(confirmed=100)
    assert next(failures, None) is None, "each write that was to fail has failed"
    assert Counter(scp.uids()) == Counter(uids), "nothing was sent twice"


def test_senders_do_not_run_ahead_of_the_books(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, no more than UNSETTLED instances are sent once more."""
    really, slow = box.db.write, threading.Event()

    def write(work: Any, barrier: Any = None) -> Any:
        if scp.stores:
            assert slow.wait(60)
        return really(work, barrier)

    scp = peer()
    box.make(50)
    meter = pace.Meter()
    meter.add(0.001, 4096)
    monkeypatch.setattr(pace, "Meter", lambda: meter)
    box.make(200)
    monkeypatch.setattr(box.db, "write", write)
    box.forward(scp.port)
    wait_until(lambda: scp.stores >= scheduler.UNSETTLED, 10, "as many as may be unsettled")
    time.sleep(0.3)
    assert scp.stores <= scheduler.UNSETTLED + 1
    slow.set()
    box.wait(confirmed=250)


def test_without_sound_storage_nothing_more_is_sent(
    box: Outbox, peer: Callable[..., ScriptedScp], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = box.db.write

    def write(work: Any, barrier: Any = None) -> Any:
        if scp.stores:
            raise StorageUnhealthy("a sync failed")
        return really(work, barrier)

    scp = peer()
    box.make(500)
    monkeypatch.setattr(box.db, "write", write)
    forwarder = box.forward(scp.port)
    wait_until(lambda: forwarder.state == "down", 5, "it has given up")
    assert forwarder.describe().last_error == "a sync failed"
    wait_until(lambda: forwarder.describe().associations == 0, 5, "the sender is gone")
    assert scp.stores <= scheduler.UNSETTLED + 1


def test_logs_name_no_patient(box: Outbox, archive: StoreScp, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    study = new_uid()
    uids = box.add(
        ct_files(tmp_path / "ct", 3, PatientName="Canary^Yellow", PatientID="CANARY", StudyInstanceUID=study)
    )
    damage(box.path(uids[0]))
    box.forward(archive.port, associations=1)
    box.wait(held=1, confirmed=2)
    box.forwarders["archive"].stop()
    assert "connection ended: 2 objects answered" in caplog.text
    for secret in ("anary", "CANARY", study, *uids):
        assert secret not in caplog.text


# -- the dispatch ------------------------------------------------------------------------------------------------------


class Idler:
    """A sender who does nothing by himself."""

    def kill(self) -> None: ...

    def count_moved_bytes(self) -> int:
        return 0


def test_a_destination_that_is_down_gets_c_echo_when_its_probe_is_due() -> None:
    now = 1000.0
    table = scheduler.DeliveryScheduler("archive", monotonic=lambda: now, clock=lambda: 0.0, chance=lambda: 0.5)
    assert table.next_batch().limit == pace.FIRST_INSTANCES
    sender = Idler()
    table.add_sender(sender)
    table.note_break(sender, None, PeerError("refused"))
    assert (table.next_batch().limit, table.wanted_senders()) == (0, [])
    now += pace.LINK_FIRST
    assert (table.next_batch().limit, table.wanted_senders()) == (0, [SenderRole.PROBE])
    table.add_sender(sender, SenderRole.PROBE)
    assert table.wanted_senders() == [], "one at a time"
    table.is_there(sender)
    assert table.next_batch().limit == pace.FIRST_INSTANCES


def test_too_many_associations_at_once_are_no_outage() -> None:
    """It rejects the third before the first two are open: only where it rejects each of them it is down."""
    table = scheduler.DeliveryScheduler("archive", monotonic=lambda: 1000.0, clock=lambda: 0.0, chance=lambda: 0.5)
    first, second, third = senders = [Idler(), Idler(), Idler()]
    for sender in senders:
        table.add_sender(sender)
    full = AssociationRejected("local limit exceeded", 2, 3, 2)
    table.note_break(third, None, full)
    assert table.health().state == "up"
    table.note_break(second, None, full)
    assert table.health().state == "up"
    table.note_break(first, None, full)
    assert table.health().state == "down"


def test_what_was_leased_before_the_destination_went_down_goes_back() -> None:
    now = 1000.0
    table = scheduler.DeliveryScheduler("archive", monotonic=lambda: now, clock=lambda: 0.0, chance=lambda: 0.5)
    sender = Idler()
    table.add_sender(sender)
    turn = table.next_batch()
    table.note_break(sender, None, PeerError("refused"))
    leased = [job(1).lease, job(2).lease]
    table.finish_batch(turn, Leased(leased))
    assert table.next_batch().back == leased


def test_what_waits_for_one_answer_for_many_does_not_keep_the_next_from_being_leased() -> None:
    table = scheduler.DeliveryScheduler("archive")
    sender = Idler()
    table.add_sender(sender)
    leased = [job(number).lease for number in range(pace.FIRST_INSTANCES)]
    table.finish_batch(table.next_batch(), Leased(leased))
    sent = [table.take(sender, {each.context_key}, 0.0) for each in leased]
    assert table.next_batch().limit == 0, "all that may be leased is on the line"
    for each in sent:
        assert each is not None
        table.note_on_its_way(each)
    assert table.next_batch().limit == pace.FIRST_INSTANCES


def test_work_that_is_under_way_is_not_taken_twice() -> None:
    """The clock jumped, the lease lapsed, and the same delivery was leased again."""
    table = scheduler.DeliveryScheduler("archive")
    sender = Idler()
    table.add_sender(sender)
    lease = job(1).lease
    table.finish_batch(table.next_batch(), Leased([lease]))
    sent = table.take(sender, {lease.context_key}, 0.0)
    assert sent is not None
    again = replace(lease, epoch=lease.epoch + 1)
    table.finish_batch(table.next_batch(), Leased([again]))
    assert table.take(sender, {lease.context_key}, 0.0) is None
    table.note_answer(sent, 0, "", 0.1)
    (result,) = table.next_batch().results
    assert result.attempt.lease == again, "it ends under the lease that counts"


def test_what_may_have_ended_between_two_goes_first_on_the_next_association() -> None:
    """Else an association that its peer ends after each object would be counted against the object."""
    table = scheduler.DeliveryScheduler("archive")
    one, other = Idler(), Idler()
    table.add_sender(one)
    lease = job(1).lease
    table.finish_batch(table.next_batch(), Leased([lease]))
    taken = table.take(one, {lease.context_key}, 0.0)
    table.note_break(one, taken, PeerError("closed"), is_first=False)
    table.add_sender(other)
    assert table.take(other, {lease.context_key}, 0.0, is_first=False) is None
    assert table.take(other, {lease.context_key}, 0.0) is taken


# -- the stock --------------------------------------------------------------------------------------------------------


def job(number: int, kind: str = "a", priority: Priority = ROUTINE, batch: int = 1) -> Job:
    key = ContextKey(kind, EXPLICIT)
    return Job(Lease(number, number, "archive", priority, 0, key, "", 1, "", "", 1, 0, b"", None, 0.0, ""), batch)


def drain(jobs: Sequence[Job], *kinds: str) -> list[int]:
    stock = PendingJobs()
    for each in jobs:
        stock.add(each)
    taken = iter(lambda: stock.take({ContextKey(kind, EXPLICIT) for kind in kinds}), None)
    return [each.lease.delivery_id for each in taken]


def test_the_most_urgent_and_oldest_is_taken_first() -> None:
    assert drain([job(3), job(1), job(4, priority=STAT), job(2)], "a") == [4, 1, 2, 3]


def test_other_kinds_are_passed_but_not_by_what_came_later() -> None:
    assert drain([job(1), job(2, "b"), job(3), job(4, batch=2)], "a") == [1, 3]


def test_other_kinds_are_not_passed_by_what_is_less_urgent() -> None:
    assert drain([job(1), job(2, "b", STAT), job(3, priority=STAT)], "a") == [3]


def test_all_kinds_together_leave_nothing() -> None:
    assert drain([job(1), job(2, "b", batch=2), job(3, batch=3)], "a", "b") == [1, 2, 3]
