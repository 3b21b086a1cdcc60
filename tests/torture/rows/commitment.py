"""SIGKILL, or a power cut, right behind the answer to a request for storage commitment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge.dicom.commitment_data import new_transaction_uid
from edge.errors import EdgeError
from tests.support.committing import CT_CLASS, ask
from tests.support.nursery import Nursery
from tests.support.peers import free_port
from tests.torture.disk import Disk
from tests.torture.gateway import Gateway, archive_at
from tests.torture.row import Budget, Score, not_once

MODALITY = (
    '[modality.ct1]\nae_title = "CT1"\nhosts = ["127.0.0.1"]\nport = {port}\nservices = ["echo", "store", "commit"]\n'
)


@dataclass(frozen=True)
class CommitmentKill:
    name: str = "commitment-kill"
    what: str = "SIGKILL right behind the answer to a request for storage commitment"
    survives: str = "each request that was answered with success is in the catalog after the next start, once"
    long: int = 1_000
    quick: int = 20

    def play(self, place: Path, budget: Budget) -> Score:
        config = archive_at(free_port(), more=MODALITY.format(port=free_port()))
        with Nursery() as nursery, Gateway(place / "edge", config, nursery) as gateway:
            return ask_and_cut(gateway, lambda _catalog: gateway.kill(), lambda: None, budget)


@dataclass(frozen=True)
class CommitmentPower:
    kind: str
    survives: str = CommitmentKill.survives
    long: int = 1_000
    quick: int = 20

    @property
    def name(self) -> str:
        return f"commitment-{self.kind}"

    @property
    def what(self) -> str:
        return f"power cut on {self.kind} right behind the answer to a request for storage commitment"

    def play(self, place: Path, budget: Budget) -> Score:
        config = archive_at(free_port(), more=MODALITY.format(port=free_port()))
        with (
            Nursery() as nursery,
            Disk(place / "disk", self.kind) as disk,
            Gateway(place / "edge", config, nursery, disk.path / "data") as gateway,
        ):

            def cut(catalog: sqlite3.Connection) -> None:
                gateway.pause()
                catalog.close()
                disk.lose_power()
                gateway.kill()

            return ask_and_cut(gateway, cut, disk.again, budget)


def ask_and_cut(
    gateway: Gateway, cut: Callable[[sqlite3.Connection], None], repair: Callable[[], None], budget: Budget
) -> Score:
    """Each round: a request, its answer, the cut, a start; then all that were answered must be there.

    Until the cut the catalog is locked: the record alone has the request.
    """
    score, answered = Score(), list[str]()
    gateway.start()
    for number in budget.rounds(score):
        uid = new_transaction_uid()
        catalog = sqlite3.connect(gateway.data_dir / "catalog.db", 60, isolation_level=None)
        catalog.execute("BEGIN IMMEDIATE")
        try:
            asked = ask(gateway.port, [(CT_CLASS, f"1.2.{number}")], uid, then=partial(cut, catalog))
            answered += [uid] * (asked.status == 0)
        except EdgeError:
            if not gateway.has_ended():
                cut(catalog)  # it fell before its answer
        catalog.close()
        repair()
        gateway.start()
        gateway.settled()
        with closing(sqlite3.connect(gateway.data_dir / "catalog.db")) as conn:
            kept = [row[0] for row in conn.execute("SELECT transaction_uid FROM commitment_request")]
        score.tell(not_once(answered, kept), f"round {number}")
    score.figures = {"requests answered": len(answered)}
    return score


ROWS = (CommitmentKill(), CommitmentPower("ext4"), CommitmentPower("xfs"))
