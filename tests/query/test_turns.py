"""The process that answers: turns, bounds, cursors that nobody pulls, and what it costs to be asked for everything."""

from __future__ import annotations

import itertools
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.dicom import items
from edge.errors import Unreadable
from edge.network.frames import receive_frame, send_frame
from edge.network.sockets import socket_address
from edge.query import server
from edge.query.answering import Answering
from edge.query.asking import SOCKET_NAME, AnswerBatch, AskedQuery, Asker, NoAnswer, listen_for_doors
from edge.query.find_answers import answer_find
from edge.query.levels import QueryRefused, tag_of
from edge.query.server import AnswerServer, next_batch
from edge.store.database import Store
from edge.store.read_only import CatalogReader
from tests.support.gateway import configuration
from tests.support.many_studies import fill_catalog
from tests.support.peers import wait_until

ASKED = AskedQuery("find", "STUDY", "1.2.840.10008.1.2", "EDGE")


def numbers(most: int) -> Iterator[bytes | AnswerBatch | None]:
    yield from (str(number).encode() for number in range(most))
    yield AnswerBatch(status=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def serve(folder: Path, most: int) -> AnswerServer:
    made = AnswerServer(listen_for_doors(folder), lambda asked, identifier: numbers(most))
    made.start()
    return made


def test_answers_come_in_order_and_end_with_the_status(folder: Path) -> None:
    answering = serve(folder, 1000)
    batches = list(Asker(folder).ask(ASKED, b""))
    assert [int(each) for batch in batches for each in batch.answers] == list(range(1000))
    assert max(len(batch.answers) for batch in batches) == server.TURN_ANSWERS
    assert batches[-1].status == 0
    answering.stop()


def test_one_who_does_not_pull_holds_up_nobody(folder: Path) -> None:
    """Two hundred ask for everything and read nothing; another one has all at once."""
    answering = serve(folder, 500)
    asker = Asker(folder)
    slow = [asker.ask(ASKED, b"") for _ in range(200)]
    for each in slow:
        assert next(each).answers
    assert sum(len(batch.answers) for batch in asker.ask(ASKED, b"")) == 500
    for each in slow:
        each.close()
    wait_until(lambda: answering.open_count == 0, 5, "those that have gone are forgotten")
    answering.stop()


@pytest.mark.parametrize(("ahead", "turns"), [(True, 2), (False, 1)])
def test_what_is_made_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool, turns: int) -> None:
    """The next few answers while a door sends, where it wants that, and no more."""
    monkeypatch.setattr(server, "ANSWER_TURN_SECONDS", 60.0)
    made = itertools.count()

    def answers() -> Iterator[bytes | AnswerBatch | None]:
        while True:
            yield str(next(made)).encode()

    answering = AnswerServer(listen_for_doors(folder), lambda asked, identifier: answers())
    answering.start()
    batches = Asker(folder).ask(ASKED, b"", makes_ahead=ahead)
    for taken in range(3):
        next(batches)
        due = (taken + turns) * server.TURN_ANSWERS
        wait_until(lambda due=due: repr(made) == f"count({due})", 5, f"{due} answers")  # type: ignore[misc]
    batches.close()
    answering.stop()


def test_turns_go_round() -> None:
    """Nobody's second turn comes before another's first."""
    assert server.ANSWERERS < 8
    first = next_batch(numbers(10_000), 0xFF00)
    assert len(first.answers) == server.TURN_ANSWERS


def test_too_many_questions_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_OPEN", 2)
    answering = serve(folder, 500)
    asker = Asker(folder)
    open_ones = [asker.ask(ASKED, b"") for _ in range(2)]
    for each in open_ones:
        next(each)
    (batch,) = asker.ask(ASKED, b"")
    assert (batch.status, batch.comment) == (0xA700, "too many queries at once")
    for each in open_ones:
        each.close()
    answering.stop()


@pytest.mark.parametrize(
    ("error", "status"),
    [(QueryRefused(0xA900, "no"), 0xA900), (Unreadable("odd"), 0xC001), (MemoryError(), 0xA700)],
)
def test_what_goes_wrong_is_the_final_status(error: Exception, status: int) -> None:
    def fail() -> Iterator[bytes | AnswerBatch | None]:
        yield b"one"
        raise error

    batch = next_batch(fail(), 0xFF00)
    assert (batch.status, batch.answers) == (status, [b"one"])


def test_what_is_no_question_ends_its_connection_alone(folder: Path) -> None:
    answering = serve(folder, 10)
    with socket.socket(socket.AF_UNIX) as sock, socket_address(folder, SOCKET_NAME) as address:
        sock.connect(address)
        send_frame(sock, b"\0\0\0\4nope")
        with pytest.raises((EOFError, ConnectionError)):
            receive_frame(sock)
    assert sum(len(batch.answers) for batch in Asker(folder).ask(ASKED, b"")) == 10
    answering.stop()


def test_without_the_process_there_is_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.query import asking

    monkeypatch.setattr(asking, "ANSWERER_SECONDS", 0.1)
    with pytest.raises(NoAnswer):
        next(Asker(folder).ask(ASKED, b""))


def test_memory_does_not_grow_with_the_answers(folder: Path) -> None:
    """What many matches take is what a few take, beside eight bytes for each."""
    db = Store(folder / "catalog.db")
    db.write(lambda conn: fill_catalog(conn, 6000))
    (folder / "edge").mkdir()
    config = configuration(folder / "edge")
    answering = Answering(CatalogReader(db.path), lambda: config, lambda: None)  # type: ignore[arg-type, return-value]
    asked = {0x00080052: "STUDY", tag_of("StudyInstanceUID"): "", tag_of("PatientName"): ""}
    data = items.encode_items(items.item(asked), ASKED.syntax)
    answers = answer_find(answering, ASKED, data)
    next(answers)
    peaks, count = [], 0
    tracemalloc.start()
    for wanted in (800, 5500):
        count += sum(isinstance(each, bytes) for each in itertools.islice(answers, wanted))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
    tracemalloc.stop()
    assert count > 5900
    assert peaks[1] < peaks[0] * 1.3 + 6000 * 8
    db.close()
