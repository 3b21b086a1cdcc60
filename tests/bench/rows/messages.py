"""HL7 over MLLP: how long a sender waits for the acknowledgement of a message that is on stable storage."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.peers import EDGE, HERE, Gateway, archive_at
from tests.bench.row import Figures, Target
from tests.bench.stage import Stage
from tests.support.hl7 import MllpClient, update
from tests.support.peers import free_port

FEED = '[hl7]\nport = {port}\n[feed.his]\nhosts = ["127.0.0.1"]\nauthority = "MTF0067"\n'
SENDERS, A_SECOND, IDLE = 10, 500, 1_000
P99 = "p99 ms"


@dataclass(frozen=True)
class Acknowledgements:
    """Ten senders offer 500 messages a second; what one has to wait because the one before is late counts, too."""

    name: str = "in-hl7"
    what: str = "500 HL7 messages a second to their AA, beside 1,000 idle connections"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(P99, at_least=50.0),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        port, count = free_port(), stage.few(10_000, 1_000) // SENDERS
        config = archive_at(free_port(), more=FEED.format(port=port))
        waits: list[float] = []
        with stage.directory() as directory, Gateway(directory, config).at(HERE), ExitStack() as stack:
            idle = [stack.enter_context(MllpClient(port)) for _ in range(IDLE)]
            assert idle[0].ask(update("idle0", "I0", "IDLE^A"))[0].code == "AA"
            clients = [stack.enter_context(MllpClient(port)) for _ in range(SENDERS)]
            begun = time.perf_counter() + 0.2
            senders = [
                threading.Thread(target=_send, args=(client, number, count, begun, waits))
                for number, client in enumerate(clients)
            ]
            for each in senders:
                each.start()
            for each in senders:
                each.join()
            took = time.perf_counter() - begun
            assert idle[-1].ask(update("idle1", "I1", "IDLE^B"))[0].code == "AA"
        assert len(waits) == count * SENDERS, "not every message was answered AA"
        waits.sort()
        return {P99: 1000 * waits[len(waits) * 99 // 100], "median ms": 1000 * waits[len(waits) // 2], "s": took}


def _send(client: MllpClient, sender: int, count: int, begun: float, waits: list[float]) -> None:
    for number in range(count):
        due = begun + (number * SENDERS + sender) / A_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        answers = client.ask(update(f"S{sender}.{number}", f"P{sender}.{number % 50}", f"TURN^S{number}"))
        if [each.code for each in answers] == ["AA"]:
            waits.append(time.perf_counter() - due)


ROWS = (Acknowledgements(),)
