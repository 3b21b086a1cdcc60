"""Queries of a large catalog and of a worklist: how soon the first answer comes, over the wire."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge.dicom import items
from edge.dicom.acse import Context
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import Deadline
from edge.dicom.part10 import plain_head
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from edge.dicom.worklist import MODALITY_WORKLIST_FIND
from edge.model import ContextKey
from edge.query.worklist import broad_query
from edge.store.database import Store
from tests.bench.peers import EDGE
from tests.bench.row import Figures, Target
from tests.bench.stage import Stage
from tests.support.many_studies import date_of, fill_catalog
from tests.support.peers import Edge, free_port, wait_until
from tests.support.worklists import WorklistScp

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


WORKLIST_ITEMS, QUICK_ITEMS = 1_000, 100
FIRST, ALL = "ms, first answer", "ms, all answers"
WLMSCPFS = "wlmscpfs"
WORKLIST = """
[modality.ct]
ae_title = "CT1"
services = ["echo", "worklist"]
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {port}
[worklist]
from = "ris"
"""


@dataclass(frozen=True)
class Worklist:
    """All items of a worklist, each with every key that a poll asks for: the first query, and the median of more."""

    name: str = "worklist"
    what: str = f"a worklist of {WORKLIST_ITEMS:,} items"
    peers: tuple[str, ...] = (EDGE, WLMSCPFS)
    targets: tuple[Target, ...] = (Target(FIRST, (WLMSCPFS,), 1.0), Target(FIRST, at_least=50.0), Target(ALL))

    def measure(self, peer: str, stage: Stage) -> Figures:
        """`peer`: DCMTK's server reads a file an item at each query; Edge has its list from there."""
        count = stage.few(WORKLIST_ITEMS, QUICK_ITEMS)
        with stage.directory() as directory, WorklistScp(directory, free_port()) as ris:
            for number in range(count):
                write_item(ris.folder / f"{number}.wl", number)
            if peer == WLMSCPFS:
                return _ask_worklist(ris.port, "RIS", count)
            with Edge(directory / "edge", WORKLIST.format(port=ris.port)) as edge:
                wait_until(lambda: _kept_items(edge.data_dir / "catalog.db") == count, 60, "the list is here")
                return _ask_worklist(edge.port, "EDGE", count)


def _kept_items(catalog: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as conn:
        return int(conn.execute("SELECT count(*) FROM worklist_item").fetchone()[0])


def write_item(path: Path, number: int) -> None:
    """A file of wlmscpfs: a step of today."""
    today = datetime.now(timezone.utc).strftime("%Y%m%d")
    step = items.item(
        {0x00080060: "CT", 0x00400001: "CT1", 0x00400002: today, 0x00400003: "0815", 0x00400006: "Doe^Jane",
         0x00400007: "Thorax", 0x00400009: f"S{number}", 0x00400010: "ROOM 1"}
    )  # fmt: skip
    code = items.item({0x00080100: "CTTH", 0x00080102: "99LOCAL", 0x00080104: "CT Thorax"})
    body = items.item(
        {0x00080050: f"A{number}", 0x00080090: "Ref^Doctor", 0x00100010: f"Miller^Hans{number}",
         0x00100020: f"P{number}", 0x00100030: "19500101", 0x00100040: "M", 0x0020000D: f"1.2.826.0.1.{number}",
         0x00321060: "CT Thorax", 0x00321064: [code], 0x00401001: f"R{number}", 0x00400100: [step]}
    )  # fmt: skip
    head = plain_head(ContextKey(MODALITY_WORKLIST_FIND, EXPLICIT_VR_LITTLE_ENDIAN), f"1.2.826.0.2.{number}")
    path.write_bytes(head + items.encode_items(body, EXPLICIT_VR_LITTLE_ENDIAN))


def _ask_worklist(port: int, called: str, count: int) -> Figures:
    """`FIRST` is that of the first query, when nobody has asked before."""
    contexts = [Context(1, MODALITY_WORKLIST_FIND, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    association = Association.open("127.0.0.1", port, "CT1", called, contexts)
    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: MODALITY_WORKLIST_FIND,
        Element.COMMAND_FIELD: CommandField.C_FIND_RQ,
        Element.PRIORITY: 0,
    }
    data, firsts, times = items.encode_items(broad_query(""), IMPLICIT_VR_LITTLE_ENDIAN), [], []
    for _ in range(TIMES // 4):
        began, came = time.perf_counter(), 0
        for answer in association.request(1, request, data, deadline=Deadline(120)):
            if not came:
                firsts.append(1000 * (time.perf_counter() - began))
            came += answer.command.has_data_set
            association.skip(answer)
        times.append(1000 * (time.perf_counter() - began))
        assert came == count, f"{came} of {count} items"
    association.release()
    return {FIRST: firsts[0], ALL: sorted(times)[len(times) // 2]}


ROWS = (Queries(), Worklist())
