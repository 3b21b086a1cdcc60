"""PDUs and command sets: what goes in comes out, whatever the pieces; what lies is cut off."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from edge.dicom import command, pdu, pdu_reader
from edge.dicom.command import CommandField, Element
from edge.dicom.pdu import Aborted, Released
from edge.dicom.wire import Digest, Wire
from edge.errors import PeerError, ProtocolError, Unreadable

CT = "1.2.840.10008.5.1.4.1.1.2"
STORE: dict[int, int | str] = {
    Element.AFFECTED_SOP_CLASS_UID: CT,
    Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
    Element.MESSAGE_ID: 7,
    Element.PRIORITY: 0,
    Element.DATA_SET_TYPE: command.DATA_SET,
    Element.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            yield near, far


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxL", pdu.P_DATA_TF, len(body)) + body


def read_all(wire: Wire) -> tuple[int, command.Command, bytes]:
    context, request = wire.read_command()
    data = bytearray()
    wire.read_data_set(context, lambda views: [data.extend(view) for view in views] and None)
    return context, request, bytes(data)


class Rooms:
    """A target that has room for so many bytes at a time."""

    def __init__(self, size: int) -> None:
        self._size, self._room, self.data = size, bytearray(size), bytearray()

    def room(self) -> memoryview:
        return memoryview(self._room)

    def took(self, count: int) -> None:
        assert count <= self._size
        self.data += self._room[:count]


def test_a_command_set_is_what_pynetdicom_would_send() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = 7, CT, "1.2.3"
    primitive.Priority, primitive.DataSet = 0, None
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    message.command_set.CommandDataSetType = 1
    from pynetdicom.dsutils import encode

    assert command.encode(STORE) == encode(message.command_set, True, True)
    assert command.decode_command(command.encode(STORE)) == STORE


@given(st.binary(max_size=300))
def test_a_damaged_command_set_is_a_protocol_error_or_a_command(data: bytes) -> None:
    try:
        command.decode_command(data)
    except ProtocolError:
        pass


@settings(max_examples=30, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=5000),
    fragment=st.integers(1, 2000),
    pieces=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_any_fragmentation_reads_the_same(data: bytes, fragment: int, pieces: list[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            chunks = [data[at : at + fragment] for at in range(0, len(data), fragment)]
            flags = [0] * (len(chunks) - 1) + [2]
            stream = p_data(pdv(1, 3, command.encode(STORE)))
            stream += b"".join(p_data(pdv(1, flag, chunk)) for flag, chunk in zip(flags, chunks, strict=True))

            def send() -> None:
                at = turn = 0
                while at < len(stream):
                    size = pieces[turn % len(pieces)]
                    near.sendall(stream[at : at + size])
                    at, turn = at + size, turn + 1

            thread = threading.Thread(target=send)
            thread.start()
            assert read_all(Wire(far)) == (1, STORE, data)
            thread.join()


#: Longer than what comes with a command.
LONG = bytes(range(251)) * 240


@settings(max_examples=30, deadline=None)
@given(
    data=st.integers(1, len(LONG)).map(lambda size: LONG[:size]),
    fragment=st.integers(1, 40_000),
    together=st.integers(1, 3),
    room=st.integers(1, 50_000),
    waits=st.booleans(),
)
@example(data=LONG, fragment=9_000, together=1, room=50_000, waits=True)
@example(data=LONG, fragment=9_000, together=2, room=50_000, waits=True)
@example(data=LONG, fragment=9_000, together=3, room=4_000, waits=False)
def test_a_data_set_is_received_in_place_however_it_is_cut(
    data: bytes, fragment: int, together: int, room: int, waits: bool
) -> None:
    """Fragments in PDUs of several, and a command behind them in the same stream."""
    fragment = max(fragment, len(data) // 100 + 1)
    chunks = [data[at : at + fragment] for at in range(0, len(data), fragment)]
    pdvs = [pdv(1, 2 * (number == len(chunks)), chunk) for number, chunk in enumerate(chunks, 1)]
    stream = p_data(pdv(1, 3, command.encode(STORE)))
    stream += b"".join(p_data(*pdvs[at : at + together]) for at in range(0, len(pdvs), together))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            thread = threading.Thread(target=near.sendall, args=(stream + stream + pdu.release_rq(),))
            thread.start()
            wire = Wire(far, waits_in_kernel=waits)
            target = Rooms(room)
            assert wire.read_data_set_to(wire.read_command()[0], target) == len(data)
            assert read_all(wire) == (1, STORE, data)
            assert bytes(target.data) == data
            with pytest.raises(Released):
                wire.read_command()
            thread.join()


@pytest.mark.parametrize(
    "behind",
    [p_data(pdv(1, 3, b"x")), p_data(pdv(3, 0, b"x")), p_data(struct.pack(">LBB", 0xFFFF, 1, 0)), pdu.abort(0, 1), b""],
)
@pytest.mark.parametrize("waits", [True, False])
def test_what_is_no_data_set_ends_it_in_place(
    pair: tuple[socket.socket, socket.socket], behind: bytes, waits: bool
) -> None:
    near, far = pair
    near.sendall(p_data(pdv(1, 3, command.encode(STORE))) + p_data(pdv(1, 0, bytes(20_000))) + behind)
    near.shutdown(socket.SHUT_WR)
    wire = Wire(far, waits_in_kernel=waits)
    with pytest.raises(PeerError):
        wire.read_data_set_to(wire.read_command()[0], Rooms(30_000))


@pytest.mark.parametrize("waits", [True, False])
def test_a_trickle_is_cut_off_in_place(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(pdu_reader, "PDU_SECONDS", 0.4)
    near, far = pair
    near.sendall(p_data(pdv(1, 3, command.encode(STORE))) + p_data(pdv(1, 0, bytes(100_000)))[:20_000])
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.005):
            near.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    wire = Wire(far, waits_in_kernel=waits)
    with pytest.raises(ProtocolError, match="neither a whole PDU"):
        wire.read_data_set_to(wire.read_command()[0], Rooms(200_000))
    assert wire.received < 100_000
    ended.set()
    thread.join(10)


def test_many_pdvs_in_one_pdu(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.sendall(p_data(pdv(3, 3, command.encode(STORE)), pdv(3, 0, b"ab"), pdv(3, 0, b""), pdv(3, 2, b"cd")))
    assert read_all(Wire(far)) == (3, STORE, b"abcd")


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (struct.pack(">BxL", pdu.P_DATA_TF, 0xFFFFFFF0), ProtocolError),
        (struct.pack(">BxL", 0x99, 4) + b"0000", ProtocolError),
        (struct.pack(">BxL", pdu.P_DATA_TF, 3) + b"abc", ProtocolError),
        (p_data(struct.pack(">LBB", 0xFFFF, 1, 3) + b"x"), ProtocolError),
        (p_data(struct.pack(">LBB", 1, 1, 3)), ProtocolError),
        (p_data(pdv(1, 2, b"data before any command")), ProtocolError),
        (p_data(pdv(1, 1, b"x")) + p_data(pdv(3, 3, b"y")), ProtocolError),
        (pdu.release_rq(), Released),
        (pdu.abort(0, 1), Aborted),
        (b"", PeerError),
    ],
)
def test_what_is_no_message(pair: tuple[socket.socket, socket.socket], stream: bytes, error: type[Exception]) -> None:
    near, far = pair
    near.sendall(stream)
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        Wire(far).read_command()


@pytest.mark.parametrize("pdvs", [[pdv(1, 1, bytes(16_000))], [pdv(1, 1, b"")] * 10_000], ids=["long", "empty"])
def test_an_endless_command_is_cut_off(pair: tuple[socket.socket, socket.socket], pdvs: list[bytes]) -> None:
    near, far = pair

    def flood() -> None:
        try:
            while True:
                near.sendall(p_data(*pdvs))
        except OSError:
            pass

    thread = threading.Thread(target=flood)
    thread.start()
    with pytest.raises(ProtocolError, match="command set"):
        Wire(far).read_command()
    far.close()
    thread.join(60)


def test_half_a_pdu_and_silence_ends(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_reader, "PDU_SECONDS", 0.2)
    near, far = pair
    near.sendall(p_data(pdv(1, 3, command.encode(STORE)))[:20])
    with pytest.raises(ProtocolError, match="neither a whole PDU"):
        Wire(far).read_command(idle=60)


@pytest.mark.parametrize("what", ["a PDU", "small PDUs", "commands"])
def test_a_trickle_is_cut_off(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One byte at a time, whatever it is cut into."""
    monkeypatch.setattr(pdu_reader, "PDU_SECONDS", 0.4)
    near, far = pair
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = {
        "a PDU": p_data(pdv(1, 3, command.encode(STORE))) + p_data(pdv(1, 0, bytes(100_000))),
        "small PDUs": p_data(pdv(1, 3, command.encode(STORE))) + p_data(pdv(1, 0, b"x")) * 10_000,
        "commands": p_data(pdv(1, 1, b"x")) * 10_000,
    }[what]
    ended = threading.Event()

    def trickle() -> None:
        for at in range(len(stream)):
            if ended.wait(0.005):
                return
            near.send(stream[at : at + 1])

    head = len(p_data(pdv(1, 3, command.encode(STORE)))) if what != "commands" else 0
    near.sendall(stream[:head])
    stream = stream[head:]
    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(ProtocolError, match="neither a whole PDU"):
        read_all(Wire(far))
    assert thread.is_alive(), "it goes on"
    ended.set()
    thread.join(60)


def test_a_slow_disk_of_ours_is_not_held_against_the_peer(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_reader, "PDU_SECONDS", 0.2)
    near, far = pair
    near.sendall(p_data(pdv(1, 3, command.encode(STORE))) + p_data(pdv(1, 0, b"x")))
    wire = Wire(far)
    context, _ = wire.read_command()
    calls = 0

    def slow(views: list[memoryview]) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.15)
        near.sendall(p_data(pdv(1, 2 if calls == 4 else 0, b"x")))

    assert wire.read_data_set(context, slow) == 5


@pytest.mark.parametrize("size", [0, 1, 100, 16_378, 300_000, 3_000_000])
@pytest.mark.parametrize("max_pdu", [0, 4096, 16_384, 131_072])
def test_a_file_arrives_as_it_is(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, size: int, max_pdu: int
) -> None:
    near, far = pair
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(b"head" + data)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    receiver = Wire(far)
    received: list[tuple[int, command.Command, bytes]] = []
    if size:
        thread = threading.Thread(target=lambda: received.append(read_all(receiver)))
        thread.start()
        Wire(near, min(max_pdu, pdu.MAX_PDU_IN) or pdu.MAX_PDU_IN).send_file(
            5, STORE, fd, 4, size, Digest(hashlib.sha256, hashlib.sha256(data).digest())
        )
        thread.join(60)
        assert received == [(5, STORE, data)]
    os.close(fd)


def test_a_rotten_file_is_never_whole_at_the_peer(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    near, far = pair
    (tmp_path / "file").write_bytes(bytes(100_000))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(Unreadable, match="checksum differs"):
        Wire(near).send_file(1, STORE, fd, 0, 100_000, Digest(hashlib.sha256, bytes(32)))
    near.close()
    os.close(fd)
    with pytest.raises(PeerError):
        read_all(Wire(far))


@pytest.mark.parametrize("size", [1, 2, 4095, 16_378, 16_379, 65_535, 65_537, 69_633, 1_000_001])
def test_no_fragment_is_of_odd_length(pair: tuple[socket.socket, socket.socket], tmp_path: Path, size: int) -> None:
    """PS3.8 annex E.2; what is odd all the same gets the zero byte of PS3.5 section A.5."""
    near, far = pair
    data = bytes(n % 251 for n in range(size))
    path = tmp_path / "object"
    path.write_bytes(data)
    taken: list[bytes] = []

    def read() -> None:
        wire = Wire(far)
        context, _ = wire.read_command()
        wire.read_data_set(context, lambda views: taken.extend(map(bytes, views)))

    thread = threading.Thread(target=read)
    thread.start()
    with path.open("rb") as file:
        Wire(near, 16_384).send_file(
            1, STORE, file.fileno(), 0, size, Digest(hashlib.sha256, hashlib.sha256(data).digest()), pad=True
        )
    thread.join(60)
    assert b"".join(taken) == data + bytes(size % 2)
    assert [len(fragment) % 2 for fragment in taken] == [0] * len(taken)
