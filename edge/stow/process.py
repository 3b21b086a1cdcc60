"""The web door's process: a receiving process (edge.scp.receiving) that speaks HTTP and reads catalog and spool."""

from __future__ import annotations

import ssl

from edge.network.tls import Keyring
from edge.scp.listener import WireProtocol
from edge.scp.receiving import ConnectionServer, ReceiverPlan, ReceivingProcess
from edge.scp.recorder import Recorder
from edge.stow.protocol import HttpProtocol
from edge.stow.server import WebDoor


class WebProcess(ReceivingProcess):
    """See the module's docstring."""

    protocol: WireProtocol = HttpProtocol()

    def _build_receiver(self, plan: ReceiverPlan, recorder: Recorder) -> ConnectionServer:
        return WebDoor(plan.config, recorder, self._guard.check_room, self._link)

    def _choose_context(self, keyring: Keyring) -> ssl.SSLContext:
        return keyring.web
