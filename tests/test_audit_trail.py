"""The audit trail end to end: the gateway as a process, real senders and archives, a real rsyslog as the repository."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.objects import ct_files
from tests.peers import Edge, StoreScp, routes_to, storescu, wait_until
from tests.repository import Repository

CT = "1.2.840.10008.5.1.4.1.1.2"
KNOWN = '[modality.ct]\nae_title = "CT*"\n'


def kinds(repository: Repository) -> Counter[tuple[str, str | None, int]]:
    return Counter((each.event, each.type, each.outcome) for each in repository.told())


def images(repository: Repository, user: str) -> int:
    """How many images were told of that someone sent: the requestor of transfers."""
    came = repository.has("DICOM Instances Transferred")
    return sum(sum(each.counts.values()) for each in came if each.who[0][0] == f"{user}*")


def rows(repository: Repository) -> list[int]:
    """The first row of the ledger that each message names."""
    return [int(re.findall(r"rows? (\d+)", each.description)[0]) for each in repository.told()]


def test_a_study_is_told_over_tls_and_what_an_outage_held_back_comes_later(
    tmp_path: Path, archive: StoreScp, running: ExitStack
) -> None:
    repository = running.enter_context(Repository(tmp_path / "repository"))
    config = KNOWN + routes_to(archive) + repository.section()
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    storescu(ct_files(tmp_path / "ct", 20, 4096, PatientName="Grün^Jürgen", PatientID="PID-7"), edge.port)
    storescu(ct_files(tmp_path / "mr", 1, 4096), edge.port, calling="STRANGER", check=False)
    wait_until(lambda: images(repository, "edge") == 20, 30, "the study is told, in and out")
    wait_until(lambda: repository.has("Security Alert"), 30, "so is the stranger")
    assert kinds(repository) == {
        ("Application Activity", "Application Start", 0): 1,
        ("Network Entry", "Attach", 0): 1,
        ("DICOM Instances Transferred", None, 0): 2,
        ("Begin Transferring DICOM Instances", None, 0): 1,
        ("Security Alert", "Node Authentication", 4): 1,
    }
    came = repository.has("DICOM Instances Transferred")[0]
    assert (came.counts, came.address("CT1")) == ({CT: 20}, "127.0.0.1")
    patient = came.subject("Patient Number")
    assert patient is not None
    assert (patient.get("ParticipantObjectID"), patient.findtext("ParticipantObjectName")) == ("PID-7", "Grün^Jürgen")
    (alert,) = repository.has("Security Alert")
    assert (alert.who[1][0], alert.address("STRANGER")) == ("STRANGER*", "127.0.0.1")
    priorities, times, _, application, _, msgid, _ = zip(*repository.frames(), strict=True)
    assert (set(priorities), set(application), set(msgid)) == ({"85"}, {"edge"}, {"IHE+RFC-3881"})
    assert list(times) == [each.at for each in repository.told()]

    wait_until(lambda: edge_is_calm(edge), 10, "nothing is under way any more")
    before = len(repository.lines())
    repository.stop()
    for number in range(3):
        storescu(ct_files(tmp_path / f"away{number}", 5, 4096), edge.port)
    wait_until(lambda: len(archive.files()) == 35, 30, "images go on without the repository")
    edge.stop()
    edge.start()
    repository.start()
    wait_until(lambda: images(repository, "edge") == images(repository, "CT1") == 35, 60, "the rest is told")
    wait_until(lambda: len(repository.has("Application Activity")) == 3, 30, "the restart too")
    told = repository.lines()
    assert len(set(told)) == len(told), "a message came twice"
    assert rows(repository)[before:] == sorted(rows(repository)[before:])
    stop = repository.has("Application Activity", "Application Stop")[0]
    start = repository.has("Application Activity", "Application Start")[1]
    assert stop.at < start.at
    assert edge.stop() == 0
    wait_until(lambda: len(repository.has("Network Entry", "Detach")) == 2, 10, "the last farewell is heard at once")


def edge_is_calm(edge: Edge) -> bool:
    """Nothing waits in the outbox, and what was sent last is older than any doubt."""
    import sqlite3
    import time

    with sqlite3.connect(f"file:{edge.data_dir / 'catalog.db'}?mode=ro", uri=True) as conn:
        left, mark, head, last = conn.execute(
            "SELECT (SELECT count(*) FROM message), (SELECT value FROM gateway WHERE name = 'audited'),"
            " max(seq), max(at) FROM ledger"
        ).fetchone()
    conn.close()
    return left == 0 and int(mark) == head and time.time() - last > 6


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_other_transports(tmp_path: Path, archive: StoreScp, running: ExitStack, transport: str) -> None:
    repository = running.enter_context(Repository(tmp_path / "repository", transport))
    config = KNOWN + routes_to(archive) + repository.section()
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    storescu(ct_files(tmp_path / "ct", 3, 4096), edge.port)
    wait_until(lambda: images(repository, "CT1") == images(repository, "edge") == 3, 30, "all is told")
