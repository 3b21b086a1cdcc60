"""Objects with which associations end, and objects that are refused: they never hold up the others."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge import outbound
from edge.dicom.scu import Patience
from edge.model import AttemptResult, Lease, Priority, ReasonCode
from edge.outbound import outcomes, pace, suspects
from edge.store import deliveries, leases
from edge.store.database import Transaction
from edge.store.reasons import reason_of, words
from tests.outbound.test_forward import JPEG, Outbox
from tests.support import scripted
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import StoreScp, free_port, wait_until
from tests.support.scripted import ScriptedScp

#: What a poisonous object does to its association.
MISCHIEF: dict[str, scripted.Store] = {
    "reset": scripted.reset_midway,
    "abort": scripted.abort_after,
    "silence": scripted.stay_silent,
    "half a PDU": scripted.half_a_pdu,
    "another message": scripted.answer_another,
    "garbage": scripted.answer_garbage,
    "close": scripted.close_politely,
    "release": scripted.ask_to_release,
    "another context": scripted.answer_in_another_context,
    "not read": scripted.never_read,
}

SILENT = ("silence", "not read")

#: The most tries of one object until it is held. PROVED are enough only where another object was answered after its
#: first break, and which comes first is the machine's choice; and one try more of an object that was not the first
#: of its association counts for nothing, since an association may also end between two.
MOST_TRIES = suspects.UNPROVED + 1


class Poisoned:
    """A peer that misbehaves on some objects, each in its way."""

    def __init__(self) -> None:
        self.acts: dict[str, scripted.Store] = {}
        self.tries: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, link: scripted.Link, context: int, command: scripted.Command) -> None:
        uid = command.text(scripted.Element.AFFECTED_SOP_INSTANCE_UID)
        with self._lock:
            self.tries[uid] += 1
        self.acts.get(uid, scripted.succeed)(link, context, command)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "data")
    yield outbox
    outbox.close()


@pytest.fixture
def peer(running: ExitStack) -> Callable[..., ScriptedScp]:
    return lambda *args, **options: running.enter_context(ScriptedScp(*args, **options))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects are tried again soon, one that is silent has little time."""
    monkeypatch.setattr("edge.dicom.pdu_reader.PDU_SECONDS", 1.0)
    monkeypatch.setattr(suspects, "AGAIN_FIRST", 0.05)
    monkeypatch.setattr(suspects, "AGAIN_LATE", 0.1)
    monkeypatch.setattr(suspects, "AGAIN_LONGEST", 0.2)
    monkeypatch.setattr(suspects, "SLOWLY_FIRST", 0.02)
    monkeypatch.setattr(suspects, "SLOWLY_LONGEST", 0.1)
    monkeypatch.setattr(pace.Loan, "ALONE", 0.5)
    monkeypatch.setattr(pace.Loan, "FIRST", 0.4)
    monkeypatch.setattr(pace, "LINK_FIRST", 0.05)
    monkeypatch.setattr(pace, "LINK_LONGEST", 0.4)


def arrive(box: Outbox, scp: ScriptedScp, good: Sequence[str], seconds: float = 30.0) -> float:
    """How long until all of these have arrived, which must be soon."""
    begun = time.monotonic()
    wanted = set(good)
    wait_until(lambda: wanted <= set(scp.uids()), seconds, f"{len(good)} good objects", interval=0.1)
    return time.monotonic() - begun


def held(box: Outbox) -> dict[str, tuple[str, str]]:
    with box.db.reading() as conn:
        rows = conn.execute(
            "SELECT i.sop_instance_uid, d.* FROM delivery d JOIN instance i ON i.id = d.instance_id"
            " WHERE d.state = 'held'"
        ).fetchall()
    return {row["sop_instance_uid"]: (row["reason_code"], words(reason_of(row))) for row in rows}


# -- whatever one object does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("associations", [None, 1])
@pytest.mark.parametrize("mischief", MISCHIEF)
def test_two_objects_first_in_the_queue_hold_up_nothing(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, mischief: str, associations: int | None
) -> None:
    poisoned = Poisoned()
    scp = peer([poisoned])
    bad, good = box.make(2, 20_000), box.make(60, 4000)
    poisoned.acts = dict.fromkeys(bad, MISCHIEF[mischief])
    patience = Patience(answer=1.0) if mischief in SILENT else Patience()
    forwarder = box.forward(scp.port, patience=patience, associations=associations)
    arrive(box, scp, good)
    assert forwarder.describe().last_error is None, "the destination is not to blame"
    wait_until(lambda: set(held(box)) == set(bad), 30, "both are held by name", interval=0.1)
    assert {code for code, _ in held(box).values()} == {ReasonCode.BREAKS_ASSOCIATION.value}
    assert max(poisoned.tries[uid] for uid in bad) <= MOST_TRIES
    assert box.states()["confirmed"] == 60
    assert forwarder.state == "up"


@pytest.mark.parametrize("associations", [None, 1])
@pytest.mark.parametrize(
    ("mischief", "count"), [("reset", 50), ("silence", 5), pytest.param("silence", 50, marks=pytest.mark.slow)]
)
def test_many_such_objects_hold_up_nothing(
    box: Outbox, peer: Callable[..., ScriptedScp], mischief: str, count: int, associations: int | None
) -> None:
    """With the times that a clinic has."""
    poisoned = Poisoned()
    scp = peer([poisoned])
    bad, good = box.make(count), box.make(200)
    poisoned.acts = dict.fromkeys(bad, MISCHIEF[mischief])
    forwarder = box.forward(scp.port, patience=Patience(), associations=associations)
    print(f"{count} x {mischief}, associations {associations}: {arrive(box, scp, good):.1f} s")
    assert forwarder.describe().last_error is None


@pytest.mark.parametrize("seed", [1, 2])
def test_a_peer_that_misbehaves_on_objects_chosen_at_random(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, seed: int
) -> None:
    chance, poisoned = random.Random(seed), Poisoned()
    scp = peer([poisoned])
    uids = [uid for _ in range(5) for uid in box.make(24, 3000, priority=chance.choice(list(Priority)))]
    bad = {uid: chance.choice(list(MISCHIEF.values())) for uid in uids if chance.random() < 0.15}
    poisoned.acts = bad
    forwarder = box.forward(scp.port, patience=Patience(answer=1.0), associations=chance.choice([None, 1, 2]))
    arrive(box, scp, [uid for uid in uids if uid not in bad])
    wait_until(lambda: set(held(box)) == set(bad), 60, "the others are held", interval=0.1)
    assert forwarder.describe().last_error is None


def test_a_stat_object_holds_up_nothing(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    poisoned = Poisoned()
    scp = peer([poisoned])
    good = box.make(100)
    bad = box.make(5, priority=Priority.STAT)
    poisoned.acts = dict.fromkeys(bad, scripted.stay_silent)
    box.forward(scp.port, patience=Patience(), associations=1)
    arrive(box, scp, good)


def test_a_new_image_is_sent_while_a_silent_one_is_tried_alone(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None
) -> None:
    poisoned = Poisoned()
    scp = peer([poisoned])
    bad = box.make(1)
    poisoned.acts = dict.fromkeys(bad, scripted.stay_silent)
    box.db.write(lambda conn: conn.execute("UPDATE delivery SET state = 'deferred', not_before = 0, breaks = 1"))
    box.forward(scp.port, patience=Patience(), associations=1)
    wait_until(lambda: poisoned.tries[bad[0]] == 1, 5, "it is under way, alone")
    arrive(box, scp, box.make(5), 10)


# -- is it the object, or the destination? ----------------------------------------------------------------------------


def test_a_lone_object_is_held_after_a_bounded_number_of_tries(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None
) -> None:
    scp = peer([scripted.reset_midway])
    (uid,) = box.make(1)
    forwarder = box.forward(scp.port)
    wait_until(lambda: uid in held(box), 10, "it is held")
    assert box.row(uid)["attempts"] == box.row(uid)["breaks"] == suspects.UNPROVED
    assert "each of 6 associations ended with it" in box.row(uid)["reason"]
    assert forwarder.state == "up"
    assert box.all("SELECT event FROM ledger WHERE event = 'held'") == [("held",)]


@pytest.mark.parametrize("answered", [True, False])
def test_an_answer_for_another_object_after_its_first_break_holds_it_sooner(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, answered: bool
) -> None:
    """Its try ends when the test says so: after the other object's answer, or without one."""
    end, poisoned = threading.Event(), Poisoned()

    def break_at_the_end(link: scripted.Link, context: int, command: scripted.Command) -> None:
        assert end.wait(60)
        scripted.reset_midway(link, context, command)

    scp = peer([poisoned])
    (bad,) = box.make(1)
    poisoned.acts = {bad: break_at_the_end}
    broken = f"state = 'deferred', not_before = 0, breaks = {suspects.PROVED - 1}, broke_at = {time.time()!r}"
    box.db.write(lambda conn: conn.execute(f"UPDATE delivery SET {broken}"))
    box.forward(scp.port, patience=Patience())
    wait_until(lambda: poisoned.tries[bad] == 1, 10, "it is under way, alone")
    if answered:
        box.make(1)
        box.wait(active=1, confirmed=1)
    end.set()
    wait_until(lambda: bad in held(box), 20, "it is held")
    assert box.row(bad)["breaks"] == (suspects.PROVED if answered else suspects.UNPROVED)


def test_where_nothing_is_stored_at_all_no_crowd_is_held_soon(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    """C-ECHO is answered, and every C-STORE ends its association: the archive's storage has failed, for a while."""
    broken = threading.Event()
    broken.set()

    def act(link: scripted.Link, context: int, command: scripted.Command) -> None:
        (scripted.reset_midway if broken.is_set() else scripted.succeed)(link, context, command)

    scp = peer([act])
    uids = box.make(30)
    box.forward(scp.port)
    box.wait(deferred=30)
    time.sleep(2.0)
    assert scp.stores < 40, "no hammering"
    broken.clear()
    box.wait(40, confirmed=30)
    assert set(scp.uids()) == set(uids)


def test_a_peer_that_answers_nothing_any_more_is_down_and_nobody_is_held(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None
) -> None:
    """It resets the association in an object, and is gone."""
    alive = [scripted.accept(), scripted.hang_up]
    scp = peer([scripted.reset_midway], alive)
    box.make(20)
    forwarder = box.forward(scp.port)
    wait_until(lambda: forwarder.state == "down", 5, "it is down")
    time.sleep(1.0)
    assert box.states() == {"pending": 19, "deferred": 1}
    assert scp.stores == 1


def test_a_peer_that_crashes_with_an_object_and_comes_back(
    box: Outbox, archive: StoreScp, hasty: None, running: ExitStack
) -> None:
    """The archive process itself dies of it."""
    with ScriptedScp() as there:
        pass
    port, crashed, poisoned = there.port, threading.Event(), Poisoned()
    bad, good = box.make(2), box.make(50)
    scps: list[ScriptedScp] = []

    def crash(link: scripted.Link, context: int, command: scripted.Command) -> None:
        link.reset()
        crashed.set()

    poisoned.acts = dict.fromkeys(bad, crash)
    scps.append(ScriptedScp([poisoned], port=port))
    scps[-1].__enter__()
    box.forward(port, patience=Patience())

    def arrived() -> bool:
        if crashed.is_set():
            scps[-1].__exit__(None)
            time.sleep(0.3)
            crashed.clear()
            scps.append(ScriptedScp([poisoned], port=port))
            scps[-1].__enter__()
        return set(held(box)) == set(bad) and box.states()["confirmed"] == 50

    try:
        wait_until(arrived, 30, "the good are there, the bad are held")
    finally:
        box.forwarders["archive"].stop(2.0)
        scps[-1].__exit__(None)
    assert {uid for scp in scps for uid in scp.uids()} == set(good)


@pytest.mark.parametrize("killed", [False, True])
def test_a_restart_forgets_no_suspect(box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, killed: bool) -> None:
    poisoned = Poisoned()
    scp = peer([poisoned])
    bad, good = box.make(3), box.make(100)
    poisoned.acts = dict.fromkeys(bad, scripted.stay_silent)
    first = box.forward(scp.port, patience=Patience(answer=1.0), associations=1)
    wait_until(lambda: box.all("SELECT 1 FROM delivery WHERE breaks > 0"), 20, "one is a suspect")
    if killed:
        box.db.write(lambda conn: conn.execute("UPDATE delivery SET state = 'active' WHERE state <> 'confirmed'"))
        first._scheduler.give_up("killed")
    first.stop(0.1)
    box.db.write(lambda conn: leases.return_all_leases(conn, box.spool.node))
    assert box.all("SELECT 1 FROM delivery WHERE breaks > 0 AND state <> 'deferred'") == []
    before, breaks = poisoned.tries.copy(), {uid: box.row(uid)["breaks"] for uid in bad}
    box.forward(scp.port, patience=Patience(answer=1.0), associations=1)
    arrive(box, scp, good)
    wait_until(lambda: set(held(box)) == set(bad), 30, "held", interval=0.1)
    for uid in bad:
        assert poisoned.tries[uid] - before[uid] <= MOST_TRIES - breaks[uid], "the breaks before the restart count"


# -- an odd data set --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_odd_data_set_is_held_by_name_and_never_sent(
    box: Outbox, archive: StoreScp, tmp_path: Path, count: int
) -> None:
    odd = ct_files(tmp_path / "odd", count, 4096)
    for path in odd:
        path.write_bytes(path.read_bytes() + b"\0")
    bad = box.add(odd)
    good = box.make(100)
    box.forward(archive.port, patience=Patience())
    box.wait(30, confirmed=100, held=count)
    assert archive.uids() == set(good)
    assert {code for code, _ in held(box).values()} == {ReasonCode.UNSENDABLE.value}
    assert set(held(box)) == set(bad) == set(map(sop_instance_uid, odd))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0xA771, 0xA777, 0xA77A, 0xA701, 0x0110, 0x1234, 0xA700])
def test_refusals_for_an_objects_sake_hold_up_nothing(
    box: Outbox, peer: Callable[..., ScriptedScp], status: int
) -> None:
    """Orthanc answers A700 for one object's sake, too."""
    poisoned = Poisoned()
    scp = peer([poisoned])
    bad, good = box.make(40), box.make(40)
    poisoned.acts = dict.fromkeys(bad, scripted.answer_with(status))
    forwarder = box.forward(scp.port)
    arrive(box, scp, good, 15)
    box.wait(20, confirmed=40, **{"held" if status in (0xA771, 0xA777, 0x1234) else "deferred": 40})
    if status != 0xA700:
        assert forwarder.describe().last_error is None


def test_a_failure_is_not_tried_without_end(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_with(0x0110)])
    (uid,) = box.make(1)
    box.forward(scp.port)
    for _ in range(outcomes.ATTEMPTS - 1):
        box.wait(deferred=1)
        box.come_due()
    box.wait(held=1)
    assert scp.stores == outcomes.ATTEMPTS
    assert held(box)[uid] == ("refused", "processing failure at the destination (status 0110); 12 attempts ended so")


def test_a_full_destination_is_waited_for_without_end(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None
) -> None:
    full = threading.Event()
    full.set()

    def act(link: scripted.Link, context: int, command: scripted.Command) -> None:
        (scripted.answer_with(0xA700) if full.is_set() else scripted.succeed)(link, context, command)

    scp = peer([act])
    box.make(20)
    box.db.write(lambda conn: conn.execute("UPDATE delivery SET attempts = 100"))
    forwarder = box.forward(scp.port)
    wait_until(lambda: forwarder.state == "down", 10, "it is down")
    assert "out of resources" in (forwarder.describe().last_error or "")
    full.clear()
    wait_until(lambda: box.come_due() or box.states()["confirmed"] >= 15, 20, "it takes objects again", interval=0.2)


def test_a_peers_own_words_stand_apart(box: Outbox, peer: Callable[..., ScriptedScp]) -> None:
    scp = peer([scripted.answer_with(0xA778, "Patient ID [4711] differs"), scripted.answer_with(0xB000, "Doe^John")])
    uids = box.make(2)
    box.forward(scp.port)
    box.wait(held=1, confirmed=1)
    rows = [box.row(uid) for uid in uids]
    assert [row["peer_text"] for row in rows] == ["Patient ID [4711] differs", "Doe^John"]
    told = str(box.all("SELECT reason FROM delivery") + box.all("SELECT payload FROM ledger"))
    assert "4711" not in told
    assert "Doe" not in told


def test_a_copy_for_an_object_that_goes_alone(box: Outbox, peer: Callable[..., ScriptedScp], hasty: None) -> None:
    """It must be converted first, and still goes alone."""
    scp = peer([scripted.reset_midway, scripted.succeed], [scripted.accept(scripted.native_only)])
    box.make(1, syntax=JPEG)
    box.forward(scp.port)
    box.wait(confirmed=1)
    assert not any(path.exists() for path in box.transcoder.made)


def test_nobody_there_holds_nothing(box: Outbox, hasty: None) -> None:
    box.make(5)
    forwarder = box.forward(free_port())
    wait_until(lambda: forwarder.state == "down", 5, "it is down")
    time.sleep(1.0)
    assert box.states() == {"pending": 5}
    assert box.all("SELECT max(attempts) FROM delivery") == [(0,)]


# -- a row that we cannot handle --------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_written_down_ends_nothing_for_the_others(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = peer([scripted.succeed])
    bad, good = box.make(1)[0], box.make(40)
    settle = deliveries.record_attempts

    def faulty(conn: Transaction, results: Sequence[AttemptResult], now: float, **more: bool) -> list[AttemptResult]:
        if any(each.lease.sop_instance_uid == bad for each in results):
            raise KeyError("a fault of ours")
        return settle(conn, results, now, **more)

    monkeypatch.setattr(deliveries, "record_attempts", faulty)
    box.forward(scp.port, patience=Patience())
    box.wait(20, confirmed=40, active=1)
    assert set(good) <= set(scp.uids())
    assert box.forwarders["archive"].state == "up"


def test_a_row_that_cannot_be_read_is_held_and_the_others_go(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None
) -> None:
    scp = peer([scripted.succeed])
    bad, _ = box.make(1)[0], box.make(40)
    damage = "UPDATE delivery SET priority = 9 WHERE instance_id = (SELECT id FROM instance WHERE sop_instance_uid = ?)"
    box.db.write(lambda conn: conn.execute(damage, (bad,)).rowcount)
    box.forward(scp.port, patience=Patience())
    box.wait(20, confirmed=40, held=1)
    assert held(box)[bad][0] == ReasonCode.INTERNAL.value


def test_a_fault_of_ours_is_over_when_it_is_over(
    box: Outbox, peer: Callable[..., ScriptedScp], hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = peer([scripted.succeed])
    good = box.make(10)
    monkeypatch.setattr(outbound, "FAULT_SECONDS", 0.05)
    lease, faults = leases.lease, iter(range(4))

    def faulty(*given: object) -> list[Lease]:
        if next(faults, None) is not None:
            raise KeyError("a fault of ours")
        return lease(*given)

    monkeypatch.setattr(leases, "lease", faulty)
    box.forward(scp.port, patience=Patience())
    arrive(box, scp, good)
