"""The MLLP door over real sockets: who may send, shapes of bytes, limits, order, and no answer without a record."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.config.sections import Feed
from edge.errors import StorageFull
from edge.hl7.connection import RECEIVE_BYTES, DoorLimits
from edge.hl7.framing import FrameReader, FrameTooLong, frame
from edge.hl7.recorder import FRAME_LAG_SECONDS
from edge.journal.door import JournalDoor
from edge.store import resolved_patients
from tests.support import hl7_messages
from tests.support.certificates import Authority
from tests.support.gateway import CONFIG
from tests.support.hl7 import Hl7Receiving, MllpClient, read_answers, update
from tests.support.peers import wait_until

LIMITS = DoorLimits(outside_seconds=0.3, frame_seconds=0.5, fs_seconds=0.1)


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[Hl7Receiving]:
    with Hl7Receiving(tmp_path, limits=LIMITS) as gateway:
        yield gateway


def facts(receiving: Hl7Receiving, number: str) -> tuple[str, str, bool]:
    with receiving.db.reading() as conn:
        (found,) = resolved_patients.resolve_identifier(conn, number, "MTF0067")
    return found.name, found.birth_date, found.is_in_doubt


# -- what is sent -----------------------------------------------------------------------------------------------------

_PLAIN = [case for case in hl7_messages.build_cases()[:18] if case.kind == "message"]
#: Character set as MSH-18 has it, codec, and a name that it can write.
_SETS = [
    ("8859/1", "latin-1", "MÜLLER^RENÉ"),
    ("UNICODE UTF-8", "utf-8", "MÜLLER^RENÉ=見本^患者"),
    ("8859/2", "iso8859-2", "ŁUKASZ^ŻÓŁĆ"),
    ("SHIFT-JIS", "cp932", "見本^患者ソ"),
    ("GB 18030-2000", "gb18030", "患者^本"),
    ("~ISO IR87", "iso2022_jp", "見本^患者"),
]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hl7Receiving]:
    """One gateway for all that is read; each test has patients of its own."""
    with Hl7Receiving(tmp_path_factory.mktemp("reading")) as gateway:
        yield gateway


@pytest.mark.parametrize("ends", hl7_messages.ENDS.values(), ids=hl7_messages.ENDS)
@pytest.mark.parametrize(("declared", "codec", "name"), _SETS, ids=[each[1] for each in _SETS])
def test_line_ends_and_character_sets(reading: Hl7Receiving, ends: str, declared: str, codec: str, name: str) -> None:
    """Second bytes that are separators or escapes split nothing: the text is decoded before."""
    written = "~".join(f"{group}^^^^^L^{code}" for group, code in zip(name.split("="), "AI", strict=False))
    number = f"{codec}-{ends.encode().hex()}"
    head = f"MSH|^~\\&|HIS|MTF|EDGE|MTF|20260105||ADT^A08|{number}|P|2.5.1||||||{declared}"
    text = ends.join((head, f"PID|1||{number}^^^MTF0067^MR||{written}||19700101|F", ""))
    with reading.client() as client:
        assert [each.code for each in client.ask(text.encode(codec))] == ["AA"]
    assert facts(reading, number) == (name, "19700101", False)


def test_messages_in_four_line_ends(receiving: Hl7Receiving) -> None:
    """Each plain message comes to the same in every line end; only the first is not the same again."""
    with receiving.client() as client:
        for case in _PLAIN:
            for ends in hl7_messages.ENDS.values():
                answers = client.ask(case.data.replace(b"\r", ends.encode()))
                assert [each.code for each in answers] == [case.answer]
    with receiving.db.reading() as conn:
        refused = conn.execute("SELECT count(*) FROM hl7_message WHERE state IN ('refused', 'parked')").fetchone()[0]
    assert refused == 0


def test_any_number_of_pieces(reading: Hl7Receiving) -> None:
    data = frame(update("M1", "T1", "ONE^A")) + frame(update("M2", "T2", "TWO^B"))
    with reading.client() as client:
        for at in range(len(data)):
            client.sock.sendall(data[at : at + 1])
        assert [each.control_id for each in read_answers(client.receive()) + read_answers(client.receive())] == [
            "M1",
            "M2",
        ]


def test_eight_mebibytes(receiving: Hl7Receiving) -> None:
    """Longer than a receive buffer: it goes into a file, and is applied from there."""
    obx = f"OBX|1|ED|TPDF||^application^pdf^Base64^{'TESTDATA' * (1 << 20)}||||||F\r".encode()
    with receiving.client() as client:
        assert [each.code for each in client.ask(update("M1", "T1", "LONG^MESSAGE") + obx)] == ["AA"]
    assert facts(receiving, "T1")[0] == "LONG^MESSAGE"
    wait_until(lambda: not list((receiving.data_dir / "journal").glob("*.part")), 5, "the file is removed")


def test_a_long_frame_has_a_second_more_for_each_quarter_of_a_mebibyte(
    receiving: Hl7Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document over a slow line: if it were cut off each time, all that its feed has behind it would wait."""
    now = [1000.0]
    monkeypatch.setattr("edge.hl7.door.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    data = frame(update("M1", "T1", "LONG^FRAME") + b"OBX|1|ED|TPDF||" + b"x" * 4 * RECEIVE_BYTES + b"\r")
    end = len(data) - 2

    def has_taken(count: int) -> bool:
        return sum(each.reader.held_bytes for each in list(receiving.door._connections)) == count - 1

    with receiving.client() as client:
        for begin, stop in ((0, 100), (100, end - 1)):
            client.sock.sendall(data[begin:stop])
            wait_until(lambda stop=stop: has_taken(stop), 20, "it is received")  # type: ignore[misc]
        now[0] += LIMITS.frame_seconds + 3.0
        client.sock.sendall(data[end - 1 : end])
        wait_until(lambda: has_taken(end) or not receiving.door._connections, 20, "it is received, or cut off")
        client.sock.sendall(data[end:])
        assert read_answers(client.receive())[0].code == "AA"


def test_a_frame_too_long_closes(tmp_path: Path) -> None:
    with Hl7Receiving(tmp_path, limits=DoorLimits(frame_bytes=1000)) as receiving, receiving.client() as client:
        client.sock.sendall(b"\x0b" + b"x" * 2000)
        assert client.sock.recv(1) == b""
    assert receiving.refusals == ["HL7: a frame has more than 1000 bytes"]


# -- order and repetition ---------------------------------------------------------------------------------------------


def test_new_connection_for_each_message_keeps_the_order(receiving: Hl7Receiving) -> None:
    """The last update wins, although each comes by a connection of its own."""
    for turn in range(50):
        with receiving.client() as client:
            assert client.ask(update(f"M{turn}", "T1", f"TURN^T{turn}"))[0].code == "AA"
    assert facts(receiving, "T1")[0] == "TURN^T49"


def test_hundreds_of_repeats_are_one_effect(receiving: Hl7Receiving) -> None:
    with receiving.client() as client:
        assert client.ask(update("M1", "T1", "FIRST^A"))[0].code == "AA"
        assert client.ask(update("M2", "T1", "SECOND^A"))[0].code == "AA"
        client.sock.sendall(frame(update("M1", "T1", "FIRST^A")) * 300)
        for _ in range(300):
            client.receive()
    assert facts(receiving, "T1")[0] == "SECOND^A"
    assert receiving.rows("SELECT repeats FROM hl7_message WHERE control_id = 'M1'") == [(300,)]
    assert receiving.rows("SELECT count(*) FROM patient_event") == [(2,)]


def test_a_batch_in_enhanced_mode_is_answered_by_two_batches(receiving: Hl7Receiving) -> None:
    """What is accepted in one frame, then what is applied in another: one acknowledgement a message in each."""
    both = [update(f"M{n}", f"T{n}", "BATCH^A").replace(b"|2.5.1\r", b"|2.5.1|||AL|AL\r") for n in (1, 2)]
    head, tail = b"BHS|^~\\&|HIS|MTF|EDGE|MTF\r", b"BTS|2\r"
    with receiving.client() as client:
        client.send(head + b"".join(both) + tail)
        for code in ("CA", "AA"):
            frame_of = client.receive()
            assert [(each.code, each.control_id) for each in read_answers(frame_of)] == [(code, "M1"), (code, "M2")]
            assert (frame_of[:8], frame_of.endswith(tail)) == (b"BHS|^~\\&", True)
    assert facts(receiving, "T2")[0] == "BATCH^A"


# -- who may send -----------------------------------------------------------------------------------------------------


def test_only_feeds(receiving: Hl7Receiving) -> None:
    receiving.feeds = {"his": Feed("his", ("10.0.0.0/8",))}
    with receiving.client() as client:
        client.send(update("M1", "T1", "STRANGE^A"))
        with pytest.raises((EOFError, ConnectionResetError)):
            client.receive()
    assert receiving.refusals == ["HL7: no [feed] names its address"]
    assert receiving.callers == [("127.0.0.1", "", "HL7: no [feed] names its address")]
    assert receiving.rows("SELECT count(*) FROM hl7_message") == [(0,)]


def test_the_most_exact_address_counts(receiving: Hl7Receiving) -> None:
    receiving.feeds = {"all": Feed("all", ("127.0.0.0/8",)), "his": Feed("his", ("127.0.0.1",))}
    with receiving.client() as client:
        client.ask(update("M1", "T1", "ONE^A"))
    assert receiving.rows("SELECT feed FROM hl7_message") == [("his",)]


def test_two_hundred_idle_connections(receiving: Hl7Receiving) -> None:
    clients = [receiving.client() for _ in range(200)]
    try:
        for number, client in enumerate(clients):
            assert client.ask(update(f"M{number}", f"T{number}", "IDLE^A"))[0].code == "AA"
        assert threading.active_count() < 50
    finally:
        for client in clients:
            client.close()


def test_a_port_scan_is_closed(receiving: Hl7Receiving) -> None:
    with socket.create_connection(("127.0.0.1", receiving.port), 5) as sock:
        sock.sendall(b"x" * 5000)
        assert sock.recv(1) == b""
    assert receiving.refusals == ["HL7: more than 4096 bytes came outside a frame"]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (DoorLimits(connections=1), "there are as many HL7 connections as there may be"),
        (DoorLimits(feed_connections=1), "feed his has as many connections as it may have"),
    ],
)
def test_connections_are_bounded(tmp_path: Path, limits: DoorLimits, why: str) -> None:
    """One too many is closed; those that are there go on."""
    with Hl7Receiving(tmp_path, limits=limits) as receiving, receiving.client() as client:
        client.ask(update("M1", "T1", "FIRST^A"))
        with receiving.client() as another:
            assert another.sock.recv(1) == b""
        assert receiving.refusals == [f"HL7: {why}"]
        assert receiving.callers == [("127.0.0.1", "his", "")]
        assert client.ask(update("M2", "T1", "STILL^THERE"))[0].code == "AA"


def test_frames_that_have_begun_are_bounded_together(tmp_path: Path) -> None:
    """Who holds the most is closed, and the others end theirs."""
    with (
        Hl7Receiving(tmp_path, limits=DoorLimits(all_bytes=700 << 10)) as receiving,
        receiving.client() as large,
        receiving.client() as small,
    ):
        large.sock.sendall(b"\x0b" + b"x" * (500 << 10))
        small.sock.sendall(b"\x0b" + update("M1", "T1", "SMALL^ONE") + b"ZZZ|" + b"x" * (300 << 10))
        with suppress(ConnectionResetError):  # what it had sent was not read
            assert large.sock.recv(1) == b""
        small.sock.sendall(b"\r\x1c\r")
        assert read_answers(small.receive())[0].code == "AA"
    assert receiving.refusals == ["HL7: frames take too much memory; its is the largest"]


# -- no answer without a record ---------------------------------------------------------------------------------------


def test_without_room_there_is_no_answer(receiving: Hl7Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    """AE or AR would lose it: many senders drop what is answered with an error."""

    def refuse() -> None:
        raise StorageFull("the disk is full")

    recorder = receiving.door._recorder
    monkeypatch.setattr(recorder, "_check_room", refuse)
    with receiving.client() as client:
        client.send(update("M1", "T1", "FULL^A"))
        with pytest.raises(EOFError):
            client.receive()
    monkeypatch.undo()
    with receiving.client() as client:
        assert client.ask(update("M1", "T1", "FULL^A"))[0].code == "AA"
    assert receiving.rows("SELECT count(*), max(repeats) FROM hl7_message") == [(1, 0)]


def test_after_a_failed_write_nothing_is_answered(receiving: Hl7Receiving) -> None:
    receiving.journal.refuse()
    with receiving.client() as client:
        client.send(update("M1", "T1", "BROKEN^A"))
        with pytest.raises(EOFError):
            client.receive()


@pytest.mark.parametrize(("waited", "is_taken"), [(FRAME_LAG_SECONDS - 5.0, True), (FRAME_LAG_SECONDS + 5.0, False)])
def test_what_is_not_applied_for_a_minute_holds_up_what_comes(
    receiving: Hl7Receiving, monkeypatch: pytest.MonkeyPatch, waited: float, is_taken: bool
) -> None:
    """Nothing is answered then: the sender keeps it."""
    monkeypatch.setattr(JournalDoor, "waiting_since", property(lambda _: time.monotonic() - waited))
    with receiving.client() as client:
        client.send(update("M1", "T1", "LATE^A"))
        if is_taken:
            assert read_answers(client.receive())[0].code == "AA"
            return
        with pytest.raises(EOFError):
            client.receive()
    assert "stays with its sender" in receiving.refusals[0]


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_tls(tmp_path: Path) -> None:
    """With the files of [tls]; a feed's certificate must be the one that is named."""
    authority = Authority(tmp_path / "ca")
    ours, his, other = (authority.issue(*names) for names in (("edge.test", "127.0.0.1"), ("his",), ("other",)))
    table = f'[tls]\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\nca = "{authority.ca}"\n'
    with Hl7Receiving(tmp_path, CONFIG + table) as receiving:
        receiving.feeds = {"his": Feed("his", ("127.0.0.1",), certificate="his", authority="MTF0067")}
        for issued, answered in ((his, True), (other, False)):
            context = ssl.create_default_context(cafile=str(authority.ca))
            context.load_cert_chain(issued.certificate, issued.key)
            client = MllpClient(receiving.tls_port)
            client.sock = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
            with client:
                client.send(update("M1", "T1", "SECURE^A"))
                if answered:
                    assert read_answers(client.receive())[0].code == "AA"
                else:
                    with pytest.raises((EOFError, OSError)):
                        client.receive()
        with receiving.client() as client:
            client.send(update("M2", "T1", "PLAIN^A"))
            with pytest.raises((EOFError, OSError)):
                client.receive()
        assert receiving.refusals[-1] == "HL7: it must call over TLS"
        assert [each[1] for each in receiving.callers] == ["his", "", ""]
        assert [each[2] for each in receiving.callers[1:]] == receiving.refusals[-2:]
        listed = list(receiving.callers)
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(his.certificate, his.key)
        with MllpClient(receiving.tls_port) as client:
            secured = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
            secured.sendall(update("M3", "T1", "SECURE^A")[:1])
            wait_until(lambda: receiving.callers != listed, 10, "it is admitted")
            socket.socket.sendall(secured, b"this is no TLS record")
            wait_until(lambda: "no TLS with it" in receiving.refusals[-1], 10, "the fault is met")
            secured.close()
        assert receiving.callers == [*listed, ("127.0.0.1", "his", "")]  # a fault behind the handshake lists nobody
    brief = DoorLimits(handshake_seconds=0.1)
    (tmp_path / "brief").mkdir()
    with Hl7Receiving(tmp_path / "brief", CONFIG + table, brief) as receiving, MllpClient(receiving.tls_port) as silent:
        assert silent.sock.recv(1) == b""
    assert receiving.refusals == ["HL7: no TLS handshake in time"]


# -- framing, pure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "frames", "junk"),
    [
        (b"\x0bA\x1c\r", [b"A"], 0),
        (b"\x0bA\x1c\x0bB\x1c\r", [b"A", b"B"], 0),
        (b"\x0bA\x1cB\x1c\r", [b"A\x1cB"], 0),
        (b"\x0bA\x1c\x1c\r", [b"A\x1c"], 0),
        (b"\x0bAB\x0bC\x1c\r", [b"C"], 2),
        (b"xy\r\n\x0bA\x1c\r\n", [b"A"], 2),
        (b"\x0b\x1c\r", [b""], 0),
    ],
)
def test_frames(data: bytes, frames: list[bytes], junk: int) -> None:
    """The same in one piece and byte by byte."""
    whole, pieces = FrameReader(100), FrameReader(100)
    assert whole.feed(data) == frames
    assert [each for at in range(len(data)) for each in pieces.feed(data[at : at + 1])] == frames
    assert whole.junk_bytes == pieces.junk_bytes == junk


def test_silence_behind_fs_ends_a_frame() -> None:
    reader = FrameReader(100)
    assert reader.feed(b"\x0bA\x1c") == []
    assert reader.is_pending
    assert reader.end_pending() == [b"A"]
    assert reader.feed(b"\r\x0bB\x1c\r") == [b"B"]


def test_frame_is_bounded() -> None:
    with pytest.raises(FrameTooLong):
        FrameReader(3).feed(b"\x0bABCD")
