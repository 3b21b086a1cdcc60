"""Queries of a large catalog: how soon the first answer comes, over the wire, from a gateway that runs."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline
from edge.dicom.scu import Association
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from edge.store.database import Store
from tests.bench.peers import EDGE
from tests.bench.row import Figures, Target
from tests.bench.stage import Stage
from tests.support.many_studies import date_of, fill_catalog
from tests.support.peers import Edge

STUDIES, QUICK_STUDIES = 1_000_000, 20_000
ID, ACCESSION, MONTH = "ms, by Patient ID", "ms, by accession", "ms, a month"
#: Each is asked this often; the median counts.
TIMES = 20
QUERY = """
[query]
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "query"]
"""


@dataclass(frozen=True)
class Queries:
    """See the module's docstring."""

    name: str = "query"
    what: str = f"C-FIND of {STUDIES:,} studies: until the first answer"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (
        Target(ID, at_least=20.0),
        Target(ACCESSION, at_least=20.0),
        Target(MONTH, at_least=100.0),
    )

    def measure(self, peer: str, stage: Stage) -> Figures:
        """`peer` is Edge: no other has so many studies in reasonable time."""
        count = stage.few(STUDIES, QUICK_STUDIES)
        filled = stage.once("studies", lambda path: self._fill(path / "catalog.db", count))
        folder, middle = stage.root / "queries", count // 2
        edge, month = Edge(folder, QUERY), date_of(middle)[:6]
        shutil.copy(filled / "catalog.db", edge.data_dir / "catalog.db")
        with edge:
            figures = {
                ID: first_answer(edge.port, 0x00100020, f"P{middle:07}"),
                ACCESSION: first_answer(edge.port, 0x00080050, f"A{middle:07}"),
                MONTH: first_answer(edge.port, 0x00080020, f"{month}01-{month}31"),
            }
        shutil.rmtree(folder)
        return figures

    @staticmethod
    def _fill(path: Path, count: int) -> None:
        db = Store(path)
        db.write(lambda conn: fill_catalog(conn, count))
        db.checkpoint()
        db.close()


def first_answer(port: int, tag: int, value: str) -> float:
    """Milliseconds, the median."""
    contexts = [Context(1, STUDY_ROOT_FIND, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    association = Association.open("127.0.0.1", port, "VIEWER", "EDGE", contexts)
    asked = items.item({0x00080052: "STUDY", tag: value, 0x0020000D: "", 0x00100010: "", 0x00080061: ""})
    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_FIND,
        Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
        Element.PRIORITY: 0,
    }
    times = []
    for _ in range(TIMES):
        began, first = time.perf_counter(), 0.0
        data = items.encode_items(asked, IMPLICIT_VR_LITTLE_ENDIAN)
        for answer in association.request(1, request, data, deadline=Deadline(120)):
            first = first or time.perf_counter() - began
            association.skip(answer)
        times.append(first * 1000)
    association.release()
    return sorted(times)[len(times) // 2]


ROWS = (Queries(),)
