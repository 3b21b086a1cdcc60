"""A receiving process: a door, its associations, and the segments that they append to. It cannot write the catalog.

It gets its descriptors from the fork server, and the rest by the first order of the daemon. It ends at once when the
daemon does: what nobody will apply is not answered. Landlock keeps it from writing anywhere but to the journal.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from edge.config.sections import Config
from edge.dicom.header import HeaderSearch
from edge.errors.repeats import Repeats, log_faults_by_place, write_log
from edge.hl7.door import MllpDoor
from edge.hl7.recorder import FrameRecorder
from edge.journal.door import DoorPlan, JournalDoor
from edge.network.orders import Orders
from edge.network.tls import Keyring, TlsError
from edge.scp.admission import Admission, Caller
from edge.scp.association import Receiver
from edge.scp.dicom_protocol import DicomProtocol
from edge.scp.listener import ConnectionListener, WireProtocol
from edge.scp.recorder import Recorder
from edge.scp.remote_link import RemoteLink, RemoteRequests, RemoteSteps
from edge.scp.services.worklist_source import WorklistCache
from edge.spool.room import DiskGuard, disk_of
from edge.transform.sandbox import keep_from_writing

log = logging.getLogger(__name__)

#: Of the process that receives HL7.
HL7_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """The first order: what a receiving process is made of, beside its descriptors."""

    config: Config
    search: HeaderSearch
    door: DoorPlan
    receivers: int  # in all


def run_receiver(descriptors: Sequence[int]) -> None:
    """The whole life of a process that receives DICOM."""
    serve_process(ReceivingProcess, descriptors)


def run_hl7_receiver(descriptors: Sequence[int]) -> None:
    """The whole life of the process that receives HL7."""
    serve_process(Hl7ReceivingProcess, descriptors)


def serve_process(kind: type[OrderedProcess], descriptors: Sequence[int]) -> NoReturn:
    """Descriptors: feed, link, orders, the data directory's lock, the door's."""
    os.umask(0o077)
    repeats = write_log()
    log_faults_by_place()
    feed, link, asked = (socket.socket(fileno=fd) for fd in descriptors[:3])
    orders = Orders(asked)
    plan: ReceiverPlan = orders.receive()[1]
    kind(feed, link, orders, descriptors[4:], repeats, plan).serve()


class ConnectionServer(Protocol):
    """What a receiving process serves its connections with. Thread-safe."""

    config: Config  # may be replaced at any time
    recorder: Recorder

    def serve(self, sock: socket.socket, first_message: bytearray, address: str, /) -> None: ...

    def refresh(self) -> None:
        """Called now and then: files that have changed are read again."""

    def end_idle(self, caller: str, modality: str) -> bool:
        """End a connection of a caller, or of a modality, that is idle; False: none is."""

    def drain(self, seconds: float) -> None:
        """End in order: what is under way may go on for this time."""


class OrderedProcess:
    """What receiving processes have in common: the journal, the link to the gateway, certificates, orders."""

    def __init__(
        self,
        feed: socket.socket,
        link: socket.socket,
        orders: Orders,
        shared: Sequence[int],
        repeats: Repeats,
        plan: ReceiverPlan,
    ) -> None:
        self._orders, self._repeats, self._config = orders, repeats, plan.config
        logging.getLogger("edge.spool.room").setLevel(logging.CRITICAL)  # the daemon says it
        self._keyring = Keyring(plan.config.tls) if plan.config.tls.is_on else None
        self._journal = JournalDoor.attach(plan.door, shared)
        disk = lambda: disk_of(plan.config.site.data_dir)  # noqa: E731
        control = self._journal.control
        self._guard = DiskGuard(lambda: self._config, disk, control.owed_to_spool, lambda: control.most_owed)
        self._link = RemoteLink(link)
        self._door = self._make_door(feed, plan)
        missing = keep_from_writing(plan.door.folder, self._list_programs())
        self._door.open()
        orders.answer({"missing": missing})

    def _make_door(self, feed: socket.socket, plan: ReceiverPlan) -> ConnectionListener | MllpDoor:
        raise NotImplementedError

    def _list_programs(self) -> list[Path]:
        """What it may start: nothing."""
        return []

    def _choose_context(self, keyring: Keyring) -> ssl.SSLContext:
        return keyring.listening

    def _context(self) -> Callable[[], ssl.SSLContext] | None:
        return partial(self._choose_context, self._keyring) if self._keyring else None

    def _refresh(self) -> None:
        """Called now and then."""
        self._repeats.flush()
        self._journal.slots.rest()
        if self._keyring is not None:
            self._keyring.refresh()

    def serve(self) -> NoReturn:
        """Do what the daemon orders, until it has ended."""
        self._orders.serve(self, "a receiving process", self._refresh)

    # -- orders -------------------------------------------------------------------------------------------------------

    def _configure(self, config: Config, search: HeaderSearch) -> None:
        self._config = config
        if self._keyring is not None and config.tls.is_on:
            try:
                self._keyring.use(config.tls)
            except TlsError as error:
                log.error("the new certificates cannot be used, the previous ones stay active: %s", error)

    def _drain(self, _seconds: float) -> None:
        """Receive nothing any more; the feed is closed before."""
        self._door.join()
        self._journal.close()


class ReceivingProcess(OrderedProcess):
    """Receives objects; see the module's docstring."""

    protocol: WireProtocol = DicomProtocol()

    def _make_door(self, feed: socket.socket, plan: ReceiverPlan) -> ConnectionListener:
        check_room, ask = self._guard.check_room, self._link
        recorder = Recorder(self._journal, plan.search, check_room, ask.keeps_unreadable, ask.fail)
        self._receiver = self._build_receiver(plan, recorder)
        return ConnectionListener(feed, self._receiver.serve, self.protocol, ask, self._context(), plan.receivers)

    def _build_receiver(self, plan: ReceiverPlan, recorder: Recorder) -> ConnectionServer:
        """What serves a connection once its first message is whole."""
        ask, keyring = self._link, self._keyring
        known = RemoteRequests(ask), RemoteSteps(ask), WorklistCache(partial(ask.ask, "read_worklist"))
        secure_for = keyring.client_for if keyring is not None else lambda _: None
        return Receiver(plan.config, recorder, self._guard.check_room, ask, *known, secure_for=secure_for)

    def _refresh(self) -> None:
        super()._refresh()
        self._receiver.refresh()

    def _configure(self, config: Config, search: HeaderSearch) -> None:
        self._receiver.config, self._receiver.recorder.search = config, search
        super()._configure(config, search)

    def _end_idle(self, caller: str, modality: str) -> bool:
        return self._receiver.end_idle(caller, modality)

    def _drain(self, seconds: float) -> None:
        self._door.join()
        self._receiver.drain(seconds)
        self._journal.close()


class Hl7ReceivingProcess(OrderedProcess):
    """Receives HL7: one for all feeds, for the order of arrival (edge.hl7.recorder)."""

    def _make_door(self, feed: socket.socket, plan: ReceiverPlan) -> MllpDoor:
        _raise_descriptor_limit()
        Path("/proc/self/comm").write_text("edge-hl7")
        ask = self._link
        recorder = FrameRecorder(self._journal, self._guard.check_room, ask.fail)
        feeds = lambda: self._config.feeds  # noqa: E731

        def note_caller(address: str, feed: str, lacks: str) -> None:
            ask.note_call(Caller("", address), Admission(feed and f"feed.{feed}", lacks=lacks), (), 0)

        return MllpDoor(feed, recorder, feeds, ask.note_refusal, note_caller, ask.note_left, self._context())


def _raise_descriptor_limit() -> None:
    """Raise the limit of descriptors as far as the system allows and connections need: they stay open for days."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, HL7_DESCRIPTORS)), hard))
