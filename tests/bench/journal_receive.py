"""A prototype of a receiving process on the journal, beside storescp: not the product's receiver.

    python -m tests.bench.journal_receive [ROUNDS] [SIZE] [COUNT] [DIRECTORY]

storescu sends COUNT objects over one association to storescp and to the prototype, in turn; the ratio is taken within a
round. The prototype negotiates with edge.dicom, receives into the buffer of the record, looks at the header, appends,
answers; another process takes SHA-256 from the buffer and gives it back. It writes no spool file and no row, and knows
no limits and no TLS.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from edge.dicom import acse, command, header, pdu
from edge.dicom.command import Element
from edge.dicom.part10 import preamble_and_meta
from edge.journal.control import RingControl
from edge.journal.kinds import instance
from edge.journal.notices import Notices
from edge.journal.record import MAX_HEAD_BYTES
from edge.journal.ring import Claims, Ring
from edge.journal.segment import RingSize
from edge.journal.slots import SlotPool
from edge.journal.writer import Draft, Writers
from edge.model import ContextKey, InstanceHeader, Origin
from edge.scp.admission import Admission
from edge.scp.services import choose
from edge.text import MIB
from tests.support.objects import ct_files
from tests.support.peers import free_port

PDU, PDV, ANSWER = struct.Struct(">BxL"), struct.Struct(">LBB"), struct.Struct(">BxLLBB")
WANTED = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080060: "Modality",
    0x0020000D: "StudyInstanceUID",
}


#: For both ends of DCMTK: else each answer waits 40 ms for a delayed ACK, and the comparison is worth nothing.
NO_NAGLE = {**os.environ, "TCP_NODELAY": "1"}


def read(body: memoryview, at: int, count: int) -> bytes:
    return bytes(body[at : at + count])


class Association:
    """One after the other: a command, its data set straight into a slot, an append, an answer."""

    def __init__(self, sock: socket.socket, pool: SlotPool, writers: Writers) -> None:
        self._sock, self._pool, self._writers = sock, pool, writers
        self._ahead, self._start, self._end, self._in_pdu = memoryview(bytearray(65_536)), 0, 0, 0
        self._most = 65_536  # no further ahead than this: the rest is received straight into its place

    def _need(self, count: int) -> None:
        while self._end - self._start < count:
            if self._start:
                left = bytes(self._ahead[self._start : self._end])
                self._start, self._end = 0, len(left)
                self._ahead[: self._end] = left
            got = self._sock.recv_into(self._ahead[self._end : max(self._most, count)])
            if not got:
                raise EOFError
            self._end += got

    def _pdv(self) -> tuple[int, int, int]:
        if not self._in_pdu:
            self._need(6)
            kind, self._in_pdu = PDU.unpack_from(self._ahead, self._start)
            if kind != 4:
                raise EOFError
            self._start += 6
        self._need(6)
        length, context, control = PDV.unpack_from(self._ahead, self._start)
        self._start, self._in_pdu = self._start + 6, self._in_pdu - 4 - length
        return context, control, length - 2

    def _take(self, into: memoryview) -> None:
        have = min(len(into), self._end - self._start)
        into[:have] = self._ahead[self._start : self._start + have]
        self._start += have
        while have < len(into):
            got = self._sock.recv_into(into[have:], 0, socket.MSG_WAITALL)
            if not got:
                raise EOFError
            have += got

    def run(self) -> None:
        head = self._sock.recv(6, socket.MSG_WAITALL)
        request = acse.parse_request(head + self._sock.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL))
        admission = Admission(modality="x", services=frozenset({"echo", "store"}))
        answers, contexts = acse.answer_contexts(request, lambda context: choose(admission, context))
        self._sock.sendall(acse.accept_pdu(request, answers, {}))
        writer = self._writers.take()
        with contextlib.suppress(EOFError):
            while True:
                self._most = 65_536
                context, _, length = self._pdv()
                self._need(length)
                said = command.decode(self._ahead[self._start : self._start + length])
                self._start += length
                key = ContextKey(said.text(Element.AFFECTED_SOP_CLASS_UID), contexts[context][1])
                uid = said.text(Element.AFFECTED_SOP_INSTANCE_UID)
                slot, used, control = self._pool.take(10.0), 0, 0
                self._most = 12
                while not control & 2:
                    _, control, length = self._pdv()
                    self._take(slot.body[used : used + length])
                    used += length
                origin = Origin(request.calling_ae, request.called_ae, "127.0.0.1", time.time())
                found = header.scan(
                    partial(read, slot.body[:used]), used, key.transfer_syntax_uid, frozenset(WANTED), frozenset()
                )
                facts = InstanceHeader(
                    key.sop_class_uid, uid, key.transfer_syntax_uid, origin,
                    {WANTED[tag]: values for tag, values in found.items()},
                )  # fmt: skip
                encoded = instance.encode(instance.RecordedInstance(facts))
                writer.append(slot, used, Draft(instance.CODE, encoded, preamble_and_meta(key, uid, origin)))
                reply = command.encode(command.response_to(said, 0))
                self._sock.sendall(ANSWER.pack(4, len(reply) + 6, len(reply) + 2, context, 3) + reply)
        self._sock.sendall(pdu.release_rp())
        self._writers.give_back(writer)


def serve(listener: socket.socket, folder: Path, pool: SlotPool, notices: Notices) -> None:
    writers = Writers(Claims(folder), notices.send)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            Association(sock, pool, writers).run()


def apply(folder: Path, pool: SlotPool, notices: Notices) -> None:
    """SHA-256 from the buffer, which is given back; the segment counts as applied."""
    os.nice(19)
    control, done = RingControl(folder), 0
    while True:
        for notice in notices.read():
            memory = pool.slot(notice.slot).whole[MAX_HEAD_BYTES - notice.head_length :]
            for view in notice.record(folder, memory).bodies():
                hashlib.sha256(view)
            pool.give_back(notice.slot)
            control.set_applied(notice.segment, notice.identity.index + 1)
            done += 1


def forked(*work: object) -> int:
    pid = os.fork()
    if pid == 0:
        function, *arguments = work
        try:
            function(*arguments)  # type: ignore[operator]
        finally:
            os._exit(1)
    return pid


def send(port: int, source: Path) -> float:
    began = time.perf_counter()
    call = ["storescu", "-R", "-aec", "EDGE", "-pdu", "131072", "127.0.0.1", str(port), "+sd", str(source)]
    subprocess.run(call, check=True, env=NO_NAGLE)
    return time.perf_counter() - began


def main(rounds: int, size: int, count: int, directory: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="receive-", dir=directory))
    ct_files(place / "source", count, size)
    ring = Ring(place / "journal", RingSize(12, 64 * MIB))
    while ring.prepare():
        pass
    os.sync()
    pool, notices = SlotPool(32), Notices()
    listener = socket.create_server(("127.0.0.1", 0))
    (place / "archive").mkdir()
    port = free_port()
    call = ["storescp", "-od", str(place / "archive"), "-pdu", "131072", str(port)]
    storescp = subprocess.Popen(call, env=NO_NAGLE, stderr=subprocess.DEVNULL)
    children = [
        forked(serve, listener, place / "journal", pool, notices),
        forked(apply, place / "journal", pool, notices),
    ]
    time.sleep(0.5)
    try:
        found = []
        for number in range(rounds + 1):
            theirs = send(port, place / "source")
            ours = send(listener.getsockname()[1], place / "source")
            while ring.prepare():
                pass
            for path in (place / "archive").iterdir():
                path.unlink()
            os.sync()
            if number:
                found.append((theirs, ours, theirs / ours))
        theirs, ours, ratio = (statistics.median(column) for column in zip(*found, strict=True))
        each = ours / count * 1000
        print(f"{count} x {size}: storescp {theirs:.3f} s, journal {ours:.3f} s = {ratio:.2f} x; {each:.2f} ms each")
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        storescp.kill()
        storescp.wait()
        shutil.rmtree(place)


if __name__ == "__main__":
    given = sys.argv[1:]
    rounds, size, count = (int(each) for each in given[:3] or ("5", "524288", "600"))
    main(rounds, size, count, Path(given[3] if len(given) > 3 else "build"))
