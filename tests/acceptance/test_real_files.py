"""Every real file arrives as it was sent: from two senders, at DCMTK and at Orthanc."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.objects import dataset, read_meta, real_files, sop_instance_uid
from tests.support.peers import Edge, Orthanc, Run, StoreScp, dcmsend, routes_to, storescu, wait_until
from tests.system.test_main_job import digests

FORWARD_CONFLICTS = '[listen]\nconflicts = "forward"\n'
Sender = Callable[..., Run]


#: So many files with each run of a sender: a start of DCMTK costs more than what is sent here.
AT_ONCE = 16
#: Neither DCMTK's storescp nor Orthanc takes it.
NOT_TAKEN = "Color Palette Storage"


def send_all(send: Sender, port: int, called: str = "EDGE") -> None:
    """The real files, in groups; what the sender cannot send, or the peer does not take, is left out."""
    files = [file.path for file in real_files() if file.row["sop_class"] != NOT_TAKEN]
    for first in range(0, len(files), AT_ONCE):
        send(files[first : first + AT_ONCE], port, "--no-halt", called=called, check=False)


def by_syntax(files: list[Path]) -> dict[str, set[bytes]]:
    """Transfer syntax -> digests of the data sets."""
    found: dict[str, set[bytes]] = {}
    for path in files:
        blob = path.read_bytes()
        meta, offset = read_meta(blob)
        found.setdefault(meta[0x0010].strip(b"\0 ").decode(), set()).add(sha256(blob[offset:]).digest())
    return found


#: DCMTK's storescp does not take it (JPEG Lossless, any selection value), so a converted copy goes there.
JPEG_LOSSLESS_ANY = "1.2.840.10008.1.2.4.57"
#: Orthanc deflates anew what it gives out.
DEFLATED = "1.2.840.10008.1.2.1.99"
#: dcmsend announces a wrong SOP Instance UID for three real files whose UIDs have the VR UN: kept, but in quarantine.
LYING = {storescu: 0, dcmsend: 3}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("send", [storescu, dcmsend], ids=["storescu", "dcmsend"])
def test_every_real_file_arrives_as_it_was_sent(
    tmp_path: Path, running: ExitStack, send: Sender, edge_port: int
) -> None:
    unique = ["--unique-filenames"]
    reference = running.enter_context(StoreScp(tmp_path / "reference", args=unique, fork=False))
    send_all(send, reference.port)
    assert len(reference.files()) > 190
    archive = running.enter_context(StoreScp(tmp_path / "archive", args=unique))
    # One association: two processes of storescp can give two objects one "unique" name.
    config = FORWARD_CONFLICTS + routes_to(archive, more="associations = 1")
    edge = running.enter_context(Edge(tmp_path / "edge", config))
    send_all(send, edge.port)
    expected = len(digests(reference.files())) - LYING[send]
    status = edge.status()
    assert (status["instances"]["received"], status["instances"]["quarantined"]) == (expected, LYING[send])
    wait_until(lambda: all_are_at(edge, "archive", expected), 60, "all are at the archive")
    kept, arrived = by_syntax(spooled(edge)), by_syntax(archive.files())
    converted = kept.pop(JPEG_LOSSLESS_ANY, set())
    for syntax, data_sets in arrived.items():
        strangers = data_sets - kept.get(syntax, set())
        assert len(strangers) <= len(converted), f"{syntax}: not what was sent"
        converted = set(list(converted)[len(strangers) :])
    assert len(archive.files()) == expected
    assert not converted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_real_file_that_orthanc_takes_arrives_there_as_it_was_sent(
    tmp_path: Path, running: ExitStack, edge_port: int
) -> None:
    direct = running.enter_context(Orthanc(tmp_path / "direct", edge_port))
    send_all(storescu, direct.port, "ORTHANC")
    orthanc = running.enter_context(Orthanc(tmp_path / "orthanc", edge_port))
    edge = running.enter_context(Edge(tmp_path / "edge", FORWARD_CONFLICTS + routes_to(orthanc), port=edge_port))
    send_all(storescu, edge.port)
    wait_until(lambda: orthanc.instances().keys() >= direct.instances().keys(), 60, "all that Orthanc takes is there")
    sent: dict[str, set[bytes]] = {}
    for path in spooled(edge):
        meta, _ = read_meta(path.read_bytes()[:16_384])
        if not meta[0x0010].startswith(DEFLATED.encode()):
            sent.setdefault(sop_instance_uid(path), set()).add(sha256(dataset(path)).digest())
    arrived = {uid: digest for uid, digest in contents(orthanc).items() if uid in sent}
    assert len(arrived) > 150
    assert {uid for uid, digest in arrived.items() if digest not in sent[uid]} == set()


def spooled(edge: Edge) -> list[Path]:
    """Every file of the spool."""
    return sorted((edge.data_dir / "spool").rglob("*.dcm"))


def all_are_at(edge: Edge, name: str, expected: int) -> bool:
    told = edge.api_status()["destinations"][name]
    assert told["held"] == 0, edge.cli("queue", "list", "--state", "held").stdout
    return bool(told["confirmed"] == expected)


def contents(orthanc: Orthanc) -> dict[str, bytes]:
    """SOP Instance UID -> digest of the data set as Orthanc gives it out."""
    found = orthanc.instances().items()
    return {uid: sha256(dataset(orthanc.file(identifier))).digest() for uid, identifier in found}
