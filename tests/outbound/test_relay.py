"""HL7 that goes on, over real sockets to receivers that answer late, wrongly, twice, in half, or never."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.config.sections import Relay
from edge.hl7.framing import frame
from edge.hl7.message import parse_message
from edge.outbound.relay import RelaySender
from edge.outbound.relay.decision import ReceiverAnswer, RelayStep, decide_step
from edge.store import relays
from edge.store.database import Store
from edge.store.hl7_messages import ReceivedMessage, enter_received
from tests.support.hl7 import ScriptedReceiver, acknowledge, update


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "catalog.db")
    yield store
    store.close()


def queue(db: Store, *messages: tuple[str, str]) -> None:
    """Messages (control ID, patient) for the relay."""

    def work(conn: object) -> None:
        for control_id, patient in messages:
            body = update(control_id, patient, "TEST^RELAY")
            received = ReceivedMessage("r", 0, "his", "", "", control_id, "ADT^A08", body, len(body), 1.0)
            number = enter_received(conn, received, body, 1.0)  # type: ignore[arg-type]
            relays.enqueue_message(conn, ["archive"], number, [f"1:{patient}"])  # type: ignore[arg-type]

    db.write(work)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sender(db: Store, port: int, clock: Callable[[], float] = Clock(), answer: float = 20.0) -> RelaySender:  # noqa: B008
    return RelaySender(db, Relay("archive", "127.0.0.1", port, answer=answer), clock=clock)


def states(db: Store) -> list[tuple[str, str, str]]:
    with db.reading() as conn:
        return [tuple(r) for r in conn.execute("SELECT state, code, peer_text FROM hl7_relay ORDER BY id")]


def ids(receiver: ScriptedReceiver) -> list[str]:
    return [parse_message(each).control_id for each in receiver.received]


def run(made: RelaySender, steps: int, clock: Clock | None = None) -> None:
    for _ in range(steps):
        made.step()
        if clock is not None:
            clock.now += 120.0
    made.stop()


def test_in_order_on_one_connection(db: Store, running: ExitStack) -> None:
    queue(db, ("M1", "A"), ("M2", "B"), ("M3", "A"))
    receiver = running.enter_context(ScriptedReceiver(acknowledge))
    run(sender(db, receiver.port), 3)
    assert ids(receiver) == ["M1", "M2", "M3"]
    assert receiver.received[0] == update("M1", "A", "TEST^RELAY")
    assert {each[0] for each in states(db)} == {"sent"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda m: acknowledge(m)[:-1], id="no CR behind FS"),
        pytest.param(lambda m: acknowledge(m, "CA"), id="CA"),
        pytest.param(lambda m: acknowledge(m, control_id="OTHER") + acknowledge(m), id="another's first"),
        pytest.param(lambda m: acknowledge(m) * 2, id="twice"),
        pytest.param(lambda m: frame(acknowledge(m)[1:-2].replace(b"\r", b"\n")), id="line feeds"),
        pytest.param(lambda m: b"junk" + acknowledge(m), id="junk before"),
    ],
)
def test_acknowledged(db: Store, running: ExitStack, answer: Callable[[bytes], bytes]) -> None:
    """However the receiver writes it, each message is done by its own acknowledgement."""
    queue(db, ("M1", "A"), ("M2", "A"))
    receiver = running.enter_context(ScriptedReceiver(answer))
    run(sender(db, receiver.port), 2)
    assert ids(receiver) == ["M1", "M2"]
    assert [each[0] for each in states(db)] == ["sent", "sent"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda m: b"", id="never"),
        pytest.param(lambda m: None, id="closes"),
        pytest.param(lambda m: acknowledge(m, control_id="OTHER"), id="wrong MSA-2"),
        pytest.param(lambda m: acknowledge(m)[:20], id="half an answer"),
        pytest.param(lambda m: frame(b"HELLO"), id="no HL7"),
    ],
)
def test_unacknowledged_is_sent_again(db: Store, running: ExitStack, answer: Callable[[bytes], bytes | None]) -> None:
    """It stays, with its bytes, until the receiver acknowledges it; nothing behind it goes before."""
    queue(db, ("M1", "A"), ("M2", "B"))
    clock, first = Clock(), itertools.count()
    receiver = running.enter_context(ScriptedReceiver(lambda m: acknowledge(m) if next(first) > 1 else answer(m)))
    made = sender(db, receiver.port, clock, answer=0.5)
    for _ in range(20):  # where the machine is busy an acknowledgement may come too late, too
        made.step()
        clock.now += 120.0
        if {each[0] for each in states(db)} == {"sent"}:
            break
    made.stop()
    assert set(ids(receiver)[:3]) == {"M1"}
    assert ids(receiver)[-1] == "M2"
    assert [each[0] for each in states(db)] == ["sent", "sent"]


def test_late_acknowledgement_is_not_the_next_ones(db: Store, running: ExitStack) -> None:
    """After a silence the connection is closed: what comes late acknowledges nothing."""
    queue(db, ("M1", "A"))
    clock, held = Clock(), list[bytes]()

    def late(message: bytes) -> bytes:
        answer = held.pop() if held else b""
        held.append(acknowledge(message))
        return answer

    receiver = running.enter_context(ScriptedReceiver(late))
    made = sender(db, receiver.port, clock, answer=0.3)
    made.step()
    assert states(db)[0][0] == "waiting"
    queue(db, ("M2", "B"))
    held[:] = [acknowledge(receiver.received[0]).replace(b"M1", b"M9")]
    clock.now += 120
    made.step()
    assert states(db) == [("waiting", "", "no acknowledgement within 0 s"), ("waiting", "", "")]
    made.stop()


def test_refused_is_held_with_the_receivers_words(db: Store, running: ExitStack) -> None:
    """AE: held, and the patient's later messages behind it; others go on, until a person decides."""
    queue(db, ("M1", "A"), ("M2", "A"), ("M3", "B"))
    receiver = running.enter_context(
        ScriptedReceiver(
            lambda m: frame(b"MSH|^~\\&|A\rMSA|AE|M1|no such patient\r") if b"|M1|" in m else acknowledge(m)
        )
    )
    made = sender(db, receiver.port)
    for _ in range(3):
        made.step()
    assert states(db) == [("held", "AE", "no such patient"), ("waiting", "", ""), ("sent", "AA", "")]
    db.write(lambda conn: relays.decide(conn, 1, "", "cancelled", "anna", "by hand", 2000.0))
    run(made, 1)
    assert [each[0] for each in states(db)] == ["cancelled", "sent", "sent"]


def test_however_many_are_held_those_of_other_patients_go_on(db: Store, running: ExitStack) -> None:
    """A receiver that refuses one type of message does so for years."""
    queue(db, *((f"H{number}", "A") for number in range(2500)), ("M1", "A"), ("M2", "B"))
    db.write(lambda conn: conn.execute("UPDATE hl7_relay SET state = 'held' WHERE id <= 2500"))
    receiver = running.enter_context(ScriptedReceiver(acknowledge))
    run(sender(db, receiver.port), 1)
    assert ids(receiver) == ["M2"]


def test_rejected_is_tried_for_an_hour(db: Store, running: ExitStack) -> None:
    queue(db, ("M1", "A"))
    clock = Clock()
    receiver = running.enter_context(ScriptedReceiver(lambda m: acknowledge(m, "AR")))
    made = sender(db, receiver.port, clock)
    made.step()
    assert states(db)[0][:2] == ("waiting", "AR")
    clock.now += 3599
    made.step()
    assert states(db)[0][0] == "waiting"
    clock.now += 120
    run(made, 1)
    assert states(db)[0][:2] == ("held", "AR")


def test_without_a_connection_it_is_tried_indefinitely(db: Store) -> None:
    queue(db, ("M1", "A"))
    clock = Clock()
    made = sender(db, 1, clock)
    for _ in range(20):
        made.step()
        clock.now += 86_400
    assert states(db)[0][0] == "waiting"
    made.stop()


def test_message_that_wants_no_answer_is_done_once_sent(db: Store, running: ExitStack) -> None:
    def work(conn: object) -> None:
        body = update("M1", "A", "TEST").replace(b"|2.5.1\r", b"|2.5.1|||NE|NE\r")
        received = ReceivedMessage("r", 0, "his", "", "", "M1", "ADT^A08", body, len(body), 1.0)
        relays.enqueue_message(conn, ["archive"], enter_received(conn, received, body, 1.0), [])  # type: ignore[arg-type]

    db.write(work)
    receiver = running.enter_context(ScriptedReceiver(lambda m: b""))
    run(sender(db, receiver.port), 1)
    assert states(db)[0][0] == "sent"


@pytest.mark.parametrize(
    ("code", "since", "step"),
    [
        ("AA", None, RelayStep.DONE),
        ("CA", 0.0, RelayStep.DONE),
        ("AR", None, RelayStep.RETRY),
        ("CR", 3599.0, RelayStep.RETRY),
        ("AR", 3600.0, RelayStep.HOLD),
        ("AE", None, RelayStep.HOLD),
        ("CE", 10.0, RelayStep.HOLD),
        ("", None, RelayStep.HOLD),
        ("OK", None, RelayStep.HOLD),
    ],
)
def test_step(code: str, since: float | None, step: RelayStep) -> None:
    first_at = None if since is None else 10_000.0 - since
    assert decide_step(ReceiverAnswer(code), first_at, 10_000.0) is step
