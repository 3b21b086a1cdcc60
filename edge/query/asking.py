"""The questions of a door to the process that answers queries, and the answers: frames on a Unix socket.

A door asks, and gets some answers; then it pulls more, up to the final status. So little is made that nobody reads, and
those who ask for everything wait for each other's turns, not for each other's ends. The asking process parses nothing:
the identifier goes on as it came.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.network.frames import receive_frame, send_frame
from edge.network.sockets import listen_in, socket_address

SOCKET_NAME = "answers.sock"
#: A door waits this long for a process that answers; one that died is replaced within a second.
ANSWERER_SECONDS, PULL_SECONDS = 5.0, 120.0
_LENGTH = struct.Struct(">L")
PULL = b"pull"


class NoAnswer(Exception):
    """The process that answers is not there, or has ended."""


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """How an identifier is meant. `what`: "find" or "retrieve"."""

    what: str
    top: str  # level of the information model: "PATIENT" or "STUDY"
    syntax: str  # of the identifier, and of the answers
    called_ae: str
    is_relational: bool = False
    combines_date_times: bool = False
    is_complete: bool = False  # an answer without the archive is a failure
    is_local: bool = False  # no archive is asked

    def encode(self, identifier: bytes) -> bytes:
        head = json.dumps(asdict(self)).encode()
        return _LENGTH.pack(len(head)) + head + identifier

    @classmethod
    def decode(cls, frame: bytes) -> tuple[AskedQuery, bytes]:
        """Raises ValueError."""
        (length,) = _LENGTH.unpack_from(frame)
        return cls(**json.loads(frame[_LENGTH.size : _LENGTH.size + length])), frame[_LENGTH.size + length :]


#: Bytes of an identifier that the audit trail keeps.
MOST_NOTED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class QueryEnd:
    """How a question ended."""

    count: int  # answers, or objects that were sent
    status: int
    left_out: tuple[str, ...] = ()
    destination: str = ""  # of a retrieval: the AE title that got the objects
    sent: Mapping[int, int] = field(default_factory=dict)  # of a retrieval: the catalog's number of a study -> objects
    seconds: float = 0.0  # that it took
    is_recorded: bool = True  # in the ledger; else it is counted alone
    comment: str = ""  # Error Comment (0000,0902) of the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedQuery(QueryEnd):
    """A question that was answered, as the audit trail has it."""

    at: float  # seconds since 1970
    what: str
    top: str
    syntax: str
    called_ae: str
    calling_ae: str
    address: str
    identifier: str  # base64; what patient was asked for is in here alone

    @classmethod
    def make(cls, asked: AskedQuery, identifier: bytes, end: QueryEnd, caller: CallerName) -> NotedQuery:
        return cls(
            **asdict(end),
            at=time.time(),
            what=asked.what,
            top=asked.top,
            syntax=asked.syntax,
            called_ae=asked.called_ae,
            calling_ae=caller.ae_title,
            address=caller.address,
            identifier=base64.b64encode(identifier[:MOST_NOTED_BYTES]).decode(),
        )

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> NotedQuery:
        """Build it from its fields, as JSON has them."""
        sent = {int(study): int(count) for study, count in said["sent"].items()}
        return cls(**{**said, "left_out": tuple(said["left_out"]), "sent": sent})


class CallerName(Protocol):
    """Who asks."""

    @property
    def ae_title(self) -> str: ...
    @property
    def address(self) -> str: ...


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Some answers. `status`: the final one, in the last batch alone."""

    answers: Sequence[bytes] = ()
    status: int | None = None
    comment: str = ""
    pending: int = 0xFF00
    level: str = ""
    left_out: tuple[str, ...] = ()  # destinations that did not answer

    def encode(self) -> bytes:
        said = {
            "status": self.status,
            "comment": self.comment,
            "pending": self.pending,
            "level": self.level,
            "left_out": list(self.left_out),
            "lengths": [len(each) for each in self.answers],
        }
        head = json.dumps(said).encode()
        return b"".join((_LENGTH.pack(len(head)), head, *self.answers))

    @classmethod
    def decode(cls, frame: bytes) -> AnswerBatch:
        (length,) = _LENGTH.unpack_from(frame)
        said: dict[str, Any] = json.loads(frame[_LENGTH.size : _LENGTH.size + length])
        at, answers = _LENGTH.size + length, []
        for each in said.pop("lengths"):
            answers.append(frame[at : at + each])
            at += each
        return cls(answers, **{**said, "left_out": tuple(said["left_out"])})


class Asker:
    """The client of the answering process. Thread-safe: each question has a connection of its own."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def ask(
        self, asked: AskedQuery, identifier: bytes, *, makes_ahead: bool = False
    ) -> Generator[AnswerBatch, None, None]:
        """The answers, some at a time; the last batch has a status. Raises NoAnswer. To be closed when left early.

        `makes_ahead`: the next ones are made while these are used; else when they are asked for.
        """
        sock = self._connect()
        try:
            send_frame(sock, asked.encode(identifier))
            batch = AnswerBatch()
            while batch.status is None:
                batch = AnswerBatch.decode(receive_frame(sock))
                is_last = batch.status is not None
                if makes_ahead and not is_last:
                    send_frame(sock, PULL)
                yield batch
                if not makes_ahead and not is_last:
                    send_frame(sock, PULL)
        except (OSError, EOFError) as error:
            raise NoAnswer("the process that answers queries has ended") from error
        finally:
            sock.close()

    def _connect(self) -> socket.socket:
        end = time.monotonic() + ANSWERER_SECONDS
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(PULL_SECONDS)
                with socket_address(self._data_dir, SOCKET_NAME) as address:
                    sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                if time.monotonic() > end:
                    raise NoAnswer("the process that answers queries is not there") from error
            time.sleep(0.05)


def listen_for_doors(data_dir: Path) -> socket.socket:
    """The socket on which doors ask, for the process that answers. Raises OSError."""
    return listen_in(data_dir, SOCKET_NAME, 256)
