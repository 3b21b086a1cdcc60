"""What a receiving process says over its link: whatever it is, the daemon's thread for it ends in order or goes on."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from edge.daemon.retrievals import SpoolReaders
from edge.network.frames import receive_frame, send_frame
from edge.scp.capacity import Associations
from edge.scp.gateway_link import LocalLink
from edge.scp.remote_link import serve_link
from edge.scp.services.mpps_register import StepRegister
from edge.scp.services.storage_commitment_register import RequestRegister
from tests.support.gateway import NoCopies


def nothing(*_: object) -> None: ...


class Serving:
    """One link, served as the daemon does."""

    def __init__(self) -> None:
        self.other, ours = socket.socketpair()
        self.other.settimeout(60.0)
        registers = RequestRegister(), StepRegister(), lambda *_: {}
        noted = nothing, nothing, nothing, lambda *_: True, lambda *_: False, nothing
        link = LocalLink(Associations(), *noted, *registers, NoCopies(), SpoolReaders())
        self.faults: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(ours, link), daemon=True)
        self._thread.start()

    def _serve(self, ours: socket.socket, link: LocalLink) -> None:
        try:
            with ours:
                serve_link(ours, link)
        except BaseException as error:  # noqa: BLE001 - it is what the test asks for
            self.faults.append(error)

    def has_ended(self) -> bool:
        self._thread.join(60.0)
        return not self._thread.is_alive()


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.other.close()
    assert made.has_ended()


@pytest.mark.parametrize("said", [b"", b"{", b"5", b"[]", b"[[]]", b"[{}]", b"\xff", b"null"])
def test_what_is_no_request_ends_the_link_and_not_its_thread(serving: Serving, said: bytes) -> None:
    send_frame(serving.other, said)
    assert serving.other.recv(1) == b""
    assert serving.has_ended()
    assert serving.faults == []


def test_a_length_beyond_all_messages_is_not_believed(serving: Serving) -> None:
    serving.other.sendall(struct.pack(">L", 0xFFFFFFFF))
    assert serving.other.recv(1) == b""
    assert serving.has_ended()
    assert serving.faults == []


def test_a_fault_of_one_request_ends_no_other(serving: Serving) -> None:
    for odd in (["nobody knows this"], ["give_back_place", 4711], ["note_call", 1, 2, 3, 4], ["take_place"]):
        send_frame(serving.other, json.dumps(odd).encode())
    assert json.loads(receive_frame(serving.other)) == {"fault": True}  # of the one that has an answer
    send_frame(serving.other, json.dumps(["take_place", "CT1", "127.0.0.1"]).encode())
    assert json.loads(receive_frame(serving.other)) == {"answer": 1}
