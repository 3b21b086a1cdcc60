"""The web door's process: a receiving process (edge.scp.receiving) that speaks HTTP and reads catalog and spool."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from edge.network.tls import Keyring
from edge.query.asking import Asker
from edge.query.unapplied import JournalView
from edge.scp.dicomweb.archives import WebArchives, WebFetchingDoor
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.protocol import HttpProtocol
from edge.scp.dicomweb.server import WebDoor
from edge.scp.listener import WireProtocol
from edge.scp.receiving import ConnectionServer, ReceiverPlan, ReceivingProcess, serve_process
from edge.scp.recorder import Recorder
from edge.spool import SPOOL_FOLDER
from edge.store.read_only import CatalogReader
from edge.transform.sandbox import own_program


class WebProcess(ReceivingProcess):
    """See the module's docstring."""

    protocol: WireProtocol = HttpProtocol()

    def _build_receiver(self, plan: ReceiverPlan, recorder: Recorder) -> ConnectionServer:
        data_dir, journal = plan.config.site.data_dir, JournalView(plan.door.folder, self._journal.control)
        keyring = self._keyring
        client_for = keyring.client_for if keyring is not None else lambda _: None
        asker, room = Asker(data_dir), self._guard.check_room
        config = lambda: self._receiver.config  # noqa: E731
        door = WebFetchingDoor(config, asker, recorder, self._link, room, client_for)
        reader = CatalogReader(data_dir / "catalog.db")
        holdings = Holdings(reader, data_dir / SPOOL_FOLDER, journal, self._link, WebArchives(door))
        return WebDoor(plan.config, recorder, room, self._link, holdings, asker)

    def _list_programs(self) -> list[Path]:
        """The worker that decodes and draws (edge.transform), in its own sandbox."""
        return own_program()

    def _choose_context(self, keyring: Keyring) -> ssl.SSLContext:
        return keyring.web


def run_web_door(descriptors: Sequence[int]) -> None:
    """The whole life of the process; descriptors as in edge.scp.receiving."""
    serve_process(WebProcess, descriptors)
