"""The process that answers queries: it reads the catalog and the journal's heads, and writes nothing anywhere.

It gets its descriptors from the fork server, and the rest by the first order of the daemon; it ends when that does.
Scanners have nothing to do with it: whatever is asked, receiving goes on in processes of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edge.config.sections import Config
from edge.dicom.header import HeaderSearch
from edge.errors.repeats import Repeats, log_faults_by_place, write_log
from edge.journal.control import RingControl
from edge.network.orders import Orders
from edge.network.tls import Keyring
from edge.query.answering import Answering
from edge.query.archive import Archives
from edge.query.asking import AnswerBatch, AskedQuery
from edge.query.find_answers import answer_find
from edge.query.locating import answer_retrieval
from edge.query.server import AnswerServer
from edge.query.unapplied import JournalView
from edge.store.read_only import CatalogReader
from edge.transform.sandbox import keep_from_writing

#: It yields to those that receive and send.
NICE = 5


@dataclass(frozen=True, slots=True)
class AnsweringPlan:
    """The first order: what the process is made of, beside its descriptors."""

    config: Config
    search: HeaderSearch
    folder: Path  # of the journal


def answer(answering: Answering, asked: AskedQuery, identifier: bytes) -> Iterator[bytes | AnswerBatch | None]:
    """What is done with a question."""
    answers = answer_retrieval if asked.what == "retrieve" else answer_find
    return answers(answering, asked, identifier)


def run_answering(descriptors: Sequence[int]) -> None:
    """The whole life of the process. Descriptors: orders, listener, the journal's control words, the data lock."""
    os.umask(0o077)
    Path("/proc/self/comm").write_text("edge-answers")
    repeats = write_log()
    log_faults_by_place()
    os.nice(NICE)
    orders, listener = (socket.socket(fileno=fd) for fd in descriptors[:2])
    AnsweringProcess(Orders(orders), listener, descriptors[2], repeats).serve()


class AnsweringProcess:
    """See the module's docstring."""

    def __init__(self, orders: Orders, listener: socket.socket, control: int, repeats: Repeats) -> None:
        self._orders, self._repeats = orders, repeats
        plan: AnsweringPlan = orders.receive()[1]
        self._config, self._search = plan.config, plan.search
        self._keyring = Keyring(plan.config.tls) if plan.config.tls.is_on else None
        reader = CatalogReader(plan.config.site.data_dir / "catalog.db")
        journal = JournalView(plan.folder, RingControl.attach(control))
        secure_for = self._keyring.client_for if self._keyring is not None else lambda _: None
        archives = Archives(lambda: self._config, secure_for)
        self._answering = Answering(reader, lambda: self._config, lambda: self._search, journal, archives.ask)
        self._server = AnswerServer(listener, self._open)
        missing = keep_from_writing(None)
        self._server.start()
        orders.answer({"missing": missing})

    def _open(self, asked: AskedQuery, identifier: bytes) -> Iterator[bytes | AnswerBatch | None]:
        return answer(self._answering, asked, identifier)

    def serve(self) -> NoReturn:
        """Do what the daemon orders, until it has ended."""
        self._orders.serve(self, "the process that answers queries", self._refresh)

    def _refresh(self) -> None:
        self._repeats.flush()
        if self._keyring is not None:
            self._keyring.refresh()

    def _configure(self, config: Config, search: HeaderSearch) -> None:
        self._config, self._search = config, search
